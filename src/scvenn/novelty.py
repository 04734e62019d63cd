"""How far cells are from those that a model was trained on.

Shapes: ``n`` cells, ``N`` cells of the reference, ``D`` dimensions of a latent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.neighbors import NearestNeighbors

# Nearest cells whose mean distance counts.
_NEIGHBOURS = 10
# The usual distance is no less than this part of the standard deviation of the latent, and a latent
# that varies by less than this part of its size is constant.
_LEAST_OF_SPREAD, _ROUNDING = 1e-3, 1e-6
# Two latents that are closer than this part of the usual distance are of the same cell.
_ITSELF = 1e-4


def novelty(latents: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> np.ndarray:
    r"""Distances to the nearest cells of a reference, relative to what is usual there.

    .. math::

        a_i^2 = \operatorname{mean}_l \, (d_{il} / \tilde d_l)^2

    over the latents l that a cell has, with its mean distance :math:`d_{il}` from the 10 nearest
    cells of the reference other than itself, and the median :math:`\tilde d_l` of that over cells
    of the reference. Where most of these lie on each other, it is half of the root mean square.

    Parameters
    ----------
    latents
        Of cells, (n, D) each; NaN where one has not the latent.
    references
        The same latents of the cells to compare with, (N, D) each; not finite where one has not the
        latent.

    Returns
    -------
    One number for each cell, (n,); NaN without any latent that three cells of the reference have.
    """
    squares = np.full((len(latents), len(latents[0])), np.nan)
    for found, latent, reference in zip(squares, latents, references, strict=True):
        others, known = (x[np.isfinite(x).all(1)] for x in (reference, latent))
        if len(others) < 3 or not len(known):
            continue
        n_near = min(_NEIGHBOURS, len(others) - 1)
        near = NearestNeighbors(n_neighbors=n_near).fit(others)
        usual = _usual(near.kneighbors()[0].mean(1), others)
        if not usual:
            continue
        distances = near.kneighbors(known, n_near + 1)[0] / usual
        is_itself = distances[:, :1] < _ITSELF  # a cell of the reference is no neighbour of its own
        distance = np.where(is_itself, distances[:, 1:], distances[:, :-1]).mean(1)
        found[np.isfinite(latent).all(1)] = np.square(distance)
    number = np.isfinite(squares).sum(0)
    total = np.nansum(squares, 0)
    return np.sqrt(np.where(number > 0, total / np.maximum(number, 1), np.nan)).astype(np.float32)


def _usual(distances: np.ndarray, latent: np.ndarray) -> float:
    """A typical mean distance, of those (N,) between cells of a latent (N, D); 0 if none differ.

    The median is 0 where most cells lie on each other, as with mutations that few cells have.
    """
    spread = np.sqrt(latent.astype(float).var(0).sum())
    if spread <= _ROUNDING * np.abs(latent).max():
        return 0.0
    least = max(np.sqrt(np.square(distances).mean()) / 2, _LEAST_OF_SPREAD * spread)
    return float(max(np.median(distances), least))
