"""Which likelihood serves counts of peaks: nb, poisson, or bernoulli of whether there is one.

    python benchmarks/peers/peaks.py [--seeds 3] [--csv FILE]

4,500 cells of SNARE-seq, all genes and the 3,000 most open peaks, as in faint.py, 20 epochs. Scores
are of test cells: cell types from embeddings by a linear probe (balanced accuracy), and mean
correlations of predictions with log1p of counts at median depth, and with whether a peak is open.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import scvi
from faint import part_of_snareseq
from methods import QUIET, quietly_on_one_thread
from mudata import MuData
from problems import Problem
from tqdm import tqdm

import scvenn

LIKELIHOODS = ("nb", "poisson", "bernoulli")
EPOCHS = 20
# Cells of a type that are probed for, at least.
LEAST_CELLS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--csv", type=Path, help="where to write the scores of every seed")
    arguments = parser.parse_args()
    quietly_on_one_thread()
    found = []
    for seed in tqdm(range(arguments.seeds)):
        found += rows(seed)
        table = pd.DataFrame(found)
        if arguments.csv:
            table.to_csv(arguments.csv, index=False, float_format="%.4f")
    mean = table.drop(columns="seed").groupby("likelihood", sort=False).mean()
    print(mean.to_string(float_format="{:.3f}".format))


def rows(seed: int) -> Iterator[dict]:
    """Scores of each likelihood."""
    problem = part_of_snareseq(seed)
    for likelihood in LIKELIHOODS:
        yield {"likelihood": likelihood, "seed": seed, **scores(problem, likelihood, seed)}


def scores(problem: Problem, likelihood: str, seed: int) -> dict[str, float]:
    """Scores of a model whose peaks have this likelihood."""
    mdata = problem.mdata.copy()
    if likelihood == "bernoulli":
        mdata["atac"].X = (mdata["atac"].X > 0).astype(np.float32)
    training, test = mdata[problem.train].copy(), mdata[problem.test].copy()
    scvi.settings.seed = seed
    scvenn.MMVAEpp.setup_mudata(
        training, batch_key=problem.batch_key, likelihoods={"rna": "nb", "atac": likelihood}
    )
    start = time.process_time()
    model = scvenn.MMVAEpp(training)
    model.train(EPOCHS, write_obsm=False, **QUIET)
    seconds = time.process_time() - start

    celltype = problem.mdata.obs["celltype"]
    known = celltype.where(celltype.map(celltype.value_counts()) >= LEAST_CELLS)

    def types(embedding: np.ndarray) -> float:
        split = {"train": problem.train, "test": problem.test}
        return scvenn.metrics.probe_scores(embedding, known, **split)["balanced_accuracy"]

    def predicted(source: str, target: str) -> np.ndarray:
        alone = MuData({source: test[source]})
        alone.obs = test.obs.loc[alone.obs_names]
        return model.predict(source, target, alone, return_numpy=True)

    peaks, counts = predicted("rna", "atac"), problem.mdata[problem.test]
    correlations = {
        "genes": (counts["rna"].X, predicted("atac", "rna"), "rna"),
        "peaks": (counts["atac"].X, peaks, "atac"),
    }
    found = {
        name: scvenn.metrics.pearson(problem.scaled(m, truth), problem.scaled(m, values))
        for name, (truth, values, m) in correlations.items()
    }
    is_open = (counts["atac"].X > 0).toarray().astype(np.float32)
    found["open peaks"] = scvenn.metrics.pearson(is_open, peaks)
    return {
        "types, shared": types(model.get_shared_representation(mdata)),
        "types, all": types(model.get_latent_representation(mdata)),
        **{name: np.nan_to_num(values).mean() for name, values in found.items()},
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
