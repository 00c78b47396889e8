"""What the demo ends with: the measured table, the paths of everything made, how to look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from apprentice_pipeline.artifact.signing import PUBLIC_NAME
from apprentice_pipeline.demo.setting import Setting
from apprentice_pipeline.demo.wave import Reply
from apprentice_pipeline.registry.connection import without_credentials
from apprentice_pipeline.settings import Settings
from apprentice_pipeline.stages.report import Status
from apprentice_pipeline.stages.results import RegisteredModel, ScoredAdapter


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The demo's figures. Shares in [0, 1]; money in US dollars, `own_usd` the part
    that verification and sampling took; `local_agreement` is the share
    of locally served answers that equal the known ones, None when none was served. `paths` are
    those of what was made besides the artifact and the home: addresses where they are elsewhere."""

    namespace: str
    phase: str
    version: int
    k_score: float
    k_low: float
    k_high: float
    fidelity: float
    fidelity_low: float
    fidelity_high: float
    holdout: int
    statement: str
    artifact: str
    digest: str
    correlation: float | None
    correlation_low: float | None
    correlation_high: float | None
    comparisons: int
    second_wave: int
    local_requests: int
    local_share: float
    local_agreement: float | None
    agreement: float
    spend_usd: float
    own_usd: float
    frontier_only_usd: float | None
    stand_in: bool
    home: str
    paths: Mapping[str, str]
    seconds: Mapping[str, float]

    @classmethod
    def of(
        cls,
        found: Status,
        scored: ScoredAdapter,
        registered: RegisteredModel,
        replies: Sequence[Reply],
        seconds: Mapping[str, float],
        setting: Setting,
        settings: Settings,
    ) -> DemoReport:
        """From what was measured on the way."""
        stream, score = found.streams[0], scored.score
        local = [reply for reply in replies if reply.served_by == "local"]
        return cls(
            namespace=stream.namespace,
            phase=stream.phase,
            version=registered.version,
            k_score=score["k"],
            k_low=score["low"],
            k_high=score["high"],
            fidelity=score["fidelity"],
            fidelity_low=score["fidelity_low"],
            fidelity_high=score["fidelity_high"],
            holdout=score["n"],
            statement=score["statement"],
            artifact=registered.path,
            digest=registered.digest,
            correlation=stream.kappa,
            correlation_low=stream.kappa_low,
            correlation_high=stream.kappa_high,
            comparisons=stream.comparisons,
            second_wave=len(replies),
            local_requests=len(local),
            local_share=len(local) / len(replies),
            local_agreement=sum(r.agrees for r in local) / len(local) if local else None,
            agreement=sum(r.agrees for r in replies) / len(replies),
            spend_usd=stream.spend_usd,
            own_usd=stream.own_usd,
            frontier_only_usd=stream.frontier_only_usd,
            stand_in=setting.stand_in,
            home=str(setting.home),
            paths=paths_of(settings),
            seconds=dict(seconds),
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def text(self) -> str:
        """The closing table."""
        rows = [
            ("K-score", f"{self.k_score:.3f}  (95 % CI {self.k_low:.3f}–{self.k_high:.3f})"),
            ("fidelity", self.statement),
            ("phase", f"{self.phase}, version {self.version}"),
            ("correlation", self._correlation()),
            ("second wave", f"{self.second_wave} requests"),
            ("local share", f"{self.local_share:.0%}  ({self.local_requests} requests)"),
            ("agreement", self._agreement()),
            ("spend", self._spend()),
            ("seconds", "  ".join(f"{name} {s:.0f}" for name, s in self.seconds.items())),
            ("artifact", self.artifact),
            ("home", self.home),
            *((name.replace("_", " "), path) for name, path in self.paths.items()),
        ]
        width = max(len(name) for name, _ in rows)
        table = "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
        return f"\n{self.namespace}\n{table}\n\n{self._how_to_look()}"

    def _correlation(self) -> str:
        if self.correlation is None:
            return "none yet"
        return (
            f"{self.correlation:.3f}  (anytime-valid bounds {self.correlation_low:.3f}–"
            f"{self.correlation_high:.3f}, {self.comparisons} comparisons)"
        )

    def _agreement(self) -> str:
        if self.local_agreement is None:
            return "nothing was served locally"
        return f"{self.local_agreement:.1%} of local answers equal the known ones"

    def _spend(self) -> str:
        kind = " at list prices; the stand-in charged nothing" if self.stand_in else ""
        if self.frontier_only_usd is None:
            return f"${self.spend_usd:.4f}{kind}"
        return (
            f"${self.spend_usd:.4f}, of it ${self.own_usd:.4f} for resampling, against "
            f"${self.frontier_only_usd:.4f} all-frontier{kind}"
        )

    def _how_to_look(self) -> str:
        return (
            "look at it\n"
            "  make dev                                   # Dagster, MLflow and the gateway\n"
            f"  apprentice verify {self.artifact}\n"
            f"  apprentice status --task {self.namespace}"
        )


def paths_of(settings: Settings) -> dict[str, str]:
    """Where the settings put the lake, MLflow's and Dagster's storage, and the public key."""
    home, config = settings.home, settings.config
    return {
        "lake": config.store.lake_uri or str(home.lake),
        "mlflow": without_credentials(config.registry.tracking_uri) or str(home.mlflow),
        "dagster": str(home.dagster),
        "public_key": config.signing.public_key or str(home.keys / PUBLIC_NAME),
    }
