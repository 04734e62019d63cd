"""A MuData is written once there is room for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset
from mudata import MuData

from scvenn._whole_files import reserve

# Bytes in a file of HDF5, about and not below: of a group, an array or a column with its
# attributes; and of a text besides its letters.
_OF_A_PART, _OF_A_TEXT = 4096, 48


def write_h5mu(mdata: MuData, path: Path) -> None:
    """Write a MuData; without room for it, nothing is begun.

    HDF5 that meets a full disk while it writes ends the process that opens another file later on,
    with all that is in memory (HDF5 2.0).

    Raises
    ------
    OSError
        If there is no room.
    ValueError
        If something in it cannot be written.
    """
    if wrong := [m for m in mdata.mod if not m or "/" in m]:
        raise ValueError(
            f"modality {wrong[0]!r} cannot be written to a file: the name of a modality needs a "
            "letter, and no '/'. Build the MuData with another name."
        )
    reserve(path, size_of(mdata))
    with errors_of_writing():
        mdata.write(path)


@contextmanager
def errors_of_writing() -> Iterator[None]:
    """Turn errors of anndata, of what it cannot write, into one that names it and what to do.

    Raises
    ------
    ValueError
        If a column, or anything else, is of a kind that cannot be written.
    """
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # anndata has errors of many kinds
        notes = " ".join(getattr(error, "__notes__", ()))
        place = re.search(r"key '([^']+)' .* to (/\S*)", notes)
        what = f"{place[2].rstrip('/')}/{place[1]}" if place else "a part of the data"
        what = what.removesuffix("/categories")  # of the column that is meant
        raise ValueError(
            f"{what} cannot be written to a file: {error}. Columns of dates, of intervals, as of "
            "pandas.cut, and of different kinds have to become text, obs[column].astype(str), or "
            "numbers, pandas.to_numeric(obs[column]), first. Leave out what is neither."
        ) from error


def size_of(part: MuData | AnnData) -> int:
    """Bytes that a MuData or a modality takes in a file, about and not below."""
    mappings = [part.obsm, part.varm, part.obsp, part.varp, part.uns]
    values: list[Any] = [part.obs, part.var, *mappings]
    if isinstance(part, MuData):
        return sum(map(_size, values)) + sum(map(size_of, part.mod.values()))
    raw = () if part.raw is None else (part.raw.X, part.raw.var, part.raw.varm)
    return sum(map(_size, [*values, part.X, part.layers, *raw]))


def _size(value: Any) -> int:
    """Of anything that anndata writes."""
    if isinstance(value, Mapping):
        return _OF_A_PART + sum(map(_size, value.values()))
    if isinstance(value, pd.DataFrame):
        return _OF_A_PART + _size(value.index) + sum(_size(value[name]) for name in value)
    if isinstance(value, pd.Series | pd.Index):
        if isinstance(value.dtype, pd.CategoricalDtype):
            return 8 * len(value) + 2 * _OF_A_PART + _size(value.dtype.categories)
        if pd.api.types.is_numeric_dtype(value.dtype):
            return 9 * len(value) + _OF_A_PART  # with a mask, where numbers may be missing
        return _texts(value)
    if sp.issparse(value):
        stored = [value.data, value.indices, getattr(value, "indptr", value.indices)]
        return sum(array.nbytes for array in stored) + 4 * _OF_A_PART
    if isinstance(value, CSRDataset | CSCDataset):  # of a file
        return sum(map(_size, value.group.values()))
    array = value if hasattr(value, "nbytes") else np.asarray(value, dtype=object)
    kind = getattr(getattr(array, "dtype", None), "kind", None)  # awkward arrays have none
    return _texts(array) if kind in tuple("OUST") else int(array.nbytes) + _OF_A_PART


def _texts(values: Any) -> int:
    return sum(_OF_A_TEXT + 4 * len(str(text)) for text in np.ravel(values)) + _OF_A_PART
