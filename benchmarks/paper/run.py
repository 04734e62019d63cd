"""Run the paper's experiments: every model, label use, latent size and seed of a config file.

    python benchmarks/paper/run.py                    # all of configs/, what is finished is kept
    python benchmarks/paper/run.py cll pbmc --jobs 2  # some of them
    python benchmarks/paper/run.py --smoke --out /tmp/smoke

Results go to results/<experiment>.csv, one line for each number. A run is written when it is
finished, its time last, so that an interrupted call leaves no half of a run behind: the next call
drops the lines of a run without a time and goes on.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
import tomllib
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from data import Unavailable
from tqdm.auto import tqdm

HERE = Path(__file__).parent
RUN = ["setting", "seed", "method", "supervised", "latents"]
COLUMNS = [*RUN, "metric", "view", "source", "target", "features", "value"]
NAMES = {
    "MVAE": "MVAE",
    "MoPoEVAE": "MoPoE-VAE",
    "MMVAE": "MMVAE",
    "MMVAEpp": "MMVAE++",
    "MMVAEpp-default": "MMVAE++ (scvenn)",
}
TEST_SIZE = 0.2
# A model "-default" trains as scvenn does by itself: a tenth of its cells tells when to stop. What
# follows ": " is a part that is taken away from it.
DEFAULT, VARIANT = "-default", ": "
VALIDATION_SIZE = 0.1


@dataclass(frozen=True)
class Job:
    """One training, or all baselines, on one data set and seed."""

    experiment: str
    config: str
    setting: str
    seed: int
    method: str
    supervised: str = ""
    latents: str = ""
    smoke: bool = False

    @property
    def key(self) -> tuple:
        """What tells one run of an experiment from another: the columns ``RUN``."""
        return (self.setting, self.seed, self.method, self.supervised, self.latents)


# --------------------------------------------------------------------------------------------
# One job, in a process of its own
# --------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def dataset(
    config: str, smoke: bool, setting: str, seed: int
) -> tuple[Any, np.ndarray, np.ndarray]:
    """The MuData of a setting, and positions of its training and test cells."""
    import data
    from sklearn.model_selection import train_test_split

    experiment = read_config(config, smoke, setting)
    mdata = getattr(data, experiment["data"])(**experiment["arguments"], seed=seed)
    label = mdata.obs.get("label")
    train, test = train_test_split(
        np.arange(mdata.n_obs), test_size=TEST_SIZE, stratify=label, random_state=seed
    )
    return mdata, np.sort(train), np.sort(test)


def perform(job: Job) -> list[dict]:
    """Rows of a finished job."""
    import torch

    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    start = time.process_time()
    mdata, train, test = dataset(job.config, job.smoke, job.setting, job.seed)
    rows = list(
        _baseline_rows(job, mdata, train, test)
        if job.method == "baselines"
        else _model_rows(job, mdata, train, test)
    )
    # of the CPU: what else the machine does is not this job's
    rows.append({"metric": "seconds", "value": time.process_time() - start})
    described = dict(zip(RUN, job.key, strict=True))
    return [{**described, **row} for row in rows]


def _baseline_rows(job: Job, mdata: Any, train: np.ndarray, test: np.ndarray) -> Iterator[dict]:
    import baselines

    yield from baselines.score(mdata, train, test, labelled="label" in mdata.obs, seed=job.seed)


def _model_rows(job: Job, mdata: Any, train: np.ndarray, test: np.ndarray) -> Iterator[dict]:
    from variants import variant

    name, _, part = job.method.partition(VARIANT)
    with variant(part) as arguments:
        yield from _trained_rows(job, name, arguments, mdata, train, test)


def _trained_rows(
    job: Job,
    name: str,
    arguments: tuple[dict, dict],
    mdata: Any,
    train: np.ndarray,
    test: np.ndarray,
) -> Iterator[dict]:
    """Train a model, with further arguments of its constructor and of ``train``, and score it."""
    import scvi

    import scvenn

    scvi.settings.verbosity = logging.WARNING
    scvi.settings.seed = job.seed
    experiment = read_config(job.config, job.smoke, job.setting)
    labels_key = "label" if "label" in mdata.obs else None
    model_class = getattr(scvenn, name.removesuffix(DEFAULT))
    mdata = mdata.copy()
    model_class.setup_mudata(
        mdata,
        labels_key=labels_key if job.supervised == "yes" else None,
        likelihoods=dict.fromkeys(mdata.mod, "normal"),
    )
    private_1, shared, private_2 = map(int, job.latents.split("+"))
    private = dict(zip(mdata.mod, (private_1, private_2), strict=True))
    sizes = {"n_shared": shared, "n_private": private}
    validation = np.array([], int)
    constructor, training = arguments
    if name.endswith(DEFAULT):
        constructor = {**sizes, **constructor}  # a part that is taken away may be a size
        training = {"max_epochs": experiment.get("max_epochs"), **training}
        mixed = np.random.default_rng(job.seed).permutation(train)
        validation, train = np.split(mixed, [round(VALIDATION_SIZE * len(train))])
    else:
        constructor, training = scvenn.paper_setting(
            model_class, max_epochs=experiment["max_epochs"], lr=experiment["lr"]
        )
        constructor |= sizes
    model = model_class(mdata, **constructor)
    model.train(
        **training,
        accelerator="cpu",
        write_obsm=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        datasplitter_kwargs={"external_indexing": [train, validation, test]},
    )
    yield from summarise(model.evaluate(labels_key=labels_key), mdata)
    if "celltype" in mdata.obs:
        scores = scvenn.metrics.probe_scores(
            model.get_shared_representation(), mdata.obs["celltype"], train=train, test=test
        )
        for metric, value in scores.items():
            described = {"view": "latent", "source": "shared", "target": "celltype"}
            yield {"metric": metric, **described, "value": value}
    if job.seed == 0 and job.supervised == "no" and job.setting == experiment.get("keep_shared"):
        embedding = model.get_shared_representation(indices=test)
        for cell, coordinates in zip(test, embedding, strict=True):
            for k, value in enumerate(coordinates):
                yield {
                    "metric": f"shared_{k}",
                    "source": mdata.obs["celltype"].iloc[cell],
                    "target": mdata.obs_names[cell],
                    "value": value,
                }


def summarise(table: pd.DataFrame, mdata: Any) -> Iterator[dict]:
    """Medians over shared and over private features; what concerns no feature as it is."""
    kinds = {
        (m, feature): "shared" if shared else "private"
        for m in mdata.mod
        for feature, shared in mdata[m].var["shared"].items()
    }
    table = table[table["metric"] != "pearson"].copy()
    pairs = zip(table["target"], table["feature"], strict=True)
    table["features"] = [kinds.get(pair, "") for pair in pairs]
    groups = table.groupby(["metric", "view", "source", "target", "features"], sort=False)
    for names, value in groups["value"].median().items():
        yield {
            **dict(zip(("metric", "view", "source", "target", "features"), names, strict=True)),
            "value": value,
        }


# --------------------------------------------------------------------------------------------
# All jobs
# --------------------------------------------------------------------------------------------


def read_config(path: str, smoke: bool, setting: str | None = None) -> dict:
    """A config file; its smoke table replaces entries for the test suite.

    With a setting, the entries of that one replace the file's where both have them; the others
    are the ``arguments`` of the data set.
    """
    config = tomllib.loads(Path(path).read_text())
    small = config.pop("smoke", {})
    config = {**config, **small} if smoke else config
    if setting is None:
        return config
    chosen = next(s for s in config["settings"] if s["name"] == setting)
    replaced = {key: value for key, value in chosen.items() if key in config}
    arguments = {k: v for k, v in chosen.items() if k not in config and k != "name"}
    return {**config, **replaced, "arguments": arguments}


def jobs_of(path: Path, smoke: bool) -> list[Job]:
    """Every job of a config file; those of one data set behind each other."""
    config = read_config(str(path), smoke)
    jobs = []
    for seed in range(config["seeds"]):
        for setting in config["settings"]:
            base = (path.stem, str(path), setting["name"], seed)
            if config.get("baselines", True):
                jobs.append(Job(*base, "baselines", smoke=smoke))
            jobs += [
                Job(*base, model, supervised, latents, smoke)
                for latents in config["latents"]
                for supervised in config["supervised"]
                for model in config["models"]
            ]
    return jobs


def read_results(path: Path) -> pd.DataFrame:
    """The lines of finished runs."""
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    text = path.read_text()
    complete = text[: text.rfind("\n") + 1]  # without a line that was cut off
    if complete != text:
        path.write_text(complete)
    table = pd.read_csv(path, keep_default_na=False, dtype={"setting": str, "latents": str})
    table["value"] = pd.to_numeric(table["value"], errors="coerce")
    finished = table.loc[table["metric"] == "seconds", RUN].assign(finished=True)
    method = table["method"].where(table["supervised"] != "", "baselines")
    marked = table.assign(method=method).merge(finished, on=RUN, how="left")
    return table[marked["finished"].notna().to_numpy()]


def write_results(table: pd.DataFrame, path: Path) -> None:
    draft = path.with_suffix(".draft")
    table.to_csv(draft, index=False, float_format="%.5g")
    os.replace(draft, path)


def run(path: Path, out: Path, *, jobs: int, smoke: bool) -> None:
    """Do what is not finished of one experiment."""
    results = out / f"{path.stem}.csv"
    out.mkdir(parents=True, exist_ok=True)
    table = read_results(results)
    write_results(table, results)
    done = set(table.loc[table["metric"] == "seconds", RUN].itertuples(index=False, name=None))
    todo = [job for job in jobs_of(path, smoke) if job.key not in done]
    if not todo:
        print(f"{path.stem}: all {len(done)} runs are finished")
        return
    with results.open("a") as file, tqdm(total=len(todo), desc=path.stem) as bar:
        try:
            for rows in _performed(todo, jobs):
                table = pd.DataFrame(rows, columns=COLUMNS)
                file.write(table.to_csv(index=False, header=False, float_format="%.5g"))
                file.flush()
                bar.update()
        except Unavailable as error:
            bar.write(f"{path.stem} is left out: {error}")


def _performed(todo: list[Job], jobs: int) -> Iterator[list[dict]]:
    """Rows of each job, as soon as it is finished."""
    if jobs == 1:
        yield from map(perform, todo)
        return
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
    try:
        for future in as_completed([pool.submit(perform, job) for job in todo]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def main() -> None:
    configs = {path.stem: path for path in sorted((HERE / "configs").glob("*.toml"))}
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("experiments", nargs="*", default=list(configs), metavar="experiment")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--smoke", action="store_true", help="one seed, few epochs: does it run?")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.experiments if name not in configs]:
        parser.error(f"no config of the name {unknown[0]!r}; there are {', '.join(configs)}")
    for name in arguments.experiments:
        run(configs[name], arguments.out, jobs=arguments.jobs, smoke=arguments.smoke)


if __name__ == "__main__":
    main()
