"""Ordered axes of the latents, so that each dimension has a meaning of its own.

The objective does not mind how a latent is rotated, so that training leaves dimensions that share
what they carry, and some along which next to nothing varies. The axes are those along which a
latent and what is predicted from it vary most together. They are orthogonal: distances between
cells, and predictions, stay what they were.

Shapes: ``n`` cells, ``B`` cells of a minibatch, ``D`` features, ``K`` size of a latent.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
import scvi
import torch
from torch import Tensor

from scvenn import network
from scvenn.data import Cells
from scvenn.readouts.embeddings import Embedding, embed
from scvenn.readouts.interpretation import matrix_of_loadings
from scvenn.screening import LEAST_SPREAD

# Cells with a modality from which axes are learned.
MOST_CELLS = 2_000
# Cells with a modality whose loadings decide the signs of axes.
_CELLS_OF_SIGNS = 250
# Cells of which a correlation is taken.
_LEAST_CELLS = 10
# Axes carry something up to the one with which they have this part of what all carry.
_CARRIED = 0.99
# Variance along an axis, relative to the largest, below which it is rounding; and what axes carry,
# as a part of the variance of predictions.
LEAST_VARIANCE = 1e-9
_LEAST_CARRIED = 1e-9


class Axes(NamedTuple):
    """Ordered axes of a latent."""

    turn: np.ndarray  # from the latent to its axes, orthogonal, (K, K)
    n_effective: int  # how many of them carry 99 % of what all carry


def ordered_axes(moved: np.ndarray, covariance: np.ndarray) -> Axes:
    r"""Axes along which a latent and what is predicted from it vary most together.

    The left singular vectors of the covariance of latent and predictions, which are the axes of
    partial least squares. Where the latent hardly varies along a direction, neither does the
    prediction, however steep it is. They are ordered by the variance of the predictions that each
    of them carries, :math:`|\mathrm{cov}(z_k, \hat x)|^2 / \mathrm{var}(z_k)`.

    Parameters
    ----------
    moved
        Covariance of the latent and the predictions of all features, (K, D), relative to the
        standard deviation of the predictions.
    covariance
        Of the latent, (K, K).

    Returns
    -------
    Axes that point to where the feature that they move most goes up. The dimensions as they are,
    if these carry nothing.
    """
    turn = np.linalg.eigh(moved @ moved.T)[1]
    along, variance = turn.T @ moved, np.einsum("ik,ij,jk->k", turn, covariance, turn)
    varies = variance > LEAST_VARIANCE * variance.max()
    carried = np.square(along).sum(1) / np.where(varies, variance, np.inf)  # (K,)
    order = np.argsort(-carried, kind="stable")
    turn, along, explained = turn[:, order], along[order], np.cumsum(carried[order])
    if not explained[-1] > _LEAST_CARRIED:
        # any axes would do, and those found would depend on rounding
        return Axes(np.eye(len(turn)), 0)
    turn = turn * _signs(along)
    return Axes(turn, 1 + int(np.argmax(explained >= _CARRIED * explained[-1])))


def learn_axes(net: network.SharedPrivateVAE, train: Cells) -> tuple[Axes, dict[str, Axes]]:
    """Find the axes of ``shared`` and of each private latent from training cells, and set them.

    Those of ``shared`` are ordered by what it predicts of all modalities without their private
    latents, relative to the variance of the prediction from both, so that modalities count alike.
    Those of a private latent are ordered by the prediction of its own modality from both.

    Parameters
    ----------
    net
        The trained networks, whose latents are not on ordered axes yet.
    train
        The training cells, of which up to 2,000 with each modality are read.

    Returns
    -------
    Of ``shared``, and of the private latent of each modality.
    """
    rng = np.random.default_rng(scvi.settings.seed)
    order = rng.permutation(len(train))
    # every modality has some, however rare it is
    of_each = [order[train.observed(m)[order]][:MOST_CELLS] for m in net.modalities]
    cells = train.take(np.unique(np.concatenate(of_each)))
    shared, privates = embed(net, cells, net.modalities)
    by_shared = [np.zeros((net.n_shared, 1))]
    of_private: dict[str, Axes] = {}
    for m in net.modalities:
        of_cells = cells.observed(m)
        s, p = torch.as_tensor(shared[of_cells]), torch.as_tensor(privates[m][of_cells])
        from_shared, from_both = _Moved(s), _Moved(p)
        for part, tensors in cells.take(of_cells).minibatches([], f"Axes of {m}"):
            from_shared.add(part, network.scaled_means(net, tensors, m, s[part], None))
            from_both.add(part, network.scaled_means(net, tensors, m, s[part], p[part]))
        spread = np.sqrt(from_both.variance() or 1.0)
        by_shared.append(from_shared.covariance() / spread)
        covariance = _covariance_of(privates[m][of_cells])
        of_private[m] = ordered_axes(from_both.covariance() / spread, covariance)
    known = shared[np.isfinite(shared[:, 0])]
    of_shared = ordered_axes(np.hstack(by_shared), _covariance_of(known))
    _set(net, of_shared, of_private)
    # as the networks give them from here on
    on_axes = (
        (shared @ of_shared.turn).astype(np.float32),
        {m: (z @ of_private[m].turn).astype(np.float32) for m, z in privates.items()},
    )
    of_shared, of_private = _pointed(net, cells, on_axes, of_shared, of_private)
    _set(net, of_shared, of_private)
    return of_shared, of_private


def _set(net: network.SharedPrivateVAE, of_shared: Axes, of_private: dict[str, Axes]) -> None:
    """Have the networks turn their latents to these axes."""
    net.set_learned_after_training(
        shared_axes=of_shared.turn,
        private_axes={m: axes.turn for m, axes in of_private.items()},
    )


def _pointed(
    net: network.SharedPrivateVAE,
    cells: Cells,
    latents: Embedding,
    of_shared: Axes,
    of_private: dict[str, Axes],
) -> tuple[Axes, dict[str, Axes]]:
    """The axes, turned around where the largest loading of any feature is negative.

    ``latents``: of the cells, on these axes, which the networks already have.
    """
    shared, private = latents
    by_shared, privates = [np.zeros((net.n_shared, 1))], {}
    for m, axes in of_private.items():
        some = cells.take(cells.observed(m)).sample(_CELLS_OF_SIGNS)
        if len(some) < 2:
            privates[m] = axes
            continue
        chosen = np.isin(cells.rows, some.rows)
        of_some = shared[chosen], {m: private[m][chosen]}
        by_shared.append(matrix_of_loadings(net, some, of_some, m, "shared"))
        by_private = matrix_of_loadings(net, some, of_some, m, "private")
        privates[m] = _towards(axes, by_private)
    return _towards(of_shared, np.hstack(by_shared)), privates


def _towards(axes: Axes, loadings: np.ndarray) -> Axes:
    """Axes that point to where the largest of their loadings (K, D) is positive."""
    return axes._replace(turn=axes.turn * _signs(loadings)) if axes.n_effective else axes


def _signs(moved: np.ndarray) -> np.ndarray:
    """Of what is largest for each of K dimensions, in (K, D): 1 or -1, (K,)."""
    largest = moved[np.arange(len(moved)), np.abs(moved).argmax(1)]
    return np.where(largest < 0, -1.0, 1.0)


def agreement(net: network.SharedPrivateVAE, held_out: Cells) -> np.ndarray:
    """How well modalities agree on each axis of ``shared``, (K,).

    The correlation of what is read from one modality alone and from another, in held-out cells that
    have both; the mean over pairs of modalities that both vary along the axis. NaN where there is
    none, such as where fewer than 10 cells have two modalities.
    """
    each = {m: embed(net, held_out, [m])[0] for m in net.modalities}
    total, number = np.zeros(net.n_shared), np.zeros(net.n_shared)
    for one, other in combinations(each.values(), 2):
        both = np.isfinite(one[:, 0]) & np.isfinite(other[:, 0])
        if both.sum() < _LEAST_CELLS:
            continue
        a, b = (z[both] - z[both].mean(0) for z in (one.astype(float), other.astype(float)))
        varies = np.minimum(a.std(0), b.std(0)) > LEAST_SPREAD
        norm = np.sqrt(np.square(a).sum(0) * np.square(b).sum(0))
        total += np.where(varies, (a * b).sum(0) / np.where(varies, norm, 1), 0)
        number += varies
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _covariance_of(latent: np.ndarray) -> np.ndarray:
    """Of the dimensions of a latent (n, K), (K, K)."""
    centred = latent.astype(np.float64) - latent.mean(0)
    return centred.T @ centred / max(1, len(latent))


class _Moved:
    """Covariance of a latent and predictions, and their variance, from minibatches.

    Parameters
    ----------
    latent
        Of all cells, (n, K).
    """

    def __init__(self, latent: Tensor) -> None:
        latent = latent.double()
        self.latent = latent - latent.mean(0)
        self.sums: list[Tensor | float] = [0.0, 0.0, 0.0]

    def add(self, part: slice, predicted: Tensor) -> None:
        """Add the predictions of a minibatch, (B, D)."""
        predicted = predicted.cpu().double()  # a mean may be a thousand standard deviations
        moments = predicted.sum(0), predicted.square().sum(0), self.latent[part].T @ predicted
        self.sums = [one + other for one, other in zip(self.sums, moments, strict=True)]

    def covariance(self) -> np.ndarray:
        """Of the latent and each feature, (K, D)."""
        return torch.as_tensor(self.sums[2]).numpy() / len(self.latent)

    def variance(self) -> float:
        """Summed over the features."""
        mean, squares = (torch.as_tensor(of) / len(self.latent) for of in self.sums[:2])
        return float((squares - mean.square()).clamp(min=0).sum())
