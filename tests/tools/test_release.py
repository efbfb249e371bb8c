"""Student notebooks carry the statements and the checks, and nothing that gives an answer away."""

import re

import nbformat
import pytest

from book._tools import release
from book._tools.course_map import CHAPTERS
from book._tools.pairs import read_source

IDS = [chapter.stem for chapter in CHAPTERS]


def regions(text: str, name: str) -> list[str]:
    """What stands between ``### BEGIN name`` and ``### END name``, without indentation."""
    parts = text.split(f"### BEGIN {name}")[1:]
    return [flat(part.split(f"### END {name}")[0]) for part in parts]


def flat(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


@pytest.mark.parametrize("chapter", CHAPTERS, ids=IDS)
def test_student_notebook_has_no_answers(chapter):
    source = "\n".join(cell.source for cell in read_source(chapter.exercises).cells)
    secret = regions(source, "SOLUTION") + regions(source, "HIDDEN TESTS")
    assert secret, "an exercise notebook has solutions and hidden tests to take out"
    student = release.student_notebook(chapter.exercises)
    text = "\n".join(cell.source for cell in student.cells)
    assert "### BEGIN" not in text
    assert "raise NotImplementedError()" in text
    assert [answer for answer in secret if answer in flat(text)] == []
    assert not any(cell.get("outputs") for cell in student.cells)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=IDS)
def test_exercises_are_two_to_four_with_points_and_checks(chapter):
    notebook = read_source(chapter.exercises)
    headings = [cell.source for cell in notebook.cells if re.match(r"## \d\. ", cell.source)]
    cells = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
    solutions = [cell for cell in cells if cell.metadata.nbgrader.solution]
    tests = [cell for cell in cells if cell.metadata.nbgrader.grade]
    assert [heading[:4] for heading in headings] == [f"## {n}" for n in range(1, len(headings) + 1)]
    assert 2 <= len(headings) <= 4
    assert len(headings) <= len(tests) <= len(solutions)
    for cell in tests:
        assert cell.metadata.nbgrader.points > 0
        assert "check." in cell.source
        assert "### BEGIN HIDDEN TESTS" in cell.source
    ids = [cell.metadata.nbgrader.grade_id for cell in cells]
    assert len(ids) == len(set(ids))


def test_release_writes_valid_notebooks(tmp_path):
    assert release.main(["--output", str(tmp_path)]) == 0
    assert (tmp_path / "requirements.txt").read_text().startswith("gptoss-lib @ git+https://github.com/")
    for chapter in CHAPTERS:
        notebook = nbformat.read(tmp_path / "exercises" / f"{chapter.stem}.ipynb", as_version=4)
        nbformat.validate(notebook)
        locked = [cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade")]
        assert all(cell.metadata.deletable is False and cell.metadata.nbgrader.checksum for cell in locked)
