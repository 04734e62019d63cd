"""Values of a minibatch, dense or sparse, behind a few functions that serve both.

A wide modality of which few values are not zero is never made dense as a whole.

Shapes: ``B`` cells, ``D`` features, ``N`` values that are not zero.
"""

from __future__ import annotations

from typing import NamedTuple

import scipy.sparse as sp
import torch
from torch import Tensor

# Row, column and value of what is stored, (N,) each.
Entries = tuple[Tensor, Tensor, Tensor]

# Entries of the rows that are scored in one go: small enough to stay in a cache.
ENTRIES_IN_CACHE = 2**19


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
        return cls(ends, columns, torch.from_numpy(csr.data), csr.shape[1])

    @property
    def n_rows(self) -> int:
        """Number B of rows."""
        return len(self.ends) - 1

    @property
    def row(self) -> Tensor:
        """Row of each stored value, (N,)."""
        order = torch.arange(self.n_rows, device=self.ends.device)
        return order.repeat_interleave(self.ends.diff())

    @property
    def entries(self) -> Entries:
        """Row, column and value of what is stored, row after row."""
        return self.row, self.columns, self.values

    def sums(self) -> Tensor:
        """Sum of each row, (B, 1)."""
        sums = self.values.new_zeros(self.n_rows)
        return sums.index_add_(0, self.row, self.values).unsqueeze(1)

    def transposed(self) -> SparseRows:
        """The matrix with rows and columns exchanged, (D, B)."""
        _, order = self.columns.int().sort(stable=True)  # half the time of 64 bits
        counts = self.columns.bincount(minlength=self.width)
        ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        row, values = (part.index_select(0, order) for part in (self.row, self.values))
        return SparseRows(ends, row, values, self.n_rows)

    def between(self, start: int, stop: int) -> SparseRows:
        """Rows that follow each other, without copying."""
        stop = min(stop, self.n_rows)
        low, high = int(self.ends[start]), int(self.ends[stop])
        ends = self.ends[start : stop + 1] - low
        return SparseRows(ends, self.columns[low:high], self.values[low:high], self.width)

    def dense(self) -> Tensor:
        """All values, (B, D)."""
        out = self.values.new_zeros(self.n_rows, self.width)
        out[self.row, self.columns] = self.values
        return out


Rows = Tensor | SparseRows


def dense(x: Rows) -> Tensor:
    """All values, (B, D)."""
    return x.dense() if isinstance(x, SparseRows) else x


def some_cells(x: SparseRows, cells: Tensor) -> SparseRows:
    """The rows at these positions, which ascend."""
    if len(cells) == x.n_rows:
        return x
    starts, counts = x.ends[cells], x.ends.diff()[cells]
    ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    # each stored value: where its row starts, and how far behind that it stands
    taken = (starts - ends[:-1]).repeat_interleave(counts) + torch.arange(
        int(ends[-1]), device=counts.device
    )
    return SparseRows(
        ends, x.columns.index_select(0, taken), x.values.index_select(0, taken), x.width
    )


def some_features(x: Rows, features: Tensor) -> Tensor:
    """The columns at these positions, dense, (B, len(features))."""
    if not isinstance(x, SparseRows):
        return x.index_select(-1, features)
    row, column, value = entries_of(x, features)
    out = x.values.new_zeros(x.n_rows, len(features))
    out.view(-1).index_copy_(0, row * len(features) + column, value)
    return out


def entries_of(x: SparseRows, features: Tensor) -> Entries:
    """The entries of some features, whose columns are positions among these."""
    row, column, value = x.entries
    place = _places(features, x.width).index_select(0, column)
    found = (place >= 0).nonzero().squeeze(1)
    return row.index_select(0, found), place.index_select(0, found), value.index_select(0, found)


def _places(features: Tensor, width: int) -> Tensor:
    """Position of each of all features among some, -1 where it is none of them, (D,)."""
    places = torch.full((width,), -1, device=features.device)
    places[features] = torch.arange(len(features), device=features.device)
    return places
