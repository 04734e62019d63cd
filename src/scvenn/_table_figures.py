"""Figures of the tables that models return; :mod:`scvenn.plotting` offers these to users."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scvenn._drawing import (
    BLUE,
    GREEN,
    GREY,
    LOWEST_R2,
    PALE,
    PALETTE,
    VERMILION,
    check_columns,
    distinct,
    frameless,
    panels_of,
    write_in_cells,
)
from scvenn.metrics import EVALUATION_COLUMNS

_VIEWS = {
    "cross": ("cross-view", BLUE),
    "same": ("same-view", VERMILION),
    "joint": ("joint", GREEN),
}

# --------------------------------------------------------------------------------------------
# Tables of `evaluate`
# --------------------------------------------------------------------------------------------


def r2(table: pd.DataFrame, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Cross-view against same-view R² of each feature.

    A feature on the diagonal is predicted from another modality as well as from its own; one at
    zero is private. Values below −0.5 are drawn at −0.5.

    Parameters
    ----------
    table
        What ``evaluate`` returned.
    axes
        One for each predicted modality; None for a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If the table is another or has no such rows, or the number of axes is wrong.

    Examples
    --------
    >>> import scvenn
    >>> model = scvenn.MMVAEpp(scvenn.datasets.simulate_counts(n_obs=200, n_features=20))
    >>> model.train(1, train_size=0.5, enable_progress_bar=False)
    >>> [ax.get_title() for ax in scvenn.pl.r2(model.evaluate())]
    ['rna', 'atac']
    """
    scores = _of_one_model(table, "r2")
    cross, same = (scores[scores["view"] == view] for view in ("cross", "same"))
    both = cross.merge(same, on=["target", "feature"], suffixes=("", "_same"))
    if both.empty:
        raise ValueError(
            "r2() compares the views 'cross' and 'same'; the table's R² are of "
            f"{distinct(scores['view'])}. Pass the table of model.evaluate() as it is."
        )
    targets = distinct(both["target"])
    colours = dict(zip(distinct(both["source"]), cycle(PALETTE), strict=False))
    panels = panels_of(targets, axes, height=3.3)
    for (target, source), rows in both.groupby(["target", "source"], sort=False):
        ax = panels[targets.index(target)]
        drawn = rows[["value_same", "value"]].clip(lower=LOWEST_R2)
        ax.scatter(
            *drawn.to_numpy().T, s=10, color=colours[source], alpha=0.6, linewidths=0,
            label=f"from {source}", rasterized=True,
        )  # fmt: skip
    lowest = both[["value_same", "value"]].clip(lower=LOWEST_R2).min(axis=None)
    limits = (min(lowest, 0) - 0.05, 1.05)
    for ax in panels:
        ax.axline((0, 0), slope=1, color=GREY, linewidth=1, linestyle="--", zorder=0)
        ax.axhline(0, color=PALE, linewidth=1, zorder=0)
        ax.set(xlim=limits, ylim=limits, aspect="equal", xlabel="same-view R²")
        ax.legend(frameon=False, loc="upper left", handletextpad=0.1, borderaxespad=0)
    panels[0].set_ylabel("cross-view R²")
    return panels


