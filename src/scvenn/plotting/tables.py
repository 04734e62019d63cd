"""Figures of the tables that models return; :mod:`scvenn.plotting` offers these to users."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scvenn._arguments import check_positive
from scvenn.metrics import EVALUATION_COLUMNS
from scvenn.plotting.drawing import (
    BLUE,
    GREY,
    LOWEST_R2,
    PALE,
    PALEST,
    PALETTE,
    VERMILION,
    check_columns,
    check_once,
    colours_of_sources,
    distinct,
    dot,
    frameless,
    legend_beside,
    panels_of,
    public_figure,
    r2_ticks,
    write_in_cells,
)

_VIEWS = {"cross": "cross-view", "same": "same-view", "joint": "joint"}
_METRICS = {
    "r2": "R²",
    "pearson": "Pearson correlation",
    "auroc": "AUROC",
    "auc": "AUC",
    "r2_within": "R² within groups",
    "pearson_within": "Pearson correlation within groups",
    "leakage_r2": "leakage R²",
    "leakage_r2_within": "leakage R² within groups",
    "recovery_linear_r2": "recovery R² (linear)",
    "recovery_knn_r2": "recovery R² (nearest neighbours)",
}

# --------------------------------------------------------------------------------------------
# Tables of `evaluate`
# --------------------------------------------------------------------------------------------


@public_figure
def r2(table: pd.DataFrame, *, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Cross-view against same-view R² of each feature.

    Panels are predicted modalities; a dot, by its colour, is the one predicted from. A feature on
    the diagonal is predicted from another modality as well as from its own; one at zero is private.
    Values below −0.5 are drawn at −0.5.

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
    if both.empty and {"cross", "same"} <= set(table.loc[table["metric"] == "r2", "view"]):
        raise ValueError(
            "r2() found no feature with an R² in both views: no scored cell has two modalities, or "
            "no feature varies over those that have."
        )
    if both.empty:
        raise ValueError(
            "r2() compares the views 'cross' and 'same'; the table's R² are of "
            f"{distinct(scores['view'])}. Pass the table of model.evaluate() as it is."
        )
    targets = distinct(both["target"])
    colours = colours_of_sources(targets, distinct(both["source"]))
    both[["x", "y"]] = both[["value_same", "value"]].clip(lower=LOWEST_R2)
    limits = (min(both[["x", "y"]].min(axis=None), 0) - 0.05, 1.05)
    panels = panels_of(targets, axes, height=3.2, beside=1.2)
    for ax, target in zip(panels, targets, strict=True):
        # in any order, lest the last source cover the others
        rows = both[both["target"] == target].sample(frac=1, random_state=0)
        ax.scatter(
            rows["x"], rows["y"], s=10, c=rows["source"].map(colours), alpha=0.6, linewidths=0,
            rasterized=True,
        )  # fmt: skip
        ax.axline((0, 0), slope=1, color=GREY, linewidth=1, linestyle="--", zorder=0)
        ax.axhline(0, color=PALE, linewidth=1, zorder=0)
        r2_ticks(ax.xaxis)
        r2_ticks(ax.yaxis)
        ax.set(xlim=limits, ylim=limits, aspect="equal")
        ax.set(xlabel="same-view R²", ylabel="cross-view R²")
    dots = [dot(colour, f"from {m}") for m, colour in colours.items()]
    legend_beside(panels, dots, handletextpad=0.2)
    return panels


@public_figure
def leakage(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """What each latent predicts: labels, other latents, other modalities.

    Rows are latents, the shared one first. The R² is the median over dimensions or features, as in
    :func:`scvenn.metrics.medians`; of private latents it should be near zero or below. White is
    chance (an AUC of 0.5, an R² of 0 or less), dark blue perfect, and grey what is not asked.

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
    check_once(leaks, ["source", "target", "feature"])
    latents = sorted(distinct(leaks["source"]), key=lambda name: name != "shared")
    modalities = [m for m in distinct(table["target"]) if m in set(leaks["target"]) - set(latents)]
    r2_of = leaks.pivot_table("value", "source", "target", aggfunc="median").reindex(latents)
    probes = table[table["metric"] == "auc"]
    check_once(probes, ["source", "target"])
    auc_of = probes.pivot_table("value", "source", "target").reindex(latents)
    r2_of = r2_of[[name for name in [*latents, *modalities] if name in r2_of]]

    values = pd.concat([auc_of, r2_of], axis=1).to_numpy(np.float64)
    strength = pd.concat([2 * auc_of - 1, r2_of], axis=1).to_numpy(np.float64)
    names = ["AUC of\n" + fill(name, 10) for name in auc_of]
    names += ["R² of\n" + fill(spoken(name), 10) for name in r2_of]
    (ax,) = panels_of([""], ax, width=1.2 + 0.85 * len(names), height=0.9 + 0.5 * len(latents))
    ax.set_facecolor(PALEST)
    ax.imshow(strength, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    write_in_cells(ax, np.vectorize(_number)(values), strength > 0.6)
    ax.vlines(np.arange(len(names)) - 0.5, -0.5, len(latents) - 0.5, color="white", linewidth=2)
    ax.hlines(np.arange(len(latents)) - 0.5, -0.5, len(names) - 0.5, color="white", linewidth=2)
    ax.set_xticks(range(len(names)), names)
    ax.set_yticks(range(len(latents)), [spoken(name) for name in latents])
    frameless(ax)
    return ax


@public_figure
def compare(table: pd.DataFrame, metric: str = "r2", *, ax: Axes | None = None) -> Axes:
    """Scores of several models: a dot for each value, a black line at the median.

    Scores of predictions have a row for each view, those of latents one for each latent. R² below
    −0.5 are drawn at −0.5.

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
    # a latent that is to predict something and one that is not have no median in common
    scores = scores.assign(row=scores["view"].mask(scores["view"] == "latent", scores["source"]))
    models, rows = distinct(scores["model"]), distinct(scores["row"])
    colours = dict(zip(rows, cycle(PALETTE), strict=False))
    step = 0.8 / len(rows)  # between the rows of a model
    height = 0.9 + 0.28 * len(models) * len(rows)
    (ax,) = panels_of([""], ax, width=4.6, height=height, beside=1.2)
    rng, is_r2 = np.random.default_rng(0), metric.removesuffix("_within").endswith("r2")
    for (model, row), values in scores.groupby(["model", "row"], sort=False)["value"]:
        y = models.index(model) + step * (rows.index(row) - (len(rows) - 1) / 2)
        lowest = LOWEST_R2 if is_r2 else -np.inf
        drawn = values.clip(lower=lowest)
        if len(drawn) == 1:
            ax.plot(drawn, y, "o", color=colours[row])
            continue
        spread = y + step * rng.uniform(-0.3, 0.3, len(drawn))
        ax.scatter(drawn, spread, s=6, color=colours[row], alpha=0.4, linewidths=0, rasterized=True)
        median = max(values.median(), lowest)
        ax.plot([median] * 2, [y - 0.4 * step, y + 0.4 * step], color="black", linewidth=2)
    if is_r2 and scores["value"].min() <= LOWEST_R2:
        r2_ticks(ax.xaxis)
    ax.set_yticks(range(len(models)), models)
    ax.set(xlabel=spoken_metric(metric), ylim=(len(models) - 0.5, -0.5))
    dots = [dot(colours[row], _VIEWS.get(row, spoken(row))) for row in rows]
    legend_beside([ax], dots, handletextpad=0.2)
    return ax


def _of_metric(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of a metric that have a value."""
    if not isinstance(metric, str):
        raise ValueError(f"metric={metric!r}: expected the name of one metric.")
    every = table[table["metric"] == metric]
    scores = every[every["value"].notna()]
    if len(every) and scores.empty:
        raise ValueError(
            f"All values of the metric {metric!r} are NaN: nothing varies over the scored cells, "
            "or too few of them were measured."
        )
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
    # "z": no minus before a zero
    return "" if np.isnan(value) else f"{value:z.2f}".replace("-", "−")


def _hundredths(value: float) -> str:
    """Without what would be drawn as zero."""
    return f"{value:.2f}"[1:] if 0.005 <= value < 0.995 else ""


def spoken(latent: str) -> str:
    """The name of a latent as a reader would say it."""
    own = latent.removeprefix("private_")
    return latent if own == latent else f"private {own}"


def spoken_metric(metric: str) -> str:
    """The name of a metric as a reader would say it."""
    return _METRICS.get(metric, metric.replace("_", " "))


# --------------------------------------------------------------------------------------------
# Tables of what latents mean
# --------------------------------------------------------------------------------------------


@public_figure
def variance_explained(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """How much of each modality the shared and the private latent explain, and both together.

    The axis ends at −0.5, and bars that go below it run out of the figure.

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
    >>> [float(bar.get_height()) for bar in scvenn.pl.variance_explained(table).patches]
    [0.2, 0.5]
    """
    check_columns(table, ["modality", "latent", "r2"], "model.variance_explained()")
    colours = {"shared": BLUE, "private": VERMILION, "both": GREY}
    drawn = table[table["latent"].isin(colours)]
    check_once(drawn, ["modality", "latent"])
    wide = drawn.pivot_table("r2", "modality", "latent")
    if wide.empty and len(drawn):
        raise ValueError(
            "variance_explained() found no R² that is a number: no feature varies over the cells "
            "that were read."
        )
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
    legend_beside([ax], ax.containers)
    # R² has no lower bound: one bad latent would squeeze all others into a line
    ax.set_ylim(bottom=max(ax.get_ylim()[0], LOWEST_R2))
    ax.axhline(0, color="black", linewidth=0.8)
    return ax


@public_figure
def variance_by_axis(table: pd.DataFrame, *, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """How much of each modality's variance is lost without each axis of the latents.

    Rows are modalities, columns the ordered axes; the first panel is of the shared latent, the
    second of the private ones. Values below zero are drawn as zero.

    Parameters
    ----------
    table
        What ``variance_explained`` of a model returned.
    axes
        One for the shared latent and one for the private ones; None for a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If the table is another or has no rows of single axes, or the number of axes is wrong.

    Examples
    --------
    >>> import pandas as pd, scvenn
    >>> latents = ["shared_0", "shared_1", "private_0"]
    >>> table = pd.DataFrame({"modality": "rna", "latent": latents, "r2": [0.2, 0.1, 0.4]})
    >>> [ax.get_title() for ax in scvenn.pl.variance_by_axis(table)]
    ['shared', 'private']
    """
    check_columns(table, ["modality", "latent", "r2"], "model.variance_explained()")
    named = table["latent"].str.extract(r"^(shared|private)_(\d+)$")
    single = table.assign(kind=named[0], axis=named[1]).dropna(subset=["axis", "r2"])
    if single.empty:
        raise ValueError(
            f"variance_by_axis() draws single axes, such as 'shared_0'; the table has "
            f"{distinct(table['latent'])}, of which none has an R² that is a number. Pass the "
            "table of model.variance_explained() as it is."
        )
    check_once(single, ["modality", "latent"])
    modalities, kinds = distinct(single["modality"]), distinct(single["kind"])
    largest = max(single["r2"].max(), 0.01)
    n_axes = single["axis"].astype(int).max() + 1
    size = {"width": 1.2 + 0.34 * n_axes, "height": 1.1 + 0.34 * len(modalities)}
    panels = panels_of(kinds, axes, beside=0.8, **size)
    for ax, kind in zip(panels, kinds, strict=True):
        of_kind = single[single["kind"] == kind].astype({"axis": int})
        wide = of_kind.pivot_table("r2", "modality", "axis").reindex(modalities)
        values = wide.clip(lower=0).to_numpy()
        image = ax.imshow(values, cmap="Blues", vmin=0, vmax=largest, aspect="auto")
        texts = np.vectorize(_hundredths)(values)
        write_in_cells(ax, texts, values > 0.6 * largest, fontsize=8)
        ax.set_xticks(range(wide.shape[1]), [str(k) for k in wide])
        ax.set_yticks(range(len(modalities)), modalities)
        ax.set_xlabel(f"axis of {kind}")
        frameless(ax)
    panels[-1].figure.colorbar(image, ax=panels[-1], label="R² lost without it")
    return panels


@public_figure
def loadings(table: pd.DataFrame, n: int = 10, *, ax: Axes | None = None) -> Axes:
    """The features that each dimension of a latent moves most, by name.

    A column for each dimension, its features from the largest absolute loading down; red is
    positive, blue negative.

    Parameters
    ----------
    table
        A table with the columns ``feature``, ``dimension`` and ``loading``, as ``loadings`` of a
        model returns it.
    n
        Features of each dimension.
    ax
        Where to draw; None for a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If the table is another or empty, or ``n`` is not 1 or more.

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
    check_positive(n=n)
    check_once(table, ["dimension", "feature"])
    table = table.astype({"feature": str, "dimension": str})
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
    ax.figure.colorbar(image, ax=ax, label="loading", fraction=0.2 / width, pad=0.1 / width)
    return ax
