"""The adapters an embedded server holds in memory, and the only door by which one comes in.

Belongs here: verify, unpack, load, forget. Does not: the queue, connections, generation.

Promise: an adapter is loaded only from a champion that has just verified (`champions`), onto the
base its manifest names by digest. What was unpacked lies in a private folder and is gone as
soon as it is loaded.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from apprentice_pipeline.serving.champions import Wanted, base_of, verified_champion
from apprentice_pipeline.serving.waiting import AdapterKey

UNPACKED_PREFIX = "adapter-"


class Model(Protocol):
    """A base with an adapter on it: `evaluate.student.Student`, or a test's."""

    def generate(
        self, conversations: Sequence[list[dict[str, Any]]], *, max_new_tokens: int, batch_size: int
    ) -> Sequence[Any]:
        """One generation per conversation."""
        ...


class Shelf:
    """At most `capacity` loaded adapters, the least recently used leaves first.

    `get` is called from the generating side and `load` from one loading thread.
    """

    def __init__(
        self,
        *,
        base: str,
        public_key: bytes,
        scratch: Path,
        model_dir: str = "",
        capacity: int = 4,
    ) -> None:
        self._base = base
        self._model_dir = model_dir
        self._public_key = public_key
        self._scratch = scratch
        self._lock = threading.Lock()
        self._models: OrderedDict[AdapterKey, tuple[str, Model]] = OrderedDict()
        self._capacity = capacity

    def __len__(self) -> int:
        return len(self._models)

    def get(self, key: AdapterKey) -> Model | None:
        """The model of this adapter, None when it is not loaded."""
        with self._lock:
            held = self._models.get(key)
            if held is None:
                return None
            self._models.move_to_end(key)
            return held[1]

    def holds(self, wanted: Wanted) -> bool:
        """Whether exactly this artifact is loaded."""
        with self._lock:
            held = self._models.get(wanted.key)
            return held is not None and held[0] == wanted.digest

    def load(self, wanted: Wanted) -> None:
        """Verify and load an artifact; returns at once when it is loaded already.

        Raises: ArtifactError when it does not verify; ServingError when it is another one than
        asked for, for somebody else or for another base, or does not load.
        """
        if self.holds(wanted):
            return
        model = self._load(wanted)
        with self._lock:
            self._models[wanted.key] = (wanted.digest, model)
            self._models.move_to_end(wanted.key)
            while len(self._models) > self._capacity:
                self._models.popitem(last=False)

    def _load(self, wanted: Wanted) -> Model:
        from apprentice_pipeline.artifact.kolm import unpack
        from apprentice_pipeline.evaluate.student import Student

        verified = verified_champion(wanted, self._public_key)
        base = base_of(verified.manifest, self._base, self._model_dir)
        folder = Path(tempfile.mkdtemp(prefix=UNPACKED_PREFIX, dir=self._scratch))
        try:
            unpack(verified, folder)
            return Student.load(base, folder / "adapter")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def wipe_leftovers(scratch: Path) -> None:
    """Remove what a killed server had unpacked."""
    for folder in scratch.glob(f"{UNPACKED_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)
