"""Training speed and memory of MMVAE++ beside MULTIVI and totalVI of scvi-tools.

    python benchmarks/speed.py                     # every configuration, then the table
    python benchmarks/speed.py snareseq --rounds 3 # some of them
    python benchmarks/speed.py --render            # the table of docs/performance.md alone

The models of a configuration train in turns in one process. A round is one call of ``train`` for
each; the first one is not counted. Speeds are those of epochs, medians over all of them. What a
training has besides its epochs is in a column of its own, measured in the first round: for
scvenn's default this is screening before, and the estimate of weak effects after. The peak memory
is that of a process which reads the data and trains one model for one epoch.
Results go to speed.csv, one line for each model; those of a configuration that is run again are
replaced. ``SCVENN_DATA`` names the folder of the real data; configurations whose file is not there
are left out. Threads are those of OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import scvi
import torch
from lightning.pytorch.callbacks import Callback
from tqdm.auto import tqdm

import scvenn

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "speed.csv", HERE.parent / "docs" / "performance.md"
QUIET = {"enable_progress_bar": False}
BATCH_SIZE = 128
# With it raised, the malloc of Linux keeps large arrays instead of taking them anew in every step.
ALLOCATOR = "MALLOC_MMAP_THRESHOLD_"

Train = Callable[[int, list[Any]], None]


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


def citeseq() -> mudata.MuData:
    """Blood cells with ten proteins."""
    return mudata.read_h5mu(Path(os.environ.get("SCVENN_DATA", "")) / "citeseq_pbmc1k.h5mu")


class Configuration(NamedTuple):
    """Data, how long a round is, and what scvenn is compared with."""

    text: str
    data: Callable[[], mudata.MuData]
    epochs: int
    batch_key: str | None = None
    peer: str = "MULTIVI"


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
    "snareseq": Configuration("SNARE-seq, 2,578 cells: 1,677 genes + 25,734 peaks", snareseq, 2),
    "snareseq_batches": Configuration("SNARE-seq, told its 12 batches", snareseq, 2, "batch"),
    "citeseq": Configuration(
        "CITE-seq, 892 cells: 19,203 genes + 10 proteins", citeseq, 4, peer="totalVI"
    ),
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

# Times MULTIVI's speed on one thread before the shortcuts, which no command measures anew.
FIRST = {
    ("snareseq", "MMVAEpp"): 0.67,
    ("full_multiome", "MMVAEpp"): 0.47,
    ("full_multiome", "MMVAEpp, screen=False"): 0.6,
    ("peaks_10k_binary", "MMVAEpp"): 1.28,
    ("peaks_10k_binary", "MMVAEpp, screen=False"): 1.60,
    ("peaks_100k_binary", "MMVAEpp"): 1.73,
    ("peaks_100k_binary", "MMVAEpp, screen=False"): 2.02,
}


# --------------------------------------------------------------------------------------------
# Models
# --------------------------------------------------------------------------------------------


def scvenn_model(mdata: mudata.MuData, batch_key: str | None, *, screen: bool) -> Train:
    """MMVAE++, and how to train it for some epochs."""
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key=batch_key)
    model = scvenn.MMVAEpp(mdata, screen=screen)

    def train(epochs: int, callbacks: list[Any]) -> None:
        arguments = {"train_size": 1.0, "batch_size": BATCH_SIZE, "write_obsm": False}
        model.train(epochs, **arguments, **QUIET, callbacks=callbacks)

    return train


def multivi(mdata: mudata.MuData, batch_key: str | None) -> Train:
    """MULTIVI with networks of the same size."""
    modalities = {"rna_layer": "rna", "atac_layer": "atac"}
    scvi.model.MULTIVI.setup_mudata(mdata, batch_key=batch_key, modalities=modalities)
    sizes = {"n_hidden": 128, "n_latent": 20, "n_layers_encoder": 1, "n_layers_decoder": 1}
    model = scvi.model.MULTIVI(mdata, **sizes)

    def train(epochs: int, callbacks: list[Any]) -> None:
        arguments = {"train_size": 1.0, "batch_size": BATCH_SIZE, "early_stopping": False}
        model.train(epochs, adversarial_mixing=False, **arguments, **QUIET, callbacks=callbacks)

    return train


def totalvi(mdata: mudata.MuData, batch_key: str | None) -> Train:
    """TotalVI with networks of the same size."""
    mdata["adt"].X = mdata["adt"].X.toarray() if sp.issparse(mdata["adt"].X) else mdata["adt"].X
    modalities = {"rna_layer": "rna", "protein_layer": "adt"}
    scvi.model.TOTALVI.setup_mudata(mdata, batch_key=batch_key, modalities=modalities)
    sizes = {"n_hidden": 128, "n_layers_encoder": 1, "n_layers_decoder": 1}
    model = scvi.model.TOTALVI(mdata, n_latent=20, **sizes)

    def train(epochs: int, callbacks: list[Any]) -> None:
        arguments = {"train_size": 1.0, "batch_size": BATCH_SIZE, "early_stopping": False}
        # it follows the validation loss, which there is none of
        arguments |= {"reduce_lr_on_plateau": False}
        model.train(epochs, adversarial_classifier=False, **arguments, **QUIET, callbacks=callbacks)

    return train


PEERS = {"MULTIVI": multivi, "totalVI": totalvi}


def models_of(
    configuration: Configuration,
) -> dict[str, Callable[[mudata.MuData, str | None], Train]]:
    """How to make each model that trains on this data, by its name in the table."""
    return {
        "MMVAEpp": lambda *data: scvenn_model(*data, screen=True),
        "MMVAEpp, screen=False": lambda *data: scvenn_model(*data, screen=False),
        configuration.peer: PEERS[configuration.peer],
    }


# --------------------------------------------------------------------------------------------
# Measurement
# --------------------------------------------------------------------------------------------


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, called in a process of its own.

    On Linux, the peak memory of a process starts at that of the one that started it. The one that
    measures therefore calls everything that reads data in this way.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory() -> float:
    """Of this process, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def set_threads() -> None:
    """Use as many threads as OMP_NUM_THREADS says."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))


class Clock(Callback):
    """Seconds of CPU and of wall time at which epochs began and the last one ended."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    @staticmethod
    def now() -> tuple[float, float]:
        """Seconds of CPU and of wall time."""
        return time.process_time(), time.perf_counter()

    def on_train_epoch_start(self, *_: object) -> None:
        """Note the time."""
        self.times.append(self.now())

    def on_train_end(self, *_: object) -> None:
        """Note the time."""
        self.times.append(self.now())


