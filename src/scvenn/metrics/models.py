"""Several models, evaluated in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

# what a table of `evaluate` holds
EVALUATION_COLUMNS = ["metric", "view", "source", "target", "feature", "value"]


def compare(models: Mapping[str, Any], *args: Any, **kwargs: Any) -> pd.DataFrame:
    """Evaluate several models in the same way.

    Parameters
    ----------
    models
        Trained models by name.
    *args, **kwargs
        Arguments of :meth:`scvenn.SharedPrivateModel.evaluate`.

    Returns
    -------
    The tables of all models under each other, with a first column ``model``.

    Raises
    ------
    ValueError
        If there are no models by name, or one cannot be evaluated.

    Examples
    --------
    >>> import scvenn
    >>> mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20)
    >>> models = {"MMVAE": scvenn.MMVAE(mdata), "MMVAE++": scvenn.MMVAEpp(mdata)}
    >>> for model in models.values():
    ...     model.train(1, train_size=0.5, enable_progress_bar=False)
    >>> table = compare(models)
    >>> medians(table)  # doctest: +SKIP
    """
    if not isinstance(models, Mapping) or not models:
        raise ValueError(
            "compare(models): expected trained models by name, {'MMVAE++': model, ...}; found "
            f"{type(models).__name__}{'' if models else ', which is empty'}."
        )
    tables = [model.evaluate(*args, **kwargs) for model in models.values()]
    for name, table in zip(models, tables, strict=True):
        table.insert(0, "model", name)
    return pd.concat(tables, ignore_index=True)


def medians(table: pd.DataFrame) -> pd.DataFrame:
    """Medians over features or dimensions of what ``evaluate`` or :func:`compare` returned.

    Most features of a wide modality are not shared, and their predictions across views are their
    means: the median over all features is then about 0 for any model. The median over the features
    that screening calls shared measures how well these are predicted.

    Parameters
    ----------
    table
        A table of scores, whole or in part.

    Returns
    -------
    A table with a row for each metric, view, source and target (and model and group, if the table
    has them), and the columns ``n``, the number of values; ``median``, over all of them;
    ``by_chance``, the median of what is expected by chance; and, if the model screens,
    ``n_screened``, ``median_screened`` and ``by_chance_screened``, of the features that are called
    shared. Values that are not defined are left out.

    Raises
    ------
    ValueError
        If it is no table, or lacks one of the columns of ``evaluate``.

    Examples
    --------
    >>> import pandas as pd
    >>> score = {"metric": "r2", "view": "cross", "source": "rna", "target": "atac"}
    >>> values = {"feature": ["a", "b", "c"], "value": [0.0, 0.1, 0.6], "by_chance": -0.1}
    >>> table = pd.DataFrame(values | {"screened": [False, False, True]}).assign(**score)
    >>> medians(table)[["n", "median", "n_screened", "median_screened", "by_chance_screened"]]
       n  median  n_screened  median_screened  by_chance_screened
    0  3     0.1           1              0.6                -0.1
    """
    if not isinstance(table, pd.DataFrame):
        raise ValueError(
            f"medians() takes the table of model.evaluate(); found {type(table).__name__}."
        )
    columns = [*EVALUATION_COLUMNS, "by_chance"]
    if missing := [name for name in columns if name not in table]:
        raise ValueError(
            f"medians() takes the table of model.evaluate(); found one without {missing}."
        )
    by = [
        name for name in ("model", "metric", "view", "source", "target", "group") if name in table
    ]
    defined = table.dropna(subset="value")
    groups = defined.groupby(by, sort=False, dropna=False, observed=True)
    found = groups.agg(
        n=("value", "size"), median=("value", "median"), by_chance=("by_chance", "median")
    )
    if "screened" in table:
        # of models that do not screen, and of latents, it is missing
        shared = defined[defined["screened"].astype("boolean").fillna(False)]
        of_shared = shared.groupby(by, sort=False, dropna=False, observed=True)
        found["n_screened"] = of_shared.size()
        found["median_screened"] = of_shared["value"].median()
        found["by_chance_screened"] = of_shared["by_chance"].median()
        found["n_screened"] = found["n_screened"].fillna(0).astype(int)
    return found.reset_index()
