"""How reliable each modality's embedding of ``shared`` is, estimated from where they disagree.

Shapes: ``M`` modalities, ``N`` cells, ``K`` dimensions of ``shared``.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

# Smallest variance of an error, as a part of the variance of an embedding.
_LEAST_ERROR = 0.01
# Number of cells at which the prior, equal errors, and the data count alike.
_PRIOR_CELLS = 50


def reliability_weights(embeddings: np.ndarray) -> np.ndarray:
    r"""Weights with which embeddings of the same latent are best averaged.

    Each embedding is modelled as the latent and an error of its own, :math:`a_m = s + e_m`. Errors
    that are independent of each other show in the difference of two embeddings, and the best weight
    is 1 over the variance of the error (the best linear unbiased estimate of s):

    .. math::

        w_m \propto 1 / \epsilon_m, \qquad
        \epsilon_m = \operatorname{mean}_{o \ne m} \frac{\sum_k
            \operatorname{cov}(a_{mk}, a_{mk} - a_{ok})}
            {\tfrac12 \sum_k [\operatorname{var}(a_{mk}) + \operatorname{var}(a_{ok})]}

    over the cells that have both modalities; :math:`\epsilon_m` is at least 0.01. Against the noise
    of few cells, each pair gets 50 prior cells, in which both errors are equal. A modality that has
    no cells in common with another one gets the mean weight of the others.

    Parameters
    ----------
    embeddings
        Of each modality, (M, N, K), in cells that were not trained on: in training cells, a wide
        modality looks more reliable than it is. Rows of cells that lack it are NaN.

    Returns
    -------
    Weights (M,) whose sum is 1.
    """
    n_modalities = len(embeddings)
    observed = ~np.isnan(embeddings).any(2)  # (M, N)
    errors = np.full((n_modalities, n_modalities), np.nan)
    for m, o in permutations(range(n_modalities), 2):
        both = embeddings[[m, o]][:, observed[m] & observed[o]].astype(np.float64)  # (2, n, K)
        if both.shape[1] < 2:
            continue
        own, other = both - both.mean(1, keepdims=True)
        scale = (np.square(own) + np.square(other)).sum() / 2
        if scale > 0:
            found, even = (own * (own - other)).sum(), np.square(own - other).sum() / 2
            n_cells = both.shape[1]
            error = (n_cells * found + _PRIOR_CELLS * even) / (n_cells + _PRIOR_CELLS)
            errors[m, o] = error / scale
    known = ~np.isnan(errors).all(1)  # (M,)
    if not known.any():
        return np.full(n_modalities, 1 / n_modalities)
    weights = np.zeros(n_modalities)
    weights[known] = 1 / np.maximum(np.nanmean(errors[known], axis=1), _LEAST_ERROR)
    weights[~known] = weights[known].mean()
    return weights / weights.sum()
