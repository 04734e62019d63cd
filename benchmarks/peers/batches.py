"""What is left of batches in a latent, and what a correction costs, on seven problems.

    python benchmarks/peers/batches.py [--seeds 3] [--only far,near] [--csv FILE]

Four simulations of three batches, 1,500 cells of eight types, in which each batch multiplies every
feature of both modalities: *balanced*; *far*, in which one type is in batch 0 alone, another in no
cell of batch 1, and a third is rare in two batches; *near*, the same with stronger batches and the
lone type close to another type; and *mosaic*, in which batch 2 has no ATAC. Four sets of real
cells: CITE-seq in four batches of which one has no proteins and one no RNA; a part of SNARE-seq in
12 batches; and two runs of PBMC, 200 cells each.

A method is fitted on four fifths of the cells and embeds all; Harmony, which cannot embed new
cells, corrects scvenn's uncorrected latent of all cells. Each score is of all cells, leave one out:

- batch: balanced accuracy of the 15 nearest neighbours' batch; *within* types, on average.
- types: balanced accuracy of the 15 nearest neighbours' type.
- lone: part of the 15 nearest neighbours of cells of the lone type that are of it.
- kept: part of the 15 nearest neighbours among cells of the same type and batch, in scvenn's
  uncorrected latent, that are still neighbours.
- iLISI, kBET: of scib-metrics, 1 if batches are mixed.

Parts of the correction are taken away one at a time. On the balanced simulation, encoders are
told the batch as well (``encode_covariates=True``).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import anndata
import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import scvi
import torch
from faint import part_of_snareseq
from methods import QUIET, multivi, quietly_on_one_thread
from mudata import MuData
from problems import Problem, Unavailable
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import NearestNeighbors
from tqdm.auto import tqdm

import scvenn
from scvenn import batches

N_OBS, N_BATCHES, N_TYPES, N_FEATURES, N_LATENT = 1500, 3, 8, 200, 4
NEIGHBOURS = 15
# The seeds on which the correction was developed are 0 to 2; tables show others.
FIRST_SEED = 10
# Problems on which encoders are told the batch as well.
ENCODERS_TOLD = ("balanced",)
# What the correction does without one of its parts.
ABLATIONS = {
    "no affine shifts": {"_PRIOR_SLOPES": 1e9},
    "no deviations": {"_AFFINE": len(batches._WIDENED)},
    "not annealed": {"_WIDENED": (1.0,) * len(batches._WIDENED)},
    "no translations first": {"_TRANSLATED": 0},
    "not robust": {"_ROBUST": 1e9},
}


# ---------------------------------------------------------------------------------- problems


def simulated(
    seed: int, *, shift: float = 0.5, lone: float | None = None, mosaic: bool = False
) -> Problem:
    """Counts of RNA and open peaks; types in the latent space as in ``simulate_counts``.

    Parameters
    ----------
    seed
        Of the random numbers.
    shift
        Standard deviation of the effect of a batch on the logarithm of a feature.
    lone
        Composition depends on the batch, and the last type is in batch 0 alone, at this distance
        from the type before; infinite for as far as any other.
    mosaic
        Whether batch 2 has no ATAC.
    """
    rng = np.random.default_rng(seed)
    centres = scvenn.datasets._distant_points(N_TYPES, N_LATENT, rng)
    share = np.ones((N_BATCHES, N_TYPES))
    if lone is not None:
        share[1:, -1] = 0
        share[1, 0] = 0
        share[[0, 2], [2, 1]] = 0.2
        if np.isfinite(lone):
            step = rng.standard_normal(N_LATENT)
            centres[-1] = centres[-2] + lone * step / np.linalg.norm(step)
    share /= share.sum(1, keepdims=True)
    batch = rng.integers(N_BATCHES, size=N_OBS)
    types = np.array([rng.choice(N_TYPES, p=share[b]) for b in batch])
    z = centres[types] + 0.1 * rng.standard_normal((N_OBS, N_LATENT))
    names = pd.Index([f"cell{i}" for i in range(N_OBS)])
    built = {}
    for m, likelihood in {"rna": "nb", "atac": "bernoulli"}.items():
        weights = rng.standard_normal((N_LATENT, N_FEATURES)) / np.sqrt(N_LATENT)
        private = rng.standard_normal((N_OBS, N_LATENT))
        is_shared = np.arange(N_FEATURES) < N_FEATURES // 4
        log_rate = np.where(is_shared, z @ weights, private @ weights)
        log_rate += 0.5 * rng.standard_normal(N_FEATURES)
        log_rate += shift * rng.standard_normal((N_BATCHES, N_FEATURES))[batch]
        values = scvenn.datasets._DRAWS[likelihood](log_rate, 5.0, rng)
        measured = batch != 2 if mosaic and m == "atac" else np.ones(N_OBS, bool)
        built[m] = anndata.AnnData(
            values[measured],
            obs=pd.DataFrame(index=names[measured]),
            var=pd.DataFrame(index=[f"{m}{j}" for j in range(N_FEATURES)]),
        )
    mdata = MuData(built)
    rows = names.get_indexer(mdata.obs_names)
    mdata.obs["batch"] = [f"batch{b}" for b in batch[rows]]
    mdata.obs["celltype"] = [f"type{t}" for t in types[rows]]
    return any_split(mdata, seed)


def any_split(mdata: MuData, seed: int) -> Problem:
    """A fifth of the cells for testing, whatever modalities they have."""
    order = np.random.default_rng(seed).permutation(mdata.n_obs)
    n_test = mdata.n_obs // 5
    return Problem(mdata, np.sort(order[n_test:]), np.sort(order[:n_test]))


def data(name: str) -> Path:
    """A file of the folder of real data."""
    path = Path(os.environ.get("SCVENN_DATA", "")) / name
    if not path.is_file():
        raise Unavailable(f"{name} is not in the folder named by SCVENN_DATA")
    return path


def citeseq(seed: int) -> Problem:
    """Four batches, of which one has no proteins and one no RNA."""
    mdata = mudata.read_h5mu(data("citeseq_mosaic.h5mu"))
    for column in ("celltype", "batch"):
        mdata.obs[column] = mdata.obs[column].astype(str)
    return any_split(mdata, seed)


def proteins(seed: int) -> Problem:
    """Two runs of PBMC, the proteins that both measure and the 2,000 most variable genes."""
    runs = {run: anndata.read_h5ad(data(f"pbmc_{run}_protein_v3.h5ad")) for run in ("5k", "10k")}
    for run, adata in runs.items():
        adata.obs_names = [f"{run}_{name}" for name in adata.obs_names]
    genes = runs["5k"].var_names.intersection(runs["10k"].var_names)
    measured = {
        run: pd.DataFrame(
            adata.obsm["protein_expression"], adata.obs_names, list(adata.uns["protein_names"])
        )
        for run, adata in runs.items()
    }
    panel = pd.concat(measured.values(), join="inner").astype(np.float32)
    rna = anndata.concat([adata[:, genes] for adata in runs.values()])
    rna = anndata.AnnData(sp.csr_matrix(rna.X, dtype=np.float32), rna.obs[[]], rna.var[[]])
    logs = rna.X.log1p()
    variance = np.asarray(logs.power(2).mean(0) - np.square(logs.mean(0))).ravel()
    rna = rna[:, np.sort(np.argsort(-variance)[:2000])].copy()
    adt = anndata.AnnData(panel.to_numpy(), panel[[]], pd.DataFrame(index=panel.columns))
    mdata = MuData({"rna": rna, "adt": adt})
    mdata.obs["batch"] = [name.split("_")[0] for name in mdata.obs_names]
    return any_split(mdata, seed)


# the problem of a seed, and the most epochs of scvenn and of MULTIVI, None where it does not apply
PROBLEMS: dict[str, tuple[Callable[[int], Problem], int | None, int | None]] = {
    "balanced": (simulated, 60, 200),
    "far": (lambda seed: simulated(seed, lone=np.inf), 60, 200),
    "near": (lambda seed: simulated(seed, lone=1.5, shift=0.8), 60, 200),
    "mosaic": (lambda seed: simulated(seed, mosaic=True), 60, 200),
    "CITE-seq": (citeseq, None, None),
    "SNARE-seq": (part_of_snareseq, 20, 20),
    "PBMC runs": (proteins, None, None),
}


# ---------------------------------------------------------------------------------- latents


def trained(
    problem: Problem, max_epochs: int | None, seed: int, *, encode: bool = False
) -> scvenn.MMVAEpp:
    """A model of the training cells that is told the batch."""
    scvi.settings.seed = seed
    training = problem.part(problem.train)
    scvenn.MMVAEpp.setup_mudata(training, batch_key="batch")
    model = scvenn.MMVAEpp(training, encode_covariates=encode)
    model.train(max_epochs, write_obsm=False, **QUIET)
    return model


def encoders_told(
    problem: Problem, max_epochs: int | None, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """The shared latent of encoders that read the batch, as it is and corrected."""
    model = trained(problem, max_epochs, seed, encode=True)
    uncorrected = model.get_shared_representation(problem.mdata, batch_corrected=False)
    yield "scvenn, encoders told, uncorrected", uncorrected
    yield "scvenn, encoders told", model.get_shared_representation(problem.mdata)


def latents_of_scvenn(
    problem: Problem, max_epochs: int | None, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """The shared latent as it is, corrected, and corrected by less or by others."""
    model = trained(problem, max_epochs, seed)
    uncorrected = model.get_shared_representation(problem.mdata, batch_corrected=False)
    yield "scvenn, uncorrected", uncorrected
    yield "scvenn", model.get_shared_representation(problem.mdata)
    yield "scvenn, uncorrected + Harmony", harmony(uncorrected, problem.mdata.obs["batch"])
    code = pd.Categorical(problem.mdata.obs["batch"]).codes
    fitted, rows = uncorrected[problem.train], np.asarray(code)[problem.train]
    for name, without in ABLATIONS.items():
        with ExitStack() as changed:
            for constant, value in without.items():
                changed.enter_context(mock.patch.object(batches, constant, value))
            found = batches.learn_batch_shifts(fitted, rows, code.max() + 1, seed=0)
        latent = torch.as_tensor(uncorrected)
        yield f"scvenn, {name}", batches.corrected(latent, torch.as_tensor(code), found).numpy()


def harmony(latent: np.ndarray, batch: pd.Series) -> np.ndarray:
    """Harmony's correction of a latent, all cells at once."""
    from harmonypy import run_harmony

    found = np.asarray(run_harmony(latent, batch.to_frame("batch"), "batch", verbose=False).Z_corr)
    return found if len(found) == len(latent) else found.T


