"""Whether a Python was built to be fast, and which one of this machine was.

Belongs here: what `make install` and `apprentice doctor` ask about interpreters. Does not: anything
else; any Python runs this file as it is, before the package is installed.

CPython built from source without `--enable-optimizations` (as pyenv does unless told otherwise) has
no profile-guided optimisation. The gateway then takes about a quarter more processor for each call.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig

REMEDY = (
    "use your distribution's Python, uv's or python.org's, or build it with optimisation: "
    "PYTHON_CONFIGURE_OPTS='--enable-optimizations --with-lto' pyenv install"
)
_FOLDERS = ("/usr/local/bin", "/usr/bin", "/opt/homebrew/bin")
_ASK = "--is-optimised"
_LONGEST_S = 20


def was_optimised(configured: str | None, prefix: str) -> bool:
    """Whether an interpreter was built with profile-guided optimisation, as far as it tells.

    `configured` is how it was configured (`CONFIG_ARGS`; None where it was not, as on Windows),
    `prefix` where it is installed: a distribution's own optimises in a way that is not told.
    """
    return configured is None or "--enable-optimizations" in configured or prefix == "/usr"


def is_optimised() -> bool:
    """`was_optimised` of the interpreter that runs this."""
    return was_optimised(sysconfig.get_config_var("CONFIG_ARGS"), sys.base_prefix)


def quicker() -> str | None:
    """Where this interpreter was not optimised, the path of one that was, of the same kind and
    version (3.11, say) and able to make environments, if there is one on this machine."""
    if is_optimised():
        return None
    name = "python{}.{}".format(*sys.version_info[:2])
    found = (shutil.which(name, path=each) for each in (*os.get_exec_path(), *_FOLDERS))
    return next((path for path in dict.fromkeys(filter(None, found)) if _will_do(path)), None)


def _will_do(path: str) -> bool:
    if path.split() != [path]:  # make has no way with blanks
        return False
    try:
        asked = subprocess.run(
            [path, __file__, _ASK, *_kind()],
            timeout=_LONGEST_S,
            capture_output=True,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return asked.returncode == 0


def _kind() -> list[str]:
    """What decides which packages fit: an interpreter's binary interface and processor."""
    return [str(sysconfig.get_config_var("SOABI")), platform.machine()]


def _answer() -> int:
    try:
        import ensurepip  # noqa: F401 - without it no environment gets its pip
        import venv  # noqa: F401
    except ImportError:
        return 1
    return 0 if is_optimised() and sys.argv[2:] == _kind() else 1


if __name__ == "__main__":
    if _ASK in sys.argv:
        sys.exit(_answer())
    taken = quicker()
    if taken is not None:
        sys.stderr.write(
            f"{sys.executable} was built without optimisation; taking {taken}, of the same "
            f"version. To take it all the same: make install PYTHON={sys.executable}\n"
        )
    sys.stdout.write(f"{taken or 'python3'}\n")
