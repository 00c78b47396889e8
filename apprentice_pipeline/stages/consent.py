"""What `consent: false` keeps from learning: corpora, readiness, training.

Belongs here: the refusal, and a stream's readiness without its pairs. Does not: capture and
export, which go on; a champion trained before, which stays until `rollback` or `erase`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from apprentice_pipeline.config import Config
from apprentice_pipeline.errors import ConsentWithheld

if TYPE_CHECKING:
    from apprentice_pipeline.stages.readiness import Readiness

WITHHELD = "consent is withheld: its task says consent: false, so its pairs are not learnt from"


def require_consent(config: Config, namespace: str) -> None:
    """Raises: ConsentWithheld when the namespace's task keeps its pairs from being learnt."""
    if not config.consents(namespace):
        raise refusal(namespace)


def refusal(namespace: str) -> ConsentWithheld:
    """Why nothing is learnt from this namespace, and what would change that."""
    return ConsentWithheld(
        f"{namespace}: {WITHHELD}",
        remedy=f"set consent: true under task {namespace} in apprentice.yaml, once it is given",
    )


def heeded(config: Config, stream: Readiness) -> Readiness:
    """The stream as it is, or with nothing to learn and to verify where consent is withheld."""
    if config.consents(stream.namespace):
        return stream
    return replace(
        stream,
        unverified_days=(),
        train=0,
        holdout=0,
        new_train=0,
        binding=WITHHELD,
        ready=False,
        enough=False,
        enough_once_verified=False,
        ready_once_verified=False,
        next_step="",
        eta_days=None,
        eta_low=None,
        eta_high=None,
    )
