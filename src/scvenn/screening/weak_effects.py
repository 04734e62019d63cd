"""Weak effects of ``shared`` on features that screening did not select.

Each of thousands of sparse features may be weakly related to the other modalities, and none of them
significantly. How strong such effects are on average can be estimated from all of them together.
This is the prior with which the effect on each is then estimated, by one Newton step from no
effect.

Shapes: ``N`` cells, ``K`` dimensions of ``shared``, ``R`` parameters of features.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

# Directions of `shared` with less than this part of the largest variance are left out.
_LEAST_VARIANCE = 1e-6


def whitening(latent: np.ndarray) -> np.ndarray:
    """Map (K, directions) from centred latents (N, K) to uncorrelated directions of variance 1."""
    variance, directions = np.linalg.eigh(latent.T @ latent / len(latent))
    used = variance > _LEAST_VARIANCE * variance.max()
    return directions[:, used] / np.sqrt(variance[used])


def weak_effects(
    gradients: Iterable[tuple[np.ndarray, np.ndarray]], candidates: np.ndarray
) -> np.ndarray:
    r"""Slopes of parameters on directions of a latent, by one step of empirical Bayes.

    .. math::

        b_j = \frac{S_j}{H_j + 1 / \tau^2}, \qquad
        S_j = \sum_i w_i g_{ij}, \quad H_j = \sum_i g_{ij}^2, \qquad
        \tau^2 = \frac{\max(0, \sum_j (|S_j|^2 / H_j - K))}{K \sum_j H_j}

    Without any effect, :math:`|S_j|^2 / H_j` is K on average. The excess over K, summed over all
    candidates, estimates the variance :math:`\tau^2` of slopes; all are 0 if there is no excess.

    Parameters
    ----------
    gradients
        For some cells at a time, the directions w, (n, K), of variance 1 and uncorrelated, and the
        gradients g of the log-likelihood with respect to the parameters, (n, R).
    candidates
        Which parameters get a slope; boolean, (R,).

    Returns
    -------
    Slopes b, (K, R); 0 for parameters that are no candidates.
    """
    total: Any = 0.0
    squares: Any = 0.0
    for directions, gradient in gradients:
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
