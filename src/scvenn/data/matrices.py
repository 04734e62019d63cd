"""The one door for matrices: whatever is stored comes out as CSR or as a dense array of float32.

Nothing behind this door asks how data was stored. The user's own matrix is never changed; it is
passed through where it has one of the two forms already. A matrix in a file (``on_disk``) gives
rows in these forms.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scvenn._progress import progress
from scvenn._warnings import warn
from scvenn.data.checks import quoted
from scvenn.likelihoods import LIKELIHOODS, inferred_likelihoods

# CSR or dense, of float32 (scipy has no types that mypy could check)
Matrix = Any

# Values that are looked at in one go: bounds the memory of checks and statistics.
_CHUNK = 10_000_000
# Counts that arithmetic has moved by no more than this are taken for counts that need rounding;
# arithmetic in single precision moves large ones by more, in proportion, and never by half.
_ROUNDING, _RELATIVE_ROUNDING, _MOST_ROUNDING = 1e-3, 4e-6, 0.25

# Of a value: sums of squares of many such stay within what single precision holds. Larger ones
# are not measured; some programs write them for what is missing.
_LARGEST = 1e15
SMALLEST = float(np.finfo(np.float32).tiny)


# --------------------------------------------------------------------------------------------
# From what is stored to one of two forms
# --------------------------------------------------------------------------------------------


def canonical(matrix: Any, modality: str, where: str) -> Matrix:
    """A matrix as CSR (indices sorted, entries unique) or dense (rows contiguous), in float32.

    Parameters
    ----------
    matrix
        What is stored: any numpy array or scipy sparse matrix of real numbers, (n, D).
    modality, where
        For messages: the name, and the expression that gives the matrix.

    Returns
    -------
    Sparse matrices as CSR, all others dense. Masked entries are NaN. The matrix itself where it has
    that form already.

    Raises
    ------
    TypeError
        If it is not a matrix of real numbers in memory.
    ValueError
        If its index is damaged, or a value is infinite or beyond 1e15.
    """
    if isinstance(matrix, pd.DataFrame):
        matrix = matrix.to_numpy()
    if sp.issparse(matrix):
        check_numbers(matrix, modality, where)
        return _canonical_sparse(matrix, modality, where)
    if not isinstance(matrix, np.ndarray):
        remedy = "expected a numpy array or a scipy sparse matrix."
        if hasattr(matrix, "compute"):  # a dask array
            remedy = f"it is not computed yet. Read it into memory: {where} = {where}.compute()."
        raise TypeError(f"modality {modality!r}: {where} is a {type(matrix).__name__}; {remedy}")
    check_numbers(matrix, modality, where)
    if np.ma.isMaskedArray(matrix):
        matrix = np.ma.filled(matrix.astype(np.float64), np.nan)
    with np.errstate(over="ignore"):  # checked below
        values = np.ascontiguousarray(np.asarray(matrix), dtype=np.float32)
    for rows in row_chunks(*values.shape):
        _check_finite(matrix[rows], values[rows], modality, where)
    return values


def check_numbers(matrix: Any, modality: str, where: str) -> None:
    """Raise a ``TypeError`` unless this is a matrix of real numbers."""
    if matrix.dtype.kind not in "biuf" or matrix.ndim != 2:
        raise TypeError(
            f"modality {modality!r}: {where} is a {type(matrix).__name__} of {matrix.dtype} with "
            f"{matrix.ndim} dimensions; expected a matrix of real numbers."
        )


def canonical_rows(matrix: Any, rows: np.ndarray, modality: str, where: str) -> Matrix:
    """Some rows in the form that :func:`canonical` gives, without making that of the whole."""
    if isinstance(matrix, np.ndarray) and matrix.ndim == 2:
        return canonical(matrix[rows], modality, where)
    if sp.issparse(matrix) and matrix.format in ("csr", "csc") and _has_sound_ends(matrix):
        parts = (matrix.data, matrix.indices, matrix.indptr)
        if matrix.format == "csr":
            some = sp.csr_matrix(parts, shape=matrix.shape, copy=False)[rows]
            return canonical(some, modality, where)
        if (
            not len(matrix.indices)
            or 0 <= matrix.indices.min() <= matrix.indices.max() < matrix.shape[0]
        ):
            return canonical(_rows_of_columns(*parts, rows, matrix.shape), modality, where)
    return canonical(matrix, modality, where)[rows]


def _has_sound_ends(compressed: Any) -> bool:
    """Whether rows of CSR, columns of CSC, can be taken without reading beyond the arrays."""
    ends, sizes = compressed.indptr, {len(compressed.indices), len(compressed.data)}
    n = compressed.shape[0 if compressed.format == "csr" else 1]
    return (
        len(ends) == n + 1
        and len(sizes) == 1
        and ends[0] == 0
        and ends[-1] <= min(sizes)
        and bool((ends[1:] >= ends[:-1]).all())
    )


def _rows_of_columns(
    data: np.ndarray,
    indices: np.ndarray,
    ends: np.ndarray,
    rows: np.ndarray,
    shape: tuple[int, int],
) -> sp.csr_matrix:
    """Some rows of a CSC matrix: one pass over the row numbers, and none over the values."""
    different, order = np.unique(rows, return_inverse=True)
    chosen = np.zeros(shape[0], dtype=bool)
    chosen[different] = True
    stored = np.flatnonzero(chosen[indices[: ends[-1]]])
    columns = np.searchsorted(ends, stored, side="right") - 1
    some = (data[stored], (np.searchsorted(different, indices[stored]), columns))
    return _checked(sp.coo_matrix(some, shape=(len(different), shape[1])))[order]


def _canonical_sparse(matrix: Any, modality: str, where: str) -> sp.csr_matrix:
    """CSR in single precision, with unique entries none of which is zero."""
    csr = sound(matrix, modality, where).tocsr()
    if not csr.has_canonical_format:
        _check_finite(csr.data, csr.data, modality, where)  # a sum of infinite values may be NaN
        csr = csr.astype(np.float64)  # a copy; sums of repeated entries may exceed a small type
        csr.sum_duplicates()
        if matrix.dtype == bool:  # true twice is true
            csr.data = np.minimum(csr.data, 1)
    if not csr.data.all():  # stored zeros
        csr = csr.copy()
        csr.eliminate_zeros()
    with np.errstate(over="ignore"):  # checked below
        values = csr.data.astype(np.float32, copy=False)
    for start in range(0, len(values), _CHUNK):
        part = slice(start, start + _CHUNK)
        _check_finite(csr.data[part], values[part], modality, where)
    if values is csr.data:
        same_form = type(matrix) is sp.csr_matrix and len(matrix.data) == len(values)
        return matrix if same_form and np.may_share_memory(matrix.data, values) else csr
    result = sp.csr_matrix((values, csr.indices, csr.indptr), shape=csr.shape, copy=False)
    result.has_canonical_format = True
    return result


def sound(matrix: Any, modality: str | None, where: str) -> Any:
    """CSR or CSC whose index was checked before anything follows it; of a modality, or of none."""
    try:
        return _checked(matrix)
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        of = "" if modality is None else f"modality {modality!r}: "
        raise ValueError(
            f"{of}the sparse matrix {where} is damaged ({error}). A file that "
            "was cut off or written by another tool can be so; make or copy it again."
        ) from error


def _checked(matrix: Any) -> Any:
    """CSC as such, CSR of any other sparse matrix; may share its arrays, and repeat entries.

    Raises
    ------
    ValueError, IndexError, TypeError, OverflowError
        If the index is damaged.
    """
    if matrix.format in ("csr", "csc"):
        form = sp.csr_matrix if matrix.format == "csr" else sp.csc_matrix
        # another object of the same arrays, so that what the check may trim is not the user's
        parts = (matrix.data, matrix.indices, matrix.indptr)
        checked = form(parts, shape=matrix.shape, copy=False)
        checked.check_format(full_check=True)
        return checked
    coo = matrix.tocoo(copy=False)
    # the constructor checks the index; the conversion sums repeated entries in the type they have
    values = coo.data if coo.dtype == bool else coo.data.astype(np.float64)
    return sp.coo_matrix((values, (coo.row, coo.col)), shape=coo.shape).tocsr()


def _check_finite(stored: np.ndarray, values: np.ndarray, modality: str, where: str) -> None:
    """Raise unless values, as cast to float32, are NaN, or finite and not too large."""
    too_large = np.abs(values) > _LARGEST
    if too_large.any():
        found = np.asarray(stored)[too_large][0]
        size = "finite values" if np.isinf(found) else f"values of at most {_LARGEST:g}"
        reason = f"expected {size} (NaN where a value was not measured)"
        raise ValueError(f"modality {modality!r}: found {found!s} in {where}; {reason}.")


def align(matrix: Matrix, rows: np.ndarray, columns: np.ndarray) -> Matrix:
    """Rows and columns in a new order; -1 gives a row or column of zeros.

    The matrix itself is returned where nothing changes.

    Parameters
    ----------
    matrix
        In one of the two forms, (n, D).
    rows, columns
        Positions of what is to come out, in its order.
    """
    if not np.array_equal(columns, np.arange(matrix.shape[1])):
        if (columns < 0).any():  # -1 is the column that is added
            empty = np.zeros((matrix.shape[0], 1), dtype=matrix.dtype)
            stack = sp.hstack if sp.issparse(matrix) else np.hstack
            matrix = stack([matrix, empty])
            matrix = matrix.tocsr() if sp.issparse(matrix) else matrix
        matrix = matrix[:, columns]
        if sp.issparse(matrix):
            matrix.sort_indices()
    if np.array_equal(rows, np.arange(matrix.shape[0])):
        return matrix
    if (rows >= 0).all():
        return matrix[rows]
    if sp.issparse(matrix):
        empty = sp.csr_matrix((1, matrix.shape[1]), dtype=matrix.dtype)
        return sp.vstack([matrix, empty], format="csr")[rows]  # -1 is the row just added
    out = np.zeros((len(rows), matrix.shape[1]), dtype=matrix.dtype)
    out[rows >= 0] = matrix[rows[rows >= 0]]
    return out


# --------------------------------------------------------------------------------------------
# What values are
# --------------------------------------------------------------------------------------------


def row_sums(matrix: Matrix) -> np.ndarray:
    """Sum of each row in double precision, (n, 1); NaN where an entry is."""
    sums = matrix.sum(axis=1, dtype=np.float64)
    return np.asarray(sums, dtype=np.float64).reshape(-1, 1)


def sums_of(matrix: Matrix, rows: np.ndarray) -> np.ndarray:
    """Sums of some rows in double precision, (len(rows),), a few rows at a time."""
    sums = [row_sums(chunk).ravel() for chunk in row_blocks(matrix, rows, "Adding up counts")]
    return np.concatenate([*sums, np.zeros(0)])


def rows_at_once(n_columns: int) -> int:
    """How many rows are looked at in one go."""
    return max(1, _CHUNK // max(1, n_columns))


def row_chunks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Some rows at a time."""
    width = rows_at_once(n_columns)
    for start in range(0, n_rows, width):
        yield slice(start, start + width)


