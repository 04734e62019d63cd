r"""How well some modalities predict the features of another one: leave-one-out R² of two fits.

- :class:`Ridge` regression on all features, and on their squares: it finds a few predictive
  features among many that are not. In its dual form, on a sample of cells, with the inner products
  K of the cells over the features, orthonormal covariates C that are not penalised,
  :math:`M = (K + \alpha I)^{-1}` and :math:`G = M - M C (C^\top M C)^{-1} C^\top M`, the
  residuals of all cells, each left out in turn, are :math:`r_i = (G y)_i / G_{ii}`.
- :class:`LeastSquares` on a few principal components: it finds relations to which many features
  contribute a little each, such as peaks of which a cell shows few. With an orthonormal basis Q of
  components and covariates and :math:`h_i = \sum_k Q_{ik}^2`, the residuals are
  :math:`r_i = (y - Q Q^\top y)_i / (1 - h_i)`.

R² compares with the covariates alone, left out in the same way.

Shapes: ``n`` cells, ``D`` features of the target, ``r`` columns of a basis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from itertools import product

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri

from scvenn.screening.values import Values

# Ridge penalties, relative to the mean inner product of a cell with itself.
_PENALTIES = (0.03, 0.3, 3.0)  # three, as many as a compiled sum takes at a time
# Numbers of principal components of each source.
_COMPONENTS = (10, 30)
# To find these: further directions, and steps of the iteration.
_SPARE_DIRECTIONS = 10
_ITERATIONS = 5
# A cell that covariates explain by themselves, such as the only one of its batch, is not scored.
_LEAST_LEFT_OUT = 1e-6
# Variance that covariates leave of a feature, relative to its size, below which it is constant.
_LEAST_VARIANCE = 1e-9


class Regression(ABC):
    """A regression on the other modalities, ready for any target."""

    @abstractmethod
    def r2(self, target: Values, orders: np.ndarray) -> np.ndarray:
        """Leave-one-out R² of each feature, (m, D); NaN where covariates leave no variance.

        Parameters
        ----------
        target
            Values of the same cells, (n, D).
        orders
            Which cell of the target is paired with each cell of the regression, (m, n): their
            order, or for chance scores shuffled ones. All are scored together, so that many
            shuffles of few cells cost little more than one.
        """


class Ridge(Regression):
    """Ridge regression on all features and on their squares; R² is that of the best penalty.

    Entries of the target that were not observed are not scored.

    Parameters
    ----------
    operators
        Matrices (n, n) that turn a feature into its leave-one-out residuals.
    basis
        Orthonormal covariates, (n, r).
    """

    def __init__(self, operators: Sequence[np.ndarray], basis: np.ndarray) -> None:
        self.operators = operators
        self.basis = basis

    @classmethod
    def on(cls, sources: Sequence[Values], basis: np.ndarray) -> Ridge:
        """Regression on these modalities, which weigh alike."""
        kernels = [np.mean([gram(source) for source in sources], axis=0)]  # (n, n) each
        # squares find a relation that has no linear part, such as that of z and z²
        squares = [square for source in sources if (square := source.squares()) is not None]
        if squares:
            kernels.append(np.mean([gram(square) for square in squares], axis=0))
        scored = _left_out(basis) > _LEAST_LEFT_OUT
        operators = []
        for kernel, penalty in product(kernels, _PENALTIES):
            inverse = _inverse(kernel + penalty * np.eye(len(kernel)))
            of_basis = inverse @ basis
            inverse -= of_basis @ np.linalg.solve(basis.T @ of_basis, of_basis.T)
            # the rows of cells that are not scored become 0
            scale = np.where(scored, np.diag(inverse), np.inf)
            operators.append((inverse / scale[:, None]).astype(np.float32))
        return cls(operators, basis)

    @cached_property
    def forms(self) -> list[np.ndarray]:
        """Matrices A, (n, n, penalties): a feature y has squared residuals yᵀAy in all."""
        each = [operator.T @ operator for operator in self.operators]
        return [
            np.stack(each[start : start + len(_PENALTIES)], axis=-1)
            for start in range(0, len(each), len(_PENALTIES))
        ]

    def r2(self, target: Values, orders: np.ndarray) -> np.ndarray:
        if (entries := target.entries) is not None:
            from scvenn.screening.compiled import quadratic_forms  # numba takes a second

            size, (total,) = _squared_residuals(target, [self.basis], orders)
            rest = []
            for to_target in np.argsort(orders, axis=1):
                pairs = np.ix_(to_target, to_target)
                of_forms = [quadratic_forms(entries, form[pairs]) for form in self.forms]
                rest.append(np.hstack(of_forms).min(1))
            return _r2(np.array(rest), total, size)
        left_out = _left_out(self.basis)
        scale = np.where(left_out > _LEAST_LEFT_OUT, left_out, np.inf)[:, None]
        best = np.empty((len(orders), target.shape[1]))
        for features, values, measured in target.blocks():
            y = _side_by_side(values, orders)  # (n, m * features)
            observed = None if measured is None else _side_by_side(measured, orders)
            left_over = (y - self.basis @ (self.basis.T @ y)) / scale
            total = _squared_sum(left_over, observed)
            y = y.astype(np.float32)
            rest = [_squared_sum(operator @ y, observed) for operator in self.operators]
            found = _r2(np.min(rest, axis=0), total, len(y))
            best[:, features] = found.reshape(len(orders), -1)
        return best


class LeastSquares(Regression):
    """Least squares on principal components; R² is that of the best number of components.

    Entries of the target that were not observed count as the mean of their feature.

    Parameters
    ----------
    bases
        Orthonormal columns that span covariates and components, (n, r) each.
    basis
        Orthonormal covariates, (n, r).
    """

    def __init__(self, bases: Sequence[np.ndarray], basis: np.ndarray) -> None:
        self.bases = bases
        self.basis = basis

    @classmethod
    def on(
        cls, sources: Sequence[Values], basis: np.ndarray, rng: np.random.Generator
    ) -> LeastSquares:
        """Regression on as many components of each of these modalities."""
        n, rank = basis.shape
        # fewer columns than cells: else nothing is left over of any cell
        most = min(max(_COMPONENTS), (n - rank - 1) // len(sources))
        components = [principal_components(source, basis, most, rng) for source in sources]
        bases = [
            np.linalg.qr(np.hstack([basis, *(c[:, :k] for c in components)]))[0]
            for k in _COMPONENTS
        ]
        return cls(bases, basis)

    def r2(self, target: Values, orders: np.ndarray) -> np.ndarray:
        size, (total, *rest) = _squared_residuals(target, [self.basis, *self.bases], orders)
        return _r2(np.min(rest, axis=0), total, size)


def covariate_basis(n: int, covariates: np.ndarray | None) -> np.ndarray:
    """Orthonormal columns (n, r) that span a constant and covariates (n, V)."""
    columns = np.ones((n, 1)) if covariates is None else np.hstack([np.ones((n, 1)), covariates])
    left, size, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, size > 1e-8 * size[0]]


def gram(values: Values) -> np.ndarray:
    """Inner products of cells over standardised features, (n, n), with a mean diagonal of 1."""
    products = values.gram()
    mean = np.trace(products) / len(products)
    return products / mean if mean > 0 else products


def principal_components(
    values: Values, basis: np.ndarray, k: int, rng: np.random.Generator
) -> np.ndarray:
    """About the first k principal components of what the basis leaves over, (n, k).

    Found by iterating a random subspace (Halko et al., SIAM Rev 2011), which reads the values a
    dozen times in all.
    """
    n, n_features = values.shape
    # The last directions of few features are often those of single extreme cells: with all 10
    # components of 10 proteins, 5 % fewer genes of 892 cells were found than with 8.
    k = min(k, n - basis.shape[1] - 1, n_features - 2)
    if k < 1:
        return np.zeros((n, 0))

    def left_over(span: np.ndarray) -> np.ndarray:
        return span - basis @ (basis.T @ span)

    # single precision is enough for a subspace, and halves the time
    single = np.float32
    width = min(k + _SPARE_DIRECTIONS, n, n_features)
    start = rng.standard_normal((n_features, width), dtype=single)
    span = left_over(values.times(start))  # (n, width)
    for _ in range(_ITERATIONS):
        back = values.transposed_times(np.linalg.qr(span)[0].astype(single))  # (D, width)
        span = left_over(values.times(back.astype(single)))
    span = np.linalg.qr(span)[0]
    directions, size, _ = np.linalg.svd(values.transposed_times(span).T, full_matrices=False)
    return (span @ directions)[:, :k][:, size[:k] > 1e-6 * size.max()]


def _left_out(basis: np.ndarray) -> np.ndarray:
    """How much of a cell's own value its fit by the basis leaves, from 0 to 1, (n,)."""
    return 1 - np.square(basis).sum(1)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a positive definite matrix (n, n), in half the time of any other's."""
    factor, failed = dpotrf(matrix, lower=True)
    if failed:
        raise np.linalg.LinAlgError("expected a positive definite matrix of inner products.")
    lower = np.tril(dpotri(factor, lower=True)[0])
    return lower + np.tril(lower, -1).T


