"""The library is what the chapters export, in the order of the course."""

import ast
import subprocess
import sys

import pytest

from book._tools import export
from book._tools.course_map import CHAPTERS, HAND_WRITTEN, LIBRARY, NOTEBOOKS, Chapter

MODULES = [chapter.module for chapter in CHAPTERS]

CELLS = '''\
# %%
#| export
"""One line.

More lines.
"""

import math
from gptoss_lib.settings import home

# %%
print("not exported")

# %%
#| export
SCALE: float = 2


def area(radius):
    """Return the area."""
    return SCALE * math.pi * radius  # a comment that stays


# %%
#| export
import os
class _Hidden: pass
def where(): return home() / os.sep
'''


def test_library_is_what_the_chapters_export(capsys):
    assert export.main(["--check"]) == 0, capsys.readouterr().out


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """A chapter in a folder of its own, exported to a module of its own."""
    for name in ("notebooks", "lib"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("book._tools.course_map.NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(export, "LIBRARY", tmp_path / "lib")
    monkeypatch.setattr(export, "ROOT", tmp_path)
    chapter = Chapter("01_x", "x", "X")
    monkeypatch.setattr(export, "chosen", lambda numbers: [chapter])
    chapter.source.write_text(CELLS)
    return chapter


def test_module_reads_as_hand_written(chapter):
    assert (
        export.module_source(chapter)
        == '''\
"""One line.

More lines.

Built in chapter 01: edit ``notebooks/01_x.py``, not this file.
"""

import math
import os

from gptoss_lib.settings import home

__all__ = ["SCALE", "area", "where"]


SCALE: float = 2


def area(radius):
    """Return the area."""
    return SCALE * math.pi * radius  # a comment that stays


class _Hidden:
    pass


def where():
    return home() / os.sep
'''
    )


def test_check_shows_the_difference_and_writes_nothing(chapter, capsys):
    assert export.main([]) == 0
    assert export.main(["--check"]) == 0
    module = export.LIBRARY / "x.py"
    module.write_text(module.read_text().replace("math.pi", "3"))
    before = module.read_text()
    capsys.readouterr()
    assert export.main(["--check"]) == 1
    captured = capsys.readouterr()
    assert "-    return SCALE * 3 * radius" in captured.out
    assert "./course export" in captured.err
    assert module.read_text() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# %%\nprint(1)\n", "no cell that begins with"),
        ("# %%\n#| export\nimport math\n", "must open with a docstring"),
        ("# %%\n#| export\ndef broken(:\n", "invalid syntax"),
    ],
)
def test_bad_chapters_get_one_sentence(chapter, capsys, text, message):
    chapter.source.write_text(text)
    assert export.main([]) == 1
    assert message in capsys.readouterr().err


def imported_modules(module: str) -> set[str]:
    """The modules of the library that ``module`` imports anywhere, inside functions too."""
    tree = ast.parse((LIBRARY / f"{module}.py").read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = (name.split(".") for name in names)
    return {part[1] for part in parts if part[0] == "gptoss_lib" and len(part) > 1} & {
        *MODULES,
        *HAND_WRITTEN,
    }


@pytest.mark.parametrize("position", range(len(MODULES)), ids=MODULES)
def test_modules_import_only_from_above(position):
    module = MODULES[position]
    allowed = {"settings", "stories_words", "products"} | set(MODULES[:position])
    assert imported_modules(module) <= allowed


@pytest.mark.parametrize("module", HAND_WRITTEN)
def test_hand_written_modules_import_no_chapter(module):
    if module != "__main__":
        assert not imported_modules(module) & set(MODULES)


def test_every_module_is_exported_or_listed():
    present = {path.stem for path in LIBRARY.glob("*.py")}
    assert present == set(MODULES) | set(HAND_WRITTEN)


def test_every_chapter_file_is_in_the_map():
    assert {path.stem for path in NOTEBOOKS.glob("*.py")} == {chapter.stem for chapter in CHAPTERS}


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_are_imported_when_they_are_needed(module):
    heavy = ["datasets", "matplotlib", "transformers", "ipywidgets"]
    code = f"import sys, gptoss_lib.{module}; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
