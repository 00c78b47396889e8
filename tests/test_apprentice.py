"""`Apprentice` over real stores and a stand-in frontier speaking the real wire formats."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline import Apprentice, AsyncApprentice
from apprentice_pipeline.control import phases
from apprentice_pipeline.control.risk import Certificate
from apprentice_pipeline.control.state import Comparison, Phase
from apprentice_pipeline.demo.frontier import FrontierSettings, RunningFrontier, start_frontier
from apprentice_pipeline.errors import BudgetExhausted, PriceUnknown, RemoteError, UsageError
from apprentice_pipeline.records import new_pair_id, now_us
from apprentice_pipeline.routing.champion import (
    ServingFacts,
    bring_into_force,
    control_of,
    keyed_prompt_digest,
    policy_of,
)
from apprentice_pipeline.routing.tasks import request_of
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.store.state import ChampionRecord
from apprentice_pipeline.store.tombstones import Tombstone
from apprentice_pipeline.store.workspace import Workspace
from apprentice_pipeline.wire.conversation import system_prompt_digest
from tests.conftest import HomeFolder

TASK = "classify_ticket"
ANSWERS = {
    "my card was charged twice": {"category": "billing", "priority": 2},
    "the parcel never came": {"category": "shipping", "priority": 1},
    "this one the frontier botches": "no JSON, sorry",
    "and this one in part": {"category": "billing"},
}
CONFIG = """
tasks:
  - name: classify_ticket
    description: "Classify support tickets by category and priority"
    input_schema: {{text: str, metadata: dict}}
    output_schema: {{category: str, priority: int}}
    match_fields: [category]
    confidence_thresholds:
      {{phase2_to_phase3: 0.2, coaching_trigger: 0.1, emergency_threshold: 0.05}}
remote:
  provider: {provider}
  model: {model}
  api_key_env: A_KEY
  endpoints: {{openai: "{url}", anthropic: "{url}"}}
  max_retries: 0
local: {{backend: "plugged_backend:open_backend"}}
budget: {{daily: {daily}}}
"""
PLUG_IN = """
from apprentice_pipeline.serving.backend import LocalAnswer

class Plugged:
    confidence = 0.9
    asked = 0
    loads_in_s = 0.0
    loaded = False

    async def answer(self, request):
        Plugged.asked += 1
        text = '{"category": "billing", "priority": 2}'
        return LocalAnswer(text, Plugged.confidence, 30, 9, 11_000)

    async def ready(self, champion, *, wait_s=0.0):
        Plugged.loaded = Plugged.loaded or wait_s >= Plugged.loads_in_s
        return Plugged.loaded

    def refusal(self, champion):
        return None

    async def close(self):
        pass

def open_backend(workspace):
    return Plugged()
"""


@pytest.fixture(scope="module")
def frontier() -> Iterator[RunningFrontier]:
    with start_frontier(FrontierSettings(require_key="a-key"), ANSWERS) as running:
        yield running


@pytest.fixture(scope="module")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A backend from outside, named in the configuration by its dotted path."""
    import importlib
    import sys

    folder = tmp_path_factory.mktemp("plug-in")
    (folder / "plugged_backend.py").write_text(PLUG_IN)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("plugged_backend").Plugged
    sys.path.remove(str(folder))


