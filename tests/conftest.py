"""What every folder of tests may use: fresh homes, captured pairs, and one distilled home.

Belongs here: fixtures that more than one folder needs. Everything is real: a real store, a real
(tiny) training, real Dagster runs, a real registry. The distilled homes are made once a session
and read only; a test that changes one works on a `fork`.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from apprentice_pipeline.records import Exchange, Usage, new_pair_id, now_us
from apprentice_pipeline.settings import load_settings

if TYPE_CHECKING:
    from apprentice_pipeline.orchestration.pipeline import Pipeline
    from apprentice_pipeline.store.workspace import Workspace

settings.register_profile(
    "shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared-machine")

SAMPLES = Path(__file__).parents[1] / "data" / "support_requests.jsonl"
PROMPT = "Classify the request. Answer with JSON: category, priority."
CANARY = "zanzibar-canary-7431"
NAMESPACE = "tickets"
HOUR_US = 3_600_000_000
SMALL = """\
local: {base_model: embedded, max_new_tokens: 24, fine_tune_batch_size: 30}
distill: {threshold: 60, epochs: 1, holdout_fraction: 0.2, rank: 4}
kscore: {gate: 0.0, min_fidelity: 0.0, min_holdout: 10, bootstrap: 100, non_inferiority_margin: 1.0}
verify: {fraction: 0}
"""


@dataclass(frozen=True)
class HomeFolder:
    """A home, its configuration file and the environment that names both."""

    root: Path
    file: Path
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def in_folder(cls, folder: Path, configuration: str = "") -> HomeFolder:
        made = cls(folder / "home", folder / "apprentice.yaml")
        made.configure(configuration)
        return made

    @property
    def environment(self) -> dict[str, str]:
        return {"APPRENTICE_HOME": str(self.root), "APPRENTICE_CONFIG": str(self.file)}

    def configure(self, text: str) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(text, encoding="utf-8")

    @contextmanager
    def open(self) -> Iterator[Workspace]:
        """The home as a workspace."""
        from apprentice_pipeline.store.workspace import Workspace

        opened = Workspace.open(load_settings(self.environment))
        try:
            yield opened
        finally:
            opened.close()

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        """The home as Dagster's resource."""
        from apprentice_pipeline.orchestration.pipeline import Pipeline

        opened = Pipeline(self.environment)
        try:
            yield opened
        finally:
            opened.workspace.close()

    def fork(self, folder: Path) -> HomeFolder:
        """A copy to change: the same home in another place, its own paths rewritten."""
        forked = HomeFolder(folder / "home", folder / "apprentice.yaml", dict(self.facts))
        shutil.copytree(self.root, forked.root)
        forked.configure(self.file.read_text(encoding="utf-8"))
        old, new = str(self.root), str(forked.root)
        for text in (*forked.root.glob("work/**/*.json"), *forked.root.glob("dagster/*.yaml")):
            text.write_text(text.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        for database in (forked.root / "state.db", forked.root / "mlflow" / "mlflow.db"):
            if database.exists():
                _replace_everywhere(database, old, new)
        return forked


def _replace_everywhere(database: Path, old: str, new: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        tables = connection.execute("select name from sqlite_master where type = 'table'")
        for (table,) in tables.fetchall():
            for column in connection.execute(f'pragma table_info("{table}")').fetchall():
                name = column[1]
                connection.execute(
                    f'update "{table}" set "{name}" = replace("{name}", ?, ?) '
                    f'where typeof("{name}") = \'text\' and instr("{name}", ?)',
                    (old, new, old),
                )


def sample_exchanges(number: int, *, skip: int = 0, ago_us: int = HOUR_US) -> list[Exchange]:
    """Support requests as the gateway would have captured them, a millisecond apart.

    The first one of each call carries the canary in its input and in its output.
    """
    start_us = now_us() - ago_us
    with open(SAMPLES, encoding="utf-8") as lines:
        found = [json.loads(line) for line in islice(lines, skip, skip + number)]
    made = [_exchange(line, start_us + place * 1_000) for place, line in enumerate(found)]
    first = {**found[0], "text": f"{found[0]['text']} {CANARY}", "note": CANARY}
    return [_exchange(first, start_us), *made[1:]]


def _exchange(line: dict[str, Any], at_us: int) -> Exchange:
    answer = {name: value for name, value in line.items() if name != "text"}
    messages = [{"role": "system", "content": PROMPT}, {"role": "user", "content": line["text"]}]
    return Exchange(
        pair_id=new_pair_id(at_us),
        tenant="default",
        namespace=NAMESPACE,
        created_at_us=at_us,
        provider="openai",
        endpoint="chat.completions",
        model="gpt-4o",
        status=200,
        complete=True,
        streamed=False,
        served_by="remote",
        input={"messages": messages, "parameters": {}},
        output=json.dumps(answer),
        latency_us=800_000,
        first_byte_us=None,
        usage=Usage(60, 12, None, None, "provider"),
        cost_usd=0.001,
    )


def put_pairs(workspace: Workspace, number: int, **changes: Any) -> list[Exchange]:
    """Puts `number` sample pairs straight into the lake; `skip`, `ago_us` and fields of Exchange
    as keywords."""
    from apprentice_pipeline.stages.results import append_records

    places = {name: changes.pop(name) for name in ("skip", "ago_us") if name in changes}
    exchanges = [each._replace(**changes) for each in sample_exchanges(number, **places)]
    append_records(workspace, changes.get("tenant", "default"), exchanges)
    return exchanges


@pytest.fixture
def home(tmp_path: Path) -> HomeFolder:
    """A home nobody has used, with an empty configuration."""
    return HomeFolder.in_folder(tmp_path)


@pytest.fixture
def workspace(home: HomeFolder) -> Iterator[Workspace]:
    """`home`, open."""
    with home.open() as opened:
        yield opened


@pytest.fixture
def captured() -> Callable[..., list[Exchange]]:
    """`put_pairs`: captured(workspace, 120, namespace="tickets")."""
    return put_pairs


@pytest.fixture(scope="session")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> HomeFolder:
    """A home whose stream was verified, distilled and promoted by the sensor's runs. Read only.

    `facts["ticks"]`: the jobs that each look of the sensor started.
    """
    from apprentice_pipeline.orchestration.runs import tick_threshold_sensor

    made = HomeFolder.in_folder(tmp_path_factory.mktemp("distilled"), SMALL)
    with made.pipeline() as pipeline:
        exchanges = put_pairs(pipeline.workspace, 120)
        made.facts["pair_ids"] = [exchange.pair_id for exchange in exchanges]
        made.facts["ticks"] = [
            tick_threshold_sensor(pipeline, "default", NAMESPACE) for _ in range(3)
        ]
    return made


@pytest.fixture(scope="session")
def redistilled(distilled: HomeFolder, tmp_path_factory: pytest.TempPathFactory) -> HomeFolder:
    """`distilled` with more pairs and a second version, made by `apprentice distill`. Read only.

    `facts["distill"]`: what the command printed.
    """
    folder = tmp_path_factory.mktemp("redistilled")
    made = distilled.fork(folder)
    with made.open() as opened:
        put_pairs(opened, 60, skip=120, ago_us=0)
    made.facts["distill"] = apprentice(made, "distill", "--namespace", NAMESPACE, "--json")
    return made


@pytest.fixture
def fork(tmp_path: Path) -> Callable[[HomeFolder], HomeFolder]:
    """A copy of a home that the test may change."""
    numbers = count(1)
    return lambda origin: origin.fork(tmp_path / f"fork-{next(numbers)}")


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as the one JSON document it must be."""
        return json.loads(self.out)


def apprentice(home: HomeFolder, *arguments: str, given: str | None = None) -> Outcome:
    """Runs `apprentice` in this process on `home`."""
    import contextlib
    import io
    import os

    from apprentice_pipeline.cli.main import main

    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    err = io.StringIO()
    kept = {name: os.environ.get(name) for name in home.environment}
    os.environ.update(home.environment)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(list(arguments))
    finally:
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    written = out.buffer.getvalue()  # type: ignore[attr-defined]
    return Outcome(status, written.decode(), err.getvalue())


@pytest.fixture
def run_apprentice() -> Callable[..., Outcome]:
    """`apprentice`: run_apprentice(home, "status", "--json")."""
    return apprentice
