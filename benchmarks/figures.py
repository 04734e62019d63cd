"""Draw the figures of docs/concepts.md and docs/gallery.md, from models that are trained here.

    python benchmarks/figures.py            # all
    python benchmarks/figures.py gallery    # those of one function of this file

Three simulations for the concepts: ordered axes, what is shared within cell types, and the
correction for batches. The gallery runs the lines of its page.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scvi
from anndata import AnnData
from mudata import MuData

import scvenn

DOCS = Path(__file__).parent.parent.absolute() / "docs"
FOLDER = DOCS / "_static"
QUIET = {"enable_progress_bar": False}


def batches() -> None:
    """Shared latents of three batches of which one has a type of its own, before and after."""
    scvi.settings.seed = 0
    mdata = scvenn.datasets.simulate_counts(1500, n_batches=3, n_types=6, seed=4)
    lone = (mdata.obs["cell_type"] == "type0") & (mdata.obs["batch"] != "batch0")
    mdata = mdata[~lone.to_numpy()].copy()
    rng, batch = np.random.default_rng(0), mdata.obs["batch"].cat.codes
    for adata in mdata.mod.values():  # batches that catch other features well
        caught = rng.uniform(0.1, 1, (3, adata.n_vars))[batch[adata.obs_names]]
        adata.X = rng.binomial(adata.X.toarray().astype(int), caught).astype(np.float32)
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key="batch")
    model = scvenn.MMVAEpp(mdata)
    model.train(60, **QUIET)
    latents = {
        "as it is": model.get_shared_representation(batch_corrected=False),
        "corrected": model.get_shared_representation(),
    }
    places = scvenn.plotting.in_two_dimensions(latents)
    figure, axes = plt.subplots(2, 2, figsize=(8.4, 6.4), layout="constrained")
    for row, column in zip(axes, ("batch", "cell_type"), strict=True):
        scvenn.plotting.draw_embeddings(places, mdata.obs[column], axes=row)
        for ax, name in zip(row, latents, strict=True):
            ax.set_title(f"shared, {name}")
    figure.savefig(FOLDER / "batches.png", dpi=120)


def axes_of_shared() -> None:
    """Three planted factors of different strength, and the axes that the model finds."""
    scvi.settings.seed = 0
    rng = np.random.default_rng(0)
    strength = np.array([1.0, 0.6, 0.35])
    factors = rng.standard_normal((1200, 3))
    parts = {}
    for m in ("rna", "adt"):
        driven = rng.integers(3, size=60)  # by which factor each feature is moved
        values = factors[:, driven] * strength[driven] * rng.choice([-1, 1], 60)
        values = values + 0.5 * rng.standard_normal(values.shape)
        parts[m] = AnnData(values.astype(np.float32))
        parts[m].var_names = [f"{m}{j}" for j in range(60)]
    mdata = MuData(parts)
    model = scvenn.MMVAEpp(mdata)
    model.train(60, **QUIET)
    shared = mdata.obsm["X_shared"]
    n = shared.shape[1]
    correlation = np.abs(np.corrcoef(factors.T, shared.T)[:3, 3:])
    moved = shared.std(0)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8.4, 2.6), layout="constrained", width_ratios=[1.4, 1]
    )
    image = left.imshow(correlation, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    left.set_yticks(range(3), ["strong factor", "medium factor", "weak factor"])
    left.set_xticks(range(n), [str(k) for k in range(n)])
    left.set(xlabel="dimension of shared", title="correlation with planted factors")
    figure.colorbar(image, ax=left)
    right.bar(range(n), moved, color="#0072B2")
    right.axvline(model.n_shared_effective_ - 0.5, color="#7F7F7F", linestyle="dashed")
    right.set_xticks(range(n))
    right.set(xlabel="dimension of shared", title="standard deviation over cells")
    figure.savefig(FOLDER / "axes.png", dpi=120)


def within_types() -> None:
    """A feature that modalities share through types only, and one that they share within them."""
    scvi.settings.seed = 0
    rng = np.random.default_rng(1)
    n, n_types, kinds = 1500, 5, np.repeat(["types", "within", "neither"], [20, 20, 60])
    types, state = rng.integers(n_types, size=n), rng.standard_normal((n, 1))
    parts = {}
    for m in ("rna", "adt"):
        by_type = rng.standard_normal((n_types, 100)) * (kinds == "types")
        by_state = rng.standard_normal((1, 100)) * (kinds == "within")
        values = by_type[types] + state @ by_state + 0.7 * rng.standard_normal((n, 100))
        parts[m] = AnnData(values.astype(np.float32))
        parts[m].var_names = [f"{m}{j}" for j in range(100)]
    mdata = MuData(parts)
    mdata.obs["cell_type"] = pd.Categorical([f"type{t}" for t in types])
    names = {
        "types": "shared through\nwhich type a cell is of",
        "within": "shared within types",
        "neither": "not shared",
    }
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 2.8), layout="constrained", sharey=True)
    for ax, given in zip(axes, (None, "cell_type"), strict=True):
        table = scvenn.pp.shared_features(mdata, given=given, inplace=False)
        if given:
            table = table[table["group"] == "all"]
        rna = table[table["modality"] == "rna"]
        for at, kind in enumerate(names):
            of_kind = rna[kinds == kind]
            jitter = at + 0.25 * (rng.random(len(of_kind)) - 0.5)
            for shared, colour in ((True, "#0072B2"), (False, "#7F7F7F")):
                chosen = (of_kind["shared"] == shared).to_numpy()
                ax.scatter(of_kind["score"].clip(lower=-0.1)[chosen], jitter[chosen], s=9, c=colour)
        ax.set_yticks(range(3), list(names.values()))
        ax.set(xlabel="R² given the other modality", xlim=(-0.15, 1))
        ax.set_title("given cell types" if given else "all that is shared")
    axes[0].invert_yaxis()  # and with it that of the other, which is shared
    handles = [
        plt.Line2D([], [], marker="o", linestyle="", color=colour, label=label)
        for label, colour in (("called shared", "#0072B2"), ("not called shared", "#7F7F7F"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(FOLDER / "within_types.png", dpi=120)


def gallery() -> None:
    """Run the lines of the gallery, and save the figure of each block as the picture below it."""
    scvi.settings.seed = 0
    blocks = r"```python\n(.*?)```\n+(?:!\[.*?\]\((_static/gallery/\w+\.png)\))?"
    page = (DOCS / "gallery.md").read_text()
    (FOLDER / "gallery").mkdir(exist_ok=True)
    names: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the page saves a figure, too
        for code, picture in re.findall(blocks, page, re.DOTALL):
            exec(code, names)
            if picture:
                plt.gcf().savefig(DOCS / picture, dpi=100, bbox_inches="tight")
            plt.close("all")
        os.chdir(DOCS)


def main() -> None:
    logging.getLogger("scvi").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    figures = {draw.__name__: draw for draw in (axes_of_shared, within_types, batches, gallery)}
    for name in sys.argv[1:] or figures:
        figures[name]()


if __name__ == "__main__":
    main()
