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

    Examples
    --------
    >>> import scvenn
    >>> mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20)
    >>> models = {"MMVAE": scvenn.MMVAE(mdata), "MMVAE++": scvenn.MMVAEpp(mdata)}
    >>> for model in models.values():
    ...     model.train(1, train_size=0.5, enable_progress_bar=False)
    >>> table = compare(models)
    >>> table.groupby(["model", "metric", "view"])["value"].median()  # doctest: +SKIP
    """
    tables = [
        model.evaluate(*args, **kwargs).assign(model=name)[["model", *EVALUATION_COLUMNS]]
        for name, model in models.items()
    ]
    return pd.concat(tables, ignore_index=True)
