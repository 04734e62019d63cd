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


class Normal(Likelihood):
    r"""Real values: :math:`N(\mu_j, \sigma_j^2)` of the standardised value of feature j.

    :math:`\sigma_j = \mathrm{softplus}(r_j)`, with :math:`r_j = -1` at the start, is learned for
    each feature (as in the paper's code). Cross-view predictions miss by more; where they have a
    noise of their own, its variance is the running mean of their squared residuals. The
    log-likelihood is that of the standardised value.
    """

    cross_view_variance: Tensor

    name = "normal"
    summary = "real numbers (normal)"
    domain = "real numbers"
    allows_missing = True
    means_of_some = True
    inferred_rank = 2

    def __init__(self, stats: FeatureStats, n_batches: int | None = None) -> None:
        super().__init__(stats, n_batches)
        one = torch.ones(len(stats.mean))
        self.raw_scale = nn.Parameter(self._of_noise(-one))
        # 1 is what standardised values have without any prediction
        self.register_buffer("cross_view_variance", self._of_noise(one))

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
        scale = self.cross_view_variance.sqrt() if cross_view else F.softplus(self.raw_scale)
        scale = self._of_cells(scale, batch)
        residual = (self.encoder_input(x) - raw) / scale
        return -0.5 * residual.square() - (scale.log() + 0.5 * math.log(2 * math.pi))

    @torch.no_grad()
    def update_cross_view_noise(
        self, raw: Tensor, x: Tensor, measured: Tensor, batch: Batch = None
    ) -> None:
        square = ((self.encoder_input(x) - raw).square() * measured).sum(0)  # (T, B, D) -> (B, D)
        n_measured = measured.float() * len(raw)  # (B, D) or (B, 1)
        if self.n_batches is None:
            square, n_measured = square.sum(0), n_measured.sum(0)  # (D,) or (1,)
        else:
            nothing = square.new_zeros(self.n_batches, 1)
            square, n_measured = (
                nothing.expand(-1, v.shape[1]).index_add(0, cast(Tensor, batch), v)
                for v in (square, n_measured)
            )  # of each batch
        found = square / n_measured.clamp(min=1)
        step = torch.where(n_measured > 0, _STEP_OF_VARIANCE, 0.0)
        self.cross_view_variance.lerp_(found, step).clamp_(min=_MIN_VARIANCE)

    def mean_of_some(
        self, raw: Tensor, library: Tensor, features: slice, normaliser: Tensor
    ) -> Tensor:
        return raw * self.scale_[features] + self.mean_[features]

    def sample(self, raw: Tensor, library: Tensor, batch: Batch = None) -> Tensor:
        scale = F.softplus(self._of_cells(self.raw_scale, batch))
        noisy = distributions.Normal(raw, scale).sample()
        return self.mean(noisy, library)
