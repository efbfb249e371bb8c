"""What the website needs beyond ``_config.yml``.

* the repository's address, read from ``pyproject.toml``: buttons, and ``{{ repository }}``,
  ``{{ colab }}`` and ``{{ student }}`` in the pages;
* a line under each chapter's title with its notebook, its exercises and its module;
* MathJax, the widget manager and the fonts, copied into the site.
"""

import ast
import hashlib
import importlib
import inspect
import io
import textwrap
import tokenize
from dataclasses import is_dataclass
from pathlib import Path

from sphinx.pycode import ModuleAnalyzer

from book._tools.course_map import CHAPTERS, ROOT
from book._tools.repository import address
from book._tools.web_assets import assets

BRANCH = "main"
STUDENT_BRANCH = "student"  # the exercises without solutions; pushed when the site is published
COLAB = "https://colab.research.google.com"
BINDER = "https://mybinder.org"


def owner_and_name() -> str:
    """Return ``OWNER/NAME`` of the repository."""
    return address().removeprefix("https://github.com/")


def colab(path: str, branch: str = BRANCH) -> str:
    """Return the address that opens a notebook of the repository in Colab."""
    return f"{COLAB}/github/{owner_and_name()}/blob/{branch}/{path}"


def binder(path: str, branch: str = BRANCH) -> str:
    """Return the address that opens a notebook of the repository on Binder."""
    return f"{BINDER}/v2/gh/{owner_and_name()}/{branch}?urlpath=lab/tree/{path}"


def launch(pagename: str) -> dict[str, str]:
    """Return where a chapter's or exercise page's notebook opens; an exercise opens without solutions."""
    path, branch = f"{pagename}.ipynb", BRANCH
    if pagename.startswith("notebooks/exercises/"):
        path, branch = path.removeprefix("notebooks/"), STUDENT_BRANCH
    return {"Colab": colab(path, branch), "Binder": binder(path, branch)}


def configure(app, config) -> None:
    """Set what depends on the repository's address, and where the local JavaScript is."""
    config.html_theme_options = config.html_theme_options | {
        "repository_url": address(),
        "repository_branch": BRANCH,
        "path_to_docs": "",
        "use_repository_button": True,
        "use_issues_button": True,
        "use_fullscreen_button": False,
        "logo": {"text": config.html_title, "alt_text": ""},
        "launch_buttons": {"notebook_interface": "jupyterlab", "colab_url": COLAB, "binderhub_url": BINDER},
        "search_bar_text": "Search the course",
        "show_toc_level": 2,
        "show_navbar_depth": 1,
        "navigation_with_keys": False,
        "pygments_light_style": "github-light",
        "pygments_dark_style": "github-dark",
    }
    config.html_static_path = [*config.html_static_path, str(assets())]
    sources = [Path(__file__), ROOT / "book/_tools/course_map.py", ROOT / "pyproject.toml"]
    config.course_stamp = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def fill_in(app, docname: str, source: list[str]) -> None:
    """Replace the repository's addresses in a page of ``book/``."""
    if docname.startswith("book/"):
        text = source[0].replace("{{ repository }}", address())
        text = text.replace("{{ colab }}", colab("").rstrip("/"))
        source[0] = text.replace("{{ student }}", colab("", STUDENT_BRANCH).rstrip("/"))


def finish_page(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Open exercises where they have no solutions, and put the chapter's line under the title."""
    chapter = next((chapter for chapter in CHAPTERS if pagename.endswith(f"/{chapter.stem}")), None)
    if not chapter:
        return
    targets = launch(pagename)
    for group in context["header_buttons"]:
        for button in group.get("buttons", []):
            if button["text"] in targets:
                button["url"] = targets[button["text"]]
    link = app.builder.get_relative_uri
    if "exercises" in pagename:
        more = [(link(pagename, f"notebooks/{chapter.stem}"), f"Chapter {chapter.number}")]
        verb = "Work on it in Colab"
    else:
        more = [
            (link(pagename, f"notebooks/exercises/{chapter.stem}"), "Exercises"),
            (link(pagename, f"book/reference/{chapter.module}"), f"<code>gptoss_lib.{chapter.module}</code>"),
        ]
        verb = "Run in Colab"
    links = [(targets["Colab"], verb), (targets["Binder"], "Binder"), *more]
    line = "".join(f'<a href="{url}">{text}</a>' for url, text in links)
    context["body"] = context["body"].replace(
        "</h1>", f'</h1>\n<nav class="course-launch" aria-label="This chapter elsewhere">{line}</nav>', 1
    )


def describe_fields(app) -> None:
    """Describe a dataclass's fields by the comments that follow them in the code."""
    for chapter in CHAPTERS:
        name = f"gptoss_lib.{chapter.module}"
        documented = ModuleAnalyzer.for_module(name)
        documented.analyze()
        for cls in vars(importlib.import_module(name)).values():
            if inspect.isclass(cls) and is_dataclass(cls) and cls.__module__ == name:
                for field, comment in field_comments(inspect.getsource(cls)).items():
                    documented.attr_docs.setdefault((cls.__name__, field), [comment, ""])


def tidy_docstring(app, what: str, name: str, obj, options, lines: list[str]) -> None:
    """Leave out what a module's page says itself, and keep napoleon from cutting sentences at a colon."""
    if what == "module":
        lines[:] = [line for line in lines if not line.startswith("Built in chapter ")]
    elif what in ("property", "attribute") and lines:
        lines[0] = lines[0].replace(": ", " – ", 1)


def leave_out_signature(app, what: str, name: str, obj, options, signature, returns):
    """Show a dataclass without its long signature: its fields follow."""
    return ("", None) if what == "class" and is_dataclass(obj) else None


def field_comments(source: str) -> dict[str, str]:
    """Return the trailing comment of each annotated field in the source of a class."""
    source = textwrap.dedent(source)
    comments = {
        token.start[0]: token.string.lstrip("#: ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    fields = [node for node in ast.parse(source).body[0].body if isinstance(node, ast.AnnAssign)]
    return {node.target.id: comments[node.end_lineno] for node in fields if node.end_lineno in comments}


def setup(app) -> dict:
    app.add_config_value("course_stamp", "", "env")
    app.connect("config-inited", configure, priority=100)
    app.connect("source-read", fill_in)
    app.connect("builder-inited", describe_fields)
    app.connect("autodoc-process-docstring", tidy_docstring, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", leave_out_signature)
    app.connect("html-page-context", finish_page, priority=502)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
