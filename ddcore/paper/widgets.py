"""A slider over drawn frames that works in the static page: only links made in the browser, no kernel."""

import base64
import html
import io
from collections.abc import Iterable

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure


def frames(label: str, frames: Iterable[tuple[str, str, Figure]]) -> ipywidgets.VBox:
    """A slider named `label` that shows one of the frames (caption, alt, figure) at a time.

    The figures are drawn to PNG once and closed. Print the most telling frame as a static figure before
    the widget: a reader without scripts sees that one only. No Play button: the theme's icon script
    replaces its icon, and the button then fails at each change.
    """
    pages = [ipywidgets.HTML(page(*frame)) for frame in frames]
    slider = ipywidgets.IntSlider(max=len(pages) - 1, description=label, style={"description_width": "initial"})
    stack = ipywidgets.Stack(pages, selected_index=0)
    ipywidgets.jslink((slider, "value"), (stack, "selected_index"))
    return ipywidgets.VBox([slider, stack])


def page(caption: str, alt: str, figure: Figure) -> str:
    """One frame as HTML that carries its picture, with alternative text for readers who cannot see it."""
    if not alt.strip():
        raise ValueError(f"the frame {caption!r} needs an alternative text")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    data = base64.b64encode(png.getvalue()).decode()
    picture = f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}" style="max-width: 100%">'
    return f'<figure style="margin: 0">{picture}<figcaption>{html.escape(caption)}</figcaption></figure>'
