"""What all figures have in common: colours, panels, heat maps, and the check of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

# Okabe and Ito's palette, which colour-blind readers can tell apart
BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PALETTE = [BLUE, VERMILION, GREEN, ORANGE, "#56B4E9", "#CC79A7", "#F0E442", "#000000"]
GREY, PALE = "#7F7F7F", "#D9D9D9"

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


def panels_of(
    titles: Sequence[str],
    axes: Axes | Sequence[Axes] | None,
    *,
    width: float = 3.2,
    height: float = 2.8,
) -> np.ndarray:
    """Axes with titles: those given, or those of a new figure; sizes in inches, of each."""
    n = len(titles)
    if axes is None:
        _, axes = plt.subplots(1, n, figsize=(width * n, height), layout="constrained")
    panels = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()
    if len(panels) != n:
        raise ValueError(f"axes: expected {n}, for {list(titles)}; found {len(panels)}.")
    for ax, title in zip(panels, titles, strict=True):
        if title:
            ax.set_title(title)
        ax.spines[["top", "right"]].set_visible(False)
    return panels


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
