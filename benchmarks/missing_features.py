"""Latents of cells of which half the features are missing: three ways to put something there.

    python benchmarks/missing_features.py [--seeds 3]

A model is trained on all cells and features of CITE-seq (892 cells, the 2,000 most variable genes).
Then half the genes, or half the proteins, are taken away. Shown is the squared error of the shared
latent, read from this modality alone, relative to its variance, where missing features are

- *zero*, as is often done,
- *mean*: what the features have on average, at the depth of the cell,
- *predicted*: the same, and then what the latents predict (as ``map_query`` does).
"""

from __future__ import annotations

import argparse
import logging
import warnings
from unittest import mock

import numpy as np
import pandas as pd
import scanpy as sc
import scvi
import torch
from mudata import MuData
from tqdm.auto import tqdm

import scvenn
from scvenn.network import Branch

QUIET = {"enable_progress_bar": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    scvi.settings.verbosity = logging.ERROR
    torch.set_num_threads(1)
    rows = [row for seed in tqdm(range(arguments.seeds)) for row in errors(seed)]
    table = pd.DataFrame(rows).groupby("half of", sort=False).mean().drop(columns="seed")
    print(table.round(3).to_string())


def cells() -> MuData:
    """Raw counts of the most variable genes, and of the proteins."""
    mdata = scvenn.datasets.pbmc_citeseq()
    rna = mdata["rna"]
    logs = sc.pp.log1p(sc.pp.normalize_total(rna, copy=True), copy=True)
    sc.pp.highly_variable_genes(logs, n_top_genes=2000)
    found = MuData({"rna": rna[:, logs.var["highly_variable"]].copy(), "adt": mdata["adt"].copy()})
    found.obs["batch"] = "all"
    return found


def errors(seed: int) -> list[dict]:
    """Of each modality and way, for one model."""
    mdata = cells()
    scvi.settings.seed = seed
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key="batch")
    model = scvenn.MMVAEpp(mdata)
    model.train(60, write_obsm=False, **QUIET)
    found = []
    for m in model.modalities:
        names = mdata[m].var_names
        kept = np.sort(np.random.default_rng(seed).permutation(len(names))[len(names) // 2 :])
        fewer, zero = mdata.copy(), mdata.copy()
        fewer.mod[m] = fewer[m][:, kept].copy()
        fewer.update()
        x = zero[m].X.toarray() if hasattr(zero[m].X, "toarray") else zero[m].X.copy()
        x[:, np.setdiff1d(np.arange(len(names)), kept)] = 0
        zero[m].X = x
        mapped = model.map_query(fewer, **QUIET)
        whole = model.get_shared_representation(from_modalities=m)
        with mock.patch.object(Branch, "filled", lambda self, view, *latents: view):
            mean = mapped.get_shared_representation(from_modalities=m)
        latents = {
            "zero": model.get_shared_representation(zero, from_modalities=m),
            "mean": mean,
            "predicted": mapped.get_shared_representation(from_modalities=m),
        }
        spread = np.square(whole - whole.mean(0)).sum()
        of_ways = {way: np.square(z - whole).sum() / spread for way, z in latents.items()}
        found.append({"half of": m, "seed": seed} | of_ways)
    return found


if __name__ == "__main__":
    main()
