"""What a MuData held when it was set up, at little cost: to notice that it was changed since.

Names and columns of ``obs`` are compared whole, and matrices by sums over some of their
rows: no more than a few hundred thousand values are read, whatever the size of the data.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from mudata import MuData

from scvenn.data.columns import as_text, find_column_or_none, find_numbers
from scvenn.data.fields import ColumnField, Field, ModalityField, NumberField
from scvenn.data.keys import Keys
from scvenn.data.matrices import Matrix, align, canonical_rows
from scvenn.data.minified import is_minified
from scvenn.data.on_disk import DiskMatrix
from scvenn.data.stored import stored_matrix

# Values of a matrix that are summed.
_MOST_VALUES = 200_000
# How far sums may be apart, relative to the sum of absolute values: another order of the features
# moves sums of the same values by 1e-13.
_TOLERANCE = 1e-10


class _Rows(NamedTuple):
    """Sums over some rows of a modality."""

    names: pd.Index  # of the rows
    features: pd.Index
    cells: pd.Index  # of the whole modality
    sums: np.ndarray  # (rows, 4): values, weighted values, absolute values, how many are NaN


class Changes(NamedTuple):
    """What differs from the time of the set-up."""

    cells: bool  # other cells, or another order
    fields: list[Field]  # fields whose values differ in cells that are there as before

    def __bool__(self) -> bool:
        return self.cells or bool(self.fields)


class Fingerprint:
    """Summary of what some fields read of a MuData; holds no reference to it.

    Parameters
    ----------
    mdata, fields, states
        The data, what is read of it, and what each field keeps in the registry.
    """

    def __init__(self, mdata: MuData, fields: list[Field], states: dict[str, dict]) -> None:
        self.cells = mdata.obs_names
        self._rows = {
            f.registry_key: _rows(mdata, f, states[f.registry_key])
            for f in fields
            if isinstance(f, ModalityField) and f.modality in mdata.mod
        }
        self._columns = {f.registry_key: _column(mdata, f) for f in fields if _has_column(f)}

    def cells_of(self, field: ModalityField) -> pd.Index | None:
        """Names of the cells of a modality; None where the data did not have it."""
        rows = self._rows.get(field.registry_key)
        return None if rows is None else rows.cells

    @property
    def digest(self) -> str:
        """SHA-256 of the same, to compare with data of another process."""
        found = hashlib.sha256("\n".join(map(str, self.cells)).encode())
        for key, rows in self._rows.items():
            names = [key, *map(str, rows.names), *map(str, rows.features), str(len(rows.cells))]
            found.update("\n".join(names).encode())
            found.update(rows.sums.tobytes())
        for key, column in self._columns.items():
            found.update(key.encode())
            found.update(b"" if column is None else column.to_numpy().tobytes())
        return found.hexdigest()

    def changes(
        self,
        mdata: MuData,
        fields: list[Field],
        states: dict[str, dict],
        *,
        labels: bool,
        names: bool = False,
    ) -> Changes:
        """Compare with the same MuData, now.

        Parameters
        ----------
        mdata, fields, states
            As at the time of the set-up.
        labels
            Whether labels count: read-outs do not read them.
        names
            Whether cells and features that came, went or moved count as changes of a modality: they
            are found by name, but a set-up would have another result.
        """
        changed = []
        for field in fields:
            key = field.registry_key
            if isinstance(field, ModalityField):
                old = self._rows.get(key)
                differ = _modality_differs(old, mdata, field, states[key], names=names)
            elif _has_column(field) and (labels or key != Keys.LABELS):
                differ = _columns_differ(self._columns[key], _column(mdata, field))
            else:
                continue
            if differ:
                changed.append(field)
        same_cells = self.cells is mdata.obs_names or self.cells.equals(mdata.obs_names)
        return Changes(not same_cells, changed)


def _modality_differs(
    old: _Rows | None, mdata: MuData, field: ModalityField, state: dict, *, names: bool
) -> bool:
    if old is None or field.modality not in mdata.mod:
        return (old is None) != (field.modality not in mdata.mod)
    adata = mdata.mod[field.modality]
    if names and not (old.cells.equals(adata.obs_names) and old.features.equals(adata.var_names)):
        return True
    if adata.var_names is not old.features:  # an index is never changed in place
        needed = set(state[Keys.COLUMN_NAMES]).difference(state.get(Keys.MAY_LACK, ()))
        if not needed <= set(adata.var_names.astype(str)):
            return True
    here = adata.obs_names.get_indexer(old.names)
    new, was = _sums(mdata, field, state, here[here >= 0]), old.sums[here >= 0]
    within = _TOLERANCE * np.maximum(was[:, 2:3], new[:, 2:3])
    close = np.abs(new[:, :3] - was[:, :3]) <= within
    return not (close.all() and np.array_equal(new[:, 3], was[:, 3]))


def _rows(mdata: MuData, field: ModalityField, state: dict) -> _Rows:
    """Sums over rows that are spread over the modality."""
    adata = mdata.mod[field.modality]
    n_rows = min(adata.n_obs, max(8, _MOST_VALUES // max(1, adata.n_vars)))
    positions = np.unique(np.linspace(0, adata.n_obs - 1, n_rows).astype(int))
    names = adata.obs_names[positions]
    return _Rows(names, adata.var_names, adata.obs_names, _sums(mdata, field, state, positions))


def _sums(mdata: MuData, field: ModalityField, state: dict, positions: np.ndarray) -> np.ndarray:
    """Sums (rows, 4) over the model's features of some rows of a modality."""
    rows = _values(mdata, field, state, positions)
    values = np.asarray(rows.toarray() if sp.issparse(rows) else rows, dtype=np.float64)
    missing = np.isnan(values)
    values[missing] = 0
    weights = np.random.default_rng(0).uniform(0.5, 1.5, values.shape[1])  # of features
    return np.stack(
        [values.sum(1), values @ weights, np.abs(values).sum(1), missing.sum(1)], axis=1
    )


