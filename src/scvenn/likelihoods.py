"""How a modality's values are distributed given its decoder's output.

A likelihood knows the scale of the data (it standardises, it multiplies by the library size) and
nothing of objectives. ``LIKELIHOODS`` is the one table of them.

Shapes: ``B`` cells, ``D`` features. A decoder gives ``n_outputs`` raw parameters for each feature,
those of one kind side by side, and may have leading dimensions: (..., B, n_outputs * D).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from scipy.special import logit
from torch import Tensor, distributions, nn

from scvenn._densities import bernoulli_log_prob, negative_binomial_log_prob

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

# Fractions are read no closer to 0 and 1 than this: a logit of 7, an M-value of 10, is beyond what
# arrays measure.
_EDGE = 1e-3
# Where a precision may start: moments of a feature that hardly varies give any number.
_PRECISIONS = (0.1, 1e4)

# Counts per cell that a background starts with at least; the logarithm needs some.
_LEAST_BACKGROUND = 0.1


@dataclass(frozen=True)
class FeatureStats:
    """What a likelihood needs to know of its modality's observed values.

    Parameters
    ----------
    mean
        Mean of each feature, (D,).
    scale
        Standard deviation of each feature, 1 where it is constant, (D,).
    library
        Median over cells of a cell's sum of values; above 0.
    """

    mean: np.ndarray
    scale: np.ndarray
    library: float


class Likelihood(nn.Module):
    """A distribution of the values of one modality.

    Parameters
    ----------
    stats
        Summary of the training data.
    """

    name: str
    domain: str
    allows_missing: bool
    of_counts: bool = False  # means are compared by their ratio, not by their difference
    n_outputs: int = 1
    mean_: Tensor
    scale_: Tensor
    library_: Tensor

    def __init__(self, stats: FeatureStats) -> None:
        super().__init__()
        self.register_buffer("mean_", torch.as_tensor(stats.mean, dtype=torch.float32))
        self.register_buffer("scale_", torch.as_tensor(stats.scale, dtype=torch.float32))
        self.register_buffer("library_", torch.tensor(float(stats.library)))

    @staticmethod
    def in_domain(values: np.ndarray) -> np.ndarray:
        """Which of these (finite) values the distribution can produce, element by element."""
        raise NotImplementedError

    def encoder_input(self, x: Tensor) -> Tensor:
        """Values as the encoder reads them, same shape as ``x``."""
        raise NotImplementedError

    def linear_scale(self, values: Any, library: np.ndarray) -> Any:
        """Values on which linear regression makes sense, such as logarithms of counts.

        Parameters
        ----------
        values
            Some features, (B, D), an array or sparse; NaN where not observed.
        library
            Sum over all features of each cell, (B, 1).
        """
        return values

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, *, cross_view: bool = False
    ) -> Tensor:
        """Log-likelihood of each value, in nats.

        Parameters
        ----------
        raw
            Output of the decoder, (..., B, n_outputs * D).
        x
            Values, (B, D), without NaN.
        library
            Sum of each cell's values, (B, 1); used by likelihoods of counts.
        cross_view
            Whether this is a prediction from other modalities with a noise of its own; only
            ``"normal"`` tells the two apart.

        Returns
        -------
        Shape (..., B, D).
        """
        raise NotImplementedError

    def follow_cross_view(self, raw: Tensor, x: Tensor, measured: Tensor) -> None:
        """Learn from a minibatch by how much cross-view predictions miss.

        Parameters
        ----------
        raw
            Outputs of the cross-view decoder, (T, B, n_outputs * D).
        x
            Values, (B, D), without NaN.
        measured
            Which values count; boolean, (B, D) or (B, 1).
        """

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        """Expected value on the scale of the data, (..., B, D)."""
        raise NotImplementedError

    def sample(self, raw: Tensor, library: Tensor) -> Tensor:
        """Draw at random what :meth:`log_prob` describes, on the scale of the data.

        Each entry is drawn by itself, without gradient. ``raw`` holds no NaN.

        Returns
        -------
        Shape (..., B, D).
        """
        raise NotImplementedError


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

    def __init__(self, stats: FeatureStats) -> None:
        super().__init__(stats)
        self.raw_scale = nn.Parameter(torch.full((len(stats.mean),), -1.0))
        # 1 is what standardised values have without any prediction
        self.register_buffer("cross_view_variance", torch.ones(len(stats.mean)))

    @staticmethod
    def in_domain(values: np.ndarray) -> np.ndarray:
        return np.ones(values.shape, dtype=bool)

    def encoder_input(self, x: Tensor) -> Tensor:
        return (x - self.mean_) / self.scale_

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, *, cross_view: bool = False
    ) -> Tensor:
        scale = self.cross_view_variance.sqrt() if cross_view else F.softplus(self.raw_scale)
        residual = (self.encoder_input(x) - raw) / scale
        return -0.5 * residual.square() - (scale.log() + 0.5 * math.log(2 * math.pi))

    @torch.no_grad()
    def follow_cross_view(self, raw: Tensor, x: Tensor, measured: Tensor) -> None:
        square = (self.encoder_input(x) - raw).square() * measured  # (T, B, D)
        n_measured = (measured.sum(0) * len(raw)).clamp(min=1)  # (D,) or (1,)
        found = square.sum((0, 1)) / n_measured
        seen = measured.any(0)
        step = torch.where(seen, _STEP_OF_VARIANCE, 0.0)
        self.cross_view_variance.lerp_(found, step).clamp_(min=_MIN_VARIANCE)

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        return raw * self.scale_ + self.mean_

    def sample(self, raw: Tensor, library: Tensor) -> Tensor:
        noisy = distributions.Normal(raw, F.softplus(self.raw_scale)).sample()
        return self.mean(noisy, library)


class Bernoulli(Likelihood):
    """0/1 values: the decoder's output is the logit of a 1."""

    name = "bernoulli"
    domain = "0 or 1"
    allows_missing = True

    @staticmethod
    def in_domain(values: np.ndarray) -> np.ndarray:
        return (values == 0) | (values == 1)

    def encoder_input(self, x: Tensor) -> Tensor:
        return x

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, *, cross_view: bool = False
    ) -> Tensor:
        return bernoulli_log_prob(raw, x)

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        return raw.sigmoid()

    def sample(self, raw: Tensor, library: Tensor) -> Tensor:
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

    def __init__(self, stats: FeatureStats) -> None:
        super().__init__(stats)
        # what the moments say without any prediction: variance = mean (1 - mean) / (1 + precision)
        mean = np.clip(stats.mean, _EDGE, 1 - _EDGE)
        precision = np.clip(mean * (1 - mean) / np.square(stats.scale) - 1, *_PRECISIONS)
        self.log_precision = nn.Parameter(torch.as_tensor(np.log(precision), dtype=torch.float32))

    @staticmethod
    def in_domain(values: np.ndarray) -> np.ndarray:
        return (values >= 0) & (values <= 1)

    def encoder_input(self, x: Tensor) -> Tensor:
        # Differences near 0 and 1 count as they do for the decoder, on logits. Their standard
        # deviation is about scale / (mean (1 - mean)), the first term of a Taylor series; without
        # it, features that hardly vary would hardly be read.
        mean = self.mean_.clamp(_EDGE, 1 - _EDGE)
        return (x.logit(_EDGE) - mean.logit()) * (mean * (1 - mean) / self.scale_)

    def linear_scale(self, values: Any, library: np.ndarray) -> Any:
        # M-values but for a factor; of a fraction of 0 that is not 0, and nothing stays sparse
        dense = values.toarray() if sp.issparse(values) else values
        return logit(np.clip(dense, _EDGE, 1 - _EDGE))

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, *, cross_view: bool = False
    ) -> Tensor:
        # with lgamma(a) = lgamma(1 + a) - log(a), gradients are finite however close a is to 0
        x, precision = x.clamp(_EDGE, 1 - _EDGE), self.log_precision.exp()
        constant = torch.lgamma(1 + precision) + self.log_precision  # (D,)
        constant = constant + (precision - 1) * (-x).log1p() - x.log()  # (B, D)
        a = precision * raw.sigmoid()  # (..., B, D)
        log_prob = torch.addcmul(constant, a, x.logit()) + F.logsigmoid(raw) + F.logsigmoid(-raw)
        return log_prob - torch.lgamma(1 + a) - torch.lgamma(1 + precision - a)

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        return raw.sigmoid()

    def sample(self, raw: Tensor, library: Tensor) -> Tensor:
        mean, precision = raw.sigmoid().clamp(_EDGE, 1 - _EDGE), self.log_precision.exp()
        return distributions.Beta(precision * mean, precision * (1 - mean)).sample()


