"""Time of noticing that data was changed, as a share of an epoch: ``python fingerprint.py``.

Every call on a model's own data compares it with what was set up. Two sizes, of random counts:
10,000 cells with 2,000 dense and 20,000 sparse features, and 900 cells with 3,000 dense features
in each of two modalities. Columns of obs are part of it. The largest share should be below 1 %.
"""

import time

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import scipy.sparse as sp

import scvenn

SIZES = {
    "10,000 cells, 2,000 dense and 20,000 sparse (CSR)": (10_000, "dense", 2_000, "csr", 20_000),
    "10,000 cells, 2,000 dense and 20,000 sparse (CSC)": (10_000, "dense", 2_000, "csc", 20_000),
    "900 cells, 3,000 and 3,000 dense": (900, "dense", 3_000, "dense", 3_000),
}


def counts(n, kind, n_features, rng):
    if kind == "dense":
        return rng.poisson(0.5, (n, n_features)).astype(np.float32)
    made = sp.random(n, n_features, 0.05, kind, np.float32, rng, data_rvs=np.ones)
    made.sum_duplicates()
    return made


def data(n, kind1, d1, kind2, d2):
    rng = np.random.default_rng(0)
    mdata = md.MuData(
        {
            m: ad.AnnData(
                counts(n, kind, d, rng),
                obs=pd.DataFrame(index=[f"cell{i}" for i in range(n)]),
                var=pd.DataFrame(index=[f"{m}_{j}" for j in range(d)]),
            )
            for m, kind, d in (("rna", kind1, d1), ("atac", kind2, d2))
        }
    )
    mdata.obs["batch"] = rng.choice(["a", "b", "c"], n)
    mdata.obs["age"] = rng.uniform(20, 80, n)
    return mdata


def main():
    for name, size in SIZES.items():
        mdata = data(*size)
        scvenn.MMVAEpp.setup_mudata(
            mdata, batch_key="batch", continuous_covariate_keys=["age"], labels_key=None
        )
        model = scvenn.MMVAEpp(mdata, screen=False)
        quiet = {"enable_progress_bar": False, "write_obsm": False, "early_stopping": False}
        model.train(1, **quiet)  # what is made once
        epochs = []
        for n_epochs in (1, 2):
            start = time.perf_counter()
            model.train(n_epochs, **quiet)
            epochs.append(time.perf_counter() - start)
        epoch = epochs[1] - epochs[0]
        checks = []
        for _ in range(5):
            start = time.perf_counter()
            model.adata_manager.check_unchanged(labels=True)
            checks.append(time.perf_counter() - start)
        check = min(checks)
        print(
            f"{name}: {1e3 * check:.0f} ms, {100 * check / epoch:.2f} % of an epoch ({epoch:.1f} s)"
        )


if __name__ == "__main__":
    main()
