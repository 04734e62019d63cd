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

# Directions of `shared` with less than this part of the largest variance are left out, and those
# with less than this standard deviation, where the prior has 1: the rest is rounding.
_LEAST_VARIANCE, LEAST_SPREAD = 1e-6, 1e-4
# Standard deviations by which the excess must differ from none.
_LEAST_EXCESS = 3


def whitening(latent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Uncorrelated directions of variance 1 of centred latents (N, K).

    Returns
    -------
    The map from latents to directions, (K, directions), and the standard deviation of the latent
    along each, (directions,).
    """
    variance, directions = np.linalg.eigh(latent.T @ latent / len(latent))
    used = variance > max(_LEAST_VARIANCE * variance.max(), LEAST_SPREAD**2)
    spread = np.sqrt(variance[used])
    return directions[:, used] / spread, spread


def weak_effects(
    gradients: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
    candidates: np.ndarray,
    spread: np.ndarray,
) -> np.ndarray:
    r"""Slopes of parameters on directions of a latent, by one step of empirical Bayes.

    .. math::

        b_{jk} = \frac{S_{jk} H_j / V_j}{H_j^2 / V_j + 1 / (\tau^2 c_k)}, \qquad
        S_{jk} = \sum_i w_{ik} g_{ij}, \quad V_j = \sum_i g_{ij}^2, \qquad
        \tau^2 = \frac{\max(0, \sum_j (|S_j|^2 / V_j - K))}{K \sum_j H_j^2 / V_j}

    Without any effect, :math:`|S_j|^2 / V_j` is K on average. The excess over K, summed over all
    candidates, estimates the variance :math:`\tau^2` of slopes. All are 0 if the excess is less
    than three of the standard deviations that it has without any effect. Where the likelihood has
    the noise of the data, the curvature H is V; where it expects more noise, V is smaller, and
    steps by V alone would be too long. H is at least V.

    The less a latent varies along a direction, the less it is expected to predict: slopes on
    directions of variance 1 have the prior variance :math:`\tau^2 c_k`, with the standard
    deviation of the latent along each, divided by its mean, c.

    Parameters
    ----------
    gradients
        For some cells at a time, the directions w, (n, K), of variance 1 and uncorrelated; the
        gradients g of the log-likelihood with respect to the parameters, (n, R); and its negative
        second derivatives, summed over these cells, (R,).
    candidates
        Which parameters get a slope; boolean, (R,).
    spread
        Standard deviation of the latent along each direction, (K,), in any unit.

    Returns
    -------
    Slopes b, (K, R); 0 for parameters that are no candidates.
    """
    total: Any = 0.0
    squares: Any = 0.0
    curved: Any = 0.0
    for directions, gradient, curvature in gradients:
        total = total + directions.T @ gradient  # (K, R)
        squares = squares + np.square(gradient).sum(0)  # (R,)
        curved = curved + curvature
    of_candidates = candidates & (squares > 0)
    s, v = total[:, of_candidates], squares[of_candidates]
    h = np.maximum(v, curved[of_candidates])
    excess = (np.square(s).sum(0) / v - len(s)).sum()
    by_chance = np.sqrt(2 * s.size)  # standard deviation of the excess without any effect
    slopes = np.zeros_like(total)
    if excess > _LEAST_EXCESS * by_chance:
        precision = h * (h / v)  # of an estimate of a slope from the data alone
        prior_variance = excess / (len(s) * precision.sum()) * spread / spread.mean()  # (K,)
        slopes[:, of_candidates] = s * (h / v) / (precision + 1 / prior_variance[:, None])
    return slopes