class Setting:
    """A configuration file and home of one test."""

    def __init__(self, folder: Path, url: str) -> None:
        self.file = folder / "apprentice.yaml"
        self.url = url
        self.environment = {"APPRENTICE_HOME": str(folder / "home"), "A_KEY": "a-key"}
        self.write()

    def write(self, **changes: Any) -> None:
        values = {"provider": "openai", "model": "gpt-4o", "daily": 10} | changes
        self.file.write_text(CONFIG.format(url=self.url, **values))

    def open(self) -> Apprentice:
        return Apprentice.from_config(self.file, environment=self.environment)

    def open_async(self) -> AsyncApprentice:
        return AsyncApprentice.from_config(self.file, environment=self.environment)

    def workspace(self) -> Workspace:
        return Workspace.open(load_settings(self.environment, self.file))

    def captures(self) -> list[dict[str, Any]]:
        workspace = self.workspace()
        try:
            return workspace.lake.scan("default", "captures").collect().to_dicts()
        finally:
            workspace.close()

    def serve_locally(self) -> None:
        """A champion in service, as after enough agreement in shadow."""
        workspace = self.workspace()
        task = workspace.config.task(TASK)
        assert task is not None
        digest = system_prompt_digest(request_of(task, {"text": "x"}))
        facts = ServingFacts(
            chance=0.1,
            certificate=Certificate(0.5, 100, 0.9, 0.04, 0.05, 0.05, 1),
            system_prompt_digests=frozenset(
                {keyed_prompt_digest(workspace.vault, "default", digest)}
            ),
            context_tokens=2_048,
            evaluator="structured_match",
            remote_cost_usd=0.001,
        )
        record = ChampionRecord("default", TASK, 1, "d" * 64, "x", facts.to_plain(), 0)
        workspace.state.set_champion("default", TASK, record)
        policy = policy_of(workspace.config, TASK)
        bring_into_force(workspace.state, "default", TASK, policy, now_us())

        def agree(text: str | None) -> str:
            control = control_of(text)
            for _ in range(200):
                seen = Comparison(new_pair_id(now_us()), 0.9, 1.0, True, True, 0.5, 1.0, now_us())
                control, _ = phases.observe(control, seen, policy)
            assert control.phase is Phase.SERVE
            return control.to_json()

        workspace.state.update_control("default", TASK, agree)
        workspace.close()


@pytest.fixture
def setting(tmp_path: Path, frontier: RunningFrontier, plugged: Any) -> Setting:
    plugged.confidence, plugged.asked = 0.9, 0
    plugged.loads_in_s, plugged.loaded = 0.0, False
    return Setting(tmp_path, frontier.url)


@pytest.mark.parametrize(
    ("provider", "model"), [("openai", "gpt-4o"), ("anthropic", "claude-sonnet-4-5-20250929")]
)
def test_a_run_is_answered_validated_and_captured_as_a_pair(
    setting: Setting, provider: str, model: str
) -> None:
    setting.write(provider=provider, model=model)
    with setting.open() as apprentice:
        result = apprentice.run(TASK, {"text": "my card was charged twice", "metadata": {}})
    assert result.output == {"category": "billing", "priority": 2}
    assert result.served_by == "remote"
    assert result.cost_usd is not None
    assert result.cost_usd > 0
    assert result.latency_ms > 0
    assert not result.quality_risk
    (row,) = setting.captures()
    assert row["pair_id"] == result.pair_id
    assert (row["origin"], row["is_pair"], row["provider"]) == ("run", True, provider)
    assert row["cost_usd"] == result.cost_usd


def test_in_service_the_local_model_answers_and_costs_nothing(setting: Setting) -> None:
    setting.serve_locally()
    with setting.open() as apprentice:
        assert apprentice.warm(TASK, wait_s=1.0)
        results = [apprentice.run(TASK, {"text": "my card was charged twice"}) for _ in range(5)]
    assert {result.served_by for result in results} == {"local"}
    assert results[0].output == {"category": "billing", "priority": 2}
    assert results[0].cost_usd == 0.0
    local = [row for row in setting.captures() if row["served_by"] == "local"]
    assert len(local) == 5
    assert not any(row["is_pair"] for row in local), "the model never learns from itself"


def test_a_single_run_meets_a_model_in_service_that_takes_a_while_to_load(
    setting: Setting, plugged: Any
) -> None:
    """`apprentice run` is one run of one process: without waiting it would always go remote."""
    setting.serve_locally()
    plugged.loads_in_s = 5.0
    with setting.open() as apprentice:
        result = apprentice.run(TASK, {"text": "my card was charged twice"})
    assert result.served_by == "local"


def test_a_model_that_is_not_in_service_keeps_nobody_waiting(
    setting: Setting, plugged: Any
) -> None:
    setting.serve_locally()
    workspace = setting.workspace()
    workspace.state.update_control(
        "default", TASK, lambda text: replace(control_of(text), phase=Phase.SHADOW).to_json()
    )
    workspace.close()
    plugged.loads_in_s = 5.0
    with setting.open():
        assert not plugged.loaded


