"""`python -m apprentice_pipeline.cli` and the `apprentice` script."""

from __future__ import annotations

import signal
import sys


def run() -> None:
    """Runs the command line and leaves with its exit status.

    SIGTERM ends a command as Ctrl-C does, so that the processes it started are stopped too.
    """
    from apprentice_pipeline.cli.main import main

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())


if __name__ == "__main__":
    run()
