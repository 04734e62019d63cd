"""How a modality's values are distributed given its decoder's output.

A likelihood knows the scale of the data (it standardises, it multiplies by the library size) and
nothing of objectives. ``LIKELIHOODS`` is the one table of them.

Shapes: ``B`` cells, ``D`` features; a decoder's output may have leading dimensions, (..., B, D).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "FeatureStats",
    "Likelihood",
    "NegativeBinomial",
    "Normal",
    "Poisson",
]


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

    def linear_scale(self, values: np.ndarray, library: np.ndarray) -> np.ndarray:
        """Values on which linear regression makes sense: logarithms of normalised counts.

        Parameters
        ----------
        values
            Some features, (B, D); NaN where not observed.
        library
            Sum over all features of each cell, (B, 1).
        """
        return values

    def log_prob(self, raw: Tensor, x: Tensor, library: Tensor) -> Tensor:
        """Log-likelihood of each value, in nats.

        Parameters
        ----------
        raw
            Output of the decoder, (..., B, D).
        x
            Values, (B, D), without NaN.
        library
            Sum of each cell's values, (B, 1); used by likelihoods of counts.

        Returns
        -------
        Shape (..., B, D).
        """
        raise NotImplementedError

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        """Expected value on the scale of the data, (..., B, D)."""
        raise NotImplementedError


class Normal(Likelihood):
    r"""Real values: :math:`N(\mu_j, \sigma_j^2)` of the standardised value of feature j.

    :math:`\sigma_j = \mathrm{softplus}(r_j)`, with :math:`r_j = -1` at the start, is learned for
    each feature (as in the paper's code). The log-likelihood is that of the standardised value.
    """

    name = "normal"
    domain = "real numbers"
    allows_missing = True

    def __init__(self, stats: FeatureStats) -> None:
        super().__init__(stats)
        self.raw_scale = nn.Parameter(torch.full((len(stats.mean),), -1.0))

    @staticmethod
    def in_domain(values: np.ndarray) -> np.ndarray:
        return np.ones(values.shape, dtype=bool)

    def encoder_input(self, x: Tensor) -> Tensor:
        return (x - self.mean_) / self.scale_

    def log_prob(self, raw: Tensor, x: Tensor, library: Tensor) -> Tensor:
        scale = F.softplus(self.raw_scale)
        residual = (self.encoder_input(x) - raw) / scale
        return -0.5 * residual.square() - (scale.log() + 0.5 * math.log(2 * math.pi))

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        return raw * self.scale_ + self.mean_


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

    def log_prob(self, raw: Tensor, x: Tensor, library: Tensor) -> Tensor:
        return _BernoulliLogProb.apply(raw, x)

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        return raw.sigmoid()


class _BernoulliLogProb(torch.autograd.Function):
    """x raw - log(1 + exp(raw)), with one array for the value and one for the gradient.

    Peaks are the widest modality; composed of torch's functions, this takes five arrays of their
    size, and on CPU the time goes into memory.
    """

    @staticmethod
    def forward(ctx: Any, raw: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(raw, x)
        return F.softplus(raw).neg_().addcmul_(raw, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        raw, x = ctx.saved_tensors
        residual = raw.sigmoid()
        torch.sub(x, residual, out=residual)
        return residual.mul_(gradient), None


class _Counts(Likelihood):
    """Counts whose mean is the cell's library size times a softmax over the features."""

    domain = "non-negative integers"
    # A missing count would make the library size, and with it every mean of the cell, unknown.
    allows_missing = False

    @staticmethod
    def in_domain(values: np.ndarray) -> np.ndarray:
        return (values >= 0) & (values == np.floor(values))

    def encoder_input(self, x: Tensor) -> Tensor:
        return x.log1p()

    def linear_scale(self, values: np.ndarray, library: np.ndarray) -> np.ndarray:
        return np.log1p(values * (self.library_.item() / np.maximum(library, 1)))

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        return raw.softmax(-1) * library


class Poisson(_Counts):
    """Counts whose variance is their mean."""

    name = "poisson"

    def log_prob(self, raw: Tensor, x: Tensor, library: Tensor) -> Tensor:
        log_mean = raw.log_softmax(-1) + library.log()
        return x * log_mean - log_mean.exp() - torch.lgamma(x + 1)


class NegativeBinomial(_Counts):
    """Over-dispersed counts: variance mean + mean² / theta, one learned theta per feature."""

    name = "nb"

    def __init__(self, stats: FeatureStats) -> None:
        super().__init__(stats)
        self.log_theta = nn.Parameter(torch.zeros(len(stats.mean)))

    def log_prob(self, raw: Tensor, x: Tensor, library: Tensor) -> Tensor:
        # what does not depend on raw is (B, D), and not repeated for the terms of (..., B, D)
        theta = self.log_theta.exp()
        total = x + theta
        coefficient = torch.lgamma(total) - torch.lgamma(theta) - torch.lgamma(x + 1)
        log_odds = raw.log_softmax(-1) + (library.log() - self.log_theta)  # of mean to theta
        # coefficient + x log_odds - total log(1 + odds), with fewer arrays in between
        log_prob = torch.addcmul(coefficient, x, log_odds)
        return torch.addcmul(log_prob, total, F.softplus(log_odds), value=-1)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    cls.name: cls for cls in (Normal, Bernoulli, Poisson, NegativeBinomial)
}