def leakage(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """What each latent knows: of the labels, of the other latents, of other modalities.

    Rows are latents. The R² is the mean over dimensions or features, those below zero counted as
    zero; of private latents (all rows but the first) it should be near zero. White is chance (an
    AUC of 0.5, an R² of 0), and dark blue perfect; what is not asked is left empty.

    Parameters
    ----------
    table
        What ``evaluate`` returned; with ``labels_key`` the labels are drawn as well.
    ax
        Where to draw; None for a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If the table is another or has no such rows.

    Examples
    --------
    >>> import scvenn
    >>> model = scvenn.MMVAEpp(scvenn.datasets.simulate_counts(n_obs=200, n_features=20))
    >>> model.train(1, train_size=0.5, enable_progress_bar=False)
    >>> ax = scvenn.pl.leakage(model.evaluate())
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['shared', 'private rna', 'private atac']
    """
    leaks = _of_one_model(table, "leakage_r2")
    latents = distinct(leaks["source"])
    targets = sorted(distinct(leaks["target"]), key=lambda name: name not in latents)
    r2_of = leaks.assign(value=leaks["value"].clip(lower=0))
    r2_of = r2_of.pivot_table("value", "source", "target").reindex(index=latents, columns=targets)
    probes = table[table["metric"] == "auc"]
    auc_of = probes.pivot_table("value", "source", "target").reindex(latents)

    values = pd.concat([auc_of, r2_of], axis=1).to_numpy(np.float64)
    strength = pd.concat([2 * auc_of - 1, r2_of], axis=1).to_numpy(np.float64)
    columns = [f"AUC of\n{name}" for name in auc_of] + [f"R² of\n{spoken(n)}" for n in targets]
    (ax,) = panels_of([""], ax, width=1.2 + 0.95 * len(columns), height=0.8 + 0.5 * len(latents))
    ax.imshow(strength, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    write_in_cells(ax, np.vectorize(_number)(values), strength > 0.6)
    ax.axvline(len(auc_of.columns) - 0.5, color="white", linewidth=4)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(latents)), [spoken(name) for name in latents])
    frameless(ax)
    return ax


def compare(table: pd.DataFrame, metric: str = "r2", ax: Axes | None = None) -> Axes:
    """Scores of several models: a dot for each feature, a black line at the median.

    R² below −0.5 are drawn at −0.5.

    Parameters
    ----------
    table
        What :func:`scvenn.metrics.compare` returned.
    metric
        Which of its metrics.
    ax
        Where to draw; None for a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If the table is another or does not have the metric.

    Examples
    --------
    >>> import pandas as pd, scvenn
    >>> score = {"metric": "r2", "view": "cross", "source": "rna", "target": "atac"}
    >>> table = pd.DataFrame([{"model": m, **score, "feature": "a", "value": 0.5} for m in "AB"])
    >>> [label.get_text() for label in scvenn.pl.compare(table).get_yticklabels()]
    ['A', 'B']
    """
    check_columns(table, ["model", *EVALUATION_COLUMNS], "scvenn.metrics.compare()")
    scores = _of_metric(table, metric)
    models, views = distinct(scores["model"]), distinct(scores["view"])
    step = 0.8 / len(views)  # between the rows of a model
    height = 0.9 + 0.28 * len(models) * len(views)
    (ax,) = panels_of([""], ax, width=4.6, height=height)
    rng = np.random.default_rng(0)
    for (model, view), values in scores.groupby(["model", "view"], sort=False)["value"]:
        label, colour = _VIEWS.get(view, (view, BLUE))
        y = models.index(model) + step * (views.index(view) - (len(views) - 1) / 2)
        drawn = values.clip(lower=LOWEST_R2) if metric.endswith("r2") else values
        spread = y + step * rng.uniform(-0.3, 0.3, len(values))
        ax.scatter(drawn, spread, s=6, color=colour, alpha=0.4, linewidths=0, rasterized=True)
        ax.plot([drawn.median()] * 2, [y - 0.4 * step, y + 0.4 * step], color="black", linewidth=2)
        if model == models[0]:
            ax.plot([], [], "o", color=colour, label=label, markersize=5)
    ax.set_yticks(range(len(models)), models)
    ax.set(xlabel=metric.replace("r2", "R²").replace("_", " "), ylim=(len(models) - 0.5, -0.5))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(views), frameon=False)
    return ax


def _of_metric(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of a metric that have a value."""
    scores = table[(table["metric"] == metric) & table["value"].notna()]
    if scores.empty:
        raise ValueError(
            f"The table has no values of the metric {metric!r}; it has "
            f"{distinct(table.loc[table['value'].notna(), 'metric'])}."
        )
    return scores


def _of_one_model(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of a metric, of a table of ``evaluate``."""
    check_columns(table, EVALUATION_COLUMNS, "model.evaluate()")
    if "model" in table and len(models := distinct(table["model"])) > 1:
        raise ValueError(
            f"Expected the scores of one model, found those of {models}. Choose one, "
            f"table[table['model'] == {models[0]!r}], or draw all with scvenn.pl.compare(table)."
        )
    return _of_metric(table, metric)


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.2f}"


