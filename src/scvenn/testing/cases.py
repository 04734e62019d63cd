"""What a likelihood is checked with: a few values, and what a minibatch would give it.

Shapes: ``B`` cells, ``D`` features, ``T`` terms, ``R = n_outputs * D`` raw parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scvenn.likelihoods import FeatureStats, Likelihood

B, D, T = 6, 4, 3
# Values of which those in the domain must do no harm.
_EXTREME_VALUES = np.array([-1e6, -1, 0, 1e-3, 0.5, 1, 1e6])


@dataclass(frozen=True)
class Case:
    """A class, typical values, and what a minibatch would give it."""

    cls: type[Likelihood]
    values: np.ndarray  # (B, D)

    @property
    def x(self) -> Tensor:
        """The values, (B, D)."""
        return torch.as_tensor(self.values)

    @property
    def library(self) -> Tensor:
        """Sum of each cell's values, (B, 1)."""
        return self.x.sum(-1, keepdim=True).clamp(min=1)

    @property
    def extremes(self) -> Tensor:
        """Values at the ends of the domain."""
        inside = _EXTREME_VALUES[self.cls.in_domain(_EXTREME_VALUES)]
        return torch.as_tensor(inside, dtype=torch.float32)

    def raw(self, likelihood: Likelihood, spread: float = 1.0) -> Tensor:
        """Raw parameters of all terms, (T, B, R)."""
        return spread * torch.randn(T, B, likelihood.n_outputs * D)

    def build(self, n_batches: int | None = None) -> Likelihood:
        """A likelihood of these values whose parameters are not those of its start."""
        x = self.values.astype(np.float64)
        stats = FeatureStats(x.mean(0), x.std(0) + 0.1, float(np.median(x.sum(1).clip(min=1))))
        likelihood = self.cls(stats, n_batches)
        with torch.no_grad():
            for parameter in likelihood.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        return likelihood


def masks() -> tuple[Tensor, Tensor]:
    """What was measured: some of the cells, (B, 1), and some of their values, (B, D)."""
    cells = torch.arange(B).unsqueeze(1) % 3 > 0
    return cells, cells & (torch.rand(B, D) < 0.7)
