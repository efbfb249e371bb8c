"""The website's sources and what is built of them, without a browser."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from pybtex.database import parse_file

from book._ext import course_site
from book._tools import site as site_tool
from book._tools import web_assets
from book._tools.course_map import CHAPTERS, HAND_WRITTEN, ROOT
from book._tools.repository import address

PAGES = [*ROOT.glob("book/*.md"), *ROOT.glob("book/reference/*.md")]


@pytest.fixture(scope="module")
def site() -> Path:
    return site_tool.build()


def test_the_table_of_contents_is_that_of_the_course_map():
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    numbered = [entry for part in parts if part.get("numbered") for entry in part["chapters"]]
    assert [entry["file"] for entry in numbered] == [f"notebooks/{chapter.stem}" for chapter in CHAPTERS]
    exercises = [[section["file"] for section in entry["sections"]] for entry in numbered]
    assert exercises == [[f"notebooks/exercises/{chapter.stem}"] for chapter in CHAPTERS]


def test_every_page_in_book_is_in_the_table_of_contents():
    listed = set(re.findall(r"(?:file|root): (book/\S+)", (ROOT / "_toc.yml").read_text(encoding="utf-8")))
    assert listed == {path.relative_to(ROOT).with_suffix("").as_posix() for path in PAGES}


def test_a_chapter_has_the_number_of_its_file(site):
    for chapter in CHAPTERS:
        page = (site / "notebooks" / f"{chapter.stem}.html").read_text(encoding="utf-8")
        assert f'<h1><span class="section-number">{int(chapter.number)}. </span>' in page, chapter.stem


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.module)
def test_the_library_reference_has_a_page_a_module(chapter):
    text = (ROOT / "book" / "reference" / f"{chapter.module}.md").read_text(encoding="utf-8")
    assert f".. automodule:: gptoss_lib.{chapter.module}\n" in text
    assert f"(../../notebooks/{chapter.stem}.ipynb)" in text


def test_the_library_reference_has_the_hand_written_modules():
    text = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("book/reference/*.md"))
    for module in [*(set(HAND_WRITTEN) - {"__init__"}), "checks"]:
        assert f".. automodule:: gptoss_lib.{module}\n" in text


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.module)
def test_a_chapter_and_its_module_link_to_each_other(site, chapter):
    page = (site / "notebooks" / f"{chapter.stem}.html").read_text(encoding="utf-8")
    reference = (site / "book" / "reference" / f"{chapter.module}.html").read_text(encoding="utf-8")
    assert f'href="../book/reference/{chapter.module}.html"' in page
    assert f'href="../../notebooks/{chapter.stem}.html"' in reference


# ---------- The repository's address ----------


def test_the_address_stands_in_pyproject_alone():
    assert f'Repository = "{address()}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for path in [ROOT / "_config.yml", ROOT / "_toc.yml", *PAGES, *ROOT.glob("book/_ext/*.py")]:
        assert course_site.owner_and_name() not in path.read_text(encoding="utf-8"), path.name


def test_the_site_moves_with_the_address(monkeypatch):
    monkeypatch.setattr(course_site, "address", lambda: "https://github.com/someone/copy")
    urls = course_site.launch("notebooks/01_map")
    colab = "https://colab.research.google.com/github/someone/copy/blob"
    assert urls["Colab"] == f"{colab}/main/notebooks/01_map.ipynb"
    assert urls["Binder"].startswith("https://mybinder.org/v2/gh/someone/copy/main?")
    source = ["{{ repository }} {{ colab }}/a.ipynb {{ student }}/b.ipynb"]
    course_site.fill_in(None, "book/index", source)
    assert source == [f"https://github.com/someone/copy {colab}/main/a.ipynb {colab}/student/b.ipynb"]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem)
def test_chapters_and_exercises_open_in_colab_and_binder(site, chapter):
    name = course_site.owner_and_name()
    for page, path in (
        (f"notebooks/{chapter.stem}", f"main/notebooks/{chapter.stem}.ipynb"),
        (f"notebooks/exercises/{chapter.stem}", f"student/exercises/{chapter.stem}.ipynb"),
    ):
        text = (site / f"{page}.html").read_text(encoding="utf-8")
        colab = set(re.findall(r'href="(https://colab\.research\.google\.com/[^"]+)"', text))
        assert colab == {f"https://colab.research.google.com/github/{name}/blob/{path}"}
        branch, file = path.split("/", 1)
        binder = set(re.findall(r'href="(https://mybinder\.org/[^"]+)"', text))
        assert binder == {f"https://mybinder.org/v2/gh/{name}/{branch}?urlpath=lab/tree/{file}"}
        assert text.count("mybinder.org") == 2  # the menu and the line under the title


# ---------- Exercises ----------


def exercise_cells():
    solution = nbformat.v4.new_code_cell(
        "def double(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION",
        metadata={"nbgrader": {"solution": True, "grade": False}},
    )
    test = nbformat.v4.new_code_cell(
        "assert double(2) == 4\n### BEGIN HIDDEN TESTS\nassert double(7) == 14\n### END HIDDEN TESTS",
        metadata={"nbgrader": {"solution": False, "grade": True, "points": 2}},
    )
    setup = nbformat.v4.new_code_cell("%pip install …", metadata={"tags": ["setup"]})
    full = nbformat.v4.new_notebook(cells=[setup, solution, test])
    student = nbformat.from_dict(full)
    student.cells[1]["source"] = "def double(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()"
    student.cells[2]["source"] = "assert double(2) == 4"
    return full, student


def test_an_exercise_page_shows_the_task_then_the_folded_solution():
    full, student = exercise_cells()
    setup, task, solution, points, check = site_tool.exercise_page(full, student).cells
    assert "remove-cell" in setup.metadata["tags"]
    assert task.source == student.cells[1].source
    assert solution.source == "def double(x):\n    return 2 * x"
    assert "hide-input" in solution.metadata["tags"]
    assert solution.metadata["mystnb"]["code_prompt_show"] == "Show a solution"
    assert "2 points" in points.source
    assert check.source == "assert double(2) == 4"
    assert "### BEGIN" in full.cells[1].source  # what was passed in is as it was


def test_a_library_cell_carries_a_label_in_place_of_its_marker():
    cell = nbformat.v4.new_code_cell("#| export\ndef f(): ...")
    (shown,) = site_tool.chapter_page(nbformat.v4.new_notebook(cells=[cell])).cells
    assert shown.source == "def f(): ..."
    assert shown.metadata["tags"] == ["export"]


def test_a_link_to_a_heading_works_in_jupyter_and_on_the_site():
    links = "[a](#The-course's-corpus), [b](02_tokens.ipynb#Text-is-bytes), [c](x.md#y)"
    cell = nbformat.v4.new_markdown_cell(links)
    (shown,) = site_tool.chapter_page(nbformat.v4.new_notebook(cells=[cell])).cells
    assert shown.source == "[a](#the-courses-corpus), [b](02_tokens.ipynb#text-is-bytes), [c](x.md#y)"


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem)
def test_a_chapter_is_downloaded_as_it_is(site, chapter):
    download = site / "_sources" / "notebooks" / f"{chapter.stem}.ipynb"
    assert download.read_bytes() == chapter.source.with_suffix(".ipynb").read_bytes()


def test_an_exercise_older_than_its_source_is_named():
    full, student = exercise_cells()
    with pytest.raises(site_tool.SiteError, match=r"run \./course run"):
        site_tool.exercise_page(full, nbformat.v4.new_notebook(cells=student.cells[:2]))


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem)
def test_the_built_exercises_hide_what_they_should(site, chapter):
    page = (site / "notebooks" / "exercises" / f"{chapter.stem}.html").read_text(encoding="utf-8")
    notebook = nbformat.read(chapter.exercises.with_suffix(".ipynb"), as_version=4)
    graded = [cell.metadata.get("nbgrader", {}) for cell in notebook.cells]
    solutions = [cell for cell in notebook.cells if "### BEGIN SOLUTION" in cell.source]
    assert page.count("Show a solution") == len(solutions) > 0
    assert page.count('class="course-points"') == sum("points" in metadata for metadata in graded) > 0
    assert not re.search(r"(BEGIN|END)</?[^>]*>? ?(SOLUTION|HIDDEN)|HIDDEN TESTS|google\.colab", page)
    path = site / "_sources" / "notebooks" / "exercises" / f"{chapter.stem}.ipynb"
    download = path.read_text(encoding="utf-8")
    assert "YOUR CODE HERE" in download
    assert "SOLUTION" not in download and "HIDDEN" not in download


def test_a_missing_notebook_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(site_tool, "ROOT", tmp_path)
    message = r"^notebooks/01_map\.ipynb is missing; run \./course run 01\.$"
    with pytest.raises(site_tool.SiteError, match=message):
        site_tool._stored(tmp_path / "notebooks" / "01_map.py", "01")


# ---------- JavaScript and fonts ----------


def test_the_lock_file_names_no_host():
    lock = (ROOT / "book" / "web" / "package-lock.json").read_text(encoding="utf-8")
    assert '"resolved"' not in lock
    assert lock.count('"integrity": "sha512-') > 4


def test_without_a_network_the_reason_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(web_assets, "CACHE", tmp_path / "web")
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    message = (
        r"^The website's JavaScript could not be installed \(E[A-Z]+\); connect to a network and build again"
    )
    with pytest.raises(web_assets.AssetsError, match=message):
        web_assets.assets()
    assert not list((tmp_path / "web").iterdir())


def test_the_site_carries_its_own_javascript_and_fonts(site):
    web = site / "_static" / "web"
    for name in ("mathjax/tex-chtml-full.js", "require.js", "embed-amd.js", "fonts/inter.woff2"):
        assert (web / name).stat().st_size > 10_000
    loads = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=\"(?:https?:)?//[^>]+>")
    for page in site.rglob("*.html"):
        found = loads.findall(page.read_text(encoding="utf-8"))
        assert not found, f"{page.relative_to(site)} loads {found}"


# ---------- Links ----------


class Links(HTMLParser):
    """The addresses in a page and the anchors it offers."""

    def __init__(self, text: str):
        super().__init__()
        self.targets, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        self.targets += [attributes[name] for name in ("href", "src") if attributes.get(name)]


def dead_links(root: Path) -> list[str]:
    """Return a line for every address in the pages under ``root`` that leads nowhere inside it."""
    paths = [path for path in root.rglob("*.html") if path.relative_to(root).parts[0] != "_static"]
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in paths}
    found = []
    for path, page in pages.items():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not goal.is_file():
                found.append(f"{path.relative_to(root)}: {target} does not exist")
            elif parts.fragment and goal in pages and unquote(parts.fragment) not in pages[goal].anchors:
                found.append(f"{path.relative_to(root)}: {target} has no such place")
    return found


def test_no_link_inside_the_site_is_dead(site):
    assert dead_links(site) == []


def test_dead_links_are_found(tmp_path):
    links = '<a href="b.html#here">x</a><a href="b.html#gone">x</a><img src="no.png">'
    (tmp_path / "a.html").write_text(links)
    (tmp_path / "b.html").write_text('<p id="here">x</p><a href="https://example.org/">x</a>')
    assert dead_links(tmp_path) == ["a.html: b.html#gone has no such place", "a.html: no.png does not exist"]


# ---------- References ----------

_CITED = re.compile(r"https?://(?:arxiv\.org|doi\.org|github\.com)/[^\s)\]>\"'`]+")


def bibliography() -> set[str]:
    return {entry.fields["url"] for entry in parse_file(ROOT / "book" / "references.bib").entries.values()}


def covered(url: str, urls: set[str]) -> bool:
    """Whether ``url`` is in the bibliography; a file or an issue is covered by its repository."""
    url = url.rstrip(".,;:*_").split("#")[0]
    if url.startswith("https://github.com/"):
        url = "/".join(url.split("/")[:5]).removesuffix(".git")
    return url in urls


def test_every_citation_has_an_entry():
    urls = bibliography()
    missing = {}
    for path in [*ROOT.glob("notebooks/**/*.py"), *PAGES]:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".md":
            text = re.sub(r"`[^`]+`", "", text)  # addresses in commands
        cited = set(_CITED.findall(text))
        lost = sorted(url for url in cited if not covered(url, urls) and not url.startswith(address()))
        if lost:
            missing[path.name] = lost
    assert not missing


def test_a_missing_citation_is_found():
    urls = {"https://arxiv.org/abs/1706.03762", "https://github.com/openai/gpt-oss"}
    assert covered("https://arxiv.org/abs/1706.03762", urls)
    assert covered("https://github.com/openai/gpt-oss/blob/main/gpt_oss/torch/model.py#L1", urls)
    assert not covered("https://arxiv.org/abs/1706.03763", urls)
    assert not covered("https://github.com/openai/gpt-oss-2", urls)


def test_the_bibliography_is_complete_and_orderly():
    entries = parse_file(ROOT / "book" / "references.bib").entries
    urls = [entry.fields.get("url") for entry in entries.values()]
    assert len(set(urls)) == len(urls)
    for key, entry in entries.items():
        url = entry.fields["url"]
        assert entry.persons.get("author") and entry.fields.get("title"), key
        assert entry.fields.get("year") or url.startswith("https://github.com/"), key
        assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{4,5}|https://(?!arxiv)\S+", url), key
    assert not list(ROOT.glob("book/refs/*.bib"))


# ---------- The library reference ----------


def test_the_comments_of_a_dataclass_document_its_fields():
    source = '''
    class Config:
        """A config."""

        width: int = 4  # numbers in a vector
        names: tuple[str, ...] = (
            "a",
        )  # one a layer
        plain: int = 1
    '''
    assert course_site.field_comments(source) == {"width": "numbers in a vector", "names": "one a layer"}
