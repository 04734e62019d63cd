"""Train MMVAE and MMVAE++ side by side; print a table, write a MuData and a figure.

    python benchmarks/demo.py               # a simulation in which private variation dominates
    python benchmarks/demo.py my.h5mu       # a file of your own

The first table shows the median over features of R2 on held-out cells when one modality is
predicted from the shared latent of another (1 is perfect, 0 is no better than the mean of those
cells). On the simulation a second table shows what of the planted latents a ridge regression reads
off the shared one: all of the shared latent and nothing of the private ones would be right. The
folder demo/ receives demo.h5mu, with the embeddings of MMVAE++, and umap.png.
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from itertools import permutations
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import mudata
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
import scvi
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

import scvenn
from scvenn.plotting.drawing import PALETTE

SEED = 0
MODELS = {"MMVAE": scvenn.MMVAE, "MMVAE++": scvenn.MMVAEpp}
# the private features outnumber the shared ones nine to one
SIMULATION = {
    "n_obs": 1500,
    "modalities": {"rna": "nb", "atac": "poisson"},
    "n_features": 200,
    "n_shared_features": 20,
    "seed": SEED,
}
MOST_CELLS = 1000  # held-out cells that are scored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", type=Path, help="a .h5mu file (default: a simulation)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write to")
    parser.add_argument("--max-epochs", type=int, default=None)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)

    if arguments.data is None:
        mdata = scvenn.datasets.simulate_counts(**SIMULATION)
        scvi.settings.num_threads = 1  # so that the README's table comes out on any machine
    else:
        mdata = mudata.read_h5mu(arguments.data)
    print(mdata)

    rows, planted, shared = [], {}, {}
    for name, model_class in MODELS.items():
        print(f"\n{name}")
        scvi.settings.seed = SEED
        model = model_class(mdata)
        model.train(arguments.max_epochs, train_size=0.8)
        shared[name] = mdata.obsm["X_shared"]
        rows += [{"model": name, **row} for row in cross_view_r2(model)]
        planted[name] = planted_r2(model)
    print("\nMedian R2 of cross-view prediction on held-out cells")
    print(table(rows).to_string(float_format=lambda value: f"{value:.2f}"))

    if any(planted.values()):
        print("\nR2 of the planted latents given the shared latent, held-out cells")
        print(pd.DataFrame(planted).to_string(float_format=lambda value: f"{value:.2f}"))

    colour = plot(mdata, shared, arguments.out)
    write(mdata, arguments.out / "demo.h5mu")
    print(
        f"\nWrote {arguments.out / 'demo.h5mu'} (obsm: "
        f"{', '.join(key for key in mdata.obsm if key.startswith('X_'))}) and "
        f"{arguments.out / 'umap.png'} (coloured by {colour})."
    )


def cross_view_r2(model: scvenn.SharedPrivateModel) -> list[dict]:
    """Per-feature R2 of each modality from each other one, in held-out cells that have both."""
    mdata, rows = model.adata, []
    for source, target in permutations(model.modalities, 2):
        both = mdata.obs_names.isin(mdata[source].obs_names)
        both &= mdata.obs_names.isin(mdata[target].obs_names)
        cells = np.array([i for i in model.validation_indices if both[i]][:MOST_CELLS])
        if len(cells) < 2:
            continue
        truth = mdata[target][mdata.obs_names[cells]].X
        truth = truth.toarray() if sp.issparse(truth) else np.asarray(truth)
        predicted = model.predict(source, target, indices=cells, return_numpy=True)
        complete = ~np.isnan(truth).any(0)
        scores = r2_score(truth[:, complete], predicted[:, complete], multioutput="raw_values")
        kind = pd.Series("all", index=mdata[target].var_names)
        if "shared" in mdata[target].var:
            kind = mdata[target].var["shared"].map({True: "shared", False: "private"})
        for features, group in pd.Series(scores).groupby(kind[complete].to_numpy()):
            rows.append({"from": source, "to": target, "features": features, "R2": group.median()})
    return rows


def planted_r2(model: scvenn.SharedPrivateModel) -> dict[str, float]:
    """Held-out R2 of each planted latent of a simulation, by ridge regression on the shared one."""
    mdata, shared = model.adata, model.adata.obsm["X_shared"]
    train, test = model.train_indices, model.validation_indices
    scores = {}
    for key in (key for key in mdata.obsm if key.startswith("z_")):
        truth = mdata.obsm[key]
        fitted = Ridge().fit(shared[train], truth[train])
        scores[key] = r2_score(truth[test], fitted.predict(shared[test]))
    return scores


def table(rows: list[dict]) -> pd.DataFrame:
    """One line for each direction and kind of features, one column for each model."""
    return pd.DataFrame(rows).pivot_table(
        index=["from", "to", "features"], columns="model", values="R2", sort=False
    )


def plot(mdata: mudata.MuData, shared: dict[str, np.ndarray], folder: Path) -> str:
    """UMAP of each model's shared latent, a column each; what it is coloured by.

    The first row shows cell types, or Leiden clusters. Of a simulation, the second row shows a
    planted factor that only one modality has: it should not be seen in a shared latent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels = next((c for c in ("cell_type", "celltype") if c in mdata.obs), "leiden")
    colours = {labels: "cell types" if labels != "leiden" else "clusters"}
    private = next((key for key in mdata.obsm if key.startswith("z_private_")), None)
    if private is not None:
        colours[private] = f"a factor that only {private.removeprefix('z_private_')} has"
    figure, axes = plt.subplots(
        len(colours), len(shared), figsize=(4 * len(shared) + 1.6, 3.4 * len(colours) + 0.4),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for column, (name, embedding) in zip(axes.T, shared.items(), strict=True):
        cells = sc.AnnData(obs=mdata.obs[[]].copy(), obsm={"X_shared": embedding})
        sc.pp.neighbors(cells, use_rep="X_shared")
        sc.tl.umap(cells, random_state=SEED)
        if labels == "leiden":
            sc.tl.leiden(cells, flavor="igraph", n_iterations=2)
        else:
            cells.obs[labels] = mdata.obs[labels]
        if private is not None:
            cells.obs[private] = mdata.obsm[private][:, 0]
        last = name == list(shared)[-1]
        for axis, (colour, text) in zip(column, colours.items(), strict=True):
            sc.pl.umap(
                cells,
                color=colour,
                ax=axis,
                show=False,
                title=f"shared latent of {name}\n{text}",
                palette=PALETTE if cells.obs[colour].nunique() <= len(PALETTE) else None,
                legend_loc="right margin" if last or labels == "leiden" else "none",
                color_map="cividis",
                vmin="p5",
                vmax="p95",
                sort_order=False,
                colorbar_loc="right" if last else None,
                frameon=False,
            )
        mdata.obsm["X_umap"] = cells.obsm["X_umap"]  # the last model's, as X_shared
    draft = folder / ".umap.png"
    figure.savefig(draft, dpi=130, facecolor="white")  # it is also read on a dark page
    os.replace(draft, folder / "umap.png")
    return " and ".join(colours.values())


def write(mdata: mudata.MuData, path: Path) -> None:
    """Write to a temporary name, then rename."""
    draft = path.with_name(f".{path.name}")
    mdata.write(draft)
    os.replace(draft, path)


if __name__ == "__main__":
    main()
