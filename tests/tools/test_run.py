"""Chapters are executed in a clean environment, and nbval compares what they stored."""

import re
import subprocess
import sys

import pytest
from nbclient.exceptions import CellExecutionError

from book._tools import run
from book._tools.course_map import ROOT, chosen
from tests.tools import course_script

CHAPTER = """\
# %%
import os
print("files", os.listdir())

# %%
print("profile", os.environ["GPTOSS_PROFILE"])

# %%
from gptoss_lib.figures import new_figure, show
figure, axes = new_figure(2, 1)
show(figure, "an empty figure")

# %%
from gptoss_lib.widgets import explore
explore(str, {"n": [1, 2]})

# %% tags=["nbval-ignore-output"]
import time
time.time()
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "01_x.py"
    path.write_text(CHAPTER)
    return path


def test_a_run_is_clean_and_repeats_to_the_byte(source, tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_PROFILE", "full")
    source.write_text(CHAPTER.replace("time.time()", "1"))
    run.refresh(source, tmp_path / "home")
    first = source.with_suffix(".ipynb").read_text()
    assert "files []" in first and "profile quick" in first
    assert "application/vnd.jupyter.widget-state+json" in first
    run.refresh(source, tmp_path / "home")
    assert source.with_suffix(".ipynb").read_text() == first


def test_a_failing_chapter_keeps_its_old_notebook(source, tmp_path):
    run.refresh(source, tmp_path)
    before = source.with_suffix(".ipynb").read_bytes()
    source.write_text("# %%\n1 / 0\n")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        run.refresh(source, tmp_path)
    assert source.with_suffix(".ipynb").read_bytes() == before


def test_unknown_chapter_gets_one_sentence(capsys):
    assert run.main(["99"]) == 1
    assert "There is no chapter '99'" in capsys.readouterr().err
    assert [chapter.number for chapter in chosen(["2", "01"])] == ["01", "02"]


def nbval(folder) -> subprocess.CompletedProcess:
    flags = course_script.load().NBVAL
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *flags, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_nbval_compares_what_is_printed_and_nothing_else(source, tmp_path):
    source.write_text(CHAPTER.replace("os.listdir()", "[]"))
    run.refresh(source, tmp_path / "home")
    text = source.with_suffix(".ipynb").read_text()
    kept, broken = tmp_path / "kept.ipynb", tmp_path / "broken.ipynb"
    other_time = re.sub(r"\d{9,}\.\d+", "0.5", text)
    kept.write_text(other_time.replace("<svg role", "<svg data-changed='yes' role"))
    broken.write_text(text.replace("profile quick", "profile full"))
    assert kept.read_text().count("data-changed") == 1 and other_time != text
    result = nbval(tmp_path)
    assert [line for line in result.stdout.splitlines() if line.startswith("FAILED")] != []
    assert "1 failed, 14 passed" in result.stdout, result.stdout
