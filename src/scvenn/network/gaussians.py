"""Diagonal Gaussians: products, mixtures, samples and KL."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """A diagonal Gaussian."""

    loc: Float[Tensor, "*batch K"]
    var: Float[Tensor, "*batch K"]


@dataclass(frozen=True)
class Sampled:
    """A latent as training uses it: its posterior, one sample of it, and its KL in nats."""

    posterior: Gaussian
    z: Float[Tensor, "*batch K"]
    kl: Float[Tensor, "*batch"]


def product_of_experts(
    experts: Gaussian, observed: Bool[Tensor, "*S E B"], *, prior_expert: bool = False
) -> Gaussian:
    r"""Multiply Gaussians, leaving out those that were not observed.

    .. math:: \sigma^{-2} = \sum_e \sigma_e^{-2}, \qquad
              \mu = \sigma^2 \sum_e \sigma_e^{-2} \mu_e

    Parameters
    ----------
    experts
        The factors, ``loc`` and ``var`` of shape (E, B, K).
    observed
        Boolean, (..., E, B); with leading dimensions, a product for each of several selections of
        the experts. An expert that is not observed has precision zero.
    prior_expert
        Whether N(0, I) is one more factor. A product without any factor is N(0, I) as well.

    Returns
    -------
    The products, of shape (..., B, K).
    """
    present = observed.unsqueeze(-1)  # (..., E, B, 1)
    precision = torch.where(present, 1.0 / experts.var, 0.0)  # (..., E, B, K)
    weighted = torch.where(present, experts.loc, 0.0) * precision
    prior = 1.0 if prior_expert else (~present.any(-3)).to(precision.dtype)  # (..., B, 1)
    var = 1.0 / (precision.sum(-3) + prior)  # (..., B, K)
    return Gaussian(var * weighted.sum(-3), var)


def mixture_of_experts(
    experts: Gaussian, observed: Bool[Tensor, "E B"], weights: Float[Tensor, " E"]
) -> Gaussian:
    r"""Mean and variance of the mixture of those Gaussians that were observed.

    .. math:: \mu = \sum_e w_e \mu_e, \qquad
              \sigma^2 = \sum_e w_e \left[ \sigma_e^2 + (\mu_e - \mu)^2 \right]

    Parameters
    ----------
    experts
        The components, ``loc`` and ``var`` of shape (E, B, K).
    observed
        Boolean, (E, B).
    weights
        Of the components, above 0, (E,); of those observed, they are scaled to a sum of 1.

    Returns
    -------
    The Gaussian with the mixture's mean and variance, of shape (B, K); N(0, I) without a component.
    """
    present = observed.unsqueeze(-1)  # (E, B, 1)
    share = present * weights[:, None, None]  # (E, B, 1)
    empty = ~present.any(0)  # (B, 1)
    share = share / torch.where(empty, 1.0, share.sum(0))
    each_loc = torch.where(present, experts.loc, 0.0)  # (E, B, K)
    loc = (share * each_loc).sum(0)  # (B, K)
    each_var = torch.where(present, experts.var, 0.0) + (each_loc - loc).square()
    return Gaussian(loc, torch.where(empty, 1.0, (share * each_var).sum(0)))


def kl_to_standard_normal(gaussian: Gaussian) -> Float[Tensor, "*batch"]:
    r"""KL from N(0, I), summed over the K dimensions.

    .. math:: \tfrac12 \sum_k \left( \sigma_k^2 + \mu_k^2 - 1 - \log \sigma_k^2 \right)

    Returns
    -------
    Nats, of shape (...).
    """
    loc, var = gaussian.loc, gaussian.var
    return 0.5 * (var + loc.square() - 1.0 - var.log()).sum(-1)


def rsample(gaussian: Gaussian) -> Float[Tensor, "*batch K"]:
    """Draw one sample through which gradients flow, (..., K)."""
    return gaussian.loc + gaussian.var.sqrt() * torch.randn_like(gaussian.loc)


def sample_each(*posteriors: Gaussian) -> list[Sampled]:
    """Draw one sample of each of several latents, with the KL of its posterior."""
    return [Sampled(q, rsample(q), kl_to_standard_normal(q)) for q in posteriors]
