"""The adapters an embedded server holds in memory, and the only door by which one comes in.

Belongs here: verify, unpack, load, forget. Does not: the queue, connections, generation.

Promise: an adapter is loaded only from a `.kolm` that has verified against the pinned public
key at this moment, has the digest the champion record names, and is for this tenant, namespace
and base. What was unpacked lies in a private folder and is gone as soon as it is loaded.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from apprentice_pipeline.errors import ServingError
from apprentice_pipeline.serving.waiting import AdapterKey

if TYPE_CHECKING:
    from apprentice_pipeline.artifact.kolm import Manifest

UNPACKED_PREFIX = "adapter-"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The champion to load: whose it is, and the digest its `.kolm` must have."""

    tenant: str
    namespace: str
    version: int
    digest: str
    path: str

    @property
    def key(self) -> AdapterKey:
        """Where it stands on the shelf."""
        return self.tenant, self.namespace, self.version


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
        base: Path,
        base_digest: str,
        public_key: bytes,
        scratch: Path,
        capacity: int = 4,
    ) -> None:
        self._base = base
        self._base_digest = base_digest
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
        from apprentice_pipeline.artifact.kolm import unpack, verify_kolm
        from apprentice_pipeline.evaluate.student import Student

        verified = verify_kolm(Path(wanted.path), public_key=self._public_key)
        self._check(wanted, verified.digest, verified.manifest)
        folder = Path(tempfile.mkdtemp(prefix=UNPACKED_PREFIX, dir=self._scratch))
        try:
            unpack(verified, folder)
            return Student.load(self._base, folder / "adapter")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _check(self, wanted: Wanted, digest: str, manifest: Manifest) -> None:
        if digest != wanted.digest:
            raise ServingError(
                f"version {wanted.version} of {wanted.tenant}.{wanted.namespace} has digest"
                f" {digest[:12]}, the champion record says {wanted.digest[:12]}",
                remedy="promote the version again, or roll back",
            )
        owner = (manifest.tenant, manifest.namespace)
        if owner != (wanted.tenant, wanted.namespace):
            raise ServingError(
                f"the artifact is for {owner[0]}.{owner[1]},"
                f" not for {wanted.tenant}.{wanted.namespace}"
            )
        if manifest.base_digest != self._base_digest:
            raise ServingError(
                f"version {wanted.version} of {wanted.tenant}.{wanted.namespace}"
                " was trained on another base than this server runs",
                remedy="set local.base_model to the artifact's base, or distill again",
            )


def wipe_leftovers(scratch: Path) -> None:
    """Remove what a killed server had unpacked."""
    for folder in scratch.glob(f"{UNPACKED_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)
