"""The registry against real MLflow over SQLite: versions, aliases, the way back, concurrency."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from apprentice_pipeline.errors import RegistryError
from apprentice_pipeline.registry import Registry

pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:mlflow\..*")
AT_US = 1_700_000_000_000_000
_numbers = count(1)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """One registry for the file: making MLflow's schema takes seconds."""
    return Registry.at(tmp_path_factory.mktemp("home") / "mlflow")


@pytest.fixture
def namespace() -> str:
    return f"ns-{next(_numbers)}"


def add(registry: Registry, namespace: str, folder: Path, mark: int = 0, **changes: object) -> int:
    """Registers a file that stands for an artifact; `mark` makes its digest."""
    kolm = folder / f"{namespace}-{mark}.kolm"
    kolm.write_bytes(b"PK artifact %d" % mark)
    facts: dict[str, object] = {
        "tenant": "acme",
        "namespace": namespace,
        "kolm": kolm,
        "digest": f"{mark:064x}",
        "k": 0.9,
        "receipt_head": "ab" * 32,
        "metrics": {"fidelity": 0.93},
        "params": {"rank": "32"},
        "loss_curve": [(1, 2.5), (2, 1.5), (3, 0.5)],
        "created_at_us": AT_US,
    }
    return registry.register(**{**facts, **changes})  # type: ignore[arg-type]


def test_a_registered_version_is_the_challenger_with_its_facts(
    registry: Registry, namespace: str, tmp_path: Path
) -> None:
    assert add(registry, namespace, tmp_path, mark=7) == 1
    (version,) = registry.versions("acme", namespace)
    assert version.aliases == ("challenger",)
    assert (version.digest, version.k, version.receipt_head) == (f"{7:064x}", 0.9, "ab" * 32)
    assert version.created_at_us == AT_US
    assert not version.erased
    assert not version.revoked
    assert ("acme", namespace) in registry.names()
    assert registry.fetch(version).read_bytes() == b"PK artifact 7"
    assert registry.champion("acme", namespace) is None


def test_the_run_holds_parameters_metrics_the_curve_and_the_artifact_and_nothing_else(
    registry: Registry, namespace: str, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    add(registry, namespace, tmp_path)
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    version = client.get_model_version(f"acme.{namespace}", "1")
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"rank": "32"}
    assert run.data.metrics == {"k_score": 0.9, "fidelity": 0.93, "loss": 0.5}
    curve = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [(1, 2.5), (2, 1.5), (3, 0.5)]
    listing = [item.path for item in client.list_artifacts(run.info.run_id, "model")]
    assert listing == [f"model/{namespace}-0.kolm"]
    assert "mlflow.user" not in run.data.tags
    assert "mlflow.source.git.commit" not in run.data.tags


def test_a_digest_is_registered_once(registry: Registry, namespace: str, tmp_path: Path) -> None:
    assert add(registry, namespace, tmp_path, mark=1) == 1
    assert add(registry, namespace, tmp_path, mark=2) == 2
    assert add(registry, namespace, tmp_path, mark=1) == 1
    assert add(registry, namespace, tmp_path, mark=2) == 2
    assert [v.aliases for v in registry.versions("acme", namespace)] == [("challenger",), ()]


