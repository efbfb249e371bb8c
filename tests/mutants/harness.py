"""Make mutants in folders of their own and run tests against them, each in a process of its own.

Every mutant is a copy of the package and its tests; the checkout is never written to.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.mutants.catalogue import Edit, Mutant

ROOT = Path(__file__).resolve().parents[2]
_COPIED = ("gptoss_lib", "tests", "book/_tools", "notebooks", "pyproject.toml")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.ipynb", ".ipynb_checkpoints")


class MutantError(Exception):
    """The catalogue does not fit the library or the tests; the message says how, in one sentence."""


@dataclass(frozen=True)
class Job:
    """Tests to run against a copy of the library with some edits."""

    name: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]  # files or node ids, from the project's root


@dataclass(frozen=True)
class Outcome:
    """What became of a job's tests."""

    tests: dict[str, str]  # node id → "passed", "failed" or "skipped"
    problems: list[str] = field(default_factory=list)  # why the result cannot be trusted

    @property
    def failed(self) -> list[str]:
        """The tests that noticed."""
        return [test for test, outcome in self.tests.items() if outcome == "failed"]


def mutated(source: str, edits: Iterable[Edit], name: str) -> str:
    """Return ``source`` with all edits made.

    Raises:
        MutantError: if the old text of an edit does not stand there exactly once.
    """
    for edit in edits:
        count = source.count(edit.old)
        if count != 1:
            raise MutantError(
                f"Mutant {name}: gptoss_lib/{edit.module}.py holds {edit.old!r} {count} times, but it must "
                "stand there exactly once; adapt the mutant to the new source."
            )
        source = source.replace(edit.old, edit.new)
    return source


def make_copy(folder: Path, name: str, edits: tuple[Edit, ...]) -> None:
    """Write the package, with the edits made, and its tests into ``folder``.

    Raises:
        MutantError: where :func:`mutated` does, or if a module does not exist.
    """
    for part in _COPIED:
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=_LEFT_OUT)
        else:
            shutil.copy(source, target)
    for module in dict.fromkeys(edit.module for edit in edits):
        path = folder / "gptoss_lib" / f"{module}.py"
        if not path.exists():
            raise MutantError(f"Mutant {name}: there is no gptoss_lib/{module}.py; adapt the mutant.")
        own = [edit for edit in edits if edit.module == module]
        path.write_text(mutated(path.read_text(encoding="utf-8"), own, name), encoding="utf-8")


def run(jobs: Iterable[Job], time_limit: float = 300) -> dict[str, Outcome]:
    """Run all jobs one after the other and return their outcomes by name.

    One process imports PyTorch once and forks for each job (where there is no fork, it starts anew).

    Args:
        jobs: with different names.
        time_limit: seconds for each.

    Raises:
        MutantError: if an edit does not fit, or the runner itself breaks.
    """
    jobs = list(jobs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        orders = []
        for job in jobs:
            make_copy(folder / job.name, job.name, job.edits)
            modules = sorted({edit.module for edit in job.edits})
            orders.append({"folder": str(folder / job.name), "modules": modules, "tests": job.tests})
        (folder / "orders.json").write_text(json.dumps({"jobs": orders, "time_limit": time_limit}))
        variables = {
            k: v for k, v in os.environ.items() if k != "COURSE_STRICT" and not k.startswith("PYTEST_")
        }
        variables |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TMPDIR": name}
        command = [sys.executable, "-B", str(ROOT / "tests/mutants/runner.py"), str(folder)]
        with (folder / "log").open("w") as log:
            status = subprocess.run(command, env=variables, stdout=log, stderr=log).returncode
        if status:
            raise MutantError(f"The runner of the mutants stopped:\n{(folder / 'log').read_text()}")
        results = json.loads((folder / "results.json").read_text())
    return {job.name: Outcome(**result) for job, result in zip(jobs, results, strict=True)}


def quick_job(mutant: Mutant) -> Job:
    """Return the job with the tests that must kill this mutant."""
    return Job(mutant.name, mutant.edits, tuple(f"tests/{killer}" for killer in mutant.killers))


def complaints(mutant: Mutant, outcome: Outcome) -> list[str]:
    """Say, a line each, why this mutant does not count as killed by all tests that it names."""
    found = list(outcome.problems)
    for killer in mutant.killers:
        if not any(is_case_of(test, f"tests/{killer}") for test in outcome.failed):
            found.append(f"{mutant.name} survives {killer}.")
    return found


def is_case_of(test: str, selector: str) -> bool:
    """Return whether a node id belongs to a test function or file."""
    return test == selector or test.startswith((f"{selector}[", f"{selector}::"))
