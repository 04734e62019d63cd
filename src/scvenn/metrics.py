"""How good predictions and embeddings are: arrays in, numbers out.

Functions that fit something (:func:`probe_auc`, :func:`ridge_r2`, :func:`recovery_r2`) fit it on
the ``train`` rows and score it on the ``test`` rows, never on the same ones. Rows that hold NaN, as
an embedding has for cells without a modality, are left out.

Shapes: ``B`` cells, ``D`` features, ``K`` latent dimensions.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

__all__ = [
    "auroc",
    "compare",
    "pearson",
    "probe_auc",
    "r2",
    "recovery_r2",
    "ridge_r2",
    "scib",
]

# what a table of `evaluate` holds
EVALUATION_COLUMNS = ["metric", "view", "source", "target", "feature", "value"]

# --------------------------------------------------------------------------------------------
# Predictions, feature by feature
# --------------------------------------------------------------------------------------------


def r2(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    r"""Coefficient of determination of each feature.

    .. math:: R^2_j = 1 - \frac{\sum_i (x_{ij} - \hat x_{ij})^2}{\sum_i (x_{ij} - \bar x_j)^2}

    with the mean :math:`\bar x_j` of the scored cells: 1 is perfect, 0 no better than that mean,
    and there is no lower bound (paper, section 4).

    Parameters
    ----------
    truth
        Values, (B, D); NaN where not observed.
    predicted
        Predictions, (B, D); NaN where there is none.

    Returns
    -------
    Array (D,). A feature that is constant over the scored cells, or has fewer than two of them, is
    NaN, and a warning says so.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> r2([[1.0], [2.0], [3.0]], [[1.0], [2.0], [2.0]])
    array([0.5])
    """
    x, y, present = _pair(truth, predicted)
    total = np.square(x - _mean(x, present), where=present, out=np.zeros_like(x)).sum(0)
    residual = np.square(x - y, where=present, out=np.zeros_like(x)).sum(0)
    defined = _varies(x, present)
    _warn_undefined("R²", defined, "constant over the scored cells, or seen in fewer than two")
    return np.where(defined, 1 - residual / np.where(defined, total, 1), np.nan)


def pearson(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Pearson correlation of each feature with its prediction.

    Parameters
    ----------
    truth, predicted
        As in :func:`r2`.

    Returns
    -------
    Array (D,). 0 where the prediction is constant, which tells nothing; NaN, with a warning, where
    the feature is.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> pearson([[1.0], [2.0], [3.0]], [[10.0], [20.0], [30.0]]).round(3)
    array([1.])
    """
    x, y, present = _pair(truth, predicted)
    x, y = (np.where(present, v - _mean(v, present), 0.0) for v in (x, y))
    defined, tells = _varies(x, present), _varies(y, present)
    _warn_undefined(
        "correlation", defined, "constant over the scored cells, or seen in fewer than two"
    )
    norms = np.sqrt(np.square(x).sum(0) * np.square(y).sum(0))
    both = defined & tells
    return np.where(defined, np.where(both, (x * y).sum(0) / np.where(both, norms, 1), 0.0), np.nan)


