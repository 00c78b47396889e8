"""What a champion record says of a model, as the router needs it, and taking it into force.

Belongs here: `ServingFacts`, the JSON in `ChampionRecord.facts`, read and written by the same
code; a task's control policy; promotion of the controller when the record changes.
Does not: choosing a champion, the registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apprentice_pipeline.config import Config, Task
from apprentice_pipeline.control import phases
from apprentice_pipeline.control.eligibility import ChampionFacts
from apprentice_pipeline.control.events import Event
from apprentice_pipeline.control.risk import Certificate
from apprentice_pipeline.control.sampling import STEPS
from apprentice_pipeline.control.state import Champion, ControlState, Policy
from apprentice_pipeline.errors import ServingError
from apprentice_pipeline.store.state import ChampionRecord, State
from apprentice_pipeline.vault import Vault
from apprentice_pipeline.verify.answers import AnswerShape
from apprentice_pipeline.verify.evaluators import Embed, Evaluator, evaluator_for

ANY_SHAPE = AnswerShape(json=False, fields={}, max_chars=1_000_000)


@dataclass(frozen=True, slots=True)
class ServingFacts:
    """A champion's facts.

    `system_prompt_digests`: those seen in training (`keyed_prompt_digest`), "" for "none sent".
    `shape`: what the namespace's answers have in common. `remote_cost_usd`: the mean price of one
    remote call. `calibration_rows`: rows the certificate (or its refusal) came from.
    """

    chance: float
    certificate: Certificate | None
    system_prompt_digests: frozenset[str]
    context_tokens: int
    evaluator: str
    shape: AnswerShape = ANY_SHAPE
    features: frozenset[str] = frozenset()
    calibration_rows: int = 0
    remote_cost_usd: float | None = None

    def to_plain(self) -> dict[str, Any]:
        """As JSON values: what `ChampionRecord.facts` holds."""
        fields = {name: sorted(types) for name, types in self.shape.fields.items()}
        return {
            "chance": self.chance,
            "certificate": self.certificate.to_plain() if self.certificate else None,
            "system_prompt_digests": sorted(self.system_prompt_digests),
            "context_tokens": self.context_tokens,
            "evaluator": self.evaluator,
            "shape": {"json": self.shape.json, "fields": fields, "max_chars": self.shape.max_chars},
            "features": sorted(self.features),
            "calibration_rows": self.calibration_rows,
            "remote_cost_usd": self.remote_cost_usd,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> ServingFacts:
        """The inverse of `to_plain`; absent optional facts are defaulted.

        Raises: ServingError when a fact is missing or of the wrong kind.
        """
        try:
            certificate, shape = plain.get("certificate"), plain.get("shape")
            return cls(
                chance=float(plain["chance"]),
                certificate=Certificate.from_plain(certificate) if certificate else None,
                system_prompt_digests=frozenset(map(str, plain["system_prompt_digests"])),
                context_tokens=int(plain["context_tokens"]),
                evaluator=str(plain["evaluator"]),
                shape=_shape(shape) if shape else ANY_SHAPE,
                features=frozenset(plain.get("features") or ()),
                calibration_rows=int(plain.get("calibration_rows") or 0),
                remote_cost_usd=plain.get("remote_cost_usd"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ServingError(
                f"the champion record's facts cannot be read ({type(error).__name__})",
                remedy="promote the version again",
            ) from None

    def eligibility(self, version: int) -> ChampionFacts:
        """The part that `control.eligibility` looks at."""
        return ChampionFacts(
            version=version,
            system_prompt_digests=self.system_prompt_digests,
            context_tokens=self.context_tokens,
            features=self.features,
        )


def _shape(plain: Mapping[str, Any]) -> AnswerShape:
    fields = {name: frozenset(types) for name, types in plain["fields"].items()}
    return AnswerShape(bool(plain["json"]), fields, int(plain["max_chars"]))


def champion_evaluator(
    facts: ServingFacts, task: Task | None, namespace: str, embed: Embed | None
) -> Evaluator:
    """The evaluator this champion was measured with.

    Raises: ServingError when the configuration no longer gives that one: scores by another
    evaluator would mean nothing against the champion's chance level and certificate.
    """
    name = facts.evaluator
    if task is None:
        declared = "semantic_similarity" if name == "lexical_similarity" else name
        task = Task(name=namespace, evaluator=declared)
    evaluator = evaluator_for(task, embed=None if name == "lexical_similarity" else embed)
    if evaluator.name != name:
        raise ServingError(
            f"{namespace} was measured with {name}, the configuration now says {evaluator.name}",
            remedy="set the evaluator back, or distill again",
        )
    return evaluator


def keyed_prompt_digest(vault: Vault, tenant: str, digest: str) -> str:
    """A system prompt's digest under the tenant's key: equal prompts, equal value; "" for none."""
    return vault.fingerprint(tenant, "system-prompt", digest.encode()).hex() if digest else ""


def policy_of(config: Config, namespace: str) -> Policy:
    """The controller's settings for a namespace: the task's thresholds, else the defaults."""
    task = config.task(namespace) or Task(name=namespace)
    thresholds, sampling, serving = task.confidence_thresholds, config.sampling, config.serving
    return Policy(
        phase2_to_phase3=thresholds.phase2_to_phase3,
        coaching_trigger=thresholds.coaching_trigger,
        emergency_threshold=thresholds.emergency_threshold,
        window_size=sampling.window_size,
        decay_function=sampling.decay_function,
        step_table=tuple((step.at, step.pi) for step in sampling.step_table) or STEPS,
        min_floor=sampling.min_floor,
        trend_sensitivity=sampling.trend_sensitivity,
        max_disagreement=serving.max_disagreement,
        risk_delta=serving.risk_delta,
        arl=float(serving.arl),
    )


def control_of(text: str | None) -> ControlState:
    """The controller's state from its stored form; initial when nothing is stored."""
    return ControlState.initial() if text is None else ControlState.from_json(text)


def bring_into_force(
    state: State, tenant: str, namespace: str, policy: Policy, at_us: int
) -> tuple[ControlState, tuple[Event, ...]]:
    """Make the controller follow the champion record: promote, withdraw, or leave it be.

    Whoever moves the champion calls this afterwards; routers do it too when they notice, and
    once done it does nothing. Raises: StoreError; ServingError for unreadable facts.
    """
    record = state.champion(tenant, namespace)
    happened: tuple[Event, ...] = ()

    def change(text: str | None) -> str:
        nonlocal happened
        control, happened = _follow(control_of(text), record, policy, at_us)
        return control.to_json()

    return control_of(state.update_control(tenant, namespace, change)), happened


def in_force(control: ControlState, record: ChampionRecord | None) -> bool:
    """Whether the controller speaks of this very artifact (or both of none).

    A registry that was made anew counts its versions from 1 again: the digest tells them apart.
    """
    champion = control.champion
    if record is None or champion is None:
        return record is None and champion is None
    return champion.version == record.version and champion.digest in ("", record.digest)


def _follow(
    control: ControlState, record: ChampionRecord | None, policy: Policy, at_us: int
) -> tuple[ControlState, tuple[Event, ...]]:
    if in_force(control, record):
        return control, ()
    if record is None:
        return phases.withdraw(control, at_us)
    facts = ServingFacts.from_plain(record.facts)
    champion = Champion(
        version=record.version,
        chance=facts.chance,
        certificate=facts.certificate,
        calibration_rows=facts.calibration_rows,
        digest=record.digest,
    )
    return phases.promote(control, champion, policy, at_us)
