"""Data on disk: peak memory and speed from 10,000 to a million cells.

    python benchmarks/scale.py                    # every size, hours, then table and figure
    python benchmarks/scale.py 10000 50000        # some of them
    python benchmarks/scale.py --render           # the table and figure of docs/large_data.md alone
    python benchmarks/scale.py --folder /scratch  # where files are written, 5 GB for a million

Counts of 2,000 genes and 50,000 peaks, of which a cell has about 10 % and 0.8 %, are simulated and
written in blocks of cells; no process ever holds all of them. A process of its own then builds the
default MMVAE++ on the file, trains it for two epochs on 9,000 cells that follow each other (1,000
more are held out), and embeds all cells. Up to 50,000 cells, another one does the same with the
data in memory. Speeds are those of the second epoch, per second of the processor's time, as other
programs may run beside; the columns of wall time have what they took. Results go to scale.csv;
those of a size that is run again are replaced. Files are removed. Threads are those of
OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anndata
import h5py
import matplotlib
import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import sparse_dataset, write_elem
from speed import HERE, QUIET, Clock, alone, peak_memory, put_into_page, silence
from tqdm.auto import tqdm

matplotlib.use("Agg")

import matplotlib.pyplot as plt

RESULTS, PAGE = HERE / "scale.csv", HERE.parent / "docs" / "large_data.md"
FIGURE = HERE.parent / "docs" / "_static" / "scale.png"
SIZES = (10_000, 50_000, 200_000, 1_000_000)
MOST_IN_MEMORY, MOST_TRAINED, HELD_OUT = 50_000, 9_000, 1_000
EPOCHS, BLOCK, N_TYPES = 2, 5_000, 8
# Features, and counts of a cell, about.
FEATURES = {"rna": (2_000, 230), "atac": (50_000, 400)}
COLOURS = {"on disk": "#0072B2", "in memory": "#D55E00"}


# --------------------------------------------------------------------------------------------
# Data
# --------------------------------------------------------------------------------------------


def counts(n_cells: int, n_features: int, depth: int, seed: int) -> Iterator[sp.csr_matrix]:
    """Counts of cells of eight types, some cells at a time.

    A twentieth of the features is 3 times as frequent in cells of one type.
    """
    rng = np.random.default_rng(seed)
    share = rng.gamma(0.5, size=n_features)  # a few features are frequent, most are rare
    profiles = np.tile(share, (N_TYPES, 1))
    marked = np.arange(n_features // 20)
    profiles[rng.integers(0, N_TYPES, len(marked)), marked] *= 3
    ends = np.cumsum(profiles / profiles.sum(1, keepdims=True), axis=1)
    ends = (ends + np.arange(N_TYPES)[:, None]).ravel()  # one after the other
    types = np.random.default_rng(0)  # the same in all modalities
    for start in range(0, n_cells, BLOCK):
        n = min(BLOCK, n_cells - start)
        kind = types.integers(0, N_TYPES, n)
        depths = rng.poisson(depth * rng.lognormal(0, 0.3, n))
        cell = np.repeat(np.arange(n), depths)
        place = np.searchsorted(ends, kind[cell] + rng.random(len(cell)))
        feature = (place - kind[cell] * n_features).clip(0, n_features - 1)
        ones = np.ones(len(cell), np.float32)
        yield sp.csr_matrix((ones, (cell, feature)), shape=(n, n_features))  # repeated ones add up


def write(path: str, n_cells: int) -> float:
    """Write data of so many cells; the size of the file, GB."""
    silence()
    cells = pd.DataFrame(index=[f"cell{i:07d}" for i in range(n_cells)])
    empty = {
        m: anndata.AnnData(obs=cells, var=pd.DataFrame(index=[f"{m}{j}" for j in range(n)]))
        for m, (n, _) in FEATURES.items()
    }
    mudata.MuData(empty).write(path)
    with h5py.File(path, "r+") as file:
        for seed, (m, (n_features, depth)) in enumerate(FEATURES.items()):
            group = file["mod"][m]
            blocks = counts(n_cells, n_features, depth, seed)
            write_elem(group, "X", next(blocks))
            for block in blocks:
                sparse_dataset(group["X"]).append(block)
    return Path(path).stat().st_size / 1e9


# --------------------------------------------------------------------------------------------
# Measurement
# --------------------------------------------------------------------------------------------


def measure(path: str, on_disk: bool, n_threads: int) -> dict[str, float | str]:
    """Seconds and memory of a training and an embedding, in a process that does nothing else."""
    import torch

    import scvenn

    silence()
    torch.set_num_threads(n_threads)
    clock, times = Clock(), [Clock.now()]
    mdata = mudata.read_h5mu(path, backed=True) if on_disk else mudata.read_h5mu(path)
    model = scvenn.MMVAEpp(mdata)
    times.append(Clock.now())
    n_trained = min(MOST_TRAINED, mdata.n_obs - HELD_OUT)
    split = [np.arange(n_trained), np.arange(n_trained, n_trained + HELD_OUT)]
    split.append(np.arange(n_trained + HELD_OUT, mdata.n_obs))
    model.train(
        EPOCHS,
        datasplitter_kwargs={"external_indexing": split},
        callbacks=[clock],
        write_obsm=False,
        **QUIET,
    )
    times.append(Clock.now())
    model.embed()
    times.append(Clock.now())
    cpu, wall = np.diff(times, axis=0).T  # of set-up, training and embedding
    epoch_cpu, epoch_wall = np.diff(clock.times, axis=0)[-1]
    return {
        "cells": mdata.n_obs,
        "data": "on disk" if on_disk else "in memory",
        "threads": n_threads,
        "trained": n_trained,
        "cells_per_second": n_trained / epoch_cpu,
        "cells_per_wall_second": n_trained / epoch_wall,
        "setup_seconds": cpu[0],
        "besides_epochs_seconds": cpu[1] - np.diff(clock.times, axis=0)[:, 0].sum(),
        "embedded_per_second": mdata.n_obs / cpu[2],
        "wall_seconds": wall.sum(),
        "memory_gb": peak_memory() * 2**30 / 1e9,
    }


def run(n_cells: int, folder: str | None, n_threads: int) -> pd.DataFrame:
    """A row for data on disk, and one for data in memory where it is not too large for that."""
    rows = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = str(Path(place) / "cells.h5mu")
        size = alone(write, path, n_cells)
        for on_disk in (True, False):
            if on_disk or n_cells <= MOST_IN_MEMORY:
                start = time.perf_counter()
                found = alone(measure, path, on_disk, n_threads)
                rows.append({**found, "file_gb": size})
                tqdm.write(f"{found} in {time.perf_counter() - start:.0f} s")
    return pd.DataFrame(rows)


# --------------------------------------------------------------------------------------------
# The table and the figure
# --------------------------------------------------------------------------------------------


def table(rows: pd.DataFrame) -> str:
    """Results for the page."""
    lines = [
        "| cells | data | file, GB | peak memory, GB | set-up, s | training, cells/s | embedding, "
        "cells/s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows.itertuples():
        cells = [
            f"{row.cells:,}",
            row.data,
            f"{row.file_gb:.2f}",
            f"{row.memory_gb:.2f}",
            f"{row.setup_seconds:.0f}",
            f"{row.cells_per_second:,.0f}",
            f"{row.embedded_per_second:,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: pd.DataFrame) -> None:
    """Peak memory and speed by the number of cells."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    titles = {"memory_gb": "Peak memory (GB)", "cells_per_second": "Training (cells per second)"}
    for ax, (column, title) in zip(axes, titles.items(), strict=True):
        for name, of in rows.groupby("data"):
            ax.plot(of["cells"], of[column], "o-", color=COLOURS[str(name)], label=name)
        ax.set(xscale="log", xlabel="cells", title=title, ylim=(0, 1.15 * rows[column].max()))
        ax.set_xticks(SIZES, [f"{n:,}" for n in SIZES])
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(FIGURE, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("only", nargs="*", type=int, metavar="CELLS", help=f"some of {SIZES}")
    parser.add_argument("--folder", help="for the files; by default that of temporary files")
    parser.add_argument("--render", action="store_true", help="the table and the figure alone")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.only) - set(SIZES)):
        parser.error(f"{unknown}: expected some of {SIZES}")
    if not arguments.render:
        silence()
        n_threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
        for n_cells in tqdm(arguments.only or SIZES):
            rows = run(n_cells, arguments.folder, n_threads)
            if RESULTS.exists():
                known = pd.read_csv(RESULTS)
                rows = pd.concat([known[known["cells"] != n_cells], rows])
            rows = rows.sort_values(["cells", "data"], ascending=[True, False])
            rows.to_csv(RESULTS, index=False, float_format="%.5g")
    rows = pd.read_csv(RESULTS)
    draw(rows)
    put_into_page(PAGE, "scale", table(rows))


if __name__ == "__main__":
    main()
