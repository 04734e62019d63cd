"""How good predictions are, feature by feature; :mod:`scvenn.metrics` offers these to users.

Shapes: ``B`` cells, ``D`` features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata

from scvenn._warnings import warn
from scvenn.metrics.arrays import as_array, in_one_order


def r2(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    r"""Coefficient of determination of each feature.

    .. math:: R^2_j = 1 - \frac{\sum_i (x_{ij} - \hat x_{ij})^2}{\sum_i (x_{ij} - \bar x_j)^2}

    with the mean :math:`\bar x_j` of the scored cells: 1 is perfect, 0 no better than that mean,
    and there is no lower bound (paper, section 4).

    Parameters
    ----------
    truth
        Values, (B, D); NaN where not observed. Arrays, sparse matrices or tables.
    predicted
        Predictions, (B, D); NaN where there is none. Cells and features of two tables are matched
        by name, where they have names in common.

    Returns
    -------
    Array (D,). A feature that is constant over the scored cells, or has fewer than two of them, is
    NaN, and a warning says so.

    Raises
    ------
    ValueError
        If the shapes differ, or tables have some names in common and others not.

    Examples
    --------
    >>> r2([[1.0], [2.0], [3.0]], [[1.0], [2.0], [2.0]])
    array([0.5])
    """
    x, y, present = _pair(truth, predicted)
    total = np.square(x - mean_of_present(x, present), where=present, out=np.zeros_like(x)).sum(0)
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
    Array (D,). 0 where the prediction is constant and predicts nothing; NaN, with a warning, where
    the feature is.

    Raises
    ------
    ValueError
        As :func:`r2`.

    Examples
    --------
    >>> pearson([[1.0], [2.0], [3.0]], [[10.0], [20.0], [30.0]]).round(3)
    array([1.])
    """
    x, y, present = _pair(truth, predicted)
    x, y = (np.where(present, v - mean_of_present(v, present), 0.0) for v in (x, y))
    defined, varies = _varies(x, present), _varies(y, present)
    _warn_undefined(
        "correlation", defined, "constant over the scored cells, or seen in fewer than two"
    )
    norms = np.sqrt(np.square(x).sum(0) * np.square(y).sum(0))
    both = defined & varies
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
        As :func:`r2`; or if ``truth`` holds other values.

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
    x, y = (as_array(v).astype(np.float64) for v in in_one_order(truth, predicted))
    if x.shape != y.shape or x.ndim != 2:
        raise ValueError(
            f"Expected truth and prediction of one shape (cells, features), found {x.shape} and "
            f"{y.shape}."
        )
    if np.isinf(x).any() or np.isinf(y).any():
        raise ValueError("Expected finite values and predictions, or NaN; found infinite ones.")
    present = ~(np.isnan(x) | np.isnan(y))
    return np.where(present, x, 0.0), np.where(present, y, 0.0), present


def mean_of_present(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Mean of each feature over what is present, (D,)."""
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
        warn(
            f"{what} is not defined and NaN for {len(columns)} of {len(defined)} features "
            f"(columns {shown}): {reason}."
        )