# ---------------------------------------------------------------------------------- scores


def neighbours(latent: np.ndarray) -> np.ndarray:
    """Positions of each cell's nearest others, (n, 15)."""
    k = min(NEIGHBOURS, len(latent) - 1)
    return NearestNeighbors(n_neighbors=k).fit(latent).kneighbors(return_distance=False)


def told(latent: np.ndarray, labels: np.ndarray) -> float:
    """Balanced accuracy of the majority of each cell's neighbours."""
    classes, codes = np.unique(labels, return_inverse=True)
    votes = np.eye(len(classes))[codes][neighbours(latent)].sum(1)  # (n, classes)
    return float(balanced_accuracy_score(labels, classes[votes.argmax(1)]))


def scores(latent: np.ndarray, uncorrected: np.ndarray, obs: pd.DataFrame) -> dict[str, float]:
    """All scores of one embedding, and what is expected within types by chance."""
    batch, found = obs["batch"].to_numpy(str), {}
    found["batch"] = told(latent, batch)
    if "celltype" in obs:
        types = obs["celltype"].to_numpy(str)
        within, chance, kept = [], [], []
        for t in np.unique(types):
            cells = np.flatnonzero(types == t)
            held, counts = np.unique(batch[cells], return_counts=True)
            enough = held[counts > NEIGHBOURS]
            for b in enough:
                own = cells[batch[cells] == b]
                before, after = neighbours(uncorrected[own]), neighbours(latent[own])
                pairs = zip(before, after, strict=True)
                kept.append(np.mean([np.isin(x, y).mean() for x, y in pairs]))
            if len(enough) > 1:
                cells = cells[np.isin(batch[cells], enough)]
                within.append(told(latent[cells], batch[cells]))
                chance.append(1 / len(enough))
        found |= {"within": np.mean(within), "chance": np.mean(chance), "kept": np.mean(kept)}
        found["types"] = told(latent, types)
        lone = [t for t in np.unique(types) if len(np.unique(batch[types == t])) == 1]
        if len(lone) == 1:
            of_lone = neighbours(latent)[types == lone[0]]
            found["lone"] = float((types[of_lone] == lone[0]).mean())
    return found | mixing(latent, batch)


