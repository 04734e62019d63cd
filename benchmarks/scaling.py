"""Time and memory of a default training by the number of cells and of features.

    python benchmarks/scaling.py            # measures, a quarter of an hour, then the table
    python benchmarks/scaling.py --render   # the table of docs/performance.md alone

Counts of genes and peaks of which a cell has 7 %, as in ``speed.py``, in a process for each number
of cells and of features. What a process measures is a training of a few epochs; a real one has more
epochs of the same length. Results go to scaling.csv. Threads are those of OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
from lightning.pytorch.callbacks import Callback
from speed import HERE, PAGE, QUIET, multiome, put_into_page, silence
from tqdm.auto import tqdm

RESULTS = HERE / "scaling.csv"
EPOCHS = 2
# Cells, and features: a fourth of them genes.
CASES = [(n, 22_000) for n in (1_000, 4_000, 16_000, 32_000)]
CASES += [(4_000, d) for d in (2_000, 8_000, 72_000, 200_000)]


class Clock(Callback):
    """When each epoch began, and when the last one ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_epoch_start(self, *_: object) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())

    def on_train_end(self, *_: object) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())


def measure(path: str, n_threads: int) -> dict[str, float]:
    """Seconds and memory of a training on a file, in a process that does nothing else."""
    import torch

    import scvenn

    silence()
    torch.set_num_threads(n_threads)
    mdata = mudata.read_h5mu(path)
    n_values = sum(mdata[m].X.nnz for m in mdata.mod)
    clock, start = Clock(), time.perf_counter()
    model = scvenn.MMVAEpp(mdata)
    built = time.perf_counter()
    model.train(EPOCHS, callbacks=[clock], **QUIET)
    epochs = np.diff(clock.times)
    return {
        "cells": mdata.n_obs,
        "features": mdata.n_vars,
        "values_per_cell": n_values / mdata.n_obs,
        "threads": n_threads,
        "setup_seconds": built - start,
        "screening_seconds": clock.times[0] - built,
        "epoch_seconds": float(np.median(epochs)),
        "after_seconds": time.perf_counter() - clock.times[-1],
        "memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def write(path: str, n_cells: int, n_features: int) -> None:
    """Write data of this size to a file."""
    genes = n_features // 4
    peaks = n_features - genes
    multiome(n_cells, genes, peaks, (int(0.075 * genes), int(0.075 * peaks))).write(path)


def run(n_threads: int) -> pd.DataFrame:
    """A row for each number of cells and features."""

    def alone(function: Callable[..., Any], *arguments: Any) -> Any:
        # on Linux, a process that is started counts the memory of the one it was started from
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "data.h5mu")
        for n_cells, n_features in tqdm(CASES):
            alone(write, path, n_cells, n_features)
            rows.append(alone(measure, path, n_threads))
    return pd.DataFrame(rows)


def fit(rows: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """Of 10,000 cells and 10,000 features, and the exponents of both, by least squares of logs."""
    logs = np.log(rows[["cells", "features"]].to_numpy() / 10_000)
    design = np.column_stack([np.ones(len(rows)), logs])
    at, by_cells, by_features = np.linalg.lstsq(design, np.log(rows[column]), rcond=None)[0]
    return float(np.exp(at)), float(by_cells), float(by_features)


def table(rows: pd.DataFrame) -> str:
    """Results, and what was fitted to them, for the page."""
    lines = [
        "| cells | features | set-up, s | screening, s | an epoch, s | after training, s | GiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows.itertuples():
        cells = [
            f"{row.cells:,}",
            f"{row.features:,}",
            f"{row.setup_seconds:.1f}",
            f"{row.screening_seconds:.0f}",
            f"{row.epoch_seconds:.1f}",
            f"{row.after_seconds:.0f}",
            f"{row.memory_gib:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    at, by_cells, by_features = fit(rows, "epoch_seconds")
    threads = int(rows["threads"].iloc[0])
    lines += [
        "",
        f"On {threads} thread{'s' * (threads > 1)}. Fitted to the rows, an epoch of $N$ cells and "
        f"$D$ features takes about ${at:.2g}\\,(N / 10^4)^{{{by_cells:.2f}}}"
        f"(D / 10^4)^{{{by_features:.2f}}}$ seconds.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--render", action="store_true", help="the table alone")
    if not parser.parse_args().render:
        silence()
        rows = run(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
        rows.to_csv(RESULTS, index=False, float_format="%.5g")
    put_into_page(PAGE, "scaling", table(pd.read_csv(RESULTS)))


if __name__ == "__main__":
    main()
