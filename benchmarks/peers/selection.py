"""What choosing features by ``scvenn.pp.shared_features`` does to other tools.

    python benchmarks/peers/selection.py [--seeds 3] [--csv FILE]

Each tool runs on all features, on those that screening of the training cells calls shared, and on
as many that vary most in the training cells (variance of log1p of counts at median depth): totalVI,
MOFA+ and PCA on the paired cells of CITE-seq, MULTIVI (20 epochs) and PCA on 4,500 cells of
SNARE-seq, the part of faint.py. Scores are those of run.py: cell types of test cells by a linear
probe, by the 15 nearest training cells, and by Leiden clusters of the test cells. Of PCA, the row
is that of five components of each modality.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import scvi
import torch
from faint import part_of_snareseq
from methods import FUNCTIONS, quietly_on_one_thread
from problems import Problem, load
from scores import of_types
from tqdm import tqdm

import scvenn

# data, tools and the most epochs of each
TOOLS = {
    "citeseq": {"totalVI": None, "MOFA+": None, "PCA": None},
    "snareseq": {"MULTIVI": 20, "PCA": None},
}
# The embedding that is scored, of tools that have several.
EMBEDDING = {"PCA": "5 + 5"}
# The seeds of the tables of run.py are others.
FIRST_SEED = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--csv", type=Path, help="where to write the scores of every seed")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    quietly_on_one_thread()
    found = []
    for seed in tqdm(range(FIRST_SEED, FIRST_SEED + arguments.seeds)):
        for dataset in TOOLS:
            for row in rows(dataset, seed):
                found.append(row)
                table = pd.DataFrame(found)
                if arguments.csv:
                    table.to_csv(arguments.csv, index=False, float_format="%.4f")
    mean = table.drop(columns="seed").groupby(["data", "tool", "chosen"], sort=False).mean()
    print(mean.to_string(float_format="{:.3f}".format))


def rows(dataset: str, seed: int) -> Iterator[dict]:
    """Scores of each tool by which features it was given."""
    whole = load(dataset, seed, smoke=False) if dataset == "citeseq" else part_of_snareseq(seed)
    for chosen, features in choices(whole, seed).items():
        problem = whole.of_features(features)
        for tool, max_epochs in TOOLS[dataset].items():
            scvi.settings.seed = seed
            torch.set_num_threads(1)  # scoring sets it back
            embeddings = FUNCTIONS[tool](problem, seed, max_epochs).embeddings
            yield {
                "data": dataset,
                "tool": tool,
                "chosen": chosen,
                "seed": seed,
                "features": sum(int(kept.sum()) for kept in features.values()),
                **of_types(problem, embeddings[EMBEDDING.get(tool, "joint")]),
            }


def choices(problem: Problem, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Features of each modality, boolean, by how they were chosen from the training cells."""
    training = problem.part(problem.train)
    scvi.settings.seed = seed
    scvenn.pp.shared_features(training, batch_key=problem.batch_key)
    found: dict[str, dict[str, np.ndarray]] = {"all": {}, "shared": {}, "most variable": {}}
    for m, adata in training.mod.items():
        shared = adata.var["scvenn_shared"].to_numpy(bool)
        variance = problem.scaled(m, adata.X).var(0)
        varied = np.zeros(adata.n_vars, bool)
        varied[np.argsort(-variance, kind="stable")[: shared.sum()]] = True
        found["all"][m] = np.ones(adata.n_vars, bool)
        found["shared"][m], found["most variable"][m] = shared, varied
    return found


if __name__ == "__main__":
    main()
