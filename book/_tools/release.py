"""Write the student notebooks: the exercises without solutions, hidden tests and outputs.

    python -m book._tools.release [--output FOLDER]

nbgrader's own preprocessors do the work, so that what is released here is what ``nbgrader
generate_assignment`` would release.
"""

import argparse
import sys
from pathlib import Path

import nbformat
from nbconvert.preprocessors import ClearOutputPreprocessor
from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearHiddenTests,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
)

from book._tools.course_map import CHAPTERS, ROOT
from book._tools.pairs import read_source
from book._tools.repository import address

RELEASE = ROOT / "_build" / "release"
_STEPS = [
    LockCells,
    ClearSolutions,
    ClearOutputPreprocessor,
    CheckCellMetadata,
    ClearHiddenTests,
    ComputeChecksums,
]


def student_notebook(source: Path) -> nbformat.NotebookNode:
    """Return the exercise notebook that ``source`` describes, as a student gets it."""
    notebook = read_source(source)
    for step in _STEPS:
        notebook, _ = step().preprocess(notebook, {})
    return notebook


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="course release", description="Write the student notebooks.")
    parser.add_argument("--output", type=Path, default=RELEASE, help="default: _build/release")
    output = parser.parse_args(arguments).output
    folder = output / "exercises"
    folder.mkdir(parents=True, exist_ok=True)
    # Binder reads it where the folder is published.
    (output / "requirements.txt").write_text(f"gptoss-lib @ git+{address()}\n", encoding="utf-8")
    for chapter in CHAPTERS:
        path = folder / f"{chapter.stem}.ipynb"
        nbformat.write(student_notebook(chapter.exercises), path)
        print(f"wrote {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
