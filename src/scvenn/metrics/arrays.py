"""What users pass to metrics, as arrays of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from pandas.api.types import infer_dtype, is_bool_dtype, is_complex_dtype


def as_array(values: Any) -> np.ndarray:
    """Numbers in any form as an array of single or double precision; NaN where they are masked.

    Raises
    ------
    ValueError
        If they are complex, or no numbers.
    """
    try:
        return _as_array(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            "Expected real numbers in an array, a sparse matrix or a table; found "
            f"{type(values).__name__}: {error}"
        ) from error


def _as_array(values: Any) -> np.ndarray:
    if hasattr(values, "to_memory"):  # a sparse matrix in a file
        values = values.to_memory()
    if sp.issparse(values):
        values = values.toarray()
    dtypes = values.dtypes if isinstance(values, pd.DataFrame) else []
    if np.iscomplexobj(values) or any(is_complex_dtype(dtype) for dtype in dtypes):
        raise ValueError("the numbers are complex.")
    if isinstance(values, pd.DataFrame):
        return values.to_numpy(np.float64, na_value=np.nan)
    # lists have no type; of other floats, scikit-learn takes none
    dtype = np.float32 if getattr(values, "dtype", None) == np.float32 else np.float64
    if np.ma.isMaskedArray(values):
        return np.ma.filled(values.astype(dtype), np.nan)
    return np.asarray(values, dtype=dtype)


def in_one_order(truth: Any, predicted: Any) -> tuple[Any, Any]:
    """Two tables, with the cells and features of the second in the order of the first.

    Raises
    ------
    ValueError
        If some of their names are the same, and others are not or are repeated.
    """
    if not all(isinstance(values, pd.DataFrame) for values in (truth, predicted)):
        return truth, predicted
    for axis, what in enumerate(("cells", "features")):
        names, others = (_plain(table.axes[axis]) for table in (truth, predicted))
        if not (_has_names(names) and _has_names(others)):
            continue
        common = names.intersection(others)
        if names.equals(others) or common.empty:
            continue
        if names.has_duplicates or len(common) < max(len(names), len(others)):
            raise ValueError(
                f"Expected truth and prediction of the same {what}, each once: {len(names)} and "
                f"{len(others)} of them have {len(common)} names in common. Choose those, or pass "
                "arrays whose rows and columns belong together."
            )
        predicted = predicted.set_axis(others, axis=axis).reindex(names, axis=axis)
    return truth, predicted


def check_one_order(**values: Any) -> None:
    """Refuse tables and series of cells whose names are not the same, in the same order.

    Raises
    ------
    ValueError
        If some are; names are those of the arguments.
    """
    named = {
        argument: _plain(of.index)
        for argument, of in values.items()
        if isinstance(of, pd.DataFrame)
        or (isinstance(of, pd.Series) and _is_of_cells(argument, of))
    }
    named = {argument: index for argument, index in named.items() if _has_names(index)}
    for argument, index in named.items():
        first, expected = next(iter(named.items()))
        if len(index) == len(expected) and not index.equals(expected):
            raise ValueError(
                f"Expected {first} and {argument} of the same cells in the same order; found other "
                f"names, or another order. Bring them into one, such as {argument}.loc["
                f"{first}.index]."
            )


def _is_of_cells(argument: str, values: pd.Series) -> bool:
    """Whether a series has a value for each cell; positions of cells have an index of their own."""
    return argument not in ("train", "test") or is_bool_dtype(values)


def _plain(index: pd.Index) -> pd.Index:
    """Names as they are, if they are categories."""
    return index.astype(object) if isinstance(index, pd.CategoricalIndex) else index


def _has_names(index: pd.Index) -> bool:
    """Whether an index has names; numbers are positions of some table."""
    return isinstance(index, pd.MultiIndex) or infer_dtype(index) == "string"