class _Counts(Likelihood):
    """Counts, whatever their mean."""

    domain = "non-negative integers"
    of_counts = True

    @staticmethod
    def in_domain(values: np.ndarray) -> np.ndarray:
        return (values >= 0) & (values == np.floor(values))

    def encoder_input(self, x: Tensor) -> Tensor:
        return x.log1p()

    def linear_scale(self, values: Any, library: np.ndarray) -> Any:
        return values.log1p() if sp.issparse(values) else np.log1p(values)


class _Composition(_Counts):
    """Counts whose mean is the cell's library size times a softmax over the features."""

    # A missing count would make the library size, and with it every mean of the cell, unknown.
    allows_missing = False

    def linear_scale(self, values: Any, library: np.ndarray) -> Any:
        factor = self.library_.item() / np.maximum(library, 1)  # (B, 1)
        if sp.issparse(values):
            return super().linear_scale(sp.csr_matrix(values.multiply(factor)), library)
        return super().linear_scale(values * factor, library)

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        return raw.softmax(-1) * library


class Poisson(_Composition):
    """Counts whose variance is their mean."""

    name = "poisson"

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, *, cross_view: bool = False
    ) -> Tensor:
        log_mean = raw.log_softmax(-1) + library.log()
        return x * log_mean - log_mean.exp() - torch.lgamma(x + 1)

    def sample(self, raw: Tensor, library: Tensor) -> Tensor:
        return distributions.Poisson(self.mean(raw, library)).sample()


