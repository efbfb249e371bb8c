"""The ``course`` command: help, errors in one sentence, and an environment that is made only when needed."""

import subprocess
import sys

import pytest

from book._tools.course_map import ROOT
from tests.tools import course_script


@pytest.fixture
def course(tmp_path, monkeypatch):
    """The script as a module, on a project of its own, with every subprocess recorded instead of run."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = course_script.load()
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("one")
    module.commands, module.status = [], 0
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "PYTHON", tmp_path / ".venv" / "python")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "course-stamp")

    def create(path, **_):
        path.mkdir(exist_ok=True)
        (path / "python").touch()

    def run(command, **_):
        module.commands.append(command[1:])
        return module.status

    monkeypatch.setattr(module.venv, "create", create)
    monkeypatch.setattr(module, "run", run)
    return module


def call(course, monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["course", *arguments])
    return course.main()


def test_runs_on_a_bare_python_and_helps():
    result = subprocess.run(
        [sys.executable, "-I", "-S", ROOT / "course", "help"], capture_output=True, text=True
    )
    assert result.returncode == 0
    assert result.stdout.startswith("GPT-OSS from scratch")


def test_help_names_every_command(course):
    for command in course.COMMANDS:
        assert f"\n  {command} " in course.__doc__


def test_unknown_command_gets_one_sentence(course, monkeypatch, capsys):
    assert call(course, monkeypatch, "bok") == 1
    assert capsys.readouterr().err == "course: There is no command 'bok'; ./course help lists them.\n"


def test_environment_is_made_once_and_updated_when_requirements_change(course):
    course.environment()
    assert len(course.commands) == 1 and "install" in course.commands[0]
    course.environment()
    assert len(course.commands) == 1
    (course.ROOT / "pyproject.toml").write_text("two")
    course.environment()
    assert len(course.commands) == 2


def test_failed_install_is_tried_again(course, monkeypatch, capsys):
    course.status = 1
    assert call(course, monkeypatch, "export") == 1
    assert "could not be installed" in capsys.readouterr().err
    course.status = 0
    assert call(course, monkeypatch, "export") == 0
    assert ["install" in command for command in course.commands] == [True, True, False]


def test_old_python_gets_one_sentence(course, monkeypatch, capsys):
    monkeypatch.setattr(course, "OLDEST", (99, 0))
    assert call(course, monkeypatch, "test") == 1
    assert "too old; run this with Python" in capsys.readouterr().err
    assert course.commands == []


def test_book_checks_before_it_builds(course, monkeypatch):
    assert call(course, monkeypatch, "book") == 0
    tools = [command[1] for command in course.commands[1:]]
    assert tools == ["book._tools.export", "book._tools.pairs", "book._tools.site"]
    course.commands.clear()
    course.status = 1
    assert call(course, monkeypatch, "book") == 1
    assert [command[1] for command in course.commands] == ["book._tools.export"]


def test_test_runs_everything_or_what_is_named(course, monkeypatch):
    assert call(course, monkeypatch, "test") == 0
    assert course.commands[-1][-2:] == ["tests", "notebooks"] and "--nbval" in course.commands[-1]
    assert call(course, monkeypatch, "test", "tests/test_data.py") == 0
    assert course.commands[-1] == ["-m", "pytest", "tests/test_data.py"]


@pytest.mark.parametrize("arguments", [("book", "--srve"), ("clean", "all")])
def test_bad_options_do_nothing(course, monkeypatch, capsys, arguments):
    assert call(course, monkeypatch, *arguments) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert course.commands == []


def test_clean_leaves_the_sources(course, monkeypatch):
    course.environment()
    (course.ROOT / "_build").mkdir()
    assert call(course, monkeypatch, "clean") == 0
    assert sorted(path.name for path in course.ROOT.iterdir()) == ["constraints.txt", "pyproject.toml"]
