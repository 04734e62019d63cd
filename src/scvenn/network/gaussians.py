"""Diagonal Gaussians: what the objectives need of them, and no more."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """A diagonal Gaussian; ``loc`` and ``var`` have the same shape (..., K)."""

    loc: Tensor
    var: Tensor


def product_of_experts(
    experts: Gaussian, observed: Tensor, *, prior_expert: bool = False
) -> Gaussian:
    r"""Multiply Gaussians, leaving out those that were not observed.

    .. math:: \sigma^{-2} = \sum_e \sigma_e^{-2}, \qquad
              \mu = \sigma^2 \sum_e \sigma_e^{-2} \mu_e

    Parameters
    ----------
    experts
        The factors, ``loc`` and ``var`` of shape (E, B, K).
    observed
        Boolean, (E, B). An expert that is not observed has precision zero.
    prior_expert
        Whether N(0, I) is one more factor. A product without any factor is N(0, I) as well.

    Returns
    -------
    The product, of shape (B, K).
    """
    present = observed.unsqueeze(-1)  # (E, B, 1)
    precision = torch.where(present, 1.0 / experts.var, 0.0)  # (E, B, K)
    weighted = torch.where(present, experts.loc, 0.0) * precision
    prior = 1.0 if prior_expert else (~observed.any(0)).to(precision.dtype).unsqueeze(-1)
    var = 1.0 / (precision.sum(0) + prior)  # (B, K)
    return Gaussian(var * weighted.sum(0), var)


def mean_of_experts(values: Tensor, observed: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the observed experts' values, (B, K); 0 where there is none.

    Parameters
    ----------
    values
        One of each expert, such as its mean, (E, B, K).
    observed
        Boolean, (E, B).
    weights
        Of the experts, above 0, (E,).
    """
    share = (observed * weights.unsqueeze(-1)).unsqueeze(-1)  # (E, B, 1)
    total = (share * torch.where(observed.unsqueeze(-1), values, 0.0)).sum(0)
    return total / torch.where(observed.any(0).unsqueeze(-1), share.sum(0), 1.0)


def kl_to_standard_normal(gaussian: Gaussian) -> Tensor:
    r"""KL from N(0, I), summed over the K dimensions.

    .. math:: \tfrac12 \sum_k \left( \sigma_k^2 + \mu_k^2 - 1 - \log \sigma_k^2 \right)

    Returns
    -------
    Nats, of shape (...).
    """
    loc, var = gaussian
    return 0.5 * (var + loc.square() - 1.0 - var.log()).sum(-1)


def rsample(gaussian: Gaussian) -> Tensor:
    """Draw one sample through which gradients flow, (..., K)."""
    loc, var = gaussian
    return loc + var.sqrt() * torch.randn_like(loc)
