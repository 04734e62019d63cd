"""Time and memory of a default training by the number of cells and of features.

    python benchmarks/scaling.py                # every size, half an hour, then the table
    python benchmarks/scaling.py 4000x22000     # one of them
    python benchmarks/scaling.py --render       # the table of docs/performance.md alone

Counts of genes and peaks of which a cell has 7 %, as in ``speed.py``, in a process for each number
of cells and of features. What a process measures is a training of a few epochs; a real one has more
epochs of the same length. Results go to scaling.csv; those of a size that is run again are
replaced. Threads are those of OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
from speed import (
    HERE,
    PAGE,
    QUIET,
    Clock,
    alone,
    multiome,
    peak_memory,
    put_into_page,
    silence,
)
from tqdm.auto import tqdm

RESULTS = HERE / "scaling.csv"
SIZE = ["cells", "features"]
EPOCHS = 2
# Cells, and features: a fourth of them genes. The last is a whole multiome.
CASES = [(n, 22_000) for n in (1_000, 4_000, 16_000, 32_000)]
CASES += [(4_000, d) for d in (2_000, 8_000, 72_000, 200_000)]
CASES += [(10_000, 144_000)]


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
    times = [wall for _, wall in clock.times]
    return {
        "cells": mdata.n_obs,
        "features": mdata.n_vars,
        "values_per_cell": n_values / mdata.n_obs,
        "threads": n_threads,
        "setup_seconds": built - start,
        "screening_seconds": times[0] - built,
        "epoch_seconds": float(np.median(np.diff(times))),
        "after_seconds": time.perf_counter() - times[-1],
        "memory_gib": peak_memory(),
    }


def write(path: str, n_cells: int, n_features: int) -> None:
    """Write data of this size to a file."""
    genes = n_features // 4
    peaks = n_features - genes
    multiome(n_cells, genes, peaks, (int(0.075 * genes), int(0.075 * peaks))).write(path)


def run(cases: list[tuple[int, int]], n_threads: int) -> pd.DataFrame:
    """A row for each number of cells and features."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "data.h5mu")
        for n_cells, n_features in tqdm(cases):
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
    sizes = {f"{n}x{d}": (n, d) for n, d in CASES}
    parser.add_argument("only", nargs="*", metavar="CELLSxFEATURES", help=", ".join(sizes))
    parser.add_argument("--render", action="store_true", help="the table alone")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.only) - set(sizes)):
        parser.error(f"{unknown}: expected some of {', '.join(sizes)}")
    if not arguments.render:
        silence()
        cases = [sizes[name] for name in arguments.only] or CASES
        rows = run(cases, int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
        rows = rows.set_index(SIZE)
        if RESULTS.exists() and arguments.only:
            known = pd.read_csv(RESULTS).set_index(SIZE)
            rows = pd.concat([known.drop(rows.index, errors="ignore"), rows])
        rows = rows.loc[[case for case in CASES if case in rows.index]].reset_index()
        rows.to_csv(RESULTS, index=False, float_format="%.5g")
    put_into_page(PAGE, "scaling", table(pd.read_csv(RESULTS)))


if __name__ == "__main__":
    main()
