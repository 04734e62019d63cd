r"""Which features of a modality do the other modalities predict? Arrays in, numbers out.

A feature that nothing in the other modalities predicts can only teach a shared latent noise. The
score of a feature is the leave-one-out R² of a ridge regression on all features of the others; the
scores of shuffled cells, of which none is shared, say how high a score is no accident.

The regression runs in its dual form on a sample of cells. With the inner products K of the cells
over the source features, and :math:`M = (K + \alpha I)^{-1}`, the residuals of all cells, each left
out in turn, are

.. math:: r_i = (M y)_i / M_{ii}

so that the cost is one inverse of an (n, n) matrix and a product with it for each target feature,
however wide the sources are. No matrix of cells times features is made dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.linalg import inv

# Target features that are dense at a time.
_BLOCK = 4096
# Ridge penalties, relative to the mean inner product of a cell with itself; each feature takes the
# best of them, among shuffled cells as well.
_PENALTIES = (0.03, 0.3, 3.0)
# Scores of shuffled cells that a threshold is judged by, where so many shuffles give as many.
_LEAST_NULL = 1000
_MOST_SHUFFLES = 10

Matrix = Any  # an array or a sparse matrix


class Screening(NamedTuple):
    """Scores of the features of one modality, (D,) each."""

    score: np.ndarray  # R², at most 1; NaN for a feature that is constant in the sample
    shared: np.ndarray  # which scores are no accident: the others predict the feature; boolean
    related: np.ndarray  # the others predict the feature or how far it is from its mean; boolean


def screen(
    target: Matrix, sources: Sequence[Matrix], rng: np.random.Generator, *, fdr: float = 0.05
) -> Screening:
    """Score each feature of a modality by how well the others predict it.

    Parameters
    ----------
    target
        Values of a sample of cells on which linear regression makes sense, (n, D); NaN where not
        observed.
    sources
        The same of the other modalities, rows in the same order.
    rng
        Shuffles the cells once, for the scores of what is not shared.
    fdr
        Accepted share of accidents among the features called shared.

    Returns
    -------
    Scores, and which of them are no accident.
    """
    # squares see a relation that has no linear part, such as that of z and z²
    kernels = [
        np.mean([gram(view(source)) for source in sources], axis=0) for view in (_as_is, _squared)
    ]
    operators = _operators(kernels)
    orders = [rng.permutation(target.shape[0]) for _ in range(-(-_LEAST_NULL // target.shape[1]))]

    def judge(values: Matrix) -> tuple[np.ndarray, np.ndarray]:
        score = leave_one_out_r2(operators, values)
        null = [leave_one_out_r2(operators, values[order]) for order in orders[:_MOST_SHUFFLES]]
        return score, score > threshold(score, np.array(null), fdr)

    score, shared = judge(target)
    # z is not predicted by z², but predicts it; such a feature shows by its own square. Counts and
    # peaks, which are sparse, say nothing more by their squares.
    related = shared if sp.issparse(target) else shared | judge(_squared(target))[1]
    return Screening(score, shared, related)


def gram(matrix: Matrix) -> np.ndarray:
    """Inner products of cells over standardised features, (n, n), with a mean diagonal of 1.

    Entries that are NaN count as the mean of their feature, features without variance for nothing.
    """
    if sp.issparse(matrix):
        x = sp.csr_matrix(matrix, dtype=np.float64)
        mean = np.asarray(x.mean(0)).ravel()
        variance = np.asarray(x.multiply(x).mean(0)).ravel() - mean**2
    else:
        x = _filled(np.asarray(matrix, dtype=np.float64))
        mean, variance = x.mean(0), x.var(0)
    varies = variance > 1e-10 * (1 + mean**2)
    inverse = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1)), 0.0)
    scaled = x.multiply(inverse).tocsr() if sp.issparse(x) else x * inverse
    products = scaled @ scaled.T
    products = products.toarray() if sp.issparse(products) else products  # (n, n)
    shift = scaled @ (mean * inverse)  # (n,)
    # (Z - 1 m')(Z - 1 m')' without making the sparse Z dense
    centred = products - shift[:, None] - shift[None, :] + np.square(mean * inverse).sum()
    return centred / max(1, varies.sum())


def _operators(kernels: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Matrices (n, n) that turn a feature into its leave-one-out residuals."""
    operators = []
    for kernel, penalty in product(kernels, _PENALTIES):
        inverse = inv(kernel + penalty * np.eye(len(kernel)))
        operators.append((inverse / np.diag(inverse)[:, None]).astype(np.float32))
    return operators


def leave_one_out_r2(operators: Sequence[np.ndarray], target: Matrix) -> np.ndarray:
    """Leave-one-out R² of kernel ridge regression for each feature of the target, (D,).

    The best over the operators. The prediction of a cell is compared with the mean of the other
    cells. NaN where the target is constant.
    """
    n_features = target.shape[1]
    best = np.full(n_features, -np.inf)
    total = np.empty(n_features)
    columns = target.tocsc() if sp.issparse(target) else target
    for start in range(0, n_features, _BLOCK):
        block = slice(start, start + _BLOCK)
        y = columns[:, block]
        y = np.asarray(y.toarray() if sp.issparse(y) else y, dtype=np.float32)
        present = ~np.isnan(y)
        y = _filled(y)
        y = y - y.mean(0)
        n_seen = present.sum(0)
        total[block] = np.square(y, where=present, out=np.zeros_like(y)).sum(0)
        total[block] *= np.square(n_seen / np.maximum(n_seen - 1, 1))
        for operator in operators:
            residual = np.where(present, operator @ y, 0)
            rest = np.square(residual).sum(0)
            with np.errstate(divide="ignore", invalid="ignore"):
                best[block] = np.fmax(best[block], 1 - rest / total[block])
    return np.where(total > 1e-6, best, np.nan)


def threshold(score: np.ndarray, null: np.ndarray, fdr: float) -> float:
    """Smallest score above which the share of accidents is at most ``fdr``, and never below 0.

    Accidents above a score are estimated by how many features of shuffled cells are above it, on
    average over shuffles: ``null`` is (shuffles, D), or (D,) for one.
    """
    shuffles = null.size / len(score)
    score, null = np.sort(score[np.isfinite(score)]), np.sort(null[np.isfinite(null)])
    found = len(score) - np.arange(len(score))  # as high as this score or higher
    accidents = (null.size - np.searchsorted(null, score, side="left")) / shuffles
    acceptable = score[(accidents <= fdr * found) & (score > 0)]
    return float(np.nextafter(acceptable[0], -np.inf)) if len(acceptable) else np.inf


def _as_is(matrix: Matrix) -> Matrix:
    return matrix


def _squared(matrix: Matrix) -> Matrix:
    """Squares; of deviations from the mean where the matrix is dense."""
    if sp.issparse(matrix):
        return matrix.multiply(matrix)
    return np.square(matrix - _filled(np.asarray(matrix)).mean(0))


def _filled(values: np.ndarray) -> np.ndarray:
    """NaN replaced by the mean of the feature, or 0 where all are NaN."""
    missing = np.isnan(values)
    if not missing.any():
        return values
    known = np.where(missing, 0, values)
    mean = known.sum(0) / np.maximum((~missing).sum(0), 1)
    return np.where(missing, mean, known)
