"""What can be told of features of which screening cannot tell that anything can be told.

Of thousands of sparse features, each may be related to other modalities, and none of them for sure.
All together they say how strong such relations are as a rule; this is the prior with which the
relation of each is then estimated. It takes one Newton step from "no relation".

Shapes: ``N`` cells, ``K`` dimensions of ``shared``, ``R`` parameters of features.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

# Directions of `shared` with less than this part of the largest variance are not used.
_LEAST_VARIANCE = 1e-6


def whitening(latent: np.ndarray) -> np.ndarray:
    """A map (K, directions) to uncorrelated directions of variance 1, from centred latents."""
    variance, directions = np.linalg.eigh(latent.T @ latent / len(latent))
    used = variance > _LEAST_VARIANCE * variance.max()
    return directions[:, used] / np.sqrt(variance[used])


def faint_slopes(
    scores: Iterable[tuple[np.ndarray, np.ndarray]], candidates: np.ndarray
) -> np.ndarray:
    r"""How parameters move with directions of a latent, by one step of empirical Bayes.

    .. math::

        b_j = \frac{S_j}{H_j + 1 / \tau^2}, \qquad
        S_j = \sum_i w_i g_{ij}, \quad H_j = \sum_i g_{ij}^2, \qquad
        \tau^2 = \frac{\max(0, \sum_j (|S_j|^2 / H_j - K))}{K \sum_j H_j}

    With no relation at all, :math:`|S_j|^2 / H_j` is K on average. What it is above K, over all
    candidates, gives the variance of slopes; 0 where it is not.

    Parameters
    ----------
    scores
        For some cells at a time, the directions w, (n, K), of variance 1 and uncorrelated, and the
        gradients g of the log-likelihood with respect to the parameters, (n, R).
    candidates
        Which parameters these are; boolean, (R,).

    Returns
    -------
    Slopes b, (K, R); 0 for others than candidates.
    """
    total: Any = 0.0
    squares: Any = 0.0
    for directions, gradient in scores:
        total = total + directions.T @ gradient  # (K, R)
        squares = squares + np.square(gradient).sum(0)  # (R,)
    of_candidates = candidates & (squares > 0)
    s, h = total[:, of_candidates], squares[of_candidates]
    excess = (np.square(s).sum(0) / h - len(s)).sum()
    slopes = np.zeros_like(total)
    if excess > 0:
        prior_variance = excess / (len(s) * h.sum())
        slopes[:, of_candidates] = s / (h + 1 / prior_variance)
    return slopes
