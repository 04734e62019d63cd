"""Figures of a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogFormatter
from pandas.api.types import is_bool_dtype

from scvenn.data import Keys
from scvenn.plotting.drawing import (
    BLUE,
    GREY,
    LOWEST_R2,
    check_columns,
    colours_of_sources,
    distinct,
    legend_beside,
    panels_of,
    public_figure,
)


@public_figure
def training(model_or_history: Any, *, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Training curves: how well each modality is predicted from the others, and the loss.

    Panels are predicted modalities; a curve, by its colour, is the one predicted from. Training
    cells are solid, validation cells dashed. A dotted line is the epoch that early stopping
    returned to, ``model.best_epoch_``; a history alone does not hold it.

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
    history = getattr(model_or_history, "history", model_or_history)
    are_tables = isinstance(history, Mapping) and all(
        isinstance(of, pd.DataFrame) for of in history.values()
    )
    if history is not None and not are_tables:
        raise ValueError(
            "training() draws a model or its records, model.history, which are tables by name; "
            f"found {type(history).__name__}."
        )
    if not history or "train_loss" not in history:
        raise ValueError(
            "training() draws the records of training, model.history, and found none. Call "
            "model.train() first."
        )
    records = {name: table.iloc[:, 0].dropna() for name, table in history.items()}
    columns = (name.removesuffix("_train") for name in records if name.endswith("_train"))
    found = {name: pair for name in columns if (pair := Keys.of_log_likelihood(name))}
    pairs = {name: pair for name, pair in found.items() if pair[1] not in pair[0]}
    targets = distinct(target for _, target in pairs.values())
    colours = colours_of_sources(
        [(target,) for target in targets], distinct(source for source, _ in pairs.values())
    )
    curves = [(len(targets), "black", "train_loss", "validation_loss")]
    for name, (source, target) in pairs.items():
        panel = targets.index(target)
        curves.append((panel, colours[source], f"{name}_train", f"{name}_validation"))

    panels = panels_of([*targets, "loss"], axes, beside=1.4)
    for panel, colour, train, validation in curves:
        panels[panel].plot(records[train], color=colour)
        if validation in records:
            panels[panel].plot(records[validation], "--", color=colour)
    best = getattr(model_or_history, "best_epoch_", -1)
    for ax in panels:
        if best >= 0:
            ax.axvline(best, color=GREY, linestyle=":", zorder=0)
        ax.set(xlabel="epoch", ylabel="log-likelihood (nats per cell)")
        ax.xaxis.get_major_locator().set_params(integer=True)
    panels[-1].set_ylabel("loss")

    key = [
        Line2D([], [], color=colour, label=f"from {' and '.join(source)}")
        for source, colour in colours.items()
    ]
    key.append(Line2D([], [], color="black", label="training"))
    if "validation_loss" in records:
        key.append(Line2D([], [], color="black", linestyle="--", label="validation"))
    if best >= 0:
        key.append(Line2D([], [], color=GREY, linestyle=":", label="best epoch"))
    legend_beside(panels, key)
    return panels


@public_figure
def shared_scores(
    table_or_model: pd.DataFrame | Any, *, axes: Sequence[Axes] | None = None
) -> np.ndarray:
    """How well the other modalities predict each feature, and which count as shared.

    Values below −0.5 are drawn at −0.5.

    Parameters
    ----------
    table_or_model
        What ``get_shared_scores`` returned, or a model that has it. Of scores within several
        groups (``given``), those of ``"all"`` are drawn; pass the rows of one group to see these.
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
    >>> [ax.get_xlabel() for ax in scvenn.pl.shared_scores(table)]
    ['R² given the other modalities']
    """
    read = getattr(table_or_model, "get_shared_scores", None)
    table = table_or_model if read is None else read()
    check_columns(table, ["modality", "score", "shared"], "model.get_shared_scores()")
    if "group" in table and len(distinct(table["group"])) > 1:
        table = table[table["group"] == "all"]
        if table.empty:
            raise ValueError(
                "shared_scores() draws one group, or the rows of all types together: the table has "
                "several groups, and none is 'all'. Pass the rows of one of them."
            )
    if table.empty:
        raise ValueError("shared_scores() found no row in the table.")
    if not is_bool_dtype(table["shared"]) or table["shared"].isna().any():
        raise ValueError(
            f"shared_scores(): expected True or False in the column 'shared', found "
            f"{table['shared'].dtype} with values such as {table['shared'].iloc[0]!r}."
        )
    modalities = distinct(table["modality"])
    panels = panels_of(modalities, axes, beside=1.1)
    for ax, m in zip(panels, modalities, strict=True):
        of_modality = table[table["modality"] == m]
        score = of_modality["score"].clip(lower=LOWEST_R2)  # NaN where a feature is constant
        shared = of_modality["shared"].astype(bool)
        bins = np.histogram_bin_edges(score.dropna(), 30)
        for chosen, colour in ((~shared, GREY), (shared, BLUE)):
            ax.hist(score[chosen].dropna(), bins, color=colour, alpha=0.8)
        # thousands of features that are not shared would hide the others
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))  # in plain numbers
        ax.set(xlabel="R² given the other modalities", ylabel="features", ylim=(0.7, None))
        ax.set_title(f"{m}\n{shared.sum():,} of {len(shared):,} shared")
    key = {"shared": BLUE, "not shared": GREY}
    legend_beside(panels, [Patch(color=colour, label=name) for name, colour in key.items()])
    return panels
