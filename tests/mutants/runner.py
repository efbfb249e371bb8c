"""Run the tests of each job in a forked process; called by ``tests/mutants/harness.py``, with a folder.

A script on its own, that imports nothing of the project: a fork must find no module of it loaded.
"""

import json
import multiprocessing
import os
import sys
import traceback
from pathlib import Path

import pytest


class Witness:
    """A pytest plugin that remembers what became of each test."""

    def __init__(self) -> None:
        self.tests: dict[str, str] = {}
        self.problems: list[str] = []

    def pytest_collectreport(self, report) -> None:
        if report.outcome != "passed":
            self.problems.append(
                f"{report.nodeid} could not be collected ({report.outcome}): {report.longrepr}"
            )

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.tests[report.nodeid] = report.outcome


def run_tests(job: dict) -> dict:
    """Run a job's tests in its folder; the modules that were changed must come from there."""
    folder = Path(job["folder"]).resolve()
    os.chdir(folder)
    sys.path[0] = str(folder)  # it was the folder of this script
    witness = Witness()
    options = ["-p", "no:terminal", "-p", "no:cacheprovider", "-k", "not compile"]  # compiling takes too long
    # The project's settings put its root, here the copy, in front of the path, before an editable install.
    status = pytest.main([*options, *job["tests"]], plugins=[witness])
    problems = witness.problems
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not problems:
        problems.append(f"pytest could not run {' '.join(job['tests'])}: {pytest.ExitCode(status).name}.")
    if not problems:
        for module in job["modules"]:
            loaded = sys.modules.get(f"gptoss_lib.{module}")
            if loaded is None:
                problems.append(f"No test imports gptoss_lib.{module}.")
            elif not Path(loaded.__file__).resolve().is_relative_to(folder):
                problems.append(f"gptoss_lib.{module} came from {loaded.__file__}, not from the mutant.")
    return {"tests": witness.tests, "problems": problems}


def answer(connection, job: dict) -> None:
    """Send a job's result to the parent."""
    try:
        connection.send(run_tests(job))
    except BaseException:
        connection.send({"tests": {}, "problems": [traceback.format_exc()]})


def in_own_process(job: dict, time_limit: float) -> dict:
    """Run a job in a new process, and stop it when its time is over."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=answer, args=(sender, job))
    process.start()
    sender.close()
    try:
        if receiver.poll(time_limit):
            return receiver.recv()
        problem = f"The tests took more than {time_limit:g} s: {' '.join(job['tests'])}."
    except EOFError:
        problem = "The process that ran the tests crashed."
    finally:
        process.kill()
        process.join()
    return {"tests": {}, "problems": [problem]}


def preload(jobs: list[dict]) -> None:
    """Import what takes long once, before the forks."""
    import torch

    torch.testing.assert_close(torch.ones(1), torch.ones(1))
    if any("parity" in test for job in jobs for test in job["tests"]):
        from transformers.models.gpt_oss import modeling_gpt_oss  # noqa: F401


context = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")

if __name__ == "__main__":
    workplace = Path(sys.argv[1])
    orders = json.loads((workplace / "orders.json").read_text())
    preload(orders["jobs"])
    results = [in_own_process(job, orders["time_limit"]) for job in orders["jobs"]]
    (workplace / "results.json").write_text(json.dumps(results))
