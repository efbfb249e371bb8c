"""Every notebook holds the cells of its ``.py``, with the outputs of a complete run."""

import nbformat
import pytest

from book._tools import pairs
from book._tools.course_map import CHAPTERS

SOURCES = [path for chapter in CHAPTERS for path in (chapter.source, chapter.exercises)]

PERCENT = """\
# %% [markdown]
# # Title

# %% tags=["setup"]
# placeholder

# %% tags=["hide-input"]
print(1)
"""


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_notebook_is_its_source(source):
    assert pairs.differences(source) == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_notebook_was_run_from_top_to_bottom(source):
    cells = [
        cell for cell in nbformat.read(source.with_suffix(".ipynb"), 4).cells if cell.cell_type == "code"
    ]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)


@pytest.fixture
def pair(tmp_path):
    source = tmp_path / "01_x.py"
    source.write_text(PERCENT)
    nbformat.write(pairs.read_source(source), source.with_suffix(".ipynb"))
    return source


def test_fresh_pair_agrees(pair):
    assert pairs.differences(pair) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("print(1)", "print(2)", "cell 3: its source"),
        ('["hide-input"]', '["hide-cell"]', "cell 3: its metadata"),
        ("# # Title", "# # Other", "cell 1: its source"),
        ("# %% [markdown]", "# %%", "cell 1: its cell_type"),
        ("print(1)\n", "print(1)\n\n# %%\nprint(3)\n", "has 4 cells"),
    ],
)
def test_every_kind_of_difference_is_found(pair, old, new, said):
    pair.write_text(PERCENT.replace(old, new))
    assert any(said in line for line in pairs.differences(pair))


def test_missing_notebook_is_found(pair):
    pair.with_suffix(".ipynb").unlink()
    assert pairs.differences(pair) == ["01_x.ipynb is missing"]


def test_ids_depend_on_the_text_alone(pair):
    before = [cell.id for cell in pairs.read_source(pair).cells]
    pair.write_text(PERCENT.replace("print(1)", "print(2)"))
    after = [cell.id for cell in pairs.read_source(pair).cells]
    assert before[:2] == after[:2]
    assert before[2] != after[2]


def test_setup_cell_installs_in_colab_only(pair):
    setup = pairs.read_source(pair).cells[1].source
    assert 'if "google.colab" in sys.modules:\n    %pip install' in setup
    assert pairs.address() in setup


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_first_code_cell_is_the_generated_setup(source):
    first = next(cell for cell in pairs.read_source(source).cells if cell.cell_type == "code")
    assert pairs.SETUP_TAG in first.metadata.get("tags", [])
