"""Compare scvenn with its peers: every data set, method and seed, each in a process of its own.

    python benchmarks/peers/run.py                             # what is finished is kept
    python benchmarks/peers/run.py --only citeseq/scvenn pbmc  # some of it
    python benchmarks/peers/run.py --smoke --out /tmp/smoke.csv

Results go to results.csv, one line for each number, when a job is finished, its time last. An
interrupted call leaves at most a part of one job behind; the next call drops it and goes on. Jobs
run one after the other and on one thread, so that their times can be compared. Rivals that are not
installed (rivals.py) are left out unless --only names them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
from jobs import COLUMNS, DATASETS, HERE, JOB, RIVALS, Job, all_jobs, read_results, write_results
from rivals import is_installed
from tqdm.auto import tqdm

# Nothing heavy is imported here: on Linux, a process that is started counts the memory of the one
# it was started from in its own peak.


def run(jobs: list[Job], path: Path) -> list[str]:
    """Do what is not finished; what went wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = read_results(path)
    write_results(table, path)
    done = set(table[JOB].drop_duplicates().itertuples(index=False, name=None))
    todo = [job for job in jobs if job.key not in done]
    print(f"{len(jobs) - len(todo)} of {len(jobs)} jobs are finished")
    failed = []
    with path.open("a") as file, tqdm(todo) as bar:
        for job in bar:
            name = f"{job.dataset}/{job.method}, seed {job.seed}"
            bar.set_description(name)
            try:
                rows = in_own_process(job)
            except Exception as error:  # the other jobs do not depend on it
                failed.append(f"{name}: {type(error).__name__}: {error}")
                bar.write(failed[-1])
                continue
            table = pd.DataFrame(rows, columns=COLUMNS)
            file.write(table.to_csv(index=False, header=False, float_format="%.5g"))
            file.flush()
    return failed


def in_own_process(job: Job) -> list[dict]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_perform, job).result()


def _perform(job: Job) -> list[dict]:
    from scores import perform

    return perform(job)


def can_run(job: Job, only: list[str]) -> bool:
    """Whether a job is asked for by name, or has what it needs."""
    named = f"{job.dataset}/{job.method}" in only
    return named or job.method not in RIVALS or is_installed(job.method)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="DATASET[/METHOD]", help="leave out the others"
    )
    parser.add_argument(
        "--max-epochs", type=int, help="for all VAEs and rivals; without it, each's own default"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results.csv")
    parser.add_argument(
        "--keep", default="", metavar="FOLDER", help="write embeddings of the test cells there"
    )
    parser.add_argument("--smoke", action="store_true", help="few cells, one epoch: does it run?")
    arguments = parser.parse_args()
    known = {*DATASETS, *(f"{name}/{m}" for name, methods in DATASETS.items() for m in methods)}
    if unknown := [name for name in arguments.only if name not in known]:
        parser.error(f"--only {unknown[0]}: expected some of {', '.join(sorted(known))}")
    if arguments.smoke and arguments.out == HERE / "results.csv":
        parser.error("--smoke needs --out: its numbers mean nothing")
    for package in ("scib_metrics", "mofapy2"):
        if not arguments.smoke and importlib.util.find_spec(package) is None:
            parser.error(f"there is no {package} here: pip install '.[peers]'")

    os.environ["OMP_NUM_THREADS"] = "1"
    jobs = all_jobs(1 if arguments.smoke else arguments.max_epochs, smoke=arguments.smoke)
    if arguments.only:
        chosen = set(arguments.only)
        jobs = [job for job in jobs if {job.dataset, f"{job.dataset}/{job.method}"} & chosen]
    jobs = [replace(job, keep=arguments.keep) for job in jobs if can_run(job, arguments.only)]
    if failed := run(jobs, arguments.out):
        raise SystemExit(f"{len(failed)} of {len(jobs)} jobs failed:\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
