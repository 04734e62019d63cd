r"""Where the batches of an experiment lie in a latent, and taking them back to one place.

A latent is modelled as a mixture of Gaussians whose centres each batch shifts: a cell of batch
:math:`b` in component :math:`k` lies around :math:`c_k + \delta_{kb}`. Corrected, it has lost the
shift that its components expect, :math:`z - \sum_k p(k \mid z, b)\, \delta_{kb}`.

How much of a difference between batches is a shift, and how much is another composition, no data
can tell for sure. It is assumed that shifts are mostly affine in the position of the component, and
that deviations from that are small. A type that only one batch has then moves as its surroundings
do, and a type that is rarer in a batch pulls nothing along. The fit is annealed: it begins with
wide components and translations of whole batches, and ends with narrow ones and deviations. A
mixture that begins narrow finds components of one batch each, and nothing to shift. Harmony
(Korsunsky et al., Nat Methods 2019), which corrects by mixtures as well, penalises such components
instead, which also mixes types that only one batch has with others.

Shapes: ``n`` cells, ``K`` components, ``B`` batches, ``D`` dimensions of the latent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]
from torch import Tensor

from scvenn._progress import progress

# Cells for each component, and the most components.
_CELLS_PER_COMPONENT = 15
_MOST_COMPONENTS = 200
# Variance of a component, as a part of the mean squared distance to the nearest k-means centre; and
# by how much it is widened in each round.
_VARIANCE = 0.125
_WIDENED = (*(2.0**k for k in range(7, 0, -1)), *[1.0] * 13)
# Rounds in which each batch is moved as a whole, and the round from which on shifts are no longer
# affine alone.
_TRANSLATED, _AFFINE = 5, 7
# Number of cells at which the deviation of a component from the affine shift is halved.
_PRIOR_CELLS = 10.0
# Precision of the priors of affine shifts, a constant and slopes, in cells; latents have a total
# variance of 1 here.
_PRIOR_CONSTANT, _PRIOR_SLOPES = 0.1, 0.3
# The same of slopes of a batch that came later: its types need not be among the components.
_PRIOR_SLOPES_LATER = 3.0
# Residuals of more than this many medians count less, in as many rounds of reweighting.
_ROBUST, _REWEIGHTINGS = 2.0, 5


class BatchShifts(NamedTuple):
    """Components of a latent, and where each batch has them."""

    centres: Float[Tensor, "K D"]
    shifts: Float[Tensor, "K B D"]
    variance: Float[Tensor, ""]  # of a component along each dimension

    @classmethod
    def none(cls, n_dims: int) -> BatchShifts:
        """No components, where nothing was learned."""
        return cls(torch.zeros(0, n_dims), torch.zeros(0, 0, n_dims), torch.ones(()))


def corrected(
    latent: Float[Tensor, "n D"], batch: Int[Tensor, " n"], found: BatchShifts
) -> Float[Tensor, "n D"]:
    """Latents without the shifts of their batches.

    Parameters
    ----------
    latent
        Of cells of any number, those that shifts were learned from or others.
    batch
        Position of each cell's batch.
    found
        What :func:`learn_batch_shifts` found.
    """
    if not len(found.centres):
        return latent
    return latent - _expected_shift(_members(latent, batch, found), batch, found)


@cache
def _libraries() -> ThreadpoolController:
    """Those that compute in threads; to look for them takes longer than a small fit."""
    return ThreadpoolController()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Arrays are small: several threads wait for each other, and add up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _libraries().limit(limits=1):
            yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
def learn_batch_shifts(
    latent: np.ndarray,
    batch: np.ndarray,
    n_batches: int,
    *,
    seed: int,
    description: str = "Batch correction",
) -> BatchShifts:
    r"""Find the components of a latent and how each batch shifts them.

    Memberships, centres and shifts are estimated in turns. With :math:`m_{kb}` the mean of the
    cells of batch b in component k, :math:`n_{kb}` their number and :math:`f_k = (1, c_k)`, affine
    shifts :math:`A_b f_k` minimise

    .. math::

        \sum_{kb} w_{kb}\, |m_{kb} - \mu_k - A_b f_k|^2 + \text{priors}, \qquad
        \delta_{kb} = A_b f_k + \frac{n_{kb}}{n_{kb} + 10} (m_{kb} - \mu_k - A_b f_k)

    where :math:`w_{kb} = 10\, n_{kb} / (n_{kb} + 10)`, and residuals of more than twice the median
    count less (Cauchy's weights): a component in which batches hold different cells does not move
    the others. In the first seven of 20 rounds components are widened, by 128, 64, ... and 2, and
    there are no deviations from the affine shifts; in the first five, batches are moved as a whole.

    Parameters
    ----------
    latent
        Finite latents of training cells, (n, D).
    batch
        Position of each cell's batch, (n,).
    n_batches
        Number of batches; one without cells is not shifted. With one alone nothing is shifted, and
        the components are what batches that come later are compared with.
    seed
        Of the random numbers.
    description
        Of the progress bar.

    Returns
    -------
    In single precision; nothing of a latent that does not vary.
    """
    values, codes = torch.as_tensor(latent, dtype=torch.float64), torch.as_tensor(batch).long()
    mean, scale = values.mean(0), values.var(0, correction=0).sum().sqrt()
    if not scale > 0:
        return BatchShifts.none(values.shape[1])
    values = (values - mean) / scale
    found = _components(values, n_batches, seed)
    if n_batches == 1:
        return _in_units(found, mean, scale)
    variance = found.variance
    for turn, widened in enumerate(progress(_WIDENED, description=description)):
        found = found._replace(variance=variance * widened)
        member = _members(values, codes, found)
        free = values - _expected_shift(member, codes, found)
        centres = member.T @ free / member.sum(0).clamp(min=1e-9).unsqueeze(1)
        shifts = _estimate(values, codes, member, centres, n_batches, turn)
        found = found._replace(centres=centres, shifts=shifts)
    return _in_units(found._replace(variance=variance), mean, scale)


def _components(values: Float[Tensor, "n D"], n_batches: int, seed: int) -> BatchShifts:
    """Centres of clusters of a latent of variance 1, none of them shifted."""
    wanted = np.clip(round(len(values) / _CELLS_PER_COMPONENT), 1, _MOST_COMPONENTS)
    n_components = min(int(wanted), len(values.unique(dim=0)))
    start = KMeans(n_components, n_init=1, random_state=seed).fit(values.numpy())
    return BatchShifts(
        torch.as_tensor(start.cluster_centers_),
        values.new_zeros(n_components, n_batches, values.shape[1]),
        values.new_tensor(max(_VARIANCE * start.inertia_ / len(values), 1e-12)),
    )


def _in_units(found: BatchShifts, mean: Tensor, scale: Tensor) -> BatchShifts:
    """In units of the latent, and in single precision, of what was found with a variance of 1."""
    return BatchShifts(
        (found.centres * scale + mean).float(),
        (found.shifts * scale).float(),
        (found.variance * scale.square()).float(),
    )


@_one_thread()
def extend_batch_shifts(
    found: BatchShifts, latent: np.ndarray, batch: np.ndarray, n_batches: int
) -> BatchShifts:
    r"""Shifts of batches that came later, of components that stay where they are.

    As :func:`learn_batch_shifts`, with the positions :math:`\mu_k = c_k` fixed, so that each new
    batch has a least-squares problem of its own, and nothing of earlier batches changes. Shifts are
    affine alone, with stronger priors: a type that no earlier batch has is of no component, and
    would be moved to the nearest one.

    Parameters
    ----------
    found
        Components and shifts of the B batches that were there before.
    latent
        Finite latents of cells of new batches, (n, D).
    batch
        Position of each cell's batch, B or more, (n,).
    n_batches
        Number of batches, the earlier ones and the new ones. One without cells is not shifted.
    """
    n_components, n_before, n_dims = found.shifts.shape
    if not n_components or not len(latent):
        new = found.shifts.new_zeros(n_components, n_batches - n_before, n_dims)
        return found._replace(shifts=torch.cat([found.shifts, new], 1))
    values, codes = torch.as_tensor(latent, dtype=torch.float64), torch.as_tensor(batch).long()
    before = BatchShifts(*(part.double() for part in found))
    mean = before.centres.mean(0)
    # in about the units in which they were found, where priors apply: of a total variance of 1
    scale = (before.centres.var(0, correction=0).sum() + n_dims * before.variance).sqrt()
    values, centres = (values - mean) / scale, (before.centres - mean) / scale
    variance = before.variance / scale.square()
    shifts = values.new_zeros(n_components, n_batches, n_dims)
    for turn, widened in enumerate(_WIDENED):
        member = _members(values, codes, BatchShifts(centres, shifts, variance * widened))
        shifts = _estimate(values, codes, member, centres, n_batches, turn, centres)
    new = (shifts * scale)[:, n_before:].to(found.shifts)
    return found._replace(shifts=torch.cat([found.shifts, new], 1))


def _estimate(
    latent: Float[Tensor, "n D"],
    batch: Int[Tensor, " n"],
    member: Float[Tensor, "n K"],
    centres: Float[Tensor, "K D"],
    n_batches: int,
    turn: int,
    positions: Float[Tensor, "K D"] | None = None,
) -> Float[Tensor, "K B D"]:
    """Shifts given the memberships; ``turn``: the number of the round.

    ``positions``: of the components, where these are known.
    """
    number = latent.new_zeros(len(centres), n_batches)
    mean = latent.new_zeros(len(centres), n_batches, latent.shape[1])
    for b in batch.unique().tolist():
        of_batch = member[batch == b]
        number[:, b] = of_batch.sum(0)
        total = of_batch.T @ latent[batch == b]
        mean[:, b] = total / number[:, b].clamp(min=1e-9).unsqueeze(1)
    basis = torch.ones_like(centres[:, :1])  # (K, 1)
    if turn >= _TRANSLATED:
        basis = torch.cat([basis, centres], 1)  # (K, 1 + D)
    if turn < _AFFINE:
        return _fit_affine(mean, number, basis, positions)[1]
    certain = number * _PRIOR_CELLS / (number + _PRIOR_CELLS)
    weight = certain
    for _ in range(_REWEIGHTINGS):
        middle, affine = _fit_affine(mean, weight, basis, positions)
        deviation = mean - middle.unsqueeze(1) - affine
        size = deviation.norm(dim=-1)  # (K, B)
        usual = _ROBUST * _weighted_median(size.flatten(), number.flatten()).clamp(min=1e-12)
        weight = certain / (1 + (size / usual).square())
    if positions is not None:
        return affine
    return affine + (number / (number + _PRIOR_CELLS)).unsqueeze(-1) * deviation


def _fit_affine(
    mean: Float[Tensor, "K B D"],
    weight: Float[Tensor, "K B"],
    basis: Float[Tensor, "K P"],
    positions: Float[Tensor, "K D"] | None,
) -> tuple[Float[Tensor, "K D"], Float[Tensor, "K B D"]]:
    """Least squares of means, by a position of each component and a map of the basis by each batch.

    ``positions``: where these are known.

    Returns
    -------
    The positions, and the shifts that the maps give each component.
    """
    n_components = len(mean)
    slopes = _PRIOR_SLOPES if positions is None else _PRIOR_SLOPES_LATER
    prior = torch.full_like(basis[0], slopes)
    prior[0] = _PRIOR_CONSTANT
    # normal equations: of the positions, then of the terms of each batch
    by_batch = weight.T.unsqueeze(-1) * basis  # (B, K, P)
    own = by_batch.mT @ basis + torch.diag(prior)  # (B, P, P)
    if positions is not None:
        from_positions = mean.transpose(0, 1) - positions  # (B, K, D)
        maps = torch.linalg.solve(own, by_batch.mT @ from_positions)  # (B, P, D)
        return positions, torch.einsum("kp,bpd->kbd", basis, maps)
    # no equation has terms of two batches: terms are eliminated batch by batch, which leaves
    # equations of the positions alone
    from_mean = by_batch.mT @ mean.transpose(0, 1)  # (B, P, D)
    of_terms = torch.linalg.solve(own, torch.cat([by_batch.mT, from_mean], -1))  # (B, P, K + D)
    by_position, by_mean = of_terms[..., :n_components], of_terms[..., n_components:]
    total = torch.diag(weight.sum(1).clamp(min=1e-9))
    left = total - (by_batch @ by_position).sum(0)  # (K, K)
    right = (weight.unsqueeze(-1) * mean).sum(1) - (by_batch @ by_mean).sum(0)  # (K, D)
    positions = torch.linalg.solve(left, right)
    maps = by_mean - by_position @ positions  # (B, P, D)
    return positions, torch.einsum("kp,bpd->kbd", basis, maps)


def _members(
    latent: Float[Tensor, "n D"], batch: Int[Tensor, " n"], found: BatchShifts
) -> Float[Tensor, "n K"]:
    """Probability of each component, given where the batch of each cell has it."""
    # squares of the distances of outliers are beyond single precision
    precise = latent if latent.device.type == "mps" else latent.double()
    distances = precise.new_empty(len(latent), len(found.centres))
    for b in batch.unique().tolist():
        own = batch == b
        placed = (found.centres + found.shifts[:, b]).to(precise)
        # exactly, so that the number of cells at a time makes no difference
        distances[own] = torch.cdist(
            precise[own], placed, compute_mode="donot_use_mm_for_euclid_dist"
        )
    return torch.softmax(-distances.square() / (2 * found.variance), dim=1).to(latent)


def _expected_shift(
    member: Float[Tensor, "n K"], batch: Int[Tensor, " n"], found: BatchShifts
) -> Float[Tensor, "n D"]:
    """Of the components that a cell may be of."""
    expected = member.new_empty(len(member), found.shifts.shape[2])
    for b in batch.unique().tolist():
        expected[batch == b] = member[batch == b] @ found.shifts[:, b]
    return expected


def _weighted_median(values: Float[Tensor, " n"], weights: Float[Tensor, " n"]) -> Tensor:
    order = values.argsort()
    reached = weights[order].cumsum(0)
    return values[order][torch.searchsorted(reached, reached[-1] / 2).clamp(max=len(values) - 1)]
