"""Which pairs of a stream came from imports: their ids alone, packed.

Belongs here: the ids in memory (16 bytes each) and looking some up. Does not: how an import makes
its ids (`stages.importing`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from apprentice_pipeline.store.delta import mapping_errors
from apprentice_pipeline.store.sealing import CAPTURES

if TYPE_CHECKING:
    from apprentice_pipeline.store.workspace import Workspace

_ORIGIN: Final = "import"
_BATCH: Final = 100_000


class ImportedIds:
    """The ids of one stream's imported pairs, as the lake had them, and those added since."""

    def __init__(self, ids: Iterable[bytes]) -> None:
        self._sorted = _packed(ids)

    @classmethod
    def of_stream(cls, workspace: Workspace, tenant: str, namespace: str) -> ImportedIds:
        """Reads the ids from the lake. Raises: StoreError."""
        import polars as pl

        wanted = (pl.col("namespace") == namespace) & (pl.col("origin") == _ORIGIN)
        with mapping_errors():
            found = (
                workspace.lake.scan(tenant, CAPTURES)
                .filter(wanted)
                .select(pl.col("pair_id").str.replace_all("-", "", literal=True).str.decode("hex"))
                .collect()["pair_id"]
            )
        return cls(b"".join(found.slice(at, _BATCH)) for at in range(0, len(found), _BATCH))

    def known(self, pair_ids: Collection[str]) -> set[str]:
        """Those of `pair_ids` that are there."""
        import numpy as np

        if not len(self._sorted) or not pair_ids:
            return set()
        listed = list(pair_ids)
        wanted = np.frombuffer(b"".join(UUID(one).bytes for one in listed), dtype="S16")
        places = np.searchsorted(self._sorted, wanted).clip(max=len(self._sorted) - 1)
        there = self._sorted[places] == wanted
        return {one for one, found in zip(listed, there, strict=True) if found}

    def add(self, pair_ids: Iterable[str]) -> None:
        """Adds ids that were appended just now."""
        new = [UUID(one).bytes for one in pair_ids]
        self._sorted = _packed([self._sorted.tobytes(), *new])


def _packed(ids: Iterable[bytes]) -> Any:
    import numpy as np

    return np.sort(np.frombuffer(b"".join(ids), dtype="S16"))