def spoken(latent: str) -> str:
    """The name of a latent as a reader would say it."""
    return latent.replace("private_", "private ", 1)


# --------------------------------------------------------------------------------------------
# Tables of what latents mean
# --------------------------------------------------------------------------------------------


def variance_explained(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How much of each modality the shared and the private latent explain, and both together.

    Parameters
    ----------
    table
        A table with the columns ``modality``, ``latent`` and ``r2``, as ``variance_explained`` of a
        model returns it; of its latents, ``shared``, ``private`` and ``both`` are drawn.
    ax
        Where to draw; None for a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If the table is another or has none of these latents.

    Examples
    --------
    >>> import pandas as pd, scvenn
    >>> latents = ["shared", "private"]
    >>> table = pd.DataFrame({"modality": "rna", "latent": latents, "r2": [0.2, 0.5]})
    >>> [bar.get_height() for bar in scvenn.pl.variance_explained(table).patches]
    [0.2, 0.5]
    """
    check_columns(table, ["modality", "latent", "r2"], "model.variance_explained()")
    colours = {"shared": BLUE, "private": VERMILION, "both": GREY}
    wide = table[table["latent"].isin(colours)].pivot_table("r2", "modality", "latent")
    if wide.empty:
        raise ValueError(
            f"variance_explained() draws the latents {list(colours)}; the table has "
            f"{distinct(table['latent'])}. Pass the table of model.variance_explained() as it is."
        )
    modalities = [m for m in distinct(table["modality"]) if m in wide.index]
    latents = [name for name in colours if name in wide]
    width = 0.8 / len(latents)
    (ax,) = panels_of([""], ax, width=1.9 + 0.9 * len(modalities))
    for i, name in enumerate(latents):
        x = np.arange(len(modalities)) + width * (i - (len(latents) - 1) / 2)
        ax.bar(x, wide.loc[modalities, name], 0.9 * width, color=colours[name], label=name)
    ax.set_xticks(range(len(modalities)), modalities)
    ax.tick_params(axis="x", length=0)
    ax.set_ylabel("variance explained (R²)")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return ax


def loadings(table: pd.DataFrame, ax: Axes | None = None, n: int = 10) -> Axes:
    """The features that each dimension of a latent moves most, by name.

    A column for each dimension, its features from the largest absolute loading down; red is
    positive, blue negative.

    Parameters
    ----------
    table
        A table with the columns ``feature``, ``dimension`` and ``loading``, as ``loadings`` of a
        model returns it.
    ax
        Where to draw; None for a new figure.
    n
        Features of each dimension.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If the table is another or empty.

    Examples
    --------
    >>> import pandas as pd, scvenn
    >>> table = pd.DataFrame(
    ...     {"feature": ["a", "b"], "dimension": "shared_0", "loading": [0.1, -0.9]}
    ... )
    >>> [text.get_text() for text in scvenn.pl.loadings(table).texts]
    ['b', 'a']
    """
    check_columns(table, ["feature", "dimension", "loading"], "model.loadings()")
    ranked = table.dropna(subset="loading").sort_values("loading", key=np.abs, ascending=False)
    if ranked.empty:
        raise ValueError("loadings() found no loading in the table that is a number.")
    top = ranked.groupby("dimension", sort=False).head(n)
    top = top.assign(rank=top.groupby("dimension").cumcount())
    dimensions = [d for d in distinct(table["dimension"]) if (top["dimension"] == d).any()]
    values = top.pivot_table("loading", "rank", "dimension")[dimensions].to_numpy()
    names = top.pivot_table("feature", "rank", "dimension", aggfunc="first")[dimensions]

    longest = names.fillna("").map(len).max(axis=None)
    width = 1.2 + len(dimensions) * (0.3 + 0.075 * longest)
    (ax,) = panels_of([""], ax, width=width, height=0.8 + 0.22 * len(names))
    largest = np.nanmax(np.abs(values))
    image = ax.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto")
    write_in_cells(ax, names.fillna("").to_numpy(), np.abs(values) > 0.6 * largest, fontsize=8)
    ax.set_xticks(range(len(dimensions)), dimensions)
    ax.set_yticks([])
    frameless(ax)
    ax.figure.colorbar(image, ax=ax, label="loading")
    return ax
