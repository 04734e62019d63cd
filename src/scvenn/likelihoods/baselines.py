"""Likelihood of features whose means move together, without a value for each cell and feature.

What is not predicted from ``shared`` has a mean of its own, its baseline, times a factor of the
cell: the same for all these features. Their log-likelihood is then a function of that one number,
but for the few counts that are not zero. The function is smooth, and known anywhere from its values
at a few points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# The points lie in an interval that is wider than needed by this factor: at the very ends of it
# the slope of the interpolation would be a quotient of two zeros.
_WIDER = 1.05
# Half-width of an interval at least: on a shorter one, slopes are differences of roundings.
_LEAST_HALF_WIDTH = 0.03
# No interval is so short that fewer points would do.
_LEAST_POINTS = 5
# Of what an encoder reads the logarithm of; in single precision larger ones are infinite.
_LARGEST_MEAN = 1e30


def n_points(half_width: float, dtype: torch.dtype) -> int:
    r"""How many points make the interpolation exact to a few roundings.

    The function is a sum of softplus functions of a logarithm, whose nearest singularity is at a
    distance of pi from the real line; so the error falls as :math:`\rho^{-n}`, with :math:`\rho`
    the sum of the half-axes of the ellipse through it (Trefethen, Approximation Theory and
    Approximation Practice, theorem 8.2).

    Parameters
    ----------
    half_width
        Of the interval.
    dtype
        Of the values, which says how small an error need be.
    """
    distance = math.pi / max(half_width * _WIDER, _LEAST_HALF_WIDTH)
    rho = distance + math.sqrt(distance**2 + 1)
    return _LEAST_POINTS + math.ceil(-math.log(torch.finfo(dtype).eps / 10) / math.log(rho))


class Interpolation(NamedTuple):
    """A function of each cell's factor as a mixture of its values at a few points."""

    points: Tensor  # logarithms of factors, (n,)
    group: Tensor  # group of each point, (n,)
    mix: Tensor  # how values at the points make those of the cells, (B, n), double precision

    @classmethod
    def of(cls, log_factor: Tensor, group: Tensor, n_groups: int) -> Interpolation:
        """Choose points for the cells of each group.

        Parameters
        ----------
        log_factor
            Logarithm of each cell's factor, (B,); with gradients, mixtures have them as well.
        group
            Number of each cell's group, (B,).
        n_groups
            How many groups there are.
        """
        cells, points, groups, mixes = [], [], [], []
        alone = []
        for number in range(n_groups):
            members = (group == number).nonzero().squeeze(1)  # (C,)
            at = log_factor.index_select(0, members)
            n = len(at)
            width = float(at.detach().max() - at.detach().min()) if n > _LEAST_POINTS else 0.0
            if n > _LEAST_POINTS and math.isfinite(width):  # it is not where training diverged
                n = n_points(width / 2, at.dtype)
            if n >= len(at):
                alone.append(members)
                continue
            nodes, mix = _chebyshev(at, n)
            cells.append(members)
            points.append(nodes)
            groups.append(group.new_full((n,), number))
            mixes.append(mix)
        if alone:  # few cells: each is a point of its own
            members = torch.cat(alone)
            cells.append(members)
            points.append(log_factor.index_select(0, members))
            groups.append(group[members])
            mixes.append(torch.eye(len(members), dtype=_precise(at).dtype, device=at.device))
        order = torch.cat(cells).argsort()
        mix = torch.block_diag(*mixes).index_select(0, order)
        return cls(torch.cat(points), torch.cat(groups), mix)

    def __call__(self, values: Tensor) -> Tensor:
        """From values at the points, (n, ...), to those of the cells, (B, ...)."""
        return (self.mix @ _precise(values)).to(values.dtype)


def _precise(values: Tensor) -> Tensor:
    """Values in double precision, which one kind of device does not have."""
    return values if values.device.type == "mps" else values.double()