def mixing(latent: np.ndarray, batch: np.ndarray) -> dict[str, float]:
    """Scores of scib-metrics."""
    import scib_metrics
    from scib_metrics.nearest_neighbors import pynndescent

    near = pynndescent(latent, n_neighbors=90, random_state=0, n_jobs=1)
    return {
        "iLISI": float(scib_metrics.ilisi_knn(near, batch)),
        "kBET": float(scib_metrics.kbet(near, batch)[0]),
    }


def rows(name: str, seed: int, *, epochs: tuple[int | None, int | None]) -> Iterator[dict]:
    """Scores of every method on a problem."""
    problem = PROBLEMS[name][0](seed)
    found = dict(latents_of_scvenn(problem, epochs[0], seed))
    if name in ENCODERS_TOLD:
        found |= encoders_told(problem, epochs[0], seed)
    if set(problem.mdata.mod) == {"rna", "atac"}:
        of_all = problem.mdata.obs_names
        whole = MuData({m: filled(a, of_all) for m, a in problem.mdata.mod.items()})
        whole.obs = problem.mdata.obs.loc[whole.obs_names, ["batch", "celltype"]]
        by_multivi = multivi(Problem(whole, problem.train, problem.test), seed, epochs[1])
        found["MULTIVI"] = by_multivi.embeddings["joint"]
    uncorrected = found["scvenn, uncorrected"]
    for method, latent in found.items():
        of_method = scores(latent, uncorrected, problem.mdata.obs)
        yield {"problem": name, "method": method, "seed": seed, **of_method}


