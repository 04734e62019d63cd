"""One job, from data to numbers; it runs in a process of its own, whose memory is measured."""

from __future__ import annotations

import importlib.util
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from anndata import AnnData
from jobs import JOB, Job
from methods import FUNCTIONS, Fitted, quietly_on_one_thread
from problems import Problem, load
from rivals import FUNCTIONS as RIVAL_FUNCTIONS
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, recall_score
from sklearn.neighbors import KNeighborsClassifier

# Embeddings of one modality, whose names end so, go without scib-metrics, which takes a minute.
OF_ONE_MODALITY = "alone"


def perform(job: Job) -> list[dict]:
    """Rows of a finished job."""
    import scvi

    quietly_on_one_thread()
    scvi.settings.seed = job.seed
    start = time.process_time()
    problem = load(job.dataset, job.seed, smoke=job.smoke)
    loaded = time.process_time()
    function = (FUNCTIONS | RIVAL_FUNCTIONS)[job.method]
    fitted = function(problem, job.seed, int(job.max_epochs) if job.max_epochs else None)
    # before anything is scored; Linux counts in KiB
    costs = {
        "fit_seconds": time.process_time() - loaded,
        "memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    } | fitted.costs
    if job.keep:
        _keep(problem, fitted, Path(job.keep) / f"{job.dataset}_{job.seed}_{job.method}.npz")
    rows = [
        *({"metric": metric, "value": value} for metric, value in costs.items()),
        *_scored(problem, fitted),
    ]
    rows.append({"metric": "seconds", "value": time.process_time() - start})
    described = dict(zip(JOB, job.key, strict=True))
    return [{**described, **row} for row in rows]


def _keep(problem: Problem, fitted: Fitted, path: Path) -> None:
    """Embeddings of the test cells with their types and batches, which scmultibench.py reads."""
    obs = problem.mdata.obs.iloc[problem.test]
    batch = {"batch": obs[problem.batch_key].to_numpy(str)} if problem.batch_key else {}
    embeddings = {f"embedding/{k}": z[problem.test] for k, z in fitted.embeddings.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, celltype=obs["celltype"].to_numpy(str), **batch, **embeddings)


def _scored(problem: Problem, fitted: Fitted) -> Iterator[dict]:
    import torch

    for name, embedding in fitted.embeddings.items():
        with_scib = not name.endswith(OF_ONE_MODALITY)
        for metric, value in _of_embedding(problem, embedding, with_scib=with_scib).items():
            yield {"embedding": name, "metric": metric, "value": value}
    torch.set_num_threads(1)  # scoring embeddings sets it back, and totalVI trains to predict
    for (source, target), predict in fitted.predictions.items():
        of_pair = {
            # a model's predictions belong to the first of its embeddings
            "embedding": next(iter(fitted.embeddings), ""),
            "source": source,
            "target": target,
        }
        for metric, value in _correlations(problem, target, predict()).items():
            yield {**of_pair, "metric": metric, "value": value}


def of_types(problem: Problem, embedding: np.ndarray) -> dict[str, float]:
    """Number of dimensions, and cell types by probes and by clusters of the test cells."""
    from scvenn import metrics

    split = {"train": problem.train, "test": problem.test}
    return {
        "dimensions": embedding.shape[1],
        **metrics.probe_scores(embedding, problem.mdata.obs["celltype"], **split),
        "knn_accuracy": _by_neighbours(problem, embedding),
        **_of_clusters(problem, embedding),
    }


def _of_embedding(
    problem: Problem, embedding: np.ndarray, *, with_scib: bool = True
) -> dict[str, float]:
    """Cell types by probes and clusters, and what scib-metrics finds among the test cells."""
    from scvenn import metrics

    found = of_types(problem, embedding)
    # run.py asks for scib-metrics before it starts; only the tests do without
    if with_scib and importlib.util.find_spec("scib_metrics"):
        test = problem.mdata.obs.iloc[problem.test]
        batch = problem.batch_key and test[problem.batch_key]
        scib = metrics.scib(
            {"embedding": embedding[problem.test]}, list(test["celltype"]), batch=batch
        )
        found |= {f"scib: {name}": value for name, value in scib.loc["embedding"].items()}
    return found


def _correlations(problem: Problem, target: str, predicted: np.ndarray) -> dict[str, float]:
    """Pearson correlations with the test cells' values, of the features that vary."""
    from scvenn import metrics

    truth = problem.scaled(target, problem.mdata[target].X[problem.test])
    found = metrics.pearson(truth, predicted)
    # where a prediction is the same for all cells, nothing is predicted
    found = np.where(np.isnan(found) & (truth.std(0) > 0), 0.0, found)
    return {"pearson": float(np.nanmedian(found)), "pearson_mean": float(np.nanmean(found))}


def _by_neighbours(problem: Problem, embedding: np.ndarray) -> float:
    """Balanced accuracy of the cell type by the 15 nearest training cells."""
    celltype = problem.mdata.obs["celltype"].to_numpy(str)
    classifier = KNeighborsClassifier(15).fit(embedding[problem.train], celltype[problem.train])
    truth, predicted = celltype[problem.test], classifier.predict(embedding[problem.test])
    return float(recall_score(truth, predicted, labels=np.unique(truth), average="macro"))


def _of_clusters(problem: Problem, embedding: np.ndarray) -> dict[str, float]:
    """How well Leiden clusters of the test cells, at a resolution of 1, are the cell types."""
    import scanpy as sc

    adata = AnnData(obsm={"X": embedding[problem.test]})
    sc.pp.neighbors(adata, use_rep="X", n_neighbors=15, random_state=0)
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, resolution=1.0, random_state=0)
    celltype, found = problem.mdata.obs["celltype"].iloc[problem.test], adata.obs["leiden"]
    return {
        "leiden_ari": float(adjusted_rand_score(celltype, found)),
        "leiden_nmi": float(normalized_mutual_info_score(celltype, found)),
    }
