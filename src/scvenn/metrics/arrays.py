"""What users pass to metrics, as arrays of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from pandas.api.types import infer_dtype


def as_array(values: Any) -> np.ndarray:
    """Numbers in any form as an array of single or double precision; NaN where they are masked."""
    if sp.issparse(values):
        values = values.toarray()
    if isinstance(values, pd.DataFrame):
        return values.to_numpy(np.float64, na_value=np.nan)
    if np.iscomplexobj(values):
        raise ValueError("Expected real numbers, found complex ones.")
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
        names, others = truth.axes[axis], predicted.axes[axis]
        if any(infer_dtype(index) != "string" for index in (names, others)):
            continue  # numbers are positions of some table, and no names
        common = names.intersection(others)
        if names.equals(others) or common.empty:
            continue
        if names.has_duplicates or len(common) < max(len(names), len(others)):
            raise ValueError(
                f"Expected truth and prediction of the same {what}, each once: {len(names)} and "
                f"{len(others)} of them have {len(common)} names in common. Choose those, or pass "
                "arrays whose rows and columns belong together."
            )
        predicted = predicted.reindex(names, axis=axis)
    return truth, predicted
