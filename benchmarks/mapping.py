"""New batches mapped onto a trained model, beside a model trained anew on all cells.

    python benchmarks/mapping.py [--seeds 3] [--only CITE-seq,far] [--csv FILE]
    python benchmarks/mapping.py --render    # the table of docs/mapping.md, from mapping.csv

One batch after the other is held out as the query (of SNARE-seq: the last three together), and the
model is trained on the others:

- *balanced*, *far* and *near*: simulations of three batches (benchmarks/peers/batches.py). In *far*
  and *near*, the query is the batch that has a type of its own, far from all others or near one.
- *CITE-seq*: four batches, of which one has no proteins and one no RNA.
- *SNARE-seq*: twelve batches.
- *PBMC runs*: two runs of 200 cells with panels of 14 and 29 proteins. The query lacks the
  proteins that its panel does not have, and a third of the others, which are predicted from RNA.

Ways: *no mapping* (the query's cells are called cells of a known batch; features that are missing
are filled with zeros), *mapped* (`map_query`), *retrained* (a model of all cells, of the features
that all have), and surgery of scvi-tools' models (`load_query_data`): totalVI with RNA and
proteins, MULTIVI with RNA and ATAC, where the query and the reference have both.

Scores: *batch*, balanced accuracy of the batch (query or reference) of the 15 nearest neighbours,
.5 if they are mixed and the batches are alike; *within*, the same within types; *types*, of the
type; *transfer*, balanced accuracy of the query's types by the 15 nearest cells of the reference;
*RNA → other* and *other → RNA*, mean correlation over features of predictions of the query's cells;
*lone*, part of the 15 nearest neighbours of a type that only the query has that are of it; *AUC* of
the novelty score for that type; *held-out proteins*, mean correlation over those that the query
was robbed of; *seconds*, of the processor, from the trained model to the embedding.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import scvi
from mudata import MuData
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from tqdm.auto import tqdm

import scvenn

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from batches import PROBLEMS, data, neighbours, proteins, told
from methods import QUIET, quietly_on_one_thread

NAMES = ["balanced", "far", "near", "CITE-seq", "SNARE-seq", "PBMC runs"]
FIRST_SEED = 10
HERE = Path(__file__).parent
# Scores that the page shows, and where.
SHOWN = [
    "batch",
    "within",
    "types",
    "transfer",
    "lone",
    "AUC",
    "RNA → other",
    "other → RNA",
    "held-out proteins",
    "seconds",
]
BEGIN, END = "<!-- begin mapping -->", "<!-- end mapping -->"
NEIGHBOURS = 15


# ---------------------------------------------------------------------------------- data


class Task(NamedTuple):
    """Cells to train on, and cells that come later."""

    query_batches: str
    reference: MuData
    query: MuData
    # proteins of the query that it is not given
    held_out: list[str]


def tasks(name: str, seed: int) -> Iterator[Task]:
    """All queries of a problem."""
    if name == "PBMC runs":
        yield panels(seed)
        return
    mdata = PROBLEMS[name][0](seed).mdata
    of_cells = mdata.obs["batch"].astype(str)
    batches = sorted(of_cells.unique())
    queries = {
        "balanced": [["batch2"]],
        "far": [["batch0"]],
        "near": [["batch0"]],
        "SNARE-seq": [batches[-3:]],
    }
    for query in queries.get(name, [[batch] for batch in batches]):
        is_query = of_cells.isin(query).to_numpy()
        yield Task(", ".join(query), part(mdata, ~is_query), part(mdata, is_query), [])


def part(mdata: MuData, chosen: np.ndarray) -> MuData:
    """Some of the cells, without modalities that none of them has."""
    some = mdata[chosen].copy()
    found = MuData({m: adata for m, adata in some.mod.items() if adata.n_obs})
    for column in ("batch", "celltype"):
        if column in some.obs:
            found.obs[column] = some.obs.loc[found.obs_names, column].astype(str)
    return found


def panels(seed: int) -> Task:
    """Two runs with the panel that each has; a third of the second one's is held out."""
    runs = {}
    genes = proteins(seed).mdata["rna"].var_names  # the most variable ones of both runs
    for run in ("5k", "10k"):
        adata = anndata.read_h5ad(data(f"pbmc_{run}_protein_v3.h5ad"))
        adata.obs_names = [f"{run}_{name}" for name in adata.obs_names]
        measured = np.asarray(adata.obsm["protein_expression"], np.float32)
        names = pd.DataFrame(index=list(adata.uns["protein_names"]))
        rna = anndata.AnnData(
            sp.csr_matrix(adata[:, genes].X, dtype=np.float32),
            adata.obs[[]],
            pd.DataFrame(index=genes),
        )
        runs[run] = MuData({"rna": rna, "adt": anndata.AnnData(measured, adata.obs[[]], names)})
        runs[run].obs["batch"] = run
    both = runs["10k"]["adt"].var_names.intersection(runs["5k"]["adt"].var_names)
    chosen = np.random.default_rng(seed).permutation(len(both))[: len(both) // 3]
    return Task("10k", runs["5k"], runs["10k"], list(both[np.sort(chosen)]))


def without(mdata: MuData, names: Collection[str]) -> MuData:
    """The same without some proteins."""
    if not len(names):
        return mdata
    found = mdata.copy()
    found.mod["adt"] = found["adt"][:, ~found["adt"].var_names.isin(names)].copy()
    found.update()
    return found


def filled(mdata: MuData, names: pd.Index, held_out: list[str]) -> MuData:
    """The same with all of the reference's proteins: zeros for those that are missing."""
    if "adt" not in mdata.mod:
        return mdata.copy()
    found = without(mdata, held_out)
    adt = found["adt"].to_df().reindex(columns=names, fill_value=0).astype(np.float32)
    mods = {m: adata for m, adata in found.mod.items() if m != "adt"}
    new = MuData({**mods, "adt": anndata.AnnData(adt)})
    new.obs = mdata.obs.loc[new.obs_names].copy()
    return new


# ---------------------------------------------------------------------------------- ways


def trained(mdata: MuData, seed: int, max_epochs: int | None) -> scvenn.MMVAEpp:
    scvi.settings.seed = seed
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key="batch")
    model = scvenn.MMVAEpp(mdata)
    model.train(max_epochs, write_obsm=False, **QUIET)
    return model


