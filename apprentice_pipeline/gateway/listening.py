"""How a worker listens: uvicorn, its guards, its certificate, its open files.

Belongs here: uvicorn's configuration and what it needs from the system. Does not: the
application (`app`), starting and stopping (`worker`).
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable

import uvicorn

from apprentice_pipeline.config import Gateway as Limits
from apprentice_pipeline.gateway.guard import Door
from apprentice_pipeline.gateway.tls import Renewal, certificate_of

KEEP_ALIVE_S = 75
RENEWAL_LOOK_S = 1
_OTHER_FILES = 256
_FEWEST_CLIENTS = 64


def server_config(app: object, limits: Limits, on_malformed: Callable[[], None]) -> uvicorn.Config:
    """Uvicorn's configuration. X-Forwarded-* is not believed, from anybody.

    `on_malformed` is told of every request that is not HTTP, once it is refused.

    Raises: UsageError when the certificate does not serve.
    """
    certificate = certificate_of(limits.tls_certificate, limits.tls_key)
    renewal = Renewal(certificate) if certificate is not None else None
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=Door(limits, room_for_clients(limits), on_malformed),  # type: ignore[arg-type]
        loop="uvloop",
        ws="none",
        lifespan="on",
        interface="asgi3",
        access_log=False,
        log_config=None,
        log_level="critical",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(limits.shutdown_grace_s),
        ssl_context_factory=_factory(renewal),
        callback_notify=renewal.look if renewal is not None else None,
        timeout_notify=RENEWAL_LOOK_S,
    )


def room_for_clients(limits: Limits) -> int:
    """How many clients may be connected, after asking the system for as many open files."""
    try:
        import resource
    except ImportError:
        return limits.max_clients
    wanted = limits.max_clients + limits.max_connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return limits.max_clients
    given = soft - limits.max_connections - _OTHER_FILES
    return min(limits.max_clients, max(given, _FEWEST_CLIENTS))


def _factory(
    renewal: Renewal | None,
) -> Callable[[uvicorn.Config, Callable[[], ssl.SSLContext]], ssl.SSLContext] | None:
    return None if renewal is None else lambda *_: renewal.context
