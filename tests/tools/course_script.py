"""The ``course`` command, which has no ``.py`` in its name, as a module."""

import importlib.machinery
import importlib.util
from types import ModuleType

from book._tools.course_map import ROOT


def load() -> ModuleType:
    """Return a fresh module made from the script."""
    loader = importlib.machinery.SourceFileLoader("course_script", str(ROOT / "course"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("course_script", loader))
    loader.exec_module(module)
    return module
