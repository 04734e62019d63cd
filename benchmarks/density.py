"""Seconds of a training step on sparse and on dense minibatches, by the density of counts.

    python benchmarks/density.py        # prints a table, in about fifteen minutes

Minibatches are sparse below the density in ``scvenn/data/registry.py``; this shows where both ways
take as long. Data are counts of 2,000 and 20,000 features in 1,024 cells, beside 50 proteins.
"""

from __future__ import annotations

import time
import warnings

import mudata
import numpy as np
import pandas as pd
import scvi
import torch
from speed import BATCH_SIZE, QUIET, sparse_counts

import scvenn
from scvenn.data import registry

N_CELLS, EPOCHS, ROUNDS = 1024, 3, 2
# Numbers of features, and counts of a cell, which make the densities.
CASES = [(d, int(d * share)) for d in (2_000, 20_000) for share in (0.04, 0.16, 0.36)]
WAYS = {"dense": 0.0, "sparse": 1.1}  # densities below which minibatches are sparse


def data(n_features: int, n_counts: int) -> mudata.MuData:
    """Counts and proteins of cells of eight types."""
    types = np.random.default_rng(0).integers(0, 8, N_CELLS)
    rna = sparse_counts(N_CELLS, n_features, n_counts, types, 1)
    adt = sparse_counts(N_CELLS, 50, 500, types, 2)
    rna.var_names, adt.var_names = "gene" + rna.var_names, "protein" + adt.var_names
    return mudata.MuData({"rna": rna, "adt": adt})


def milliseconds(mdata: mudata.MuData, *, screen: bool) -> dict[str, float]:
    """CPU time of a step in either way, which train in turns; the best of some rounds."""
    found = dict.fromkeys(WAYS, np.inf)
    models = {}
    kept = registry._LEAST_DENSE, registry._LEAST_DENSE_WIDE
    try:
        for number in range(ROUNDS + 1):  # the first, with screening, is not counted
            for way, least in WAYS.items():
                registry._LEAST_DENSE = registry._LEAST_DENSE_WIDE = least
                if number == 0:
                    scvi.settings.seed = 0
                    own = mdata.copy()
                    scvenn.MMVAEpp.setup_mudata(own)
                    models[way] = scvenn.MMVAEpp(own, screen=screen)
                start = time.process_time()
                models[way].train(
                    EPOCHS, train_size=1.0, batch_size=BATCH_SIZE, write_obsm=False, **QUIET
                )
                steps = EPOCHS * -(-N_CELLS // BATCH_SIZE)
                if number:
                    spent = 1000 * (time.process_time() - start) / steps
                    found[way] = min(found[way], spent)
    finally:
        registry._LEAST_DENSE, registry._LEAST_DENSE_WIDE = kept
    return found


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = []
    for n_features, n_counts in CASES:
        mdata = data(n_features, n_counts)
        density = mdata["rna"].X.nnz / np.prod(mdata["rna"].shape)
        for screen in (True, False):
            found = milliseconds(mdata, screen=screen)
            rows.append({"features": n_features, "density": density, "screen": screen, **found})
            print(pd.DataFrame(rows).round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
