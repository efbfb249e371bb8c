"""One palette and one figure style for the whole course, readable in light and in dark.

Figures are inline SVG: ink becomes ``currentColor``, so that a figure takes the text colour of the
page it stands on, and every figure carries an alternative text.
"""

import hashlib
import html
import io
import re

import matplotlib as mpl
from IPython.display import HTML
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

__all__ = ["COLORS", "CYCLE", "arrow", "box", "inline_svg", "new_figure", "show"]

# Mid-tones with a contrast of at least 3:1 on white and on near-black; safe for colour-blind readers.
COLORS = {
    "blue": "#3a84d8",  # GPT-OSS, wherever the two models are compared
    "orange": "#d9822b",  # GPT-2, wherever the two models are compared
    "green": "#2a9d74",
    "pink": "#c566a0",
    "red": "#d9534a",
    "violet": "#8a70d6",
    "grey": "#858d98",
}
CYCLE = [COLORS[name] for name in ("blue", "orange", "green", "pink", "violet", "red", "grey")]

_INK = "#010203"  # replaced by currentColor once the figure is drawn
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": _INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.prop_cycle": mpl.cycler(color=CYCLE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": _INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.alpha": 0.35,
    "grid.color": COLORS["grey"],
    "grid.linewidth": 0.6,
    "image.cmap": "viridis",
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "lines.linewidth": 1.8,
    "patch.edgecolor": _INK,
    "svg.fonttype": "none",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def new_figure(width: float = 7.0, height: float = 3.2, **subplots):
    """Return ``(figure, axes)`` in the course's style, like ``plt.subplots``.

    ``width`` and ``height`` are in inches; ``subplots`` goes to ``Figure.subplots`` (``ncols=2``,
    ``sharey=True``, …). The style stays on, so that legends and notes added later have it too. Finish
    the figure with :func:`show`.
    """
    mpl.rcParams.update(_STYLE)
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(**subplots)


def show(figure: Figure, alt: str) -> HTML:
    """Return the figure as inline SVG that follows the page's theme.

    Make it the last expression of a cell.

    Args:
        figure: what :func:`new_figure` returned.
        alt: what the figure shows and what to see in it, for readers who cannot see it.

    Raises:
        ValueError: if ``alt`` is empty.
    """
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE | {"svg.hashsalt": alt}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(["Creator", "Date", "Format", "Type"]))
    markup = buffer.getvalue()
    return inline_svg(markup[markup.index("<svg") :].replace(_INK, "currentColor"), alt)


def inline_svg(markup: str, alt: str) -> HTML:
    """Return hand-written SVG markup as a figure with an alternative text.

    Use ``currentColor`` for ink and :data:`COLORS` for the rest, and give the ``<svg>`` a
    ``viewBox``: the figure shrinks with the page and never grows beyond its own width.

    Raises:
        ValueError: if ``alt`` is empty or ``markup`` is not an ``<svg>`` element with a viewBox.
    """
    if not alt.strip():
        raise ValueError("A figure needs an alternative text; pass alt='what the figure shows'.")
    head = re.match(r"\s*<svg\b[^>]*>", markup)
    view_box = head and re.search(r'viewBox="\S+ \S+ (\S+) \S+"', head[0])
    if not view_box:
        raise ValueError("inline_svg wants one <svg> element with a viewBox.")
    attributes = re.sub(r'\s(width|height|role|aria-label)="[^"]*"', "", head[0].strip()[4:-1])
    # Two figures on a page must not share ids for clip paths and markers.
    prefix = "f" + hashlib.sha256(alt.encode()).hexdigest()[:6]
    body = re.sub(r'((?:\bid="|url\(#|href="#))', rf"\g<1>{prefix}-", markup[head.end() :])
    # Matplotlib's rule for line joins would reach every other drawing on the page.
    body = re.sub(r"<style\b.*?</style>", "", body, flags=re.DOTALL)
    return HTML(
        f'<svg role="img" aria-label="{html.escape(alt)}" class="course-figure" '
        f'style="width:100%;max-width:{float(view_box[1]) * 4 / 3:.0f}px;height:auto;'
        f'stroke-linejoin:round"{attributes}>{body}'
    )


def box(axes, x: float, y: float, width: float, height: float, text: str, color: str = "grey", **text_style):
    """Draw a rounded, tinted box with centred text, its lower left corner at ``(x, y)`` in data units."""
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=COLORS[color] + "2e",
            edgecolor=COLORS[color],
            linewidth=1.3,
        )
    )
    axes.text(
        x + width / 2, y + height / 2, text, **({"ha": "center", "va": "center", "color": _INK} | text_style)
    )


def arrow(axes, start: tuple[float, float], end: tuple[float, float], color: str = "grey", **style):
    """Draw an arrow from ``start`` to ``end`` in data units."""
    options = {
        "arrowstyle": "-|>",
        "mutation_scale": 11,
        "linewidth": 1.3,
        "shrinkA": 0,
        "shrinkB": 0,
    } | style
    axes.add_patch(FancyArrowPatch(start, end, color=COLORS[color], **options))
