"""What standard methods make of the same data: scores to be beaten, in the runs' own form."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np
import pandas as pd
from mudata import MuData
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scvenn import metrics

# Extra-trees take minutes where the others take a second: they predict the shared features only,
# and learn from at most so many cells.
MOST_CELLS_FOR_TREES = 2000


def regressors(seed: int, n_train: int, n_features: int) -> dict:
    """Regressors of one modality on the other; their settings are common ones, none was tuned."""
    n_components = min(10, n_features, n_train - 1)
    return {
        "mean": DummyRegressor(),
        "ridge": RidgeCV(alphas=np.logspace(0, 4, 9), alpha_per_target=True),
        "PLS": PLSRegression(n_components, scale=False),
        "kNN": KNeighborsRegressor(min(10, n_train)),
        "extra-trees": ExtraTreesRegressor(200, random_state=seed),
    }


def score(
    mdata: MuData, train: np.ndarray, test: np.ndarray, *, labelled: bool, seed: int
) -> Iterator[dict]:
    """R² of every method and direction, AUC of a logistic regression on principal components."""
    for source, target in permutations(mdata.mod, 2):
        x, y = (_standardised(mdata, m, train) for m in (source, target))
        shared = mdata[target].var["shared"].to_numpy()
        for name, regressor in regressors(seed, len(train), x.shape[1]).items():
            trees = name == "extra-trees"
            columns = np.flatnonzero(shared) if trees else np.arange(len(shared))
            cells = train[:MOST_CELLS_FOR_TREES] if trees else train
            regressor.fit(x[cells], y[cells][:, columns])
            predicted = regressor.predict(x[test]).reshape(len(test), -1)
            values = pd.Series(metrics.r2(y[test][:, columns], predicted))
            kinds = np.where(shared[columns], "shared", "private")
            for kind, median in values.groupby(kinds).median().items():
                yield {
                    "method": name,
                    "metric": "r2",
                    "view": "cross",
                    "source": source,
                    "target": target,
                    "features": kind,
                    "value": median,
                }
    if labelled:
        for m in mdata.mod:
            n_components = min(10, len(train) - 1, mdata[m].n_vars)
            embed = make_pipeline(StandardScaler(), PCA(n_components, random_state=seed))
            z = embed.fit(mdata[m].X[train]).transform(mdata[m].X)
            yield {
                "method": "PCA + logistic",
                "metric": "auc",
                "view": "latent",
                "source": m,
                "target": "label",
                "value": metrics.probe_scores(z, mdata.obs["label"], train=train, test=test)["auc"],
            }


def _standardised(mdata: MuData, modality: str, train: np.ndarray) -> np.ndarray:
    values = mdata[modality].X
    return StandardScaler().fit(values[train]).transform(values)
