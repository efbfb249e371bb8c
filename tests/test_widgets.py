import ipywidgets
import pytest

from gptoss_lib.widgets import explore


def text(widget) -> list[str]:
    """What a widget shows in its present state, top to bottom."""
    if isinstance(widget, ipywidgets.Stack):
        return text(widget.children[widget.selected_index])
    if isinstance(widget, ipywidgets.Box):
        return [line for child in widget.children for line in text(child)]
    return [widget.value] if isinstance(widget, (ipywidgets.HTML, ipywidgets.Label)) else []


def sliders(widget) -> list:
    return [row.children[0] for row in widget.children[:-1]]


def stacks_linked_to(slider) -> list:
    """Every stack that the browser would switch when the slider moves."""
    links = [
        w
        for w in ipywidgets.Widget._active_widgets.values()
        if isinstance(w, ipywidgets.widgets.widget_link.Link)
    ]
    return [link.target[0] for link in links if link.source[0] is slider]


def move(slider, value):
    slider.value = value
    for stack in stacks_linked_to(slider):
        stack.selected_index = value


def test_one_slider_shows_every_state():
    widget = explore(lambda n: f"<b>{n * n}</b>", {"n": [1, 2, 3]})
    (slider,) = sliders(widget)
    for index, value in enumerate([1, 2, 3]):
        move(slider, index)
        assert text(widget) == [str(value), f"<b>{value * value}</b>"]


def test_two_sliders_show_every_state():
    widget = explore(lambda a, b: f"{a}{b}", {"a": [1, 2], "b": "xyz"}, start={"b": "z"})
    first, second = sliders(widget)
    assert text(widget)[-1] == "1z"
    for i, a in enumerate([1, 2]):
        for j, b in enumerate("xyz"):
            move(first, i)
            move(second, j)
            assert text(widget) == [str(a), b, f"{a}{b}"]


@pytest.mark.parametrize(
    ("axes", "start"),
    [
        ({}, {}),
        ({"a": []}, {}),
        ({"a": [1], "b": [1], "c": [1]}, {}),
        ({"a": range(121)}, {}),
        ({"a": [1]}, {"a": 2}),
    ],
)
def test_what_cannot_be_shown_is_refused(axes, start):
    with pytest.raises(ValueError, match=r"explore wants|not on that axis"):
        explore(lambda *values: "", axes, start)