def row_blocks(matrix: Matrix, rows: np.ndarray, description: str) -> Iterator[Matrix]:
    """Values of some rows, a few rows at a time, with a progress bar if they take long."""
    parts = list(row_chunks(len(rows), matrix.shape[1]))
    for part in progress(parts, description=description):
        yield matrix[rows[part]]


def check_measured(matrix: Matrix, rows: np.ndarray, *, names: pd.Index, modality: str) -> None:
    """Raise a ``ValueError`` if a feature is NaN in every cell that has the modality."""
    measured = np.zeros(matrix.shape[1], dtype=bool)
    for chunk in row_blocks(matrix, rows, f"Looking at features of {modality}"):
        if sp.issparse(chunk):  # what is not stored was measured
            n_nan = np.bincount(chunk.indices, np.isnan(chunk.data), minlength=chunk.shape[1])
            measured |= n_nan < chunk.shape[0]
        else:
            measured |= ~np.isnan(chunk).all(0)
        if measured.all():
            return
    raise ValueError(
        f"modality {modality!r}: features {quoted(names[~measured])} are NaN in every cell. Remove "
        f"them: mdata.mod[{modality!r}] = mdata[{modality!r}][:, keep].copy(); mdata.update()."
    )


def warn_of_empty_cells(
    matrix: Matrix,
    rows: np.ndarray,
    sums: np.ndarray,
    *,
    names: pd.Index,
    modality: str,
    layer: str | None,
) -> None:
    """Warn of cells that have the modality and are NaN in every feature; ``sums``: of the rows."""
    suspects, empty = rows[np.isnan(sums)], []
    for part in row_chunks(len(suspects), matrix.shape[1]):
        chunk = matrix[suspects[part]]
        missing = np.isnan(chunk.toarray() if sp.issparse(chunk) else chunk)
        empty.extend(suspects[part][missing.all(axis=1)])
    if not empty:
        return
    values = f"mdata[{modality!r}].to_df({'' if layer is None else repr(layer)})"
    warn(
        f"modality {modality!r}: {len(empty)} of {len(rows)} cells are NaN in every feature and "
        f"count as measured, for example {quoted(names[empty], 3)}. If they were not measured, "
        f"leave them out of the modality: keep = {values}.notna().any(axis=1); "
        f"mdata.mod[{modality!r}] = mdata[{modality!r}][keep].copy(); mdata.update()."
    )


