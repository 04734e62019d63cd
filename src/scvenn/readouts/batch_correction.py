"""What batches shift in the latents of trained networks, learned from training cells."""

from __future__ import annotations

import numpy as np
import scvi

from scvenn import network
from scvenn.batches import BatchShifts, learn_batch_shifts
from scvenn.data import Cells, Keys
from scvenn.readouts.embeddings import embed

# Cells from which shifts are learned, of all batches together, and of one at least.
_MOST_CELLS, _OF_A_BATCH = 5_000, 100


def learn_batch_correction(net: network.SharedPrivateVAE, train: Cells) -> None:
    """Find what batches shift in ``shared`` and in each private latent, and set it.

    Nothing is done where the set-up knows of one batch alone.

    Parameters
    ----------
    net
        The trained networks, whose latents are on ordered axes.
    train
        The training cells, of which up to 5,000 are read, from all batches alike; no fewer than
        100 of a batch, if there are.
    """
    n_batches = net.n_categories[Keys.BATCH]
    if n_batches < 2:
        return
    order = np.random.default_rng(scvi.settings.seed).permutation(len(train))
    batch = train.column(Keys.BATCH)[:, 0]
    quota = max(_MOST_CELLS // n_batches, _OF_A_BATCH)
    chosen = [order[batch[order] == b][:quota] for b in range(n_batches)]
    cells = train.take(np.sort(np.concatenate(chosen)))
    batch = cells.column(Keys.BATCH)[:, 0]

    def shifts_of(latent: np.ndarray, name: str) -> BatchShifts | None:
        known = np.isfinite(latent).all(1)
        if not known.any():
            return None
        return learn_batch_shifts(
            latent[known],
            batch[known],
            n_batches,
            seed=scvi.settings.seed or 0,
            description=f"Batch correction of {name}",
        )

    shared, private = embed(net, cells, net.modalities)
    of_private = {m: shifts_of(z, f"private {m}") for m, z in private.items()}
    net.set_learned_after_training(
        shared_shifts=shifts_of(shared, "shared"),
        private_shifts={m: found for m, found in of_private.items() if found is not None},
    )
