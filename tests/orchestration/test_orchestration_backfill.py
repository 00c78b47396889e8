"""A backfill over a range of days, as Dagster's own page starts one and its daemon carries it out.

Everything is Dagster's: an instance on disk, the project's code location in a server process of
its own, the daemon's iterations over backfills and queue, runs launched into processes of theirs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.controller import create_daemon_grpc_server_registry
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import (
    QueuedRunCoordinatorDaemon,
)

from apprentice_pipeline.orchestration.partitions import stream_day_key
from apprentice_pipeline.orchestration.runs import instance
from apprentice_pipeline.records import date_of

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:Function `AssetSelection.sources`:DeprecationWarning"),
]
DAY_US = 86_400_000_000
ASSETS = [dg.AssetKey("captured_pairs"), dg.AssetKey("verified_pairs")]
LOG = logging.getLogger("dagster.test.backfill")


@pytest.fixture
def daemon(
    home: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[dg.DagsterInstance, WorkspaceProcessContext]]:
    """What Dagster's daemon works with: the home's instance, and the code location it loads."""
    home.configure("verify: {fraction: 0}")
    for name, value in home.environment.items():
        monkeypatch.setenv(name, value)
    target = ModuleTarget("apprentice_pipeline.definitions", None, str(Path.cwd()), "apprentice")
    with (
        instance(home.root / "dagster") as opened,
        create_daemon_grpc_server_registry(opened, "WARNING") as servers,
        WorkspaceProcessContext(opened, target, grpc_server_registry=servers) as workspace,
    ):
        yield opened, workspace


def carried_out(
    opened: dg.DagsterInstance, workspace: WorkspaceProcessContext, backfill: PartitionBackfill
) -> PartitionBackfill:
    """The backfill once the daemon has nothing more to do for it."""
    opened.add_backfill(backfill)
    queue = QueuedRunCoordinatorDaemon(interval_seconds=1)
    end = time.monotonic() + 200
    while True:
        assert time.monotonic() < end
        assert not [fault for fault in execute_backfill_iteration(workspace, LOG) if fault]
        assert not [fault for fault in queue.run_iteration(workspace) if fault]
        found = opened.get_backfill(backfill.backfill_id)
        assert found is not None
        if found.status is not BulkActionStatus.REQUESTED:
            return found
        time.sleep(0.5)


def test_a_backfill_of_two_days_verifies_each_pair_of_them_once(
    home: Any,
    captured: Callable[..., Any],
    daemon: tuple[dg.DagsterInstance, WorkspaceProcessContext],
) -> None:
    opened, workspace = daemon
    with home.open() as store:
        exchanges = [
            *captured(store, 12, ago_us=3 * DAY_US),
            *captured(store, 8, skip=12, ago_us=2 * DAY_US),
        ]
        left_out = captured(store, 5, skip=20, ago_us=6 * DAY_US)
    opened.add_dynamic_partitions("streams", ["default.tickets"])
    days = sorted({date_of(each.created_at_us) for each in exchanges})
    keys = [str(stream_day_key("default", "tickets", day)) for day in days]
    backfill = PartitionBackfill.from_asset_partitions(
        backfill_id="twodays",
        asset_graph=workspace.create_request_context().asset_graph,
        partition_names=keys,
        asset_selection=ASSETS,
        backfill_timestamp=datetime.now(UTC).timestamp(),
        tags={},
        dynamic_partitions_store=opened,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    done = carried_out(opened, workspace, backfill)
    assert done.status is BulkActionStatus.COMPLETED_SUCCESS
    runs = opened.get_runs(dg.RunsFilter(tags={"dagster/backfill": "twodays"}))
    assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS] * len(days)
    assert {run.tags["dagster/partition"] for run in runs} == set(keys)
    for asset in ASSETS:
        assert opened.get_materialized_partitions(asset) == set(keys)
    with home.open() as store:
        verdicts = store.lake.sql("default", "select pair_id from verdicts")
    found = [row["pair_id"] for row in verdicts]
    assert sorted(found) == sorted(each.pair_id for each in exchanges)
    assert not {each.pair_id for each in left_out} & set(found)
