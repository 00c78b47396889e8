"""The demo as its users run it: a process, files in, a report out, and nothing readable left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from apprentice_pipeline.demo.report import DemoReport

CANARY = "zanzibar-canary-7f3a9"
QUICK = """
distill: {threshold: 60, epochs: 1, rank: 4, holdout_fraction: 0.25}
kscore: {gate: 0.0, min_fidelity: 0.0, min_holdout: 10, bootstrap: 100}
verify: {fraction: 0.1}
"""


def lines(count: int) -> Iterator[dict[str, str]]:
    kinds = {"refund": "money back for", "delay": "where is", "cancel": "please cancel"}
    for i in range(count):
        kind = list(kinds)[i % 3]
        yield {"text": f"{kinds[kind]} order {i * 7919} {CANARY}", "kind": kind, "note": CANARY}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One demo over canary traffic, every folder it could write to inside one root."""
    root = tmp_path_factory.mktemp("demo")
    inputs, world = root / "in", root / "world"
    inputs.mkdir()
    for name in ("home", "tmp", "cache", "cwd"):
        (world / name).mkdir(parents=True)
    traffic = inputs / "traffic.jsonl"
    traffic.write_text("".join(json.dumps(line) + "\n" for line in lines(240)))
    config = inputs / "quick.yaml"
    config.write_text(QUICK)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")},
        "APPRENTICE_HOME": str(world / "home"),
        "APPRENTICE_CONFIG": str(config),
        "HOME": str(world / "cache"),
        "XDG_CACHE_HOME": str(world / "cache"),
        "HF_HOME": str(world / "cache" / "hf"),
        "TMPDIR": str(world / "tmp"),
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "apprentice_pipeline.cli", "demo", "--json"),
            *("--traffic", str(traffic)),
        ],
        cwd=world / "cwd",
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return world, done


def test_the_report_holds_the_contracts_figures_and_nothing_else_is_on_stdout(
    demo: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    report = json.loads(demo[1].stdout)
    named = {"k_score", "fidelity", "fidelity_low", "fidelity_high", "holdout", "artifact"}
    named |= {"local_share", "local_agreement", "spend_usd", "frontier_only_usd", "seconds"}
    assert named <= report.keys()
    assert Path(report["artifact"]).is_file()
    assert report["fidelity_low"] <= report["fidelity"] <= report["fidelity_high"]
    assert report["second_wave"] > 40


def test_the_report_says_where_everything_is_that_was_made(
    demo: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    world, done = demo
    report = json.loads(done.stdout)
    paths = report["paths"]
    assert set(paths) == {"lake", "mlflow", "dagster", "public_key"}
    for path in (report["home"], report["artifact"], *paths.values()):
        assert Path(path).exists()
        assert Path(path).is_relative_to(world / "home")
    assert "PUBLIC KEY" in Path(paths["public_key"]).read_text()
    text = DemoReport(**report).text()
    assert all(path in text for path in paths.values())


def test_a_canary_is_in_no_file_and_in_no_output(
    demo: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    world, done = demo
    needle = CANARY.encode()
    assert CANARY not in done.stdout + done.stderr
    files = [path for path in world.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 30, "the demo left suspiciously little to look at"
    found = [path for path in files if any(needle in part for part in contents(path))]
    assert found == []


def contents(path: Path) -> Iterator[bytes]:
    """The file's bytes, and those of what is packed inside it."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".parquet":
        yield str(pq.read_table(path).to_pylist()).encode()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())


def test_malformed_traffic_is_refused_with_its_lines_and_nothing_is_started(
    tmp_path: Path,
) -> None:
    traffic = tmp_path / "bad.jsonl"
    traffic.write_text('{"text": "a", "kind": "x"}\nnot json\n{"kind": "x"}\n')
    home = tmp_path / "home"
    done = subprocess.run(
        [sys.executable, "-m", "apprentice_pipeline.cli", "demo", "--traffic", str(traffic)],
        env={**os.environ, "APPRENTICE_HOME": str(home)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "line 2" in done.stderr
    assert "line 3" in done.stderr
    assert "→" in done.stderr
    assert not home.exists()
