"""The four environment variables that the course reads, and how a process holds its memory, in one place.

``GPTOSS_PROFILE``: ``quick`` (the default: two CPU cores, the story grammar, about a minute a
chapter) or ``full`` (one GPU, TinyStories).
``GPTOSS_HOME``: where prepared data and trained models are kept; ``~/.cache/gptoss`` by default.
``GPTOSS_DATA``: a text, JSONL or Parquet file, or a folder of them, to train on instead.
``GPTOSS_ONEDNN``: ``0`` leaves all matrix products to PyTorch, see ``gptoss_lib.products``.
"""

import ctypes
import os
import platform
from pathlib import Path

__all__ = ["data_path", "home", "keep_memory", "onednn", "profile"]


def profile() -> str:
    """Return the profile that chapters run in, ``"quick"`` or ``"full"``.

    Raises:
        ValueError: if ``GPTOSS_PROFILE`` holds anything else.
    """
    name = os.environ.get("GPTOSS_PROFILE") or "quick"
    if name not in ("quick", "full"):
        raise ValueError(f"GPTOSS_PROFILE is {name!r}; set it to 'quick' or 'full', or unset it.")
    return name


def home() -> Path:
    """Return the folder for prepared data and trained models (it may not exist yet)."""
    return Path(os.environ.get("GPTOSS_HOME") or Path.home() / ".cache" / "gptoss")


def data_path() -> Path | None:
    """Return the reader's own corpus, or None where ``GPTOSS_DATA`` is not set.

    Raises:
        FileNotFoundError: if ``GPTOSS_DATA`` names a path that does not exist.
    """
    value = os.environ.get("GPTOSS_DATA")
    if not value:
        return None
    path = Path(value)
    if not path.exists():
        raise FileNotFoundError(
            f"GPTOSS_DATA is {value!r}, which does not exist; point it at a file or folder."
        )
    return path


def onednn() -> bool:
    """Return whether oneDNN may compute matrix products where it is faster.

    Raises:
        ValueError: if ``GPTOSS_ONEDNN`` is neither 0 nor 1.
    """
    value = os.environ.get("GPTOSS_ONEDNN") or "1"
    if value not in ("0", "1"):
        raise ValueError(f"GPTOSS_ONEDNN is {value!r}; set it to 0 or 1, or unset it.")
    return value == "1"


def keep_memory(large_pages: bool = False) -> bool:
    """Let this process keep the memory of tensors that it frees, for the next ones.

    Linux's C library gives every large tensor back to the system at once, and the system clears the
    pages again when the next tensor takes them; ``book/benchmarks.md`` has what this is worth.
    After this call the process keeps the most that it ever needed. Call it before the first tensor is
    made, in programs that are all yours: the command line does, a library must not.

    Args:
        large_pages: also ask for pages of 2 MiB, in which long reads, as those of decoding, are faster.

    Returns:
        Whether memory is kept: on Linux with glibc.
    """
    if large_pages:
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by PyTorch at its first large tensor
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # M_… in malloc.h
    wanted = {mmap_max: 0, trim_threshold: -1, top_pad: 64 * 2**20}  # nothing apart, nothing given back
    libc = ctypes.CDLL(None)
    return all([libc.mallopt(name, value) for name, value in wanted.items()])
