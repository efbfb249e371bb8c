"""What the course consists of: its chapters in order, and the modules that no chapter exports."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
EXERCISES = NOTEBOOKS / "exercises"
LIBRARY = ROOT / "gptoss_lib"


class Chapter(NamedTuple):
    """One chapter: its file stem, the module it exports, and its title."""

    stem: str
    module: str
    title: str

    @property
    def number(self) -> str:
        return self.stem[:2]

    @property
    def source(self) -> Path:
        return NOTEBOOKS / f"{self.stem}.py"

    @property
    def exercises(self) -> Path:
        return EXERCISES / f"{self.stem}.py"


# In dependency order: a module imports only from modules above it.
CHAPTERS = [
    Chapter("01_map", "config", "The map"),
    Chapter("02_tokens", "tokenizer", "Tokens"),
    Chapter("03_small_world", "stories", "A small world"),
    Chapter("04_data", "data", "Data"),
    Chapter("05_gpt2", "gpt2", "GPT-2"),
    Chapter("06_training", "training", "Training"),
    Chapter("07_generation", "generation", "Generation"),
    Chapter("08_rmsnorm", "norm", "RMSNorm"),
    Chapter("09_rope_yarn", "rope", "RoPE and YaRN"),
    Chapter("10_heads_windows", "masks", "Heads and windows"),
    Chapter("11_sinks", "attention", "Sinks"),
    Chapter("12_kv_cache", "cache", "KV cache"),
    Chapter("13_swiglu", "swiglu", "SwiGLU"),
    Chapter("14_mixture_of_experts", "moe", "Mixture of experts"),
    Chapter("15_model", "model", "The model"),
    Chapter("16_pretraining", "pretraining", "Pretraining"),
    Chapter("17_fair_fight", "comparison", "The fair fight"),
    Chapter("18_many_devices", "distributed", "Many devices"),
]

# Below every chapter: they import from no exported module.
HAND_WRITTEN = ["__init__", "__main__", "settings", "figures", "widgets", "stories_words", "products"]


def chosen(numbers: Iterable[str]) -> list[Chapter]:
    """Return the chapters with these numbers, all of them where none is given.

    Raises:
        ValueError: if there is no chapter of that number.
    """
    numbers = [number.zfill(2) for number in numbers]
    known = [chapter.number for chapter in CHAPTERS]
    for number in numbers:
        if number not in known:
            raise ValueError(f"There is no chapter {number!r}; the chapters are {', '.join(known)}.")
    return [chapter for chapter in CHAPTERS if not numbers or chapter.number in numbers]
