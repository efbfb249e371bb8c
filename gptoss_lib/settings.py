"""The four environment variables that the course reads, in one place.

``GPTOSS_PROFILE``: ``quick`` (the default: two CPU cores, the story grammar, about a minute a
chapter) or ``full`` (one GPU, TinyStories).
``GPTOSS_HOME``: where prepared data and trained models are kept; ``~/.cache/gptoss`` by default.
``GPTOSS_DATA``: a text, JSONL or Parquet file, or a folder of them, to train on instead.
``GPTOSS_ONEDNN``: ``0`` leaves all matrix products to PyTorch, see ``gptoss_lib.products``.
"""

import os
from pathlib import Path

__all__ = ["data_path", "home", "onednn", "profile"]


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
