"""The gateway's certificate: checked before anything listens, followed while it serves.

Belongs here: reading certificate and key files, the server's TLS context, taking renewed files
over. Does not: listening (`server`, `worker`). Clients are known by their keys, not by
certificates of their own.
Promise: files that do not serve are refused before the address is bound, with the cause; files
that stop serving while the gateway runs leave the last good pair in service.
"""

from __future__ import annotations

import datetime
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from apprentice_pipeline.errors import UsageError

_REMEDY = "name PEM files with gateway.tls_certificate and gateway.tls_key"


@dataclass(frozen=True, slots=True)
class Certificate:
    """Two PEM files: the certificate with its chain, leaf first, and the leaf's private key."""

    chain: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """A server's context with what the files hold now; TLS 1.2 or newer, HTTP/1.1.

        Raises: UsageError when a file is missing, unreadable or not PEM, when the key is another
        certificate's or has a passphrase, and outside the certificate's time.
        """
        _require_in_time(self.chain)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self.into(context)
        return context

    def into(self, context: ssl.SSLContext) -> None:
        """Gives new connections of `context` what the files hold now. Raises: UsageError."""
        _text(self.key, "the TLS key")
        try:
            context.load_cert_chain(self.chain, self.key, password=lambda: b"")
        except ssl.SSLError as error:
            why = {
                "KEY_VALUES_MISMATCH": "is not the key of the certificate",
                "KEY_TYPE_MISMATCH": "is not the key of the certificate",
                "NO_START_LINE": "is not PEM",
            }.get(error.reason or "", "cannot be used: not PEM, damaged, or with a passphrase")
            raise UsageError(f"the TLS key {self.key} {why}", remedy=_REMEDY) from None

    def stamp(self) -> tuple[int, ...]:
        """Changes when a file does; () while one of them is missing."""
        try:
            found = [file.stat() for file in (self.chain, self.key)]
        except OSError:
            return ()
        return tuple(n for s in found for n in (s.st_mtime_ns, s.st_size, s.st_ino))


class Renewal:
    """Takes renewed files over. Lives on the event loop that serves with the context."""

    def __init__(self, certificate: Certificate) -> None:
        self.certificate = certificate
        self._stamp = certificate.stamp()
        self.context = certificate.context()

    async def look(self) -> None:
        """Serves what the files hold, if they have changed and serve; else says why not, once."""
        stamp = self.certificate.stamp()
        if not stamp or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self.certificate.context()
            self.certificate.into(self.context)
        except UsageError as error:
            sys.stderr.write(f"gateway worker: the certificate before stays: {error.message}\n")


def certificate_of(chain: str, key: str) -> Certificate | None:
    """The configured pair, None without TLS. Raises: UsageError when only one is named."""
    if not chain and not key:
        return None
    if not chain or not key:
        raise UsageError("TLS needs both a certificate and its key", remedy=_REMEDY)
    return Certificate(Path(chain).absolute(), Path(key).absolute())


def unverified_context() -> ssl.SSLContext:
    """For the supervisor's look at its own socket: whose certificate it is, it knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _require_in_time(chain: Path) -> None:
    try:
        leaf = x509.load_pem_x509_certificate(_text(chain, "the TLS certificate"))
    except ValueError:
        raise UsageError(
            f"the TLS certificate {chain} is not a PEM certificate", remedy=_REMEDY
        ) from None
    now = datetime.datetime.now(datetime.UTC)
    if leaf.not_valid_after_utc <= now:
        raise UsageError(
            f"the TLS certificate {chain} expired on {leaf.not_valid_after_utc:%Y-%m-%d}",
            remedy="renew it",
        )
    if leaf.not_valid_before_utc > now:
        raise UsageError(
            f"the TLS certificate {chain} is not valid before {leaf.not_valid_before_utc:%Y-%m-%d}",
            remedy="check this machine's clock",
        )


def _text(file: Path, what: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{what} {file} cannot be read: {error.strerror}", remedy=_REMEDY
        ) from None