def check_values(
    matrix: Matrix,
    rows: np.ndarray,
    *,
    modality: str,
    where: str,
    likelihood: str | None,
    new_data: bool = False,
) -> str:
    """Check the observed values of a matrix against a likelihood, or infer one.

    Parameters
    ----------
    matrix
        Aligned values, (n_obs, D).
    rows
        Positions of the cells in which the modality was measured.
    modality, where
        For messages: the name, and the expression that gives the matrix.
    likelihood
        A name in ``LIKELIHOODS``, or None to choose the narrowest that fits.
    new_data
        Whether a trained model is to read the values: the likelihood cannot be changed any more.

    Returns
    -------
    The likelihood's name.

    Raises
    ------
    ValueError
        If a value is outside the likelihood's domain, or missing where it must not be; or if no
        likelihood was named and all values are counts but for rounding.
    """
    candidates = inferred_likelihoods() if likelihood is None else [likelihood]
    counts_like = likelihood is None  # whether all values are integers, or would be when rounded
    rounding, largest = 0.0, 0.0  # a value that is no integer, and the largest of all
    for values in _chunks_of_values(matrix, rows):
        missing = np.isnan(values)
        for name in list(candidates):
            cls = LIKELIHOODS[name]
            bad = ~cls.in_domain(values) & ~missing
            wrong = values[bad][:1] if bad.any() else values[missing][:1]
            if bad.any() or (missing.any() and not cls.allows_missing):
                if likelihood is not None:
                    raise ValueError(_does_not_fit(modality, where, name, wrong[0], new_data))
                candidates.remove(name)
        if counts_like:
            off = np.abs(values - np.round(values))
            near = _is_nearly_integer(values) & (values > -_ROUNDING)
            counts_like = bool((near | missing).all())
            if (off > 0).any():
                rounding = float(values[off > 0][0])
            largest = max(largest, float(np.nanmax(values, initial=0)))
    if counts_like and rounding and largest > 1 - _ROUNDING:
        raise ValueError(
            f"modality {modality!r}: all values of {where} are counts but for rounding, such as "
            f"{_written(rounding)}. Round them: {_rounded(where)}. If they are no counts, "
            f"pass likelihoods={{{modality!r}: 'normal'}}."
        )
    return candidates[0]


