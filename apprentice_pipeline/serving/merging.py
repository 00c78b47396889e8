"""A base and an adapter merged into one model, in a process of its own.

    python -m apprentice_pipeline.serving.merging BASE ADAPTER OUT

Belongs here: that merge. Does not: verifying (the caller has), handing the result on. It runs
apart because it needs the memory of the whole base, which a gateway worker must not take.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from apprentice_pipeline.errors import ServingError
from apprentice_pipeline.serving.supervisor import server_environment


async def merge_apart(base: Path, adapter: Path, out: Path) -> None:
    """Writes the merged model and its tokenizer into `out`. Raises: ServingError."""
    arguments = [str(base), str(adapter), str(out)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", "apprentice_pipeline.serving.merging", *arguments),
        env=server_environment(os.environ, 0),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if code != 0:
        raise ServingError(
            f"the adapter could not be merged into {base.name} (exit {code})",
            remedy="the machine needs memory for the whole base; see what else runs on it",
        )


def main(arguments: Sequence[str]) -> int:
    """The process: merges, saves as safetensors."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, adapter, out = map(Path, arguments)
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype="auto", local_files_only=True, use_safetensors=True
    )
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
    merged.save_pretrained(out, safe_serialization=True)
    AutoTokenizer.from_pretrained(base, local_files_only=True).save_pretrained(out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
