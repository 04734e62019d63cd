"""Cells read in blocks, as from a file, beside cells drawn one by one, and how far training comes.

    python benchmarks/shuffling.py [--cells 200000] [--epochs 3] [--seeds 1]

The simulated cells lie in the order of their types, the worst that a file can have: most blocks of
128 cells have one type. Both models have the same seed, networks and split. Shown are the loss of
held-out cells after each epoch, and how far the composition of minibatches is from that of all
cells: the standard deviation of a type's share of the 128 cells, over minibatches.
"""

from __future__ import annotations

import argparse
import logging
import warnings

import numpy as np
import pandas as pd
import scvi
import torch

import scvenn
from scvenn.data import BlockLoader

BATCH_SIZE = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    scvi.settings.verbosity = logging.ERROR
    torch.set_num_threads(1)
    rows = []
    for seed in range(arguments.seeds):
        mdata = scvenn.datasets.simulate_counts(arguments.cells, n_features=50, seed=seed)
        mdata = mdata[np.argsort(mdata.obs["cell_type"].to_numpy(str), kind="stable")].copy()
        for shuffle in ("cells", "blocks"):
            scvi.settings.seed = seed
            model = scvenn.MMVAEpp(mdata)
            model.train(
                arguments.epochs,
                shuffle=shuffle,
                early_stopping=False,
                write_obsm=False,
                enable_progress_bar=False,
            )
            losses = model.history["validation_loss"]["validation_loss"].tolist()
            rows.append(
                {"seed": seed, "shuffle": shuffle, "deviation": deviation(model, shuffle)}
                | {f"loss, epoch {i}": loss for i, loss in enumerate(losses)}
            )
            print(
                pd.DataFrame(rows).to_string(index=False, float_format="{:.4f}".format), flush=True
            )


def deviation(model: scvenn.MMVAEpp, shuffle: str) -> float:
    """Standard deviation of types' shares over the minibatches of an epoch, on average."""
    types = model.adata.obs["cell_type"].astype("category").cat.codes.to_numpy()
    cells = np.sort(model.train_indices)
    if shuffle == "blocks":
        loader = BlockLoader(model.adata_manager, cells, batch_size=BATCH_SIZE)
        order = np.concatenate(loader._shuffled())
    else:
        order = np.random.default_rng(0).permutation(cells)
    parts = types[order][: len(order) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE)
    shares = np.stack([(parts == t).mean(1) for t in np.unique(types)])  # (types, minibatches)
    return float(shares.std(1).mean())


if __name__ == "__main__":
    main()