def are_counts(matrix: Matrix, rows: np.ndarray) -> bool:
    """Whether all values of some rows are integers of at least 0, and one is above 1."""
    largest = 0.0
    for values in _chunks_of_values(matrix, rows):
        if not ((values >= 0) & (values == np.round(values)) | np.isnan(values)).all():
            return False
        largest = max(largest, float(np.nanmax(values, initial=0)))
    return largest > 1


def count_missing(matrix: Matrix, rows: np.ndarray) -> int:
    """How many values of some rows are NaN."""
    return sum(int(np.isnan(values).sum()) for values in _chunks_of_values(matrix, rows))


def _is_nearly_integer(values: Any) -> Any:
    """Whether values are integers but for rounding."""
    allowed = np.clip(_RELATIVE_ROUNDING * np.abs(values), _ROUNDING, _MOST_ROUNDING)
    return np.abs(values - np.round(values)) < allowed


def _written(value: float) -> str:
    """A number with as few digits as distinguish it in single precision."""
    short = f"{value:g}"
    same = np.isnan(value) or np.float32(short) == np.float32(value)
    return short if same else str(np.float32(value))


def _rounded(where: str) -> str:
    """What a user writes to round a matrix, dense or sparse."""
    return f"{where} = np.round({where})"


def _does_not_fit(modality: str, where: str, name: str, value: float, new_data: bool) -> str:
    """Message about a value outside a likelihood's domain."""
    cls = LIKELIHOODS[name]
    found = (
        f"modality {modality!r}: likelihood {name!r} needs {cls.domain}, found "
        f"{_written(value)} in {where}. "
    )
    nearest = np.round(value)
    if cls.discrete and _is_nearly_integer(value) and cls.in_domain(nearest):
        return found + f"If all are so but for rounding, round them: {_rounded(where)}."
    if not new_data:
        if cls.binary and value > 1 and _is_nearly_integer(value):
            found += f"If these are counts, leave {modality!r} out of likelihoods. "
        elif not cls.discrete and value > 0 and cls.in_domain(np.asarray(value / 100)):
            found += "If these are percentages, divide them by 100. "
        return found + (
            f"Pass layers={{{modality!r}: <layer>}} with a layer that has them, or "
            f"likelihoods={{{modality!r}: 'normal'}}."
        )
    return found + (
        f"The model was trained on {cls.domain}, and reads new data from the same place: put such "
        f"values there. If they were normalised or transformed, {where} must hold them as they "
        "were before."
    )


def _chunks_of_values(matrix: Matrix, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Values of some rows, a few rows at a time; of the zeros of sparse matrices only one."""
    for chunk in row_blocks(matrix, rows, "Checking values"):
        yield chunk.data if sp.issparse(chunk) else chunk
        if sp.issparse(chunk) and chunk.nnz < np.prod(chunk.shape):
            yield np.zeros(1, dtype=np.float32)
