import re

import pytest

from gptoss_lib.figures import COLORS, arrow, box, inline_svg, new_figure, show


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("background", ["#ffffff", "#14181e"])
@pytest.mark.parametrize("name", COLORS)
def test_palette_is_readable_in_light_and_dark(name, background):
    low, high = sorted((luminance(COLORS[name]), luminance(background)))
    assert (high + 0.05) / (low + 0.05) >= 2.8


@pytest.fixture
def figure():
    figure, axes = new_figure(4, 2)
    axes.plot([1, 2, 3], label="a line")
    axes.legend()
    box(axes, 0, 1, 1, 1, "a box", "blue")
    arrow(axes, (0, 1), (1, 2))
    return figure


def test_ink_follows_the_page(figure):
    markup = show(figure, "a line that rises").data
    assert "currentColor" in markup
    colors = set(re.findall(r"(?:fill|stroke): (#\w{6})", markup))
    assert colors <= set(COLORS.values())


def test_figure_has_alternative_text_and_no_page_wide_style(figure):
    markup = show(figure, 'a "line" & more').data
    assert 'role="img" aria-label="a &quot;line&quot; &amp; more"' in markup
    assert "<style" not in markup
    with pytest.raises(ValueError, match="alternative text"):
        show(figure, " ")


def test_same_figure_gives_the_same_markup(figure):
    assert show(figure, "twice").data == show(figure, "twice").data


def test_two_figures_share_no_ids(figure):
    one, two = show(figure, "one").data, show(figure, "two").data
    first, second = (set(re.findall(r'id="([^"]+)"', markup)) for markup in (one, two))
    assert first and not first & second
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', one)) <= first


def test_hand_written_svg_keeps_its_width():
    markup = inline_svg('<svg viewBox="0 0 90 30" width="90"><rect id="a"/></svg>', "a box").data
    assert "max-width:120px" in markup and 'width="90"' not in markup
    with pytest.raises(ValueError, match="viewBox"):
        inline_svg("<svg></svg>", "a box")
