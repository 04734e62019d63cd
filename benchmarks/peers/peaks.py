"""Which likelihood serves counts of peaks: nb, poisson, or bernoulli of whether there is one.

    python benchmarks/peers/peaks.py [--seeds 3] [--csv FILE]

4,500 cells of SNARE-seq, all genes and the 3,000 most open peaks, as in faint.py; and the reduced
PBMC multiome, whose genes are real values; 20 epochs. Scores are of test cells: cell types from
embeddings by a linear probe (balanced accuracy); the batch, where there is one, by the 15 nearest
neighbours in the corrected shared latent; and mean correlations of predictions with the values (of
counts log1p at median depth), and with whether a peak is open.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import scvi
from batches import told
from faint import part_of_snareseq
from methods import QUIET, quietly_on_one_thread
from mudata import MuData
from problems import Problem, load
from tqdm import tqdm

import scvenn

DATA = {"SNARE-seq": part_of_snareseq, "PBMC": partial(load, "pbmc", smoke=False)}
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
    for data, seed in tqdm([(data, seed) for data in DATA for seed in range(arguments.seeds)]):
        found += rows(data, seed)
        table = pd.DataFrame(found)
        if arguments.csv:
            table.to_csv(arguments.csv, index=False, float_format="%.4f")
    mean = table.drop(columns="seed").groupby(["data", "likelihood"], sort=False).mean()
    print(mean.to_string(float_format="{:.3f}".format, na_rep="–"))


def rows(data: str, seed: int) -> Iterator[dict]:
    """Scores of each likelihood."""
    problem = DATA[data](seed=seed)
    for likelihood in LIKELIHOODS:
        found = scores(problem, likelihood, seed)
        yield {"data": data, "likelihood": likelihood, "seed": seed, **found}


def scores(problem: Problem, likelihood: str, seed: int) -> dict[str, float]:
    """Scores of a model whose peaks have this likelihood."""
    mdata = problem.mdata.copy()
    if likelihood == "bernoulli":
        mdata["atac"].X = (mdata["atac"].X > 0).astype(np.float32)
    training, test = mdata[problem.train].copy(), mdata[problem.test].copy()
    scvi.settings.seed = seed
    scvenn.MMVAEpp.setup_mudata(
        training, batch_key=problem.batch_key, likelihoods={"atac": likelihood}
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
    shared, of_batch = model.get_shared_representation(mdata), {}
    if problem.batch_key:
        batch = test.obs[problem.batch_key].to_numpy(str)
        of_batch["batch, shared"] = told(shared[problem.test], batch)
    return {
        "types, shared": types(shared),
        "types, all": types(model.get_latent_representation(mdata)),
        **of_batch,
        **{name: np.nan_to_num(values).mean() for name, values in found.items()},
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
