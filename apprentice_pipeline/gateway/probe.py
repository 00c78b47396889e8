"""Whether a server that was just started answers.

Belongs here: one question to an address on this machine. Does not: waiting, giving up. No proxy
of the environment is asked, and any certificate will do: the answer is only whether it is up.
"""

from __future__ import annotations

import urllib.error
import urllib.request

from apprentice_pipeline.gateway.tls import unverified_context


def is_up(url: str, *, timeout_s: float = 1.0) -> bool:
    """Whether a GET of `url` is answered with 200 in time."""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=unverified_context()),
    )
    try:
        with opener.open(url, timeout=timeout_s) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False
