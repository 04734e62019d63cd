"""Figures of trained models and of the tables they return: ``scvenn.pl``.

Each function draws on the axes it is given, or on those of a new figure, and returns them. Colours
are those of Okabe and Ito, which colour-blind readers can tell apart; no global setting of
matplotlib is changed, and no data is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba_array
from matplotlib.lines import Line2D
from mudata import MuData

from scvenn._drawing import BLUE, GREY, LOWEST_R2, PALE, PALETTE, check_columns, distinct, panels_of
from scvenn._keys import Keys
from scvenn._table_figures import compare, leakage, loadings, r2, variance_explained

__all__ = [
    "compare",
    "embeddings",
    "leakage",
    "loadings",
    "r2",
    "shared_scores",
    "training",
    "variance_explained",
]

_CROSS_VIEW_RECORD = re.compile(Keys.log_likelihood(("(.+)",), "(.+)") + "_train")


def training(model_or_history: Any, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Training curves: how well each modality is predicted from the others, and the loss.

    Training cells are solid, validation cells dashed. A dotted line is the epoch that early
    stopping returned to: that of the lowest ``validation_loss`` since the weight of the KL was 1.
    A history does not tell whether training stopped early; for it, and a model that was loaded,
    the line is drawn all the same.

    Parameters
    ----------
    model_or_history
        A trained model, or its ``history``.
    axes
        One for each modality, and one for the loss; None for a new figure.

    Returns
    -------
    The axes, the loss last.

    Raises
    ------
    ValueError
        If the model was not trained, or the number of axes is wrong.

    Examples
    --------
    >>> import scvenn
    >>> model = scvenn.MMVAEpp(scvenn.datasets.simulate_counts(n_obs=200, n_features=20))
    >>> model.train(2, enable_progress_bar=False)
    >>> [ax.get_title() for ax in scvenn.pl.training(model)]
    ['rna', 'atac', 'loss']
    """
    history: Mapping = getattr(model_or_history, "history", model_or_history) or {}
    if "train_loss" not in history:
        raise ValueError(
            "training() draws the records of training, model.history, and found none. Call "
            "model.train() first."
        )
    records = {name: table.iloc[:, 0].dropna() for name, table in history.items()}
    found = [match.groups() for name in records if (match := _CROSS_VIEW_RECORD.fullmatch(name))]
    pairs = [(source, target) for source, target in found if target not in source.split("+")]
    targets = distinct(target for _, target in pairs)
    colours = dict(zip(distinct(source for source, _ in pairs), cycle(PALETTE), strict=False))

    panels = panels_of([*targets, "loss"], axes)
    for source, target in pairs:
        ax = panels[targets.index(target)]
        name = Keys.log_likelihood((source,), target)
        ax.plot(
            records[f"{name}_train"],
            color=colours[source],
            label=f"from {source.replace('+', ' + ')}",
        )
        if f"{name}_validation" in records:
            ax.plot(records[f"{name}_validation"], color=colours[source], linestyle="--")
    panels[-1].plot(records["train_loss"], color="black", label="training")
    if "validation_loss" in records:
        panels[-1].plot(records["validation_loss"], "--", color="black", label="validation")
    best = _best_epoch(model_or_history, records)
    for ax in panels:
        if best is not None:
            ax.axvline(best, color=GREY, linestyle=":", label="best epoch", zorder=0)
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(frameon=False)
    panels[0].set_ylabel("cross-view log-likelihood\n(nats per cell)")
    return panels


def _best_epoch(model: Any, records: Mapping[str, pd.Series]) -> int | None:
    """Epoch that early stopping returned to, as far as one can tell."""
    trainer = getattr(model, "trainer", None)
    stopping = None if trainer is None else trainer.early_stopping_callback
    if trainer is not None and (stopping is None or stopping.monitor != "validation_loss"):
        return None
    loss, weight = records.get("validation_loss"), records["kl_weight"]
    if loss is None:
        return None
    warmup = weight.index[weight < 1]  # epochs that early stopping does not watch
    watched = loss[loss.index > warmup.max()] if len(warmup) else loss
    return int(watched.idxmin()) if len(watched) else None


