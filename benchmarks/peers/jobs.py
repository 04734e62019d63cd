"""What is to be done, and the CSV file that remembers what was: one line for each number."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
JOB = ["dataset", "seed", "method", "max_epochs"]
COLUMNS = [*JOB, "embedding", "metric", "source", "target", "value"]
# Packages with an environment of their own, see rivals.py.
RIVALS = ["multihive", "multigrate", "scmidas", "univi", "mofaflex", "muvi"]
# The order in which the tables show them.
METHODS = [
    *("scvenn", "MULTIVI", "totalVI", "multihive", "multigrate", "scmidas", "univi"),
    *("MOFA+", "mofaflex", "muvi", "PCA", "CCA", "ridge", "kNN"),
]
# Those whose epochs ``--max-epochs`` bounds.
TRAINED = ["scvenn", "MULTIVI", "totalVI", *RIVALS]
INAPPLICABLE = {
    # totalVI needs proteins; the factor models read the 27,411 features as a dense matrix
    "snareseq": ["totalVI", "mofaflex", "muvi"],
    "citeseq": ["MULTIVI"],
    # the RNA of this set is not counts, which these need
    "pbmc": ["MULTIVI", "totalVI", "multihive", "scmidas"],
}
DATASETS = {
    dataset: [method for method in METHODS if method not in without]
    for dataset, without in INAPPLICABLE.items()
}
# Splits and initialisations; more where there are few cells to score.
SEEDS = {"snareseq": 3, "citeseq": 5, "pbmc": 3}


@dataclass(frozen=True)
class Job:
    """One method on one data set and split; ``max_epochs`` is "" for the package's own default."""

    dataset: str
    seed: int
    method: str
    max_epochs: str = ""
    smoke: bool = False
    # folder for the embeddings of the test cells, "" for none
    keep: str = ""

    @property
    def key(self) -> tuple:
        """What tells one job from another: the columns ``JOB``."""
        return (self.dataset, self.seed, self.method, self.max_epochs)


def all_jobs(max_epochs: int | None, *, smoke: bool) -> list[Job]:
    """Every job; those of one seed behind each other, so that an early stop leaves whole seeds."""
    bound = "" if max_epochs is None else str(max_epochs)
    return [
        Job(dataset, seed, method, bound if method in TRAINED else "", smoke)
        for seed in range(1 if smoke else max(SEEDS.values()))
        for dataset, methods in DATASETS.items()
        for method in methods
        if seed < SEEDS[dataset]
    ]


def read_results(path: Path) -> pd.DataFrame:
    """The lines of finished jobs: those with a time, which is written last."""
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    table = pd.read_csv(path, keep_default_na=False, dtype={"max_epochs": str})
    table["value"] = pd.to_numeric(table["value"], errors="coerce")
    finished = (table["metric"] == "seconds") & table["value"].notna()
    return table.merge(table.loc[finished, JOB], on=JOB)


def write_results(table: pd.DataFrame, path: Path) -> None:
    draft = path.with_suffix(".draft")
    table.to_csv(draft, index=False, float_format="%.5g")
    os.replace(draft, path)
