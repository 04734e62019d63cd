"""Values of a minibatch, dense or sparse, behind a few functions that serve both.

A wide modality of which few values are not zero is never made dense as a whole.

Shapes: ``B`` cells, ``D`` features, ``N`` values that are not zero.
"""

from __future__ import annotations

from typing import NamedTuple

import scipy.sparse as sp
import torch
from torch import Tensor


class SparseRows(NamedTuple):
    """Rows (B, D) of which the values that are not zero are stored, row after row."""

    ends: Tensor  # where each row begins, and where the last one ends, (B + 1,)
    columns: Tensor  # (N,)
    values: Tensor  # (N,)
    width: int  # D

    @classmethod
    def of(cls, csr: sp.csr_matrix) -> SparseRows:
        """From one of SciPy's matrices."""
        ends, columns = (torch.from_numpy(part).long() for part in (csr.indptr, csr.indices))
        return cls(ends, columns, torch.from_numpy(csr.data).float(), csr.shape[1])

    @property
    def row(self) -> Tensor:
        """Row of each stored value, (N,)."""
        order = torch.arange(len(self.ends) - 1, device=self.ends.device)
        return order.repeat_interleave(self.ends.diff())

    def sums(self) -> Tensor:
        """Sum of each row, (B, 1)."""
        sums = self.values.new_zeros(len(self.ends) - 1)
        return sums.index_add_(0, self.row, self.values).unsqueeze(1)

    def between(self, start: int, stop: int) -> SparseRows:
        """Rows that follow each other, without copying."""
        stop = min(stop, len(self.ends) - 1)
        low, high = int(self.ends[start]), int(self.ends[stop])
        ends = self.ends[start : stop + 1] - low
        return SparseRows(ends, self.columns[low:high], self.values[low:high], self.width)

    def dense(self) -> Tensor:
        """All values, (B, D)."""
        out = self.values.new_zeros(len(self.ends) - 1, self.width)
        out[self.row, self.columns] = self.values
        return out


Rows = Tensor | SparseRows


def dense(x: Rows) -> Tensor:
    """All values, (B, D)."""
    return x.dense() if isinstance(x, SparseRows) else x


def n_rows(x: Rows) -> int:
    """Number B of cells."""
    return len(x.ends) - 1 if isinstance(x, SparseRows) else len(x)


def entries(x: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and value of what is not zero, row after row, (N,) each."""
    if isinstance(x, SparseRows):
        return x.row, x.columns, x.values
    row, column = x.nonzero().unbind(1)
    return row, column, x[row, column]


def sparse(x: Rows) -> SparseRows:
    """The same with only what is not zero stored."""
    if isinstance(x, SparseRows):
        return x
    row, column, value = entries(x)
    counts = row.bincount(minlength=len(x))
    ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return SparseRows(ends, column, value, x.shape[1])


def some_cells(x: Rows, cells: Tensor) -> Rows:
    """The rows at these positions, which ascend."""
    if len(cells) == n_rows(x):
        return x
    if not isinstance(x, SparseRows):
        return x.index_select(0, cells)
    starts, counts = x.ends[cells], x.ends.diff()[cells]
    ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    # each stored value: where its row starts, and how far behind that it stands
    taken = (starts - ends[:-1]).repeat_interleave(counts) + torch.arange(
        int(ends[-1]), device=counts.device
    )
    return SparseRows(ends, x.columns[taken], x.values[taken], x.width)


def some_features(x: Rows, features: Tensor) -> Tensor:
    """The columns at these positions, dense, (B, len(features))."""
    if not isinstance(x, SparseRows):
        return x.index_select(-1, features)
    place = _places(features, x.width)[x.columns]
    found = (place >= 0).nonzero().squeeze(1)
    out = x.values.new_zeros(len(x.ends) - 1, len(features))
    out[x.row[found], place[found]] = x.values[found]
    return out


def entries_of(x: Rows, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The entries of some features, whose columns are positions among these."""
    row, column, value = entries(x)
    place = _places(features, x.width if isinstance(x, SparseRows) else x.shape[1])[column]
    found = (place >= 0).nonzero().squeeze(1)
    return row[found], place[found], value[found]


def _places(features: Tensor, width: int) -> Tensor:
    """Position of each of all features among some, -1 where it is none of them, (D,)."""
    places = torch.full((width,), -1, device=features.device)
    places[features] = torch.arange(len(features), device=features.device)
    return places
