"""One modality of a minibatch; the one place where values that were not observed are replaced."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scvenn.likelihoods import Likelihood


class View(NamedTuple):
    """One modality of a minibatch, with harmless values where nothing was measured."""

    x: Tensor  # (B, D)
    measured: Tensor  # entries that count: (B, D), or (B, 1) where a cell has all or none
    library: Tensor  # (B, 1)
    observed: Tensor  # (B,)
    batch: Tensor | None = None  # (B,); where batches have a noise of their own

    @classmethod
    def read(
        cls, x: Tensor, observed: Tensor, likelihood: Likelihood, batch: Tensor | None = None
    ) -> View:
        """Read values (B, D) of cells in which the modality was observed (B,) or not."""
        x = x.float()
        measured = observed.unsqueeze(-1)  # (B, 1)
        total = x.sum(-1, keepdim=True)  # (B, 1); NaN where an entry is
        if likelihood.allows_missing and total.isnan().any():
            measured = measured & ~x.isnan()  # (B, D)
        if not measured.all():
            x = torch.where(measured, x, likelihood.mean_)
        # integer counts: the largest of 1 and the sum changes only cells without any count
        library = torch.where(observed.unsqueeze(-1), total.clamp(min=1), likelihood.library_)
        return cls(x, measured, library, observed, batch)
