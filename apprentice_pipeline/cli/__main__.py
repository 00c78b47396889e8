"""`python -m apprentice_pipeline.cli` and the `apprentice` script."""

from __future__ import annotations

import sys


def run() -> None:
    """Runs the command line and leaves with its exit status."""
    from apprentice_pipeline.cli.main import main

    sys.exit(main())


if __name__ == "__main__":
    run()
