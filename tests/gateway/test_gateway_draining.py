"""The pace of a server's drains: prompt at first, seldom under steady traffic, prompt again."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from apprentice_pipeline.gateway.draining import STEADY_DRAINS, STEADY_FACTOR, Draining
from apprentice_pipeline.store.spool import Spool
from tests.conftest import sample_exchanges


def no_alert(kind: str, message: str) -> None:
    pytest.fail(f"{kind}: {message}")


def test_drains_come_seldom_only_while_traffic_is_steady(workspace: Any) -> None:
    draining = Draining(workspace, no_alert)
    interval_s = workspace.config.store.drain_interval_s
    with closing(Spool.open(workspace.home.spool, workspace.vault)) as spool:
        for exchange in sample_exchanges(STEADY_DRAINS):
            assert draining.pause_s() == interval_s
            spool.put(exchange, tenant="default").result()
            draining.look()
        assert draining.pause_s() == STEADY_FACTOR * interval_s
        draining.look()
        assert draining.pause_s() == interval_s
    assert workspace.lake.scan("default", "captures").collect().height == STEADY_DRAINS
