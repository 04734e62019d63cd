"""Likelihoods of counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, distributions, nn

from scvenn.likelihoods.base import LOG_FOLD_CHANGE, Batch, FeatureStats, Likelihood
from scvenn.likelihoods.baselines import ReadMean, read_mean_of_baselines, total_of_baselines
from scvenn.likelihoods.densities import (
    log_gamma_ratio,
    negative_binomial_log_prob,
    score_negative_binomial_rows,
    score_poisson_rows,
    zeros_of_negative_binomials,
)
from scvenn.likelihoods.last_layer import WeightedRows
from scvenn.likelihoods.outputs import Parts
from scvenn.likelihoods.rows import SparseRows, entries_of, some_cells, some_features

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
    reads_sparse = True
    squares_inform = False

    @staticmethod
    def in_domain(values: np.ndarray) -> np.ndarray:
        return (values >= 0) & (values == np.floor(values))

    def encoder_input(self, x: Tensor) -> Tensor:
        return x.log1p()

    def _regression_scale(self, values: np.ndarray, library: np.ndarray) -> np.ndarray:
        return np.log1p(values)

    def scaled_mean(self, raw: Tensor) -> Tensor:
        return super().scaled_mean(raw).log1p()

    def linear_predictor(self, raw: Tensor) -> Tensor:
        return self.mean(raw, raw.new_ones(1)).log()


class _Composition(_Counts):
    """Counts whose mean is the cell's library size times a softmax over the features.

    A subclass defines :meth:`_density`; for ``scores_parts`` also :meth:`_of_zeros`, :meth:`_gain`.
    """

    scores_parts = True
    means_of_some = True

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

    def normaliser(self, raw: Tensor) -> Tensor:
        return raw.chunk(self.n_outputs, -1)[0].logsumexp(-1, keepdim=True)

    def mean_of_some(
        self, raw: Tensor, library: Tensor, features: slice, normaliser: Tensor
    ) -> Tensor:
        return (raw - normaliser).exp() * library

    def _density(self, x: Tensor, log_mean: Tensor, *parameters: Tensor) -> Tensor:
        """Log-likelihood of counts x (B, D) given logarithms of their means (..., B, D).

        ``parameters``: the other outputs of the decoder, (..., B, D) each, and the noise, (D,) or
        (B, D).
        """
        raise NotImplementedError

    def _of_zeros(
        self, log_factor: Tensor, group: Tensor, log_mean: Tensor, *noise: Tensor
    ) -> Tensor:
        """Log-likelihood of zeros in all features of some cells, (n,).

        Their means are those of a group, (G, D), times a factor, (n,). ``noise``: (1, D) or (G, D).
        """
        raise NotImplementedError

    def _gain(self, count: Tensor, log_mean: Tensor, *parameters: Tensor) -> Tensor:
        """How much greater the log-likelihood of counts above 0 is than that of 0, (..., N)."""
        raise NotImplementedError

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, batch: Batch = None, cross_view: bool = False
    ) -> Tensor:
        raw, *others = raw.chunk(self.n_outputs, -1)  # (..., B, D) each
        noise = [self._of_cells(values, batch) for values in self.noise()]
        return self._density(x, raw.log_softmax(-1) + library.log(), *others, *noise)

    def total_of_parts(
        self, output: Parts, x: SparseRows, measured: Tensor, library: Tensor, batch: Batch
    ) -> Tensor:
        """Predicted features one by one; baselines together, as functions of the cell's factor."""
        log_factor = self._log_factor(output, library)  # (..., B, 1)
        noise = [values.index_select(-1, output.positions) for values in self.noise()]
        of_predicted = [self._of_cells(values, batch) for values in noise]
        counts = some_features(x, output.positions)
        total = self._density(counts, output.raw + log_factor, *of_predicted).sum(-1)

        cells = measured.squeeze(-1).nonzero().squeeze(1)  # (N,)
        group, baselines = output.groups[cells], output.baseline.index_select(-1, output.rest)
        of_rest = [
            values.index_select(-1, output.rest).view(-1, len(output.rest))
            for values in self.noise()
        ]
        if self.n_batches is not None:  # a group is of one batch
            batch_of_group = group.new_zeros(len(baselines))
            batch_of_group[group] = cast(Tensor, batch)[cells]
            of_rest = [values[batch_of_group] for values in of_rest]  # (G, D - P)
        total_of_rest = total_of_baselines(
            self._of_zeros,
            self._gain,
            [baselines, *of_rest],
            group,
            log_factor.squeeze(-1).index_select(-1, cells),
            entries_of(some_cells(x, cells), output.rest),
        )
        return torch.where(measured.squeeze(-1), total, 0.0).index_add(-1, cells, total_of_rest)

    def _log_factor(self, output: Parts, library: Tensor) -> Tensor:
        """By what the exponential of a raw parameter is multiplied to be a mean, (..., B, 1)."""
        of_rest = output.baseline.index_select(-1, output.rest).logsumexp(-1, keepdim=True)
        log_sum = output.raw.logsumexp(-1, keepdim=True).logaddexp(of_rest[output.groups])
        return library.log() - log_sum

    def read_mean(self, output: Parts, library: Tensor) -> ReadMean:
        if self.n_outputs > 1 or not len(output.rest):
            return super().read_mean(output, library)
        log_factor = self._log_factor(output, library)  # (B, 1)
        mix, rows = read_mean_of_baselines(
            output.baseline, output.positions, output.groups, log_factor.squeeze(-1)
        )
        return ReadMean(mix, rows, F.softplus(output.raw + log_factor), output.positions)


