"""What sharing a model costs: sizes of files and seconds, with all counts and minified.

    python benchmarks/minified.py

A model is trained for two epochs on each data set: how long that was does not matter here.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import scvi
import torch
from mudata import MuData
from speed import QUIET, multiome, silence

import scvenn

DATA: dict[str, Callable[[], MuData]] = {
    "CITE-seq, 892 cells, 19,203 genes and 10 proteins": scvenn.datasets.pbmc_citeseq,
    "simulated multiome, 5,000 cells, 2,000 genes and 50,000 peaks": lambda: multiome(
        5_000, 2_000, 50_000, (1_500, 8_000)
    ),
}


def main() -> None:
    silence()
    torch.set_num_threads(1)
    print(pd.DataFrame([row(name, make()) for name, make in DATA.items()]).to_markdown(index=False))


def row(name: str, mdata: MuData) -> dict[str, str]:
    """Sizes and times for one data set."""
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mdata)
    model.train(2, **QUIET)
    with tempfile.TemporaryDirectory() as folder:
        alone, whole, shared = (Path(folder, n) for n in ("alone", "whole", "minified"))
        model.save(alone)
        model.save(whole, save_anndata=True)
        start = time.perf_counter()
        model.minify_mudata()
        minifying = time.perf_counter() - start
        model.save(shared, save_anndata=True)
        of_model = size(alone)
        loading = [seconds(lambda path=path: scvenn.MMVAEpp.load(path)) for path in (whole, shared)]
        return {
            "data": name,
            "model, MB": f"{of_model:.1f}",
            "all counts, MB": f"{size(whole) - of_model:.1f}",
            "minified, MB": f"{size(shared) - of_model:.1f}",
            "minifying, s": f"{minifying:.1f}",
            "loading with all counts, s": f"{loading[0]:.1f}",
            "loading minified, s": f"{loading[1]:.1f}",
        }


def size(folder: Path) -> float:
    """Of all files, in MB."""
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def seconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
