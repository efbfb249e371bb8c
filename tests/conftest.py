"""What every test shares: a quiet environment, the outside data, and the reports at the end of a run."""

import os
import tempfile
from collections import defaultdict
from pathlib import Path

# Two workers with one thread each, no network and nothing cached: as a reader's clean run.
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GPTOSS_PROFILE": "quick", "GPTOSS_DATA": ""}
if "PYTEST_XDIST_WORKER" not in os.environ:
    _HOME = tempfile.TemporaryDirectory()
    os.environ["GPTOSS_HOME"] = _HOME.name

import pytest

NOTEBOOK_LIMIT = 90  # seconds, in the quick profile on two cores
STRICT = bool(os.environ.get("COURSE_STRICT"))  # set where everything is installed: there a skip is a failure


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with outside data that is not part of the project: vocabularies, a sample of TinyStories."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "tiktoken_cache").is_dir():
        pytest.skip("needs ../shared with tiktoken_cache/ and data/tinystories_sample.txt")
    return folder


def pytest_terminal_summary(terminalreporter, exitstatus, config) -> None:
    kills = [report for report in _passed(terminalreporter) if "kill rate" in dict(report.user_properties)]
    if kills:
        terminalreporter.section("exercise checks")
        for report in kills:
            terminalreporter.line(f"{dict(report.user_properties)['kill rate']}  {report.nodeid}")
    seconds = _notebook_seconds(terminalreporter)
    if seconds:
        terminalreporter.section("slowest notebooks")
        for name, duration in sorted(seconds.items(), key=lambda item: -item[1])[:8]:
            note = f"  more than {NOTEBOOK_LIMIT} s" if duration > NOTEBOOK_LIMIT else ""
            terminalreporter.line(f"{duration:6.1f} s  {name}{note}")


def pytest_sessionfinish(session, exitstatus) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):
        return
    slow = any(duration > NOTEBOOK_LIMIT for duration in _notebook_seconds(reporter).values())
    skipped = STRICT and reporter.stats.get("skipped")
    if exitstatus == pytest.ExitCode.OK and (slow or skipped):
        if skipped:
            reporter.line("A test was skipped where none may be: install what it asks for.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _passed(reporter) -> list:
    return [report for report in reporter.stats.get("passed", []) if report.when == "call"]


def _notebook_seconds(reporter) -> dict[str, float]:
    """Add up how long each notebook's cells took."""
    seconds: dict[str, float] = defaultdict(float)
    for outcome in ("passed", "failed"):
        for report in reporter.stats.get(outcome, []):
            if ".ipynb" in report.nodeid:
                seconds[report.nodeid.split("::")[0]] += report.duration
    return seconds
