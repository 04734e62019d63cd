"""What telling scvenn the batch does to its latents, on a simulation and on SNARE-seq.

    python benchmarks/peers/batches.py [--seeds 3]

The simulation has three batches whose counts differ by a factor for each feature; SNARE-seq is the
part of `faint.py`, 4,500 cells of 12 batches, 20 epochs. Of test cells, for the shared latent
and each private one: how well the 15 nearest training cells tell the batch, and how well a linear
probe tells the cell type (balanced accuracies; by chance 1 over the number of batches or types).
Medians over seeds.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
import scvi
import torch
from faint import part_of_snareseq
from methods import QUIET
from mudata import MuData
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from tqdm.auto import tqdm

import scvenn

# data of a seed, the name of its cell types, and the most epochs
DATASETS = {
    "simulation, 3 batches": (
        lambda seed: scvenn.datasets.simulate_counts(1500, n_batches=3, seed=seed),
        "cell_type",
        60,
    ),
    "SNARE-seq, 12 batches": (lambda seed: part_of_snareseq(seed).mdata, "celltype", 20),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    for name in ("lightning.pytorch", "lightning.fabric", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    jobs = [
        (dataset, seed, key)
        for dataset in DATASETS
        for seed in range(arguments.seeds)
        for key in (None, "batch")
    ]
    table = pd.DataFrame([row for job in tqdm(jobs) for row in rows(*job)])
    median = table.pivot_table(
        index=["data", "latent"], columns="batch_key", aggfunc="median", sort=False
    )
    print(median.to_string(float_format="{:.2f}".format))


def rows(dataset: str, seed: int, batch_key: str | None) -> Iterator[dict]:
    """Scores of each latent of a model that is told the batch, or not."""
    make, celltype, epochs = DATASETS[dataset]
    mdata: MuData = make(seed)
    scvi.settings.seed = seed
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key=batch_key)
    model = scvenn.MMVAEpp(mdata)
    model.train(epochs, train_size=0.7, validation_size=0.1, **QUIET)
    train, test = model.train_indices, model.test_indices
    batch, types = (mdata.obs[c].astype(str).to_numpy() for c in ("batch", celltype))
    for latent in ("shared", *(f"private_{m}" for m in model.modalities)):
        embedding = np.asarray(mdata.obsm[f"X_{latent}"])
        neighbours = KNeighborsClassifier(15).fit(embedding[train], batch[train])
        probe = scvenn.metrics.probe_scores(embedding, types, train=train, test=test)
        yield {
            "data": dataset,
            "batch_key": str(batch_key),
            "latent": latent,
            "batch by neighbours": balanced_accuracy_score(
                batch[test], neighbours.predict(embedding[test])
            ),
            "cell type": probe["balanced_accuracy"],
        }


if __name__ == "__main__":
    main()
