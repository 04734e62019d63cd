"""How good embeddings are: fitted on the ``train`` rows, scored on the ``test`` rows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import recall_score, roc_auc_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scvenn.metrics.arrays import as_array, check_one_order
from scvenn.metrics.features import mean_of_present, r2


def probe_scores(
    embedding: np.ndarray,
    labels: Sequence[Any] | np.ndarray | pd.Series,
    *,
    train: np.ndarray,
    test: np.ndarray,
) -> dict[str, float]:
    """How well a linear probe predicts a label from an embedding.

    The probe is an unpenalised logistic regression, as in the paper's code, fitted on the training
    cells.

    Parameters
    ----------
    embedding
        Array (B, K).
    labels
        One for each cell; NaN or None where not known.
    train, test
        Positions of the cells to fit on and to score, or masks.

    Returns
    -------
    ``"auc"``: the area under the curve of each class against the rest, its mean over the classes
    among the test cells; 1 is perfect, 0.5 is chance. ``"balanced_accuracy"``: the fraction that is
    named right, its mean over the same classes, so that a rare cell type counts as much as a common
    one; 1 is perfect, one over the number of classes is chance.

    Raises
    ------
    ValueError
        If train and test overlap, the cells of either have only one class, or the test cells have
        a class that no training cell has; or if tables and series have other cells, or the same in
        another order.

    Notes
    -----
    Source: Märtens & Yau (MLCB 2023), section 4; tables 1 to 3.

    Examples
    --------
    >>> z = np.array([[0.0], [1.0], [0.1], [0.9]])
    >>> probe_scores(z, ["a", "b", "a", "b"], train=[0, 1], test=[2, 3])
    {'auc': 1.0, 'balanced_accuracy': 1.0}
    """
    classes, probabilities, truth = _probe(embedding, labels, train, test)
    areas = [
        roc_auc_score(truth == name, probabilities[:, c])
        for c, name in enumerate(classes)
        if (truth == name).any()
    ]
    predicted = classes[probabilities.argmax(1)]
    # balanced accuracy; sklearn's function of that name warns of labels that no test cell has
    accuracy = recall_score(truth, predicted, labels=np.unique(truth), average="macro")
    return {"auc": float(np.mean(areas)), "balanced_accuracy": float(accuracy)}


def _probe(
    embedding: np.ndarray, labels: Any, train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit a linear probe: classes, and probabilities (cells, classes) and labels of the test."""
    check_one_order(embedding=embedding, labels=labels, train=train, test=test)
    embedding = _as_matrix(embedding, "embedding")
    values = _labels(labels, len(embedding))
    known = values.notna().to_numpy() & np.isfinite(embedding).all(1)
    train, test = _fit_and_score(train, test, known)
    text = values.astype(str).to_numpy()
    for name, rows in (("train", train), ("test", test)):
        if len(found := np.unique(text[rows])) < 2:
            raise ValueError(
                f"The {len(rows)} labelled {name} cells have "
                f"{'no label' if len(found) == 0 else f'one label only, {str(found[0])!r}'}; a "
                "probe needs two or more. Split the cells stratified by the label."
            )
    if unseen := sorted(set(text[test]) - set(text[train])):
        raise ValueError(f"No training cell has the label {unseen[0]!r}, which test cells have.")
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=np.inf, max_iter=1000))
    with warnings.catch_warnings():
        # classes that a plane separates have no finite solution; the ranking is settled long before
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(embedding[train], text[train])
    return probe.classes_, probe.predict_proba(embedding[test]), text[test]


