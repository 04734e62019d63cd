"""What all figures have in common: how they are shown and saved, colours, panels, legends."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import cycle
from os import PathLike
from pathlib import Path
from textwrap import indent
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text

from scvenn._whole_files import draft

# Okabe and Ito's palette, which colour-blind readers can tell apart
BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PALETTE = [BLUE, VERMILION, GREEN, ORANGE, "#56B4E9", "#CC79A7", "#F0E442", "#000000"]
GREY, PALE, PALEST = "#7F7F7F", "#D9D9D9", "#F0F0F0"

# R² has no lower bound: one bad feature would squeeze all others into a line
LOWEST_R2 = -0.5

# --------------------------------------------------------------------------------------------
# Figures that users call
# --------------------------------------------------------------------------------------------

P = ParamSpec("P")
Drawn = TypeVar("Drawn", covariant=True)

# Parameters of every public figure, as scanpy names them: their types, defaults and meaning.
_OUTPUT: dict[str, tuple[Any, Any, str]] = {
    "show": (
        bool | None,
        None,
        "True shows the figure at once and returns None, as scanpy's functions do. Otherwise\n"
        "notebooks show it at the end of the cell, and scripts at ``matplotlib.pyplot.show()``.",
    ),
    "save": (
        str | PathLike[str] | None,
        None,
        'A file to save the figure to, such as ``"figures/one.pdf"``; its suffix is the format.\n'
        "The resolution is matplotlib's setting ``savefig.dpi``, 200 where that is not set.",
    ),
    "return_fig": (bool, False, "Whether to return the figure instead of the axes."),
}


@contextmanager
def names_are_no_formulas() -> Iterator[None]:
    """Inside, text with a ``$`` is drawn as it is: names of users are no mathematics."""
    before = plt.rcParams["text.parse_math"]
    plt.rcParams["text.parse_math"] = False
    try:
        yield
    finally:
        # `rc_context` would put back what the backend of notebooks sets with the first figure, and
        # no further figure would be shown
        plt.rcParams["text.parse_math"] = before


class PublicFigure(Protocol[P, Drawn]):
    """A function that draws, with the parameters ``show``, ``save`` and ``return_fig`` besides."""

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Drawn: ...

    @overload
    def __call__(
        self,
        *args: Any,
        show: bool | None = ...,
        save: str | PathLike[str] | None = ...,
        return_fig: bool = ...,
        **kwargs: Any,
    ) -> Any: ...


def public_figure(draw: Callable[P, Drawn]) -> PublicFigure[P, Drawn]:
    """Let a function that draws and returns axes show and save its figure, as scanpy's do."""
    _describe_output(draw)

    @wraps(draw)
    def drawn(
        *args: Any, show: Any = None, save: Any = None, return_fig: bool = False, **kwargs: Any
    ) -> Any:
        path = None if save is None else _checked_path(save)  # before what may take minutes
        with names_are_no_formulas():
            axes = draw(*args, **kwargs)
        for ax in np.ravel(cast("Any", axes)):  # a user's, which was made before
            for text in ax.findobj(Text):
                text.set_parse_math(False)
        # a subfigure has the canvas of the figure that it is a part of
        figures = distinct(ax.figure.canvas.figure for ax in np.ravel(cast("Any", axes)))
        if len(figures) > 1 and (path is not None or return_fig):
            raise ValueError(
                f"axes: those of one figure can be saved or returned, found {len(figures)} figures."
            )
        if path is not None:
            dpi = plt.rcParams["savefig.dpi"]
            with draft(path) as unfinished:
                figures[0].savefig(
                    unfinished, dpi=200 if dpi == "figure" else dpi, bbox_inches="tight"
                )
        if show:
            plt.show()
        if return_fig:
            return figures[0]
        return None if show else axes

    return cast("PublicFigure[P, Drawn]", drawn)


def _describe_output(draw: Any) -> None:
    """Name the parameters of the output where help, completion and the documentation look.

    They look at the function that is wrapped as well.
    """
    signature = inspect.signature(draw)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default, _) in _OUTPUT.items()
    ]
    draw.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])
    draw.__annotations__ |= {name: kind for name, (kind, *_) in _OUTPUT.items()}
    described = "".join(
        f"{name}\n" + indent(meaning, "    ") + "\n" for name, (*_, meaning) in _OUTPUT.items()
    )
    draw.__doc__ = inspect.cleandoc(draw.__doc__ or "").replace(
        "\nReturns\n", f"{described}\nReturns\n", 1
    )


def _checked_path(save: Any) -> Path:
    """Where to save, or what is wrong with it."""
    if not isinstance(save, str | PathLike):
        raise TypeError(f"save={save!r}: expected the path of a file, such as 'figure.png'.")
    path = Path(save).expanduser()
    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise ValueError(
            f"save={str(save)!r}: expected a file whose suffix is a format of figures, such as "
            f"'figure.png'; found the suffix {path.suffix!r}. Formats are {sorted(formats)}."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"save={str(save)!r}: the folder {path.parent} does not exist. Create it first."
        )
    return path


# --------------------------------------------------------------------------------------------
# Tables, panels, legends, heat maps
# --------------------------------------------------------------------------------------------


def check_columns(table: pd.DataFrame, columns: Sequence[str], source: str) -> None:
    """Refuse a table of something else."""
    if not isinstance(table, pd.DataFrame):
        raise ValueError(f"Expected a table, as {source} returns it; found {type(table).__name__}.")
    if missing := [name for name in columns if name not in table]:
        raise ValueError(
            f"Expected a table with the columns {list(columns)}, as {source} returns it; it has "
            f"{list(table)}, without {missing}."
        )


def check_once(table: pd.DataFrame, keys: Sequence[str]) -> None:
    """Refuse a table in which rows repeat, as in one of several models: none could be drawn."""
    repeated = table.duplicated(list(keys))
    if repeated.any():
        row = table.loc[repeated, list(keys)].iloc[0].to_dict()
        raise ValueError(
            f"Expected one row for each of {list(keys)}, found several of {row}, as in a table of "
            "several models or groups. Choose the rows of one, such as table[table['model'] == "
            "name]."
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


def legend_beside(panels: Iterable[Axes], handles: Sequence[Any], **how: Any) -> Legend:
    """A legend to the right of all panels, where it covers nothing."""
    return rightmost(panels).legend(
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
