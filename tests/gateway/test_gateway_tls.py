"""TLS by certificate files: a real SDK behind a real authority; what does not serve, refused."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from apprentice_pipeline.config import Config
from apprentice_pipeline.errors import UsageError
from apprentice_pipeline.gateway.server import serve as serve_here
from apprentice_pipeline.settings import Home, Settings

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
MESSAGES: Any = [{"role": "user", "content": "ping"}]


@dataclass
class Authority:
    """A certificate authority made for one test, and the files it writes."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def file(self) -> Path:
        return self.folder / "ca.pem"

    def issue(
        self, name: str, since: datetime.datetime = NOW - DAY, until: datetime.datetime = NOW + DAY
    ) -> dict[str, str]:
        """Writes `name`.pem and `name`.key, for 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        local = x509.SubjectAlternativeName(
            [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        )
        leaf = (
            _builder(name, self.certificate.subject, key.public_key(), since, until)
            .add_extension(local, critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )
        chain, secret = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        chain.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(_pem(key, serialization.NoEncryption()))
        return {"tls_certificate": str(chain), "tls_key": str(secret)}


def _builder(
    name: str, issuer: x509.Name, key: Any, since: datetime.datetime, until: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(key: ec.EllipticCurvePrivateKey, encryption: Any) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    signs = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    public = key.public_key()
    certificate = (
        _builder("test authority", _named("test authority"), public, NOW - DAY, NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(signs, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path / "tls"
    folder.mkdir()
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Authority(folder, key, certificate)


def asked(url: str, authority: Authority) -> Any:
    """What the official SDK is answered, by a server whose certificate it checks."""
    trusted = ssl.create_default_context(cafile=str(authority.file))
    with (
        httpx.Client(verify=trusted) as client,
        openai.OpenAI(
            base_url=f"{url}/v1", api_key="sk-own", http_client=client, max_retries=0
        ) as sdk,
    ):
        stream = sdk.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, stream=True, extra_headers={"x-behave": "stream"}
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def test_apprentice_serve_speaks_tls_to_the_openai_sdk(
    serve: Any, authority: Authority, provider: Any
) -> None:
    """With two workers: the printed address is https, and the supervisor's own look passes."""
    pair = authority.issue("first")
    command = serve(
        "--workers", "2", "--tls-certificate", pair["tls_certificate"], "--tls-key", pair["tls_key"]
    )
    assert command.url.startswith("https://127.0.0.1:")
    assert asked(command.capture(), authority) == "pong"
    assert dict(provider.seen[0].headers)["authorization"] == "Bearer sk-own"
    assert command.stop() == 0


def presented(port: int) -> str:
    """The name in the certificate that a new connection is shown."""
    shown = ssl.get_server_certificate(("127.0.0.1", port), timeout=20)
    name = x509.load_pem_x509_certificate(shown.encode()).subject
    return str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def test_a_renewed_certificate_is_taken_over_and_a_broken_one_is_not(
    start: Any, authority: Authority, capsys: Any
) -> None:
    gateway = start(gateway=authority.issue("serving"))
    port = gateway.server.port
    assert presented(port) == "serving"
    for suffix in ("pem", "key"):
        authority.issue(f"next-{suffix}")
        os.replace(
            authority.folder / f"next-{suffix}.{suffix}", authority.folder / f"serving.{suffix}"
        )
    end = time.monotonic() + 60
    while "is not the key of the certificate" not in capsys.readouterr().err:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert presented(port) == "serving"
    os.replace(authority.folder / "next-pem.key", authority.folder / "serving.key")
    while presented(port) != "next-pem":
        assert time.monotonic() < end
        time.sleep(0.1)
    assert asked(gateway.capture(), authority) == "pong"


def test_plain_http_and_old_tls_get_nothing(start: Any, authority: Authority) -> None:
    gateway = start(gateway=authority.issue("serving"))
    with socket.create_connection(("127.0.0.1", gateway.server.port), timeout=20) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        try:
            answer = client.recv(65536)
        except ConnectionResetError:
            answer = b""
    assert b"HTTP" not in answer
    old = ssl.create_default_context(cafile=str(authority.file))
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", gateway.server.port), timeout=20) as client,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        old.wrap_socket(client, server_hostname="127.0.0.1")


DEFECTS = {
    "missing-certificate": "TLS certificate .* cannot be read",
    "missing-key": "TLS key .* cannot be read",
    "not-a-certificate": "is not a PEM certificate",
    "not-a-key": "TLS key .* is not PEM|cannot be used",
    "other-key": "is not the key of the certificate",
    "key-with-passphrase": "with a passphrase",
    "expired": "expired on",
    "not-yet-valid": "is not valid before",
    "no-key-named": "needs both",
    "no-certificate-named": "needs both",
}


def spoil(defect: str, authority: Authority) -> dict[str, str]:
    """A pair of files with that defect."""
    if defect == "expired":
        return authority.issue("leaf", NOW - 2 * DAY, NOW - DAY)
    if defect == "not-yet-valid":
        return authority.issue("leaf", NOW + DAY, NOW + 2 * DAY)
    pair = authority.issue("leaf")
    chain, key = Path(pair["tls_certificate"]), Path(pair["tls_key"])
    if defect.endswith("-named"):
        del pair["tls_key" if defect == "no-key-named" else "tls_certificate"]
    elif defect.startswith("missing"):
        (chain if defect == "missing-certificate" else key).unlink()
    elif defect.startswith("not-a"):
        (chain if defect == "not-a-certificate" else key).write_text("nothing of the kind\n")
    elif defect == "other-key":
        pair["tls_key"] = authority.issue("other")["tls_key"]
    else:
        secret = ec.generate_private_key(ec.SECP256R1())
        key.write_bytes(_pem(secret, serialization.BestAvailableEncryption(b"open sesame")))
    return pair


@pytest.mark.parametrize("defect", DEFECTS)
def test_files_that_do_not_serve_are_refused_before_anything_listens(
    tmp_path: Path, authority: Authority, defect: str
) -> None:
    settings = Settings(
        config=Config.model_validate({"gateway": spoil(defect, authority)}),
        home=Home(tmp_path / "home"),
        master_key=None,
        signing_secret=None,
        environment={},
        source="defaults",
    )
    with pytest.raises(UsageError, match=DEFECTS[defect]) as refused:
        serve_here(settings, "127.0.0.1", 0, 1)
    assert refused.value.remedy
    assert not (tmp_path / "home").exists()
