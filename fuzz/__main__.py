"""`python -m fuzz TARGET SECONDS [SEED]`: one target under atheris; without arguments, the names.

Belongs here: instrumentation, libFuzzer's options, where findings go. Does not: properties.
A finding is written to `fuzz/findings/` and fails the run; it is mended together with a test
that holds the input. Coverage grows in a temporary folder, gone at the end.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

FINDINGS = Path(__file__).parent / "findings"
MOST_BYTES = 4_096


def main(target: str, seconds: int, seed: int) -> None:
    """Fuzzes until the time is up; libFuzzer ends the process, with 77 after a finding."""
    import atheris  # type: ignore[import-untyped]

    with atheris.instrument_imports(
        include=["apprentice_pipeline.wire", "apprentice_pipeline.gateway"]
    ):
        from fuzz import properties, seeds

    check = properties.PROPERTIES[target]
    FINDINGS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        seeds.write_seeds(target, Path(folder))
        options = [
            f"-max_total_time={seconds}",
            f"-max_len={MOST_BYTES}",
            f"-seed={seed}",
            f"-artifact_prefix={FINDINGS}/{target}-",
            "-rss_limit_mb=1024",
            "-timeout=20",
            "-print_final_stats=1",
            "-verbosity=1",
        ]
        atheris.Setup([sys.argv[0], *options, folder], check)
        atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        from fuzz.properties import PROPERTIES

        print(*PROPERTIES)
        sys.exit()
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1)