class Poisson(_Composition):
    """Counts whose variance is their mean."""

    name = "poisson"
    summary = "counts (Poisson)"
    scores_rows = True

    def constant(self, x: SparseRows, batch: Batch) -> Tensor:
        return x._replace(values=-torch.lgamma(x.values + 1)).sums().squeeze(1)

    def score_rows(
        self, raw: Tensor, rows: WeightedRows, by_noise: Sequence[Tensor] | None
    ) -> Tensor:
        return score_poisson_rows(raw, rows.x.entries, rows.library)

    def _density(self, x: Tensor, log_mean: Tensor, *parameters: Tensor) -> Tensor:
        return x * log_mean - log_mean.exp() - torch.lgamma(x + 1)

    def _of_zeros(
        self, log_factor: Tensor, group: Tensor, log_mean: Tensor, *noise: Tensor
    ) -> Tensor:
        return -(log_mean.logsumexp(1).index_select(0, group) + log_factor).exp()

    def _gain(self, count: Tensor, log_mean: Tensor, *parameters: Tensor) -> Tensor:
        return count * log_mean - torch.lgamma(count + 1)

    def sample(
        self, raw: Tensor, library: Tensor, batch: Batch = None, cross_view: bool = False
    ) -> Tensor:
        return distributions.Poisson(self.mean(raw, library)).sample()


