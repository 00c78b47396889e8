"""Versions and the champion: who serves, what a person moved, and what is never taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.control.events import Phase
from apprentice_pipeline.errors import ArtifactError, RegistryError
from apprentice_pipeline.registry import Registry
from apprentice_pipeline.routing import following
from apprentice_pipeline.routing.champion import control_of
from apprentice_pipeline.stages import artifact, promotion, report

pytestmark = pytest.mark.timeout(1_200)
STREAM = ("default", "tickets")


@pytest.fixture
def two(distilled: Any, fork: Callable[..., Any]) -> Iterator[Any]:
    """A fork with a second version of the same adapter, packed anew; version 2 is champion."""
    with fork(distilled).pipeline() as pipeline:
        artifact.pack_and_sign(pipeline.workspace, *STREAM)
        registered = promotion.register(pipeline.workspace, pipeline.registry, *STREAM)
        assert (registered.version, registered.alias) == (2, "champion")
        yield pipeline


def in_service(pipeline: Any) -> tuple[int, str]:
    """The version that serving follows, and the controller's phase."""
    champion = pipeline.workspace.state.champion(*STREAM)
    return champion.version, str(control_of(pipeline.workspace.state.control(*STREAM)).phase)


def tamper(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def test_a_new_version_takes_over_and_starts_in_shadow(two: Any) -> None:
    assert in_service(two) == (2, "shadow")
    champion = two.workspace.state.champion(*STREAM)
    assert artifact.champion_artifact(two.workspace, *STREAM).digest == champion.digest


def test_rollback_and_promotion_move_what_serves(two: Any) -> None:
    assert promotion.rollback(two.workspace, *STREAM, None).version == 1
    assert in_service(two) == (1, "shadow")
    with pytest.raises(RegistryError, match="no earlier champion"):
        promotion.rollback(two.workspace, *STREAM, None)
    assert promotion.promote(two.workspace, *STREAM, 2).version == 2
    assert in_service(two) == (2, "shadow")


def test_what_a_person_moves_in_mlflow_is_followed(two: Any) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(two.registry.tracking_uri, two.registry.tracking_uri)
    client.set_registered_model_alias("default.tickets", "champion", "1")
    following.follow_registry(two.workspace)
    assert in_service(two)[0] == 1
    client.delete_registered_model_alias("default.tickets", "champion")
    following.follow_registry(two.workspace)
    assert two.workspace.state.champion(*STREAM) is None
    assert control_of(two.workspace.state.control(*STREAM)).phase == "collect"


def test_version_1_of_a_registry_made_anew_begins_in_shadow_like_any_other(
    distilled: Any, fork: Callable[..., Any], tmp_path: Path
) -> None:
    """The number is the same, the artifact is not: nothing proven of the old one carries over."""
    home = fork(distilled)
    with home.pipeline() as pipeline:
        state = pipeline.workspace.state

        def serving(text: str | None) -> str:
            return replace(control_of(text), phase=Phase.SERVE, n=500).to_json()

        state.update_control(*STREAM, serving)
        following.follow_registry(pipeline.workspace)
        assert in_service(pipeline) == (1, "serve")
        signed = artifact.pack_and_sign(pipeline.workspace, *STREAM)
        anew = Registry.at(tmp_path / "mlflow")
        assert promotion.register(pipeline.workspace, anew, *STREAM).version == 1
        assert in_service(pipeline) == (1, "shadow")
        control = control_of(state.control(*STREAM))
    assert control.champion is not None
    assert (control.champion.digest, control.n) == (signed.digest, 0)


def test_a_revoked_champion_serves_no_longer(two: Any) -> None:
    two.registry.revoke(*STREAM, 2, reason="found wanting")
    following.follow_registry(two.workspace)
    assert two.workspace.state.champion(*STREAM) is None


def test_an_artifact_changed_on_disk_is_refused_with_an_alert_and_the_old_one_stays(
    two: Any,
) -> None:
    older = next(v for v in two.registry.versions(*STREAM) if v.version == 1)
    tamper(older.path)
    with pytest.raises(ArtifactError):
        promotion.rollback(two.workspace, *STREAM, None)
    assert in_service(two)[0] == 2
    (alert,) = two.workspace.state.alerts("default")
    assert (alert.kind, alert.namespace) == ("champion refused", "tickets")
    assert alert.message.startswith("version 1: ")
    assert "alert champion refused: version 1" in report.status(two.workspace, "default").text()


def test_an_artifact_swapped_for_another_good_one_is_refused(two: Any) -> None:
    """It verifies, it is this stream's, and still it is not the one that was registered."""
    newer, older = two.registry.versions(*STREAM)
    older.path.write_bytes(newer.path.read_bytes())
    with pytest.raises(ArtifactError, match="not the one that was registered"):
        promotion.rollback(two.workspace, *STREAM, None)
    assert in_service(two)[0] == 2


def test_an_artifact_signed_by_someone_else_is_refused(two: Any, tmp_path: Path) -> None:
    """Trust is the pinned key, not the key in the file."""
    for name in ("signing.key", "signing.pub"):
        (two.workspace.home.keys / name).rename(tmp_path / name)
    forged = artifact.pack_and_sign(two.workspace, *STREAM)
    for name in ("signing.key", "signing.pub"):
        (tmp_path / name).replace(two.workspace.home.keys / name)
    with pytest.raises(ArtifactError):
        artifact.verify_file(two.workspace, forged.path)
    with pytest.raises(ArtifactError):
        promotion.register(two.workspace, two.registry, *STREAM)
    assert in_service(two)[0] == 2


def test_one_refused_stream_keeps_no_other_from_following(two: Any) -> None:
    good = next(v for v in two.registry.versions(*STREAM) if v.version == 2)
    two.registry.register(
        tenant="default",
        namespace="another",
        kolm=good.path,
        digest=good.digest,
        k=good.k,
        receipt_head=good.receipt_head,
        metrics={},
        params={},
        created_at_us=1,
    )
    two.registry.promote("default", "another")
    two.registry.rollback(*STREAM)
    with pytest.raises(ArtifactError, match=r"not default\.another"):
        following.follow_registry(two.workspace)
    assert in_service(two)[0] == 1
    assert two.workspace.state.champion("default", "another") is None


def test_under_review_a_new_version_waits_for_a_person(
    distilled: Any, fork: Callable[..., Any]
) -> None:
    home = fork(distilled)
    home.configure(home.file.read_text() + "serving: {promotion: review}\n")
    with home.pipeline() as pipeline:
        artifact.pack_and_sign(pipeline.workspace, *STREAM)
        registered = promotion.register(pipeline.workspace, pipeline.registry, *STREAM)
        assert (registered.version, registered.alias) == (2, "challenger")
        assert in_service(pipeline)[0] == 1
        following.follow_registry(pipeline.workspace)
        assert in_service(pipeline)[0] == 1
        assert promotion.promote(pipeline.workspace, *STREAM, None).version == 2
        assert in_service(pipeline)[0] == 2


def test_a_fresh_home_has_nothing_to_promote(workspace: Any) -> None:
    for move in (promotion.promote, promotion.rollback):
        with pytest.raises(RegistryError) as refusal:
            move(workspace, *STREAM, None)
        assert refusal.value.remedy
    following.follow_registry(workspace)
    assert artifact.champion_artifact(workspace, *STREAM) is None
