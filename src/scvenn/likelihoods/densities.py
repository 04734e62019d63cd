"""Densities of the widest modalities, with gradients by hand: there, training is these.

Composed of torch's functions they take several times the arrays, each of cells by features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from scvenn.likelihoods.rows import ENTRIES_IN_CACHE, Entries

# Beyond it, log(1 + odds) is the logarithm of the odds; the square is still finite.
_LARGEST_ODDS = 1e18


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


def score_bernoulli_rows(raw: Tensor, ones: Entries) -> Tensor:
    """Log-likelihood of rows (n,) of 0/1 values; the logits ``raw`` (n, D) become their gradients.

    ``ones``: row, column and value of what is not 0.
    """
    row, column, _ = ones
    flat, place = raw.view(-1), row * raw.shape[1] + column
    total = raw.new_zeros(len(raw)).index_add_(0, row, flat.index_select(0, place))
    probability = raw.sigmoid()
    # log(1 + exp(raw)) is raw where that is positive, and -log of the larger probability
    total -= raw.clamp_(min=0).sum(1)
    torch.sub(1, probability, out=raw)
    total += torch.maximum(raw, probability, out=raw).log_().sum(1)
    torch.neg(probability, out=raw)
    flat.index_add_(0, place, raw.new_ones(1).expand(len(place)))
    return total


def log_gamma_ratio(count: Tensor, log_theta: Tensor) -> Tensor:
    """Logarithm of Γ(x + θ) / (Γ(θ) x!) of counts x above 0 and log θ, (N,) each.

    Most counts are 1, and for these it is log θ.
    """
    more = (count > 1).nonzero().squeeze(1)
    x, its_log_theta = count.index_select(0, more), log_theta.index_select(0, more)
    theta = its_log_theta.exp()
    ratio = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return log_theta.index_copy(0, more, ratio)


def score_poisson_rows(raw: Tensor, counts: Entries, library: Tensor) -> Tensor:
    """Log-likelihood of rows of counts, (n,), but for log x!; see below for the parameters."""
    row, column, count = counts
    place = row * raw.shape[1] + column
    raw -= raw.logsumexp(1, keepdim=True)
    log_library = library.log().squeeze(1)
    its_log_mean = raw.view(-1).index_select(0, place) + log_library.index_select(0, row)
    total = -library.squeeze(1)
    total.index_add_(0, row, its_log_mean.mul_(count))
    sums = library.new_zeros(len(raw)).index_add_(0, row, count)
    raw.exp_().mul_(-sums.unsqueeze(1))
    raw.view(-1).index_add_(0, place, count)
    return total


def score_negative_binomial_rows(
    raw: Tensor,
    counts: Entries,
    library: Tensor,
    log_theta: Tensor,
    zero: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-likelihood of rows of counts whose means are a library times a softmax.

    That is but for :func:`log_gamma_ratio`, which does not depend on the means.

    Parameters
    ----------
    raw
        Inputs of the softmax, (n, D); they become the gradients by them.
    counts
        Row, column and value of the counts that are not 0.
    library
        Each cell's library size, (n, 1).
    log_theta
        Logarithm of the inverse dispersion, (D,) or (n, D).
    zero
        Logits of zeros of another origin, (n, D); they become the gradients by them.

    Returns
    -------
    The log-likelihoods, (n,), and their gradients by ``log_theta``, (n, D).
    """
    row, column, count = counts
    place = row * raw.shape[1] + column
    theta = log_theta.exp()
    raw -= raw.amax(1, keepdim=True)
    its_odds = raw.flatten().index_select(0, place)
    share = raw.exp_()
    sums = share.sum(1, keepdim=True)  # (n, 1)
    share /= sums
    odds = (share * (library / theta)).clamp_(max=_LARGEST_ODDS)  # mean / theta
    log_rest = odds.log1p()
    p = odds.div_(1 + odds)
    if zero is None:
        total = -(log_rest @ theta if theta.ndim == 1 else (log_rest * theta).sum(1))
    else:
        total, by_zero = _zero_inflated(zero, log_rest * -theta, place)

    at, of = (column, log_theta) if theta.ndim == 1 else (place, log_theta.view(-1))
    its_odds += (library / sums).log().squeeze(1).index_select(0, row) - of.index_select(0, at)
    its_odds -= log_rest.view(-1).index_select(0, place)
    total.index_add_(0, row, its_odds.mul_(count))
    more = count * (1 - p.view(-1).index_select(0, place))
    by_log_theta = log_rest.sub_(p).mul_(-theta)  # the odds fall as theta rises
    by_log_odds = p.mul_(-theta)
    if zero is not None:
        by_log_theta *= by_zero
        by_log_odds *= by_zero
    by_log_theta.view(-1).index_add_(0, place, more, alpha=-1)
    by_log_odds.view(-1).index_add_(0, place, more)
    share *= by_log_odds.sum(1, keepdim=True)  # which falls where others rise
    torch.sub(by_log_odds, share, out=raw)
    return total, by_log_theta


