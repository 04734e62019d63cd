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


# How far the cross-view variance moves towards that of a minibatch, and its least value (of
# standardised data).
_STEP_OF_VARIANCE = 0.1
_MIN_VARIANCE = 1e-4


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
        """Values on which linear regression makes sense: logarithms of normalised counts.

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

    def linear_scale(self, values: Any, library: np.ndarray) -> Any:
        factor = self.library_.item() / np.maximum(library, 1)  # (B, 1)
        if sp.issparse(values):
            return sp.csr_matrix(values.multiply(factor)).log1p()
        return np.log1p(values * factor)

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        return raw.softmax(-1) * library


class Poisson(_Counts):
    """Counts whose variance is their mean."""

    name = "poisson"

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, *, cross_view: bool = False
    ) -> Tensor:
        log_mean = raw.log_softmax(-1) + library.log()
        return x * log_mean - log_mean.exp() - torch.lgamma(x + 1)


class NegativeBinomial(_Counts):
    """Over-dispersed counts: variance mean + mean² / theta, one learned theta per feature."""

    name = "nb"

    def __init__(self, stats: FeatureStats) -> None:
        super().__init__(stats)
        self.log_theta = nn.Parameter(torch.zeros(len(stats.mean)))

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, *, cross_view: bool = False
    ) -> Tensor:
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
