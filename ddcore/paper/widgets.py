"""A slider over drawn frames that works in the static page: only links made in the browser, no
kernel."""

import base64
import html
import io
from collections.abc import Iterable

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

DPI = 100


def frames(label: str, frames: Iterable[tuple[str, str, Figure]]) -> ipywidgets.VBox:
    """A slider that shows one of the frames at a time.

    Print the most telling frame as a static figure before the widget: a reader without scripts sees
    that one only. No Play button: the theme's icon script replaces its icon, and the button then
    fails at each change.

    Args:
        label: the slider's name.
        frames: caption, alternative text and figure of each; figures are drawn to PNG once and
            closed.

    Raises:
        ValueError: a frame has no alternative text.
    """
    pages = [ipywidgets.HTML(page(*frame)) for frame in frames]
    style = {"description_width": "initial"}
    slider = ipywidgets.IntSlider(max=len(pages) - 1, description=label, style=style)
    stack = ipywidgets.Stack(pages, selected_index=0)
    ipywidgets.jslink((slider, "value"), (stack, "selected_index"))
    return ipywidgets.VBox([slider, stack])


def page(caption: str, alt: str, figure: Figure) -> str:
    """One frame as HTML that carries its picture, with an alternative text for readers who cannot
    see it."""
    if not alt.strip():
        raise ValueError(f"the frame {caption!r} needs an alternative text")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI)
    plt.close(figure)
    small = io.BytesIO()
    Image.open(png).convert("RGB").quantize(256).save(small, "png", optimize=True)  # half as large
    source = "data:image/png;base64," + base64.b64encode(small.getvalue()).decode()
    picture = f'<img alt="{html.escape(alt)}" src="{source}" style="max-width: 100%">'
    text = f"<figcaption>{html.escape(caption)}</figcaption>"
    return f'<figure style="margin: 0">{picture}{text}</figure>'
