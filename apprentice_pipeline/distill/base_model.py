"""Which base model: the embedded one, a folder, or a Hugging Face id.

What belongs here: finding, identifying and recommending bases. What does not: loading them.
Promises: only safetensors, JSON and text files are fetched or counted; an id is looked up in
the local cache before the network; the digest depends on file contents alone.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apprentice_pipeline.errors import BaseModelMissing

EMBEDDED = "embedded"
_EMBEDDED_FOLDER = Path(__file__).parent.parent / "demo" / "base"
_PATH_STARTS = (".", "/", "~")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_FILES = ("*.safetensors", "*.json", "*.txt", "*.jinja", "*.model", "README.md", "LICENSE*")
# What decides a model's answers: weights, configuration, tokenizer and chat template.
_IDENTITY = (
    "*.safetensors", "config.json", "generation_config.json", "model.safetensors.index.json",
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt",
    "merges.txt", "*.model", "*.jinja",
)  # fmt: skip
_DEFAULT_CONTEXT = 2048
_OLLAMA = {
    "llama3.1": "meta-llama/Llama-3.1-8B-Instruct",
    "llama3.1:8b": "meta-llama/Llama-3.1-8B-Instruct",
    "llama3.2": "meta-llama/Llama-3.2-3B-Instruct",
    "llama3.2:1b": "meta-llama/Llama-3.2-1B-Instruct",
    "llama3.2:3b": "meta-llama/Llama-3.2-3B-Instruct",
    "qwen3:0.6b": "Qwen/Qwen3-0.6B",
    "qwen3:1.7b": "Qwen/Qwen3-1.7B",
    "smollm2:135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "smollm2:360m": "HuggingFaceTB/SmolLM2-360M-Instruct",
}


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base on this machine. `digest` is SHA-256 hex over the sorted (name, SHA-256) of its
    files; `license` is an SPDX id or the card's own word, "unknown" where it says none."""

    name: str
    path: Path
    digest: str
    license: str
    context_tokens: int


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A base worth trying: its hub id, licence, and the memory (bytes) training it takes."""

    name: str
    license: str
    parameters: int
    memory_bytes: int
    note: str


def resolve_base(name_or_path: str | Path, model_dir: str | Path | None = None) -> BaseModel:
    """The base meant by "embedded", a folder, or a Hugging Face id such as "owner/model".

    A name is first that of a folder, then of one within `model_dir`, then an id. An id is taken
    from the local cache when it is there whole, else fetched.
    Raises: BaseModelMissing with the remedy: no such folder, not a model, not to be had.
    """
    name = str(name_or_path)
    if name == EMBEDDED:
        return _describe(EMBEDDED, _EMBEDDED_FOLDER)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _describe(folder.name, folder)
    if (kept := _kept(name, model_dir)) is not None:
        return _describe(name, kept)
    if isinstance(name_or_path, Path) or name.startswith(_PATH_STARTS):
        raise BaseModelMissing(
            f"base {name!r}: there is no such folder",
            remedy="check the path; it must lead to a folder with config.json, safetensors "
            "weights and the tokenizer",
        )
    if _HUB_ID.fullmatch(name):
        return _describe(name, _snapshot(name))
    raise BaseModelMissing(
        f"base {name!r} is neither a folder nor a Hugging Face id",
        remedy='use "embedded", a folder holding a model, or an id such as "owner/model"',
    )


def can_name_a_base(name: str, model_dir: str | Path | None = None) -> bool:
    """Whether a name could be resolved, as a path can: nothing is fetched, no file is read."""
    here = name == EMBEDDED or name.startswith(_PATH_STARTS) or Path(name).is_dir()
    return here or _kept(name, model_dir) is not None or bool(_HUB_ID.fullmatch(name))


def behind_ollama(tag: str) -> str | None:
    """The Hugging Face id of the weights that Ollama serves under `tag`, where it is known."""
    return _OLLAMA.get(tag.lower())


def _kept(name: str, model_dir: str | Path | None) -> Path | None:
    """The folder of that name within `model_dir`, never one outside it."""
    if model_dir is None:
        return None
    within = Path(model_dir).expanduser().resolve()
    folder = (within / name).resolve()
    return folder if folder.is_dir() and within in folder.parents else None


def _describe(name: str, folder: Path) -> BaseModel:
    config = _config(name, folder)
    if not any(folder.glob("*.safetensors")):
        raise BaseModelMissing(
            f"base {name!r} has no safetensors weights",
            remedy="convert its weights to safetensors; pickled weights are never loaded",
        )
    context = config.get("max_position_embeddings")
    return BaseModel(
        name=name,
        path=folder,
        digest=digest_folder(folder),
        license=_license(folder),
        context_tokens=context if isinstance(context, int) else _DEFAULT_CONTEXT,
    )


def _config(name: str, folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelMissing(
            f"base {name!r} has no readable config.json",
            remedy="give the folder that holds config.json, the weights and the tokenizer",
        ) from error
    if not isinstance(config, dict):
        raise BaseModelMissing(
            f"base {name!r}: config.json is not an object", remedy="restore the model's own file"
        )
    return {**config, **config.get("text_config", {})}


def digest_folder(folder: Path) -> str:
    """SHA-256 (hex) over the sorted names and SHA-256 of a base's model and tokenizer files."""
    files = sorted({p.name: p for pattern in _IDENTITY for p in folder.glob(pattern)}.items())
    digest = hashlib.sha256()
    for name, path in files:
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def _license(folder: Path) -> str:
    """The `license:` line of the model card's front matter."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else ""
    found = re.search(r"^license:\s*[\"']?([\w.+-]+)", front, flags=re.MULTILINE)
    return found.group(1) if found else "unknown"


def _snapshot(name: str) -> Path:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        cached = Path(snapshot_download(name, allow_patterns=list(_FILES), local_files_only=True))
        if (cached / "config.json").is_file() and any(cached.glob("*.safetensors")):
            return cached
    except HFValidationError:
        raise BaseModelMissing(
            f"base {name!r} is neither a folder here nor a possible Hugging Face id",
            remedy='check the spelling: an id is like "owner/model", a folder like ./models/base',
        ) from None
    except OSError:  # not in the cache whole
        pass
    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        raise BaseModelMissing(
            f"base {name!r} is not in the local cache and could not be fetched",
            remedy="check the id and the network, fetch it beforehand on a machine that is "
            'online and give its folder, or use "embedded"',
        ) from error


_GB = 2**30
_CATALOGUE = (
    Recommendation(EMBEDDED, "CC-BY-SA-4.0", 0, _GB, "short requests to structured answers"),
    Recommendation(
        "HuggingFaceTB/SmolLM2-135M-Instruct", "Apache-2.0", 134_515_008, 3 * _GB, "English"
    ),
    Recommendation(
        "HuggingFaceTB/SmolLM2-360M-Instruct", "Apache-2.0", 361_821_120, 6 * _GB, "English"
    ),
    Recommendation("Qwen/Qwen3-0.6B", "Apache-2.0", 596_049_920, 9 * _GB, "multilingual"),
    Recommendation("Qwen/Qwen3-1.7B", "Apache-2.0", 1_720_574_976, 20 * _GB, "multilingual"),
    Recommendation(
        "HuggingFaceTB/SmolLM3-3B", "Apache-2.0", 3_075_098_624, 32 * _GB, "six languages"
    ),
    Recommendation(
        "Qwen/Qwen3-4B-Instruct-2507", "Apache-2.0", 4_022_468_096, 40 * _GB, "multilingual"
    ),
)


def recommend_bases(memory_bytes: int) -> list[Recommendation]:
    """Openly licensed small instruct models whose LoRA training fits, the largest first."""
    fitting = [entry for entry in _CATALOGUE if entry.memory_bytes <= memory_bytes]
    return sorted(fitting, key=lambda entry: -entry.memory_bytes)
