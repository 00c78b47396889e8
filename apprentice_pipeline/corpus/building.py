"""Building a corpus from pairs, and building the same one again from its manifest.

Belongs here: the recipe (select → split → slice → freeze) and its checks.
Does not: each step's own rules, storage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from apprentice_pipeline.corpus.manifest import Manifest, freeze
from apprentice_pipeline.corpus.rows import Corpus, CorpusReport, CorpusRow
from apprentice_pipeline.corpus.selection import Selection, select, to_row
from apprentice_pipeline.corpus.slices import assign_slices
from apprentice_pipeline.corpus.split import side_of, split_input
from apprentice_pipeline.errors import Leakage, TooFewPairs
from apprentice_pipeline.records import Pair
from apprentice_pipeline.verify.evaluators import Evaluator, evaluator_for


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A corpus built again: `erased` rows are gone, `changed` ones no longer have their hash."""

    corpus: Corpus
    erased: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Divided:
    """What was selected, on its two sides; the holdout also keeps what is not verified."""

    selection: Selection
    train: tuple[CorpusRow, ...]
    holdout: tuple[CorpusRow, ...]

    @property
    def counts(self) -> tuple[int, int]:
        """Train rows and verified holdout rows: what a training needs enough of."""
        return len(self.train), sum(row.verified for row in self.holdout)


def divide(
    pairs: Iterable[Pair],
    *,
    evaluator: Evaluator,
    holdout_fraction: float,
    split_key: bytes,
    row_key: bytes,
    max_disagreeing_inputs: float,
) -> Divided:
    """Selects rows and puts each on its side, as `build_corpus` does. Raises: Incoherent."""
    selection = select(
        pairs,
        evaluator=evaluator,
        row_key=row_key,
        max_disagreeing_inputs=max_disagreeing_inputs,
    )
    train: list[CorpusRow] = []
    holdout: list[CorpusRow] = []
    for row in selection.rows:
        if side_of(row.messages, split_key, holdout_fraction) == "holdout":
            holdout.append(row)
        elif row.verified:
            train.append(row)
    return Divided(selection, tuple(train), tuple(holdout))


def build_corpus(
    pairs: Sequence[Pair],
    *,
    tenant: str,
    namespace: str,
    holdout_fraction: float,
    split_key: bytes,
    row_key: bytes,
    created_us: int,
    evaluator: Evaluator | None = None,
    max_disagreeing_inputs: float = 0.05,
    min_train: int = 1,
    min_holdout: int = 1,
    seed: int = 17,
) -> Corpus:
    """The corpus of these pairs, frozen.

    Train rows are verified or approved. The holdout also keeps the others (quarantined, not yet
    verified), marked as such by their verdict, so that fidelity can be told on verified pairs
    and on all. `evaluator` judges coherence (default: by the answers). Keys are secret bytes:
    `split_key` decides sides, `row_key` hashes rows.

    Raises: Incoherent; TooFewPairs below `min_train` train or `min_holdout` verified holdout
    rows, with the counts; Leakage never, unless an invariant of the split is broken.
    """
    judge = evaluator or evaluator_for(None, [pair.output for pair in pairs])
    divided = divide(
        pairs,
        evaluator=judge,
        holdout_fraction=holdout_fraction,
        split_key=split_key,
        row_key=row_key,
        max_disagreeing_inputs=max_disagreeing_inputs,
    )
    train, holdout = divided.train, divided.holdout
    _require_enough(divided, min_train, min_holdout)
    sliced = assign_slices(train, holdout, row_key=row_key, seed=seed)
    config = {
        "holdout_fraction": holdout_fraction,
        "max_disagreeing_inputs": max_disagreeing_inputs,
        "evaluator": judge.name,
        "seed": seed,
    }
    manifest = freeze(
        *sliced, tenant=tenant, namespace=namespace, created_us=created_us, config=config
    )
    corpus = Corpus(*sliced, manifest, _report(len(pairs), divided.selection, *sliced))
    check_leakage(corpus)
    return corpus