def test_a_hesitant_local_model_leaves_it_to_the_remote_one(setting: Setting, plugged: Any) -> None:
    setting.serve_locally()
    plugged.confidence = 0.2
    with setting.open() as apprentice:
        result = apprentice.run(TASK, {"text": "the parcel never came"})
    assert result.served_by == "remote"
    assert result.output == {"category": "shipping", "priority": 1}
    workspace = setting.workspace()
    (row,) = workspace.lake.scan("default", "comparisons").collect().to_dicts()
    assert (row["score"], row["served"]) == (0.0, False)
    workspace.close()


def test_an_exhausted_budget_refuses_clearly_and_names_the_limit(setting: Setting) -> None:
    setting.write(daily="0.000001")
    with setting.open() as apprentice, pytest.raises(BudgetExhausted, match="daily budget"):
        apprentice.run(TASK, {"text": "the parcel never came"})


def test_an_exhausted_budget_in_service_answers_locally_and_says_so(
    setting: Setting, plugged: Any
) -> None:
    setting.write(daily="0.000001")
    setting.serve_locally()
    plugged.confidence = 0.2
    with setting.open() as apprentice:
        result = apprentice.run(TASK, {"text": "the parcel never came"})
    assert result.quality_risk
    assert result.served_by == "local"
    workspace = setting.workspace()
    assert workspace.state.counters("default", TASK)["quality_risk"] == 1
    workspace.close()


def test_the_command_says_that_quality_is_at_risk(
    setting: Setting, plugged: Any, run_apprentice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "a-key")
    home = HomeFolder(Path(setting.environment["APPRENTICE_HOME"]), setting.file)
    asked = ("run", TASK, "--input", '{"text": "the parcel never came"}', "--json")
    setting.serve_locally()
    plugged.confidence = 0.2
    assert run_apprentice(home, *asked).document["quality_risk"] is False
    setting.write(daily="0.000001")
    done = run_apprentice(home, *asked)
    assert (done.status, done.document["quality_risk"]) == (0, True)
    assert "quality at risk" in done.err


def test_a_model_without_a_price_is_not_called(setting: Setting, frontier: RunningFrontier) -> None:
    setting.write(model="a-model-nobody-priced")
    before = frontier.calls()
    with setting.open() as apprentice, pytest.raises(PriceUnknown) as refused:
        apprentice.run(TASK, {"text": "the parcel never came"})
    assert "remote.prices" in refused.value.remedy
    assert frontier.calls() == before


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("this one the frontier botches", "not JSON"),
        ("and this one in part", "field priority is missing"),
    ],
)
def test_an_answer_that_does_not_fit_is_asked_for_once_more_then_refused(
    setting: Setting, text: str, complaint: str
) -> None:
    with setting.open() as apprentice, pytest.raises(RemoteError, match=complaint) as refused:
        apprentice.run(TASK, {"text": text})
    assert text not in str(refused.value)
    assert len(setting.captures()) == 2, "both were paid for, both are recorded"


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({}, "text is missing"),
        ({"text": 3}, "text is not of type str"),
        ({"text": "a", "subject": "b"}, "subject is not a field"),
        ({"text": "a", "metadata": []}, "metadata is not of type dict"),
        ({"text": {1, 2}}, "JSON has not"),
        (["text"], "must be an object"),
    ],
)
def test_an_input_that_does_not_fit_is_refused_before_any_call(
    setting: Setting, value: Any, complaint: str
) -> None:
    with setting.open() as apprentice, pytest.raises(UsageError, match=complaint):
        apprentice.run(TASK, value)


def test_an_unknown_task_is_refused_with_the_known_ones(setting: Setting) -> None:
    with setting.open() as apprentice, pytest.raises(UsageError, match="declared: classify_ticket"):
        apprentice.run("no-such-task", {"text": "a"})


