"""Training speed of MMVAE++ beside scvi-tools' MULTIVI, in cells per second.

    python benchmarks/speed.py [--rounds 5] [--epochs 3] [--accelerator cpu]

2,000 genes and 10,000 peaks of 4,000 cells, one hidden layer of 128, minibatches of 128. The models
train through scvi-tools' runner in one process, in turns, so that all meet the same machine; the
first round is not counted. The time of MMVAEpp includes its screening, once for each round.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings

import mudata
import numpy as np
import scvi
import torch

import scvenn

N_OBS, N_GENES, N_PEAKS = 4000, 2000, 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--accelerator", default="cpu")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    scvi.settings.seed = 0

    mdata = data()
    print(mdata)
    models = {
        "MMVAEpp": scvenn_model(mdata.copy(), screen=True),
        "MMVAEpp, screen=False": scvenn_model(mdata.copy(), screen=False),
        "MULTIVI": multivi(mdata.copy()),
    }
    speeds: dict[str, list[float]] = {name: [] for name in models}
    for number in range(arguments.rounds + 1):
        for name, train in models.items():
            start = time.perf_counter()
            train(arguments.epochs, arguments.accelerator)
            seconds = time.perf_counter() - start
            if number:
                speeds[name].append(N_OBS * arguments.epochs / seconds)
    threads = torch.get_num_threads()
    print(f"\nscvi-tools {scvi.__version__}, torch {torch.__version__}, {threads} threads")
    for name, values in speeds.items():
        print(
            f"{name:22} {np.median(values):8.0f} cells/s  (of {len(values)} rounds: "
            f"{min(values):.0f} to {max(values):.0f}), "
            f"{np.median(values) / np.median(speeds['MULTIVI']):.2f} times MULTIVI's speed"
        )


def data() -> mudata.MuData:
    """RNA counts and binary peaks of the same cells."""
    rna = scvenn.datasets.simulate_counts(
        N_OBS, modalities={"rna": "nb", "other": "nb"}, n_features=N_GENES, depth=1.0
    )["rna"]
    atac = scvenn.datasets.simulate_counts(
        N_OBS, modalities={"other": "nb", "atac": "bernoulli"}, n_features=N_PEAKS, depth=1.0
    )["atac"]
    return mudata.MuData({"rna": rna, "atac": atac})


def scvenn_model(mdata: mudata.MuData, *, screen: bool):
    model = scvenn.MMVAEpp(mdata, n_hidden=128, n_layers=1, screen=screen)

    def train(epochs: int, accelerator: str) -> None:
        model.train(
            epochs,
            train_size=1.0,
            batch_size=128,
            accelerator=accelerator,
            write_obsm=False,
            enable_progress_bar=False,
        )

    return train


def multivi(mdata: mudata.MuData):
    scvi.model.MULTIVI.setup_mudata(mdata, modalities={"rna_layer": "rna", "atac_layer": "atac"})
    model = scvi.model.MULTIVI(
        mdata, n_hidden=128, n_latent=20, n_layers_encoder=1, n_layers_decoder=1
    )

    def train(epochs: int, accelerator: str) -> None:
        model.train(
            epochs,
            train_size=1.0,
            batch_size=128,
            early_stopping=False,
            adversarial_mixing=False,
            accelerator=accelerator,
            enable_progress_bar=False,
        )

    return train


if __name__ == "__main__":
    main()
