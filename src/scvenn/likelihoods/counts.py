"""Likelihoods of counts."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, distributions, nn

from scvenn.likelihoods.base import LOG_FOLD_CHANGE, Batch, FeatureStats, Likelihood
from scvenn.likelihoods.densities import negative_binomial_log_prob

# Where a share may start, relative to that of the average feature; the logarithm needs some.
_LEAST_SHARE = 1e-3
# Counts per cell that a background starts with at least; the logarithm needs some.
_LEAST_BACKGROUND = 0.1


class _Counts(Likelihood):
    """Counts, whatever their mean."""

    domain = "non-negative integers"
    discrete = True
    effect = LOG_FOLD_CHANGE
    sparse_on_regression_scale = True
    squares_inform = False

    @staticmethod
    def in_domain(values: np.ndarray) -> np.ndarray:
        return (values >= 0) & (values == np.floor(values))

    def encoder_input(self, x: Tensor) -> Tensor:
        return x.log1p()

    def _regression_scale(self, values: np.ndarray, library: np.ndarray) -> np.ndarray:
        return np.log1p(values)

    def linear_predictor(self, raw: Tensor) -> Tensor:
        return self.mean(raw, raw.new_ones(1)).log()


class _Composition(_Counts):
    """Counts whose mean is the cell's library size times a softmax over the features."""

    # A missing count would make the library size, and with it every mean of the cell, unknown.
    allows_missing = False

    def _regression_scale(self, values: np.ndarray, library: np.ndarray) -> np.ndarray:
        # float64: a sum of counts may be beyond what float16 holds
        factor = self.library_.item() / np.maximum(library, 1, dtype=np.float64)
        return super()._regression_scale(values * factor.astype(np.float32), library)

    def start(self) -> Tensor:
        share = self.mean_ / self.mean_.mean().clamp(min=_LEAST_SHARE)
        others = super().start()[len(share) :]  # of zero inflation, where there is one
        return torch.cat([share.clamp(min=_LEAST_SHARE).log(), others])

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        return raw.softmax(-1) * library


class Poisson(_Composition):
    """Counts whose variance is their mean."""

    name = "poisson"
    summary = "counts (Poisson)"

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, batch: Batch = None, cross_view: bool = False
    ) -> Tensor:
        log_mean = raw.log_softmax(-1) + library.log()
        return x * log_mean - log_mean.exp() - torch.lgamma(x + 1)

    def sample(self, raw: Tensor, library: Tensor, batch: Batch = None) -> Tensor:
        return distributions.Poisson(self.mean(raw, library)).sample()


class NegativeBinomial(_Composition):
    """Over-dispersed counts: variance mean + mean² / theta, one learned theta per feature."""

    name = "nb"
    summary = "counts (negative binomial)"
    inferred_rank: float | None = 1

    def __init__(self, stats: FeatureStats, n_batches: int | None = None) -> None:
        super().__init__(stats, n_batches)
        self.log_theta = nn.Parameter(self._of_noise(torch.zeros(len(stats.mean))))

    def _log_odds_and_theta(
        self, raw: Tensor, library: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """Logarithm of mean / theta, (..., B, D), and of theta, (D,) or (B, D)."""
        log_theta = self._of_cells(self.log_theta, batch)
        return raw.log_softmax(-1) + (library.log() - log_theta), log_theta

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, batch: Batch = None, cross_view: bool = False
    ) -> Tensor:
        return negative_binomial_log_prob(x, *self._log_odds_and_theta(raw, library, batch))

    def sample(self, raw: Tensor, library: Tensor, batch: Batch = None) -> Tensor:
        return _nb_sample(*self._log_odds_and_theta(raw, library, batch))


def _nb_sample(log_odds: Tensor, log_theta: Tensor) -> Tensor:
    return distributions.NegativeBinomial(log_theta.exp(), logits=log_odds).sample()


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    r"""Counts with zeros of another origin: :math:`\pi \delta_0 + (1 - \pi)\, \mathrm{NB}`.

    The negative binomial is that of :class:`NegativeBinomial`; the logit of :math:`\pi` is the
    decoder's second output for each cell and feature (Lopez et al., Nat Methods 2018). The mean is
    :math:`1 - \pi` of the negative binomial's.
    """

    name = "zinb"
    summary = "counts (negative binomial with additional zeros)"
    inferred_rank = None  # not that of its parent
    n_outputs = 2

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, batch: Batch = None, cross_view: bool = False
    ) -> Tensor:
        raw, zero = raw.chunk(2, -1)  # (..., B, D) each
        log_nb = super().log_prob(raw, x, library, batch=batch)
        # log(pi + (1 - pi) NB(0)) where x is 0, log(1 - pi) + log NB(x) elsewhere
        return torch.where(x == 0, torch.logaddexp(zero, log_nb), log_nb) - F.softplus(zero)

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        raw, zero = raw.chunk(2, -1)
        return (-zero).sigmoid() * super().mean(raw, library)

    def sample(self, raw: Tensor, library: Tensor, batch: Batch = None) -> Tensor:
        raw, zero = raw.chunk(2, -1)
        counts = super().sample(raw, library, batch)
        return distributions.Bernoulli(logits=-zero).sample() * counts


