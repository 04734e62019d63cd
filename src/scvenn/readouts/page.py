"""A page of figures and tables: one HTML file that loads nothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from matplotlib.axes import Axes

from scvenn._whole_files import draft, make_folder

# Pixels of a figure per inch: on the page, in which text is to be as large as the page's own; and
# in the file, so that it is sharp on paper, too.
_SHOWN_DPI, _STORED_DPI = 96, 192


@dataclass(frozen=True)
class Figure:
    """A picture; ``png`` in base64, ``width`` in pixels of the page."""

    png: str
    width: int
    caption: str
    kind: ClassVar[str] = "figure"

    @classmethod
    def of(cls, axes: Axes | np.ndarray, caption: str) -> Figure:
        """The figure that axes belong to, which is closed."""
        figure = np.ravel(np.asarray(axes, dtype=object))[0].figure
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=_STORED_DPI)
        plt.close(figure)
        width = round(figure.get_figwidth() * _SHOWN_DPI)
        return cls(base64.b64encode(file.getvalue()).decode(), width, caption)


@dataclass(frozen=True)
class Table:
    """Columns, as names and whether they hold numbers, and rows of texts."""

    caption: str
    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, ...], ...]
    kind: ClassVar[str] = "table"

    @classmethod
    def of(cls, frame: pd.DataFrame, caption: str) -> Table:
        """A table without its index."""
        columns = [(str(c), pd.api.types.is_numeric_dtype(frame[c])) for c in frame]
        rows = [tuple(map(_text, row)) for row in frame.itertuples(index=False)]
        return cls(caption, tuple(columns), tuple(rows))


@dataclass(frozen=True)
class Note:
    """Why something is not there, and how to get it."""

    text: str
    kind: ClassVar[str] = "note"


Part = Figure | Table | Note


@dataclass(frozen=True)
class Section:
    """A title, a few sentences, how to read what is below them, and that."""

    title: str
    text: str
    parts: Sequence[Part]
    reading: Sequence[str] = ()


def _text(value: Any) -> str:
    """A cell of a table, as a reader wants it."""
    if isinstance(value, float | np.floating):
        # "z": no minus before a zero
        return "–" if np.isnan(value) else f"{value:z.2f}".replace("-", "−")
    return f"{value:,}" if isinstance(value, int | np.integer) else str(value)


def write_page(
    path: Path, *, title: str, written: str, summary: str, sections: Iterable[Section]
) -> None:
    """Write a page, whole or not at all; texts may hold any characters."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    source = files("scvenn").joinpath("readouts/report.html.jinja").read_text("utf-8")
    page = environment.from_string(source).render(
        title=title, written=written, summary=summary, sections=list(sections)
    )
    make_folder(path.parent)
    with draft(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
