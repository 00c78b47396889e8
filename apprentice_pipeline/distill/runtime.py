"""How the libraries underneath behave: quiet, private, good neighbours on shared cores."""

import contextlib
import ctypes
import os
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """No telemetry, dataset caches, progress bars or foreign deprecations; restored afterwards."""
    import datasets
    from huggingface_hub import constants
    from transformers.utils import logging

    telemetry, caching = constants.HF_HUB_DISABLE_TELEMETRY, datasets.is_caching_enabled()
    verbosity = logging.get_verbosity()
    constants.HF_HUB_DISABLE_TELEMETRY = True
    datasets.disable_caching()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = telemetry
        logging.set_verbosity(verbosity)
        if caching:
            datasets.enable_caching()


def share_cores() -> None:
    """Lets torch's threads sleep while they wait for each other instead of spinning.

    On cores shared with other work, spinning cost four fifths of the throughput (measured: 4
    against 16 GFLOP/s beside six other processes). Works only before torch is first imported;
    an OMP_WAIT_POLICY that is already set is left alone.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def reuse_memory() -> None:
    """Lets glibc keep large freed blocks; faulting them in anew is a quarter of a CPU step.

    Does nothing where the C library has no `mallopt`. The process keeps its peak memory.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no block is mapped on its own
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD, bytes
