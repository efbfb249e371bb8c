"""Every mutant of the catalogue is killed by the tests that it names, and nothing else counts as a kill."""

import re

import pytest

from tests.mutants.__main__ import PAGE, full_job
from tests.mutants.catalogue import MUTANTS, SUITES, Edit, Mutant
from tests.mutants.harness import ROOT, Job, MutantError, complaints, mutated, quick_job, run

NAMES = [mutant.name for mutant in MUTANTS]
HARMLESS = Mutant(
    "harmless",
    "Nothing is wrong.",
    (Edit("norm", "y = F.rms_norm(", "y = 1 * F.rms_norm("),),
    ("test_norm.py::test_by_hand",),
)
BROKEN = (Edit("norm", "import torch\n", "import torch_that_does_not_exist as torch\n"),)


@pytest.fixture(scope="module")
def outcomes():
    """What the quick tests say to every mutant, and to a few jobs that must not count as kills."""
    jobs = [quick_job(mutant) for mutant in MUTANTS]
    everything = tuple(dict.fromkeys(test for job in jobs for test in job.tests))
    odd = [
        quick_job(HARMLESS),
        Job("broken", BROKEN, ("tests/test_norm.py",)),
        Job("no such test", (), ("tests/test_norm.py::test_nothing",)),
        Job("not imported", HARMLESS.edits, ("tests/test_settings.py",)),
    ]
    return run([Job("unmutated", (), everything), *jobs, *odd])


def test_the_unmutated_copy_passes(outcomes):
    assert outcomes["unmutated"].problems == []
    assert set(outcomes["unmutated"].tests.values()) == {"passed"}


@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_is_killed(outcomes, mutant):
    assert complaints(mutant, outcomes[mutant.name]) == []


def test_a_survivor_is_named(outcomes):
    assert complaints(HARMLESS, outcomes["harmless"]) == ["harmless survives test_norm.py::test_by_hand."]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "tests/test_norm.py could not be collected"),
        ("no such test", "could not"),
        ("not imported", "No test imports gptoss_lib.norm."),
    ],
)
def test_what_proves_nothing_is_a_problem(outcomes, name, message):
    assert message in "\n".join(outcomes[name].problems)


@pytest.mark.parametrize("old", ["F.layer_norm(", "self.eps"])
def test_an_edit_must_fit_exactly_once(old):
    source = (ROOT / "gptoss_lib" / "norm.py").read_text(encoding="utf-8")
    with pytest.raises(
        MutantError, match=r"Mutant rotten: gptoss_lib/norm.py holds .* \d times, but .* once"
    ):
        mutated(source, [Edit("norm", old, "")], "rotten")


def test_the_catalogue_is_tidy():
    assert len(set(NAMES)) == len(NAMES)
    for mutant in MUTANTS:
        assert re.fullmatch(r"[a-z0-9-]+", mutant.name) and mutant.wrong.endswith(".") and mutant.killers
        assert all(edit.old != edit.new for edit in mutant.edits) and mutant.modules
    for file in {file for files in SUITES.values() for file in files}:
        assert (ROOT / file).exists(), file


def test_the_page_names_every_mutant_and_tests_that_exist():
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z0-9-]+) \| (.+?) \| (.+?) \| (.+?) \|$", page, re.MULTILINE)
    assert {name: wrong for name, wrong, *_ in rows} == {mutant.name: mutant.wrong for mutant in MUTANTS}
    by_name = {mutant.name: mutant for mutant in MUTANTS}
    for name, _, *cells in rows:
        sources = "".join((ROOT / file).read_text(encoding="utf-8") for file in full_job(by_name[name]).tests)
        tests = re.findall(r"`(test_\w+)`", "".join(cells))
        assert tests, f"{name} survived"
        assert all(f"def {test}(" in sources for test in tests), name
