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

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.linalg import inv

# Features that are dense at a time.
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
        Shuffles the cells, for the scores of what is not shared.
    fdr
        Accepted share of accidents among the features called shared.

    Returns
    -------
    Scores, and which of them are no accident.
    """
    kernels = [np.mean([gram(source) for source in sources], axis=0)]  # (n, n) each
    # squares see a relation that has no linear part, such as that of z and z²
    squares = [square for square in map(_squared, sources) if square is not None]
    if squares:
        kernels.append(np.mean([gram(square) for square in squares], axis=0))
    operators = _operators(kernels)
    n, n_features = target.shape
    n_shuffles = min(_MOST_SHUFFLES, -(-_LEAST_NULL // n_features))
    orders = [rng.permutation(n) for _ in range(n_shuffles)]

    def judge(values: Matrix) -> tuple[np.ndarray, np.ndarray]:
        score = leave_one_out_r2(operators, values)
        null = [leave_one_out_r2(operators, values[order]) for order in orders]
        return score, score > threshold(score, np.array(null), fdr)

    score, shared = judge(target)
    # z is not predicted by z², but predicts it; such a feature shows by its own square
    square = _squared(target)
    related = shared if square is None else shared | judge(square)[1]
    return Screening(score, shared, related)


def gram(matrix: Matrix) -> np.ndarray:
    """Inner products of cells over standardised features, (n, n), with a mean diagonal of 1.

    Entries that are NaN count as the mean of their feature, features without variance for nothing.
    """
    products, n_varying = np.zeros((matrix.shape[0],) * 2), 0
    for _, block in _dense_blocks(matrix):
        values = _filled(block)
        mean, scale = values.mean(0), values.std(0)
        varies = scale > 1e-5 * (1 + np.abs(mean))
        z = (values - mean)[:, varies] / scale[varies]  # (n, features of the block)
        products += z @ z.T
        n_varying += z.shape[1]
    return products / max(1, n_varying)


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
    for block, y in _dense_blocks(target):
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


def _dense_blocks(matrix: Matrix) -> Iterator[tuple[slice, np.ndarray]]:
    """Some features at a time, as arrays (n, features of the block)."""
    columns: Matrix = matrix.tocsc() if sp.issparse(matrix) else np.asarray(matrix)
    for start in range(0, matrix.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        values = columns[:, block]
        values = values.toarray() if sp.issparse(values) else values
        yield block, np.asarray(values, dtype=np.float32)


def _squared(matrix: Matrix) -> Matrix:
    """Squares of deviations from the mean; None for counts and peaks, whose squares say no more."""
    if sp.issparse(matrix):
        return None
    return np.square(matrix - _filled(np.asarray(matrix)).mean(0))


def _filled(values: np.ndarray) -> np.ndarray:
    """NaN replaced by the mean of the feature, or 0 where all are NaN."""
    missing = np.isnan(values)
    if not missing.any():
        return values
    known = np.where(missing, 0, values)
    mean = known.sum(0) / np.maximum((~missing).sum(0), 1)
    return np.where(missing, mean, known)
