"""The scoreboard adds up what the parity tests record, and refuses what they do not say."""

import re

import pytest

from book._tools import scoreboard
from book._tools.course_map import ROOT

PASSED = {"largest difference": "2e-6"}


def junit(folder, *cases):
    """Write a JUnit file; a case is a file's name, its properties, and an outcome other than passed."""
    lines = ["<testsuites><testsuite>"]
    for number, (name, properties, *outcome) in enumerate(cases):
        entries = "".join(f'<property name="{key}" value="{value}"/>' for key, value in properties.items())
        ending = "".join(f'<{kind} message="a reason"/>' for kind in outcome)
        lines.append(f'<testcase classname="tests.parity.{name}" name="test_{number}">')
        lines.append(f"<properties>{entries}</properties>{ending}</testcase>")
    path = folder / "report.xml"
    path.write_text("\n".join([*lines, "</testsuite></testsuites>"]))
    return path


def test_rows_add_up(tmp_path):
    norm = {"component": "RMSNorm", "tolerance": "1e-6"}
    rows = scoreboard.read(
        junit(
            tmp_path,
            ("test_moe_transformers", PASSED),
            ("test_norm_transformers", norm | {"largest difference": "3e-7"}),
            ("test_norm_transformers", norm | {"largest difference": "0.0"}),
            ("test_norm_transformers", {"component": "epsilon", "largest difference": "equal"}),
            ("test_norm_transformers", {"largest difference": "no comparison"}),
            ("test_tokenizer_tiktoken", {"largest difference": "equal", "reference": "tokenizers"}),
        )
    )
    assert [row.key for row in rows] == [
        ("tokenizer", "tokenizer", "tokenizers", 1),
        ("norm", "RMSNorm", "transformers", 2),
        ("norm", "epsilon", "transformers", 1),
        ("moe", "moe", "transformers", 1),
    ]
    assert rows[1].differences == [3e-7, 0.0] and rows[1].tolerances == [1e-6, 1e-6]
    assert rows[2].differences == [] and rows[3].tolerances == [scoreboard.TOLERANCE]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (("test_norm_transformers", {}), r"test_norm_transformers::test_1 does not record its largest"),
        (("test_norm_transformers", PASSED, "failure"), r"did not pass \(failure\): a reason"),
        (("test_norm_transformers", PASSED, "skipped"), r"did not pass \(skipped\): a reason"),
        (("test_norm_transformers", {}, "error"), r"did not pass \(error\)"),
        (("test_norm_numpy", PASSED), "compares with 'numpy'; known references are torch, transformers"),
        (("test_norm_transformers", PASSED | {"reference": "paper"}), "compares with 'paper'"),
        (("test_norm_transformers", PASSED | {"tolerance": "1e-6"}), "differs by 2.0e-06, which is more"),
        (("test_norm_transformers", {"largest difference": "nan"}), "differs by nan"),
        (("test_norm_transformers", {"largest difference": "tiny"}), "not a number"),
        (("test_norm", PASSED), "not in a file named"),
    ],
)
def test_what_is_missing_or_wrong_is_an_error(tmp_path, case, message):
    with pytest.raises(scoreboard.ScoreboardError, match=message):
        scoreboard.read(junit(tmp_path, ("test_moe_transformers", PASSED), case))


def test_all_problems_are_named_at_once(tmp_path):
    with pytest.raises(scoreboard.ScoreboardError) as error:
        scoreboard.read(junit(tmp_path, ("test_norm_numpy", PASSED), ("test_moe_transformers", {})))
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("value", "written"), [(0.0, "0"), (6.7e-6, "7e-6"), (1e-12, "1e-12"), (0.25, "2e-1")]
)
def test_one_digit(value, written):
    assert scoreboard.digit(value) == written


def test_a_page_is_read_back_and_compared_without_the_digits(tmp_path):
    cases = [
        ("test_norm_transformers", PASSED | {"component": "RMSNorm, bf16"}),
        ("test_norm_transformers", {"largest difference": "equal", "component": "epsilon"}),
    ]
    rows = scoreboard.read(junit(tmp_path, *cases))
    text = scoreboard.page(rows, dict.fromkeys([*scoreboard.REFERENCES, "Python"], "1.2"))
    assert scoreboard.keys(text) == [row.key for row in rows]
    assert scoreboard.outdated(text, rows) == []
    cases[0][1]["largest difference"] = "7e-7"
    assert scoreboard.outdated(text, scoreboard.read(junit(tmp_path, *cases))) == []
    more = scoreboard.outdated(text, scoreboard.read(junit(tmp_path, *cases, cases[0])))
    assert len(more) == 2 and "RMSNorm, bf16" in more[0] and "2)" in more[1]


def test_check_and_write(tmp_path, monkeypatch, capsys):
    rows = scoreboard.read(junit(tmp_path, ("test_norm_transformers", PASSED)))
    monkeypatch.setattr(scoreboard, "measure", lambda: rows)
    monkeypatch.setattr(scoreboard, "ROOT", tmp_path)
    monkeypatch.setattr(scoreboard, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(scoreboard, "test_files", list)
    assert scoreboard.main([]) == 0 == scoreboard.main(["--check"])
    rows[0].cases = 5
    assert scoreboard.main(["--check"]) == 1
    assert "Run python -m book._tools.scoreboard." in capsys.readouterr().err


# The page that is stored.


@pytest.fixture(scope="module")
def stored() -> str:
    return scoreboard.PAGE.read_text(encoding="utf-8")


def test_the_page_lists_every_parity_test(stored):
    assert re.findall(r"^- \[`(tests/parity/\w+\.py)`\]", stored, re.MULTILINE) == scoreboard.test_files()
    modules = {name.split("test_")[1].rsplit("_", 1)[0] for name in scoreboard.test_files()}
    assert {module for module, *_ in scoreboard.keys(stored)} == modules


def test_the_page_was_measured_with_the_pinned_versions(stored):
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    for name in scoreboard.REFERENCES:
        assert f"| {name} | {pins[name]} |" in stored, name


def test_no_row_exceeds_its_tolerance(stored):
    pairs = re.findall(r"\| (\de-\d+) \| (\de-\d+) \|$", stored, re.MULTILINE)
    assert pairs and all(float(found) <= float(allowed) for found, allowed in pairs)
