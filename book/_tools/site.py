"""Build the website.

    python -m book._tools.site [--output _build/html]

Sphinx reads a copy of the pages in ``_build/source``, in which the exercise notebooks show what the
student sees, with each solution folded away and no hidden test. A warning is an error.
"""

import argparse
import copy
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
from filelock import FileLock
from jupyter_book.sphinx import build_sphinx

from book._tools.course_map import CHAPTERS, ROOT
from book._tools.export import MARKER
from book._tools.pairs import SETUP_TAG
from book._tools.release import student_notebook
from book._tools.web_assets import AssetsError, assets

BUILD = ROOT / "_build"
SOURCE = BUILD / "source"
OUTPUT = BUILD / "html"

_MARKERS = re.compile(r"^[ \t]*### (BEGIN|END) SOLUTION[ \t]*\n?", re.MULTILINE)

_HEADING_LINK = re.compile(r"\]\(((?:[\w./-]+\.ipynb)?)#([^)\s]+)\)")
_PROMPTS = {"code_prompt_show": "Show a solution", "code_prompt_hide": "Hide the solution"}

_REDIRECT = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>GPT-OSS from scratch</title>
<link rel="icon" href="data:,">
<meta http-equiv="refresh" content="0; url=book/index.html">
<link rel="canonical" href="book/index.html">
<p><a href="book/index.html">GPT-OSS from scratch</a></p>
</html>
"""


class SiteError(Exception):
    """The site could not be built; the message says why, in one sentence."""


def build(output: Path = OUTPUT) -> Path:
    """Build the website into ``output`` and return it. Only what changed is built again.

    Raises:
        SiteError: if a chapter has not been run, a package is missing, or Sphinx warned.
    """
    output = Path(output).resolve()
    BUILD.mkdir(exist_ok=True)
    with FileLock(BUILD / "site.lock"):
        try:
            assets()
        except AssetsError as error:
            raise SiteError(str(error)) from error
        write_sources()
        doctrees = BUILD / "doctrees" / output.name
        result = build_sphinx(
            str(SOURCE),
            str(output),
            path_config=SOURCE / "_config.yml",
            noconfig=True,
            confoverrides={"external_toc_path": "_toc.yml", "latex_individualpages": False},
            doctreedir=str(doctrees),
            quiet=True,
            warningiserror=True,
            keep_going=True,
        )
        if result != 0:
            # Sphinx would not repeat a page's warnings on the next build.
            shutil.rmtree(doctrees, ignore_errors=True)
            raise SiteError("The website has errors: correct the pages that the warnings above name.")
        (output / "index.html").write_text(_REDIRECT, encoding="utf-8")
        for chapter in CHAPTERS:
            # What the download buttons give: the chapter as it is, the exercises as they are released.
            downloads = output / "_sources" / "notebooks"
            shutil.copy(chapter.source.with_suffix(".ipynb"), downloads)
            nbformat.write(
                student_notebook(chapter.exercises), downloads / "exercises" / f"{chapter.stem}.ipynb"
            )
    return output


def write_sources() -> Path:
    """Bring ``_build/source`` up to date and return it; a file whose text is the same keeps its time.

    Raises:
        SiteError: if a notebook is missing.
    """
    files = {name: (ROOT / name).read_bytes() for name in ("_config.yml", "_toc.yml", "book/references.bib")}
    for path in [*ROOT.glob("book/*.md"), *ROOT.glob("book/reference/*.md"), *ROOT.glob("book/_static/**/*")]:
        if path.is_file():
            files[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    for chapter in CHAPTERS:
        page = chapter_page(_stored(chapter.source, chapter.number))
        files[f"notebooks/{chapter.stem}.ipynb"] = nbformat.writes(page).encode()
        page = exercise_page(_stored(chapter.exercises, chapter.number), student_notebook(chapter.exercises))
        files[f"notebooks/exercises/{chapter.stem}.ipynb"] = nbformat.writes(page).encode()
    style_changed = False
    for name, content in files.items():
        target = SOURCE / name
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            style_changed |= name.startswith("book/_static/")
    if style_changed:  # Sphinx copies a new style only when there is a page to build
        (SOURCE / "book" / "index.md").touch()
    for path in SOURCE.rglob("*"):
        if path.is_file() and path.relative_to(SOURCE).as_posix() not in files:
            path.unlink()
    return SOURCE


def _stored(source: Path, number: str) -> nbformat.NotebookNode:
    path = source.with_suffix(".ipynb")
    if not path.exists():
        raise SiteError(f"{path.relative_to(ROOT)} is missing; run ./course run {number}.")
    return nbformat.read(path, as_version=4)


def chapter_page(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the notebook as the site shows it.

    The cell that only Colab needs is not shown, a cell of the library carries a label in place of its
    export marker, and links to headings, which keep their capitals in Jupyter, lead to the site's.
    """
    page = copy.deepcopy(notebook)
    for cell in page.cells:
        if cell.cell_type == "markdown":
            cell.source = _HEADING_LINK.sub(_site_link, cell.source)
        if SETUP_TAG in cell.metadata.get("tags", []):
            _tag(cell, "remove-cell")
        if cell.cell_type == "code" and cell.source.startswith(MARKER):
            cell.source = cell.source.removeprefix(MARKER).lstrip("\n")
            _tag(cell, "export")
    return page


def _site_link(match: re.Match) -> str:
    anchor = re.sub(r"[^\w-]", "", unquote(match[2]).lower())
    return f"]({match[1]}#{anchor})"


def _tag(cell: nbformat.NotebookNode, *tags: str) -> None:
    cell.metadata["tags"] = [*cell.metadata.get("tags", []), *tags]


def exercise_page(notebook: nbformat.NotebookNode, student: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the exercises as the site shows them.

    Each cell is the student's, with the stored output; the solution follows, folded; a line before
    a check says how many points it gives.

    Args:
        notebook: the exercises with solutions and outputs.
        student: the same cells as they are released.

    Raises:
        SiteError: if the two do not have the same cells.
    """
    if len(notebook.cells) != len(student.cells):
        raise SiteError("An exercise notebook is older than its source; run ./course run with its number.")
    page = chapter_page(notebook)
    cells = []
    for cell, released in zip(page.cells, student.cells, strict=True):
        graded = cell.metadata.get("nbgrader", {})
        if graded.get("points"):
            cells.append(_points(graded["points"], cell.id))
        if graded.get("solution") and cell.cell_type == "code":
            task = nbformat.v4.new_code_cell(released.source, id=f"{cell.id}-task")
            cell.source = _MARKERS.sub("", cell.source).rstrip()
            _tag(cell, "hide-input", "solution")
            cell.metadata["mystnb"] = _PROMPTS
            cells += [task, cell]
        else:
            cell.source = released.source
            cells.append(cell)
    page.cells = cells
    return page


def _points(points: float, cell_id: str) -> nbformat.NotebookNode:
    label = f"{points:g} point" + "s" * (points != 1)
    markup = f'<p class="course-points">Check · {label}</p>'
    return nbformat.v4.new_markdown_cell(markup, id=f"{cell_id}-points")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="book._tools.site", description="Build the website.")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the folder to build into (_build/html)")
    try:
        build(parser.parse_args(arguments).output)
    except SiteError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
