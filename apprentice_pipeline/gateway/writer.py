"""The gateway's spool writer: `python -m apprentice_pipeline.gateway.writer FD`, one a worker.

Belongs here: the reader of passed calls in the store's writer process. Does not: the process
(`store.spool_process`), reading (`reading`).
"""

from __future__ import annotations

import sys

from apprentice_pipeline.reading.calls import ExchangeReader
from apprentice_pipeline.store.spool_process import serve

PROGRAM = "apprentice_pipeline.gateway.writer"

if __name__ == "__main__":
    sys.exit(serve(int(sys.argv[1]), ExchangeReader.of))
