"""Pictures of the tables of docs/beyond.md, benchmarks.md, mapping.md and performance.md.

    python benchmarks/pictures.py

A picture shows numbers of the table below it, which is read from the page: a dot is the median, a
bar the standard deviation or the range, as the table has them. Pictures go to docs/_static/tables/.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from textwrap import fill

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

ROOT = Path(__file__).parent.parent
BEYOND, PEERS = ROOT / "docs" / "beyond.md", ROOT / "benchmarks" / "peers" / "README.md"
MAPPING, PERFORMANCE = ROOT / "docs" / "mapping.md", ROOT / "docs" / "performance.md"
FOLDER = ROOT / "docs" / "_static" / "tables"
# Okabe and Ito's palette, which colour-blind readers can tell apart
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
MARKERS = ["o", "s", "^", "D", "v", "P"]
NUMBER = r"−?\d*\.?\d+"


@dataclass(frozen=True)
class Picture:
    """Which numbers of a table are drawn, and where.

    Parameters
    ----------
    page, after
        The first table of the page below this text.
    panels
        Columns by the title of the panel: one, or one for each series by its name.
    rows
        How many columns name the rows: these are the labels of the axis.
    series
        The column that names the series, where the columns of a panel do not.
    marked
        Where a line is drawn in each panel, such as chance.
    skipped
        Series that are left out.
    """

    page: Path
    after: str
    panels: dict[str, str | dict[str, str]]
    rows: int = 1
    series: str = ""
    marked: tuple[float, ...] = ()
    skipped: tuple[str, ...] = ()

    def numbers(self) -> pd.DataFrame:
        """A line for each dot: panel, row, series, value, and from where to where its bar goes."""
        table = table_after(self.page.read_text(), self.after)
        names = (
            table.iloc[:, : self.rows].agg(", ".join, axis=1).str.replace(r"[*`]", "", regex=True)
        )
        lines = []
        for panel, columns in self.panels.items():
            by_series = columns if isinstance(columns, dict) else {"": columns}
            for series, column in by_series.items():
                of_series = table[self.series] if self.series else [series] * len(table)
                for row, name, text in zip(names, of_series, table[column], strict=True):
                    if name not in self.skipped:
                        lines.append((panel, row, name, *number_and_bar(text)))
        return pd.DataFrame(lines, columns=["panel", "row", "series", "value", "low", "high"])


def table_after(page: str, text: str) -> pd.DataFrame:
    """The first table of a page below a text, as texts."""
    below = page.partition(text)[2]
    lines = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)[0].splitlines()
    head, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return pd.DataFrame(body, columns=head)


def number_and_bar(text: str) -> tuple[float, float, float]:
    """``0.5 ± 0.1``, ``0.5 (0.4 to 0.7)``, ``50 %`` or a number; NaN for a dash."""
    numbers = [float(n.replace("−", "-")) for n in re.findall(NUMBER, text)]
    match numbers:
        case []:
            return np.nan, np.nan, np.nan
        case [value]:
            return value, value, value
        case [value, spread]:
            return value, value - spread, value + spread
        case [value, low, high]:
            return value, low, high
    raise ValueError(f"Expected a number and its spread or range; found {text!r}.")


def draw(picture: Picture, name: str) -> None:
    """Panels beside each other, rows from top to bottom, series in colours."""
    numbers = picture.numbers()
    rows, series = (list(dict.fromkeys(numbers[column])) for column in ("row", "series"))
    at = dict(zip(rows, range(len(rows)), strict=True))
    offsets = 0.24 * np.linspace(-1, 1, len(series)) if len(series) > 1 else [0.0]
    height = 1.1 + len(rows) * max(0.25, 0.11 * len(series))
    figure, axes = plt.subplots(
        1,
        len(picture.panels),
        figsize=(9.6, height),
        sharey=True,
        sharex=all(isinstance(columns, dict) for columns in picture.panels.values()),
        squeeze=False,
        layout="constrained",
    )
    for ax, panel in zip(axes[0], picture.panels, strict=True):
        for x in picture.marked:
            ax.axvline(x, color="0.6", linewidth=1, linestyle="dashed", zorder=0)
        for k, (of_series, offset) in enumerate(zip(series, offsets, strict=True)):
            chosen = numbers[(numbers["panel"] == panel) & (numbers["series"] == of_series)]
            y = chosen["row"].map(at) + offset
            ax.hlines(y, chosen["low"], chosen["high"], color=COLOURS[k], linewidth=1.2, alpha=0.6)
            ax.plot(
                chosen["value"], y, MARKERS[k], color=COLOURS[k], markersize=4.5, label=of_series
            )
        for above, below in pairwise(range(len(rows))):
            ax.axhline((above + below) / 2, color="0.92", linewidth=0.8, zorder=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
        ax.tick_params(axis="x", labelsize=8)
        ax.set_title(fill(panel, 72 // len(picture.panels)), fontsize=10)
        ax.locator_params(axis="x", nbins=max(2, 12 // len(picture.panels)))
    axes[0, 0].set_yticks(range(len(rows)), [fill(row, 44) for row in rows], fontsize=9)
    axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    if len(series) > 1:
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False
        )
    draft = FOLDER / f".{name}.png"
    figure.savefig(draft, dpi=150, metadata={"Software": None})
    os.replace(draft, FOLDER / f"{name}.png")
    plt.close(figure)


def same(*columns: str) -> dict[str, str]:
    """Panels that have the titles of their columns."""
    return dict(zip(columns, columns, strict=True))


SIMULATED = [*(f"Q1 = {q1}" for q1 in (20, 100, 1000, 5000)), "Q1 = 100, 2+2+2"]
WHO = ("paper's", "default, 2+2+2", "default")
LATENTS = ("shared", "private of rna", "private of the other")
CLUSTERS = ("balanced accuracy", "15-NN", "ARI", "NMI")
PICTURES = {
    "default_synthetic": Picture(
        BEYOND,
        "<!-- begin default-synthetic -->",
        {"R² of held-out cells": same(*SIMULATED)},
        marked=(0, 1),
    ),
    "default_same_view": Picture(
        BEYOND,
        "<!-- begin default-same-view -->",
        {
            f"R² of {features} features": {who: f"{features}: {who}" for who in WHO}
            for features in ("shared", "private")
        },
    ),
    "default_privates": Picture(
        BEYOND,
        "<!-- begin default-privates -->",
        {
            title: {latent: f"{who}: {latent}" for latent in LATENTS}
            for who, title in {
                "paper's": "AUC, the paper's MMVAE++",
                "default": "AUC, scvenn's default",
            }.items()
        },
        marked=(0.5,),
    ),
    "default_pbmc": Picture(
        BEYOND,
        "<!-- begin default-pbmc -->",
        same("AUC, naive CD8", "AUC, 13 types", "balanced accuracy, 13 types"),
    ),
    "ablation_cll": Picture(
        BEYOND,
        "<!-- begin ablation-cll -->",
        same("R² lost, seed by seed", "R² of genes", "R² of sites", "AUC, private of meth"),
    ),
    "ablation_synthetic": Picture(
        BEYOND,
        "<!-- begin ablation-synthetic -->",
        same(
            "R² lost, seed by seed",
            "R² of view 1",
            "same-view R² of view 1",
            "shared from private 1",
        ),
    ),
    "snareseq": Picture(
        PEERS,
        "<!-- begin snareseq -->",
        same("balanced accuracy", "AUC", "Pearson rna → atac", "Pearson atac → rna"),
    ),
    "citeseq": Picture(
        PEERS, "<!-- begin citeseq -->", same(*CLUSTERS, "mean, rna → adt", "mean, adt → rna")
    ),
    "pbmc": Picture(
        PEERS, "<!-- begin pbmc -->", same(*CLUSTERS, "mean, rna → atac", "mean, atac → rna")
    ),
    "selection": Picture(
        PEERS, "## Shared features for other tools", same(*CLUSTERS), rows=2, series="features"
    ),
    "batches": Picture(
        PEERS,
        "<!-- begin batches -->",
        same("batch", "types", "lone type", "neighbours kept"),
        series="method",
        skipped=("scvenn, encoders told, uncorrected", "scvenn, encoders told"),
    ),
    "parts": Picture(
        PEERS,
        "<!-- begin parts -->",
        same("batch, within types", "types", "iLISI"),
        series="method",
    ),
    "mapping": Picture(
        MAPPING,
        "<!-- begin mapping -->",
        {
            title: column
            for column, title in {
                "batch": "accuracy of the batch",
                "types": "accuracy of the type",
                "lone": "a new type's neighbours",
                "RNA → other": "RNA → other",
                "other → RNA": "other → RNA",
            }.items()
        },
        series="way",
    ),
    "speed": Picture(
        PERFORMANCE,
        "<!-- begin speed -->",
        {"times the speed of MULTIVI, or of totalVI for CITE-seq": "times the peer's speed"},
        series="model",
        marked=(1,),
        skipped=("MULTIVI", "totalVI"),
    ),
    "scaling": Picture(
        PERFORMANCE,
        "<!-- begin scaling -->",
        same("screening, s", "an epoch, s", "after training, s", "GiB"),
        rows=2,
    ),
    "within": Picture(
        PEERS,
        "<!-- begin within -->",
        {
            f"{how}, % of features": {
                "as measured": how,
                "shuffled within types": f"{how}, shuffled",
            }
            for how in ("at all", "in some type by itself", "within types")
        },
        rows=2,
    ),
}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, picture in PICTURES.items():
        draw(picture, name)
    print(f"Wrote {len(PICTURES)} pictures to {FOLDER}")


if __name__ == "__main__":
    main()
