"""``python -m tests.mutants check [NAME …]`` and ``python -m tests.mutants report``."""

import argparse
import sys
from collections.abc import Iterable

from book._tools.course_map import CHAPTERS
from tests.mutants.catalogue import MUTANTS, SUITES, Mutant
from tests.mutants.harness import ROOT, Job, MutantError, Outcome, complaints, is_case_of, quick_job, run

PAGE = ROOT / "book" / "mutants.md"
SHOWN = 3  # tests that a cell of the table names

_INTRODUCTION = """\
# Mutants

<!-- Written by python -m tests.mutants report; edit that file, not this one. -->

A test suite that passes proves little until you know what it would not let pass. So the library is broken on
purpose, in the ways in which people break it: a window that is one key too wide, a clamp on the wrong
side, sinks that are there and unused. Each of these *mutants* is a copy of the package with one bug,
and the same tests run against it. A mutant is *killed* when a test fails. All {count} of them are killed,
and the copy without a bug passes every one of these tests.

Read the table as a map of what the tests see. *Unit* are the tests of the module itself, which compare
with formulas and with slow, obvious versions; *parity* are those that compare with the published
implementations ([the scoreboard](scoreboard.md)). A cell gives the number of failing cases and names up to
{shown} of their tests. Where parity is empty, the comparison does not reach what the mutant breaks: fresh
weights, noise in the router, packed documents in the layer, the casts of a whole model. Many of the bugs
change nothing in short prompts and small activations: they show only beyond the window and beyond the clamp,
so that is where the tests go.

A mutant is a piece of the source that must stand there exactly once, and its replacement: see
[`tests/mutants/catalogue.py`]({{{{ repository }}}}/blob/main/tests/mutants/catalogue.py). Whoever changes the
line is told to adapt the mutant. Every run of the suite checks that a few quick tests kill each of them;
`python -m tests.mutants report` runs all tests and writes this page. When you write a test, break the code
once and see it fail. A bug that you found and that nothing caught makes the next mutant.
"""


def full_job(mutant: Mutant) -> Job:
    """Return the job with all tests, unit and parity, of the modules that a mutant changes."""
    files = [file for module in mutant.modules for file in SUITES[module]]
    own = tuple(dict.fromkeys(files))
    return Job(mutant.name, mutant.edits, own)


def page(outcomes: dict[str, Outcome]) -> str:
    """Return the text of the page from what :func:`full_job` found for each mutant."""
    lines = [_INTRODUCTION.format(count=len(MUTANTS), shown=SHOWN)]
    for chapter in CHAPTERS:
        own = [mutant for mutant in MUTANTS if mutant.modules[0] == chapter.module]
        if not own:
            continue
        lines += [
            f"## `{chapter.module}`",
            "",
            "| Mutant | What is wrong | Unit | Parity |",
            "|---|---|---|---|",
        ]
        for mutant in own:
            failed = outcomes[mutant.name].failed
            parity = [test for test in failed if "/parity/" in test]
            unit = [test for test in failed if test not in parity]
            # The tests that were picked by hand come first.
            unit.sort(key=lambda test: not any(is_case_of(test, f"tests/{one}") for one in mutant.killers))
            lines.append(f"| {mutant.name} | {mutant.wrong} | {_cell(unit)} | {_cell(parity)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(failed: list[str]) -> str:
    names = list(dict.fromkeys(test.split("::")[-1].split("[")[0] for test in failed))
    if not names:
        return "–"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    cases = f"{len(failed)} case" + "s" * (len(failed) > 1)
    return f"{cases}: " + ", ".join(f"`{name}`" for name in names[:SHOWN]) + more


def check(mutants: Iterable[Mutant]) -> list[str]:
    """Run the quick tests against these mutants, and say which of them survive."""
    mutants = list(mutants)
    outcomes = run(quick_job(mutant) for mutant in mutants)
    return [line for mutant in mutants for line in complaints(mutant, outcomes[mutant.name])]


def report() -> list[str]:
    """Run all tests against all mutants, write the page, and say what does not allow to."""
    jobs = [full_job(mutant) for mutant in MUTANTS]
    everything = tuple(dict.fromkeys(file for job in jobs for file in job.tests))
    outcomes = run([Job("unmutated", (), everything), *jobs], time_limit=600)
    found = [f"The unmutated copy fails {test}." for test in outcomes["unmutated"].failed]
    found += outcomes["unmutated"].problems
    for mutant in MUTANTS:
        found += complaints(mutant, outcomes[mutant.name])
    if not found:
        PAGE.write_text(page(outcomes), encoding="utf-8")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="tests.mutants", description="Break the library, and see it noticed."
    )
    parser.add_argument("command", choices=("check", "report"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants to check; all, if none is named")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - {mutant.name for mutant in MUTANTS}
    if unknown or (options.names and options.command == "report"):
        parser.error(
            f"there is nothing to {options.command} named {', '.join(sorted(unknown or options.names))}"
        )
    try:
        if options.command == "report":
            found = report()
        else:
            found = check(mutant for mutant in MUTANTS if not options.names or mutant.name in options.names)
    except MutantError as error:
        found = [str(error)]
    print("\n".join(found) if found else "Every mutant is killed.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
