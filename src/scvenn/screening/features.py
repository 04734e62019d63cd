r"""Which features of a modality do the other modalities predict? Arrays in, numbers out.

A feature that nothing in the other modalities predicts can only teach a shared latent noise. The
score of a feature is the leave-one-out R² of a regression on the other modalities; the scores of
shuffled cells, of which none is shared, say how high a score is no accident. Two kinds of
regression look at each feature, and the better one counts:

- Ridge regression on all features, and on their squares: it finds a few features among many that
  are not shared. In its dual form, on a sample of cells, with the inner products K of the cells
  over the features, orthonormal covariates C that are not penalised,
  :math:`M = (K + \alpha I)^{-1}` and :math:`G = M - M C (C^\top M C)^{-1} C^\top M`, the residuals
  of all cells, each left out in turn, are :math:`r_i = (G y)_i / G_{ii}`.
- Least squares on a few principal components: it finds what many features tell a little of, such
  as peaks of which a cell shows few. With an orthonormal basis Q of components and covariates and
  :math:`h_i = \sum_k Q_{ik}^2`, the residuals are :math:`r_i = (y - Q Q^\top y)_i / (1 - h_i)`.

R² compares with the covariates alone, left out in the same way. No matrix of cells times features
is made dense.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.linalg import inv

# Cells that ridge regression looks at: its cost grows with the cube of their number.
_MOST_CELLS_OF_RIDGE = 1500
# Features that are dense at a time.
_BLOCK = 4096
# Ridge penalties, relative to the mean inner product of a cell with itself.
_PENALTIES = (0.03, 0.3, 3.0)
# Numbers of principal components of each source.
_COMPONENTS = (10, 30)
# To find these: directions besides, and steps of the iteration.
_SPARE_DIRECTIONS = 10
_ITERATIONS = 5
# Scores of shuffled cells that a threshold is judged by, where so many shuffles give as many.
_LEAST_NULL = 1000
_MOST_SHUFFLES = 10
# A cell that covariates explain by themselves, such as the only one of its batch, is left out.
_LEAST_LEFT_OUT = 1e-6

Matrix = Any  # an array or a sparse matrix


class Screening(NamedTuple):
    """Scores of the features of one modality, (D,) each."""

    score: np.ndarray  # R², at most 1; NaN for a feature that is constant in the sample
    shared: np.ndarray  # which scores are no accident: the others predict the feature; boolean
    related: np.ndarray  # the others predict the feature or how far it is from its mean; boolean


def screen(
    target: Matrix,
    sources: Sequence[Matrix],
    rng: np.random.Generator,
    *,
    covariates: np.ndarray | None = None,
    fdr: float = 0.05,
) -> Screening:
    """Score each feature of a modality by how well the others predict it.

    Parameters
    ----------
    target
        Values of a sample of cells on which linear regression makes sense, (n, D), in random
        order; NaN where not observed.
    sources
        The same of the other modalities, rows in the same order.
    rng
        Shuffles the cells, for the scores of what is not shared.
    covariates
        What explains features in all modalities and is not to count, such as the batch, (n, V).
    fdr
        Accepted share of accidents among the features called shared.

    Returns
    -------
    Scores, and which of them are no accident.
    """
    n, n_features = target.shape
    some = slice(_MOST_CELLS_OF_RIDGE)
    basis, basis_of_some = (_basis(n, covariates, rows) for rows in (slice(n), some))
    few = [source[some] for source in sources]
    kernels = [np.mean([gram(source) for source in few], axis=0)]  # (n, n) each
    # squares see a relation that has no linear part, such as that of z and z²
    squares = [square for square in map(_squared, few) if square is not None]
    if squares:
        kernels.append(np.mean([gram(square) for square in squares], axis=0))
    operators = _operators(kernels, basis_of_some)
    bases = _bases(sources, basis, rng)
    n_shuffles = min(_MOST_SHUFFLES, -(-_LEAST_NULL // n_features))

    def ridge(values: Matrix, order: np.ndarray) -> np.ndarray:
        return ridge_r2(operators, basis_of_some, values[some][order])

    def least_squares(values: Matrix, order: np.ndarray) -> np.ndarray:
        return least_squares_r2(bases, basis, values[order])

    def judge(values: Matrix) -> tuple[np.ndarray, np.ndarray]:
        scores, passed = [], []
        for look, size in ((ridge, len(basis_of_some)), (least_squares, n)):
            found = look(values, np.arange(size))
            null = np.array([look(values, rng.permutation(size)) for _ in range(n_shuffles)])
            scores.append(found)
            # each look has its own chance scores, and half of the accidents
            passed.append(found > threshold(found, null, fdr / 2))
        return np.fmax(*scores), passed[0] | passed[1]

    found, shared = judge(target)
    # z is not predicted by z², but predicts it; such a feature shows by its own square
    square = _squared(target)
    related = shared if square is None else shared | judge(square)[1]
    return Screening(found, shared, related)


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


def _basis(n: int, covariates: np.ndarray | None, rows: slice) -> np.ndarray:
    """Orthonormal columns (n, rank) that span a constant and the covariates, of some rows."""
    columns = np.ones((n, 1)) if covariates is None else np.hstack([np.ones((n, 1)), covariates])
    left, size, _ = np.linalg.svd(columns[rows], full_matrices=False)
    return left[:, size > 1e-8 * size[0]]


def _operators(kernels: Sequence[np.ndarray], basis: np.ndarray) -> list[np.ndarray]:
    """Matrices (n, n) that turn a feature into its leave-one-out residuals after ridge regression.

    Rows of cells that the covariates explain by themselves are zero.
    """
    operators = []
    judged = _left_out(basis) > _LEAST_LEFT_OUT
    for kernel, penalty in product(kernels, _PENALTIES):
        inverse = inv(kernel + penalty * np.eye(len(kernel)))
        of_basis = inverse @ basis
        inverse -= of_basis @ np.linalg.solve(basis.T @ of_basis, of_basis.T)
        scale = np.where(judged, np.diag(inverse), np.inf)
        operators.append((inverse / scale[:, None]).astype(np.float32))
    return operators


def _left_out(basis: np.ndarray) -> np.ndarray:
    """How much of a cell's own value its fit by the basis leaves, from 0 to 1, (n,)."""
    return 1 - np.square(basis).sum(1)


