"""Densities of the widest modalities, with gradients by hand: there, training is these.

Composed of torch's functions they take several times the arrays, each of cells by features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def bernoulli_log_prob(raw: Tensor, x: Tensor) -> Tensor:
    """Log-likelihood (..., B, D) of x (B, D), 0 or 1, given the logits of a 1."""
    return _BernoulliLogProb.apply(raw, x)


def negative_binomial_log_prob(x: Tensor, log_odds: Tensor, log_theta: Tensor) -> Tensor:
    """Log-likelihood (..., B, D) of counts.

    Parameters
    ----------
    x
        Counts, (B, D).
    log_odds
        Logarithm of mean / theta, (..., B, D) or (D,).
    log_theta
        Logarithm of the inverse dispersion theta, (D,) or (B, D).
    """
    shape = torch.broadcast_shapes(x.shape, log_odds.shape)
    return _NegativeBinomialLogProb.apply(x, log_odds.expand(shape), log_theta)


class _BernoulliLogProb(torch.autograd.Function):
    """x raw - log(1 + exp(raw)), with one array for the value and one for the gradient."""

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


class _NegativeBinomialLogProb(torch.autograd.Function):
    """log Γ(x + θ) / (Γ(θ) x!) + x log_odds - (x + θ) log(1 + odds).

    Most counts are zero, and of those only the last part is left: the rest is computed for the
    others alone.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_odds: Tensor, log_theta: Tensor) -> Tensor:
        theta = log_theta.exp()
        log_rest = F.logsigmoid(-log_odds)  # -log(1 + odds), (..., B, D)
        log_prob = log_rest * (x + theta)
        counted = (x > 0).flatten().nonzero().squeeze(1)  # positions (N,) of B * D
        place = counted % theta.numel()  # its feature, or its cell and feature
        (count,) = _at(counted, x)
        its_theta, its_gamma = _at(place, theta, torch.lgamma(theta))
        coefficient = torch.lgamma(count + its_theta) - its_gamma - torch.lgamma(count + 1)
        of_counts = coefficient + count * log_odds.flatten(-2).index_select(-1, counted)
        log_prob.flatten(-2).index_add_(-1, counted, of_counts)  # a view: log_prob is contiguous
        ctx.save_for_backward(x, log_rest, theta, counted, place)
        return log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        x, log_rest, theta, counted, place = ctx.saved_tensors
        its_theta, its_digamma = _at(place, theta, torch.digamma(theta))
        count, over_terms = _at(counted, x, gradient.sum_to_size(x.shape))
        of_gamma = torch.digamma(count + its_theta) - its_digamma
        of_theta = (gradient * log_rest).sum_to_size(theta.shape)
        of_theta.view(-1).index_add_(0, place, of_gamma * over_terms)
        # x - (x + theta) odds / (1 + odds)
        of_log_odds = log_rest.expm1().mul_(x + theta).add_(x).mul_(gradient)
        return None, of_log_odds, of_theta * theta


def _at(positions: Tensor, *arrays: Tensor) -> tuple[Tensor, ...]:
    """Entries of arrays at positions in their flattened order; faster than by square brackets."""
    return tuple(array.flatten().index_select(0, positions) for array in arrays)