def test_registering_again_after_a_crash_before_the_alias_sets_it(
    registry: Registry, namespace: str, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    add(registry, namespace, tmp_path)
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    client.delete_registered_model_alias(f"acme.{namespace}", "challenger")
    assert add(registry, namespace, tmp_path) == 1
    assert registry.versions("acme", namespace)[0].aliases == ("challenger",)


def test_promotion_moves_the_challenger_to_champion(
    registry: Registry, namespace: str, tmp_path: Path
) -> None:
    add(registry, namespace, tmp_path)
    promoted = registry.promote("acme", namespace)
    assert promoted.aliases == ("champion",)
    assert registry.champion("acme", namespace) == promoted
    assert registry.promote("acme", namespace, version=1) == promoted


def test_an_older_version_returns_by_rollback_only(
    registry: Registry, namespace: str, tmp_path: Path
) -> None:
    for mark in (1, 2, 3):
        add(registry, namespace, tmp_path, mark=mark)
        registry.promote("acme", namespace)
    with pytest.raises(RegistryError, match="older than its champion") as refusal:
        registry.promote("acme", namespace, version=1)
    assert "rollback" in refusal.value.remedy
    assert registry.rollback("acme", namespace).version == 2
    assert registry.rollback("acme", namespace).version == 1
    with pytest.raises(RegistryError, match="no earlier champion"):
        registry.rollback("acme", namespace)
    assert registry.promote("acme", namespace, version=3).version == 3
    assert registry.rollback("acme", namespace, version=2).version == 2


def test_a_version_that_was_rolled_back_does_not_become_challenger_by_itself(
    registry: Registry, namespace: str, tmp_path: Path
) -> None:
    for mark in (1, 2):
        add(registry, namespace, tmp_path, mark=mark)
        registry.promote("acme", namespace)
    registry.rollback("acme", namespace)
    assert add(registry, namespace, tmp_path, mark=2) == 2
    with pytest.raises(RegistryError, match="no challenger"):
        registry.promote("acme", namespace)


def test_rolling_back_to_a_version_that_is_not_earlier_is_refused(
    registry: Registry, namespace: str, tmp_path: Path
) -> None:
    with pytest.raises(RegistryError, match="no champion"):
        registry.rollback("acme", namespace)
    for mark in (1, 2):
        add(registry, namespace, tmp_path, mark=mark)
    registry.promote("acme", namespace, version=1)
    with pytest.raises(RegistryError, match="no earlier one"):
        registry.rollback("acme", namespace, version=2)
    with pytest.raises(RegistryError, match="no version 9"):
        registry.rollback("acme", namespace, version=9)
    with pytest.raises(RegistryError, match="no version 9"):
        registry.promote("acme", namespace, version=9)


def test_an_alias_moved_by_a_person_in_mlflow_is_followed_and_can_be_rolled_back(
    registry: Registry, namespace: str, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    for mark in (1, 2):
        add(registry, namespace, tmp_path, mark=mark)
    registry.promote("acme", namespace, version=1)
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    client.set_registered_model_alias(f"acme.{namespace}", "champion", "2")
    champion = registry.champion("acme", namespace)
    assert champion is not None
    assert champion.version == 2
    assert registry.rollback("acme", namespace).version == 1


def test_a_revoked_version_is_no_champion_and_cannot_become_one(
    registry: Registry, namespace: str, tmp_path: Path
) -> None:
    add(registry, namespace, tmp_path)
    registry.promote("acme", namespace)
    registry.revoke("acme", namespace, 1, reason="leaked key")
    assert registry.champion("acme", namespace) is None
    assert registry.versions("acme", namespace)[0].revoked
    with pytest.raises(RegistryError, match="revoked"):
        registry.promote("acme", namespace, version=1)


def test_a_version_trained_on_erased_pairs_is_marked_and_not_promoted(
    registry: Registry, namespace: str, tmp_path: Path
) -> None:
    add(registry, namespace, tmp_path)
    registry.mark_erased("acme", namespace, 1, pairs=2)
    assert registry.versions("acme", namespace)[0].erased
    with pytest.raises(RegistryError, match="erased pairs"):
        registry.promote("acme", namespace)
    with pytest.raises(RegistryError, match="no version 5"):
        registry.mark_erased("acme", namespace, 5, pairs=1)


def test_polling_asks_mlflow_only_after_the_file_has_changed(
    registry: Registry, namespace: str, tmp_path: Path
) -> None:
    add(registry, namespace, tmp_path, mark=1)
    registry.promote("acme", namespace)
    database = Path(registry.tracking_uri.removeprefix("sqlite:///"))
    settled = time.time() - 60
    os.utime(database, (settled, settled))
    first = registry.champion("acme", namespace)
    started = time.perf_counter()
    for _ in range(100):
        assert registry.champion("acme", namespace) is first
    assert time.perf_counter() - started < 0.5
    add(registry, namespace, tmp_path, mark=2)
    registry.promote("acme", namespace)
    after = registry.champion("acme", namespace)
    assert after is not None
    assert after.version == 2


def test_names_that_could_reach_another_model_are_refused(
    registry: Registry, tmp_path: Path
) -> None:
    for tenant, name in (("acme", "a.b"), ("acme", "x' or name='y"), ("", "x"), ("acme", "")):
        with pytest.raises(RegistryError, match="a name that none can have"):
            registry.versions(tenant, name)
    with pytest.raises(RegistryError, match="64 hexadecimal"):
        add(registry, "fine", tmp_path, digest="x")
    with pytest.raises(RegistryError, match="no artifact at"):
        add(registry, "fine", tmp_path, kolm=tmp_path / "absent.kolm")


def test_an_empty_home_answers_without_mlflow_and_without_a_file(tmp_path: Path) -> None:
    registry = Registry.at(tmp_path / "mlflow")
    assert registry.champion("acme", "tickets") is None
    assert registry.versions("acme", "tickets") == []
    assert registry.names() == []
    assert not (tmp_path / "mlflow").exists()


def test_a_file_that_is_no_database_is_named_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "mlflow"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(b"not a database, though long enough to be one " * 100)
    with pytest.raises(RegistryError, match="not a usable SQLite database") as refusal:
        Registry.at(folder).versions("acme", "tickets")
    assert "move it away" in refusal.value.remedy


def test_a_server_out_of_reach_is_an_error_with_a_remedy_and_without_its_password(
    tmp_path: Path,
) -> None:
    registry = Registry("http://someone:sesame@127.0.0.1:9", tmp_path)
    with pytest.raises(RegistryError) as refusal:
        registry.champion("acme", "tickets")
    assert "sesame" not in str(refusal.value)
    assert "tracking_uri" in refusal.value.remedy


_PROCESS = """
import json, sys
from pathlib import Path
from apprentice_pipeline.registry import Registry
folder, mark = Path(sys.argv[1]), int(sys.argv[2])
kolm = folder / f"{mark}.kolm"
kolm.write_bytes(b"PK")
registry = Registry.at(folder / "mlflow")
version = registry.register(tenant="acme", namespace="tickets", kolm=kolm, digest=f"{mark:064x}",
    k=0.9, receipt_head="", metrics={}, params={}, loss_curve=[], created_at_us=1)
print(json.dumps(version))
"""


def test_two_processes_may_meet_an_empty_home_at_once(tmp_path: Path) -> None:
    """Both make the schema and register; nothing but the answer reaches stdout, stderr is calm."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(tmp_path), str(mark)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for mark in (1, 2)
    ]
    answers = [process.communicate(timeout=240) for process in running]
    assert sorted(json.loads(stdout) for stdout, _ in answers) == [1, 2]
    assert [stderr for _, stderr in answers] == ["", ""]
