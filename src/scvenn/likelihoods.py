"""How a modality's values are distributed given its decoder's output.

A likelihood knows the scale of the data (it standardises, it multiplies by the library size) and
nothing of objectives. ``LIKELIHOODS`` is the one table of them.

Shapes: ``B`` cells, ``D`` features. A decoder gives ``n_outputs`` raw parameters for each feature,
those of one kind side by side, and may have leading dimensions: (..., B, n_outputs * D).
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from scipy.special import logit
from torch import Tensor, distributions, nn

from scvenn._counts import (
    NegativeBinomial,
    NegativeBinomialMixture,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from scvenn._densities import bernoulli_log_prob
from scvenn._likelihood import Batch, FeatureStats, Likelihood

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Beta",
    "FeatureStats",
    "Likelihood",
    "NegativeBinomial",
    "NegativeBinomialMixture",
    "Normal",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
]

# How far the cross-view variance moves towards that of a minibatch, and its least value (of
# standardised data).
_STEP_OF_VARIANCE = 0.1
_MIN_VARIANCE = 1e-4

# Fractions and shares of ones are read no closer to 0 and 1 than this: a logit of 7, an M-value of
# 10, is beyond what arrays measure.
_EDGE = 1e-3
# Where a precision may start: moments of a feature that hardly varies give any number.
_PRECISIONS = (0.1, 1e4)


class Normal(Likelihood):
    r"""Real values: :math:`N(\mu_j, \sigma_j^2)` of the standardised value of feature j.

    :math:`\sigma_j = \mathrm{softplus}(r_j)`, with :math:`r_j = -1` at the start, is learned for
    each feature (as in the paper's code). Cross-view predictions miss by more; where they have a
    noise of their own, its variance is the running mean of their squared residuals. The
    log-likelihood is that of the standardised value.
    """

    cross_view_variance: Tensor

    name = "normal"
    domain = "real numbers"
    allows_missing = True

    def __init__(self, stats: FeatureStats, n_batches: int | None = None) -> None:
        super().__init__(stats, n_batches)
        one = torch.ones(len(stats.mean))
        self.raw_scale = nn.Parameter(self._of_noise(-one))
        # 1 is what standardised values have without any prediction
        self.register_buffer("cross_view_variance", self._of_noise(one))

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
    def follow_cross_view(
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

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        return raw * self.scale_ + self.mean_

    def sample(self, raw: Tensor, library: Tensor, batch: Batch = None) -> Tensor:
        scale = F.softplus(self._of_cells(self.raw_scale, batch))
        noisy = distributions.Normal(raw, scale).sample()
        return self.mean(noisy, library)


class Bernoulli(Likelihood):
    """0/1 values: the decoder's output is the logit of a 1."""

    name = "bernoulli"
    domain = "0 or 1"
    allows_missing = True
    discrete = True
    separable = True

    @staticmethod
    def in_domain(values: np.ndarray) -> np.ndarray:
        return (values == 0) | (values == 1)

    def encoder_input(self, x: Tensor) -> Tensor:
        return x

    def start(self) -> Tensor:
        return self.mean_.logit(_EDGE)

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, batch: Batch = None, cross_view: bool = False
    ) -> Tensor:
        return bernoulli_log_prob(raw, x)

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        return raw.sigmoid()

    def sample(self, raw: Tensor, library: Tensor, batch: Batch = None) -> Tensor:
        return distributions.Bernoulli(logits=raw).sample()


class Beta(Likelihood):
    r"""Fractions, such as of methylated reads: :math:`\mathrm{Beta}(\phi_j \mu, \phi_j (1 - \mu))`.

    The decoder's output is the logit of the mean :math:`\mu`; a precision :math:`\phi_j` is learned
    for each feature (Ferrari & Cribari-Neto, J Appl Stat 2004). Values may be anything from 0 to 1,
    both included. At these two the density is 0 or infinite: ``log_prob`` moves values to
    0.001 or 0.999 that are closer to them.
    """

    name = "beta"
    domain = "fractions between 0 and 1"
    allows_missing = True

    def __init__(self, stats: FeatureStats, n_batches: int | None = None) -> None:
        super().__init__(stats, n_batches)
        # what the moments say without any prediction: variance = mean (1 - mean) / (1 + precision)
        mean = np.clip(stats.mean, _EDGE, 1 - _EDGE)
        precision = np.clip(mean * (1 - mean) / np.square(stats.scale) - 1, *_PRECISIONS)
        start = torch.as_tensor(np.log(precision), dtype=torch.float32)
        self.log_precision = nn.Parameter(self._of_noise(start))

    @staticmethod
    def in_domain(values: np.ndarray) -> np.ndarray:
        return (values >= 0) & (values <= 1)

    def encoder_input(self, x: Tensor) -> Tensor:
        # Differences near 0 and 1 count as they do for the decoder, on logits. Their standard
        # deviation is about scale / (mean (1 - mean)), the first term of a Taylor series; without
        # it, features that hardly vary would hardly be read.
        mean = self.mean_.clamp(_EDGE, 1 - _EDGE)
        return (x.logit(_EDGE) - mean.logit()) * (mean * (1 - mean) / self.scale_)

    def start(self) -> Tensor:
        return self.mean_.logit(_EDGE)

    def linear_scale(self, values: Any, library: np.ndarray) -> Any:
        # M-values but for a factor; of a fraction of 0 that is not 0, and nothing stays sparse
        dense = values.toarray() if sp.issparse(values) else values
        return logit(np.clip(dense, _EDGE, 1 - _EDGE))

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, batch: Batch = None, cross_view: bool = False
    ) -> Tensor:
        # with lgamma(a) = lgamma(1 + a) - log(a), gradients are finite however close a is to 0
        x, log_precision = x.clamp(_EDGE, 1 - _EDGE), self._of_cells(self.log_precision, batch)
        precision = log_precision.exp()
        constant = torch.lgamma(1 + precision) + log_precision  # (D,) or (B, D)
        constant = constant + (precision - 1) * (-x).log1p() - x.log()  # (B, D)
        a = precision * raw.sigmoid()  # (..., B, D)
        log_prob = torch.addcmul(constant, a, x.logit()) + F.logsigmoid(raw) + F.logsigmoid(-raw)
        return log_prob - torch.lgamma(1 + a) - torch.lgamma(1 + precision - a)

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        return raw.sigmoid()

    def sample(self, raw: Tensor, library: Tensor, batch: Batch = None) -> Tensor:
        mean = raw.sigmoid().clamp(_EDGE, 1 - _EDGE)
        precision = self._of_cells(self.log_precision, batch).exp()
        return distributions.Beta(precision * mean, precision * (1 - mean)).sample()


LIKELIHOODS: dict[str, type[Likelihood]] = {
    cls.name: cls
    for cls in (
        Normal,
        Bernoulli,
        Beta,
        Poisson,
        NegativeBinomial,
        ZeroInflatedNegativeBinomial,
        NegativeBinomialMixture,
    )
}
