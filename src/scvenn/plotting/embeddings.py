"""The figure of embeddings; :mod:`scvenn.plotting` offers it to users."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba_array
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from mudata import MuData

from scvenn._arguments import check_choice, check_positive
from scvenn.data import Keys, check_mudata, find_column, stored_latent
from scvenn.plotting.drawing import (
    BLUE,
    PALE,
    dot,
    legend_beside,
    panels_of,
    public_figure,
    rightmost,
)
from scvenn.plotting.palettes import as_categories, default_palette, names_of, palette_in_uns

# characters of a category in a legend
LONGEST_NAME = 32
# Cells that UMAP needs; fewer are shown on their principal components.
_LEAST_OF_UMAP = 5


@public_figure
def embeddings(
    mdata: MuData,
    color: str | None = None,
    *,
    basis: Literal["umap", "pca"] = "umap",
    n_neighbors: int = 15,
    axes: Sequence[Axes] | None = None,
) -> np.ndarray:
    """Shared and private latents side by side, each in two dimensions of its own.

    Cells without a modality have no private latent of it and are left out; the title of the panel
    then has the number of those shown.

    Colours of categories are those of ``mdata.uns["<color>_colors"]``, as in scanpy's figures. If
    there are none for all categories, they are written there, and scanpy's figures have them too.
    Nothing else is written: coordinates are computed on copies, and views of a MuData stay as they
    are.

    Parameters
    ----------
    mdata
        Data with embeddings, as ``train`` and ``embed`` leave it.
    color
        Column of ``mdata.obs``, or of the ``obs`` of modalities, with categories or numbers; None
        for one colour. Numbers that are all 0 or 1 are categories. Cells without a value are
        grey. More than eight categories without colours get those of scanpy, not all of which
        every reader can tell apart. The legend leaves out the middle of long names.
    basis
        UMAP, or the first two principal components.
    n_neighbors
        Neighbours of each cell that UMAP sees.
    axes
        One for each latent; None for a new figure.

    Returns
    -------
    The axes, ``shared`` first.

    Raises
    ------
    TypeError
        If ``mdata`` is not a MuData.
    ValueError
        If its names are ambiguous, there are no embeddings or no such column, ``basis`` is neither
        of the two, there are fewer than two neighbours, or the number of axes is wrong.

    Examples
    --------
    >>> import scvenn
    >>> mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20)
    >>> scvenn.MMVAEpp(mdata).train(1, enable_progress_bar=False)
    >>> axes = scvenn.pl.embeddings(mdata, "cell_type", basis="pca")
    >>> [ax.get_title() for ax in axes]
    ['shared', 'private rna', 'private atac']
    """
    check_mudata(mdata, may_be_view=True)
    check_choice(("umap", "pca"), basis=basis)
    check_positive(n_neighbors=n_neighbors)
    if n_neighbors < 2:
        raise ValueError(f"n_neighbors={n_neighbors}: expected 2 or more.")
    latents, column, palette = _latents(mdata), None, None
    if color is not None:
        column = find_column(mdata, color, f"color={color!r}")
        if (values := as_categories(column)) is not None:
            palette = palette_in_uns(mdata, color, values)
    places = in_two_dimensions(latents, basis=basis, n_neighbors=n_neighbors)
    return draw_embeddings(places, column, palette=palette, basis=basis, axes=axes)


def in_two_dimensions(
    latents: Mapping[str, np.ndarray],
    *,
    basis: Literal["umap", "pca"] = "umap",
    n_neighbors: int = 15,
) -> dict[str, np.ndarray]:
    """Coordinates (B, 2) of latents (B, K), by their names; NaN for cells without a latent."""
    places = {}
    for name, latent in latents.items():
        cells = np.flatnonzero(np.isfinite(latent).all(1))
        places[name] = np.full((len(latent), 2), np.nan)
        places[name][cells] = _in_two_dimensions(latent[cells], basis, n_neighbors)
    return places


def draw_embeddings(
    places: Mapping[str, np.ndarray],
    column: pd.Series | None,
    *,
    palette: Mapping[str, str] | None = None,
    basis: Literal["umap", "pca"] = "umap",
    axes: Sequence[Axes] | None = None,
) -> np.ndarray:
    """Coordinates (B, 2), by the name of their panel, coloured by a column (B,)."""
    n_cells = len(next(iter(places.values())))
    colours: np.ndarray = to_rgba_array([BLUE] * n_cells)
    key: ScalarMappable | dict[str, str] = {}
    title = None
    if column is not None:
        title = column.name
        colours, key = _colours(column, palette)
    panels = panels_of(list(places), axes, beside=isinstance(key, ScalarMappable))
    axis = {"umap": "UMAP", "pca": "PC"}[basis]
    for ax, (name, of_cells) in zip(panels, places.items(), strict=True):
        cells = np.flatnonzero(np.isfinite(of_cells).all(1))
        # in any order, lest the last category cover the others
        cells = np.random.default_rng(0).permutation(cells)
        x, y = of_cells[cells].T
        size = np.clip(5000 / max(1, len(cells)), 1, 15)
        ax.scatter(x, y, s=size, c=colours[cells], linewidths=0, rasterized=True)
        shown = "" if len(cells) == n_cells else f"\n{len(cells):,} of {n_cells:,} cells"
        ax.set(title=name + shown, xticks=[], yticks=[])
        ax.set(xlabel=f"{axis} 1", ylabel=f"{axis} 2")
        ax.spines[["left", "bottom"]].set_visible(False)
    if isinstance(key, ScalarMappable):
        scale = rightmost(panels).inset_axes((1.06, 0.1, 0.05, 0.8))
        panels[0].figure.colorbar(key, cax=scale, label=title)
    elif key:
        legend = _legend(panels, key, title)
        if axes is None:  # the figure grows by the legend, so that panels stay as they are
            figure = panels[0].figure
            width = legend.get_window_extent().width / figure.dpi
            figure.set_figwidth(figure.get_figwidth() + width)
    return panels


def _legend(panels: np.ndarray, key: Mapping[str, str], title: Any) -> Legend:
    """Categories beside the panels, as large as fits, in columns no higher than a panel."""
    ax = rightmost(panels)
    # in points, with the room of the title above a panel and of the label below it
    height = 72 * ax.get_window_extent().height / ax.figure.dpi + 36
    for size, spacing in (("medium", 0.5), ("x-small", 0.3)):
        line = FontProperties(size=size).get_size_in_points() * (1 + spacing)
        n_rows = max(1, int(height / line) - 1)  # below the title of the legend
        if len(key) <= n_rows:
            break
    dots = [dot(colour, name) for name, colour in zip(_shortened(key), key.values(), strict=True)]
    return legend_beside(
        panels,
        dots,
        title=title,
        ncols=-(-len(key) // n_rows),
        fontsize=size,
        title_fontsize=size,
        labelspacing=spacing,
        handletextpad=0.2,
        columnspacing=1,
    )


def _shortened(names: Iterable[str]) -> list[str]:
    """Names without the middle of long ones, of which enough is left to tell them apart."""
    names = list(names)
    for longest in range(LONGEST_NAME, max(map(len, names)), 4):
        start, end = longest // 2, longest // 2 - 1
        short = [n if len(n) <= longest else f"{n[:start]}…{n[-end:]}" for n in names]
        if len(set(short)) == len(names):
            return short
    return names


def _latents(mdata: MuData) -> dict[str, np.ndarray]:
    """Embeddings that a model wrote, by the name of their panel."""
    written = mdata.uns.get(Keys.UNS)
    if written is None:
        raise ValueError(
            f"embeddings() draws what a trained model writes, and mdata.uns[{Keys.UNS!r}], by "
            "which it is found, is not there. Call model.embed(mdata) first."
        )
    keys = {"shared": Keys.shared(written["key_prefix"])} | {
        f"private {m}": Keys.private(m, written["key_prefix"]) for m in written["modalities"]
    }
    # data that was embedded with some of the model's modalities lacks the others
    return {name: stored_latent(mdata, key) for name, key in keys.items() if key in mdata.obsm}


def _in_two_dimensions(latent: np.ndarray, basis: str, n_neighbors: int) -> np.ndarray:
    """Coordinates (B, 2)."""
    if basis == "pca" or len(latent) < _LEAST_OF_UMAP:
        directions, sizes, _ = np.linalg.svd(latent - latent.mean(0), full_matrices=False)
        components = (directions * sizes)[:, :2]
        return np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
    import scanpy as sc  # here, as it takes seconds that no other figure needs

    cells = AnnData(latent)
    sc.pp.neighbors(cells, n_neighbors=n_neighbors, use_rep="X")
    sc.tl.umap(cells)
    return cells.obsm["X_umap"]


def _colours(
    column: pd.Series, palette: Mapping[str, str] | None
) -> tuple[np.ndarray, ScalarMappable | dict[str, str]]:
    """A colour for each cell, (B, 4), and what they mean: a scale, or colours of categories."""
    categories = as_categories(column)
    if categories is None:
        values = column.infer_objects().to_numpy(np.float64, na_value=np.nan)
        finite = values[np.isfinite(values)]
        limits = Normalize(*(finite.min(), finite.max()) if len(finite) else (0, 1))
        scale = ScalarMappable(limits, plt.get_cmap("viridis").with_extremes(bad=PALE))
        return scale.to_rgba(np.ma.masked_invalid(values)), scale
    palette = palette or default_palette(names_of(categories))
    categories = categories.remove_unused_categories()
    key = {name: palette[name] for name in names_of(categories)}
    codes = categories.codes
    colours = to_rgba_array([*key.values(), PALE])[codes]  # code -1, no value, is the last
    missing = "no value"
    while missing in key:  # a category of that name
        missing = f"({missing})"
    return colours, key | ({missing: PALE} if (codes < 0).any() else {})
