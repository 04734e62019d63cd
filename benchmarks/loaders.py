"""Reading data on disk: scvenn's loader beside annbatch's, of which each modality needs its own.

    pip install annbatch                     # Python 3.12 or newer
    python benchmarks/loaders.py             # 50,000 cells
    python benchmarks/loaders.py 5000

Counts of 2,000 genes and 50,000 peaks (those of scale.py) are written to a folder of zarr. Both
loaders then read all cells in minibatches of 128, twice, and nothing is trained: blocks of 128
cells in random order, of which 64 are mixed. annbatch's loaders have samplers with the same seed,
so that minibatches of both modalities hold the same cells, which is checked. The table has cells
per second, of the clock and of the processor's time, of the second pass.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import anndata
import mudata
import numpy as np
import scipy.sparse as sp
import scvi
import zarr
from annbatch import Loader
from annbatch.samplers import RandomSampler
from scale import FEATURES, counts
from speed import silence

import scvenn
from scvenn.data.blocks import BLOCK, BUFFER, BlockLoader

BATCH, SEED = 128, 0


def write(n_cells: int, path: Path) -> None:
    """A MuData of simulated counts, in a folder of zarr."""
    names = [f"cell{i}" for i in range(n_cells)]
    modalities = {}
    for seed, (m, (n_features, depth)) in enumerate(FEATURES.items()):
        values = sp.vstack(list(counts(n_cells, n_features, depth, seed))).tocsr()
        modalities[m] = anndata.AnnData(values)
        modalities[m].obs_names = names
        modalities[m].var_names = [f"{m}{j}" for j in range(n_features)]
    mudata.MuData(modalities).write_zarr(path)


def with_scvenn(path: Path) -> tuple[Iterable, Callable[[dict], int]]:
    """Minibatches of all that a step of training reads."""
    mdata = scvenn.read_lazy(path)
    model = scvenn.MMVAEpp(mdata, n_hidden=1)
    loader = BlockLoader(model.adata_manager, np.arange(mdata.n_obs), batch_size=BATCH)
    return loader, lambda minibatch: len(minibatch["observed"])


def with_annbatch(path: Path) -> tuple[Iterable, Callable[[tuple], int]]:
    """Minibatches of a loader for each modality, in step."""
    group, loaders = zarr.open(path, mode="r"), []
    for m in FEATURES:
        sampler = RandomSampler(
            chunk_size=BLOCK,
            preload_nchunks=BUFFER,
            batch_size=BATCH,
            rng=np.random.default_rng(SEED),
        )
        loader = Loader(batch_sampler=sampler, return_index=True, preload_to_gpu=False, to="torch")
        loaders.append(loader.add_dataset(anndata.io.sparse_dataset(group[f"mod/{m}/X"])))

    def n_cells(minibatches: tuple) -> int:
        first, *others = (minibatch["index"] for minibatch in minibatches)
        if any(not np.array_equal(first, other) for other in others):
            raise ValueError("The loaders are out of step.")
        return len(first)

    class InStep:
        def __iter__(self):
            return zip(*loaders, strict=True)

    return InStep(), n_cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("n_cells", type=int, nargs="?", default=50_000)
    n = parser.parse_args().n_cells
    silence()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.zarr"
        write(n, path)
        print("| loader | cells/s | cells/s of processor time |\n| --- | --- | --- |")
        for name, open_it in {"scvenn": with_scvenn, "annbatch": with_annbatch}.items():
            scvi.settings.seed = SEED
            loader, size = open_it(path)
            for _ in range(2):
                start, of_processor = time.perf_counter(), time.process_time()
                read = sum(size(minibatch) for minibatch in loader)
                took, used = time.perf_counter() - start, time.process_time() - of_processor
            if read != n:
                raise ValueError(f"{name} read {read} of {n} cells.")
            print(f"| {name} | {n / took:,.0f} | {n / used:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
