"""An erasure and an export at once: no file is left that holds what was erased."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.stages import erasure, export, exported
from apprentice_pipeline.store.workspace import Workspace
from bench.export.making import NAMESPACE, TENANT, sealed_pairs

STREAM = ("acme", "tickets")


@pytest.mark.parametrize("step", ["noted", "buried", "spools-erased", "lake-erased"])
def test_an_export_written_while_an_erasure_is_at_work_goes_with_it(
    workspace: Any, captured: Callable[..., list[Any]], tmp_path: Path, step: str
) -> None:
    made = captured(workspace, 3, tenant="acme", namespace="tickets")
    out = tmp_path / "corpus.jsonl"

    def meanwhile(done: str) -> None:
        if done == step:
            export.write_file(workspace, export.Request(*STREAM), out)

    done = erasure.erase(workspace, *STREAM, made[0].pair_id, on_step=meanwhile)
    assert done.exports.deleted == (str(out),)
    assert [*tmp_path.glob("*.jsonl")] == []


def test_an_unfinished_export_goes_with_an_erasure_and_its_writer_is_told_to_run_it_again(
    workspace: Any, captured: Callable[..., list[Any]], tmp_path: Path
) -> None:
    made = captured(workspace, 3, tenant="acme", namespace="tickets")
    draft, out = tmp_path / ".corpus.jsonl.1", tmp_path / "corpus.jsonl"
    draft.write_bytes(b"what was read so far")
    exported.begin(workspace, *STREAM, draft)
    assert exported.known(workspace, *STREAM) == []
    done = erasure.erase(workspace, *STREAM, made[0].pair_id)
    assert done.exports.deleted == (str(draft),)
    with pytest.raises(FileNotFoundError):
        exported.remember(workspace, *STREAM, draft, out)
    export.write_file(workspace, export.Request(*STREAM), out)
    assert exported.known(workspace, *STREAM) == [str(out)]


def test_an_erasure_in_the_midst_of_an_export_leaves_no_file_of_it(tmp_path: Path) -> None:
    """In threads, as a server's and a command's would be in processes."""
    home, out = tmp_path / "home", tmp_path / "out" / "corpus.jsonl"
    out.parent.mkdir()
    sealed_pairs(home, 6_000, 1, lambda _made: None)
    with closing(Workspace.open(load_settings({"APPRENTICE_HOME": str(home)}))) as workspace:
        pair_id = workspace.lake.scan(TENANT, "captures").collect()["pair_id"].min()
        assert isinstance(pair_id, str)
        with ThreadPoolExecutor(1) as pool:
            request = export.Request(TENANT, NAMESPACE)
            exporting = pool.submit(export.write_file, workspace, request, out)
            while not any(file.stat().st_size for file in out.parent.iterdir()):
                assert not exporting.done()
                time.sleep(0.001)
            erasure.erase(workspace, TENANT, NAMESPACE, pair_id)
            check_end(exporting)
    assert [*out.parent.iterdir()] == []


def check_end(exporting: Future[Any]) -> None:
    """Either it had ended before, or it says what to do."""
    error = exporting.exception(60)
    if error is not None:
        assert isinstance(error, StoreError)
        assert "erased while it was exported" in error.message
        assert error.remedy == "run it again"
