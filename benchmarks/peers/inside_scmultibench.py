"""scvenn on a data set of scMultiBench, scored by that benchmark beside the methods that it ran.

    python benchmarks/peers/inside_scmultibench.py train D11 --out FOLDER
    python benchmarks/peers/rivals.py --install multibench
    benchmarks/peers/envs/multibench/bin/python benchmarks/peers/inside_scmultibench.py score FOLDER

``D11`` is a folder in the layout of the benchmark, as ``multibench.data.fetch("D11")`` downloads it
and ``multibench.io.export_dataset`` writes it from any data: matrices of features x cells in
``rna.h5``, ``adt.h5``, ``atac.h5``, and cell types in ``cty.csv``; ``rna1.h5``, ``rna2.h5``,
``cty1.csv`` where there are several batches. scvenn has the batch as covariate and is never told
the cell types. As every method of that benchmark, it is fitted to all cells and embeds them.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from mudata import MuData

# Cell types are in the order of the first of these files that a batch has.
MODALITIES = ["rna", "adt", "atac"]
MATRIX = re.compile(r"(?P<modality>rna|adt|atac)(_peak)?(?P<batch>\d*)\.h5")
FEATURES_AT_ONCE = 1000
# What is scored of a model, by the name of its file.
EMBEDDINGS = {"shared": "scvenn, shared", "all": "scvenn, shared + private"}


def read_dataset(folder: Path) -> MuData:
    """The cells of all batches in the order of the benchmark: batch by batch, as in its files.

    Raises
    ------
    ValueError
        No batch has two modalities, or files of one batch name different cells.
    """
    import anndata
    from mudata import MuData

    files = {
        (match["batch"], match["modality"]): path
        for path in sorted(folder.iterdir())
        if (match := MATRIX.fullmatch(path.name))
    }
    batches = sorted({batch for batch, _ in files}, key=lambda batch: int(batch or 0))
    parts: dict[str, list[anndata.AnnData]] = {}
    order: dict[str, list[str]] = {}
    for (batch, modality), path in sorted(files.items(), key=lambda f: MODALITIES.index(f[0][1])):
        adata = read_matrix(path)
        adata.obs_names = [f"{batch}:{name}" if batch else name for name in adata.obs_names]
        names = order.setdefault(batch, list(adata.obs_names))
        if set(names) != set(adata.obs_names):
            raise ValueError(
                f"{path.name} has other cells than the file of its batch before it; paired "
                "modalities were expected: vertical, cross or mosaic data"
            )
        parts.setdefault(modality, []).append(adata)
    if len(files) == len(batches):
        raise ValueError(
            f"{folder} has no batch with two modalities (files: "
            f"{sorted(path.name for path in files.values())}); scvenn needs paired cells"
        )
    # features that all batches have, as the benchmark's methods take them
    mdata = MuData({m: anndata.concat(several, join="inner") for m, several in parts.items()})
    mdata = mdata[[name for batch in batches for name in order[batch]]].copy()
    if len(batches) > 1:
        mdata.obs["batch"] = [name.split(":")[0] for name in mdata.obs_names]
    return mdata


def read_matrix(path: Path):
    """Sparse counts of one file, whose matrix is dense and has features in rows."""
    import anndata
    import h5py
    import scipy.sparse as sp

    with h5py.File(path) as file:
        matrix = file["matrix/data"]
        features, cells = (file[f"matrix/{k}"].asstr()[:] for k in ("features", "barcodes"))
        blocks = [
            sp.csr_matrix(np.asarray(matrix[i : i + FEATURES_AT_ONCE], np.float32))
            for i in range(0, len(features), FEATURES_AT_ONCE)
        ]
    counts = sp.vstack(blocks).T.tocsr()  # (cells, features)
    adata = anndata.AnnData(counts, pd.DataFrame(index=cells), pd.DataFrame(index=features))
    adata.var_names_make_unique()
    return adata


def train(folder: Path, out: Path, seed: int, max_epochs: int | None) -> None:
    """Fit scvenn and write its embeddings, in the benchmark's order of the cells."""
    import h5py
    import scvi

    import scvenn

    scvi.settings.seed = seed
    mdata = read_dataset(folder)
    batch_key = "batch" if "batch" in mdata.obs else None
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key=batch_key)
    model = scvenn.MMVAEpp(mdata)
    model.train(max_epochs, accelerator="cpu", write_obsm=False)
    found = {
        "shared": model.get_shared_representation(),
        "all": model.get_latent_representation(),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, embedding in found.items():
        with h5py.File(out / f"{name}.h5", "w") as file:
            file["data"] = embedding  # (cells, dimensions)
    paired = all(adata.n_obs == mdata.n_obs for adata in mdata.mod.values())
    category = "vertical" if batch_key is None else "cross" if paired else "mosaic"
    described = {"dataset": str(folder.absolute()), "category": category, "seed": seed}
    (out / "described.json").write_text(json.dumps(described))


def score(out: Path) -> pd.DataFrame:
    """Scores of the embeddings, and those that the benchmark has stored for its own data sets."""
    import multibench

    described = json.loads((out / "described.json").read_text())
    folder, category = Path(described["dataset"]), described["category"]
    labels = sorted(folder.glob("cty*.csv"), key=lambda path: int(path.stem[3:] or 0))
    of = {"dataset": folder.name, "category": category}
    found = [
        multibench.evaluate(
            out / f"{name}.h5",
            [str(path) for path in labels] if len(labels) > 1 else labels[0],
            method=method,
            **of,
        )
        for name, method in EMBEDDINGS.items()
    ]
    try:
        found.append(multibench.load_results(category, dataset=folder.name))
    except FileNotFoundError:  # data of your own
        print(f"the benchmark has stored no results of {folder.name}")
    return pd.concat(found, ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="in the environment of scvenn")
    training.add_argument("folder", type=Path, help="a data set of the benchmark")
    training.add_argument("--out", type=Path, required=True, help="where embeddings are written")
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--max-epochs", type=int)
    scoring = commands.add_parser("score", help="in the environment of multibench-sc")
    scoring.add_argument("out", type=Path, help="what `train` wrote")
    arguments = parser.parse_args()
    if arguments.command == "train":
        train(arguments.folder, arguments.out, arguments.seed, arguments.max_epochs)
        return
    table = score(arguments.out)
    table.to_csv(arguments.out / "scores.csv", index=False, float_format="%.4f")
    print(table.pivot_table("value", "method", "metric").round(3).to_string())


if __name__ == "__main__":
    main()
