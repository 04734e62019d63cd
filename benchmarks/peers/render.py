"""Tables of README.md, from results.csv, batches.csv, within.csv and scmultibench.csv.

    python benchmarks/peers/render.py

The page is written by hand but for what stands between ``<!-- begin NAME -->`` and
``<!-- end NAME -->``, which this replaces.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
from jobs import DATASETS, HERE, METHODS, SEEDS, read_results

NAMES = {
    "scvenn": "scvenn MMVAE++",
    "multihive": "multiHIVE",
    "multigrate": "Multigrate",
    "scmidas": "MIDAS",
    "univi": "UniVI",
    "mofaflex": "MOFA-FLEX",
    "muvi": "MuVI",
    "ridge": "ridge on PCs",
    "kNN": "kNN on PCs",
}
# Heading: metric and digits.
COLUMNS = {
    "dimensions": ("dimensions", 0),
    "balanced accuracy": ("balanced_accuracy", 2),
    "AUC": ("auc", 3),
    "15-NN": ("knn_accuracy", 2),
    "ARI": ("leiden_ari", 2),
    "NMI": ("leiden_nmi", 2),
    "scIB bio": ("scib: Bio conservation", 2),
    "scIB batch": ("scib: Batch correction", 2),
}
COSTS = {"seconds": ("fit_seconds", 0), "GiB": ("memory_gib", 1)}


# Headings of the scores of batches.py, in their order.
OF_BATCHES = {
    "batch": "batch",
    "within": "batch, within types",
    "chance": "by chance",
    "types": "types",
    "lone": "lone type",
    "kept": "neighbours kept",
    "iLISI": "iLISI",
    "kBET": "kBET",
}
WITHOUT_A_PART = "scvenn, no"

# Scores of scMultiBench, in its order.
OF_SCMULTIBENCH = ["ARI", "NMI", "ASW", "iASW", "iF1", "cLISI"]


def table(results: pd.DataFrame, dataset: str) -> str:
    """The table of a data set: median over seeds ± standard deviation."""
    results = results[results["dataset"] == dataset]
    if results.empty:
        return "No results yet: `make peers`."
    pearson = results[results["metric"] == "pearson"]
    pairs = pearson[["source", "target"]].drop_duplicates().itertuples(index=False, name=None)
    columns = {heading: (metric, "", "", n) for heading, (metric, n) in COLUMNS.items()}
    for s, t in pairs:
        columns[f"Pearson {s} → {t}"] = ("pearson", s, t, 3)
        columns[f"mean, {s} → {t}"] = ("pearson_mean", s, t, 3)
    columns |= {heading: (metric, "", "", n) for heading, (metric, n) in COSTS.items()}
    rows = {}
    for method in METHODS:
        chosen = results[results["method"] == method]
        for max_epochs, own in chosen.groupby("max_epochs", sort=False):
            # what concerns the method and not an embedding stands in its first row
            embeddings = [name for name in dict.fromkeys(own["embedding"]) if name] or [""]
            for embedding in embeddings:
                shown = {embedding, ""} if embedding == embeddings[0] else {embedding}
                mine = own[own["embedding"].isin(shown)]
                label = _label(method, embedding, max_epochs, own["seed"].nunique(), SEEDS[dataset])
                rows[label] = [_cell(mine, *column) for column in columns.values()]
    filled = [any(row[k] != "–" for row in rows.values()) for k in range(len(columns))]
    lines = [["method", *columns], *([label, *row] for label, row in rows.items())]
    lines = [[line[0], *(np.array(line[1:])[filled])] for line in lines]
    lines.insert(1, ["---"] * len(lines[0]))
    return _markdown(lines)


def _label(method: str, embedding: str, max_epochs: str, seeds: int, of: int) -> str:
    parts = [NAMES.get(method, method)]
    if embedding not in ("", "joint"):
        parts.append(embedding)
    if max_epochs:
        parts.append(f"at most {max_epochs} epochs")
    if seeds < of:
        parts.append(f"{seeds} of {of} seeds")
    return ", ".join(parts)


def _cell(results: pd.DataFrame, metric: str, source: str, target: str, digits: int) -> str:
    values = results.loc[
        (results["metric"] == metric)
        & (results["source"] == source)
        & (results["target"] == target),
        "value",
    ]
    if values.isna().all():
        return "–"
    text = f"{values.median():.{digits}f}"
    spread = f"{values.std():.{digits}f}"
    if metric != "dimensions" and len(values) > 1:
        text += f" ± {spread}"
    return text.replace("-", "−")


def batches_table(scores: pd.DataFrame, *, parts: bool) -> str:
    """Means over seeds of what batches.py found: of methods, or of the correction less a part."""
    of_part = scores["method"].str.startswith(WITHOUT_A_PART)
    chosen = scores[of_part | (scores["method"] == "scvenn")] if parts else scores[~of_part]
    mean = chosen.groupby(["problem", "method"], sort=False)[list(OF_BATCHES)].mean()
    lines = [["problem", "method", *OF_BATCHES.values()], ["---"] * (2 + len(OF_BATCHES))]
    for (problem, method), values in mean.iterrows():
        cells = ["–" if np.isnan(value) else f"{value:.2f}" for value in values]
        lines.append([problem, method, *cells])
    return _markdown(lines)


def scmultibench_table(scores: pd.DataFrame, dataset: str) -> str:
    """What scmultibench.py found of a data set: median over seeds ± standard deviation."""
    scores = scores[scores["dataset"] == dataset]
    order = {method: k for k, method in enumerate(METHODS)}
    methods = sorted(scores["method"].unique(), key=lambda m: (order.get(m, len(order)), m))
    lines = [["method", *OF_SCMULTIBENCH], ["---"] * (1 + len(OF_SCMULTIBENCH))]
    for method in methods:
        for embedding, own in scores[scores["method"] == method].groupby("embedding", sort=False):
            own = own.assign(source="", target="")
            cells = [_cell(own, metric, "", "", 2) for metric in OF_SCMULTIBENCH]
            seeds, of = own["seed"].nunique(), SEEDS.get(dataset, 0)
            lines.append([_label(method, embedding, "", seeds, of), *cells])
    return _markdown(lines)


def within_table(found: pd.DataFrame) -> str:
    """What within.py found, in percent of the features."""
    shares = found.columns.difference(["data", "modality", "features"], sort=False)
    lines = [list(found.columns), ["---"] * len(found.columns)]
    for row in found.to_dict("records"):
        percents = [f"{100 * row[share]:.1f} %" for share in shares]
        lines.append([row["data"], row["modality"], f"{row['features']:,}", *percents])
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables() -> dict[str, str]:
    """All tables of the page, by name."""
    results = read_results(HERE / "results.csv")
    names = ("batches", "within", "scmultibench")
    batches, within, scmultibench = (pd.read_csv(HERE / f"{name}.csv") for name in names)
    scmultibench = scmultibench.fillna({"embedding": ""})
    return {
        **{name: table(results, name) for name in DATASETS},
        "batches": batches_table(batches, parts=False),
        "parts": batches_table(batches, parts=True),
        "within": within_table(within),
        "scmultibench": scmultibench_table(scmultibench, "citeseq"),
        "scmultibench's own": scmultibench_table(scmultibench, "D11"),
    }


def rendered(page: str, by_name: dict[str, str]) -> str:
    """The page with its tables replaced."""
    for name, text in by_name.items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if len(pattern.findall(page)) != 1:
            raise SystemExit(f"The page has no place for the table {name!r}")
        page = pattern.sub(rf"\g<1>\n{text}\n\n\g<2>", page)
    return page


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    page: Path = HERE / "README.md"
    draft = page.with_suffix(".draft")
    by_name = tables()
    draft.write_text(rendered(page.read_text(), by_name))
    os.replace(draft, page)
    print(f"Wrote {len(by_name)} tables to {page}")


if __name__ == "__main__":
    main()