def filled(adata: anndata.AnnData, names: pd.Index) -> anndata.AnnData:
    """All cells; those that were not measured without counts, as MULTIVI wants it."""
    rows = adata.obs_names.get_indexer(names)
    known = sp.diags((rows >= 0).astype(np.float32))
    return anndata.AnnData(
        sp.csr_matrix(known @ adata.X[np.where(rows >= 0, rows, 0)]),
        obs=pd.DataFrame(index=names),
        var=adata.var[[]],
    )


# ---------------------------------------------------------------------------------- table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=",".join(PROBLEMS), help="problems, with commas between")
    parser.add_argument("--csv", type=Path, help="where to write the scores of every seed")
    arguments = parser.parse_args()
    quietly_on_one_thread()
    found = []
    jobs = [
        (name, FIRST_SEED + k) for name in arguments.only.split(",") for k in range(arguments.seeds)
    ]
    for name, seed in tqdm(jobs):
        found += rows(name, seed, epochs=PROBLEMS[name][1:])
        table = pd.DataFrame(found)
        if arguments.csv:
            table.to_csv(arguments.csv, index=False, float_format="%.4f")
    mean = table.drop(columns="seed").groupby(["problem", "method"], sort=False).mean()
    print(mean.to_string(float_format="{:.3f}".format, na_rep="–"))


if __name__ == "__main__":
    main()
