"""The values of one modality as a regression reads them, whatever their storage.

There are two forms. Which one applies follows from the likelihood, never from the storage:

- :class:`DiscreteValues`, for counts and 0/1 values: zero stays zero on the regression scale, so
  they are held as a sparse matrix, by column. They enter principal components as they are, since
  standardised rare features would be mostly noise, and they have no squares.
- :class:`RealValues`: held as they are stored, made dense for a few features at a time,
  standardised, and with squares.

An entry that was not observed counts as the mean of its feature over the observed entries. Not
observed are NaN, and all entries of a cell that lacks the modality.

Shapes: ``n`` cells, ``D`` features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from scvenn.screening.threads import in_threads

Matrix = Any  # an array or a sparse matrix

# Entries that are dense at a time.
_BLOCK_ENTRIES = 2**21
# Below this share of values that are not 0, products that skip the zeros are faster.
_LEAST_DENSE = 0.1
# A standard deviation below this part of the mean is rounding: the feature counts as constant.
LEAST_VARIATION = 1e-6


class ExtremeValueError(ValueError):
    """A feature has no finite mean and variance.

    Parameters
    ----------
    feature
        Its position.
    value
        Its largest value in magnitude, on the regression scale.
    """

    def __init__(self, feature: int, value: float) -> None:
        super().__init__(
            f"expected values with a finite variance, found {value:g} in feature {feature} "
            "(counted from 0). Remove or clip it."
        )
        self.feature = feature
        self.value = value


class Block(NamedTuple):
    """Some features of all cells, dense."""

    features: slice
    standardised: np.ndarray  # (n, features); 0 where not observed and for constant features
    observed: np.ndarray | None  # boolean, (n, features); None where every entry was observed


class Part(NamedTuple):
    """Some features of all cells, sparse."""

    features: slice
    values: sp.csc_matrix  # (n, features)


class Entries(NamedTuple):
    """Values of some features that are not 0: where each ends, the other index, and the values."""

    by_feature: tuple[np.ndarray, np.ndarray, np.ndarray]
    by_cell: tuple[np.ndarray, np.ndarray, np.ndarray]


def entries_of(columns: sp.csc_matrix) -> list[Entries]:
    """Those of a matrix (n, D), of some features at a time."""
    columns.sort_indices()
    found = []
    for block in slices(*columns.shape):
        part = columns[:, block]
        rows = part.tocsr()
        found.append(
            Entries((part.indptr, part.indices, part.data), (rows.indptr, rows.indices, rows.data))
        )
    return found


class Values(ABC):
    """Values of one modality on a scale on which linear regression makes sense."""

    shape: tuple[int, int]

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """All features, some at a time, standardised."""

    def gram(self) -> np.ndarray:
        """Inner products of cells over the standardised features, (n, n)."""
        products = np.zeros((self.shape[0],) * 2)
        for _, block, _ in self.blocks():
            z = block.astype(np.float32)
            products += z @ z.T
        return products

    @property
    def entries(self) -> list[Entries] | None:
        """Values that are not 0, where all were observed and most are 0; else None."""
        return None

    @abstractmethod
    def times(self, right: np.ndarray) -> np.ndarray:
        """Product of the values with a matrix (D, k); (n, k)."""

    @abstractmethod
    def transposed_times(self, left: np.ndarray) -> np.ndarray:
        """Product of the transposed values with a matrix (n, k); (D, k)."""

    @abstractmethod
    def squared_sums(self, weights: np.ndarray) -> np.ndarray:
        """Sums over cells of squared values with weights (n, k); (D, k)."""

    @abstractmethod
    def rows(self, rows: Any) -> Values:
        """The values of some cells, chosen by any index; means are those of these cells."""

    @abstractmethod
    def squares(self) -> Values | None:
        """Squared deviations from the mean; None where they add nothing."""

    def _slices(self) -> Iterator[slice]:
        return slices(*self.shape)


def slices(n: int, n_features: int) -> Iterator[slice]:
    """So many features at a time that their values of n cells can be held."""
    width = max(1, _BLOCK_ENTRIES // max(1, n))
    for start in range(0, n_features, width):
        yield slice(start, min(start + width, n_features))


class DiscreteValues(Values):
    """Counts or 0/1 values, on a scale on which zero stays zero.

    The rows of cells that lack the modality are held empty. That they count as the mean is a
    product of rank one, added to each result, so that nothing becomes dense.

    Parameters
    ----------
    matrix
        Values, (n, D), in any storage; NaN where an entry was not observed.
    observed
        Which cells have the modality; boolean, (n,). Rows of others are not read.

    Raises
    ------
    ExtremeValueError
        If a feature has no finite mean and variance.
    """

    def __init__(self, matrix: Matrix, observed: np.ndarray | None = None) -> None:
        csr = as_csr(matrix)
        self.shape = csr.shape
        self._present = _present(csr.shape[0], observed)
        # sorted by feature: products then go through their wide side once
        self._values = values = _only_rows(csr, self._present).tocsc()
        missing = np.isnan(values.data)
        self._missing = None  # stored entries that were NaN: sparse and boolean, (n, D)
        if missing.any():
            parts = missing, values.indices, values.indptr
            self._missing = sp.csc_matrix(parts, shape=self.shape)
            values.data = values.data.astype(np.float64)  # means take the place of NaN
        self._parts = list(_of_few_values(values))
        self._mean, variance = np.hstack([*map(self._moments, self._parts)])  # (D,) each
        self._scale = _scale(self._mean, variance, lambda j: values[:, [j]].data)

    def _moments(self, part: Part) -> np.ndarray:
        """Means and variances of some features, (2, features), put in where values are missing."""
        columns = part.values
        n_features = columns.shape[1]
        values = columns.data.astype(np.float64)
        feature = np.repeat(np.arange(n_features), np.diff(columns.indptr))
        missing = np.isnan(values)
        n_present = np.count_nonzero(self._present)

        def sums(where: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
            return np.bincount(where, weights, minlength=n_features)

        total = sums(feature, np.where(missing, 0, values))
        mean = total / np.maximum(1, n_present - sums(feature[missing]))
        values[missing] = mean[feature[missing]]
        columns.data[missing] = values[missing]
        with np.errstate(over="ignore", invalid="ignore"):
            of_zeros = (n_present - sums(feature)) * np.square(mean)
            squares = of_zeros + sums(feature, np.square(values - mean[feature]))
        return np.stack([mean, squares / max(1, self.shape[0])])

    def blocks(self) -> Iterator[Block]:
        missing = self._missing
        for block in self._slices():
            values = self._values[:, block].astype(np.float64).toarray(order="C")
            values -= self._mean[block]
            values /= self._scale[block]
            values[~self._present] = 0
            observed = None
            if missing is not None or not self._present.all():
                observed = np.repeat(self._present[:, None], values.shape[1], axis=1)
                if missing is not None:
                    observed &= ~missing[:, block].toarray(order="C")
            yield Block(block, values, observed)

    @property
    def _is_sparse(self) -> bool:
        return self._values.nnz < _LEAST_DENSE * np.prod(self.shape)

    def gram(self) -> np.ndarray:
        if not self._is_sparse:
            return super().gram()
        # that of values less their means is multiplied out, so that nothing becomes dense
        from scvenn.screening.compiled import inner_products  # numba takes a second

        scaled = self._values @ sp.diags(1 / self._scale)  # (n, D)
        mean = self._mean / self._scale  # (D,); 0 of constant features
        by_mean = (scaled @ mean)[:, None]  # (n, 1)
        products = inner_products(entries_of(scaled))
        products += mean @ mean - by_mean - by_mean.T
        products[~self._present] = 0
        products[:, ~self._present] = 0
        return products

    @cached_property
    def entries(self) -> list[Entries] | None:
        complete = self._missing is None and self._present.all()
        if not complete or not self._is_sparse:
            return None
        return entries_of(self._values.astype(np.float32))

    def times(self, right: np.ndarray) -> np.ndarray:
        product = np.outer(~self._present, self._mean @ right)
        for of_part in in_threads(lambda part: part.values @ right[part.features], self._parts):
            product += of_part
        return product

    def transposed_times(self, left: np.ndarray) -> np.ndarray:
        product = np.outer(self._mean, left[~self._present].sum(0))
        product += np.vstack([*in_threads(lambda part: part.values.T @ left, self._parts)])
        return product

    def squared_sums(self, weights: np.ndarray) -> np.ndarray:
        def of_part(part: Part) -> np.ndarray:
            return part.values.astype(np.float64).power(2).T @ weights

        sums = np.outer(np.square(self._mean), weights[~self._present].sum(0))
        sums += np.vstack([*in_threads(of_part, self._parts)])
        return sums

    def rows(self, rows: Any) -> DiscreteValues:
        values = self._values
        if self._missing is not None:
            values = values.copy()
            values.data[self._missing.data] = np.nan
        return DiscreteValues(values[rows], self._present[rows])

    def squares(self) -> None:
        """None: the square of 0/1 is itself, and that of the logarithm of a count adds nothing."""


class RealValues(Values):
    """Real values, standardised.

    Parameters
    ----------
    matrix
        Values, (n, D), in any storage; NaN where an entry was not observed.
    observed
        Which cells have the modality; boolean, (n,). Rows of others are not read.
    to_scale
        Turns values (n, some features) into those of the regression scale.
    with_squares
        Whether squares of values add to what the values themselves predict.

    Raises
    ------
    ExtremeValueError
        If a feature has no finite mean and variance.
    """

    def __init__(
        self,
        matrix: Matrix,
        observed: np.ndarray | None = None,
        *,
        to_scale: Callable[[np.ndarray], np.ndarray] = np.asarray,
        with_squares: bool = True,
    ) -> None:
        self._matrix = sp.csc_matrix(matrix) if sp.issparse(matrix) else np.asarray(matrix)
        self._to_scale = to_scale
        self._with_squares = with_squares
        self._set_moments(self._matrix.shape, _present(self._matrix.shape[0], observed))

    def _set_moments(self, shape: tuple[int, int], present: np.ndarray) -> None:
        self.shape = shape
        self._present = present
        self._mean, self._scale = np.zeros(shape[1]), np.ones(shape[1])
        self._complete = np.full(shape[1], True)  # features of which every entry was observed
        for block in self._slices():
            values = self._on_scale(block)
            missing = np.isnan(values)
            values[missing] = 0
            known = np.maximum(1, shape[0] - np.count_nonzero(missing, axis=0))
            with np.errstate(over="ignore", invalid="ignore"):
                mean = values.sum(0) / known
                squares = np.square(np.where(missing, 0, values - mean)).sum(0)
            self._mean[block] = mean
            variance = squares / max(1, shape[0])
            self._scale[block] = _scale(mean, variance, values.T.__getitem__, block.start)
            self._complete[block] = ~missing.any(0)

    def _on_scale(self, block: slice) -> np.ndarray:
        """Some features on the regression scale, (n, features); NaN where not observed."""
        columns: Matrix = self._matrix[:, block]
        columns = columns.toarray() if sp.issparse(columns) else columns
        # always row by row in memory: the layout decides on the last bits of a product
        values = np.ascontiguousarray(self._to_scale(columns.astype(np.float64)))
        values[~self._present] = np.nan
        return values

    def _standardised(self, block: slice) -> np.ndarray:
        """Some features with mean 0 and variance 1, (n, features); NaN where not observed."""
        values = self._on_scale(block)
        values -= self._mean[block]
        values /= self._scale[block]
        return values

    def blocks(self) -> Iterator[Block]:
        for block in self._slices():
            values = self._standardised(block)
            observed = None
            if not self._complete[block].all():
                observed = ~np.isnan(values)
                values[~observed] = 0
            yield Block(block, values, observed)

    def times(self, right: np.ndarray) -> np.ndarray:
        product = np.zeros((self.shape[0], right.shape[1]))
        for block, values, _ in self.blocks():
            product += values @ right[block]
        return product

    def transposed_times(self, left: np.ndarray) -> np.ndarray:
        return self._of_blocks(lambda values: values.T @ left, left.shape[1])

    def squared_sums(self, weights: np.ndarray) -> np.ndarray:
        return self._of_blocks(lambda values: np.square(values).T @ weights, weights.shape[1])

    def _of_blocks(self, of: Callable[[np.ndarray], np.ndarray], width: int) -> np.ndarray:
        result = np.empty((self.shape[1], width))
        for block, values, _ in self.blocks():
            result[block] = of(values)
        return result

    def rows(self, rows: Any) -> RealValues:
        return RealValues(
            self._matrix[rows],
            self._present[rows],
            to_scale=self._to_scale,
            with_squares=self._with_squares,
        )

    def squares(self) -> Values | None:
        return _Squares(self) if self._with_squares else None


class _Squares(RealValues):
    """Squares of standardised values, themselves standardised."""

    def __init__(self, values: RealValues) -> None:
        self._of = values
        self._set_moments(values.shape, values._present)

    def _on_scale(self, block: slice) -> np.ndarray:
        return np.square(self._of._standardised(block))

    def rows(self, rows: Any) -> RealValues:
        return _Squares(self._of.rows(rows))


def as_csr(matrix: Matrix) -> sp.csr_matrix:
    """The matrix with each entry that is not zero stored once, in order; a copy if that changes it.

    In single precision if this holds the values of its type, else in double precision.
    """
    dtype = np.result_type(matrix.dtype, np.float32)
    if not sp.issparse(matrix):
        stored = np.asarray(matrix != 0)  # so is NaN
        csr = sp.csr_matrix(stored, dtype=dtype)
        csr.data = np.asarray(matrix)[stored].astype(dtype)
        return csr
    csr = sp.csr_matrix(matrix, dtype=dtype)
    if csr.has_canonical_format and csr.data.all():
        return csr
    csr = csr.copy()
    csr.sum_duplicates()
    csr.eliminate_zeros()
    return csr


def _of_few_values(columns: sp.csc_matrix) -> Iterator[Part]:
    """A matrix (n, D) in parts, which share its memory."""
    ends, start = columns.indptr, 0
    while start < columns.shape[1]:
        end = int(np.searchsorted(ends, ends[start] + _BLOCK_ENTRIES, side="right")) - 1
        end = max(end, start + 1)  # a feature at least, however many values it has
        stored = slice(ends[start], ends[end])
        values = sp.csc_matrix((columns.shape[0], end - start), dtype=columns.dtype)
        # set one by one: given together, each would be copied
        values.data, values.indices = columns.data[stored], columns.indices[stored]
        values.indptr = ends[start : end + 1] - ends[start]
        yield Part(slice(start, end), values)
        start = end


def _present(n: int, observed: np.ndarray | None) -> np.ndarray:
    return np.full(n, True) if observed is None else np.asarray(observed, dtype=bool)


def _only_rows(csr: sp.csr_matrix, present: np.ndarray) -> sp.csr_matrix:
    """The matrix with empty rows in place of those that are not present."""
    if present.all():
        return csr
    sizes = np.diff(csr.indptr)
    kept = np.repeat(present, sizes)
    ends = np.concatenate([[0], np.cumsum(np.where(present, sizes, 0))])
    return sp.csr_matrix((csr.data[kept], csr.indices[kept], ends), shape=csr.shape)


def _scale(
    mean: np.ndarray, variance: np.ndarray, column: Callable[[int], np.ndarray], first: int = 0
) -> np.ndarray:
    """Standard deviations; infinite for constant features, which become 0 where divided by it.

    ``column`` gives the values of a feature whose moments overflow, for the error; the first of
    these features has position ``first``.
    """
    overflows = np.flatnonzero(~(np.isfinite(mean) & np.isfinite(variance)))
    if len(overflows):
        values = column(overflows[0])
        extreme = values[np.argmax(np.abs(values))]
        raise ExtremeValueError(first + int(overflows[0]), float(extreme))
    scale = np.sqrt(variance)
    return np.where(scale <= LEAST_VARIATION * np.abs(mean), np.inf, scale)
