"""Widgets that still work on a static page, where there is no kernel to compute anything.

:func:`explore` draws every state beforehand and lets the browser switch between them
(``jslink``), so the same widget works in Jupyter, in Colab and on the website.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import ipywidgets

__all__ = ["explore"]

_MOST_STATES = 120


def explore(
    render: Callable[..., object], axes: Mapping[str, Sequence], start: Mapping[str, object] | None = None
):
    """Return a widget with one slider an axis, each of whose states was drawn by ``render``.

    Args:
        render: called once for every combination as ``render(value, …)`` in the order of ``axes``;
            returns HTML: a string, or what :func:`gptoss_lib.figures.show` gives.
        axes: a label for each slider and the values that it goes through. At most two axes.
        start: the value that an axis starts at; the first one otherwise.

    Raises:
        ValueError: if there are no or more than two axes, an axis is empty, ``start`` is not on
            its axis, or there are more than 120 states (the page carries all of them).
    """
    sizes = [len(values) for values in axes.values()]
    states = 1
    for size in sizes:
        states *= size
    if len(axes) not in (1, 2) or not 0 < states <= _MOST_STATES:
        raise ValueError(
            f"explore wants 1 or 2 axes and 1 to {_MOST_STATES} states, but got axes of sizes {sizes}."
        )
    start = dict(start or {})
    for label, value in start.items():
        if label not in axes or value not in axes[label]:
            raise ValueError(f"start has {label}={value!r}, which is not on that axis.")

    frames = [_html(render(*values)) for values in product(*axes.values())]
    sliders = []
    for label, values in axes.items():
        index = list(values).index(start.get(label, values[0]))
        slider = ipywidgets.IntSlider(index, 0, len(values) - 1, readout=False, description=label)
        slider.style.description_width = "initial"
        names = _stack([ipywidgets.Label(str(value)) for value in values], slider)
        sliders.append(ipywidgets.HBox([slider, names]))
    if len(sizes) == 2:
        rows = [frames[i : i + sizes[1]] for i in range(0, states, sizes[1])]
        frames = [_stack(row, sliders[1].children[0]) for row in rows]
    return ipywidgets.VBox([*sliders, _stack(frames, sliders[0].children[0])])


def _html(content: object) -> ipywidgets.HTML:
    return ipywidgets.HTML(content if isinstance(content, str) else content.data)


def _stack(children: list, slider: ipywidgets.IntSlider) -> ipywidgets.Stack:
    """Show one child at a time, the one that the slider points at, in the browser alone."""
    stack = ipywidgets.Stack(children, selected_index=slider.value)
    ipywidgets.jslink((slider, "value"), (stack, "selected_index"))
    return stack