def ridge_r2(operators: Sequence[np.ndarray], basis: np.ndarray, target: Matrix) -> np.ndarray:
    """Leave-one-out R² of ridge regression for each feature, (D,), the best over the operators.

    NaN where the target is constant.
    """
    n_features = target.shape[1]
    best = np.full(n_features, -np.inf)
    total = np.empty(n_features)
    left_out = _left_out(basis)
    scale = np.where(left_out > _LEAST_LEFT_OUT, left_out, np.inf)[:, None]
    for block, values in _dense_blocks(target):
        present = ~np.isnan(values)
        y = _filled(values)
        y = y - y.mean(0)
        total[block] = np.square((y - basis @ (basis.T @ y)) / scale * present).sum(0)
        for operator in operators:
            rest = np.square((operator @ y) * present).sum(0)
            with np.errstate(divide="ignore", invalid="ignore"):
                best[block] = np.fmax(best[block], 1 - rest / total[block])
    return np.where(total > 1e-6, best, np.nan)


def _bases(
    sources: Sequence[Matrix], basis: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Orthonormal columns that span the covariates and principal components of the sources."""
    most = max(_COMPONENTS)
    components = [_principal_components(source, basis, most, rng) for source in sources]
    return [
        np.linalg.qr(np.hstack([basis, *(c[:, :k] for c in components)]))[0] for k in _COMPONENTS
    ]


def _principal_components(
    matrix: Matrix, basis: np.ndarray, k: int, rng: np.random.Generator
) -> np.ndarray:
    """About the first k principal components of what the basis leaves over, (n, k).

    Found by iterating a random subspace (Halko et al., SIAM Rev 2011), which reads the matrix a
    dozen times in all. Features that are not sparse are standardised: their units are of no
    concern.
    """
    if not sp.issparse(matrix):
        matrix = _filled(np.asarray(matrix, dtype=np.float64))
        scale = matrix.std(0)
        matrix = (matrix - matrix.mean(0)) / np.where(scale > 0, scale, 1)
    k = min(k, min(matrix.shape) - basis.shape[1] - 1)
    if k < 1:
        return np.zeros((len(basis), 0))

    def left_over(values: np.ndarray) -> np.ndarray:
        return values - basis @ (basis.T @ values)

    width = min(k + _SPARE_DIRECTIONS, *matrix.shape)
    span = left_over(matrix @ rng.standard_normal((matrix.shape[1], width)))  # (n, width)
    for _ in range(_ITERATIONS):
        span = left_over(matrix @ (matrix.T @ np.linalg.qr(span)[0]))
    span = np.linalg.qr(span)[0]
    directions, size, _ = np.linalg.svd((matrix.T @ span).T, full_matrices=False)
    return (span @ directions)[:, :k][:, size[:k] > 1e-6 * size.max()]


def least_squares_r2(bases: Sequence[np.ndarray], basis: np.ndarray, target: Matrix) -> np.ndarray:
    """Leave-one-out R² of least squares for each feature, (D,), the best over the bases.

    Entries that are NaN count as the mean of their feature. NaN where the target is constant.
    """
    if not sp.issparse(target):
        target = _filled(np.asarray(target, dtype=np.float64))
        target = target - target.mean(0)
    judged = np.min([_left_out(q) for q in (basis, *bases)], axis=0) > _LEAST_LEFT_OUT
    total = _squared_residuals(basis, judged, target)
    best = np.full(target.shape[1], -np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        for q in bases:
            best = np.fmax(best, 1 - _squared_residuals(q, judged, target) / total)
    return np.where(total > 1e-6, best, np.nan)


def _squared_residuals(q: np.ndarray, judged: np.ndarray, target: Matrix) -> np.ndarray:
    """Sum over the judged cells of squared leave-one-out residuals, (D,).

    With weights :math:`w_i = (1 - h_i)^{-2}` the sum is multiplied out, so that no residual of a
    sparse target is ever held: w y² - 2 (Qᵀy)ᵀ QᵀWy + (Qᵀy)ᵀ QᵀWQ (Qᵀy).
    """
    weight = np.where(judged, 1 / np.square(np.where(judged, _left_out(q), 1)), 0)  # (n,)
    weighted = q * weight[:, None]
    fit, cross = (np.asarray((target.T @ side).T) for side in (q, weighted))  # (rank, D) each
    square = target.multiply(target) if sp.issparse(target) else np.square(target)
    own = np.asarray(square.T @ weight).ravel()
    return own - 2 * (fit * cross).sum(0) + (fit * (q.T @ weighted @ fit)).sum(0)


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
