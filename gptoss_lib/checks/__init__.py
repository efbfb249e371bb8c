"""Friendly checks for the exercises, one module a chapter.

A check takes the reader's answer, says what is right, or names the likely mistake and raises
:class:`CheckFailed`, which graders see as a failed assertion.
"""

import functools
from collections.abc import Callable

__all__ = ["CheckFailed", "check", "expect", "unless"]


class CheckFailed(AssertionError):
    """An answer that is not right yet; the message says why, in one or two sentences."""

    def _render_traceback_(self) -> list[str]:
        """Let Jupyter show the message alone, without the checks' own frames."""
        return [f"✗ {self}"]


def check(praise: str) -> Callable:
    """Turn a function that tests an answer into a check that prints ``praise`` when it passes.

    Anything the answer itself raises becomes a :class:`CheckFailed` that names the error.
    """

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def run(answer, *args, **kwargs) -> None:
            try:
                function(answer, *args, **kwargs)
            except CheckFailed:
                raise
            except NotImplementedError:
                raise CheckFailed(
                    "There is no answer yet: replace the line that raises NotImplementedError."
                ) from None
            except Exception as error:
                raise CheckFailed(f"Your code stopped with {type(error).__name__}: {error}") from error
            print(f"✓ {praise}")

        return run

    return decorate


def expect(condition: bool, message: str) -> None:
    """Fail with ``message`` where ``condition`` does not hold."""
    if not bool(condition):
        raise CheckFailed(message)


def unless(mistake: bool, message: str) -> None:
    """Fail with ``message`` where ``mistake`` holds: the answer shows a known mistake."""
    expect(not bool(mistake), message)
