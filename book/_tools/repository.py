"""Where the course lives. The address stands in ``pyproject.toml``; everything else derives from it.

python -m book._tools.repository https://github.com/you/your-fork
"""

import argparse
import functools
import re
import subprocess
import sys

from book._tools.course_map import ROOT

_PYPROJECT = ROOT / "pyproject.toml"
_ADDRESS = re.compile(r'^Repository = "(https://github\.com/([\w.-]+/[\w.-]+))"$', re.MULTILINE)


@functools.cache
def address() -> str:
    """Return the repository's address, without a trailing slash.

    Raises:
        ValueError: if ``pyproject.toml`` has no ``Repository`` on GitHub under ``[project.urls]``.
    """
    match = _ADDRESS.search(_PYPROJECT.read_text(encoding="utf-8"))
    if not match:
        raise ValueError(
            'pyproject.toml needs Repository = "https://github.com/OWNER/NAME" under [project.urls].'
        )
    return match[1]


def retarget(new: str) -> list[str]:
    """Replace the address in every tracked text file and return the names of those that changed.

    Raises:
        ValueError: if ``new`` is not ``https://github.com/OWNER/NAME``.
    """
    new = new.rstrip("/").removesuffix(".git")
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", new):
        raise ValueError(f"{new!r} is not an address like https://github.com/OWNER/NAME.")
    old_name, new_name = (url.removeprefix("https://github.com/") for url in (address(), new))
    # Alone, or in an address on GitHub or Colab; never as the beginning of a longer name.
    before = r"(?:(?<![\w./-])|(?<=github\.com/)|(?<=/github/))"
    whole_name = re.compile(rf"{before}{re.escape(old_name)}(?![\w-])")
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    changed = []
    for name in filter(None, listing.split("\0")):
        try:
            text = (ROOT / name).read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        replaced = whole_name.sub(new_name, text)
        if replaced != text:
            (ROOT / name).write_bytes(replaced.encode("utf-8"))
            changed.append(name)
    address.cache_clear()
    return changed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="course fork", description="Point the course at your fork.")
    parser.add_argument("address", help="https://github.com/OWNER/NAME")
    try:
        changed = retarget(parser.parse_args(arguments).address)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(changed) if changed else "Nothing to change: the course already points there.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
