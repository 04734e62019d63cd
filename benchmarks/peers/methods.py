"""The methods: each is fitted on the training cells, then embeds all cells and predicts.

A function here takes a problem, a seed and a bound on the epochs, and returns what was found. Each
package runs with its own defaults, on the CPU; where it takes a batch it is given it. Test cells
whose modality is to be predicted are given without it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from problems import Problem
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

N_COMPONENTS = 30
# Sizes of scvenn's shared latent, and of that with the private ones.
N_SHARED, N_TOTAL = 10, 30
# Correlation of both variates in test cells, of canonical dimensions that reproduce.
LEAST_CORRELATION = 0.1
NEIGHBOURS = (10, 30, 100)
ALPHAS = np.logspace(-1, 5, 7)
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def quietly_on_one_thread() -> None:
    """Show no warnings and no information of libraries, and have torch compute on one thread."""
    import scvi
    import torch

    for name in ("lightning.pytorch", "lightning.fabric", "scvi", "scib_metrics", "harmonypy"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    scvi.settings.verbosity = logging.ERROR
    torch.set_num_threads(1)


@dataclass
class Fitted:
    """What a method found."""

    # of all cells, by name
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)
    # of the test cells on the scale of `Problem.scaled`, by source and target
    predictions: dict[tuple[str, str], Callable[[], np.ndarray]] = field(default_factory=dict)
    # seconds and memory by metric, where another process fitted
    costs: dict[str, float] = field(default_factory=dict)


def scvenn(problem: Problem, seed: int, max_epochs: int | None) -> Fitted:
    """MMVAE++ on raw counts; its shared latent, of each modality alone, and all latents."""
    import scvenn

    training = problem.part(problem.train)
    scvenn.MMVAEpp.setup_mudata(training, batch_key=problem.batch_key)
    model = scvenn.MMVAEpp(training)
    model.train(max_epochs, write_obsm=False, **QUIET)
    test = problem.part(problem.test)

    def predict(source: str, target: str) -> np.ndarray:
        without = MuData({source: test[source]})
        without.obs = test.obs.loc[without.obs_names]
        return problem.scaled(target, model.predict(source, target, without, return_numpy=True))

    shared = model.get_shared_representation
    return Fitted(
        {
            "shared": shared(problem.mdata),
            "shared + private": model.get_latent_representation(problem.mdata),
            **{
                f"shared from {m} alone": shared(problem.mdata, from_modalities=m)
                for m in problem.mdata.mod
            },
        },
        {pair: lambda pair=pair: predict(*pair) for pair in problem.pairs},
    )


def multivi(problem: Problem, seed: int, max_epochs: int | None) -> Fitted:
    """MULTIVI; it takes a modality of which a cell has no counts for one that was not measured."""
    from scvi.model import MULTIVI

    training = problem.part(problem.train)
    MULTIVI.setup_mudata(
        training,
        batch_key=problem.batch_key,
        modalities={"rna_layer": "rna", "atac_layer": "atac"},
    )
    model = MULTIVI(training)
    model.train(**_bound(max_epochs), **QUIET)

    def readable(cells: np.ndarray) -> MuData:
        mdata = problem.part(cells)
        mdata.obs["_indices"] = np.arange(
            mdata.n_obs
        )  # set up in the training cells, asked for here
        return mdata

    def predict(target: str) -> np.ndarray:
        without = readable(problem.test)
        without[target].X = sp.csr_matrix(without[target].shape, dtype=np.float32)
        if target == "rna":
            values = model.get_normalized_expression(without, return_numpy=True)
        else:  # region factors are part of what is expected in the data
            values = model.get_normalized_accessibility(
                without, normalize_regions=True, return_numpy=True
            )
        return problem.scaled(target, values)

    return Fitted(
        {"joint": model.get_latent_representation(readable(np.arange(problem.mdata.n_obs)))},
        {(source, target): lambda t=target: predict(t) for source, target in problem.pairs},
    )


def totalvi(problem: Problem, seed: int, max_epochs: int | None) -> Fitted:
    """totalVI; proteins are predicted by a second model, RNA not at all.

    Its encoder reads RNA and proteins together and never sees cells without proteins unless a
    batch of the training data lacks them. So, as its documentation has it, a model for predictions
    is trained on the training cells and on the RNA of the test cells, which are batches of their
    own; their proteins are then decoded as in the batch they came from.
    """
    from scvi.model import TOTALVI

    def fit(mdata: MuData, batch_key: str | None) -> TOTALVI:
        TOTALVI.setup_mudata(
            mdata, batch_key=batch_key, modalities={"rna_layer": "rna", "protein_layer": "adt"}
        )
        model = TOTALVI(mdata)
        model.train(max_epochs, **QUIET)
        return model

    def predict() -> np.ndarray:
        mdata = _with_dense_proteins(problem.mdata)
        mdata["adt"].X[problem.test] = 0
        batch = mdata.obs["batch"].to_numpy(object)
        mdata.obs["measured"] = batch.copy()
        mdata.obs.iloc[problem.test, mdata.obs.columns.get_loc("measured")] = [
            f"{name}, rna only" for name in batch[problem.test]
        ]
        model = fit(mdata, "measured")
        values = np.empty((len(problem.test), mdata["adt"].n_vars), np.float32)
        for name in np.unique(batch):
            rows = batch[problem.test] == name
            values[rows] = model.get_normalized_expression(
                indices=problem.test[rows],
                transform_batch=[name],
                include_protein_background=True,
                n_samples=25,  # as in its tutorials; one sample, the default, is noisy
                return_numpy=True,
            )[1]
        return problem.scaled("adt", values)

    model = fit(_with_dense_proteins(problem.part(problem.train)), problem.batch_key)
    embedding = model.get_latent_representation(_with_dense_proteins(problem.mdata))
    return Fitted({"joint": embedding}, {("rna", "adt"): predict})


def mofa(problem: Problem, seed: int, max_epochs: int | None) -> Fitted:
    """MOFA+ on logarithms of normalised counts, of all cells: it cannot embed new ones."""
    import muon

    mdata = MuData(
        {
            m: AnnData(
                problem.scaled(m, adata.X), obs=pd.DataFrame(index=adata.obs_names), var=adata.var
            )
            for m, adata in problem.mdata.mod.items()
        }
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        muon.tl.mofa(
            mdata,
            use_var=None,
            likelihoods="gaussian",
            seed=seed,
            save_data=False,
            outfile=str(Path(folder) / "mofa.hdf5"),
        )
    return Fitted({"joint": mdata.obsm["X_mofa"]})


def pca(problem: Problem, seed: int, max_epochs: int | None) -> Fitted:
    """Principal components of one modality, and as many of both beside each other.

    Of both, those of each modality have a variance of 1 in all.
    """
    parts = {m: _components(problem, m, seed) for m in problem.mdata.mod}

    def beside(n_each: int) -> np.ndarray:
        chosen = [part[:, :n_each] for part in parts.values()]
        return np.hstack([part / np.sqrt(part[problem.train].var(0).sum()) for part in chosen])

    found = {f"{n} + {n}": beside(n) for n in (N_TOTAL // 2, N_SHARED // 2)}
    return Fitted(found | {f"{m} alone": part[:, :N_SHARED] for m, part in parts.items()})


def cca(problem: Problem, seed: int, max_epochs: int | None) -> Fitted:
    """Canonical correlation of both modalities' principal components, the mean of both variates.

    The covariance of each is shrunken as Ledoit & Wolf (2004) have it, which is the regularisation.
    Besides all dimensions, those whose variates are correlated in the test cells as well.
    """
    scores, to_white = [], []
    for m in problem.mdata.mod:
        components = _components(problem, m, seed)
        fitted = LedoitWolf().fit(components[problem.train])
        value, vector = np.linalg.eigh(fitted.covariance_)
        scores.append(components - fitted.location_)
        to_white.append(vector / np.sqrt(value) @ vector.T)
    whitened = [z @ w for z, w in zip(scores, to_white, strict=True)]
    one, other = (z[problem.train] for z in whitened)
    left, _, right = np.linalg.svd(one.T @ other / len(one))
    variates = [whitened[0] @ left[:, :N_SHARED], whitened[1] @ right[:N_SHARED].T]
    mean = (variates[0] + variates[1]) / 2
    one, other = (z[problem.test] for z in variates)
    again = np.array([np.corrcoef(*pair)[0, 1] for pair in zip(one.T, other.T, strict=True)])
    reproduced = again >= min(LEAST_CORRELATION, again.max())  # the best one in any case
    return Fitted({"joint": mean, "that reproduce": mean[:, reproduced]})


def ridge(problem: Problem, seed: int, max_epochs: int | None) -> Fitted:
    """Ridge regression from principal components of one modality to the other."""

    def predict(source: str, target: str) -> np.ndarray:
        components = _components(problem, source, seed)
        train, test = components[problem.train], components[problem.test]
        x = problem.mdata[target].X
        values = np.empty((len(problem.test), x.shape[1]), np.float32)
        y = problem.scaled(target, x[problem.train])
        for start in range(0, x.shape[1], 2000):  # RidgeCV makes several copies of its target
            block = slice(start, start + 2000)
            model = make_pipeline(StandardScaler(), RidgeCV(ALPHAS, alpha_per_target=True))
            values[:, block] = model.fit(train, y[:, block]).predict(test)
        return values

    # at once: for this method, predicting is what takes the time
    found = {pair: predict(*pair) for pair in problem.pairs}
    return Fitted(predictions={pair: lambda values=v: values for pair, v in found.items()})


def knn(problem: Problem, seed: int, max_epochs: int | None) -> Fitted:
    """The mean over the nearest training cells, by principal components of the source.

    How many is chosen by the correlation in a tenth of the training cells.
    """
    from scvenn import metrics

    fitted, chosen = train_test_split(problem.train, test_size=0.1, random_state=seed)

    def predict(source: str, target: str) -> np.ndarray:
        components, x = _components(problem, source, seed), problem.mdata[target].X

        def neighbours_mean(of: np.ndarray, cells: np.ndarray, n: int) -> np.ndarray:
            found = NearestNeighbors(n_neighbors=n).fit(components[cells])
            weights = found.kneighbors_graph(components[of]) / n  # (test, train)
            return weights @ problem.scaled(target, x[cells])

        truth = problem.scaled(target, x[chosen])
        best = max(
            NEIGHBOURS,
            key=lambda n: np.nanmean(metrics.pearson(truth, neighbours_mean(chosen, fitted, n))),
        )
        return neighbours_mean(problem.test, problem.train, best)

    found = {pair: predict(*pair) for pair in problem.pairs}
    return Fitted(predictions={pair: lambda values=v: values for pair, v in found.items()})


FUNCTIONS = {
    "scvenn": scvenn,
    "MULTIVI": multivi,
    "totalVI": totalvi,
    "MOFA+": mofa,
    "PCA": pca,
    "CCA": cca,
    "ridge": ridge,
    "kNN": knn,
}


def _components(problem: Problem, modality: str, seed: int) -> np.ndarray:
    """Principal components of a modality for all cells, fitted on the training cells.

    Peaks are weighed by TF-IDF; the first component of these says how many a cell has and is left
    out, as usual.
    """
    x = problem.mdata[modality].X
    if modality == "atac":
        svd = TruncatedSVD(N_COMPONENTS + 1, random_state=seed)
        return make_pipeline(TfidfTransformer(), svd).fit(x[problem.train]).transform(x)[:, 1:]
    values = problem.scaled(modality, x)
    return PCA(N_COMPONENTS, random_state=seed).fit(values[problem.train]).transform(values)


def _bound(max_epochs: int | None) -> dict[str, int]:
    """MULTIVI's own default is a number, not None."""
    return {} if max_epochs is None else {"max_epochs": max_epochs}


def _with_dense_proteins(mdata: MuData) -> MuData:
    """A copy; totalVI looks for proteins that a batch lacks in dense arrays only."""
    copy = mdata.copy()
    copy["adt"].X = copy["adt"].X.toarray()
    return copy