def ridge_r2(
    source: np.ndarray, target: np.ndarray, *, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """How well a ridge regression predicts a target from a source: a measure of leakage.

    Between a private latent and the shared one, or between a private latent and *another*
    modality, it should be near zero.

    Parameters
    ----------
    source
        Array (B, K); standardised inside, the ridge penalty is 1.
    target
        Array (B, D). Values that are NaN are the feature's mean while fitting, and not scored.
    train, test
        Positions of the cells to fit on and to score, or masks.

    Returns
    -------
    :func:`r2` on the test cells of each column of the target, (D,).

    Raises
    ------
    ValueError
        If train and test overlap, or fewer than two cells of either have both; or if tables and
        series have other cells, or the same in another order.

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
        Planted latent, (B, L); NaN where not known.
    train, test
        Positions of the cells to fit on and to score, or masks.

    Returns
    -------
    Mean R² over the L dimensions on the test cells: ``"linear"`` by least squares (which sees what
    canonical correlation sees), ``"knn"`` by the mean of the 10 nearest training cells.

    Raises
    ------
    ValueError
        If train and test overlap, or fewer than two cells of either have both; or if tables and
        series have other cells, or the same in another order.

    Examples
    --------
    >>> z = np.linspace(-1, 1, 40)[:, None]
    >>> scores = recovery_r2(z, z**2, train=np.arange(0, 40, 2), test=np.arange(1, 40, 2))
    >>> scores["linear"] < 0.1 < scores["knn"]
    True
    """
    check_one_order(learned=learned, truth=truth, train=train, test=test)
    learned, truth = _as_matrix(learned, "learned"), _as_matrix(truth, "truth")
    _check_cells(len(learned), truth, "truth")
    both = np.isfinite(learned).all(1) & ~np.isnan(truth).all(1)
    n_neighbors = min(10, both[_positions(train, len(both), "train")].sum())
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
    check_one_order(source=source, target=target, train=train, test=test)
    source, target = _as_matrix(source, "source"), _as_matrix(target, "target")
    _check_cells(len(source), target, "target")
    if np.isinf(target).any():
        raise ValueError("Expected a finite target, or NaN where it is not known; found infinity.")
    missing = np.isnan(target)
    train, test = _fit_and_score(train, test, np.isfinite(source).all(1) & ~missing.all(1))
    if min(len(train), len(test)) < 2:
        raise ValueError(
            f"{len(train)} training and {len(test)} test cells have both source and target; at "
            "least 2 of each are needed."
        )
    estimator.fit(source[train], with_means(target[train]))
    return r2(target[test], estimator.predict(source[test]).reshape(len(test), -1))


def with_means(values: np.ndarray) -> np.ndarray:
    """Values (n, D) with the mean of the column where they are NaN."""
    missing = np.isnan(values)
    known = np.where(missing, 0.0, values)
    return np.where(missing, mean_of_present(known, ~missing), known)


def _as_matrix(values: Any, name: str) -> np.ndarray:
    """Numbers of cells as an array (B, K)."""
    found = as_array(values)
    if found.ndim != 2:
        raise ValueError(
            f"{name}: expected an array (cells, dimensions), found one of shape {found.shape}."
        )
    return found


def _check_cells(n_cells: int, values: Any, name: str) -> None:
    """Refuse values of another number of cells."""
    if len(values) != n_cells:
        raise ValueError(
            f"{name}: expected a value for each of {n_cells} cells, found {len(values)}."
        )


def _fit_and_score(train: Any, test: Any, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the usable training and test cells, after checking that they are apart."""
    train = _positions(train, len(usable), "train")
    test = _positions(test, len(usable), "test")
    if both := set(train) & set(test):
        raise ValueError(
            f"{len(both)} cells are in train and in test, for example position {min(both)}. A "
            "score on cells that were fitted says nothing: keep them apart."
        )
    return train[usable[train]], test[usable[test]]


def _positions(chosen: Any, n_cells: int, name: str) -> np.ndarray:
    """Positions of cells, from positions or a mask."""
    rows = np.asarray(chosen)
    if not rows.size:
        return np.zeros(0, dtype=int)
    is_mask = rows.dtype == bool and rows.shape == (n_cells,)
    if not is_mask and (rows.dtype.kind not in "iu" or rows.ndim != 1):
        raise ValueError(
            f"{name}: expected positions of cells, or a mask of {n_cells} booleans; found "
            f"{rows.dtype} of shape {rows.shape}."
        )
    if not is_mask and (rows.min() < -n_cells or rows.max() >= n_cells):
        raise ValueError(
            f"{name}: expected positions among {n_cells} cells, found {rows.min()} to {rows.max()}."
        )
    return np.arange(n_cells)[rows]


def _labels(labels: Any, n_cells: int) -> pd.Series:
    """One label for each cell."""
    values = np.asarray(labels, dtype=object)
    if values.ndim != 1:
        raise ValueError(
            f"labels: expected one for each cell, found an array of shape {values.shape}."
        )
    _check_cells(n_cells, values, "labels")
    return pd.Series(values)


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
        Cell types, (B,); cells without one are left out.
    batch
        Batches, (B,), two or more; None for biological metrics only.

    Returns
    -------
    One row for each embedding, one column for each metric; higher is better.

    Raises
    ------
    ImportError
        If scib-metrics is not installed.
    ValueError
        If an embedding holds NaN, there is none, the numbers of cells or their names differ, or
        there are fewer than two cell types or batches.
    """
    try:
        from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation
    except ImportError as error:
        raise ImportError(
            "scvenn.metrics.scib needs scib-metrics: pip install 'scvenn[scib]'."
        ) from error
    from anndata import AnnData

    if not isinstance(embeddings, Mapping) or not embeddings:
        raise ValueError(
            "embeddings: expected arrays (cells, dimensions) by name, such as "
            "{'MMVAE': model.get_shared_representation()}."
        )
    check_one_order(
        **{f"embeddings[{name!r}]": values for name, values in embeddings.items()},
        labels=labels,
        batch=batch,
    )
    embeddings = {name: _as_matrix(values, name) for name, values in embeddings.items()}
    n_cells = len(next(iter(embeddings.values())))
    types = _labels(labels, n_cells)
    known = types.notna().to_numpy()
    for name, embedding in embeddings.items():
        _check_cells(n_cells, embedding, name)
        if not np.isfinite(embedding[known]).all():
            raise ValueError(f"Embedding {name!r} holds NaN; leave out cells without it.")
    embeddings = {name: embedding[known] for name, embedding in embeddings.items()}
    obs = pd.DataFrame({"label": pd.Categorical(types[known])}).rename(index=str)
    of_cells = np.full(n_cells, "one") if batch is None else np.asarray(batch, dtype=object)
    _check_cells(n_cells, of_cells, "batch")
    obs["batch"] = pd.Categorical(of_cells[known])
    for column, what in (("label", "cell types"), ("batch", "batches")):
        n_found = obs[column].nunique()
        if n_found < 2 and not (column == "batch" and batch is None):
            raise ValueError(f"scib() needs two or more {what}, found {n_found}.")
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