class NegativeBinomial(_Composition):
    """Over-dispersed counts: variance mean + mean² / theta, one learned theta per feature."""

    name = "nb"
    summary = "counts (negative binomial)"
    inferred_rank: float | None = 1
    scores_rows = True

    def __init__(self, stats: FeatureStats, n_batches: int | None = None) -> None:
        super().__init__(stats, n_batches)
        self.log_theta = nn.Parameter(self._of_noise(torch.zeros(len(stats.mean))))

    def noise(self) -> tuple[Tensor, ...]:
        return (self.log_theta,)

    def dispersions(self) -> tuple[nn.Parameter, ...]:
        return (self.log_theta,)

    def constant(self, x: SparseRows, batch: Batch) -> Tensor:
        row, column, count = x.entries
        place = column
        if self.n_batches is not None:
            place = cast(Tensor, batch).index_select(0, row) * x.width + column
        ratio = log_gamma_ratio(count, self.log_theta.flatten().index_select(0, place))
        return ratio.new_zeros(x.n_rows).index_add(0, row, ratio)

    def score_rows(
        self, raw: Tensor, rows: WeightedRows, by_noise: Sequence[Tensor] | None
    ) -> Tensor:
        raw, *zero = raw.chunk(self.n_outputs, -1)  # (n, D) each; logits of zeros, if there are
        log_theta = self._of_cells(self.log_theta, rows.batch)
        total, by_log_theta = score_negative_binomial_rows(
            raw, rows.x.entries, rows.library, log_theta, *zero
        )
        if by_noise is not None:
            rows.add_weighted(by_noise[0], by_log_theta)
        return total

    def _density(self, x: Tensor, log_mean: Tensor, *parameters: Tensor) -> Tensor:
        (log_theta,) = parameters
        return negative_binomial_log_prob(x, log_mean - log_theta, log_theta)

    def _of_zeros(
        self, log_factor: Tensor, group: Tensor, log_mean: Tensor, *noise: Tensor
    ) -> Tensor:
        return zeros_of_negative_binomials(log_factor, group, log_mean, *noise)

    def _gain(self, count: Tensor, log_mean: Tensor, *parameters: Tensor) -> Tensor:
        (log_theta,) = parameters
        return log_gamma_ratio(count, log_theta) + count * F.logsigmoid(log_mean - log_theta)

    def sample(
        self, raw: Tensor, library: Tensor, batch: Batch = None, cross_view: bool = False
    ) -> Tensor:
        log_theta = self._of_cells(self.log_theta, batch)
        return _nb_sample(raw.log_softmax(-1) + (library.log() - log_theta), log_theta)


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
    scores_parts = False  # the likelihood of a zero is no smooth function of the mean
    n_outputs = 2

    def _density(self, x: Tensor, log_mean: Tensor, *parameters: Tensor) -> Tensor:
        zero, log_theta = parameters
        log_nb = super()._density(x, log_mean, log_theta)
        # log(pi + (1 - pi) NB(0)) where x is 0, log(1 - pi) + log NB(x) elsewhere
        return torch.where(x == 0, torch.logaddexp(zero, log_nb), log_nb) - F.softplus(zero)

    def mean_of_some(
        self, raw: Tensor, library: Tensor, features: slice, normaliser: Tensor
    ) -> Tensor:
        raw, zero = raw.chunk(2, -1)
        return (-zero).sigmoid() * super().mean_of_some(raw, library, features, normaliser)

    def sample(
        self, raw: Tensor, library: Tensor, batch: Batch = None, cross_view: bool = False
    ) -> Tensor:
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
    means_of_some = True

    def __init__(self, stats: FeatureStats, n_batches: int | None = None) -> None:
        super().__init__(stats, n_batches)
        self.log_theta = nn.Parameter(self._of_noise(torch.zeros(len(stats.mean))))
        self.log_background = nn.Parameter(_log_background(stats))

    @torch.no_grad()
    def set_stats(self, stats: FeatureStats) -> None:
        super().set_stats(stats)
        self.log_background.copy_(_log_background(stats))

    def dispersions(self) -> tuple[nn.Parameter, ...]:
        return (self.log_theta,)

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, batch: Batch = None, cross_view: bool = False
    ) -> Tensor:
        in_background = raw.chunk(2, -1)[1]  # (..., B, D)
        log_foreground = self.foreground_mean(raw).log()
        log_theta = self._of_cells(self.log_theta, batch)
        low = negative_binomial_log_prob(x, self.log_background - log_theta, log_theta)  # (B, D)
        high = negative_binomial_log_prob(x, log_foreground - log_theta, log_theta)  # (..., B, D)
        return torch.logaddexp(in_background + low, high) - F.softplus(in_background)

    def start(self) -> Tensor:
        # half of the cells in the background; softplus(r) is what that leaves to the others
        above = 2 * (self.mean_ / self.log_background.detach().exp() - 1).clamp(min=_LEAST_SHARE)
        return torch.cat([above + (-(-above).expm1()).log(), torch.zeros_like(above)])

    def foreground_mean(self, raw: Tensor, features: slice = slice(None)) -> Tensor:
        """Expected value of a count of some features that is not background, (..., B, d)."""
        return self.log_background[features].exp() * (1 + F.softplus(raw.chunk(2, -1)[0]))

    def mean_of_some(
        self, raw: Tensor, library: Tensor, features: slice, normaliser: Tensor
    ) -> Tensor:
        share, background = raw.chunk(2, -1)[1].sigmoid(), self.log_background[features].exp()
        return torch.lerp(self.foreground_mean(raw, features), background, share)

    def sample(
        self, raw: Tensor, library: Tensor, batch: Batch = None, cross_view: bool = False
    ) -> Tensor:
        is_background = distributions.Bernoulli(logits=raw.chunk(2, -1)[1]).sample().bool()
        log_foreground = self.foreground_mean(raw).log()
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