def _values(mdata: MuData, field: ModalityField, state: dict, positions: np.ndarray) -> Matrix:
    """What is read of some rows of a modality: the model's features, or what minified data has."""
    if is_minified(mdata, field.modality):
        return np.asarray(mdata.mod[field.modality].obsm[Keys.POSTERIOR])[positions]
    stored = stored_matrix(mdata, field.modality, field.layer, new_data=True)
    if isinstance(stored, DiskMatrix):
        rows = stored[positions]
    else:
        rows = canonical_rows(stored, positions, field.modality, field.where)
    if np.array_equal(mdata.mod[field.modality].var_names, state[Keys.COLUMN_NAMES]):
        return rows
    return align(rows, np.arange(len(positions)), field.columns(mdata, state))


def _has_column(field: Any) -> bool:
    return isinstance(field, ColumnField | NumberField) and field.attr_key is not None


def _column(mdata: MuData, field: Any) -> pd.Series | None:
    """A number for each cell's value, the same however the column is stored."""
    column = find_column_or_none(mdata, field.attr_key)
    if column is None:
        return None
    if isinstance(field, NumberField):
        values = find_numbers(mdata, field.attr_key, field.argument).astype(np.float32)
    else:
        codes, categories = pd.factorize(column, use_na_sentinel=True)
        names = np.array([as_text(name) for name in categories], dtype=object)
        hashes = np.append(pd.util.hash_array(names), np.uint64(0)).astype(np.uint64)
        values = hashes[codes]  # the last one is of no value
    return pd.Series(values, index=mdata.obs_names)


def _columns_differ(old: pd.Series | None, new: pd.Series | None) -> bool:
    if old is None or new is None:
        return (old is None) != (new is None)
    if old.index is new.index or old.index.equals(new.index):
        return not np.array_equal(old.to_numpy(), new.to_numpy())
    both = old.index.intersection(new.index)
    return not np.array_equal(old[both].to_numpy(), new[both].to_numpy())
