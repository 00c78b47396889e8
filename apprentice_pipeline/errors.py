"""Every error this product raises on purpose, in one tree.

    ApprenticeError
    ├── ConfigError            apprentice.yaml or the environment is wrong (all faults at once)
    ├── UsageError             the caller asked for something that cannot be asked (exit 2)
    ├── VaultError             sealing, opening, master and data keys
    │   ├── KeyMissing         a key that must exist does not
    │   │   └── KeyErased      it was deleted on purpose: what it sealed is erased
    │   ├── MasterKeyChanged   the master key at hand wraps the data keys no more (or never did)
    │   └── CannotOpen         a sealed value does not open: wrong key, moved, or changed
    ├── StoreError             spool, lake, state
    │   ├── StorageFull        the disk has no room
    │   ├── UnknownStream      no task, namespace or tenant of that name holds anything
    │   └── Unstorable         content that is no JSON, or nests too deeply to be written again
    ├── WireError              bytes that are not the provider's format
    ├── TrafficError           a line of imported or demo traffic is malformed
    ├── CorpusError            selection, split, manifest
    │   ├── TooFewPairs        below a threshold, with the counts
    │   │   └── ConsentWithheld  the task's pairs may not be learnt from at all
    │   ├── Incoherent         the answers contradict each other too often
    │   └── Leakage            train and holdout share an input
    ├── DistillError           training
    │   └── BaseModelMissing   the base is not there or not loadable
    ├── GateRefused            the K-score gate says no, with the failing conditions
    ├── ArtifactError          a `.kolm` that is malformed, changed, unsigned or not trusted
    ├── RegistryError          MLflow
    ├── ServingError           a local backend
    │   ├── Overloaded         its queue is full
    │   └── DeadlineMissed     it did not answer in time
    ├── RemoteError            a provider call of ours failed
    ├── BudgetExhausted        a limit binds
    └── PriceUnknown           a call we would start has no known price

A message says what happened, to what; `remedy` says what to do next. Neither ever
carries customer text, keys or credentials.
"""

from __future__ import annotations


class ApprenticeError(Exception):
    """Base of the tree. `str(error)` is the cause, `error.remedy` the next step (may be empty)."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy

    @property
    def message(self) -> str:
        """The cause alone, without the remedy."""
        return str(self.args[0])


class ConfigError(ApprenticeError):
    """`apprentice.yaml` or the environment is wrong; `faults` lists every fault found, `source`
    says in what."""

    def __init__(self, faults: list[str], *, source: str, remedy: str = "") -> None:
        self.faults = tuple(faults)
        self.source = source
        listing = "\n".join(f"  {fault}" for fault in faults)
        plural = "fault" if len(faults) == 1 else "faults"
        super().__init__(
            f"{source}: {len(faults)} {plural}\n{listing}",
            remedy=remedy or "correct the lines named above; `apprentice init` writes a valid file",
        )


class UsageError(ApprenticeError):
    """The request itself makes no sense; the command line exits 2."""


class VaultError(ApprenticeError):
    """Sealing or opening failed."""


class KeyMissing(VaultError):
    """A master or data key that must exist does not."""


class KeyErased(KeyMissing):
    """A data key was deleted by an erasure: what it sealed opens no more, as it should."""


class MasterKeyChanged(VaultError):
    """The data keys are wrapped by another master key than the one at hand."""


class CannotOpen(VaultError):
    """A sealed value does not open: another key, another row, or changed bytes."""


class StoreError(ApprenticeError):
    """Spool, lake or state failed."""


class StorageFull(StoreError):
    """The disk (or quota) has no room left."""


class UnknownStream(StoreError):
    """No stream of that name exists; the message names those that do."""


class Unstorable(StoreError):
    """A record's content is no JSON, or nests too deeply to be written again."""


class WireError(ApprenticeError):
    """Bytes that are not the provider's format."""


class TrafficError(ApprenticeError):
    """A line of imported or demo traffic is malformed; the message names the line number."""


class CorpusError(ApprenticeError):
    """Selection, deduplication, split or manifest failed."""


class TooFewPairs(CorpusError):
    """A threshold is not reached; the message carries the counts."""


class ConsentWithheld(TooFewPairs):
    """The task withholds consent: none of its pairs may be learnt from."""


class Incoherent(CorpusError):
    """The same input has too many different answers to be learnt."""


class Leakage(CorpusError):
    """Train and holdout share an input."""


class DistillError(ApprenticeError):
    """Training could not start or did not finish."""


class BaseModelMissing(DistillError):
    """The base model is not there, or is not one that can be loaded."""


class GateRefused(ApprenticeError):
    """The K-score gate refused; `failures` are the failing conditions in words."""

    def __init__(self, failures: list[str], *, remedy: str) -> None:
        self.failures = tuple(failures)
        super().__init__("K-score gate refused: " + "; ".join(failures), remedy=remedy)


class ArtifactError(ApprenticeError):
    """A `.kolm` is malformed, changed, unsigned or not trusted."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(
            message,
            remedy=remedy or "nothing of it was loaded: get the file again, or distill anew",
        )


class RegistryError(ApprenticeError):
    """The model registry refused or is out of reach."""


class ServingError(ApprenticeError):
    """A local backend failed."""


class Overloaded(ServingError):
    """The local backend's queue is full."""


class DeadlineMissed(ServingError):
    """The local backend did not answer in time."""


class RemoteError(ApprenticeError):
    """A provider call of ours failed; `status` is the HTTP status, 0 when none came."""

    def __init__(self, message: str, *, status: int = 0, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.status = status


class BudgetExhausted(ApprenticeError):
    """A spending limit binds what we would start."""


class PriceUnknown(ApprenticeError):
    """A call we would start has no known price, so its cost cannot be bounded."""