def rebuild_corpus(manifest: Manifest, pairs: Iterable[Pair], *, row_key: bytes) -> Rebuilt:
    """The manifest's corpus from the pairs that still exist, sides, verdicts and slices as frozen.

    Rows whose pair is gone are named in `erased`, rows whose content no longer has its hash (an
    edited label, another key) in `changed`; both are left out, and the manifest still proves
    the rest.
    """
    frozen = {row.pair_id: row for row in manifest.rows}
    sides: dict[str, list[CorpusRow]] = {"train": [], "holdout": []}
    seen: set[str] = set()
    changed: list[str] = []
    for pair in pairs:
        entry = frozen.get(pair.pair_id)
        if entry is None or pair.pair_id in seen:
            continue
        seen.add(pair.pair_id)
        row = to_row(pair, row_key)
        if row is None or row.row_hash != entry.row_hash:
            changed.append(pair.pair_id)
            continue
        sides[entry.side].append(replace(row, verdict=entry.verdict, slice=entry.slice))
    train, holdout = (
        tuple(sorted(rows, key=lambda row: (row.created_at_us, row.pair_id)))
        for rows in (sides["train"], sides["holdout"])
    )
    kept = len(train) + len(holdout)
    selection = Selection((*train, *holdout), kept, 0, 0, 0, 0, 0)
    corpus = Corpus(train, holdout, manifest, _report(kept, selection, train, holdout))
    erased = tuple(pair_id for pair_id in frozen if pair_id not in seen)
    return Rebuilt(corpus, erased, tuple(changed))


def check_leakage(corpus: Corpus) -> None:
    """That train and holdout share no input (folded: case, spacing, punctuation), no row, no pair.

    Raises: Leakage with the counts.
    """
    inputs = _shared(corpus, lambda row: split_input(row.messages))
    hashes = _shared(corpus, lambda row: row.row_hash.encode())
    ids = _shared(corpus, lambda row: row.pair_id.encode())
    if inputs or hashes or ids:
        raise Leakage(
            f"train and holdout share {inputs} inputs, {hashes} rows and {ids} pairs",
            remedy="build the corpus again with one split key; never move rows between sides",
        )


def shared_inputs(manifest: Manifest, dedup_keys: Mapping[str, bytes]) -> int:
    """How many inputs a frozen manifest has on both sides, told by the pairs' dedup keys.

    Counted from what was frozen, not from how it was built; a pair without a key counts as an
    input of its own.
    """
    train, holdout = (
        {dedup_keys.get(row.pair_id, row.pair_id.encode()) for row in side}
        for side in (manifest.train, manifest.holdout)
    )
    return len(train & holdout)


def _shared(corpus: Corpus, key: Callable[[CorpusRow], bytes]) -> int:
    return len({key(row) for row in corpus.train} & {key(row) for row in corpus.holdout})


def _require_enough(divided: Divided, min_train: int, min_holdout: int) -> None:
    train, verified = divided.counts
    if train >= min_train and verified >= min_holdout:
        return
    raise TooFewPairs(
        f"{train} of {min_train} train pairs and {verified} of {min_holdout} verified "
        "holdout pairs",
        remedy="capture and verify more traffic, or lower distill.threshold (or the task's "
        "phase1_to_phase2) and kscore.min_holdout",
    )


def _report(
    given: int,
    selection: Selection,
    train: Sequence[CorpusRow],
    holdout: Sequence[CorpusRow],
) -> CorpusReport:
    return CorpusReport(
        given=given,
        inputs=selection.inputs,
        duplicates=selection.duplicates,
        disagreeing_inputs=selection.disagreeing_inputs,
        disagreeing=selection.disagreeing,
        unsupported=selection.unsupported,
        rejected=selection.rejected,
        untrusted=len(selection.rows) - len(train) - len(holdout),
        train=len(train),
        holdout=len(holdout),
        holdout_verified=sum(row.verified for row in holdout),
        slices=len({row.slice for row in holdout if row.slice}),
    )
