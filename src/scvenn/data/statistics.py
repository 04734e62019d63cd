"""Means, scales and library sizes of features, which networks and likelihoods start from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.preprocessing import StandardScaler

from scvenn.data.matrices import SMALLEST, Matrix, row_blocks, row_sums
from scvenn.likelihoods import LIKELIHOODS, FeatureStats
from scvenn.screening import LEAST_VARIATION

# What takes the time where there is much data.
_BAR = "Means and scales"


class Summary(NamedTuple):
    """What some cells say of the features of a modality."""

    stats: FeatureStats
    density: float  # the share of the values that are not 0, or missing
    constant: np.ndarray  # features that have one value, up to rounding, (D,)
    nearly_constant: np.ndarray  # those of them that have more than one, (D,)


def feature_stats(matrix: Matrix, rows: np.ndarray, *, likelihood: str) -> Summary:
    """Mean and scale of each feature and the median library size, over some of the cells.

    How sums are taken follows from the likelihood, so that the same values in any storage give the
    same numbers to the last bit.

    Parameters
    ----------
    matrix
        Aligned values, (n_obs, D).
    rows
        Positions of cells in which the modality was measured.
    likelihood
        A name in ``LIKELIHOODS``.

    Returns
    -------
    The summary, in which a feature without any observed value has mean 0 and scale 1.
    """
    gather = _sums_of_discrete if LIKELIHOODS[likelihood].discrete else _sums_of_real
    n_seen, mean, variance, library, n_nonzero = gather(matrix, rows)
    mean, variance = (np.where(n_seen > 0, values, 0.0) for values in (mean, variance))
    # what varies by a few roundings is constant
    constant = np.sqrt(variance) <= LEAST_VARIATION * np.abs(mean) + SMALLEST
    positive = library[np.isfinite(library) & (library > 0)]
    found = FeatureStats(
        mean=mean.astype(np.float32),
        scale=np.where(constant, 1.0, np.sqrt(variance)).astype(np.float32),
        library=float(np.median(positive)) if len(positive) else 1.0,
    )
    density = n_nonzero / max(len(rows) * matrix.shape[1], 1)
    # the variance of one value is 0, or of a few roundings in double precision
    one_value = variance <= 10 * np.finfo(np.float64).eps * np.square(mean) + SMALLEST**2
    return Summary(found, density, constant, constant & ~one_value)


Sums = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]


def _sums_of_discrete(matrix: Matrix, rows: np.ndarray) -> Sums:
    """Cells seen, mean and variance of each feature, (D,), and sum of each cell: most are zeros.

    And the number of values that are not.
    """
    n_features = matrix.shape[1]
    missing, total, squares = (np.zeros(n_features) for _ in range(3))
    library, n_nonzero = [], 0
    for stored in row_blocks(matrix, rows, _BAR):
        chunk = sp.csr_matrix(stored)
        n_nonzero += int(np.count_nonzero(chunk.data))
        values = chunk.data.astype(np.float64)
        is_nan = np.isnan(values)
        known = np.where(is_nan, 0, values)
        for sums, weights in ((missing, is_nan), (total, known), (squares, np.square(known))):
            sums += np.bincount(chunk.indices, weights, minlength=n_features)
        library.append(row_sums(chunk).ravel())
    n_seen = len(rows) - missing
    mean = total / np.maximum(n_seen, 1)
    variance = np.maximum(squares / np.maximum(n_seen, 1) - np.square(mean), 0)
    return n_seen, mean, variance, np.concatenate([*library, np.zeros(0)]), n_nonzero


def _sums_of_real(matrix: Matrix, rows: np.ndarray) -> Sums:
    """Sums over rows of real values, by scikit-learn's scaler, which streams and leaves out NaN."""
    scaler = StandardScaler()
    library, n_nonzero = [], 0
    for chunk in row_blocks(matrix, rows, _BAR):
        dense = chunk.toarray() if sp.issparse(chunk) else chunk
        n_nonzero += int(np.count_nonzero(dense))
        with np.errstate(invalid="ignore"):  # 0 / 0 where no value was seen yet
            scaler.partial_fit(dense.astype(np.float64))
        library.append(row_sums(dense).ravel())
    n_seen = np.broadcast_to(scaler.n_samples_seen_, matrix.shape[1])
    return n_seen, scaler.mean_, scaler.var_, np.concatenate(library), n_nonzero
