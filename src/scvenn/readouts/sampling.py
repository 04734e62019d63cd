"""Random draws of a modality: given other modalities, or of cells that never were."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from scvenn import network
from scvenn.data import Cells, Keys
from scvenn.readouts.predictions import batch_tensor


def draw_posterior(
    net: network.SharedPrivateVAE,
    cells: Cells,
    sources: Sequence[str],
    target: str,
    columns: np.ndarray,
    *,
    n_samples: int,
) -> np.ndarray:
    """Draws of some features (d,) of a modality given others: (n_samples, n, d).

    NaN where no source was measured.
    """
    drawn = np.empty((n_samples, len(cells), len(columns)), np.float32)
    read = list(dict.fromkeys([*sources, target]))
    for part, tensors in cells.minibatches(read, "Sampling"):
        for k in range(n_samples):
            of_all = network.draw(net, tensors, sources, target)  # (B, D)
            drawn[k, part] = of_all.cpu().numpy()[:, columns]
    return drawn


def draw_prior(
    net: network.SharedPrivateVAE, n_obs: int, *, batch: int | None
) -> dict[str, np.ndarray]:
    """Values of each modality, (n_obs, D), of cells whose latents follow the prior."""
    tensors = {Keys.OBSERVED: torch.ones(1, len(net.modalities))}
    tensors |= {key: torch.zeros(1, 1) for key in (*net.n_categories, *net.continuous)}
    drawn = network.draw_from_prior(net, n_obs, tensors | batch_tensor(batch, 1))
    return {m: values.cpu().numpy() for m, values in drawn.items()}
