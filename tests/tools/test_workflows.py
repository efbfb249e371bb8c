"""The GitHub workflows are valid, and safe by a linter's standards."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from book._tools.course_map import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
BIN = Path(sys.executable).parent


def lint(*command: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([BIN / command[0], *command[1:]], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_is_valid_and_safe(workflow):
    schema = lint("check-jsonschema", "--builtin-schema", "vendor.github-workflows", workflow)
    assert schema.returncode == 0, schema.stdout
    audit = lint("zizmor", "--offline", "--quiet", workflow)
    assert audit.returncode == 0, audit.stdout


def test_the_linter_sees_a_bad_workflow(tmp_path):
    bad = tmp_path / "bad.yml"
    bad.write_text(WORKFLOWS[0].read_text().replace("runs-on:", "run-on:"))
    assert lint("check-jsonschema", "--builtin-schema", "vendor.github-workflows", bad).returncode == 1


def test_citation_and_environment_agree_with_the_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{citation["version"]}"' in pyproject
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert {"pip": ["--constraint constraints.txt", "--editable .[dev]"]} in conda["dependencies"]


def test_ruff_is_content():
    check = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert check.returncode == 0, check.stdout
    layout = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert layout.returncode == 0, layout.stdout
