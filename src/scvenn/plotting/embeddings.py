"""The figure of embeddings; :mod:`scvenn.plotting` offers it to users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba_array
from mudata import MuData

from scvenn.data import Keys, find_column
from scvenn.plotting.drawing import BLUE, PALE, PALETTE, dot, legend_beside, panels_of, rightmost


def embeddings(
    mdata: MuData,
    color: str | None = None,
    *,
    basis: Literal["umap", "pca"] = "umap",
    n_neighbors: int = 15,
    axes: Sequence[Axes] | None = None,
) -> np.ndarray:
    """Shared and private latents side by side, each in two dimensions of its own.

    Computed on copies: nothing is written to ``mdata``. Cells without a modality have no private
    latent of it and are left out; the title of the panel then has the number of those shown.

    Parameters
    ----------
    mdata
        Data with embeddings, as ``train`` and ``embed`` leave it.
    color
        Column of ``mdata.obs``, or of the ``obs`` of modalities, with categories or numbers; None
        for one colour. Numbers that are all 0 or 1 are categories. Cells without a value are
        grey. More than eight categories get the colours of scanpy, not all of which every reader
        can tell apart.
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
    ValueError
        If there are no embeddings or no such column, ``basis`` is neither of the two, or the number
        of axes is wrong.

    Examples
    --------
    >>> import scvenn
    >>> mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20)
    >>> scvenn.MMVAEpp(mdata).train(1, enable_progress_bar=False)
    >>> axes = scvenn.pl.embeddings(mdata, "cell_type", basis="pca")
    >>> [ax.get_title() for ax in axes]
    ['shared', 'private rna', 'private atac']
    """
    if basis not in ("umap", "pca"):
        raise ValueError(f"basis={basis!r}: expected 'umap' or 'pca'.")
    column = None if color is None else find_column(mdata, color, f"color={color!r}")
    places = in_two_dimensions(_latents(mdata), basis=basis, n_neighbors=n_neighbors)
    return draw_embeddings(places, column, basis=basis, axes=axes)


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
    basis: Literal["umap", "pca"] = "umap",
    axes: Sequence[Axes] | None = None,
) -> np.ndarray:
    """Coordinates (B, 2), by the name of their panel, coloured by a column (B,)."""
    n_cells = len(next(iter(places.values())))
    title = None if column is None else column.name
    colours, key = (to_rgba_array([BLUE] * n_cells), {}) if column is None else _colours(column)
    names = [] if isinstance(key, ScalarMappable) else list(key)
    n_columns = max(1, -(-len(names) // 10))  # of the legend
    longest = max(map(len, names), default=8)
    panels = panels_of(list(places), axes, beside=n_columns * (0.4 + 0.08 * longest))
    axis = {"umap": "UMAP", "pca": "PC"}[basis]
    for ax, (name, of_cells) in zip(panels, places.items(), strict=True):
        cells = np.flatnonzero(np.isfinite(of_cells).all(1))
        # in any order, lest the last category cover the others
        cells = np.random.default_rng(0).permutation(cells)
        x, y = of_cells[cells].T
        size = np.clip(5000 / len(cells), 1, 15)
        ax.scatter(x, y, s=size, c=colours[cells], linewidths=0, rasterized=True)
        shown = "" if len(cells) == n_cells else f"\n{len(cells):,} of {n_cells:,} cells"
        ax.set(title=name + shown, xticks=[], yticks=[])
        ax.set(xlabel=f"{axis} 1", ylabel=f"{axis} 2")
        ax.spines[["left", "bottom"]].set_visible(False)
    if isinstance(key, ScalarMappable):
        scale = rightmost(panels).inset_axes((1.06, 0.1, 0.05, 0.8))
        panels[0].figure.colorbar(key, cax=scale, label=title)
    elif key:
        dots = [dot(colour, name) for name, colour in key.items()]
        legend_beside(panels, dots, title=title, ncols=n_columns, handletextpad=0.2)
    return panels


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
    return {name: np.asarray(mdata.obsm[key]) for name, key in keys.items() if key in mdata.obsm}


def _in_two_dimensions(latent: np.ndarray, basis: str, n_neighbors: int) -> np.ndarray:
    """Coordinates (B, 2)."""
    if basis == "pca":
        directions, sizes, _ = np.linalg.svd(latent - latent.mean(0), full_matrices=False)
        components = (directions * sizes)[:, :2]
        return np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
    import scanpy as sc  # here, as it takes seconds that no other figure needs

    cells = AnnData(latent)
    sc.pp.neighbors(cells, n_neighbors=n_neighbors, use_rep="X")
    sc.tl.umap(cells)
    return cells.obsm["X_umap"]


def _colours(column: pd.Series) -> tuple[np.ndarray, ScalarMappable | dict[str, str]]:
    """A colour for each cell, (B, 4), and what they mean: a scale, or colours of categories."""
    column = column.infer_objects()
    is_number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if is_number and not column.dropna().isin([0, 1]).all():
        values = column.to_numpy(np.float64, na_value=np.nan)
        limits = Normalize(np.nanmin(values), np.nanmax(values))
        scale = ScalarMappable(limits, plt.get_cmap("viridis").with_extremes(bad=PALE))
        return scale.to_rgba(np.ma.masked_invalid(values)), scale
    values = pd.Categorical(column.astype("Int8") if is_number else column)
    values = values.remove_unused_categories()
    names = [str(name) for name in values.categories]
    key = dict(zip(names, _categorical(len(names)), strict=True))
    colours = to_rgba_array([*key.values(), PALE])[values.codes]  # code -1, no value, is the last
    return colours, key | ({"no value": PALE} if (values.codes < 0).any() else {})


def _categorical(n: int) -> list[str]:
    """As many colours as categories."""
    if n <= len(PALETTE):
        return PALETTE[:n]
    from scanpy.plotting import palettes

    sizes = (palettes.default_20, palettes.default_28, palettes.default_102)
    largest = next((colours for colours in sizes if n <= len(colours)), palettes.default_102)
    return [colour for colour, _ in zip(cycle(largest), range(n), strict=False)]
