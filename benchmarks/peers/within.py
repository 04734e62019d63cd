"""What RNA shares with ATAC or proteins within cell types, on three sets of real cells.

    python benchmarks/peers/within.py [--seed 0] [--csv FILE]

For each modality: the part of its features that the other modality predicts (screening, false
discovery rate 5 %), the same within cell types, and the same if cells are shuffled within types
beforehand, so that nothing is shared but which type a cell is of: what is then called shared within
types is wrong. Batches are regressed out where the data has them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import scvi
from methods import quietly_on_one_thread
from mudata import MuData
from problems import load

import scvenn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, help="where to write the table")
    arguments = parser.parse_args()
    quietly_on_one_thread()
    rows = []
    for dataset in ("snareseq", "citeseq", "pbmc"):
        problem = load(dataset, arguments.seed, smoke=False)
        mdata, batch_key = problem.mdata, problem.batch_key
        found = {}
        for name, data in (("", mdata), (", shuffled", shuffled(mdata, arguments.seed))):
            for given in (None, "celltype"):
                scvi.settings.seed = arguments.seed
                table = scvenn.pp.shared_features(
                    data, given=given, batch_key=batch_key, inplace=False
                )
                if given is not None:
                    by_type = table[table["group"] != "all"]
                    table = table[table["group"] == "all"]
                    some = by_type.groupby(["modality", "feature"])["shared"].any()
                    found["in some type by itself" + name] = some.groupby("modality").mean()
                key = ("within types" if given else "at all") + name
                found[key] = table.groupby("modality")["shared"].mean()
        rows += [
            {"data": dataset, "modality": m, "features": mdata[m].n_vars}
            | {key: of[m] for key, of in found.items()}
            for m in mdata.mod
        ]
    table = pd.DataFrame(rows)
    if arguments.csv:
        table.to_csv(arguments.csv, index=False, float_format="%.4f")
    print(table.to_string(index=False, float_format="{:.3f}".format))


def shuffled(mdata: MuData, seed: int) -> MuData:
    """The same values, those of all modalities but the first from other cells of the same type."""
    rng = np.random.default_rng(seed)
    types = mdata.obs["celltype"].to_numpy(str)
    order = np.arange(mdata.n_obs)
    for t in np.unique(types):
        cells = np.flatnonzero(types == t)
        order[cells] = rng.permutation(cells)
    first, *others = mdata.mod
    modalities = {first: mdata[first].copy()}
    for m in others:
        modalities[m] = mdata[m][order].copy()
        modalities[m].obs_names = mdata.obs_names
    new = MuData(modalities)
    for column in mdata.obs.columns.intersection(["celltype", "batch"]):
        new.obs[column] = mdata.obs[column]
    return new


if __name__ == "__main__":
    main()
