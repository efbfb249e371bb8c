"""A catalogue of wrong answers that an exercise's check must reject, each with the message it must give."""

import contextlib
import functools
import importlib
import io
from collections.abc import Callable

from book._tools.course_map import CHAPTERS
from book._tools.pairs import SETUP_TAG, read_source
from gptoss_lib.checks import CheckFailed

FEWEST = 4


class Catalogue:
    """The wrong answers to one exercise; ``Catalogue(...).test`` is the test that pytest collects."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name
        self.check = getattr(importlib.import_module(f"gptoss_lib.checks.{module}"), name)
        self.mistakes: list[tuple[Callable, str, bool]] = []

    def wrong(self, message: str, build: bool = False) -> Callable:
        """Register a wrong answer and a piece of the message that its author must see.

        With ``build`` the function is called and what it returns is the answer.
        """

        def register(answer: Callable) -> Callable:
            self.mistakes.append((answer, message, build))
            return answer

        return register

    @property
    def test(self) -> Callable:
        def test_check(record_property):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                self.check(solutions(self.module)[self.name])
            assert "✓" in printed.getvalue(), "a check that passes says so"
            assert len(self.mistakes) >= FEWEST, f"only {len(self.mistakes)} wrong answers"
            survivors = [
                answer.__name__
                for answer, message, build in self.mistakes
                if self._survives(answer, message, build)
            ]
            record_property("kill rate", f"{len(self.mistakes) - len(survivors)}/{len(self.mistakes)}")
            assert not survivors, f"not rejected, or not with the message promised: {survivors}"

        return test_check

    def _survives(self, answer: Callable, message: str, build: bool) -> bool:
        try:
            self.check(answer() if build else answer)
        except CheckFailed as failure:
            return message.lower() not in str(failure).lower()
        return True


@functools.cache
def solutions(module: str) -> dict:
    """Run the exercise notebook's code, checks excepted, and return what it defines."""
    chapter = next(chapter for chapter in CHAPTERS if chapter.module == module)
    namespace: dict = {"__name__": f"exercises_{module}"}
    for cell in read_source(chapter.exercises).cells:
        is_setup = SETUP_TAG in cell.metadata.get("tags", [])
        if cell.cell_type == "code" and not is_setup and not cell.metadata.get("nbgrader", {}).get("grade"):
            exec(compile(cell.source, str(chapter.exercises), "exec"), namespace)
    return namespace