def in_turns(name: str, path: str, rounds: int) -> pd.DataFrame:
    """Speeds of the models of a configuration, a row for each."""
    silence()
    set_threads()
    configuration = CONFIGURATIONS[name]
    whole = mudata.read_h5mu(path)
    models = models_of(configuration)
    trains = {name: build(whole.copy(), configuration.batch_key) for name, build in models.items()}
    besides: dict[str, float] = {}
    seconds: dict[str, list[np.ndarray]] = {model: [] for model in models}
    for number in tqdm(range(rounds + 1), desc=name, leave=False):
        for model, train in trains.items():
            clock, start = Clock(), time.perf_counter()
            train(configuration.epochs, [clock])
            epochs = np.diff(clock.times, axis=0)  # of CPU and of wall time
            if number:
                seconds[model] += [*epochs]
            else:
                besides[model] = time.perf_counter() - start - epochs[:, 1].sum()
    rows = []
    for model, spent in seconds.items():
        cpu_speed, wall_speed = (whole.n_obs / np.array(spent)).T
        rows.append(
            {
                "configuration": name,
                "model": model,
                "threads": torch.get_num_threads(),
                "allocator": "raised" if ALLOCATOR in os.environ else "default",
                "rounds": rounds,
                "cells_per_cpu_second": np.median(cpu_speed),
                "cells_per_second": np.median(wall_speed),
                "least": wall_speed.min(),
                "most": wall_speed.max(),
                "besides_seconds": besides[model],
            }
        )
    return pd.DataFrame(rows)