def test_without_a_key_the_remedy_names_the_variable(setting: Setting) -> None:
    del setting.environment["A_KEY"]
    with setting.open() as apprentice, pytest.raises(RemoteError) as refused:
        apprentice.run(TASK, {"text": "the parcel never came"})
    assert "A_KEY" in refused.value.remedy


def test_it_must_be_open_and_closing_twice_is_closing_once(setting: Setting) -> None:
    apprentice = setting.open()
    with pytest.raises(UsageError, match="not open"):
        apprentice.run(TASK, {"text": "a"})
    with apprentice:
        pass
    apprentice.close()
    assert not [each for each in threading.enumerate() if each.name == "apprentice"]


def test_closing_brings_no_erased_pair_into_the_lake(setting: Setting) -> None:
    """Another node erased it, while this one's spool still had it."""
    with setting.open() as apprentice:
        gone = apprentice.run(TASK, {"text": "the parcel never came"}).pair_id
        kept = apprentice.run(TASK, {"text": "my card was charged twice"}).pair_id
        workspace = setting.workspace()
        workspace.state.add_tombstones([Tombstone("default", TASK, gone, now_us(), 0)])
        workspace.close()
    assert [row["pair_id"] for row in setting.captures()] == [kept]


def test_feedback_labels_a_pair(setting: Setting) -> None:
    with setting.open() as apprentice:
        result = apprentice.run(TASK, {"text": "the parcel never came"})
        apprentice.feedback(result.pair_id, "edit", task=TASK, edit={"category": "lost"})
        with pytest.raises(UsageError, match="approve, reject"):
            apprentice.feedback(result.pair_id, "praise", task=TASK)
    workspace = setting.workspace()
    (row,) = workspace.lake.scan("default", "feedback").collect().to_dicts()
    assert (row["pair_id"], row["action"]) == (result.pair_id, "edit")
    assert b"lost" not in row["edit"]
    workspace.close()


async def test_within_a_running_loop_many_run_at_once(setting: Setting) -> None:
    async with setting.open_async() as apprentice:
        texts = ["my card was charged twice", "the parcel never came"] * 8
        results = await asyncio.gather(*(apprentice.run(TASK, {"text": t}) for t in texts))
    assert [result.output for result in results] == [ANSWERS[text] for text in texts]
    assert len({result.pair_id for result in results}) == 16
    assert len(setting.captures()) == 16


def test_the_plain_interface_also_works_within_a_running_loop(setting: Setting) -> None:
    async def main() -> Any:
        with setting.open() as apprentice:
            return apprentice.run(TASK, {"text": "the parcel never came"})

    assert asyncio.run(main()).output == ANSWERS["the parcel never came"]


def test_what_was_spent_is_in_the_ledger_to_the_cent(setting: Setting) -> None:
    with setting.open() as apprentice:
        result = apprentice.run(TASK, {"text": "the parcel never came"})
    workspace = setting.workspace()
    spent = workspace.state.lifetime_spending("default", TASK)
    assert spent["run"] == (Decimal(repr(result.cost_usd)), 1)
    workspace.close()


COMPLETION = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o",
    "usage": {"prompt_tokens": 60, "completion_tokens": 12, "total_tokens": 72},
}


@contextmanager
def answering(*texts: str) -> Iterator[str]:
    """A provider that gives these texts, one a call; its URL."""
    left = iter(texts)

    class Provider(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            message = {"role": "assistant", "content": next(left)}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            body = json.dumps({**COMPLETION, "choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Silence."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def test_after_a_second_attempt_the_cost_is_that_of_both(setting: Setting) -> None:
    with answering("no JSON, sorry", '{"category": "billing", "priority": 2}') as url:
        setting.url = url
        setting.write()
        with setting.open() as apprentice:
            result = apprentice.run(TASK, {"text": "my card was charged twice"})
    once = 60 * 2.5e-6 + 12 * 10e-6
    assert result.cost_usd == pytest.approx(2 * once)
    workspace = setting.workspace()
    spent = workspace.state.lifetime_spending("default", TASK)
    assert spent["run"] == (Decimal(repr(result.cost_usd)), 2)
    workspace.close()
