"""One job, from data to numbers; it runs in a process of its own, whose memory is measured."""

from __future__ import annotations

import importlib.util
import logging
import resource
import time
import warnings
from collections.abc import Iterator

import numpy as np
from jobs import JOB, Job
from methods import FUNCTIONS, Fitted
from problems import Problem, load


def perform(job: Job) -> list[dict]:
    """Rows of a finished job."""
    import scvi
    import torch

    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric", "scib_metrics"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    scvi.settings.verbosity = logging.WARNING
    scvi.settings.seed = job.seed
    start = time.process_time()
    problem = load(job.dataset, job.seed, smoke=job.smoke)
    loaded = time.process_time()
    fitted = FUNCTIONS[job.method](
        problem, job.seed, int(job.max_epochs) if job.max_epochs else None
    )
    rows = [
        {"metric": "fit_seconds", "value": time.process_time() - loaded},
        # before anything is scored; Linux counts in KiB
        {
            "metric": "memory_gib",
            "value": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        },
        *_scored(problem, fitted),
    ]
    rows.append({"metric": "seconds", "value": time.process_time() - start})
    described = dict(zip(JOB, job.key, strict=True))
    return [{**described, **row} for row in rows]


def _scored(problem: Problem, fitted: Fitted) -> Iterator[dict]:
    for name, embedding in fitted.embeddings.items():
        for metric, value in _of_embedding(problem, embedding).items():
            yield {"embedding": name, "metric": metric, "value": value}
    for (source, target), predict in fitted.predictions.items():
        yield {
            # a model's predictions belong to the first of its embeddings
            "embedding": next(iter(fitted.embeddings), ""),
            "metric": "pearson",
            "source": source,
            "target": target,
            "value": _correlation(problem, target, predict()),
        }


def _of_embedding(problem: Problem, embedding: np.ndarray) -> dict[str, float]:
    """Cell types by a linear probe, and what scib-metrics finds among the test cells."""
    from scvenn import metrics

    split = {"train": problem.train, "test": problem.test}
    celltype = problem.mdata.obs["celltype"]
    found = {
        "dimensions": embedding.shape[1],
        **metrics.probe_scores(embedding, celltype, **split),
    }
    # run.py asks for scib-metrics before it starts; only the tests do without
    if importlib.util.find_spec("scib_metrics"):
        test = problem.mdata.obs.iloc[problem.test]
        batch = problem.batch_key and test[problem.batch_key]
        scib = metrics.scib(
            {"embedding": embedding[problem.test]}, list(test["celltype"]), batch=batch
        )
        found |= {f"scib: {name}": value for name, value in scib.loc["embedding"].items()}
    return found


def _correlation(problem: Problem, target: str, predicted: np.ndarray) -> float:
    """Pearson correlation with the test cells' values, the median over features that vary."""
    from scvenn import metrics

    truth = problem.scaled(target, problem.mdata[target].X[problem.test])
    return float(np.nanmedian(metrics.pearson(truth, predicted)))
