"""What batches shift in the latents of trained networks, learned from training cells."""

from __future__ import annotations

import numpy as np
import scvi

from scvenn import network
from scvenn.batches import BatchShifts, extend_batch_shifts, learn_batch_shifts
from scvenn.data import Cells, Keys
from scvenn.readouts.embeddings import embed

# Cells from which shifts are learned, of all batches together, and of one at least.
_MOST_CELLS, _OF_A_BATCH = 5_000, 100
# Cells of the reference that new cells are compared with.
_OF_REFERENCE = 2_000


def learn_batch_correction(net: network.SharedPrivateVAE, train: Cells) -> None:
    """Find what batches shift in ``shared`` and in each private latent, and set it.

    Latents of up to 2,000 of the cells and the mean of ``shared`` are kept, for comparisons with
    other cells.

    Parameters
    ----------
    net
        The trained networks, whose latents are on ordered axes.
    train
        The training cells, of which up to 5,000 are read, from all batches alike; no fewer than
        100 of a batch, if there are.
    """
    n_batches = max(1, net.n_categories[Keys.BATCH])  # without a column, all are of one
    cells = _some_of_each_batch(train)
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
        shared_mean=shared[np.isfinite(shared).all(1)].mean(0) if len(cells) else None,
    )
    few = cells.take(np.sort(np.random.default_rng(0).permutation(len(cells))[:_OF_REFERENCE]))
    shared, private = embed(net, few, net.modalities, batch_corrected=True)
    latents = np.hstack([shared, *private.values()])
    # infinite and not NaN, which is not equal to itself: weights of two models are compared
    net.set_learned_after_training(reference=np.where(np.isnan(latents), np.inf, latents))


def extend_batch_correction(net: network.SharedPrivateVAE, cells: Cells, n_before: int) -> None:
    """Find what new batches shift in the latents, of components that stay where they are.

    Parameters
    ----------
    net
        The networks, which know the new batches.
    cells
        Cells, of which up to 5,000 of new batches are read, from all of these alike.
    n_before
        Number of the batches whose shifts are known.
    """
    cells = _some_of_each_batch(cells.take(cells.column(Keys.BATCH)[:, 0] >= n_before))
    batch, n_batches = cells.column(Keys.BATCH)[:, 0], net.n_categories[Keys.BATCH]

    def extended(found: BatchShifts, latent: np.ndarray) -> BatchShifts:
        known = np.isfinite(latent).all(1)
        return extend_batch_shifts(found, latent[known], batch[known], n_batches)

    shared, private = embed(net, cells, net.modalities)
    net.set_learned_after_training(
        shared_shifts=extended(net.shared_correction.found, shared),
        private_shifts={
            m: extended(net.branch(m).private_correction.found, z) for m, z in private.items()
        },
    )


def _some_of_each_batch(cells: Cells) -> Cells:
    """At most 5,000 cells, of all batches alike; no fewer than 100 of a batch, if there are."""
    order = np.random.default_rng(scvi.settings.seed).permutation(len(cells))
    batch = cells.column(Keys.BATCH)[:, 0]
    batches = np.unique(batch)
    quota = max(_MOST_CELLS // max(1, len(batches)), _OF_A_BATCH)
    chosen = [order[batch[order] == b][:quota] for b in batches]
    return cells.take(np.sort(np.concatenate([order[:0], *chosen])))
