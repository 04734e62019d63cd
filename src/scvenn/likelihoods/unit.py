"""Likelihoods of values from 0 to 1: binary ones and fractions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import logit
from torch import Tensor, distributions, nn

from scvenn.likelihoods.base import DIFFERENCE_OF_FRACTIONS, Batch, FeatureStats, Likelihood
from scvenn.likelihoods.baselines import ReadMean
from scvenn.likelihoods.densities import bernoulli_log_prob, score_bernoulli_rows
from scvenn.likelihoods.last_layer import WeightedRows
from scvenn.likelihoods.outputs import Parts
from scvenn.likelihoods.rows import SparseRows, entries_of, some_features

# Fractions and shares of ones are read no closer to 0 and 1 than this: a logit of 7, an M-value of
# 10, is beyond what arrays measure.
_EDGE = 1e-3
# Where a precision may start: moments of a feature that hardly varies give any number.
_PRECISIONS = (0.1, 1e4)


class Bernoulli(Likelihood):
    """0/1 values: the decoder's output is the logit of a 1."""

    name = "bernoulli"
    summary = "0 and 1, such as open or closed (Bernoulli)"
    domain = "0 or 1"
    allows_missing = True
    inferred_rank = 0
    discrete = True
    binary = True
    scores_parts = True
    reads_sparse = True
    scores_rows = True
    means_of_some = True
    effect = DIFFERENCE_OF_FRACTIONS
    sparse_on_regression_scale = True
    squares_inform = False

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

    def score_rows(
        self, raw: Tensor, rows: WeightedRows, by_noise: Sequence[Tensor] | None
    ) -> Tensor:
        return score_bernoulli_rows(raw, rows.x.entries)

    def total_of_parts(
        self, output: Parts, x: SparseRows, measured: Tensor, library: Tensor, batch: Batch
    ) -> Tensor:
        """Baselines are the same for all cells of a group, and ones are looked at one by one."""
        baseline = output.baseline.index_select(-1, output.rest)  # (G, D - P)
        of_zeros = -F.softplus(baseline).sum(-1)  # of cells without a one, (G,)
        row, column, _ = entries_of(x, output.rest)
        place = output.groups.index_select(0, row) * baseline.shape[1] + column
        of_ones = baseline.flatten().index_select(0, place)
        of_rest = of_zeros[output.groups].index_add(0, row, of_ones)  # (B,)
        of_predicted = self.total(output.raw, some_features(x, output.positions), measured, library)
        return of_predicted + torch.where(measured.squeeze(-1), of_rest, 0.0)

    def read_mean(self, output: Parts, library: Tensor) -> ReadMean:
        rows, group = output.baseline.sigmoid(), output.groups  # (G, D)
        mix = F.one_hot(group, len(rows)).to(rows.dtype)  # (B, G)
        added = output.raw.sigmoid() - rows[:, output.positions][group]
        return ReadMean(mix, rows, added, output.positions)

    def mean_of_some(
        self, raw: Tensor, library: Tensor, features: slice, normaliser: Tensor
    ) -> Tensor:
        return raw.sigmoid()

    def sample(
        self, raw: Tensor, library: Tensor, batch: Batch = None, cross_view: bool = False
    ) -> Tensor:
        return distributions.Bernoulli(logits=raw).sample()


class Beta(Likelihood):
    r"""Fractions, such as of methylated reads: :math:`\mathrm{Beta}(\phi_j \mu, \phi_j (1 - \mu))`.

    The decoder's output is the logit of the mean :math:`\mu`; a precision :math:`\phi_j` is learned
    for each feature (Ferrari & Cribari-Neto, J Appl Stat 2004). Values may be anything from 0 to 1,
    both included. At these two the density is 0 or infinite: ``log_prob`` moves values to
    0.001 or 0.999 that are closer to them.
    """

    name = "beta"
    summary = "fractions between 0 and 1, such as of methylated reads (beta)"
    domain = "fractions between 0 and 1"
    allows_missing = True
    means_of_some = True
    effect = DIFFERENCE_OF_FRACTIONS

    def __init__(self, stats: FeatureStats, n_batches: int | None = None) -> None:
        super().__init__(stats, n_batches)
        self.log_precision = nn.Parameter(self._of_noise(_log_precision(stats)))

    @torch.no_grad()
    def set_stats(self, stats: FeatureStats) -> None:
        super().set_stats(stats)
        self.log_precision.copy_(self._of_noise(_log_precision(stats)))

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

    def _regression_scale(self, values: np.ndarray, library: np.ndarray) -> np.ndarray:
        # M-values but for a factor; that of a fraction of 0 is not 0
        return logit(values.astype(np.float64).clip(_EDGE, 1 - _EDGE))

    def scaled_mean(self, raw: Tensor) -> Tensor:
        return super().scaled_mean(raw).logit(_EDGE)

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

    def mean_of_some(
        self, raw: Tensor, library: Tensor, features: slice, normaliser: Tensor
    ) -> Tensor:
        return raw.sigmoid()

    def sample(
        self, raw: Tensor, library: Tensor, batch: Batch = None, cross_view: bool = False
    ) -> Tensor:
        mean = raw.sigmoid().clamp(_EDGE, 1 - _EDGE)
        precision = self._of_cells(self.log_precision, batch).exp()
        return distributions.Beta(precision * mean, precision * (1 - mean)).sample()


def _log_precision(stats: FeatureStats) -> Tensor:
    """Where the logarithm of the precision starts, (D,)."""
    # the moments without any prediction: variance = mean (1 - mean) / (1 + precision)
    mean = np.clip(stats.mean, _EDGE, 1 - _EDGE)
    precision = np.clip(mean * (1 - mean) / np.square(stats.scale) - 1, *_PRECISIONS)
    return torch.as_tensor(np.log(precision), dtype=torch.float32)
