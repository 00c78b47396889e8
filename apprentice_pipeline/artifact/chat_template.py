"""Whether a chat template is one that may be rendered: size, safety, time.

Belongs here: the check. Does not: rendering conversations for a model. Promise: a template that
passes compiles in a sandbox, renders ordinary conversations, and did so within bounds of time,
memory and output, in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from apprentice_pipeline.artifact import template_trial
from apprentice_pipeline.errors import ArtifactError

WHAT = "tokenizer/chat_template.jinja"
WALL_SECONDS = 30
MAX_CHARACTERS = 65_536
_TEXT = {
    "syntax": "does not compile",
    "unsafe": "does something that the sandbox forbids",
    "fails": "fails on an ordinary conversation",
    "long": "renders far more text than the conversation has",
    "memory": "takes too much memory",
}


def check_chat_template(data: bytes, variables: dict[str, str] | None = None) -> None:
    """Compiles and tries the template; `variables` are the special tokens it may name.

    Takes about a tenth of a second the first time, nothing for the same template again.
    Raises: ArtifactError with the reason, never with the template's text.
    """
    try:
        source = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ArtifactError(f"{WHAT} is not UTF-8 text") from None
    if len(source) > MAX_CHARACTERS:
        raise ArtifactError(f"{WHAT} has {len(source)} characters, more than {MAX_CHARACTERS}")
    _trial(source, tuple(sorted((variables or {}).items())))


@lru_cache(maxsize=64)
def _trial(source: str, variables: tuple[tuple[str, str], ...]) -> None:
    """Raises on a fault; what passed is remembered, a fault is not: it may be the machine's."""
    request = json.dumps({"template": source, "variables": dict(variables)}).encode()
    command = [sys.executable, "-I", str(Path(template_trial.__file__))]
    try:
        done = subprocess.run(
            command, input=request, capture_output=True, timeout=WALL_SECONDS, check=False, env={}
        )
    except subprocess.TimeoutExpired:
        raise ArtifactError(f"{WHAT} takes too long to render") from None
    except OSError as error:
        raise ArtifactError(f"the template check cannot start: {error.strerror}") from None
    if done.returncode < 0:
        raise ArtifactError(f"{WHAT} takes too long to render")
    fault = json.loads(done.stdout)["fault"] if done.returncode == 0 else "memory"
    if fault:
        raise ArtifactError(f"{WHAT} {_TEXT[fault]}")
