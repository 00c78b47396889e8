"""Loading a base from its folder, for training and for answering alike.

Promises: nothing is downloaded, no pickle is read and no code of the model's is run.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from apprentice_pipeline.distill.runtime import share_cores
from apprentice_pipeline.errors import BaseModelMissing

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_REMEDY = "give the folder of a causal language model with safetensors weights and a tokenizer"


def load_base(base: Path) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Model and tokenizer; float32 on a CPU-only machine, bfloat16 where CUDA is.

    Raises: BaseModelMissing (no model there, not loadable, no chat template).
    """
    share_cores()
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (base / "config.json").is_file():
        raise BaseModelMissing(f"no model at base {base.name!r}", remedy=_REMEDY)
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base, dtype=dtype, local_files_only=True, use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BaseModelMissing(f"base {base.name!r} does not load", remedy=_REMEDY) from error
    if not tokenizer.chat_template:
        raise BaseModelMissing(
            f"base {base.name!r} has no chat template", remedy="choose an instruct model"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer
