"""The parity scoreboard, ``book/scoreboard.md``, from the tests that compare the library with others.

    python -m book._tools.scoreboard [--check]

A test under ``tests/parity`` records its ``largest difference``: a number, "equal" where it asserts that
nothing differs at all, or "no comparison". A number may come with a ``tolerance`` other than 1e-5. The
file's name, ``test_<module>_<reference>.py``, says what is compared with what; a test can record
another ``reference``, and the ``component`` of the module.
"""

import argparse
import importlib.metadata
import platform
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

from book._tools.course_map import CHAPTERS, ROOT

PAGE = ROOT / "book" / "scoreboard.md"
TESTS = ROOT / "tests" / "parity"
TOLERANCE = 1e-5  # the promise of the course, in fp32
EQUAL, NO_COMPARISON = "equal", "no comparison"

# Package → what is taken from it.
REFERENCES = {
    "torch": "the optimizer, and the arithmetic that both sides run on",
    "transformers": "the published models in fp32, their files, samplers and schedules",
    "tiktoken": "the published vocabularies",
    "tokenizers": "the training of a vocabulary",
    "datasets": "the documents of TinyStories and of other files",
}
_FILE = re.compile(r"test_(\w+)_([a-z]+)")

_INTRODUCTION = """\
# Parity scoreboard

<!-- Written by python -m book._tools.scoreboard; edit that file, not this one. -->

"Equal to the real thing" is a claim, so here is what was measured. Each row is a part of the library
beside the published implementation of the same part: the same weights and inputs go into both, whole
tensors come out, and the tests compare every number. *Cases* is how many comparisons the row sums up, over
sizes, lengths, settings and precisions. *Largest difference* is the worst number of all of them, rounded to
one digit, because the last ones depend on the processor. A test fails where it exceeds the *tolerance*.
Where the row says *equal*, nothing may differ: tokens, names, counts, or all bits of a tensor.

A number in fp32 carries about seven digits, and each addition rounds the last one. Two programs that add the
same numbers in another order therefore differ by some 1e-7 of their size, and after a layer's thousands
of additions by some 1e-6. That is rounding; what is wrong is larger. A ramp of YaRN whose ends are rounded to
whole pairs moves frequencies by 2e-4: a tolerance of 1e-2 would let it pass, so those below are tight.
[The mutants](mutants.md) show what notices such bugs. A difference is absolute; where numbers grow
beyond 1, as in gradients, it is a share of the largest.

To measure again, run `python -m book._tools.scoreboard` in the course's environment; with `--check` it
compares this page with what it finds. It needs no network; the published vocabularies and a sample of
TinyStories are read from a folder beside the project, which
[`tests/conftest.py`]({{ repository }}/blob/main/tests/conftest.py) describes.
"""


class ScoreboardError(Exception):
    """The tests do not say what the page needs; the message says what is missing, a line each."""


@dataclass
class Row:
    """What the tests of one component and one reference found."""

    module: str
    component: str
    reference: str
    cases: int = 0
    differences: list[float] = field(default_factory=list)
    tolerances: list[float] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What must not change without a new page."""
        return self.module, self.component, self.reference, self.cases


def read(path: Path) -> list[Row]:
    """Return the rows of a JUnit file of the parity tests, in the order of the chapters.

    Raises:
        ScoreboardError: if a test failed or was skipped, does not say how large the difference is,
            has another one than it tolerates, or names a reference that this file does not know.
    """
    rows: dict[tuple[str, str, str], Row] = {}
    problems = []
    for case in ElementTree.parse(path).iter("testcase"):
        try:
            _add(case, rows)
        except ScoreboardError as problem:
            problems.append(f"{case.get('classname')}::{case.get('name')} {problem}")
    if problems:
        raise ScoreboardError("\n".join(problems))
    order = {chapter.module: place for place, chapter in enumerate(CHAPTERS)}
    return sorted(rows.values(), key=lambda row: order.get(row.module, len(order)))


def _add(case: ElementTree.Element, rows: dict) -> None:
    for outcome in ("failure", "error", "skipped"):
        found = case.find(outcome)
        if found is not None:
            raise ScoreboardError(f"did not pass ({outcome}): {found.get('message')}")
    properties = {entry.get("name"): entry.get("value") for entry in case.iter("property")}
    difference = properties.get("largest difference")
    if difference is None:
        raise ScoreboardError('does not record its largest difference: a number, "equal" or "no comparison".')
    if difference == NO_COMPARISON:
        return
    match = _FILE.fullmatch(case.get("classname").rsplit(".", 1)[-1])
    if match is None:
        raise ScoreboardError("is not in a file named test_<module>_<reference>.py.")
    module, reference = match[1], properties.get("reference", match[2])
    if reference.split()[0] not in REFERENCES:  # "transformers", or "transformers GptOssForCausalLM"
        raise ScoreboardError(f"compares with {reference!r}; known references are {', '.join(REFERENCES)}.")
    component = properties.get("component", module)
    row = rows.setdefault((module, component, reference), Row(module, component, reference))
    row.cases += 1
    if difference == EQUAL:
        return
    try:
        value, tolerance = float(difference), float(properties.get("tolerance", TOLERANCE))
    except ValueError as error:
        raise ScoreboardError(f"records what is not a number: {error}.") from error
    if not value <= tolerance:
        raise ScoreboardError(f"differs by {value:.1e}, which is more than its tolerance, {tolerance:.1e}.")
    row.differences.append(value)
    row.tolerances.append(tolerance)


def digit(value: float) -> str:
    """Write a number with one digit: 7e-6."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def page(rows: list[Row], versions: dict[str, str]) -> str:
    """Return the text of the page."""
    lines = [
        _INTRODUCTION,
        "## The table",
        "",
        "| Module | Component | Compared with | Cases | Largest difference | Tolerance |",
        "|---|---|---|---:|---:|---:|",
    ]
    for row in rows:
        if row.differences:
            found, allowed = digit(max(row.differences)), digit(max(row.tolerances))
        else:
            found, allowed = EQUAL, "none"
        module = f"[`{row.module}`](reference/{row.module}.md)"
        lines.append(f"| {module} | {row.component} | {row.reference} | {row.cases} | {found} | {allowed} |")
    lines += [
        "",
        "## The references",
        "",
        "| Package | Version | What is taken from it |",
        "|---|---|---|",
        *(f"| {name} | {versions[name]} | {use} |" for name, use in REFERENCES.items()),
        "",
        f"Measured with Python {versions['Python']} on a CPU. The tests:",
        "",
        *(f"- [`{name}`]({{{{ repository }}}}/blob/main/{name})" for name in test_files()),
    ]
    return "\n".join(lines) + "\n"


def test_files() -> list[str]:
    """Return the parity tests' files, from the project's root."""
    return [path.relative_to(ROOT).as_posix() for path in sorted(TESTS.glob("test_*.py"))]


def installed() -> dict[str, str]:
    """Return the versions of the references, without the label of a build, and Python's."""
    versions = {name: importlib.metadata.version(name).split("+")[0] for name in REFERENCES}
    return versions | {"Python": platform.python_version()}


def keys(text: str) -> list[tuple[str, str, str, int]]:
    """Return module, component, reference and cases of every row of the page's table."""
    rows = re.findall(r"^\| \[`(\w+)`\]\([^)]*\) \| (.+?) \| (.+?) \| (\d+) \|", text, re.MULTILINE)
    return [(module, component, reference, int(cases)) for module, component, reference, cases in rows]


def outdated(text: str, rows: list[Row]) -> list[str]:
    """Say, a line each, where the page's rows are not those found; digits of differences may differ."""
    written, found = set(keys(text)), {row.key for row in rows}
    return [
        *(f"The page says {row}, which the tests do not." for row in sorted(written - found)),
        *(f"The page does not have {row}." for row in sorted(found - written)),
    ]


def measure() -> list[Row]:
    """Run the parity tests and return what they found.

    Raises:
        ScoreboardError: where :func:`read` does, or if pytest could not run them.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "parity.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-o",
            "junit_family=xunit1",
        ]
        status = subprocess.run([*command, f"--junitxml={report}", str(TESTS)], cwd=ROOT).returncode
        if status > 1 or not report.exists():
            raise ScoreboardError("The parity tests could not be run; pytest's messages above say why.")
        return read(report)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="book._tools.scoreboard", description="Measure, and write book/scoreboard.md."
    )
    parser.add_argument("--check", action="store_true", help="only compare the page with the tests")
    check = parser.parse_args(arguments).check
    try:
        rows = measure()
    except ScoreboardError as error:
        print(error, file=sys.stderr)
        return 1
    if not check:
        PAGE.write_text(page(rows, installed()), encoding="utf-8")
        print(f"Wrote {PAGE.relative_to(ROOT)}")
        return 0
    found = outdated(PAGE.read_text(encoding="utf-8"), rows)
    if found:
        print("\n".join([*found, "Run python -m book._tools.scoreboard."]), file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