def zeros_of_negative_binomials(
    log_factor: Tensor, group: Tensor, log_mean: Tensor, log_theta: Tensor
) -> Tensor:
    """Log-likelihood of zeros in all features, of some cells whose means are those of a group.

    Parameters
    ----------
    log_factor
        Logarithm of the factor of each cell's means, (n,).
    group
        Number of each cell's group, (n,).
    log_mean
        Logarithm of the means without the factor, in each group, (G, D).
    log_theta
        Logarithm of the inverse dispersion, (1, D) for all groups or (G, D).

    Returns
    -------
    Shape (n,).
    """
    return _ZerosOfNegativeBinomials.apply(log_factor, group, log_mean, log_theta)


class _ZerosOfNegativeBinomials(torch.autograd.Function):
    """-θ log(1 + mean / θ), summed over features.

    Composed of torch's functions it takes many passes over the memory; here rows stay in a cache.
    """

    @staticmethod
    def forward(
        ctx: Any, log_factor: Tensor, group: Tensor, log_mean: Tensor, log_theta: Tensor
    ) -> Tensor:
        log_odds, theta = log_mean - log_theta, log_theta.exp()  # (G, D), (1 or G, D)
        n, n_features = len(log_factor), log_mean.shape[1]
        of_zero = log_mean.new_empty(n, n_features)  # of each feature
        slope = torch.empty_like(of_zero)  # by the logarithm of its mean
        total, by_factor = log_mean.new_empty(2, n)
        step = max(1, ENTRIES_IN_CACHE // n_features)
        for rows in (slice(i, i + step) for i in range(0, n, step)):
            odds = log_odds.index_select(0, group[rows]).add_(log_factor[rows, None])
            odds.exp_().clamp_(max=_LARGEST_ODDS)
            minus = -theta if len(theta) == 1 else -theta.index_select(0, group[rows])
            torch.mul(odds.log1p(), minus, out=of_zero[rows])
            torch.mul(odds.div_(1 + odds), minus, out=slope[rows])
            total[rows], by_factor[rows] = of_zero[rows].sum(1), slope[rows].sum(1)
        ctx.n_groups = len(log_mean)
        ctx.save_for_backward(of_zero, slope, by_factor, group, log_theta)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        of_zero, slope, by_factor, group, log_theta = ctx.saved_tensors
        member = F.one_hot(group, ctx.n_groups).T * gradient  # (G, n)
        by_log_mean = member @ slope
        if len(log_theta) == 1:
            by_log_theta = (gradient @ of_zero - by_log_mean.sum(0)).unsqueeze(0)
        else:
            by_log_theta = member @ of_zero - by_log_mean
        return gradient * by_factor, None, by_log_mean, by_log_theta


def _zero_inflated(zero: Tensor, of_zero: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Log-likelihood of rows (n,) with zeros of another origin, as far as values are 0.

    Parameters
    ----------
    zero
        Logits of those zeros, (n, D); they become the gradients by them.
    of_zero
        Log-likelihood of a 0 of the usual origin, (n, D).
    place
        Which of the n * D values are not 0; they count as if they were, of the usual origin.

    Returns
    -------
    The log-likelihoods, and their gradients by ``of_zero``, (n, D).
    """
    usual = (of_zero - zero).sigmoid_()  # of a 0: that it is of the usual origin
    usual.view(-1).index_fill_(0, place, 1)
    either = torch.logaddexp(zero, of_zero)
    its_of_zero = of_zero.view(-1).index_select(0, place)
    either.view(-1).index_copy_(0, place, its_of_zero)
    total = either.sub_(F.softplus(zero)).sum(1)
    torch.sub(1 - usual, zero.sigmoid(), out=zero)
    return total, usual


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
