"""The likelihood of real values."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, distributions, nn

from scvenn.likelihoods.base import Batch, FeatureStats, Likelihood

# How far the cross-view variance moves towards that of a minibatch, and its least value (of
# standardised data).
_STEP_OF_VARIANCE = 0.1
_MIN_VARIANCE = 1e-4
# Number of held-out cells at which a feature's own residuals count as much as those of all.
_PRIOR_CELLS = 50


class Normal(Likelihood):
    r"""Real values: :math:`N(\mu_j, \sigma_j^2)` of the standardised value of feature j.

    :math:`\sigma_j = \mathrm{softplus}(r_j)`, with :math:`r_j = -1` at the start, is learned for
    each feature (as in the paper's code). Cross-view predictions miss by more; where they have a
    noise of their own, its variance is the running mean of their squared residuals in training
    cells, times how much larger these are in held-out cells: networks come as close to their
    training cells as they like, and would believe to predict all cells so well. The log-likelihood
    is that of the standardised value.
    """

    cross_view_variance: Tensor  # of residuals in training cells
    held_out_ratio: Tensor  # of squared residuals in held-out cells to that

    name = "normal"
    summary = "real numbers (normal)"
    domain = "real numbers"
    allows_missing = True
    cross_view_noise = True
    means_of_some = True
    inferred_rank = 2

    def __init__(self, stats: FeatureStats, n_batches: int | None = None) -> None:
        super().__init__(stats, n_batches)
        one = torch.ones(len(stats.mean))
        self.raw_scale = nn.Parameter(self._of_noise(-one))
        # 1 is what standardised values have without any prediction
        self.register_buffer("cross_view_variance", self._of_noise(one))
        self.register_buffer("held_out_ratio", self._of_noise(one.clone()))

    @property
    def unit(self) -> Tensor:
        return self.scale_

    @staticmethod
    def in_domain(values: np.ndarray) -> np.ndarray:
        return np.ones(values.shape, dtype=bool)

    def encoder_input(self, x: Tensor) -> Tensor:
        return (x - self.mean_) / self.scale_

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, batch: Batch = None, cross_view: bool = False
    ) -> Tensor:
        scale = self._scale_of_noise(batch, cross_view)
        residual = (self.encoder_input(x) - raw) / scale
        return -0.5 * residual.square() - (scale.log() + 0.5 * math.log(2 * math.pi))

    def _scale_of_noise(self, batch: Batch, cross_view: bool) -> Tensor:
        """Standard deviation around a prediction of standardised values, (D,) or (B, D)."""
        if cross_view:
            variance = self.cross_view_variance * self.held_out_ratio
            scale = variance.clamp(min=_MIN_VARIANCE).sqrt()
        else:
            scale = F.softplus(self.raw_scale)
        return self._of_cells(scale, batch)

    @torch.no_grad()
    def cross_view_misses(
        self, raw: Tensor, x: Tensor, measured: Tensor, batch: Batch = None
    ) -> Tensor:
        square = ((self.encoder_input(x) - raw).square() * measured).mean(0)  # (T, B, D) -> (B, D)
        counted = measured.float().mean(0).expand_as(square)  # as many predictions, as many cells
        misses = torch.stack([square, counted])  # (2, B, D)
        if self.n_batches is None:
            return misses.sum(1)
        nothing = misses.new_zeros(2, self.n_batches, misses.shape[-1])
        return nothing.index_add(1, cast(Tensor, batch), misses)

    @torch.no_grad()
    def update_cross_view_noise(self, misses: Tensor) -> None:
        square, n_cells = misses
        seen = n_cells > 0  # some of the predictions count as a part of a cell
        step = torch.where(seen, _STEP_OF_VARIANCE, 0.0)
        found = square / torch.where(seen, n_cells, 1.0)
        self.cross_view_variance.lerp_(found, step).clamp_(min=_MIN_VARIANCE)

    @torch.no_grad()
    def set_held_out_noise(self, misses: Tensor) -> None:
        square, n_cells = misses
        ratio = square / self.cross_view_variance  # summed over cells
        if not n_cells.any():
            self.held_out_ratio.fill_(1)
            return
        of_all = ratio.sum() / n_cells.sum()
        self.held_out_ratio.copy_((ratio + _PRIOR_CELLS * of_all) / (n_cells + _PRIOR_CELLS))

    def mean_of_some(
        self, raw: Tensor, library: Tensor, features: slice, normaliser: Tensor
    ) -> Tensor:
        return raw * self.scale_[features] + self.mean_[features]

    def sample(
        self, raw: Tensor, library: Tensor, batch: Batch = None, cross_view: bool = False
    ) -> Tensor:
        scale = self._scale_of_noise(batch, cross_view)
        noisy = distributions.Normal(raw, scale).sample()
        return self.mean(noisy, library)
