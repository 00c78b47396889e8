"""Every provider's SDK before a gateway that wants keys, straight and through the gateway.

Each case is run with the provider's key and a capture key beside it, and with a capture key in
the place of the provider's (`keyed_both`). A client differs by its base URL and its key alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
from google.genai import errors

from tests.conformance import conformance_anthropic as claude
from tests.conformance import conformance_gemini as gemini
from tests.conformance import conformance_openai as gpt
from tests.conformance.conformance_gateway import NAMESPACE, PROVIDER_KEY, Served
from tests.conformance.conformance_provider import Provider
from tests.conformance.conftest import Both, Keyed, Side, through_gateway
from tests.conformance.test_conformance_node import node

LONG = "a long answer that comes in more than one piece: é, 漢字, 😀 and so on, to its end"
Ask = Callable[[Side], Any]


def chat(*, streamed: bool) -> Ask:
    return gpt.ask(messages=gpt.user("ping"), stream=streamed)


def response(*, streamed: bool) -> Ask:
    return gpt.respond(input="ping", stream=streamed)


def message(*, streamed: bool) -> Ask:
    return claude.ask(messages=claude.user("ping"), stream=streamed)


def generation(*, streamed: bool) -> Ask:
    return gemini.ask("ping", streamed=streamed)


ENDPOINTS = {
    "chat/completions": (chat, "openai"),
    "responses": (response, "openai"),
    "messages": (message, "anthropic"),
    "generateContent": (generation, "gemini"),
}
BY_ENDPOINT = pytest.mark.parametrize("endpoint", list(ENDPOINTS))
STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


@BY_ENDPOINT
@STREAMED
def test_an_answer_is_the_provider_s_and_a_pair_of_the_key_s_namespace(
    keyed_both: Both, endpoint: str, streamed: bool
) -> None:
    make, provider = ENDPOINTS[endpoint]
    run = keyed_both(make(streamed=streamed), {"ping": LONG}, require_key=PROVIDER_KEY)
    assert (run.row.is_pair, run.row.output, run.row.streamed) == (True, LONG, streamed)
    assert (run.row.provider, run.row.namespace) == (provider, NAMESPACE)


@BY_ENDPOINT
@STREAMED
@pytest.mark.parametrize("settings", [{"rate_limit": 0}, {"error_share": 1.0}])
def test_an_error_is_the_provider_s_own(
    keyed_both: Both, endpoint: str, streamed: bool, settings: dict[str, Any]
) -> None:
    make, _ = ENDPOINTS[endpoint]

    def call(side: Side) -> Any:
        with pytest.raises((openai.APIError, anthropic.APIError, errors.APIError)) as raised:
            make(streamed=streamed)(side)
        return type(raised.value).__name__

    run = keyed_both(call, {"ping": LONG}, require_key=PROVIDER_KEY, **settings)
    assert (run.row.is_pair, run.row.output) == (False, None)
    assert run.row.status in {429, 500}


@BY_ENDPOINT
def test_a_stream_that_the_provider_breaks_off(keyed_both: Both, endpoint: str) -> None:
    make, _ = ENDPOINTS[endpoint]

    def call(side: Side) -> Any:
        with pytest.raises(Exception, match=r"incomplete|Connection error"):
            make(streamed=True)(side)

    run = keyed_both(call, {"ping": LONG}, cut_share=1.0)
    assert (run.row.is_pair, run.row.complete) == (False, False)


def test_tools_and_thoughts(keyed_both: Both) -> None:
    asked: Any = {"tools": claude.TOOLS, "thinking": {"type": "enabled", "budget_tokens": 1_024}}
    call = claude.ask(messages=claude.user("both"), stream=True, **asked)
    assert claude.calls_of(keyed_both(call, {"both": claude.EVERYTHING}).row) == [
        (each["name"], each["arguments"]) for each in claude.CALLS
    ]


def test_the_node_sdks(keyed_both: Both) -> None:
    cases = ("chat", "chat_stream", "response", "message", "message_stream")
    run = keyed_both(node(*cases), {"ping": LONG}, require_key=PROVIDER_KEY)
    assert [row.output for row in run.rows] == [LONG] * len(cases)


# --- what is not captured -----------------------------------------------------------------------

Count = Callable[[Side], Any]


def count_messages(side: Side) -> Any:
    def work(client: anthropic.Anthropic) -> Any:
        asked: Any = {"model": claude.MODEL, "messages": claude.user("ping")}
        return client.messages.count_tokens(**asked).input_tokens

    return claude.sync(work)(side)


def count_contents(side: Side) -> Any:
    def work(client: Any) -> Any:
        return client.models.count_tokens(model=gemini.MODEL, contents="ping").total_tokens

    return gemini.sync(work)(side)


def list_models(side: Side) -> Any:
    return gpt.sync(lambda client: [model.id for model in client.models.list()])(side)


ASIDE = pytest.mark.parametrize("aside", [count_messages, count_contents, list_models])


@ASIDE
def test_with_a_provider_key_of_its_own_a_client_counts_tokens_and_lists_models(
    keyed: Keyed, aside: Count
) -> None:
    run = keyed("beside")(aside, require_key=PROVIDER_KEY)
    assert run.value
    assert run.rows == []


@ASIDE
def test_with_the_stored_key_a_capture_key_posts_captures_only(
    providers: tuple[Provider, Provider], keyed_gateway: Served, aside: Count
) -> None:
    """The stored key is not the client's to spend otherwise; a tenant key's holder may."""
    providers[1].restart({}, require_key=PROVIDER_KEY)
    with pytest.raises((openai.APIError, anthropic.APIError, errors.APIError)) as refused:
        aside(through_gateway(keyed_gateway.port, keyed_gateway.key))
    status = getattr(refused.value, "status_code", None) or refused.value.code
    assert status == 403
    assert "need a tenant key" in str(refused.value)
    assert "x-apprentice-key" in str(refused.value)
    assert providers[1].seen == []
    assert aside(through_gateway(keyed_gateway.port, keyed_gateway.tenant_key))
    assert len(providers[1].seen) == 1