class NegativeBinomialMixture(_Counts):
    r"""Counts of proteins, of which a part is background, as in totalVI.

    .. math::

        x_j \sim \pi\, \mathrm{NB}(b_j, \theta_j) + (1 - \pi)\, \mathrm{NB}(f, \theta_j), \qquad
        f = b_j (1 + \mathrm{softplus}(r)), \qquad \mathrm{logit}\, \pi = s

    with a background :math:`b_j` and a :math:`\theta_j` learned for each feature, and r and s from
    the decoder for each cell and feature (Gayoso et al., Nat Methods 2021, where the background
    varies over cells). Means do not depend on the library size: few proteins are measured, and a
    cell with much of one has no less of the others. ``mean`` is that of the mixture, with the
    background; :meth:`foreground_mean` is f.
    """

    name = "nb_mixture"
    summary = "counts of proteins (with background, as in totalVI)"
    n_outputs = 2
    allows_missing = True  # no library size that it could spoil

    def __init__(self, stats: FeatureStats, n_batches: int | None = None) -> None:
        super().__init__(stats, n_batches)
        self.log_theta = nn.Parameter(self._of_noise(torch.zeros(len(stats.mean))))
        self.log_background = nn.Parameter(_log_background(stats))

    @torch.no_grad()
    def set_stats(self, stats: FeatureStats) -> None:
        super().set_stats(stats)
        self.log_background.copy_(_log_background(stats))

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, batch: Batch = None, cross_view: bool = False
    ) -> Tensor:
        in_background = raw.chunk(2, -1)[1]  # (..., B, D)
        log_foreground = self.foreground_mean(raw, library).log()
        log_theta = self._of_cells(self.log_theta, batch)
        low = negative_binomial_log_prob(x, self.log_background - log_theta, log_theta)  # (B, D)
        high = negative_binomial_log_prob(x, log_foreground - log_theta, log_theta)  # (..., B, D)
        return torch.logaddexp(in_background + low, high) - F.softplus(in_background)

    def start(self) -> Tensor:
        # half of the cells in the background; softplus(r) is what that leaves to the others
        above = 2 * (self.mean_ / self.log_background.detach().exp() - 1).clamp(min=_LEAST_SHARE)
        return torch.cat([above + (-(-above).expm1()).log(), torch.zeros_like(above)])

    def foreground_mean(self, raw: Tensor, library: Tensor) -> Tensor:
        """Expected value of a count that is not background, (..., B, D)."""
        return self.log_background.exp() * (1 + F.softplus(raw.chunk(2, -1)[0]))

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        share = raw.chunk(2, -1)[1].sigmoid()
        return torch.lerp(self.foreground_mean(raw, library), self.log_background.exp(), share)

    def sample(self, raw: Tensor, library: Tensor, batch: Batch = None) -> Tensor:
        is_background = distributions.Bernoulli(logits=raw.chunk(2, -1)[1]).sample().bool()
        log_foreground = self.foreground_mean(raw, library).log()
        log_mean = torch.where(is_background, self.log_background, log_foreground)
        log_theta = self._of_cells(self.log_theta, batch)
        return _nb_sample(log_mean - log_theta, log_theta)


def _log_background(stats: FeatureStats) -> Tensor:
    """Where the logarithm of the background starts, (D,)."""
    # One standard deviation below the median of the log-normal with this mean and scale. On
    # the scale of counts, the few bright cells of a marker make mean - scale negative.
    mean = np.maximum(stats.mean, _LEAST_BACKGROUND)
    log_variance = np.log1p(np.square(stats.scale / mean))
    low = np.log(mean) - log_variance / 2 - np.sqrt(log_variance)
    return torch.as_tensor(np.maximum(low, math.log(_LEAST_BACKGROUND)), dtype=torch.float32)
