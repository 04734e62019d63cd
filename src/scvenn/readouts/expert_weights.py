"""How much each modality counts in ``shared``: by how well its reading of a cell repeats.

Shapes: ``M`` modalities, ``K`` dimensions of ``shared``.
"""

from __future__ import annotations

import numpy as np
import scvi
import torch

from scvenn import network
from scvenn.data import Cells

# Cells of a modality that are measured again: at most, fewer where they have many values (drawing
# takes time), and how many held-out ones are enough.
_MOST_CELLS, _MOST_VALUES, _LEAST_HELD_OUT = 500, 2e7, 50
# Signal and noise of a reading, each as a part of its variance, are no less than this.
_LEAST_PART = 0.01
# A reading whose variance is this part of the largest one does not vary but for rounding.
_ROUNDING = 1e-9


def weights_of_readings(noise: np.ndarray, variance: np.ndarray) -> np.ndarray:
    r"""Weights with which readings of the same cells are averaged: their signal-to-noise ratios.

    .. math:: w_m \propto (v_m - \tau_m) / \tau_m

    If readings are as large as the latent, these are the weights of the best average, which are one
    over the noise. A reading that hardly moves has little noise, and little signal: it gets no
    weight for being still.

    Parameters
    ----------
    noise, variance
        Of each reading, :math:`\tau_m` and :math:`v_m`, summed over the dimensions, (M,); NaN where
        not known. The noise counts as 1 to 99 % of the variance.

    Returns
    -------
    Weights (M,) whose sum is 1. A reading that is not known counts like the others on average.
    """
    known = np.isfinite(noise)
    if not known.any():
        return np.full(len(noise), 1 / len(noise))
    varies = known & (variance > _ROUNDING * variance[known].max())
    part = np.ones(len(noise))  # of one that does not vary, all is noise
    part[varies] = noise[varies] / variance[varies]
    part = part.clip(_LEAST_PART, 1 - _LEAST_PART)
    weights = (1 - part) / part
    weights[~known] = weights[known].mean()
    return weights / weights.sum()


def weigh_experts(net: network.SharedPrivateVAE, held_out: Cells, train: Cells) -> None:
    r"""Estimate how much each modality's reading of ``shared`` counts, and set it.

    The noise of a reading is how much it would change if a cell were measured once more. No label
    and no other modality is needed to know it. Two measurements :math:`x', x''` of each cell are
    drawn from what the model predicts of it from its own modality, and read:

    .. math:: \tau_m = \tfrac12 \operatorname{mean}_i \lVert a_m(x'_i) - a_m(x''_i) \rVert^2, \qquad
              v_m = \operatorname{var}_i a_m(x_i)

    For networks that average the modalities' posteriors; others keep what they have.

    Parameters
    ----------
    net
        The trained networks.
    held_out, train
        Cells that the networks were not trained on, and the training cells. Up to 500 with each
        modality are read, fewer of one with more than 40,000 features. Training cells are read only
        where fewer than 50 are held out: networks read more signal from them than from others.
    """
    if net.objective.pools_experts:
        return
    seed = scvi.settings.seed or 0
    rng = np.random.default_rng(seed)
    noise, variance = np.full((2, len(net.modalities)), np.nan)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for k, m in enumerate(net.modalities):
            cells = _cells_to_read(held_out, train, m, len(net.likelihood(m).mean_), rng)
            if len(cells) < 2:
                continue
            parts = cells.minibatches([m], f"Weighing {m}")
            readings = torch.cat([network.read_again(net, tensors, m) for _, tensors in parts], 1)
            read, once_more, and_again = readings.cpu().double().numpy()  # (n, K) each
            noise[k] = np.square(once_more - and_again).sum(1).mean() / 2
            variance[k] = read.var(0).sum()
    net.set_learned_after_training(expert_weights=weights_of_readings(noise, variance))


def _cells_to_read(
    held_out: Cells, train: Cells, modality: str, n_features: int, rng: np.random.Generator
) -> Cells:
    """Some cells with a modality, held out if there are enough."""
    source = held_out if held_out.observed(modality).sum() >= _LEAST_HELD_OUT else train
    most = np.clip(_MOST_VALUES // n_features, _LEAST_HELD_OUT, _MOST_CELLS)
    rows = rng.permutation(np.flatnonzero(source.observed(modality)))[: int(most)]
    return source.take(np.sort(rows))