def auroc(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each binary feature: 1 is perfect, 0.5 is chance.

    Parameters
    ----------
    truth
        0 or 1, (B, D); NaN where not observed.
    predicted
        Any score that rises with the probability of a 1, (B, D).

    Returns
    -------
    Array (D,). NaN, with a warning, where only zeros or only ones were observed.

    Raises
    ------
    ValueError
        If the shapes differ, or ``truth`` holds other values.

    Examples
    --------
    >>> auroc([[0], [1], [1]], [[0.1], [0.4], [0.3]])
    array([1.])
    """
    x, y, present = _pair(truth, predicted)
    if other := sorted(set(np.unique(x[present])) - {0.0, 1.0}):
        raise ValueError(f"auroc() needs a truth of 0 and 1, found {other[0]:g}.")
    defined = _varies(x, present)
    _warn_undefined("AUROC", defined, "only 0 or only 1 in the scored cells")
    # of all pairs of a 1 and a 0, the fraction in which the 1 has the higher score: by ranks,
    # since peaks are many
    ranks = rankdata(np.where(present, y, np.nan), axis=0, nan_policy="omit")
    ones = present & (x == 1)
    n_ones, n_zeros = ones.sum(0), (present & (x == 0)).sum(0)
    won = np.where(ones, ranks, 0.0).sum(0) - n_ones * (n_ones + 1) / 2
    return np.where(defined, won / np.where(defined, n_ones * n_zeros, 1), np.nan)


def _pair(truth: Any, predicted: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth and prediction, (B, D), with 0 where one is missing; and where both are there."""
    x, y = (np.asarray(v, dtype=np.float64) for v in (truth, predicted))
    if x.shape != y.shape or x.ndim != 2:
        raise ValueError(
            f"Expected truth and prediction of one shape (cells, features), found {x.shape} and "
            f"{y.shape}."
        )
    present = ~(np.isnan(x) | np.isnan(y))
    return np.where(present, x, 0.0), np.where(present, y, 0.0), present


def _mean(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    return values.sum(0) / present.sum(0).clip(min=1)


def _varies(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Which features take more than one value."""
    highest = np.where(present, values, -np.inf).max(0, initial=-np.inf)
    lowest = np.where(present, values, np.inf).min(0, initial=np.inf)
    return highest > lowest


# how the warnings below begin, as a pattern
UNDEFINED = r"\S+ is not defined and NaN for"


def _warn_undefined(what: str, defined: np.ndarray, reason: str) -> None:
    if not defined.all():
        columns = np.flatnonzero(~defined)
        shown = ", ".join(map(str, columns[:5])) + (", …" if len(columns) > 5 else "")
        warnings.warn(
            f"{what} is not defined and NaN for {len(columns)} of {len(defined)} features "
            f"(columns {shown}): {reason}.",
            UserWarning,
            stacklevel=3,
        )


# --------------------------------------------------------------------------------------------
# Embeddings
# --------------------------------------------------------------------------------------------


def probe_auc(
    embedding: np.ndarray,
    labels: Sequence[Any] | np.ndarray | pd.Series,
    *,
    train: np.ndarray,
    test: np.ndarray,
) -> float:
    """How well a linear probe tells labels apart in an embedding.

    An unpenalised logistic regression is fitted on the training cells (as in the paper's code);
    the area under the ROC curve of its probabilities is measured on the test cells. With more
    than two classes it is the mean over the classes that occur among the test cells, each against
    the rest.

    Parameters
    ----------
    embedding
        Array (B, K).
    labels
        One for each cell; NaN or None where not known.
    train, test
        Positions of the cells to fit on and to score.

    Returns
    -------
    AUC: 1 is perfect, 0.5 is chance.

    Raises
    ------
    ValueError
        If train and test overlap, the cells of either have only one class, or the test cells have
        a class that no training cell has.

    Notes
    -----
    Source: Märtens & Yau (MLCB 2023), section 4; tables 1 to 3.

    Examples
    --------
    >>> z = np.array([[0.0], [1.0], [0.1], [0.9]])
    >>> probe_auc(z, ["a", "b", "a", "b"], train=[0, 1], test=[2, 3])
    1.0
    """
    values = pd.Series(np.asarray(labels, dtype=object))
    known = values.notna().to_numpy() & np.isfinite(embedding).all(1)
    train, test = _fit_and_score(train, test, known)
    text = values.astype(str).to_numpy()
    for name, rows in (("train", train), ("test", test)):
        if len(found := np.unique(text[rows])) < 2:
            raise ValueError(
                f"The {len(rows)} labelled {name} cells have "
                f"{'no label' if len(found) == 0 else f'one label only, {str(found[0])!r}'}; an "
                "AUC needs two or more. Split the cells stratified by the label."
            )
    if unseen := sorted(set(text[test]) - set(text[train])):
        raise ValueError(f"No training cell has the label {unseen[0]!r}, which test cells have.")
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=np.inf, max_iter=1000))
    with warnings.catch_warnings():
        # classes that a plane separates have no finite solution; the ranking is settled long before
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(embedding[train], text[train])
    probabilities = probe.predict_proba(embedding[test])  # (cells, classes)
    areas = [
        roc_auc_score(text[test] == name, probabilities[:, c])
        for c, name in enumerate(probe.classes_)
        if (text[test] == name).any()
    ]
    return float(np.mean(areas))


def ridge_r2(
    source: np.ndarray, target: np.ndarray, *, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """How much of a target a ridge regression reads off a source: a measure of leakage.

    Between a private latent and the shared one, or between a private latent and *another*
    modality, it should be near zero.

    Parameters
    ----------
    source
        Array (B, K); standardised inside, the ridge penalty is 1.
    target
        Array (B, D). Values that are NaN are the feature's mean while fitting, and not scored.
    train, test
        Positions of the cells to fit on and to score.

    Returns
    -------
    :func:`r2` on the test cells of each column of the target, (D,).

    Raises
    ------
    ValueError
        If train and test overlap, or fewer than two cells of either have both.

    Examples
    --------
    >>> z = np.linspace(-1, 1, 20)[:, None]
    >>> ridge_r2(z, 3 * z, train=np.arange(0, 20, 2), test=np.arange(1, 20, 2)).round(2)
    array([0.99])
    """
    return _fitted_r2(make_pipeline(StandardScaler(), Ridge()), source, target, train, test)


def recovery_r2(
    learned: np.ndarray, truth: np.ndarray, *, train: np.ndarray, test: np.ndarray
) -> dict[str, float]:
    """How much of a planted latent a learned one holds, linearly and in any form.

    Parameters
    ----------
    learned
        Embedding, (B, K).
    truth
        Planted latent, (B, L).
    train, test
        Positions of the cells to fit on and to score.

    Returns
    -------
    Mean R² over the L dimensions on the test cells: ``"linear"`` by least squares (which sees what
    canonical correlation sees), ``"knn"`` by the mean of the 10 nearest training cells.

    Raises
    ------
    ValueError
        If train and test overlap, or fewer than two cells of either have both.

    Examples
    --------
    >>> z = np.linspace(-1, 1, 40)[:, None]
    >>> scores = recovery_r2(z, z**2, train=np.arange(0, 40, 2), test=np.arange(1, 40, 2))
    >>> scores["linear"] < 0.1 < scores["knn"]
    True
    """
    n_neighbors = min(10, len(np.asarray(train)))
    estimators = {
        "linear": LinearRegression(),
        "knn": make_pipeline(StandardScaler(), KNeighborsRegressor(n_neighbors)),
    }
    return {
        name: float(np.mean(_fitted_r2(estimator, learned, truth, train, test)))
        for name, estimator in estimators.items()
    }


def _fitted_r2(
    estimator: Any, source: np.ndarray, target: np.ndarray, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """R² of each column of the target, from an estimator fitted on the training rows."""
    source, target = np.asarray(source), np.asarray(target, dtype=np.float64)
    missing = np.isnan(target)
    train, test = _fit_and_score(train, test, np.isfinite(source).all(1) & ~missing.all(1))
    if min(len(train), len(test)) < 2:
        raise ValueError(
            f"{len(train)} training and {len(test)} test cells have both source and target; at "
            "least 2 of each are needed."
        )
    known = np.where(missing[train], 0.0, target[train])
    filled = np.where(missing[train], _mean(known, ~missing[train]), known)
    estimator.fit(source[train], filled)
    return r2(target[test], estimator.predict(source[test]).reshape(len(test), -1))


def _fit_and_score(train: Any, test: Any, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the usable training and test cells, after checking that they are apart."""
    every = np.arange(len(usable))
    train, test = every[np.asarray(train)], every[np.asarray(test)]
    if both := set(train) & set(test):
        raise ValueError(
            f"{len(both)} cells are in train and in test, for example position {min(both)}. A "
            "score on cells that were fitted says nothing: keep them apart."
        )
    return train[usable[train]], test[usable[test]]


def scib(
    embeddings: Mapping[str, np.ndarray],
    labels: Sequence[Any],
    *,
    batch: Sequence[Any] | None = None,
) -> pd.DataFrame:
    """Quality of embeddings by scib-metrics: cell types together, batches mixed.

    Needs ``pip install scvenn[scib]``.

    Parameters
    ----------
    embeddings
        Arrays (B, K) by name, such as ``{"MMVAE": model.get_shared_representation()}``.
    labels
        Cell types, (B,).
    batch
        Batches, (B,); None for biological metrics only.

    Returns
    -------
    One row for each embedding, one column for each metric; higher is better.

    Raises
    ------
    ImportError
        If scib-metrics is not installed.
    ValueError
        If an embedding holds NaN.
    """
    try:
        from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation
    except ImportError as error:
        raise ImportError(
            "scvenn.metrics.scib needs scib-metrics: pip install 'scvenn[scib]'."
        ) from error
    from anndata import AnnData

    for name, embedding in embeddings.items():
        if not np.isfinite(embedding).all():
            raise ValueError(f"Embedding {name!r} holds NaN; leave out cells without it.")
    obs = pd.DataFrame({"label": pd.Categorical(labels)}).rename(index=str)
    obs["batch"] = pd.Categorical(["one"] * len(obs) if batch is None else batch)
    cells = AnnData(np.zeros((len(obs), 1), np.float32), obs=obs, obsm=dict(embeddings))
    benchmark = Benchmarker(
        cells,
        batch_key="batch",
        label_key="label",
        embedding_obsm_keys=list(embeddings),
        bio_conservation_metrics=BioConservation(isolated_labels=batch is not None),
        batch_correction_metrics=None if batch is None else BatchCorrection(pcr_comparison=False),
        # used by the PCR comparison only, which needs the data and is left out
        pre_integrated_embedding_obsm_key=next(iter(embeddings)),
        progress_bar=False,
    )
    benchmark.benchmark()
    table = benchmark.get_results(min_max_scale=False)
    return table.loc[list(embeddings)].astype(float)


# --------------------------------------------------------------------------------------------
# Several models
# --------------------------------------------------------------------------------------------


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
