"""The one-way street from ``notebooks/NN_topic.py`` to ``notebooks/NN_topic.ipynb``.

The ``.py`` is what one edits; the ``.ipynb`` holds the same cells with the outputs of a clean run.
File times play no part.
"""

import hashlib
import sys
from pathlib import Path

import jupytext
import nbformat

from book._tools.course_map import CHAPTERS
from book._tools.repository import address

SETUP_TAG = "setup"
_SETUP = """\
# In Colab this installs the course's library; anywhere else it does nothing.
import sys

if "google.colab" in sys.modules:
    %pip install -q "gptoss-lib @ git+{address}"
"""


def read_source(path: Path) -> nbformat.NotebookNode:
    """Return the notebook that ``path`` (percent format) describes, without outputs.

    The cell tagged ``setup`` gets the snippet that installs the package in Colab, and every cell
    gets an id that depends on its text alone, so that a new run changes as little as possible.
    """
    parsed = jupytext.read(path, fmt={"extension": ".py", "format_name": "percent"})
    seen: dict[str, int] = {}
    cells = []
    for cell in parsed.cells:
        metadata = {key: value for key, value in cell.metadata.items() if key in ("tags", "nbgrader")}
        if SETUP_TAG in metadata.get("tags", []):
            cell.source = _SETUP.format(address=address()).strip()
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:10]
        seen[digest] = seen.get(digest, 0) + 1
        make = nbformat.v4.new_markdown_cell if cell.cell_type == "markdown" else nbformat.v4.new_code_cell
        cells.append(make(cell.source, metadata=metadata, id=f"{digest}-{seen[digest]}"))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}}
    )


def differences(source: Path) -> list[str]:
    """Say, a line each, where the ``.ipynb`` beside ``source`` has other cells or metadata."""
    notebook = source.with_suffix(".ipynb")
    if not notebook.exists():
        return [f"{notebook.name} is missing"]
    ours, theirs = read_source(source).cells, nbformat.read(notebook, as_version=4).cells
    found = (
        [f"{source.name} has {len(ours)} cells, {notebook.name} {len(theirs)}"]
        if len(ours) != len(theirs)
        else []
    )
    for number, (left, right) in enumerate(zip(ours, theirs, strict=False), start=1):
        for part in ("cell_type", "source", "metadata"):
            if left[part] != right[part]:
                found.append(f"{notebook.name}, cell {number}: its {part} is not that of {source.name}")
    return found


def main() -> int:
    sources = [path for chapter in CHAPTERS for path in (chapter.source, chapter.exercises)]
    found = [difference for source in sources for difference in differences(source)]
    print("\n".join(found), end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
