"""What training costs beside its steps: ``train`` and a bare loop of the same steps, in turns.

    python benchmarks/overhead.py [--rounds 5]

The bare loop has its minibatches read beforehand; it scores them, follows the gradient, and does
nothing else. What ``train`` has besides is scvi-tools' loader, Lightning's loop and the history.
There are no validation cells. Data are the paper's simulation and CLL (``SCVENN_DATA``), with the
networks of the paper, for which steps are short.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import mudata
import numpy as np
import torch
from speed import QUIET, silence

import scvenn

EPOCHS = 50


def gp() -> mudata.MuData:
    """The paper's simulation."""
    return scvenn.datasets.simulate_gp(1000, n_private_features=(50, 50))


def cll() -> mudata.MuData:
    """Expression and methylation of the patients with leukaemia."""
    mdata = scvenn.datasets.cll()
    return mudata.MuData({m: mdata[m] for m in ("rna", "meth")})


def paired(make: Callable[[], mudata.MuData], rounds: int) -> tuple[float, float]:
    """CPU seconds of a step in ``train`` and in the bare loop; medians over rounds."""
    arguments, training = scvenn.paper_setting(max_epochs=EPOCHS)
    training |= {"train_size": 1.0, "write_obsm": False, **QUIET}
    spent: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        model = scvenn.MMVAEpp(make(), **arguments)
        start = time.process_time()
        model.train(**training)
        seconds = time.process_time() - start
        loader = model._make_data_loader(model.adata, batch_size=training["batch_size"])
        minibatches = list(loader)
        module = model.module.train()
        optimiser = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
        start = time.process_time()
        for _ in range(EPOCHS):
            for tensors in minibatches:
                optimiser.zero_grad()
                module(tensors)[2].loss.backward()
                optimiser.step()
        bare = time.process_time() - start
        n_steps = EPOCHS * len(minibatches)
        if number:  # the first is not counted
            spent.append((seconds / n_steps, bare / n_steps))
    whole, alone = np.median(spent, axis=0)
    return float(whole), float(alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    silence()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    for make in (gp, cll):
        try:
            whole, alone = paired(make, rounds)
        except (FileNotFoundError, ConnectionError) as error:
            print(f"{make.__name__} is left out: {error}")
            continue
        print(
            f"{make.__name__}: {1e3 * whole:.1f} ms a step, {1e3 * alone:.1f} ms in a bare loop: "
            f"{100 * (whole / alone - 1):.0f} % on top"
        )


if __name__ == "__main__":
    main()
