"""What predictions gain by features that screening does not call shared, on a part of SNARE-seq.

    python benchmarks/peers/faint.py [--epochs 20] [--seed 0]

4,500 cells, all genes and the 3,000 most open peaks; scvenn as it is, scvenn without the slopes
that it learns after training, and ridge regression on principal components. The numbers are the
mean correlation, in test cells, of features that screening calls shared, of the others, and of all.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import pandas as pd
import scvi
from methods import QUIET, quietly_on_one_thread, ridge
from mudata import MuData
from problems import Problem, load

import scvenn

N_OBS, N_TRAIN, N_FEATURES = 4500, 3500, 3000
PAIRS = [("rna", "atac"), ("atac", "rna")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    quietly_on_one_thread()
    scvi.settings.seed = arguments.seed
    table = pd.DataFrame(rows(part_of_snareseq(arguments.seed), arguments.epochs, arguments.seed))
    print(table.to_string(index=False, float_format="{:.4f}".format))


def part_of_snareseq(seed: int) -> Problem:
    """Some cells and the features that are seen in most of them."""
    whole = load("snareseq", seed, smoke=False).mdata
    rng = np.random.default_rng(seed)
    cells = rng.permutation(whole.n_obs)[:N_OBS]
    modalities = {}
    for m, adata in whole.mod.items():
        seen = np.asarray((adata.X > 0).sum(0)).ravel()
        features = np.sort(np.argsort(-seen, kind="stable")[:N_FEATURES])
        modalities[m] = adata[cells][:, features].copy()
    mdata = MuData(modalities)
    for column in ("celltype", "batch"):
        mdata.obs[column] = whole.obs.loc[mdata.obs_names, column].astype(str)
    split = rng.permutation(N_OBS)
    return Problem(mdata, np.sort(split[:N_TRAIN]), np.sort(split[N_TRAIN:]))


def rows(problem: Problem, epochs: int, seed: int) -> Iterator[dict]:
    """Mean correlations of each method and direction."""
    training, test = problem.part(problem.train), problem.part(problem.test)
    scvenn.MMVAEpp.setup_mudata(training, batch_key=problem.batch_key)
    model = scvenn.MMVAEpp(training)
    model.train(epochs, write_obsm=False, **QUIET)
    by_ridge = ridge(problem, seed, None).predictions
    decoders = [branch.cross_decoder for branch in model.module.branches]
    slopes = [decoder.slope.clone() for decoder in decoders]
    for source, target in PAIRS:
        alone = MuData({source: test[source]})
        alone.obs = test.obs.loc[alone.obs_names]
        found = {"ridge on PCs": by_ridge[source, target]()}
        for name, part in (("scvenn, without slopes", 0.0), ("scvenn", 1.0)):
            for decoder, slope in zip(decoders, slopes, strict=True):
                decoder.slope.copy_(part * slope)
            predicted = model.predict(source, target, alone, return_numpy=True)
            found[name] = problem.scaled(target, predicted)
        truth = problem.scaled(target, test[target].X)
        shared = model.screening_[target].shared
        for name, predicted in found.items():
            r = np.nan_to_num(scvenn.metrics.pearson(truth, predicted))
            yield {
                "prediction": f"{source} -> {target}",
                "method": name,
                "shared": r[shared].mean(),
                "n shared": int(shared.sum()),
                "others": r[~shared].mean(),
                "all": r.mean(),
            }


if __name__ == "__main__":
    main()
