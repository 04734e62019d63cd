"""What all figures have in common: colours, panels, legends, heat maps, the check of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D

# Okabe and Ito's palette, which colour-blind readers can tell apart
BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PALETTE = [BLUE, VERMILION, GREEN, ORANGE, "#56B4E9", "#CC79A7", "#F0E442", "#000000"]
GREY, PALE, PALEST = "#7F7F7F", "#D9D9D9", "#F0F0F0"

# R² has no lower bound: one bad feature would squeeze all others into a line
LOWEST_R2 = -0.5


def check_columns(table: pd.DataFrame, columns: Sequence[str], source: str) -> None:
    """Refuse a table of something else."""
    if missing := [name for name in columns if name not in table]:
        raise ValueError(
            f"Expected a table with the columns {list(columns)}, as {source} returns it; it has "
            f"{list(table)}, without {missing}."
        )


def distinct(names: Iterable[Any]) -> list:
    """Each name once, in the order in which they come."""
    return list(dict.fromkeys(names))


def colours_of_sources(targets: Sequence[Any], sources: Iterable[Any]) -> dict[Any, str]:
    """A colour for each modality predicted from, in the order of the modalities predicted."""
    known = list(sources)
    colours = zip(distinct([*targets, *known]), cycle(PALETTE), strict=False)
    return {m: colour for m, colour in colours if m in known}


def panels_of(
    titles: Sequence[str],
    axes: Axes | Sequence[Axes] | None,
    *,
    width: float = 3.2,
    height: float = 2.8,
    beside: float = 0.0,
) -> np.ndarray:
    """Axes with titles: those given, or those of a new figure.

    Sizes are in inches, of each panel and of the room for what is beside them. A new figure has
    rows of at most three: wider ones cannot be read on a printed page.
    """
    n = len(titles)
    if axes is None:
        n_rows = -(-n // 3)
        n_columns = -(-n // n_rows)
        size = (width * n_columns + beside, height * n_rows)
        figure, grid = plt.subplots(
            n_rows, n_columns, figsize=size, squeeze=False, layout="constrained"
        )
        axes = grid.ravel()[:n]
        for unused in grid.ravel()[n:]:
            figure.delaxes(unused)
    panels = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()
    if len(panels) != n:
        raise ValueError(f"axes: expected {n}, for {list(titles)}; found {len(panels)}.")
    for ax, title in zip(panels, titles, strict=True):
        if title:
            ax.set_title(title)
        ax.spines[["top", "right"]].set_visible(False)
    return panels


def rightmost(panels: Iterable[Axes]) -> Axes:
    """The panel beside which there is room for a legend or a scale."""
    return max(panels, key=lambda ax: ax.get_position().x1)


def legend_beside(panels: Iterable[Axes], handles: Sequence[Any], **how: Any) -> None:
    """A legend to the right of all panels, where it covers nothing."""
    rightmost(panels).legend(
        handles=handles, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, **how
    )


def dot(colour: Any, label: str) -> Line2D:
    """A dot in a legend, as large as can be seen, whatever the size of those in the figure."""
    return Line2D([], [], linestyle="", marker="o", markersize=5, color=colour, label=label)


def r2_ticks(axis: Axis) -> None:
    """Ticks of R², which ends at 1, that say that lower values are drawn at −0.5."""
    axis.set_ticks([LOWEST_R2, 0, 0.5, 1], labels=[f"≤−{-LOWEST_R2}", "0", "0.5", "1"])


def frameless(ax: Axes) -> None:
    """A heat map is its own frame."""
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def write_in_cells(ax: Axes, texts: np.ndarray, dark: np.ndarray, fontsize: float = 9) -> None:
    """Text in the cells of a heat map, white where they are dark."""
    for (row, column), text in np.ndenumerate(texts):
        if text:
            colour = "white" if dark[row, column] else "black"
            ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=fontsize)
