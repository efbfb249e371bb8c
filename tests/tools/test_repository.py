"""The repository's address stands in one place, and one command moves all that derives from it."""

import shutil
import subprocess

import pytest

from book._tools import repository
from book._tools.course_map import ROOT

FORK = "https://github.com/" + "/".join(("you", "my.fork"))  # in pieces, because this file is moved as well
OLD = repository.address().removeprefix("https://github.com/")


def tracked(folder) -> list[str]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=folder, capture_output=True, text=True, check=True
    )
    return [name for name in listing.stdout.split("\0") if name]


@pytest.fixture
def fork(tmp_path, monkeypatch):
    """A copy of every tracked file in a repository of its own."""
    for name in tracked(ROOT):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "--force", "."], cwd=tmp_path, check=True)
    monkeypatch.setattr(repository, "ROOT", tmp_path)
    monkeypatch.setattr(repository, "_PYPROJECT", tmp_path / "pyproject.toml")
    repository.address.cache_clear()
    yield tmp_path
    repository.address.cache_clear()


def test_fork_moves_every_address_and_back(fork, capsys):
    assert repository.main([f"{FORK}/"]) == 0
    changed = capsys.readouterr().out.split()
    assert {"pyproject.toml", "README.md", "CITATION.cff"} <= set(changed)
    assert repository.address() == FORK
    left = [name for name in tracked(fork) if OLD.encode() in (fork / name).read_bytes()]
    assert left == []
    repository.retarget(f"https://github.com/{OLD}")
    assert all((fork / name).read_bytes() == (ROOT / name).read_bytes() for name in tracked(fork))


@pytest.mark.parametrize("bad", ["you/fork", "https://gitlab.com/you/fork", "https://github.com/you", ""])
def test_bad_addresses_change_nothing(fork, capsys, bad):
    assert repository.main([bad]) == 1
    assert "https://github.com/OWNER/NAME" in capsys.readouterr().err
    assert all((fork / name).read_bytes() == (ROOT / name).read_bytes() for name in tracked(fork))


def test_a_lookalike_is_left_alone(fork):
    owner, name = OLD.split("/")
    note = fork / "note.md"
    note.write_text(f"https://github.com/{owner}/{name}-extras and {owner}/{name}.")
    subprocess.run(["git", "add", "note.md"], cwd=fork, check=True)
    repository.retarget("https://github.com/you/fork")
    assert note.read_text() == f"https://github.com/{owner}/{name}-extras and you/fork."