def embeddings(
    mdata: MuData,
    color: str,
    *,
    basis: Literal["umap", "pca"] = "umap",
    n_neighbors: int = 15,
    axes: Sequence[Axes] | None = None,
) -> np.ndarray:
    """Shared and private latents side by side, each in two dimensions of its own.

    Computed on copies: nothing is written to ``mdata``. Cells without a modality have no private
    latent of it and are left out; the title of the panel then says how many are shown.

    Parameters
    ----------
    mdata
        Data with embeddings, as ``train`` and ``write_embeddings`` leave it.
    color
        Column of ``mdata.obs``, or of the ``obs`` of modalities, with categories or numbers. Cells
        without a value are grey. More than eight categories get the colours of scanpy.
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
    latents = _latents(mdata)
    colours, key = _colours(_column(mdata, color))
    panels = panels_of(list(latents), axes, height=2.7)
    for ax, (name, latent) in zip(panels, latents.items(), strict=True):
        cells = np.flatnonzero(np.isfinite(latent).all(1))
        # in any order, lest the last category cover the others
        cells = np.random.default_rng(0).permutation(cells)
        x, y = _in_two_dimensions(latent[cells], basis, n_neighbors).T
        size = np.clip(5000 / len(cells), 1, 15)
        ax.scatter(x, y, s=size, c=colours[cells], linewidths=0, rasterized=True)
        shown = "" if len(cells) == len(latent) else f"\n{len(cells)} of {len(latent)} cells"
        ax.set(title=name + shown, xticks=[], yticks=[], xlabel=f"{basis.upper()} 1")
        ax.spines[["left", "bottom"]].set_visible(False)
    panels[0].set_ylabel(f"{basis.upper()} 2")
    if isinstance(key, ScalarMappable):
        panels[-1].figure.colorbar(key, ax=list(panels), label=color)
    else:
        dots = [Line2D([], [], ls="", marker="o", color=c, label=name) for name, c in key.items()]
        panels[-1].legend(
            handles=dots,
            title=color,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            ncols=-(-len(dots) // 12),
            frameon=False,
            handletextpad=0.2,
        )
    return panels


def _latents(mdata: MuData) -> dict[str, np.ndarray]:
    """Embeddings that a model wrote, by the name of their panel."""
    written = mdata.uns.get(Keys.UNS)
    if written is None:
        raise ValueError(
            f"embeddings() draws what a trained model writes, and mdata.uns[{Keys.UNS!r}], by "
            "which it is found, is not there. Call model.write_embeddings(mdata) first."
        )
    keys = {"shared": Keys.shared(written["key_prefix"])} | {
        f"private {m}": Keys.private(m, written["key_prefix"]) for m in written["modalities"]
    }
    # data that was embedded with some of the model's modalities lacks the others
    return {name: np.asarray(mdata.obsm[key]) for name, key in keys.items() if key in mdata.obsm}


def _in_two_dimensions(latent: np.ndarray, basis: str, n_neighbors: int) -> np.ndarray:
    """Coordinates (B, 2)."""
    import scanpy as sc  # here, as it takes seconds that no other figure needs

    cells = AnnData(latent)
    if basis == "pca":
        sc.pp.pca(cells, n_comps=2)
    else:
        sc.pp.neighbors(cells, n_neighbors=n_neighbors, use_rep="X")
        sc.tl.umap(cells)
    return cells.obsm[f"X_{basis}"]


def _column(mdata: MuData, color: str) -> pd.Series:
    """A column of ``obs``, one value for each of ``mdata.obs_names``."""
    if color in mdata.obs:
        return mdata.obs[color]
    parts = [adata.obs[color].astype(object) for adata in mdata.mod.values() if color in adata.obs]
    if not parts:
        raise ValueError(
            f"color={color!r} not found. Searched mdata.obs ({list(mdata.obs.columns)}) and the "
            f"obs of { {m: list(adata.obs.columns) for m, adata in mdata.mod.items()} }."
        )
    known = pd.concat(parts).dropna()
    first = known.groupby(level=0).first()
    if (differ := known != first.reindex(known.index)).any():
        raise ValueError(
            f"obs column {color!r} differs between modalities in {int(differ.sum())} cells, for "
            f"example {differ.idxmax()!r}. Write the right values to mdata.obs[{color!r}]."
        )
    return first.reindex(mdata.obs_names).infer_objects()


def _colours(column: pd.Series) -> tuple[np.ndarray, ScalarMappable | dict[str, Any]]:
    """A colour for each cell, (B, 4), and what they mean: a scale, or names of categories."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        values = column.to_numpy(np.float64)
        limits = Normalize(np.nanmin(values), np.nanmax(values))
        scale = ScalarMappable(limits, plt.get_cmap("viridis").with_extremes(bad=PALE))
        return scale.to_rgba(np.ma.masked_invalid(values)), scale
    values = pd.Categorical(column).remove_unused_categories()
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


def shared_scores(
    table_or_model: pd.DataFrame | Any, axes: Sequence[Axes] | None = None
) -> np.ndarray:
    """How well the other modalities predict each feature, and which count as shared.

    Parameters
    ----------
    table_or_model
        What ``get_shared_scores`` returned, or a model that has it.
    axes
        One for each modality; None for a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If the table is another, the model did not screen, or the number of axes is wrong.

    Examples
    --------
    >>> import pandas as pd, scvenn
    >>> table = pd.DataFrame(
    ...     {"modality": "rna", "feature": ["a", "b"], "score": [0.0, 0.5], "shared": [False, True]}
    ... )
    >>> [ax.get_title() for ax in scvenn.pl.shared_scores(table)]
    ['rna']
    """
    is_table = isinstance(table_or_model, pd.DataFrame)
    table = table_or_model if is_table else table_or_model.get_shared_scores()
    check_columns(table, ["modality", "score", "shared"], "model.get_shared_scores()")
    modalities = distinct(table["modality"])
    panels = panels_of(modalities, axes)
    scores = table.assign(score=table["score"].clip(lower=LOWEST_R2)).dropna(subset="score")
    for ax, m in zip(panels, modalities, strict=True):
        of_modality = scores[scores["modality"] == m]
        bins = np.histogram_bin_edges(of_modality["score"], 30)
        for shared, name, colour in ((False, "not shared", GREY), (True, "shared", BLUE)):
            values = of_modality.loc[of_modality["shared"] == shared, "score"]
            label = f"{name} ({len(values)})"
            ax.hist(values, bins, color=colour, alpha=0.8, label=label)
        # thousands of features that are not shared would hide the others
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set(xlabel="R² given the other modalities", ylim=(0.7, None))
        ax.legend(frameon=False)
    panels[0].set_ylabel("features")
    return panels
