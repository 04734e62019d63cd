"""Scores of scMultiBench (Nature Methods 2025), by its own package, of the test cells' embeddings.

    python benchmarks/peers/rivals.py --install multibench
    python benchmarks/peers/run.py --only citeseq --keep FOLDER --out FOLDER/results.csv
    benchmarks/peers/envs/multibench/bin/python benchmarks/peers/scmultibench.py FOLDER FILE.csv

The package clusters to the number of cell types, by a search of Leiden's resolution, for ARI, NMI,
ASW, iASW and iF1; with batches, also the scores of their mixing. Its results of one of its own data
sets, D11 (RNA and proteins of the same cells), stand at the end of the file.
"""

import argparse
from pathlib import Path

import multibench
import numpy as np
import pandas as pd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="what run.py --keep wrote")
    parser.add_argument("csv", type=Path, help="where to write the scores")
    arguments = parser.parse_args()
    found = []
    for path in sorted(arguments.folder.glob("*.npz")):
        found.append(scores(path))
        pd.concat([*found, printed("D11")]).to_csv(arguments.csv, index=False, float_format="%.4f")


def printed(dataset: str) -> pd.DataFrame:
    """The results that the package has stored of one of its data sets."""
    table = multibench.load_results("vertical", dataset=dataset)
    return table[["metric", "value", "method", "dataset"]].assign(embedding="", seed="")


def scores(path: Path) -> pd.DataFrame:
    """One line for each score of each embedding in a file."""
    dataset, seed, method = path.stem.split("_")
    tables = []
    with np.load(path) as file:
        batch = file.get("batch")
        for key in file.files:
            kind, _, name = key.partition("/")
            if kind != "embedding":
                continue
            table = multibench.evaluate(
                file[key], file["celltype"], batch=batch, method=method, verbose=False
            )
            tables.append(table[["metric", "value"]].assign(embedding=name))
    return pd.concat(tables).assign(dataset=dataset, seed=seed, method=method)


if __name__ == "__main__":
    main()
