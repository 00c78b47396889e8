"""The metrics: named as Prometheus wants them, and right with workers that come and go."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from apprentice_pipeline.gateway.metrics import MOST_STREAMS, Metrics

CHAT = "/v1/chat/completions"
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]}
ONE_WORKER = """
import os, signal, sys
from apprentice_pipeline.gateway.metrics import Metrics
metrics = Metrics()
metrics.add_events("acme", "tickets", {"pairs": 2, "input_tokens": 10, "cost_usd": 0.5})
metrics.observe([0.2], [0.001])
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdout.buffer.write(metrics.exposition(tenants=True))
"""


@pytest.fixture
def named(gateway: Any, ask: Any) -> bytes:
    """What an operator sees after some calls."""
    for behave in ("json", "error", "stream"):
        ask(gateway.capture(), CHAT, ASK, {"x-behave": behave})
    key = gateway.workspace.state.create_key(
        tenant="ops", namespace=None, role="operator", now_us=1
    ).key
    body: bytes = ask(gateway.url, "/metrics", None, {"x-apprentice-key": key}).body
    return body


def test_names_types_units_and_labels_are_prometheus_own(named: bytes) -> None:
    found = text_string_to_metric_families(named.decode())
    families = [family for family in found if not family.name.endswith("_created")]
    assert len({family.name for family in families}) == len(families) >= 6
    for family in families:
        assert re.fullmatch(r"apprentice_[a-z_]+", family.name)
        assert not re.search(r"_(ms|us|milliseconds|count|sum|bucket)$", family.name)
        assert family.documentation.endswith("."), family.name
        if family.type == "counter":
            names = {sample.name for sample in family.samples}
            assert names <= {f"{family.name}_total", f"{family.name}_created"}
        elif family.type == "gauge":
            assert family.name.endswith("_timestamp_seconds")
        else:
            assert family.name.endswith("_seconds")
            assert family.type in {"histogram", "gauge"}
        if family.type == "histogram":
            checked_histogram(family)
        for sample in family.samples:
            assert all(re.fullmatch(r"[a-z][a-z_]*|le", label) for label in sample.labels)


def checked_histogram(family: Any) -> None:
    """Buckets rise and end in +Inf, which counts everything."""
    buckets = [sample for sample in family.samples if sample.name.endswith("_bucket")]
    values = [sample.value for sample in buckets]
    assert values == sorted(values)
    assert buckets[-1].labels["le"] == "+Inf"
    (count,) = (sample.value for sample in family.samples if sample.name.endswith("_count"))
    assert values[-1] == count


def test_tokens_and_money_are_no_events(named: bytes) -> None:
    text = named.decode()
    assert 'apprentice_tokens_total{type="input"} ' in text
    assert 'apprentice_tenant_tokens_total{namespace="default",tenant="default",type="in' in text
    assert "apprentice_cost_usd_total " in text
    assert 'event="input_tokens"' not in text
    assert 'event="cost_usd"' not in text


def test_what_workers_counted_is_summed_and_outlives_them(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    command = [sys.executable, "-c", ONE_WORKER]
    for _ in range(2):
        killed = subprocess.run([*command, "killed"], env=environment)
        assert killed.returncode == -signal.SIGKILL
    last = subprocess.run([*command, "read"], env=environment, check=True, stdout=subprocess.PIPE)
    text = last.stdout.decode()
    assert 'apprentice_events_total{event="pairs"} 6.0' in text
    assert (
        'apprentice_tenant_events_total{event="pairs",namespace="tickets",tenant="acme"} 6.0'
        in text
    )
    assert 'apprentice_tokens_total{type="input"} 30.0' in text
    assert "apprentice_cost_usd_total 1.5" in text
    assert "apprentice_response_seconds_count 3.0" in text
    assert "# HELP apprentice_events_total What happened" in text


def test_a_tenant_that_names_namespaces_without_end_does_not_grow_the_metrics() -> None:
    metrics = Metrics()
    for number in range(MOST_STREAMS + 50):
        metrics.add_events("acme", f"n{number}", {"pairs": 1})
    text = metrics.exposition(tenants=True).decode()
    assert text.count("\napprentice_tenant_events_total{") == MOST_STREAMS + 1
    assert 'event="pairs",namespace="_other",tenant="_other"} 50.0' in text
    assert f'apprentice_events_total{{event="pairs"}} {MOST_STREAMS + 50}.0' in text
