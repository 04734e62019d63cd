"""Multigrate with the losses and inputs that its documentation recommends for each modality.

Counts of RNA with a negative binomial; centred log-ratios of proteins and logarithms of normalised
peaks by squared error, as is RNA that is not counts. A modality of zeros counts as not measured.
"""

import numpy as np
import scvi
from anndata import AnnData
from exchange import Found, Given, main
from multigrate.data import organize_multimodal_anndatas
from multigrate.model import MultiVAE

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def fit(given: Given, seed: int, max_epochs: int | None) -> Found:
    scvi.settings.seed = seed
    first, second = given.measured
    values = {m: x.toarray() for m, x in given.measured.items()}
    scaled = {m: x.toarray() for m, x in given.scaled.items()}
    inputs, losses = scaled, ["mse", "mse"]
    if "rna" in given.counts:
        inputs, losses = {**scaled, "rna": values["rna"]}, ["nb", "mse"]
    if "adt" in values:
        geometric_mean = np.exp(np.log1p(values["adt"][given.train]).mean(0))
        inputs = {**inputs, "adt": np.log1p(values["adt"] / geometric_mean)}

    def readable(cells: np.ndarray, without: str | None = None) -> AnnData:
        parts = []
        for m, x in inputs.items():
            adata = AnnData(np.zeros_like(x[cells]) if m == without else x[cells])
            adata.obs_names = np.array(given.names)[cells]
            adata.var_names = m + adata.var_names
            adata.obs["batch"] = given.batch[cells]
            parts.append([adata])
        together = organize_multimodal_anndatas(parts)
        MultiVAE.setup_anndata(
            together,
            categorical_covariate_keys=["batch"],
            rna_indices_end=inputs[first].shape[1],
        )
        return together

    model = MultiVAE(readable(given.train), losses=losses)
    model.train(**({"max_epochs": max_epochs} if max_epochs else {}), **QUIET)

    def predict(target: str) -> np.ndarray:
        cells = readable(given.test, without=target)
        model.impute(cells)
        found = cells.obsm[f"imputed_modality_{[first, second].index(target)}"]
        return np.expm1(found).clip(0) * geometric_mean if target == "adt" else found

    everything = readable(np.arange(len(given.batch)))
    model.get_model_output(everything)
    of_counts = {"adt", *(["rna"] if "nb" in losses else [])}
    counts, logs = (
        {
            pair: lambda target=pair[1]: predict(target)
            for pair in given.pairs
            if (pair[1] in of_counts) == wanted
        }
        for wanted in (True, False)
    )
    return Found({"joint": everything.obsm["X_multigrate"]}, counts, logs)


if __name__ == "__main__":
    main(fit)
