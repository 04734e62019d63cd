"""Minibatches of cells that are read in blocks: shuffled, and read in the order of a file."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_convert

from scvenn.data.cells import Tensors
from scvenn.data.manager import AlignedManager

# Cells of a block, which follow each other; and of how many blocks a buffer is made, unless these
# hold more values than that.
BLOCK, BUFFER = 128, 64
MOST_VALUES = 50_000_000


class BlockLoader:
    """Minibatches of training cells, for data that is too large to be shuffled cell by cell.

    Blocks of cells that follow each other are read in random order. The cells of several blocks
    are in memory at a time, a buffer, and minibatches are drawn from all of these at random. While
    a buffer is trained on, one thread reads the next.

    Which cells a minibatch holds depends on PyTorch's random numbers and on the values, and not
    on where the data is: on disk and in memory are the same.

    Parameters
    ----------
    manager
        Of the data.
    rows
        Positions of the cells, (n,).
    batch_size
        Cells per minibatch.
    drop_last
        Whether to leave out a last minibatch that would have fewer.
    """

    def __init__(
        self, manager: AlignedManager, rows: np.ndarray, *, batch_size: int, drop_last: bool = False
    ) -> None:
        self.dataset: Any = manager.create_torch_dataset()
        self.rows = np.sort(rows)
        self.batch_size, self.drop_last = batch_size, drop_last
        found = manager.found
        of_a_cell = sum(found.values_per_cell(m) for m in found.modalities)
        n_cells = min(BLOCK * BUFFER, int(MOST_VALUES / max(of_a_cell, 1)))
        self.buffer = batch_size * max(1, n_cells // batch_size)

    def __len__(self) -> int:
        """Number of minibatches."""
        rounded = len(self.rows) // self.batch_size
        return rounded if self.drop_last else -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Tensors]:
        """Minibatches, in a new order each time."""
        buffers = self._shuffled()
        with ThreadPoolExecutor(1, "scvenn-reader") as reader:
            ahead = reader.submit(self._read, buffers[0])
            for i, rows in enumerate(buffers):
                values = ahead.result()
                if i + 1 < len(buffers):
                    ahead = reader.submit(self._read, buffers[i + 1])
                place = np.argsort(np.argsort(rows))  # of each cell among those that were read
                for start in range(0, len(rows), self.batch_size):
                    chosen = place[start : start + self.batch_size]
                    if self.drop_last and len(chosen) < self.batch_size:
                        return
                    yield self._minibatch(values, chosen)

    def _shuffled(self) -> list[np.ndarray]:
        """The cells of each buffer, in the order in which they are trained on."""
        blocks = np.split(self.rows, np.arange(BLOCK, len(self.rows), BLOCK))
        order = np.concatenate([blocks[i] for i in torch.randperm(len(blocks)).tolist()])
        buffers = np.split(order, np.arange(self.buffer, len(order), self.buffer))
        return [buffer[torch.randperm(len(buffer)).numpy()] for buffer in buffers]

    def _read(self, rows: np.ndarray) -> dict[str, Any]:
        """Values of the cells of a buffer, in the order of the file."""
        return self.dataset.stored(np.sort(rows))

    def _minibatch(self, values: dict[str, Any], chosen: np.ndarray) -> Tensors:
        return default_convert(
            self.dataset.minibatch({key: of[chosen] for key, of in values.items()})
        )
