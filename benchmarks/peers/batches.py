"""What telling a method the batch does to its latents, on a simulation and on SNARE-seq.

    python benchmarks/peers/batches.py [--seeds 3]

scvenn's default, also with encoders that see the batch, and MULTIVI. The simulation has three
batches whose counts differ by a factor for each feature; SNARE-seq is the part of `faint.py`, 4,500
cells of 12 batches. Of test cells, for each latent: how well the 15 nearest training cells tell the
batch, and how well a linear probe tells the cell type (balanced accuracies; by chance 1 over the
number of batches or types). Medians over seeds.
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
from methods import QUIET, multivi
from problems import Problem, split
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from tqdm.auto import tqdm

import scvenn


def simulated(seed: int) -> Problem:
    """Cells of three batches and eight types."""
    mdata = scvenn.datasets.simulate_counts(1500, n_batches=3, seed=seed)
    mdata.obs["celltype"] = mdata.obs["cell_type"]
    return split(mdata, seed)


SETTINGS = {"scvenn": ["not told", "told", "encoders told"], "MULTIVI": ["not told", "told"]}
# data of a seed, and the most epochs of a method
DATASETS = {
    "simulation, 3 batches": (simulated, {"scvenn": 60, "MULTIVI": 200}),
    "SNARE-seq, 12 batches": (part_of_snareseq, {"scvenn": 20, "MULTIVI": 20}),
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
        (dataset, method, setting, seed)
        for dataset in DATASETS
        for method, settings in SETTINGS.items()
        for setting in settings
        for seed in range(arguments.seeds)
    ]
    table = pd.DataFrame([row for job in tqdm(jobs) for row in rows(*job)])
    median = table.pivot_table(
        index=["data", "latent"], columns="setting", aggfunc="median", sort=False
    )
    print(median.to_string(float_format="{:.2f}".format))


def rows(dataset: str, method: str, setting: str, seed: int) -> Iterator[dict]:
    """Scores of each latent of a model."""
    make, epochs = DATASETS[dataset]
    problem = make(seed)
    batch, types = (problem.mdata.obs[c].astype(str).to_numpy() for c in ("batch", "celltype"))
    if setting == "not told":
        del problem.mdata.obs["batch"]
    scvi.settings.seed = seed
    if method == "scvenn":
        encode = setting == "encoders told"
        latents = latents_of_scvenn(problem, epochs[method], encode_covariates=encode)
    else:
        latents = multivi(problem, seed, epochs[method]).embeddings
    train, test = problem.train, problem.test
    for latent, embedding in latents.items():
        neighbours = KNeighborsClassifier(15).fit(embedding[train], batch[train])
        probe = scvenn.metrics.probe_scores(embedding, types, train=train, test=test)
        yield {
            "data": dataset,
            "latent": f"{method}, {latent}",
            "setting": setting,
            "batch by neighbours": balanced_accuracy_score(
                batch[test], neighbours.predict(embedding[test])
            ),
            "cell type": probe["balanced_accuracy"],
        }


def latents_of_scvenn(
    problem: Problem, max_epochs: int, *, encode_covariates: bool
) -> dict[str, np.ndarray]:
    training = problem.part(problem.train)
    scvenn.MMVAEpp.setup_mudata(training, batch_key=problem.batch_key)
    model = scvenn.MMVAEpp(training, encode_covariates=encode_covariates)
    model.train(max_epochs, write_obsm=False, **QUIET)
    private = {
        f"private {m}": model.get_private_representation(m, problem.mdata) for m in model.modalities
    }
    return {"shared": model.get_shared_representation(problem.mdata), **private}


if __name__ == "__main__":
    main()
