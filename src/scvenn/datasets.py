"""Data to try scvenn on: simulations with planted shared and private factors, and real sets.

A simulated MuData holds what was planted: ``obsm["z_shared"]`` and
``obsm["z_private_<modality>"]`` hold the planted latents, ``var["shared"]`` of each modality marks
the features that depend on the shared latent. All others depend on the private one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import pooch
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from scvenn._arguments import check_number, check_positive
from scvenn._downloads import Remote, fetch
from scvenn._mudata import pull_on_update

__all__ = [
    "citeseq_mosaic",
    "cll",
    "pbmc_citeseq",
    "pbmc_multiome",
    "simulate_counts",
    "simulate_gp",
]


def __dir__() -> list[str]:
    """What users see: not what this file imports."""
    return [*__all__, "__all__"]  # Sphinx documents them only if it finds "__all__"


logger = logging.getLogger("scvi.scvenn")

# Mean counts and noise of simulations are below this: larger ones have no meaning, and overflow.
_MOST = 1e6

# --------------------------------------------------------------------------------------------
# Simulations
# --------------------------------------------------------------------------------------------


def simulate_gp(
    n_obs: int = 1000,
    *,
    n_shared_features: Sequence[int] = (10, 10),
    n_private_features: Sequence[int] = (20, 100),
    n_shared: int = 2,
    n_private: int = 2,
    noise: float = 0.15,
    seed: int = 0,
) -> MuData:
    r"""Two views whose features are smooth random functions of the latents (paper, section 4.1).

    .. math::

        z \sim U(-2, 2), \qquad f_j \sim \mathrm{GP}(0, k), \qquad
        k(z, z') = \exp\big(-\tfrac12 \lVert z - z' \rVert^2\big), \qquad
        x_j = \mathrm{standardise}(f_j(z)) + \varepsilon

    Parameters
    ----------
    n_obs
        Number of cells N; time and memory grow with its cube and square.
    n_shared_features
        P1 and P2, how many features of each view depend on the shared latent.
    n_private_features
        Q1 and Q2, how many depend on the view's private latent.
    n_shared
        Size of the shared latent.
    n_private
        Size of each private latent.
    noise
        Standard deviation of the noise; the signal has 1.
    seed
        Of the random numbers.

    Returns
    -------
    MuData with ``view1`` and ``view2`` and the planted truth.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> simulate_gp(50, n_private_features=(5, 5)).shape
    (50, 30)
    """
    for name, pair in (
        ("n_shared_features", n_shared_features),
        ("n_private_features", n_private_features),
    ):
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise ValueError(f"{name}={pair!r}: expected two numbers of at least 1.")
        for number in pair:
            check_positive(**{name: number})
    check_positive(n_obs=n_obs, n_shared=n_shared, n_private=n_private)
    if n_obs < 2:
        raise ValueError(f"n_obs={n_obs}: expected 2 or more, as features are scaled over cells.")
    at_least_0 = f"a number of at least 0 and below {_MOST:g}"
    check_number("noise", noise, at_least_0, least=0, below=_MOST)
    rng = np.random.default_rng(seed)
    obs_names = pd.Index([f"cell{i}" for i in range(n_obs)])
    z_shared = rng.uniform(-2, 2, (n_obs, n_shared))
    modalities, z_private = {}, {}
    for m, n_p, n_q in zip(("view1", "view2"), n_shared_features, n_private_features, strict=True):
        z_private[m] = rng.uniform(-2, 2, (n_obs, n_private))
        functions = [_gp_draws(z_shared, n_p, rng), _gp_draws(z_private[m], n_q, rng)]
        signal = np.hstack(functions)
        signal = (signal - signal.mean(0)) / signal.std(0)
        values = signal + noise * rng.standard_normal(signal.shape)
        modalities[m] = _modality(m, values, obs_names, np.arange(n_p + n_q) < n_p)
    return _with_truth(modalities, obs_names, z_shared, z_private)


def _gp_draws(z: np.ndarray, n_functions: int, rng: np.random.Generator) -> np.ndarray:
    """Values at z of functions drawn from a Gaussian process, (n_obs, n_functions)."""
    squares = ((z[:, None, :] - z[None, :, :]) ** 2).sum(-1)
    kernel = np.exp(-0.5 * squares) + 1e-6 * np.eye(len(z))
    return np.linalg.cholesky(kernel) @ rng.standard_normal((len(z), n_functions))


def simulate_counts(
    n_obs: int = 1000,
    *,
    modalities: Mapping[str, str] | None = None,
    n_features: int = 200,
    n_shared_features: int | None = None,
    n_types: int = 8,
    n_latent: int = 4,
    depth: float = 5.0,
    missing: float = 0.0,
    n_batches: int = 1,
    seed: int = 0,
) -> MuData:
    r"""Cell types that all modalities share, and private programmes of each.

    .. math::

        \log \lambda_{ij} = a_j + w_j^\top z_i + b_{\mathrm{batch}(i), j}

    where :math:`z_i` is the shared latent (a cell type's centre and some spread) for shared
    features, and the private programme scores (normal, independent between modalities) for the
    others.

    Parameters
    ----------
    n_obs
        Number of cells.
    modalities
        Likelihood by name: ``"nb"`` (gamma-Poisson counts), ``"poisson"``, ``"bernoulli"`` (is
        the Poisson count above 0?) or ``"normal"`` (the logarithm of the rate and noise). None is
        ``{"rna": "nb", "atac": "bernoulli"}``.
    n_features
        Features of each modality.
    n_shared_features
        How many of them depend on the shared latent; None for a quarter.
    n_types
        Number of cell types, in ``obs["cell_type"]``.
    n_latent
        Size of the shared and of each private latent.
    depth
        Mean of ``"nb"`` and ``"poisson"`` counts. Cells differ in depth (log-normal, sd 0.3).
    missing
        Fraction of the cells that lack a modality, drawn for each modality; every cell keeps at
        least one.
    n_batches
        Number of batches, in ``obs["batch"]``; each shifts the features.
    seed
        Of the random numbers.

    Returns
    -------
    MuData with the planted truth; counts are sparse.

    Raises
    ------
    ValueError
        If a number is out of range or a likelihood unknown.

    Examples
    --------
    >>> simulate_counts(50, n_features=20).shape
    (50, 40)
    """
    if not (modalities is None or isinstance(modalities, Mapping)):
        raise ValueError(
            f"modalities={modalities!r}: expected likelihoods by modality, such as {{'rna': 'nb'}}."
        )
    chosen = {"rna": "nb", "atac": "bernoulli"} if modalities is None else dict(modalities)
    if not chosen or any(not isinstance(m, str) for m in chosen):
        raise ValueError(
            f"modalities={modalities!r}: expected one or more, by names that are text."
        )
    known = list(_DRAWS)  # in which anything can be looked up
    if unknown := {m: name for m, name in chosen.items() if name not in known}:
        raise ValueError(f"modalities={unknown}: expected likelihoods among {known}.")
    check_positive(
        n_obs=n_obs, n_features=n_features, n_types=n_types, n_latent=n_latent, n_batches=n_batches
    )
    if n_shared_features is None:
        n_shared_features = n_features // 4
    elif n_shared_features != 0:
        check_positive(n_shared_features=n_shared_features)
    if not 0 <= n_shared_features <= n_features:
        raise ValueError(
            f"n_shared_features={n_shared_features}: expected a number between 0 and "
            f"n_features={n_features}."
        )
    check_number("missing", missing, "a number of at least 0 and below 1", least=0, below=1)
    above_0 = f"a number above 0 and below {_MOST:g}"
    check_number("depth", depth, above_0, above=0, below=_MOST)
    if n_latent == 1 and n_types > 2:
        raise ValueError(
            f"n_latent=1 and n_types={n_types}: more than two types need two dimensions or more."
        )
    rng = np.random.default_rng(seed)
    obs_names = pd.Index([f"cell{i}" for i in range(n_obs)])
    cell_type = rng.integers(n_types, size=n_obs)
    batch = rng.integers(n_batches, size=n_obs)
    centres = _distant_points(n_types, n_latent, rng)
    z_shared = centres[cell_type] + 0.1 * rng.standard_normal((n_obs, n_latent))
    measured = rng.random((n_obs, len(chosen))) >= missing
    measured[np.arange(n_obs), rng.integers(len(chosen), size=n_obs)] = True

    built, z_private = {}, {}
    shared = np.arange(n_features) < n_shared_features
    for (m, name), present in zip(chosen.items(), measured.T, strict=True):
        z_private[m] = rng.standard_normal((n_obs, n_latent))
        weights = rng.standard_normal((n_latent, n_features)) / np.sqrt(n_latent)
        log_rate = np.where(shared, z_shared @ weights, z_private[m] @ weights)
        log_rate += 0.5 * rng.standard_normal(n_features)
        if n_batches > 1:
            log_rate += 0.5 * rng.standard_normal((n_batches, n_features))[batch]
        values = _DRAWS[name](log_rate, depth, rng)
        built[m] = _modality(m, values[present], obs_names[present], shared)
    mdata = _with_truth(built, obs_names, z_shared, z_private)
    order = obs_names.get_indexer(mdata.obs_names)
    mdata.obs["cell_type"] = pd.Categorical([f"type{t}" for t in cell_type[order]])
    mdata.obs["batch"] = pd.Categorical([f"batch{b}" for b in batch[order]])
    return mdata


def _distant_points(n_points: int, n_dimensions: int, rng: np.random.Generator) -> np.ndarray:
    """Points far from each other on a sphere of radius 3: the centres of the cell types."""
    candidates = rng.standard_normal((50 * n_points, n_dimensions))
    candidates *= 3 / np.linalg.norm(candidates, axis=1, keepdims=True)
    chosen = [0]
    while len(chosen) < n_points:
        gaps = np.linalg.norm(candidates[:, None] - candidates[chosen], axis=2).min(1)
        chosen.append(int(gaps.argmax()))
    return candidates[chosen]


def _rates(log_rate: np.ndarray, mean: float, rng: np.random.Generator) -> np.ndarray:
    """Rates whose mean is ``mean``, with cells of different depth."""
    rate = np.exp(log_rate)
    depths = np.exp(0.3 * rng.standard_normal((len(rate), 1)))
    return mean * rate / rate.mean() * depths


def _draw_nb(log_rate: np.ndarray, depth: float, rng: np.random.Generator) -> Any:
    inverse_dispersion = 5.0
    gamma = rng.gamma(inverse_dispersion, 1 / inverse_dispersion, log_rate.shape)
    return sp.csr_matrix(rng.poisson(_rates(log_rate, depth, rng) * gamma).astype(np.float32))


def _draw_poisson(log_rate: np.ndarray, depth: float, rng: np.random.Generator) -> Any:
    return sp.csr_matrix(rng.poisson(_rates(log_rate, depth, rng)).astype(np.float32))


def _draw_bernoulli(log_rate: np.ndarray, depth: float, rng: np.random.Generator) -> Any:
    # peaks are sparse whatever the depth: about one in three is open
    return sp.csr_matrix((rng.poisson(_rates(log_rate, 0.5, rng)) > 0).astype(np.float32))


def _draw_normal(log_rate: np.ndarray, depth: float, rng: np.random.Generator) -> Any:
    return log_rate + 0.5 * rng.standard_normal(log_rate.shape)


_DRAWS = {
    "nb": _draw_nb,
    "poisson": _draw_poisson,
    "bernoulli": _draw_bernoulli,
    "normal": _draw_normal,
}


def _modality(name: str, values: Any, obs_names: pd.Index, shared: np.ndarray) -> AnnData:
    """An AnnData of float32 whose features are named by modality and number."""
    return AnnData(
        values.astype(np.float32),
        obs=pd.DataFrame(index=obs_names),
        var=pd.DataFrame({"shared": shared}, index=[f"{name}_{j}" for j in range(values.shape[1])]),
    )


def _with_truth(
    modalities: Mapping[str, AnnData],
    obs_names: pd.Index,
    z_shared: np.ndarray,
    z_private: Mapping[str, np.ndarray],
) -> MuData:
    """A MuData with the planted latents, matched to its order of cells."""
    mdata = _mudata(modalities)
    order = obs_names.get_indexer(mdata.obs_names)
    mdata.obsm["z_shared"] = z_shared[order].astype(np.float32)
    for m, z in z_private.items():
        mdata.obsm[f"z_private_{m}"] = z[order].astype(np.float32)
    return mdata


def _mudata(modalities: Mapping[str, AnnData]) -> MuData:
    """A MuData whose ``obs`` and ``var`` copy nothing from the modalities."""
    with pull_on_update(False):
        return MuData(dict(modalities))


# --------------------------------------------------------------------------------------------
# Real data
# --------------------------------------------------------------------------------------------


def cll() -> MuData:
    """200 patients with chronic lymphocytic leukaemia, as in the paper's section 4.2.

    RNA (5,000 genes), DNA methylation (4,248 sites, M-values), drug response (310) and mutations
    (69, with NaN where not tested); most patients lack some. ``obs["IGHV"]`` and
    ``obs["trisomy12"]`` are 0, 1 or NaN, taken from the mutations.

    Returns
    -------
    MuData with ``rna``, ``meth``, ``drugs`` and ``mutations``.

    Raises
    ------
    ConnectionError
        If the file (32 MB) is neither in the folder ``SCVENN_DATA`` (as ``cll.h5mu``) nor in the
        cache, and cannot be downloaded.

    Notes
    -----
    Source: Dietrich et al., J Clin Invest 128:427 (2018); Argelaguet et al., Mol Syst Biol
    14:e8124 (2018). Read from the test data of mofaflex 0.1.2 (BSD-3-Clause) on PyPI.
    """
    if local := _in_data_folder("cll.h5mu"):
        return mudata.read_h5mu(local)
    with pull_on_update(None):  # its tables of cells have a named index
        raw = mudata.read_h5mu(_fetch(_CLL))
    names = {"rna": "mRNA", "meth": "Methylation", "drugs": "Drugs", "mutations": "Mutations"}
    mdata = _mudata({m: raw.mod[old] for m, old in names.items()})
    for column in ("IGHV", "trisomy12"):
        mutations = mdata.mod["mutations"]
        known = pd.Series(mutations[:, column].X.ravel(), index=mutations.obs_names)
        mdata.obs[column] = known.reindex(mdata.obs_names)
    for column in ("Gender", "age", "TTT", "TTD", "treatedAfter", "died"):
        mdata.obs[column.lower() if column == "Gender" else column] = raw.obs[column]
    return mdata


def citeseq_mosaic() -> MuData:
    """1,600 blood cells of a CITE-seq mosaic: 800 paired, 400 with RNA only, 400 with ADT only.

    Returns
    -------
    MuData with raw counts of ``rna`` (500 genes) and ``adt`` (224 proteins), and ``celltype`` and
    ``batch`` in ``obs``.

    Raises
    ------
    ConnectionError
        If the file (0.5 MB) is neither in the folder ``SCVENN_DATA`` (as
        ``citeseq_mosaic.h5mu``) nor in the cache, and cannot be downloaded.

    Notes
    -----
    Source: Hao et al., Cell 184:3573 (2021); He et al., Nat Biotechnol (2024). Read from the
    quick-start data of scmidas 0.3.0 (MIT) on PyPI.
    """
    if local := _in_data_folder("citeseq_mosaic.h5mu"):
        return mudata.read_h5mu(local)
    raw = mudata.read_h5mu(_fetch(_MOSAIC))
    mdata = _mudata({"rna": raw.mod["rna"], "adt": raw.mod["adt"]})
    for column in ("celltype", "batch"):
        mdata.obs[column] = raw.obs[column].astype("category")
    return mdata


def pbmc_citeseq() -> MuData:
    """892 blood cells with RNA and surface proteins (CITE-seq), before any quality control.

    Returns
    -------
    MuData with raw counts of ``rna`` (19,203 genes, those that any cell has) and ``adt`` (9
    proteins such as ``CD4_protein``, and an isotype control).

    Raises
    ------
    ConnectionError
        If the file (a few MB) is neither in the folder ``SCVENN_DATA`` (as
        ``citeseq_pbmc1k.h5mu``) nor in the cache, and cannot be downloaded.

    Notes
    -----
    Source: 10x Genomics, blood cells of a healthy donor, stained with TotalSeq-C antibodies (CC BY
    4.0). Read from the test data of scarf (BSD-3-Clause) on GitHub.
    """
    if local := _in_data_folder("citeseq_pbmc1k.h5mu"):
        rna, adt = (mudata.read_h5ad(local, m) for m in ("rna", "adt"))
    else:
        raw = _read_10x(_fetch(_CITESEQ))
        expressed = np.asarray(raw.mod["rna"].X.sum(0)).ravel() > 0
        rna, adt = raw.mod["rna"][:, expressed].copy(), raw.mod["prot"]
    # CD4 is a gene and a protein
    adt.var_names = [f"{name.removesuffix('_TotalSeqC')}_protein" for name in adt.var_names]
    return _mudata({"rna": rna, "adt": adt})


def pbmc_multiome() -> MuData:
    """10x Genomics multiome of blood cells: RNA and ATAC of the same nuclei.

    The whole set (11,909 cells, 36,601 genes, 108,377 peaks) is downloaded. A folder
    ``SCVENN_DATA`` may hold it under its own name
    (``pbmc_granulocyte_sorted_10k_filtered_feature_bc_matrix.h5``), or the reduced set
    ``pbmc10k_multiome_small.h5mu`` (10,291 cells, 51 smoothed genes, 1,263 bins, with
    ``obs["celltype"]``), which is then returned instead.

    Returns
    -------
    MuData with ``rna`` and ``atac``.

    Raises
    ------
    ConnectionError
        If the file (162 MB) is neither in that folder nor in the cache, and cannot be downloaded.

    Notes
    -----
    Source: 10x Genomics, pbmc_granulocyte_sorted_10k (CC BY 4.0). The reduced set is from the
    examples of ChromatinHD (Saelens et al. 2025).
    """
    if local := _in_data_folder(_PBMC.name):
        return _read_10x(local)
    if local := _in_data_folder("pbmc10k_multiome_small.h5mu"):
        logger.info("pbmc_multiome: reading the reduced set %s", local)
        return mudata.read_h5mu(local)
    return _read_10x(_fetch(_PBMC))


_CLL = Remote(
    "https://files.pythonhosted.org/packages/9f/86/"
    "d933ce812750894a63978456a5a4fb15fb00b48bcac6d0f0c180a45437a9/mofaflex-0.1.2.tar.gz",
    "sha256:2518c0d9a519675f113c544587374bc9c36c7be919f8cf94364389a50c764331",
    "mofaflex-0.1.2/tests/data/cll.h5mu",
    "sha256:1da99d3967f8616adcee2bcea0157c30acf34c46884902343518e9634ec2f7ee",
)
_MOSAIC = Remote(
    "https://files.pythonhosted.org/packages/01/22/"
    "67a9e8fb44ece3ea8e6eb4a2b2ce83fc26319f59474df2a77cffe2d3a290/scmidas-0.3.0.tar.gz",
    "sha256:ef4da333c81dd8535f67148ae0fae30eb603349bbd79e234c64a53e306c9cab4",
    "scmidas-0.3.0/src/scmidas/data/quickstart_pbmc_mosaic.h5mu",
    "sha256:ba7e65819b77dca7cae0473043893a471920e25a07ee08bc91b3eb9fcc2e1cdd",
)
_CITESEQ = Remote(
    "https://raw.githubusercontent.com/parashardhapola/scarf/"
    "20258506ba930a19bdb5cf1abd8bbec41eeefbc4/scarf/tests/datasets/1K_pbmc_citeseq.h5",
    "sha256:e3dd57c5a8c3426dc5a7dc012a78608554facbddf4c6d1d62671089d197b1053",
)
_PBMC = Remote(
    "https://cf.10xgenomics.com/samples/cell-arc/1.0.0/pbmc_granulocyte_sorted_10k/"
    "pbmc_granulocyte_sorted_10k_filtered_feature_bc_matrix.h5",
    "md5:920b16bf1e63b6610bf74bf9040ed386",  # its SHA-256 is not known to us
)


# what each of them is called in the folder SCVENN_DATA, and where else it comes from
_REAL = {
    "cll": (("cll.h5mu",), _CLL),
    "citeseq_mosaic": (("citeseq_mosaic.h5mu",), _MOSAIC),
    "pbmc_citeseq": (("citeseq_pbmc1k.h5mu",), _CITESEQ),
    "pbmc_multiome": ((_PBMC.name, "pbmc10k_multiome_small.h5mu"), _PBMC),
}


def _cache() -> Path:
    """The folder in which downloads are kept."""
    return Path(pooch.os_cache("scvenn"))


def _fetch(remote: Remote) -> Path:
    """A file from the cache, or else from the network."""
    return fetch(remote, _cache())


def stored_file(name: str) -> Path | None:
    """The file from which a real set is read, or None if it has to be downloaded first."""
    own_names, remote = _REAL[name]
    candidates = [*map(_in_data_folder, own_names), remote.path(_cache())]
    return next((path for path in candidates if path is not None and path.is_file()), None)


def _in_data_folder(name: str) -> Path | None:
    """A file in the folder named by ``SCVENN_DATA``, if it is there."""
    folder = os.environ.get("SCVENN_DATA")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"SCVENN_DATA={folder!r} is not a folder.")
    path = Path(folder) / name
    return path if path.is_file() else None


def _read_10x(path: Path) -> MuData:
    """Read 10x Genomics' multiome file; genes that share a symbol get distinct names."""
    import muon  # slow to import, and needed only here

    mdata = muon.read_10x_h5(path)
    for adata in mdata.mod.values():
        adata.var_names_make_unique()
    mdata.update()
    return mdata