def predictions(model: scvenn.MMVAEpp, mdata: MuData) -> dict[str, float]:
    """Mean correlation over features, each way, of cells that have both modalities."""
    rna, other = ("rna", next(m for m in model.modalities if m != "rna"))
    if not {rna, other} <= set(mdata.mod):
        return {}
    both = mdata.obs_names[
        mdata.obs_names.isin(mdata[rna].obs_names) & mdata.obs_names.isin(mdata[other].obs_names)
    ]
    found = {}
    for source, target in ((rna, other), (other, rna)):
        predicted = model.predict(source, target, mdata, indices=both, library_size=1e4)
        found[f"{'RNA' if source == rna else 'other'} → {'RNA' if target == rna else 'other'}"] = (
            correlation(mdata, target, predicted)
        )
    return found


def correlation(mdata: MuData, target: str, predicted: pd.DataFrame) -> float:
    """Mean correlation over the features that vary, of logarithms at the same depth."""
    adata = mdata[target][predicted.index, predicted.columns]
    truth = adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)
    depth = np.asarray(mdata[target][predicted.index].X.sum(1)).reshape(-1, 1)
    if truth.max() > 1:
        truth = np.log1p(truth / np.maximum(depth, 1) * 1e4)
        predicted = np.log1p(predicted)
    varies = truth.std(0) > 0
    with np.errstate(invalid="ignore"):
        values = [
            np.corrcoef(x, y)[0, 1]
            for x, y in zip(truth.T[varies], predicted.to_numpy().T[varies], strict=True)
        ]
    return float(np.nan_to_num(values).mean())  # 0 where a prediction is the same for all cells


def scores(
    of_reference: np.ndarray, of_query: np.ndarray, reference: MuData, query: MuData
) -> dict[str, float]:
    """Scores of the embeddings of the reference's and of the query's cells."""
    latent = np.vstack([of_reference, of_query])
    is_query = np.repeat(["reference", "query"], [len(of_reference), len(of_query)])
    found = {"batch": told(latent, is_query)}
    if "celltype" not in query.obs:
        return found
    types = np.concatenate([m.obs["celltype"].to_numpy(str) for m in (reference, query)])
    of_types, within = np.unique(types), []
    for t in of_types:
        cells = types == t
        counts = [(is_query[cells] == name).sum() for name in ("reference", "query")]
        if min(counts) > NEIGHBOURS:
            within.append(told(latent[cells], is_query[cells]))
    known = np.isin(types, types[is_query == "reference"])[is_query == "query"]
    truth = types[is_query == "query"]
    by_neighbours = KNeighborsClassifier(NEIGHBOURS).fit(of_reference, types[: len(of_reference)])
    found |= {
        "within": float(np.mean(within)),
        "types": told(latent, types),
        "transfer": balanced_accuracy_score(truth[known], by_neighbours.predict(of_query[known])),
    }
    if not known.all():
        lone = np.flatnonzero(is_query == "query")[~known]
        of_lone = types[neighbours(latent)[lone]]
        found["lone"] = float((of_lone == types[lone][:, None]).mean())
    return found


