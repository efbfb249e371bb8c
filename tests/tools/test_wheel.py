"""The Colab proof: the wheel alone, in an environment that already has torch, runs every chapter.

Each notebook runs from an empty folder without a network, as does every student notebook, which may
stop only where an answer is missing.
"""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from book._tools.course_map import CHAPTERS, LIBRARY, ROOT
from book._tools.pairs import read_source
from book._tools.release import student_notebook
from book._tools.run import execute

IDS = [chapter.stem for chapter in CHAPTERS]
UNANSWERED = ("NotImplementedError", "CheckFailed", "NameError")


def python(executable: str | Path, *arguments: str) -> str:
    result = subprocess.run([executable, *arguments], capture_output=True, text=True, cwd="/")
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def pip(executable: str | Path, *arguments: str) -> str:
    constraints = str(ROOT / "constraints.txt")
    return python(
        executable, "-m", "pip", "install", "--disable-pip-version-check", "-c", constraints, *arguments
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    python(sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT))
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def colab(tmp_path_factory, wheel) -> str:
    """The Python of a new environment that had torch and a kernel before the wheel came."""
    folder = tmp_path_factory.mktemp("colab")
    python(sys.executable, "-m", "venv", str(folder))
    executable = str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    pip(executable, "torch", "ipykernel")
    before = torch_files(executable)
    pip(executable, str(wheel))
    assert torch_files(executable) == before, "installing the wheel changed torch"
    return executable


def torch_files(executable: str) -> str:
    """A digest of torch's record of installed files, and of its version."""
    code = (
        "import importlib.metadata as m; d = m.distribution('torch'); print(d.version, d.read_text('RECORD'))"
    )
    return hashlib.sha256(python(executable, "-c", code).encode()).hexdigest()


def test_wheel_holds_the_library_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    files = [
        path
        for pattern in ("**/*.py", "configs/*.json", "runs/[!.]*.jsonl")
        for path in LIBRARY.glob(pattern)
    ]
    expected = {f"gptoss_lib/{path.relative_to(LIBRARY).as_posix()}" for path in files}
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_the_library_comes_from_the_wheel(colab):
    where = python(colab, "-c", "import gptoss_lib; print(gptoss_lib.__file__)")
    assert str(ROOT) not in where


@pytest.mark.parametrize("chapter", CHAPTERS, ids=IDS)
def test_chapter_runs_from_the_wheel(chapter, colab, tmp_path_factory):
    execute(read_source(chapter.source), home(tmp_path_factory), python=colab)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=IDS)
def test_exercises_run_from_the_wheel(chapter, colab, tmp_path_factory):
    execute(read_source(chapter.exercises), home(tmp_path_factory), python=colab)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=IDS)
def test_student_notebook_stops_only_at_missing_answers(chapter, colab, tmp_path_factory):
    notebook = execute(
        student_notebook(chapter.exercises), home(tmp_path_factory), python=colab, allow_errors=True
    )
    errors = [
        output.ename
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]
    assert errors, "an exercise without an answer passed its check"
    assert set(errors) <= set(UNANSWERED)


def home(tmp_path_factory) -> Path:
    """One folder for prepared data and trained models, as a reader has."""
    folder = tmp_path_factory.getbasetemp() / "home"
    folder.mkdir(exist_ok=True)
    return folder
