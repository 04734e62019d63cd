"""What a rival reads and writes: two .npz files, as its packages need not be those of scvenn.

Only numpy, scipy and torch are asked of the rival's environment. A script of the folder ``rivals``
has a function ``fit(given, seed, max_epochs)`` that returns what was `Found`, and calls `main` with
it. Each package runs with its own defaults, or with what its tutorial has where there are none.
"""

from __future__ import annotations

import argparse
import random
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.sparse as sp

Pair = tuple[str, str]
_PARTS = ("data", "indices", "indptr", "shape")


@dataclass
class Given:
    """Paired cells: values by modality, which cells are for training and for testing."""

    # as measured, and log1p of counts at the median depth (what is not counts: as measured)
    measured: dict[str, sp.csr_matrix]
    scaled: dict[str, sp.csr_matrix]
    # modalities whose values are counts
    counts: list[str]
    train: np.ndarray
    test: np.ndarray
    # of every cell; the same for all where there are none
    batch: np.ndarray

    @property
    def names(self) -> list[str]:
        """Names of the cells."""
        return [f"cell{i}" for i in range(len(self.batch))]

    @property
    def pairs(self) -> list[Pair]:
        """Source and target of the cross-modal predictions."""
        first, second = self.measured
        return [(first, second), (second, first)]

    def without(self, target: str) -> dict[str, np.ndarray]:
        """Scaled values, dense; those of the target in the test cells are missing."""
        found = {m: x.toarray() for m, x in self.scaled.items()}
        found[target][self.test] = np.nan
        return found


@dataclass
class Found:
    """Embeddings of all cells by name, and predictions in the test cells by source and target."""

    embeddings: dict[str, np.ndarray]
    # expectations of counts, at any depth
    counts: dict[Pair, Callable[[], np.ndarray]] = field(default_factory=dict)
    # logarithms of a cell's counts relative to its depth, up to a factor and shift of the feature
    logs: dict[Pair, Callable[[], np.ndarray]] = field(default_factory=dict)


def write_given(given: Given, path: Path) -> None:
    arrays = {"counts": given.counts, "modalities": list(given.measured)}
    arrays |= {name: getattr(given, name) for name in ("train", "test", "batch")}
    for kind in ("measured", "scaled"):
        for m, x in getattr(given, kind).items():
            arrays |= {f"{kind}/{m}/{part}": getattr(x, part) for part in _PARTS}
    np.savez(path, **arrays)


def read_given(path: Path) -> Given:
    with np.load(path) as file:
        matrices = {
            kind: {m: _matrix(file, f"{kind}/{m}") for m in file["modalities"].tolist()}
            for kind in ("measured", "scaled")
        }
        of_cells = {name: file[name] for name in ("train", "test", "batch")}
        return Given(**matrices, counts=file["counts"].tolist(), **of_cells)


def _matrix(file: np.lib.npyio.NpzFile, name: str) -> sp.csr_matrix:
    data, indices, indptr, shape = (file[f"{name}/{part}"] for part in _PARTS)
    return sp.csr_matrix((data, indices, indptr), shape=shape)


def write_found(found: Found, costs: dict[str, float], path: Path) -> None:
    arrays = {f"embedding/{name}": z for name, z in found.embeddings.items()}
    arrays |= {f"cost/{name}": np.array(cost) for name, cost in costs.items()}
    for kind in ("counts", "logs"):
        for (source, target), predict in getattr(found, kind).items():
            arrays[f"{kind}/{source}/{target}"] = predict()
    np.savez(path, **arrays)


def read_found(path: Path) -> tuple[Found, dict[str, float]]:
    """What was found, and what it cost."""
    found, costs = Found({}), {}
    with np.load(path) as file:
        for key in file.files:
            kind, *name = key.split("/")
            if kind == "embedding":
                found.embeddings[name[0]] = file[key]
            elif kind == "cost":
                costs[name[0]] = float(file[key])
            else:
                getattr(found, kind)[tuple(name)] = lambda values=file[key]: values
    return found, costs


def main(fit: Callable[[Given, int, int | None], Found]) -> None:
    """Fit on one thread, with the seed everywhere; predicting is not counted in the costs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("given", type=Path)
    parser.add_argument("found", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--max-epochs", type=int)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    given = read_given(arguments.given)

    import torch  # all rivals compute with it

    torch.set_num_threads(1)
    random.seed(arguments.seed)
    np.random.seed(arguments.seed)  # noqa: NPY002 (what packages draw from)
    torch.manual_seed(arguments.seed)
    start = time.process_time()
    found = fit(given, arguments.seed, arguments.max_epochs)
    costs = {
        "fit_seconds": time.process_time() - start,
        # Linux counts in KiB
        "memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    write_found(found, costs, arguments.found)
