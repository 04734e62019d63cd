"""Other packages, each in an environment of its own, as methods of run.py.

    python benchmarks/peers/rivals.py --install muvi            # its environment, by one command
    python benchmarks/peers/rivals.py --install multigrate --python python3.12
    python benchmarks/peers/run.py --only citeseq/muvi

The environment lies in ``envs`` beside this file, or in the folder named by SCVENN_RIVALS. It is
made of the pinned packages in ``rivals/NAME.txt``, and ``rivals/run_NAME.py`` runs in it. The two
processes exchange .npz files (``exchange.py``); everything is scored in ours.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from exchange import Given, read_found, write_given
from jobs import HERE, RIVALS

if TYPE_CHECKING:
    from methods import Fitted
    from problems import Problem

SCRIPTS = HERE / "rivals"


def environment(name: str) -> Path:
    """The folder of a rival's environment."""
    return Path(os.environ.get("SCVENN_RIVALS", HERE / "envs")).absolute() / name


def is_installed(name: str) -> bool:
    return (environment(name) / "installed").exists()


def install(name: str, python: str) -> None:
    """Make the environment anew."""
    folder = environment(name)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install"]
    subprocess.run([*pip, "-r", SCRIPTS / f"{name}.txt"], check=True)
    (folder / "installed").touch()


def fit(name: str, problem: Problem, seed: int, max_epochs: int | None) -> Fitted:
    """What a rival finds in a problem, in its own environment."""
    if not is_installed(name):
        raise FileNotFoundError(
            f"{name} has no environment in {environment(name)}: "
            f"python benchmarks/peers/rivals.py --install {name}"
        )
    with tempfile.TemporaryDirectory() as folder:
        given, found = (Path(folder) / f"{kind}.npz" for kind in ("given", "found"))
        write_given(given_of(problem), given)
        command = [environment(name) / "bin" / "python", SCRIPTS / f"run_{name}.py", given, found]
        command += ["--seed", str(seed)]
        command += ["--max-epochs", str(max_epochs)] if max_epochs else []
        ended = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise RuntimeError(f"{name} ended with {ended.returncode}: {ended.stderr[-2000:]}")
        return fitted_of(problem, found)


def given_of(problem: Problem) -> Given:
    """What a rival reads of a problem: no cell types."""
    modalities, obs = problem.mdata.mod, problem.mdata.obs
    return Given(
        measured={m: sp.csr_matrix(adata.X) for m, adata in modalities.items()},
        scaled={m: sp.csr_matrix(problem.scaled(m, adata.X)) for m, adata in modalities.items()},
        counts=list(problem.depth),
        train=problem.train,
        test=problem.test,
        batch=obs[problem.batch_key].to_numpy(str)
        if problem.batch_key
        else np.full(len(obs), "all"),
    )


def fitted_of(problem: Problem, path: Path) -> Fitted:
    """What a rival wrote, as what a method returns."""
    from methods import Fitted

    found, costs = read_found(path)

    def scaled(pair: tuple[str, str]) -> np.ndarray:
        return problem.scaled(pair[1], found.counts[pair]())

    of_counts = {pair: partial(scaled, pair) for pair in found.counts}
    return Fitted(found.embeddings, of_counts | found.logs, costs)


FUNCTIONS: dict[str, Callable[[Problem, int, int | None], Fitted]] = {
    name: partial(fit, name) for name in RIVALS
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = [*RIVALS, "multibench"]
    parser.add_argument("--install", nargs="+", choices=names, required=True, metavar="NAME")
    parser.add_argument("--python", default=sys.executable, help="multigrate needs 3.12 or newer")
    arguments = parser.parse_args()
    for name in arguments.install:
        install(name, arguments.python)


if __name__ == "__main__":
    main()
