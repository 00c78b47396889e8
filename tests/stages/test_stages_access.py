"""What `capture` tells a client to change."""

from __future__ import annotations

import pytest

from apprentice_pipeline.config import Gateway
from apprentice_pipeline.stages.access import sdk_change

PROVIDERS = pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])


@PROVIDERS
@pytest.mark.parametrize(("certificate", "scheme"), [("", "http"), ("/tls/cert.pem", "https")])
def test_the_address_is_https_where_the_gateway_has_a_certificate(
    provider: str, certificate: str, scheme: str
) -> None:
    gateway = Gateway(tls_certificate=certificate, tls_key=certificate and "/tls/key.pem")
    change = sdk_change(gateway, provider, "ak_x")
    assert change.base_url.startswith(f"{scheme}://127.0.0.1:8710/v1/capture/{provider}")
    assert f'"{change.base_url}"' in change.text
