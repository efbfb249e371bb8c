"""Write ``gptoss_lib/<module>.py`` from the cells of a chapter that begin with ``#| export``.

    python -m book._tools.export [NN …]     write what changed, in these chapters or in all
    python -m book._tools.export --check    show the differences, write nothing, fail if there are any

A module opens with the docstring of its first exported cell, extended by a line that names the
chapter; its imports are gathered, ``__all__`` is derived, and ruff formats the rest.
"""

import argparse
import ast
import difflib
import subprocess
import sys
from pathlib import Path

from book._tools.course_map import LIBRARY, ROOT, Chapter, chosen
from book._tools.pairs import read_source

MARKER = "#| export"


def module_source(chapter: Chapter) -> str:
    """Return the text of the chapter's module, formatted.

    Raises:
        ValueError: if the chapter exports nothing, or its first exported cell has no docstring.
    """
    cells = [cell.source for cell in read_source(chapter.source).cells if cell.source.startswith(MARKER)]
    if not cells:
        raise ValueError(f"{chapter.source.name} has no cell that begins with '{MARKER}'.")
    docstring, imports, names, bodies = None, [], [], []
    for cell in cells:
        text = cell.removeprefix(MARKER).strip("\n")
        tree = ast.parse(text)
        lines = text.split("\n")
        if docstring is None:
            docstring = ast.get_docstring(tree)
            if docstring is None:
                raise ValueError(
                    f"The first exported cell of {chapter.source.name} must open with a docstring."
                )
            _blank(lines, tree.body.pop(0))
        for node in tree.body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                imports.append(ast.unparse(node))
                _blank(lines, node)
            else:
                names.extend(_defined_names(node))
        bodies.append("\n".join(lines).strip("\n"))
    public = [name for name in names if not name.startswith("_")]
    origin = f"Built in chapter {chapter.number}: edit ``notebooks/{chapter.source.name}``, not this file."
    parts = [
        f'"""{docstring}\n\n{origin}\n"""',
        "\n".join(imports),
        f"__all__ = [{', '.join(map(repr, public))}]",
        *bodies,
    ]
    return _format("\n\n\n".join(part for part in parts if part) + "\n", LIBRARY / f"{chapter.module}.py")


def _blank(lines: list[str], node: ast.stmt) -> None:
    lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)


def _defined_names(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.AnnAssign):
        return [node.target.id]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def _format(source: str, path: Path) -> str:
    fix = ["check", "--fix-only", "--quiet", "--select", "I,F401,RUF022"]
    for arguments in (fix, ["format", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", str(path), "-"]
        source = subprocess.run(
            command, input=source, capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout
    return source


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="course export", description="Write the chapters' modules.")
    parser.add_argument(
        "--check", action="store_true", help="show what would change and fail if anything would"
    )
    parser.add_argument("chapters", nargs="*", metavar="NN", help="chapter numbers; all of them by default")
    options = parser.parse_args(arguments)
    try:
        sources = {chapter.module: module_source(chapter) for chapter in chosen(options.chapters)}
    except (ValueError, SyntaxError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    stale = []
    for module, new in sources.items():
        path = LIBRARY / f"{module}.py"
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if new == old:
            continue
        name = path.relative_to(ROOT)
        stale.append(str(name))
        if options.check:
            diff = difflib.unified_diff(
                old.splitlines(), new.splitlines(), str(name), "exported", lineterm=""
            )
            print("\n".join(diff))
        else:
            path.write_text(new, encoding="utf-8")
            print(f"wrote {name}")
    if options.check and stale:
        print(f"{', '.join(stale)} differ from the chapters: run ./course export.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
