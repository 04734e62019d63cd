"""How far cells are from those that a model was trained on.

Shapes: ``n`` cells, ``N`` cells of the reference, ``D`` dimensions of all latents side by side.
"""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors

# Nearest cells whose mean distance counts.
_NEIGHBOURS = 10


def novelty(latent: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Mean distance to the 10 nearest cells of a reference, relative to what is usual there.

    Distances are over the latents that a cell has, from those cells of the reference that have them
    as well.

    Parameters
    ----------
    latent
        Of cells, (n, D); NaN where one has not all latents.
    reference
        Of the cells to compare with, (N, D).

    Returns
    -------
    Relative to the median, over cells of the reference, of the same distance from the others; NaN
    without any latent, or where fewer than three cells of the reference have those latents.
    """
    found = np.full(len(latent), np.nan, dtype=np.float32)
    known = np.isfinite(latent)
    for dims in np.unique(known, axis=0):
        others = reference[:, dims]
        others = others[np.isfinite(others).all(1)]
        if not dims.any() or len(others) < 3:
            continue
        cells = (known == dims).all(1)
        near = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(others) - 1)).fit(others)
        usual = np.median(near.kneighbors()[0].mean(1))
        distance = near.kneighbors(latent[cells][:, dims])[0].mean(1)
        found[cells] = distance / max(usual, np.finfo(np.float32).tiny)
    return found
