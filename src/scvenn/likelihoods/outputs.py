"""What decoders give to likelihoods besides an array: parts of one, or a layer to be computed.

Shapes: ``T`` latents that were decoded, ``B`` cells, ``H`` units, ``R`` raw parameters.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Parts(NamedTuple):
    """Raw parameters (..., B, R) of which some are the same whatever was decoded.

    Of a feature with several parameters either all are or none is.
    """

    raw: Tensor  # of those that are not, (..., B, P)
    positions: Tensor  # of these among all, (P,)
    baseline: Tensor  # what all would be without them, in each group of cells, (G, R)
    rest: Tensor  # positions of the others, (R - P,)
    group: Tensor | None = None  # number of each cell's group, (B,); None where there is one

    @property
    def groups(self) -> Tensor:
        """Number of each cell's group, (B,)."""
        cells = self.raw.shape[-2]
        return self.positions.new_zeros(cells) if self.group is None else self.group

    def whole(self) -> Tensor:
        """All parameters, (..., B, R)."""
        if not len(self.rest):
            return self.raw
        of_cells = self.baseline
        if self.group is not None:
            of_cells = of_cells.index_select(0, self.group)
        everywhere = of_cells.expand(*self.raw.shape[:-1], -1)
        return everywhere.index_copy(-1, self.positions, self.raw)


class LastLayer(NamedTuple):
    """Raw parameters (T, B, R) that were not computed yet: a linear layer, and what it reads."""

    hidden: Tensor  # (T, B, H)
    weight: Tensor  # (R, H)
    bias: Tensor  # (R,)
    fixed: Parts | None = None  # what is added, without a gradient; (T, B, R)

    def whole(self) -> Tensor:
        """All parameters, (T, B, R)."""
        raw = F.linear(self.hidden, self.weight, self.bias)
        return raw if self.fixed is None else raw + self.fixed.whole().detach()

    def into(self, raw: Tensor, t: int, cells: Tensor) -> None:
        """Write the parameters of some cells of one latent into an array, (n, R)."""
        fixed, bias = self.fixed, self.bias
        if fixed is not None and fixed.group is None:
            bias = bias + fixed.baseline[0]
        torch.addmm(bias, self.hidden[t].index_select(0, cells), self.weight.T, out=raw)
        if fixed is None:
            return
        of_cells = fixed.baseline[0]
        if fixed.group is not None:
            of_cells = fixed.baseline.index_select(0, fixed.group.index_select(0, cells))
            raw += of_cells
        if len(fixed.positions):
            predicted = fixed.raw[t].index_select(0, cells)  # (n, P)
            raw.index_add_(1, fixed.positions, predicted - of_cells[..., fixed.positions])
