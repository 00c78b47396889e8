"""`python -m apprentice_pipeline.cli.handed ARGUMENTS`: a command whose secrets come by a pipe.

Belongs here: taking the environment from standard input, one line of JSON. Does not: commands.
Promise: what is handed over stands in no environment that other processes can read, this one's
children's included.
"""

from __future__ import annotations

import sys
from typing import BinaryIO

import orjson


def run(source: BinaryIO) -> None:
    """Runs the command line as `apprentice` does, with the environment that `source` holds."""
    from apprentice_pipeline.cli import opening
    from apprentice_pipeline.cli.__main__ import run as run_command
    from apprentice_pipeline.store.secrecy import keep_memory_private

    keep_memory_private()
    opening.take_over(orjson.loads(source.readline()))
    run_command()


if __name__ == "__main__":
    run(sys.stdin.buffer)
