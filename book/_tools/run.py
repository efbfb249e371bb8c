"""Execute chapters and their exercises afresh and store the outputs in the ``.ipynb``.

python -m book._tools.run [NN …]
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from jupyter_client import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from book._tools.course_map import ROOT, chosen
from book._tools.pairs import read_source

WORKERS = 2  # one thread each, so that two cores run two notebooks
CELL_TIMEOUT = 300  # seconds


def kernel_environment(home: Path) -> dict[str, str]:
    """Return the environment of a clean run: quick profile, one thread, no network, nothing cached."""
    return os.environ | {
        "GPTOSS_PROFILE": "quick",
        "GPTOSS_HOME": str(home),
        "GPTOSS_DATA": "",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "TIKTOKEN_CACHE_DIR": str(home / "tiktoken"),
    }


def execute(
    notebook: nbformat.NotebookNode, home: Path, python: str = sys.executable, allow_errors: bool = False
) -> nbformat.NotebookNode:
    """Run the notebook in place, from an empty folder, with the kernel of ``python``.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell raises and ``allow_errors`` is False.
    """
    manager = KernelManager()
    manager.kernel_spec.argv = [
        python,
        "-m",
        "ipykernel_launcher",
        "-f",
        "{connection_file}",
        "--log-level=ERROR",
    ]
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            km=manager,
            timeout=CELL_TIMEOUT,
            record_timing=False,
            coalesce_streams=True,
            allow_errors=allow_errors,
            resources={"metadata": {"path": folder}},
        )
        try:
            return client.execute(env=kernel_environment(home))
        finally:
            manager.shutdown_kernel(now=True)


def refresh(source: Path, home: Path) -> float:
    """Execute what ``source`` describes, write the ``.ipynb`` beside it, and return the seconds it took."""
    started = time.perf_counter()
    notebook = execute(read_source(source), home)
    notebook.metadata["language_info"] = {"name": "python"}  # not the patch version of whoever ran it
    text = _with_stable_widget_ids(nbformat.writes(notebook), notebook, source.stem)
    part = source.with_suffix(".ipynb.part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(source.with_suffix(".ipynb"))
    return time.perf_counter() - started


def _with_stable_widget_ids(text: str, notebook: nbformat.NotebookNode, stem: str) -> str:
    """Number the widgets, whose ids are random, so that an unchanged chapter gives an unchanged file."""
    widgets = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    for number, model_id in enumerate(widgets.get("state", {})):
        text = text.replace(model_id, hashlib.md5(f"{stem} {number}".encode()).hexdigest())
    return json.dumps(json.loads(text), indent=1, ensure_ascii=False, sort_keys=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="course run", description="Execute chapters and store their outputs."
    )
    parser.add_argument("chapters", nargs="*", metavar="NN", help="chapter numbers; all of them by default")
    try:
        chapters = chosen(parser.parse_args(arguments).chapters)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    sources = [path for chapter in chapters for path in (chapter.source, chapter.exercises)]
    failed = False
    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(WORKERS) as pool:
        runs = [(source, pool.submit(refresh, source, Path(home))) for source in sources]
        for source, run in runs:
            name = source.relative_to(ROOT)
            try:
                print(f"{run.result():6.1f} s  {name}", flush=True)
            except CellExecutionError as error:
                failed = True
                print(f"  failed  {name}\n{error}", file=sys.stderr, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