def _chebyshev(at: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Chebyshev points around some numbers (B,), and the weights of values there, (B, n).

    In double precision: sums of many features lose digits that gradients need.
    """
    dtype, at = at.dtype, _precise(at)
    low, high = at.detach().aminmax()
    middle, half = (high + low) / 2, ((high - low) / 2 * _WIDER).clamp(min=_LEAST_HALF_WIDTH)
    order = torch.arange(n, dtype=at.dtype, device=at.device)
    angles = (order + 0.5) * (math.pi / n)
    # coefficients of Chebyshev polynomials, T_k(cos a) = cos(k a), by a discrete cosine transform
    to_coefficients = (angles[None] * order[:, None]).cos() * (2 / n)  # (n, n)
    to_coefficients[0] /= 2
    mix = (((at - middle) / half).acos().unsqueeze(-1) * order).cos() @ to_coefficients
    return (middle + half * angles.cos()).to(dtype), mix


def total_of_baselines(
    of_zeros: Callable[..., Tensor],
    gain: Callable[..., Tensor],
    parameters: Sequence[Tensor],
    group: Tensor,
    log_factor: Tensor,
    counts: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """Log-likelihood of counts whose means are those of their group times a factor of the cell.

    Parameters
    ----------
    of_zeros
        From logarithms of factors and groups, (n,) each, and the parameters to the log-likelihood
        of zeros in all features, (n,). It is as smooth a function of the factor as log(1 + mean).
    gain
        From counts above 0, logarithms of means and further parameters to how much greater the
        log-likelihood of the count is than that of a 0.
    parameters
        Of each feature in each group of cells, (G, D): the logarithm of its mean without the
        factor; and further parameters, also (1, D) where all groups have the same.
    group
        Number of each cell's group, (B,).
    log_factor
        Logarithm of the factor, (..., B).
    counts
        Row, column and value of the counts that are not 0, (N,) each.

    Returns
    -------
    Shape (..., B).
    """
    if not len(group):
        return torch.zeros_like(log_factor)
    row, column, count = counts
    n_features = parameters[0].shape[1]
    place = group.index_select(0, row) * n_features + column
    log_mean, *others = (
        values.flatten().index_select(0, column if len(values) == 1 else place)
        for values in parameters
    )  # (N,)
    log_mean = log_mean + log_factor.index_select(-1, row)  # (..., N)
    gains = gain(count, log_mean, *others)  # (..., N)

    flat = log_factor.flatten()
    of_flat = group.repeat(len(flat) // len(group))
    cells = Interpolation.of(flat, of_flat, len(parameters[0]))
    zeros = of_zeros(cells.points, cells.group, *parameters)  # (n,)
    return cells(zeros).view_as(log_factor).index_add(-1, row, gains)


class ReadMean(NamedTuple):
    """Means (B, D) as an encoder reads them: a mixture of a few rows, and what is added to it."""

    mix: Tensor  # (B, n)
    rows: Tensor  # (n, D)
    added: Tensor  # (B, P)
    positions: Tensor  # features to which it is added, (P,)

    def dense(self) -> Tensor:
        """All of them, (B, D)."""
        return (self.mix @ self.rows).index_add(1, self.positions, self.added)


def read_mean_of_baselines(
    baselines: Tensor, predicted: Tensor, group: Tensor, log_factor: Tensor
) -> tuple[Tensor, Tensor]:
    """Logarithms of one plus the mean, where means are those of a group times a factor.

    Parameters
    ----------
    baselines
        Logarithm of the mean without the factor, of each feature in each group, (G, D).
    predicted
        Positions of the features whose means are not such, (P,).
    group
        Number of each cell's group, (B,).
    log_factor
        Logarithm of each cell's factor, (B,).

    Returns
    -------
    ``mix`` and ``rows`` of a :class:`ReadMean`; 0 for the predicted features.
    """
    cells = Interpolation.of(log_factor, group, len(baselines))
    rows = baselines.index_select(0, cells.group).add_(cells.points.unsqueeze(1))
    rows = rows.exp_().clamp_(max=_LARGEST_MEAN).log1p_().index_fill_(1, predicted, 0.0)
    return cells.mix.to(baselines.dtype), rows