class NegativeBinomial(_Composition):
    """Over-dispersed counts: variance mean + mean² / theta, one learned theta per feature."""

    name = "nb"

    def __init__(self, stats: FeatureStats) -> None:
        super().__init__(stats)
        self.log_theta = nn.Parameter(torch.zeros(len(stats.mean)))

    def _log_odds(self, raw: Tensor, library: Tensor) -> Tensor:
        """Logarithm of mean / theta, (..., B, D)."""
        return raw.log_softmax(-1) + (library.log() - self.log_theta)

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, *, cross_view: bool = False
    ) -> Tensor:
        return negative_binomial_log_prob(x, self._log_odds(raw, library), self.log_theta)

    def sample(self, raw: Tensor, library: Tensor) -> Tensor:
        return _nb_sample(self._log_odds(raw, library), self.log_theta)


def _nb_sample(log_odds: Tensor, log_theta: Tensor) -> Tensor:
    return distributions.NegativeBinomial(log_theta.exp(), logits=log_odds).sample()


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    r"""Counts with zeros of another origin: :math:`\pi \delta_0 + (1 - \pi)\, \mathrm{NB}`.

    The negative binomial is that of :class:`NegativeBinomial`; the logit of :math:`\pi` is the
    decoder's second output for each cell and feature (Lopez et al., Nat Methods 2018). The mean is
    :math:`1 - \pi` of the negative binomial's.
    """

    name = "zinb"
    n_outputs = 2

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, *, cross_view: bool = False
    ) -> Tensor:
        raw, zero = raw.chunk(2, -1)  # (..., B, D) each
        log_nb = super().log_prob(raw, x, library)
        # log(pi + (1 - pi) NB(0)) where x is 0, log(1 - pi) + log NB(x) elsewhere
        return torch.where(x == 0, torch.logaddexp(zero, log_nb), log_nb) - F.softplus(zero)

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        raw, zero = raw.chunk(2, -1)
        return (-zero).sigmoid() * super().mean(raw, library)

    def sample(self, raw: Tensor, library: Tensor) -> Tensor:
        raw, zero = raw.chunk(2, -1)
        return distributions.Bernoulli(logits=-zero).sample() * super().sample(raw, library)


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
    n_outputs = 2
    allows_missing = True  # no library size that it could spoil

    def __init__(self, stats: FeatureStats) -> None:
        super().__init__(stats)
        self.log_theta = nn.Parameter(torch.zeros(len(stats.mean)))
        # One standard deviation below the median of the log-normal with this mean and scale. On
        # the scale of counts, the few bright cells of a marker make mean - scale negative.
        mean = np.maximum(stats.mean, _LEAST_BACKGROUND)
        log_variance = np.log1p(np.square(stats.scale / mean))
        low = np.log(mean) - log_variance / 2 - np.sqrt(log_variance)
        low = np.maximum(low, math.log(_LEAST_BACKGROUND))
        self.log_background = nn.Parameter(torch.as_tensor(low, dtype=torch.float32))

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, *, cross_view: bool = False
    ) -> Tensor:
        in_background = raw.chunk(2, -1)[1]  # (..., B, D)
        log_foreground = self.foreground_mean(raw, library).log()
        low = negative_binomial_log_prob(
            x, self.log_background - self.log_theta, self.log_theta
        )  # (B, D)
        high = negative_binomial_log_prob(
            x, log_foreground - self.log_theta, self.log_theta
        )  # (..., B, D)
        return torch.logaddexp(in_background + low, high) - F.softplus(in_background)

    def foreground_mean(self, raw: Tensor, library: Tensor) -> Tensor:
        """Expected value of a count that is not background, (..., B, D)."""
        return self.log_background.exp() * (1 + F.softplus(raw.chunk(2, -1)[0]))

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        share = raw.chunk(2, -1)[1].sigmoid()
        return torch.lerp(self.foreground_mean(raw, library), self.log_background.exp(), share)

    def sample(self, raw: Tensor, library: Tensor) -> Tensor:
        is_background = distributions.Bernoulli(logits=raw.chunk(2, -1)[1]).sample().bool()
        log_foreground = self.foreground_mean(raw, library).log()
        log_mean = torch.where(is_background, self.log_background, log_foreground)
        return _nb_sample(log_mean - self.log_theta, self.log_theta)


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