def _side_by_side(values: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Values (n, d) with their rows in each of some orders (m, n), as columns (n, m * d)."""
    return np.hstack([values[order] for order in orders])


def _squared_residuals(
    target: Values, bases: Sequence[np.ndarray], orders: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    r"""Sums of squared leave-one-out residuals of least squares on some bases.

    With weights :math:`w_i = 1 / (1 - h_i)^2` they are multiplied out, so that no residual of a
    sparse target is held:
    :math:`w^\top y^2 - 2 (Q^\top y)^\top Q^\top W y + (Q^\top y)^\top Q^\top W Q (Q^\top y)`.

    Parameters
    ----------
    target
        Values, (n, D).
    bases
        Orthonormal columns, (n, r) each. A cell that one of them explains is not scored.
    orders
        Which cell of the target is paired with each row of the bases, (m, n).

    Returns
    -------
    Sums of squares of the features in all cells, (D,), and those of the residuals of each basis,
    (m, D).
    """
    left_out = np.array([_left_out(q) for q in bases])
    scored = left_out.min(0) > _LEAST_LEFT_OUT
    weights = np.where(scored, 1 / np.square(np.where(scored, left_out, 1)), 0)  # (bases, n)
    # The rows of the bases are put in order, which are fewer numbers than those of the target.
    to_target = np.argsort(orders, axis=1)
    # in all cells too: what is in no scored cell has a sum of 0 but for rounding
    own = [np.ones((1, len(scored))), *(w[to_target] for w in weights)]
    of_all, *sizes = target.squared_sums(np.vstack(own).T).T  # (D,) each
    sums = []
    for q, w, size in zip(bases, weights, np.split(np.array(sizes), len(bases)), strict=True):
        weighted = q * w[:, None]
        left = _side_by_side(np.hstack([q, weighted]), to_target)  # (n, m * 2r)
        both = target.transposed_times(left).reshape(-1, len(orders), 2 * q.shape[1])
        fit, cross = np.split(both.swapaxes(0, 1), 2, axis=2)  # (m, D, r) each
        of_fit = (fit @ (q.T @ weighted) * fit).sum(2)
        sums.append(size - 2 * (fit * cross).sum(2) + of_fit)
    return of_all, sums


def _squared_sum(residuals: np.ndarray, observed: np.ndarray | None) -> np.ndarray:
    """Sum of squares over the observed cells, (features,)."""
    squares = np.square(residuals)
    return squares.sum(0) if observed is None else np.where(observed, squares, 0).sum(0)


def _r2(rest: np.ndarray, total: np.ndarray, size: np.ndarray | float) -> np.ndarray:
    """R², (D,); NaN where the total is next to nothing, relative to the size of the feature."""
    varies = total > _LEAST_VARIANCE * size
    return np.where(varies, 1 - rest / np.where(varies, total, 1), np.nan)