def memory(name: str, path: str, model: str) -> float:
    """Peak memory of a process that reads the data and trains a model for one epoch, GiB."""
    silence()
    set_threads()
    configuration = CONFIGURATIONS[name]
    build = models_of(configuration)[model]
    build(mudata.read_h5mu(path), configuration.batch_key)(1, [])
    return peak_memory()


def write(name: str, path: str) -> None:
    """Write the data of a configuration to a file."""
    CONFIGURATIONS[name].data().write_h5mu(path)


def measured(name: str, rounds: int) -> pd.DataFrame:
    """A row for each model of a configuration."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "data.h5mu")
        alone(write, name, path)
        rows = alone(in_turns, name, path, rounds)
        rows["memory_gib"] = [alone(memory, name, path, model) for model in rows["model"]]
    return rows


def silence() -> None:
    """Show nothing but results."""
    for name in ("lightning.pytorch", "lightning.fabric", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    scvi.settings.seed = 0


# --------------------------------------------------------------------------------------------
# The table
# --------------------------------------------------------------------------------------------


def in_order(results: pd.DataFrame) -> pd.DataFrame:
    """Configurations in their order above, then by threads and allocator."""
    place = results["configuration"].map(list(CONFIGURATIONS).index)
    ordered = results.assign(place=place).sort_values(
        ["place", "threads", "allocator"], kind="stable"
    )
    return ordered.drop(columns="place")


def table(results: pd.DataFrame) -> str:
    """Results as a table for the page."""
    lines = [
        "| data | threads | allocator | model | cells/s | cells/s of CPU | times the peer's speed "
        "| besides, s | GiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    groups = results.groupby(["configuration", "threads", "allocator"], sort=False)
    for (name, *machine), rows in groups:
        by_model = rows.set_index("model")
        peer = by_model.loc[CONFIGURATIONS[name].peer, "cells_per_cpu_second"]
        for model, row in by_model.iterrows():
            cells = [
                CONFIGURATIONS[name].text,
                *map(str, machine),
                model,
                f"{row['cells_per_second']:.0f} ({row['least']:.0f} to {row['most']:.0f})",
                f"{row['cells_per_cpu_second']:.0f}",
                f"{row['cells_per_cpu_second'] / peer:.2f}",
                f"{row['besides_seconds']:.0f}",
                f"{row['memory_gib']:.1f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def beside_the_first(results: pd.DataFrame) -> str:
    """How the shortcuts have changed the speeds, on one thread."""
    lines = ["| data | model | before | now |", "| --- | --- | --- | --- |"]
    plain = results[(results["threads"] == 1) & (results["allocator"] == "default")]
    speed = plain.set_index(["configuration", "model"])["cells_per_cpu_second"]
    for (name, model), first in FIRST.items():
        now = speed[name, model] / speed[name, CONFIGURATIONS[name].peer]
        lines.append(f"| {CONFIGURATIONS[name].text} | {model} | {first:.2f} | {now:.2f} |")
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
        for name in arguments.only or CONFIGURATIONS:
            try:
                rows = measured(name, arguments.rounds)
            except FileNotFoundError as error:
                print(f"{name} is left out: {error}")
                continue
            print(rows.to_string(index=False, float_format="{:.2f}".format))
            known = pd.read_csv(RESULTS) if RESULTS.exists() else rows[:0]
            same = ["configuration", "threads", "allocator"]
            again = known.set_index(same).index.isin(rows.set_index(same).index)
            rows = in_order(pd.concat([known[~again], rows], ignore_index=True))
            rows.to_csv(RESULTS, index=False, float_format="%.5g")
    results = pd.read_csv(RESULTS)
    put_into_page(PAGE, "speed", table(results))
    put_into_page(PAGE, "first", beside_the_first(results))


if __name__ == "__main__":
    main()