def rows(name: str, seed: int) -> Iterator[dict]:
    """Scores of every way on the queries of a problem."""
    max_epochs, of_multivi = PROBLEMS[name][1:]
    for chosen, reference, query, held_out in tasks(name, seed):
        row = {"problem": name, "query": chosen, "seed": seed}
        model = trained(reference, seed, max_epochs)
        known = model.get_shared_representation()
        names = reference["adt"].var_names if "adt" in reference.mod else pd.Index([])
        as_known = filled(query, names, held_out)
        as_known.obs["batch"] = reference.obs["batch"].iloc[0]
        for way in ("no mapping", "mapped"):
            start = time.process_time()
            if way == "mapped":
                given = without(query, held_out)
                model = model.map_query(given, **QUIET)
            else:
                given = as_known
            latent = model.get_shared_representation(given)
            found = {"seconds": time.process_time() - start}
            found |= scores(known, latent, reference, query)
            if held_out:
                predicted = model.predict("rna", "adt", given)[held_out]
                found["held-out proteins"] = correlation(query, "adt", predicted)
            else:
                found |= predictions(model, given)
            if "lone" in found:
                new = ~query.obs["celltype"].isin(reference.obs["celltype"]).to_numpy()
                found["AUC"] = roc_auc_score(new, model.get_novelty(given))
            yield row | {"way": way} | found
        given = without(query, held_out)
        common = (
            [
                without(m, names.symmetric_difference(given["adt"].var_names))
                for m in (reference, given)
            ]
            if held_out
            else [reference, given]
        )
        every = joined(common)
        anew = trained(every, seed, max_epochs)
        found = scores(*(anew.get_shared_representation(m) for m in common), reference, query)
        if not held_out:
            found |= predictions(anew, query)
        yield row | {"way": "retrained"} | found
        if peer := surgery(*common, seed, of_multivi):
            method, *latents = peer
            yield row | {"way": method} | scores(*latents, reference, query)


def joined(parts: list[MuData]) -> MuData:
    """All cells of both, and the features that both have."""
    names = {m: None for part in parts for m in part.mod}
    found = MuData({m: anndata.concat([p[m] for p in parts if m in p.mod]) for m in names})
    obs = pd.concat([part.obs for part in parts])
    for column in obs.columns.intersection(["batch", "celltype"]):
        found.obs[column] = obs.loc[found.obs_names, column]
    return found


def surgery(
    reference: MuData, query: MuData, seed: int, max_epochs: int | None
) -> tuple[str, np.ndarray, np.ndarray] | None:
    """Embeddings of totalVI's or MULTIVI's query model; None where it does not apply."""
    paired = all(
        len(m.mod) == 2 and all(a.n_obs == m.n_obs for a in m.mod.values())
        for m in (reference, query)
    )
    if not paired:
        return None
    scvi.settings.seed = seed
    if "adt" in reference.mod:
        model_class, other, layer = scvi.model.TOTALVI, "adt", "protein_layer"
    else:
        model_class, other, layer = scvi.model.MULTIVI, "atac", "atac_layer"
    reference, query = (m.copy() for m in (reference, query))
    model_class.setup_mudata(
        reference, batch_key="batch", modalities={"rna_layer": "rna", layer: other}
    )
    model = model_class(reference)
    model.train(**({} if max_epochs is None else {"max_epochs": max_epochs}), **QUIET)
    of_reference = model.get_latent_representation()
    mapped = model_class.load_query_data(query, model)
    mapped.train(max_epochs=min(200, max_epochs or 200), plan_kwargs={"weight_decay": 0.0}, **QUIET)
    return f"{model_class.__name__}, surgery", of_reference, mapped.get_latent_representation()


def render() -> None:
    """Write the means over finished seeds and queries, by problem and way, into the page."""
    table = pd.read_csv(HERE / "mapping.csv")
    # runs of which each way is finished
    n_ways = table.groupby("problem")["way"].transform("nunique")
    of_run = table.groupby(["problem", "query", "seed"])["way"].transform("nunique")
    table = table[of_run == n_ways]
    groups = table.groupby(["problem", "way"], sort=False)
    mean = groups[[score for score in SHOWN if score in table]].mean()
    shown = mean.map(lambda value: "–" if np.isnan(value) else f"{value:.2f}")
    shown.insert(0, "runs", groups.size())
    text = shown.reset_index().to_markdown(index=False, disable_numparse=True)
    page = HERE.parent / "docs" / "mapping.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--render", action="store_true", help="write the table of the page, only")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=",".join(NAMES), help="problems, with commas between")
    parser.add_argument("--csv", type=Path, help="where to write the scores of every seed")
    arguments = parser.parse_args()
    if arguments.render:
        render()
        return
    quietly_on_one_thread()
    found: list[dict] = []
    names = arguments.only.split(",")
    for name, seed in tqdm([(n, FIRST_SEED + k) for n in names for k in range(arguments.seeds)]):
        for row in rows(name, seed):
            found.append(row)
            table = pd.DataFrame(found)
            if arguments.csv:
                table.to_csv(arguments.csv, index=False, float_format="%.4f")
    mean = table.drop(columns=["seed", "query"]).groupby(["problem", "way"], sort=False).mean()
    print(mean.to_string(float_format="{:.3f}".format, na_rep="–"))


if __name__ == "__main__":
    main()
