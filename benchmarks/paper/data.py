"""The data sets of the paper's experiments: MuData with a label and marks of what is shared.

Each function gives a MuData whose modalities mark in ``var["shared"]`` the features that concern
the label (or, in the simulation, the shared latent); all others are there to dominate. Real data
has the label in ``obs["label"]``, 0 or 1. As in the paper, features are ranked by their absolute
Pearson correlation with the label over *all* samples, the later test samples among them: this
chooses the problem that is posed, not the answer to it, but it does flatter every method's scores.
"""

from __future__ import annotations

import os
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

import scvenn


class Unavailable(Exception):
    """The data of an experiment is not to be had here."""


def synthetic(n_other: int, *, seed: int, n_obs: int = 1000) -> MuData:
    """Section 4.1: P1 = P2 = 10, Q2 = 100, Q1 = ``n_other``; latents 2+2+2."""
    return scvenn.datasets.simulate_gp(n_obs, n_private_features=(n_other, 100), seed=seed)


def cll(n_other: int, *, seed: int) -> MuData:
    """Section 4.2: the 126 patients with RNA, methylation and known IGHV status."""
    mdata = _read(scvenn.datasets.cll)
    both = mdata.obs_names.isin(mdata["rna"].obs_names)
    both &= mdata.obs_names.isin(mdata["meth"].obs_names)
    patients = mdata.obs_names[both & mdata.obs["IGHV"].notna()]
    label = mdata.obs.loc[patients, "IGHV"].to_numpy(float)
    return _ranked(
        {m: mdata[m][patients] for m in ("rna", "meth")},
        label,
        {"rna": (10, n_other), "meth": (10, 100)},
    )


def brca(rna: tuple[int, int], meth: tuple[int, int], *, seed: int) -> MuData:
    """A stand-in for section 4.3: 330 tumours with known ER status, smaller matrices.

    ``rna`` and ``meth`` are the numbers of features with the highest and the lowest correlation.
    Beta values are turned into M-values, as in the paper.
    """
    mdata = _file("brca.h5mu")
    status = mdata.obs["ER_status"].astype(str)
    tumours = mdata.obs_names[status.isin(["Positive", "Negative"])]
    modalities = {"rna": mdata["rna"][tumours].copy(), "meth": mdata["meth"][tumours].copy()}
    beta = np.clip(modalities["meth"].X, 1e-3, 1 - 1e-3)
    modalities["meth"].X = np.log2(beta / (1 - beta))
    label = (status[tumours] == "Positive").to_numpy(float)
    return _ranked(modalities, label, {"rna": tuple(rna), "meth": tuple(meth)})


def pbmc(n_other: int, *, seed: int, n_obs: int | None = None) -> MuData:
    """Section 4.4 on the reduced set: 51 genes, 1,263 bins; naive CD8 T cells or not."""
    mdata = _file("pbmc10k_multiome_small.h5mu")[:n_obs].copy()
    label = (mdata.obs["celltype"] == "CD8 naive T").to_numpy(float)
    modalities = {m: mdata[m][mdata.obs_names] for m in ("rna", "atac")}
    others = {"rna": (10, n_other), "atac": (10, mdata["atac"].n_vars - 10)}
    ranked = _ranked(modalities, label, others)
    ranked.obs["celltype"] = mdata.obs["celltype"].astype(str)
    return ranked


def pbmc_full(n_other: int, *, seed: int) -> MuData:
    """Section 4.4 on the whole set: 3,000 variable genes, Q2 = 5,000 of 108,377 peaks.

    10x Genomics gives no cell types; they are those of the reduced set, joined by barcode.
    """
    mdata = _read(scvenn.datasets.pbmc_multiome)
    if mdata["rna"].n_vars < 10_000:
        raise Unavailable("the whole PBMC multiome set could not be downloaded")
    celltype = _file("pbmc10k_multiome_small.h5mu").obs["celltype"].astype(str)
    return prepare_multiome(mdata, celltype, n_other)


def prepare_multiome(
    mdata: MuData, celltype: pd.Series, n_other: int, *, n_genes: int = 3000, n_peaks: int = 5000
) -> MuData:
    """Normalise counts (logarithm, TF-IDF), keep variable genes, rank by the label."""
    import muon
    import scanpy as sc

    cells = mdata.obs_names[mdata.obs_names.isin(celltype.index)]
    if len(cells) < 100:
        raise Unavailable(f"only {len(cells)} barcodes of the two PBMC sets are the same")
    rna, atac = mdata["rna"][cells].copy(), mdata["atac"][cells].copy()
    sc.pp.normalize_total(rna, target_sum=1e4)
    sc.pp.log1p(rna)
    sc.pp.highly_variable_genes(rna, n_top_genes=n_genes)
    rna = rna[:, rna.var["highly_variable"]].copy()
    muon.atac.pp.tfidf(atac, scale_factor=1e4)
    label = (celltype[cells] == "CD8 naive T").to_numpy(float)
    ranked = _ranked(
        {"rna": rna, "atac": atac}, label, {"rna": (10, n_other), "atac": (10, n_peaks)}
    )
    ranked.obs["celltype"] = celltype[cells].to_numpy()
    return ranked


def _ranked(
    modalities: dict[str, AnnData], label: np.ndarray, numbers: dict[str, tuple[int, int]]
) -> MuData:
    """Keep the features with the highest and the lowest correlation with the label."""
    built = {}
    for m, adata in modalities.items():
        highest, lowest = numbers[m]
        strength = _correlation(adata.X, label)
        order = np.argsort(-strength, kind="stable")
        if highest + lowest > len(order):
            raise ValueError(f"{m}: {highest} + {lowest} features asked for, {len(order)} there")
        chosen = np.concatenate([order[:highest], order[len(order) - lowest :]])
        x = adata.X[:, chosen]
        x = x.toarray() if sp.issparse(x) else np.asarray(x)
        built[m] = AnnData(
            x.astype(np.float32),
            obs=pd.DataFrame(index=adata.obs_names),
            var=pd.DataFrame(
                {"shared": np.arange(len(chosen)) < highest}, index=adata.var_names[chosen]
            ),
        )
    mdata = MuData(built)
    mdata.obs["label"] = label
    return mdata


def _correlation(x: np.ndarray | sp.spmatrix, label: np.ndarray) -> np.ndarray:
    """Absolute Pearson correlation of each column with the label; 0 for a constant one."""
    centred = label - label.mean()
    mean = np.asarray(x.mean(0)).ravel()
    square = x.multiply(x) if sp.issparse(x) else np.square(x)
    deviation = np.sqrt(np.maximum(np.asarray(square.mean(0)).ravel() - mean**2, 0))
    covariance = np.asarray(x.T @ centred).ravel() / len(label)
    return np.abs(covariance) / np.where(deviation > 1e-8, deviation * label.std(), np.inf)


def _read(load) -> MuData:
    try:
        return load()
    except ConnectionError as error:
        raise Unavailable(str(error)) from error


def _file(name: str) -> MuData:
    """A data set that only the folder SCVENN_DATA can hold."""
    path = Path(os.environ.get("SCVENN_DATA", "")) / name
    if not os.environ.get("SCVENN_DATA") or not path.is_file():
        raise Unavailable(f"{name} is not in the folder named by SCVENN_DATA")
    return mudata.read_h5mu(path)
