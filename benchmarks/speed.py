"""Training speed of MMVAE++ beside scvi-tools' models, which train in turns in one process.

    python benchmarks/speed.py                     # every configuration, then the table
    python benchmarks/speed.py snareseq --rounds 3 # some of them
    python benchmarks/speed.py --render            # the table of docs/performance.md alone

A round is one call of ``train`` for each model; the first one is not counted. Speeds are medians
over rounds. Screening, which the default does once before its first epoch, falls into the first
round: it is what that took longer. What follows a training (weak effects) is part of each round.
Results go to speed.csv, one line for each model; those of a configuration that is run again are
replaced. ``SCVENN_DATA`` names the folder of the real data; configurations whose file is not there
are left out. Threads are those of OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import anndata
import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import scvi
import torch
from tqdm.auto import tqdm

import scvenn

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "speed.csv", HERE.parent / "docs" / "performance.md"
QUIET = {"enable_progress_bar": False}
BATCH_SIZE = 128
# With it raised, the malloc of Linux keeps large arrays instead of taking them anew in every step.
ALLOCATOR = "MALLOC_MMAP_THRESHOLD_"

Train = Callable[[int], None]


# --------------------------------------------------------------------------------------------
# Data
# --------------------------------------------------------------------------------------------


def sparse_counts(
    n_obs: int, n_features: int, n_counts: int, types: np.ndarray, seed: int
) -> anndata.AnnData:
    """Counts of cells of several types, as sparse as those of a real assay.

    Parameters
    ----------
    n_obs, n_features
        Number of cells and of features.
    n_counts
        Counts of a cell, about: depths vary by a third.
    types
        Number of each cell's type, (n_obs,). A twentieth of the features is 3 times as frequent in
        cells of one type.
    seed
        Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    share = rng.gamma(0.5, size=n_features)  # a few features are frequent, most are rare
    profiles = np.tile(share, (types.max() + 1, 1))
    profiles[rng.integers(0, len(profiles), n_features // 20), np.arange(n_features // 20)] *= 3
    ends = np.cumsum(profiles / profiles.sum(1, keepdims=True), axis=1)
    columns, counts, sizes = [], [], [0]
    for number in types:
        depth = rng.poisson(n_counts * rng.lognormal(0, 0.3))
        drawn = np.searchsorted(ends[number], rng.random(depth)).clip(max=n_features - 1)
        found, times = np.unique(drawn, return_counts=True)
        columns.append(found)
        counts.append(times)
        sizes.append(sizes[-1] + len(found))
    x = sp.csr_matrix(
        (np.concatenate(counts).astype(np.float32), np.concatenate(columns), sizes),
        shape=(n_obs, n_features),
    )
    names = pd.DataFrame(index=[f"cell{i}" for i in range(n_obs)])
    return anndata.AnnData(x, obs=names, var=pd.DataFrame(index=map(str, range(n_features))))


def multiome(
    n_obs: int, n_genes: int, n_peaks: int, per_cell: tuple[int, int], *, binary: bool = False
) -> mudata.MuData:
    """Genes and peaks of the same cells, which are of eight types."""
    types = np.random.default_rng(0).integers(0, 8, n_obs)
    rna = sparse_counts(n_obs, n_genes, per_cell[0], types, 1)
    atac = sparse_counts(n_obs, n_peaks, per_cell[1], types, 2)
    if binary:
        atac.X.data[:] = 1
    rna.var_names, atac.var_names = "gene" + rna.var_names, "peak" + atac.var_names
    return mudata.MuData({"rna": rna, "atac": atac})


def snareseq() -> mudata.MuData:
    """Adult mouse cortex, 10,309 cells; every fourth one."""
    folder = Path(os.environ.get("SCVENN_DATA", ""))
    return mudata.read_h5mu(folder / "snareseq_cortex.h5mu")[::4].copy()


class Configuration(NamedTuple):
    """Data, and how long a round is."""

    text: str
    data: Callable[[], mudata.MuData]
    epochs: int
    batch_key: str | None = None


CONFIGURATIONS = {
    "peaks_10k_binary": Configuration(
        "2,000 genes + 10,000 peaks of 0 and 1",
        lambda: multiome(3000, 2000, 10_000, (800, 1000), binary=True),
        2,
    ),
    "peaks_10k": Configuration(
        "2,000 genes + 10,000 peaks", lambda: multiome(3000, 2000, 10_000, (800, 1000)), 2
    ),
    "peaks_100k_binary": Configuration(
        "2,000 genes + 100,000 peaks of 0 and 1",
        lambda: multiome(1280, 2000, 100_000, (800, 4000), binary=True),
        1,
    ),
    "snareseq": Configuration("SNARE-seq, 2,578 cells: 1,677 genes + 25,734 peaks", snareseq, 4),
    "snareseq_batches": Configuration("SNARE-seq, told its 12 batches", snareseq, 4, "batch"),
    "dense_counts": Configuration(
        "1,000 genes + 1,000 peaks, 77 % and 28 % of whose counts are not 0",
        lambda: scvenn.datasets.simulate_counts(2560, n_features=1000, n_shared_features=100),
        3,
    ),
    "full_multiome": Configuration(
        "36,000 genes + 108,000 peaks, of which a cell has 2,300 and 8,000",
        lambda: multiome(1280, 36_000, 108_000, (2550, 8750)),
        1,
    ),
}


# --------------------------------------------------------------------------------------------
# Models
# --------------------------------------------------------------------------------------------


def scvenn_model(mdata: mudata.MuData, batch_key: str | None, *, screen: bool) -> Train:
    """MMVAE++, and how to train it for some epochs."""
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key=batch_key)
    model = scvenn.MMVAEpp(mdata, screen=screen)

    def train(epochs: int) -> None:
        arguments = {"train_size": 1.0, "batch_size": BATCH_SIZE, "write_obsm": False}
        model.train(epochs, **arguments, **QUIET)

    return train


def multivi(mdata: mudata.MuData, batch_key: str | None) -> Train:
    """MULTIVI with networks of the same size."""
    modalities = {"rna_layer": "rna", "atac_layer": "atac"}
    scvi.model.MULTIVI.setup_mudata(mdata, batch_key=batch_key, modalities=modalities)
    sizes = {"n_hidden": 128, "n_latent": 20, "n_layers_encoder": 1, "n_layers_decoder": 1}
    model = scvi.model.MULTIVI(mdata, **sizes)

    def train(epochs: int) -> None:
        arguments = {"train_size": 1.0, "batch_size": BATCH_SIZE, "early_stopping": False}
        model.train(epochs, adversarial_mixing=False, **arguments, **QUIET)

    return train


MODELS: dict[str, Callable[[mudata.MuData, str | None], Train]] = {
    "MMVAEpp": lambda *data: scvenn_model(*data, screen=True),
    "MMVAEpp, screen=False": lambda *data: scvenn_model(*data, screen=False),
    "MULTIVI": multivi,
}


# --------------------------------------------------------------------------------------------
# Measurement
# --------------------------------------------------------------------------------------------


def measured(name: str, rounds: int) -> Iterator[dict]:
    """A row for each model of a configuration."""
    configuration = CONFIGURATIONS[name]
    whole = configuration.data()
    trains = {name: build(whole.copy(), configuration.batch_key) for name, build in MODELS.items()}
    first: dict[str, float] = {}
    seconds: dict[str, list[tuple[float, float]]] = {model: [] for model in MODELS}
    for number in tqdm(range(rounds + 1), desc=name, leave=False):
        for model, train in trains.items():
            cpu, wall = time.process_time(), time.perf_counter()
            train(configuration.epochs)
            spent = time.process_time() - cpu, time.perf_counter() - wall
            if number:
                seconds[model].append(spent)
            else:
                first[model] = spent[0]
    cells = whole.n_obs * configuration.epochs
    for model, spent in seconds.items():
        cpu_speed, wall_speed = (cells / np.array(spent)).T
        yield {
            "configuration": name,
            "model": model,
            "threads": torch.get_num_threads(),
            "allocator": "raised" if ALLOCATOR in os.environ else "default",
            "rounds": rounds,
            "cells_per_cpu_second": np.median(cpu_speed),
            "cells_per_second": np.median(wall_speed),
            "least": wall_speed.min(),
            "most": wall_speed.max(),
            # what the first round took besides: nothing but the default screens
            "screening_seconds": first[model] - np.median(spent, 0)[0]
            if model == "MMVAEpp"
            else np.nan,
        }


def silence() -> None:
    """Show nothing but results."""
    for name in ("lightning.pytorch", "lightning.fabric", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    scvi.settings.seed = 0


# --------------------------------------------------------------------------------------------
# The table
# --------------------------------------------------------------------------------------------


def table(results: pd.DataFrame) -> str:
    """Results as a table for the page."""
    lines = [
        "| data | threads | allocator | model | cells/s | cells/s of CPU | times MULTIVI's speed | "
        "screening, s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, rows in results.groupby(["configuration", "threads", "allocator"], sort=False):
        by_model = rows.set_index("model")
        peer = by_model.loc["MULTIVI", "cells_per_cpu_second"]
        for model, row in by_model.iterrows():
            screening = row["screening_seconds"]
            cells = [
                CONFIGURATIONS[key[0]].text,
                *map(str, key[1:]),
                model,
                f"{row['cells_per_second']:.0f} ({row['least']:.0f} to {row['most']:.0f})",
                f"{row['cells_per_cpu_second']:.0f}",
                f"{row['cells_per_cpu_second'] / peer:.2f}",
                "–" if np.isnan(screening) else f"{screening:.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def put_into_page(page: Path, name: str, text: str) -> None:
    """Put a text between the marks of this name."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, _, rest = page.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{page} lacks {begin} or {end}.")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("only", nargs="*", metavar="CONFIGURATION", help=", ".join(CONFIGURATIONS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--render", action="store_true", help="the table alone")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.only) - set(CONFIGURATIONS)):
        parser.error(f"{unknown}: expected some of {', '.join(CONFIGURATIONS)}")
    silence()
    if not arguments.render:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
        for name in arguments.only or CONFIGURATIONS:
            try:
                rows = pd.DataFrame(measured(name, arguments.rounds))
            except FileNotFoundError as error:
                print(f"{name} is left out: {error}")
                continue
            print(rows.to_string(index=False, float_format="{:.2f}".format))
            known = pd.read_csv(RESULTS) if RESULTS.exists() else rows[:0]
            same = ["configuration", "threads", "allocator"]
            again = known.set_index(same).index.isin(rows.set_index(same).index)
            rows = pd.concat([known[~again], rows], ignore_index=True)
            rows.to_csv(RESULTS, index=False, float_format="%.5g")
    put_into_page(PAGE, "speed", table(pd.read_csv(RESULTS)))


if __name__ == "__main__":
    main()
