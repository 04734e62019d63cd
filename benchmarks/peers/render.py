"""Tables of README.md, from results.csv.

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

NAMES = {"scvenn": "scvenn MMVAE++", "PCA": "PCA + concatenation", "ridge": "ridge on PCs"}
# Heading: metric and digits.
COLUMNS = {
    "dimensions": ("dimensions", 0),
    "balanced accuracy": ("balanced_accuracy", 2),
    "AUC": ("auc", 3),
    "scIB bio": ("scib: Bio conservation", 2),
    "scIB batch": ("scib: Batch correction", 2),
}
COSTS = {"seconds": ("fit_seconds", 0), "GiB": ("memory_gib", 1)}


def table(results: pd.DataFrame, dataset: str) -> str:
    """The table of a data set: median over seeds ± standard deviation."""
    results = results[results["dataset"] == dataset]
    if results.empty:
        return "No results yet: `make peers`."
    pearson = results[results["metric"] == "pearson"]
    pairs = pearson[["source", "target"]].drop_duplicates().itertuples(index=False, name=None)
    columns = {heading: (metric, "", "", n) for heading, (metric, n) in COLUMNS.items()}
    columns |= {f"Pearson {s} → {t}": ("pearson", s, t, 3) for s, t in pairs}
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
                label = _label(method, embedding, max_epochs, own["seed"].nunique())
                rows[label] = [_cell(mine, *column) for column in columns.values()]
    filled = [any(row[k] != "–" for row in rows.values()) for k in range(len(columns))]
    lines = [["method", *columns], *([label, *row] for label, row in rows.items())]
    lines = [[line[0], *(np.array(line[1:])[filled])] for line in lines]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _label(method: str, embedding: str, max_epochs: str, seeds: int) -> str:
    parts = [NAMES.get(method, method)]
    if embedding not in ("", "joint"):
        parts.append(embedding)
    if max_epochs:
        parts.append(f"at most {max_epochs} epochs")
    if seeds < SEEDS:
        parts.append(f"{seeds} of {SEEDS} seeds")
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


def rendered(page: str, results: pd.DataFrame) -> str:
    """The page with its tables replaced."""
    for name in DATASETS:
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if len(pattern.findall(page)) != 1:
            raise SystemExit(f"The page has no place for the table {name!r}")
        page = pattern.sub(rf"\g<1>\n{table(results, name)}\n\n\g<2>", page)
    return page


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    page: Path = HERE / "README.md"
    draft = page.with_suffix(".draft")
    draft.write_text(rendered(page.read_text(), read_results(HERE / "results.csv")))
    os.replace(draft, page)
    print(f"Wrote {len(DATASETS)} tables to {page}")


if __name__ == "__main__":
    main()
