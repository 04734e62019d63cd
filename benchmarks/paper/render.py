"""Tables and figures of docs/paper.md and docs/beyond.md, from the CSV files of results/.

    python benchmarks/paper/render.py

The pages are written by hand but for what stands between ``<!-- begin NAME -->`` and
``<!-- end NAME -->``, which this replaces. Figures go to docs/_static/paper/.
"""

from __future__ import annotations

import argparse
import os
import re
import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from run import HERE, NAMES, jobs_of, read_results

DOCS = HERE.parents[1] / "docs"
MODELS = ["MVAE", "MoPoEVAE", "MMVAE", "MMVAEpp"]
LARGE = "10+10+10"  # latents of scvenn's default
# Okabe and Ito's palette, which colour-blind readers can tell apart
COLOURS = {
    "MVAE": "#E69F00",
    "MoPoEVAE": "#56B4E9",
    "MMVAE": "#009E73",
    "MMVAEpp": "#D55E00",
    "MMVAEpp-default": "#000000",
    "ridge": "#A6761D",
    "extra-trees": "#999999",
    "PLS": "#CC79A7",
    "kNN": "#0072B2",
}
PRINTED = pd.read_csv(HERE / "printed.csv", dtype={"setting": str})
# A printed number counts as reproduced within this distance of our median, or one of our standard
# deviations over seeds, whichever is larger.
NEAR = 0.05


@cache
def results(experiment: str) -> pd.DataFrame:
    """All lines of an experiment."""
    return read_results(HERE / "results" / f"{experiment}.csv")


def scores(experiment: str, **chosen: str) -> pd.DataFrame:
    """Lines of an experiment whose columns have the given values; NaN values are left out."""
    table = results(experiment)
    for column, value in chosen.items():
        table = table[table[column] == value]
    return table[table["value"].notna()]


def with_default(experiment: str, **chosen: str) -> pd.DataFrame:
    """The same, and those of scvenn's default (10+10+10) as if it were a standard method."""
    others = {k: v for k, v in chosen.items() if k not in ("latents", "supervised")}
    beyond = scores(f"{experiment}_default", **others, latents=LARGE)
    tables = [scores(experiment, **chosen), beyond.assign(supervised="", latents="")]
    return pd.concat([table for table in tables if len(table)])


def label(method: str, supervised: str = "") -> str:
    """A method's name as the paper has it."""
    return ("sup-" if supervised == "yes" else "") + NAMES.get(method, method)


def in_order(values: Sequence[str]) -> list[str]:
    """Settings by number where they are numbers."""
    return sorted(set(values), key=lambda v: (0, float(v), v) if v.isdigit() else (1, 0.0, v))


# --------------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------------


def markdown(table: pd.DataFrame) -> str:
    """A table of text, its index as the first column."""
    lines = [
        "| " + " | ".join([table.index.name or "", *map(str, table.columns)]) + " |",
        "|" + "---|" * (table.shape[1] + 1),
    ]
    lines += [
        "| " + " | ".join([str(name), *row]) + " |"
        for name, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return "\n".join(lines)


def summary(table: pd.DataFrame, rows: list[str], column: str) -> pd.DataFrame:
    """Median and standard deviation over seeds, as text, with the paper's number below it."""
    groups = table.groupby([*rows, column], sort=False)["value"]
    return pd.DataFrame({"median": groups.median(), "sd": groups.std(), "n": groups.size()})


def spread(median: float, sd: float) -> str:
    """Median ± standard deviation; of one seed alone there is none."""
    return number(median) + ("" if np.isnan(sd) else f" ± {number(sd)}")


def number(value: float) -> str:
    """Two digits without a leading zero; a minus sign that is one."""
    text = f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"
    return "0" if text in (".00", "-.00") else text.replace("-", "−")


def compared(
    experiment: str, metric: str, ours: pd.DataFrame, column: str, fixed: dict[str, str]
) -> tuple[str, int, int]:
    """Our median ± sd beside the paper's number; how many agree, of how many."""
    printed = PRINTED[(PRINTED["experiment"] == experiment) & (PRINTED["metric"] == metric)]
    for name, value in fixed.items():
        printed = printed[printed[name] == value]
    columns = in_order([*ours[column], *printed[column]])
    stats = summary(ours, ["method", "supervised"], column)
    agree = total = 0
    table: dict[str, list[str]] = {}
    names = [(m, s) for s in ("no", "yes") for m in MODELS]
    names += [(m, "") for m in dict.fromkeys(ours["method"]) if m not in MODELS]
    for method, supervised in names:
        cells = []
        for value in columns:
            key = (method, supervised, value)
            text = "–"
            if key in stats.index:
                median, sd = stats.loc[key, "median"], stats.loc[key, "sd"]
                text = spread(median, sd)
            theirs = printed[
                (printed["method"] == method)
                & (printed["supervised"] == supervised)
                & (printed[column] == value)
            ]["value"]
            if len(theirs):
                text += f" ({number(theirs.item())})"
                if key in stats.index:
                    total += 1
                    near = abs(median - theirs.item()) <= np.fmax(NEAR, sd)
                    agree += near
                    text = f"**{text}**" if near else text
            cells.append(text)
        if any(cell != "–" for cell in cells):
            table[label(method, supervised)] = cells
    frame = pd.DataFrame(table, index=columns).T
    frame.index.name = "method"
    return markdown(frame), agree, total


def verdict(agree: int, total: int) -> str:
    """How many of the paper's numbers were reproduced."""
    return (
        f"**{agree} of {total}** printed numbers lie within {NEAR} or one of our standard "
        "deviations of our median (bold)."
    )


def synthetic_r2(target: str, features: str, latents: str = "2+2+2") -> str:
    """Cross-view R² of the synthetic data by Q1."""
    chosen = {"metric": "r2", "view": "cross", "target": target, "features": features}
    table = with_default("synthetic", **chosen)
    table = table[table["latents"].isin([latents, ""])]
    compare = target == "view1" and features == "shared" and latents == "2+2+2"
    text, agree, total = compared(
        "synthetic" if compare else "", "r2", table, "setting", {"latents": latents}
    )
    return text + ("\n\n" + verdict(agree, total) if compare else "")


def synthetic_recovery() -> str:
    """How much of the planted latents each learned one holds (kNN)."""
    table = with_default("synthetic", metric="recovery_knn_r2", latents="2+2+2")
    table = table[table["setting"].isin(["20", "100", "1000"])]
    pairs = {
        ("shared", "z_shared"): "shared from shared",
        ("private_view1", "z_shared"): "shared from private 1",
        ("private_view2", "z_shared"): "shared from private 2",
        ("shared", "z_private_view1"): "private 1 from shared",
        ("shared", "z_private_view2"): "private 2 from shared",
        ("private_view1", "z_private_view1"): "private 1 from private 1",
        ("private_view2", "z_private_view2"): "private 2 from private 2",
    }
    rows: dict[str, list[str]] = {}
    for setting in ("20", "100", "1000"):
        for method in [*MODELS, "MMVAEpp-default"]:
            part = table[(table["setting"] == setting) & (table["method"] == method)]
            median = part.groupby(["source", "target"])["value"].median()
            rows[f"{label(method)}, Q1 = {setting}"] = [
                number(median[pair]) if pair in median else "–" for pair in pairs
            ]
    frame = pd.DataFrame(rows, index=list(pairs.values())).T
    frame.index.name = "true latent, from a learned one"
    return markdown(frame)


def synthetic_tried() -> str:
    """Other settings than the paper's code has."""
    table = scores("synthetic_tried", metric="r2", view="cross", features="shared")
    base = scores("synthetic", metric="r2", view="cross", features="shared", latents="2+2+2")
    base = base[
        base["setting"].isin(["20", "100", "1000"]) & base["method"].isin(["MMVAE", "MMVAEpp"])
    ]
    base = base.assign(setting="as in the code, " + base["setting"])
    table = pd.concat([base, table[table["method"].isin(MODELS)]])
    table["what"], table["q1"] = zip(*table["setting"].str.rsplit(", ", n=1), strict=True)
    median = table.groupby(["what", "method", "q1", "target"], sort=False)["value"].median()
    rows = {}
    for what in dict.fromkeys(table["what"]):
        for method in ("MMVAE", "MMVAEpp"):
            rows[f"{label(method)}, {what}"] = [
                ", ".join(
                    number(median[what, method, q1, target])
                    for target in ("view1", "view2")
                    if (what, method, q1, target) in median
                )
                for q1 in ("20", "100", "1000")
            ]
    frame = pd.DataFrame(rows, index=["Q1 = 20", "Q1 = 100", "Q1 = 1000"]).T
    frame.index.name = "model, setting"
    return markdown(frame)


def auc_table(experiment: str, column: str, **chosen: str) -> str:
    """AUC of the label from the shared latent, and from principal components."""
    table = with_default(experiment, metric="auc", target="label", **chosen)
    reads_one = table["method"] == "PCA + logistic"
    table = table[(table["source"] == "shared") | reads_one]
    if "latents" in chosen:
        rest = {k: v for k, v in chosen.items() if k != "latents"}
        baseline = scores(experiment, metric="auc", supervised="", **rest)
        table = pd.concat([table, baseline])
    reads_one = table["method"] == "PCA + logistic"
    names = table["method"].where(~reads_one, table["method"] + " of " + table["source"])
    table = table.assign(method=names)
    if column == "latents":  # baselines have no latents: their number stands in each column
        baseline = table[table["supervised"] == ""]
        sizes = [size for size in dict.fromkeys(table["latents"]) if size]
        table = pd.concat(
            [table[table["supervised"] != ""], *(baseline.assign(latents=s) for s in sizes)]
        )
    # the paper's set is not ours: its numbers stand beside the setting that is like it
    fixed = {k: v.replace("paper-like", "paper") for k, v in chosen.items()}
    text, agree, total = compared(experiment, "auc", table, column, fixed)
    return text + ("\n\n" + verdict(agree, total) if total else "")


def auc_of_privates(experiment: str, setting: str) -> str:
    """AUC of the label from every latent, unsupervised."""
    table = scores(experiment, metric="auc", setting=setting, supervised="no", latents="2+2+2")
    stats = summary(table, ["method"], "source")
    sources = list(dict.fromkeys(table["source"]))
    rows = {
        label(m): [spread(stats.loc[(m, s), "median"], stats.loc[(m, s), "sd"]) for s in sources]
        for m in MODELS
    }
    frame = pd.DataFrame(rows, index=sources).T
    frame.index.name = "from"
    return markdown(frame)


def r2_table(experiment: str, view: str, column: str, target: str, **chosen: str) -> str:
    """R² of the label-related features of one modality."""
    fixed = {"metric": "r2", "view": view, "target": target, "features": "shared"}
    table = with_default(experiment, **fixed)
    for name, value in chosen.items():
        table = table[(table[name] == value) | ((name == "latents") & (table[name] == ""))]
    if column == "latents":
        baseline = table[table["supervised"] == ""]
        sizes = [size for size in dict.fromkeys(table["latents"]) if size]
        table = pd.concat(
            [table[table["supervised"] != ""], *(baseline.assign(latents=s) for s in sizes)]
        )
    return compared("", "r2", table, column, {})[0]


def times() -> str:
    """Runs of each experiment, finished of all, and the hours of one core that they took."""
    rows, total = {}, np.zeros(3)
    for path in sorted((HERE / "configs").glob("*.toml")):
        seconds = scores(path.stem, metric="seconds")["value"]
        numbers = np.array([len(seconds), len(jobs_of(path, smoke=False)), seconds.sum() / 3600])
        rows[path.stem], total = numbers, total + numbers
    rows["all"] = total
    text = {k: [f"{n:.0f}", f"{of:.0f}", f"{hours:.2f}"] for k, (n, of, hours) in rows.items()}
    frame = pd.DataFrame(text, index=["runs finished", "of", "hours of one core"]).T
    frame.index.name = "experiment"
    return markdown(frame)


# --------------------------------------------------------------------------------------------
# Tables of scvenn's default
# --------------------------------------------------------------------------------------------

DEFAULT = "MMVAEpp-default"


def medians(table: pd.DataFrame, **chosen: str) -> str:
    """Median ± standard deviation over seeds of the lines with these values, as text."""
    for column, value in chosen.items():
        table = table[table[column] == value]
    if table.empty:
        return "–"
    by_seed = table.groupby("seed")["value"].median()
    return spread(by_seed.median(), by_seed.std())


def rows_of(rows: dict[str, list[str]], columns: Sequence[str], name: str) -> str:
    """A table from its rows, which do not all need to have results."""
    frame = pd.DataFrame(rows, index=list(columns)).T
    frame.index.name = name
    return markdown(frame)


def default_synthetic() -> str:
    """What scvenn's default does on the simulation."""
    measures = {
        "R² of view 1": {"metric": "r2", "view": "cross", "target": "view1", "features": "shared"},
        "R² of view 2": {"metric": "r2", "view": "cross", "target": "view2", "features": "shared"},
        "private features of view 1": {
            "metric": "r2",
            "view": "cross",
            "target": "view1",
            "features": "private",
        },
        "private features of view 2": {
            "metric": "r2",
            "view": "cross",
            "target": "view2",
            "features": "private",
        },
    }
    for name, (source, target) in {
        "shared from `shared`": ("shared", "z_shared"),
        "private 1 from private 1": ("private_view1", "z_private_view1"),
        "private 2 from private 2": ("private_view2", "z_private_view2"),
        "shared from private 1": ("private_view1", "z_shared"),
        "shared from private 2": ("private_view2", "z_shared"),
        "private 1 from `shared`": ("shared", "z_private_view1"),
        "private 2 from `shared`": ("shared", "z_private_view2"),
    }.items():
        measures[name] = {"metric": "recovery_knn_r2", "source": source, "target": target}
    columns = {
        **{f"Q1 = {q1}": ("synthetic_default", q1) for q1 in ("20", "100", "1000", "5000")},
        "Q1 = 100, 2+2+2": ("synthetic_small_default", "100"),
    }
    rows = {
        name: [medians(scores(file, setting=q1), **chosen) for file, q1 in columns.values()]
        for name, chosen in measures.items()
    }
    return rows_of(rows, list(columns), "")


def paper_and_default(
    experiment: str, setting: str, **chosen: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Lines of the paper's MMVAE++ (2+2+2, unsupervised), and of scvenn's default of all sizes."""
    chosen["setting"] = setting
    paper = scores(experiment, **chosen, method="MMVAEpp", supervised="no", latents="2+2+2")
    return paper, scores(f"{experiment}_default", **chosen)


def default_same_view() -> str:
    """Same-view R² of the paper's MMVAE++ and of scvenn's default."""
    rows = {}
    for experiment, setting, views in (
        ("synthetic", "20", ("view1", "view2")),
        ("synthetic", "100", ("view1", "view2")),
        ("synthetic", "1000", ("view1", "view2")),
        ("cll", "50", ("rna", "meth")),
        ("cll", "1000", ("rna", "meth")),
        ("brca", "paper-like", ("rna", "meth")),
        ("brca", "dominated", ("rna", "meth")),
        ("pbmc", "41", ("rna", "atac")),
    ):
        for view in views:
            paper, ours = paper_and_default(
                experiment, setting, metric="r2", view="same", target=view
            )
            compared = (paper, ours[ours["latents"] == "2+2+2"], ours[ours["latents"] == LARGE])
            cells = [
                medians(part, features=features)
                for features in ("shared", "private")
                for part in compared
            ]
            rows[f"{experiment} {setting}, {view}"] = cells
    columns = [
        f"{features}: {who}"
        for features in ("shared", "private")
        for who in ("paper's", "default, 2+2+2", "default")
    ]
    return rows_of(rows, columns, "features of")


def default_privates() -> str:
    """AUC of the label from each latent of scvenn's default; 0.5 is right for a private one."""
    rows = {}
    for experiment, setting in (
        ("cll", "50"),
        ("cll", "250"),
        ("cll", "500"),
        ("cll", "1000"),
        ("brca", "paper-like"),
        ("brca", "dominated"),
        ("pbmc", "41"),
    ):
        paper, ours = paper_and_default(experiment, setting, metric="auc", target="label")
        ours = ours[ours["latents"] == LARGE]
        other = "atac" if experiment == "pbmc" else "meth"
        sources = ("shared", "private_rna", f"private_{other}")
        rows[f"{experiment} {setting}"] = [
            medians(part, source=source) for part in (paper, ours) for source in sources
        ]
    columns = [
        f"{who}: {latent}"
        for who in ("paper's", "default")
        for latent in ("shared", "private of rna", "private of the other")
    ]
    return rows_of(rows, columns, "")


def default_pbmc() -> str:
    """Naive CD8 T cells and all cell types in `shared`, all genes and all bins."""
    rows = {}
    for latents, experiment in (("2+2+2", "pbmc"), (LARGE, "pbmc_wide")):
        for method in (*MODELS, DEFAULT):
            file = "pbmc_default" if method == DEFAULT else experiment
            part = scores(
                file, setting="41", method=method, supervised="no", latents=latents, source="shared"
            )
            rows[f"{label(method)}, {latents}"] = [
                medians(part, metric="auc", target="label"),
                medians(part, metric="auc", target="celltype"),
                medians(part, metric="balanced_accuracy", target="celltype"),
            ]
    columns = ["AUC, naive CD8", "AUC, 13 types", "balanced accuracy, 13 types"]
    return rows_of(rows, columns, "")


def ablation(experiment: str, measures: dict[str, dict[str, str]]) -> str:
    """The default of scvenn, and what is left of it without one of its parts."""
    table = scores(f"{experiment}_ablation")
    methods = tomllib.loads((HERE / "configs" / f"{experiment}_ablation.toml").read_text())
    rows = {
        method.partition(": ")[2] or "**default**": [
            *(medians(table, method=method, **chosen) for chosen in measures.values()),
            lost(table, method),
        ]
        for method in methods["models"]
    }
    return rows_of(rows, [*measures, "R² lost, seed by seed"], "")


def lost(table: pd.DataFrame, method: str) -> str:
    """How much more cross-view R² of shared features the default has: mean and range over seeds."""
    part = table[
        (table["metric"] == "r2") & (table["view"] == "cross") & (table["features"] == "shared")
    ]
    by_seed = part.pivot_table(index="seed", columns="method", values="value")  # both directions
    if method == DEFAULT or not {DEFAULT, method} <= set(by_seed.columns):
        return "–"
    less = (by_seed[DEFAULT] - by_seed[method]).dropna()
    return f"{number(less.mean())} ({number(less.min())} to {number(less.max())})"


def ablation_of_synthetic() -> str:
    r2 = {"metric": "r2", "features": "shared"}
    latent = {"metric": "recovery_knn_r2", "target": "z_shared"}
    return ablation(
        "synthetic",
        {
            "R² of view 1": {**r2, "view": "cross", "target": "view1"},
            "R² of view 2": {**r2, "view": "cross", "target": "view2"},
            "same-view R² of view 1": {**r2, "view": "same", "target": "view1"},
            "shared from `shared`": {**latent, "source": "shared"},
            "shared from private 1": {**latent, "source": "private_view1"},
        },
    )


def ablation_of_cll() -> str:
    r2 = {"metric": "r2", "features": "shared"}
    auc = {"metric": "auc", "target": "label"}
    return ablation(
        "cll",
        {
            "AUC": {**auc, "source": "shared"},
            "R² of genes": {**r2, "view": "cross", "target": "rna"},
            "R² of sites": {**r2, "view": "cross", "target": "meth"},
            "same-view R² of genes": {**r2, "view": "same", "target": "rna"},
            "AUC, private of rna": {**auc, "source": "private_rna"},
            "AUC, private of meth": {**auc, "source": "private_meth"},
        },
    )


# --------------------------------------------------------------------------------------------
# Figures
# --------------------------------------------------------------------------------------------


def lines(axis: plt.Axes, table: pd.DataFrame, methods: Sequence[str]) -> None:
    """Median over seeds with the range from the first to the third quartile, by setting."""
    for method in [m for m in methods if m in set(table["method"])]:
        part = table[table["method"] == method]
        groups = part.groupby(part["setting"].astype(int))["value"]
        x, median = sorted(groups.groups), groups.median()
        style = {"color": COLOURS[method], "ls": "-" if method in NAMES else "--"}
        axis.plot(x, median[x], marker="o", ms=3, lw=1.5, label=label(method), **style)
        axis.fill_between(
            x, groups.quantile(0.25)[x], groups.quantile(0.75)[x], color=COLOURS[method], alpha=0.15
        )


def finish(figure: plt.Figure, axes: np.ndarray, name: str) -> None:
    """One legend below all panels; the file gets its name when it is whole."""
    handles, labels = [], []
    for axis in np.ravel(axes):
        axis.spines[["top", "right"]].set_visible(False)
        for handle, text in zip(*axis.get_legend_handles_labels(), strict=True):
            if text not in labels:
                handles.append(handle)
                labels.append(text)
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(6, -(-len(labels) // 2)),
        frameon=False,
        markerscale=1.5,
    )
    folder = DOCS / "_static" / "paper"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f".{name}.png", dpi=150, metadata={"Software": None})
    os.replace(folder / f".{name}.png", folder / f"{name}.png")
    plt.close(figure)


def figure_synthetic(features: str, name: str) -> None:
    """Figures 1B, 2 and S2: cross-view R² by Q1, both directions and latent sizes."""
    figure, axes = plt.subplots(
        2, 2, figsize=(9, 6.4), sharex=True, sharey=True, layout="constrained"
    )
    for i, latents in enumerate(("2+2+2", "4+2+4")):
        for j, (source, target) in enumerate((("view2", "view1"), ("view1", "view2"))):
            axis = axes[i, j]
            fixed = {"metric": "r2", "view": "cross", "target": target, "features": features}
            table = with_default("synthetic", **fixed)
            table = table[table["latents"].isin([latents, ""])]
            baselines = [
                "MMVAEpp-default",
                "ridge",
                "PLS",
                "kNN",
                *(["extra-trees"] if features == "shared" else []),
            ]
            lines(axis, table, [*baselines, *MODELS])
            if features == "shared" and (latents, target) == ("2+2+2", "view1"):
                by_eye = PRINTED[
                    (PRINTED["experiment"] == "synthetic") & (PRINTED["method"] == "MMVAEpp")
                ]
                axis.plot(
                    by_eye["setting"].astype(int),
                    by_eye["value"],
                    "x",
                    color=COLOURS["MMVAEpp"],
                    label="MMVAE++, paper (by eye)",
                )
            axis.set(xscale="log", title=f"{target[-1]} from {source[-1]}, models {latents}")
            axis.axhline(0, color="0.8", lw=0.8, zorder=0)
            ticks = [20, 50, 100, 200, 500, 1000, 5000]
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.minorticks_off()
            axis.set_ylim((-0.3, 1) if features == "shared" else (-0.6, 0.3))
    for axis in axes[-1]:
        axis.set_xlabel("private features of view 1, Q1")
    for axis in axes[:, 0]:
        axis.set_ylabel(f"R² of {features} features")
    finish(figure, axes, name)


def figure_by_setting(experiment: str, name: str, what: str, xlabel: str, ylabel: str) -> None:
    """Figures 3 and S6: AUC or R² by the number of other genes; all latent sizes."""
    sizes = ["2+2+2", "3+3+3", "4+4+4"]
    figure, axes = plt.subplots(
        2, 3, figsize=(10, 6), sharex=True, sharey=True, layout="constrained"
    )
    for i, supervised in enumerate(("no", "yes")):
        for j, latents in enumerate(sizes):
            axis = axes[i, j]
            of_label = {"metric": "auc", "target": "label"}
            fixed = of_label if what == "auc" else {"metric": "r2", "target": what}
            fixed |= (
                {"source": "shared"} if what == "auc" else {"view": "cross", "features": "shared"}
            )
            table = with_default(experiment, **fixed)
            chosen = (table["latents"] == latents) & (table["supervised"] == supervised)
            baseline = table["supervised"] == ""
            lines(
                axis,
                table[chosen | baseline],
                [*MODELS, "MMVAEpp-default", *(["ridge", "extra-trees"] if what != "auc" else [])],
            )
            if what == "auc":
                for method in MODELS:
                    theirs = PRINTED[
                        (PRINTED["experiment"] == experiment)
                        & (PRINTED["method"] == method)
                        & (PRINTED["supervised"] == supervised)
                        & (PRINTED["latents"] == latents)
                    ]
                    axis.plot(
                        theirs["setting"].astype(int), theirs["value"], "x", color=COLOURS[method]
                    )
            axis.set_title(f"{latents}, {'supervised' if supervised == 'yes' else 'unsupervised'}")
    for axis in axes[-1]:
        axis.set_xlabel(xlabel)
    for axis in axes[:, 0]:
        axis.set_ylabel(ylabel)
    if what == "auc":
        axes[0, 0].plot([], [], "x", color="0.3", label="printed in the paper")
    finish(figure, axes, name)


def figure_brca(view: str, name: str) -> None:
    """Figures 4 and S3 to S5: R² of ER-related features, a dot for each seed."""
    sizes = ["2+2+2", "3+3+3", "4+4+4"]
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), sharey="row", layout="constrained")
    for i, setting in enumerate(("paper-like", "dominated")):
        for j, (target, other) in enumerate((("rna", "meth"), ("meth", "rna"))):
            axis = axes[i, j]
            table = scores(
                "brca", metric="r2", view=view, features="shared", target=target, setting=setting
            )
            names = [(m, s) for s in ("no", "yes") for m in MODELS]
            for x, (method, supervised) in enumerate(names):
                for k, latents in enumerate(sizes):
                    values = table[
                        (table["method"] == method)
                        & (table["supervised"] == supervised)
                        & (table["latents"] == latents)
                    ]["value"]
                    at = x + 0.25 * (k - 1)
                    axis.plot(
                        [at] * len(values), values, ".", ms=4, color=COLOURS[method], alpha=0.5
                    )
                    axis.plot(
                        [at - 0.1, at + 0.1], [values.median()] * 2, color=COLOURS[method], lw=2
                    )
            if view == "cross":
                for method in ("ridge", "extra-trees"):
                    values = table[table["method"] == method]["value"]
                    axis.axhline(
                        values.median(), color=COLOURS[method], ls="--", lw=1, label=method
                    )
            axis.axhline(0, color="0.8", lw=0.8, zorder=0)
            axis.set_xticks(
                range(len(names)), [label(*n) for n in names], rotation=35, ha="right", fontsize=8
            )
            axis.set_title(f"{setting}: {target} from {other if view == 'cross' else 'itself'}")
        axes[i, 0].set_ylabel("R² of ER-related features")
    finish(figure, axes, name)


def figure_pbmc() -> None:
    """Figure S7: shared latents of naive CD8 and CD4 T cells, held-out cells of one seed."""
    table = scores("pbmc")
    table = table[table["metric"].isin(["shared_0", "shared_1"])]
    figure, axes = plt.subplots(1, 4, figsize=(11, 3.2), layout="constrained")
    for axis, method in zip(axes, MODELS, strict=True):
        part = table[table["method"] == method]
        wide = part.pivot_table(
            index=["target", "source"], columns="metric", values="value"
        ).reset_index()
        for kind, colour in (("CD4 naive T", "#0072B2"), ("CD8 naive T", "#D55E00")):
            cells = wide[wide["source"] == kind]
            axis.scatter(cells["shared_0"], cells["shared_1"], s=8, color=colour, label=kind, lw=0)
        auc = scores(
            "pbmc",
            metric="auc",
            target="label",
            source="shared",
            method=method,
            supervised="no",
            setting="41",
        )
        axis.set_title(f"{label(method)} (AUC {auc[auc['seed'] == 0]['value'].item():.2f})")
        axis.set(xticks=[], yticks=[], xlabel="shared 1")
    axes[0].set_ylabel("shared 2")
    finish(figure, axes, "figure_s7_pbmc")


# --------------------------------------------------------------------------------------------
# The page
# --------------------------------------------------------------------------------------------

PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "paper": {
        "synthetic-view1": lambda: synthetic_r2("view1", "shared"),
        "synthetic-view2": lambda: synthetic_r2("view2", "shared"),
        "synthetic-misspecified": lambda: synthetic_r2("view1", "shared", "4+2+4"),
        "synthetic-private": lambda: synthetic_r2("view1", "private"),
        "synthetic-recovery": synthetic_recovery,
        "synthetic-tried": synthetic_tried,
        "cll-auc": lambda: auc_table("cll", "setting", latents="2+2+2"),
        "cll-auc-latents": lambda: auc_table("cll", "latents", setting="500"),
        "cll-privates": lambda: auc_of_privates("cll", "500"),
        "cll-rna": lambda: r2_table("cll", "cross", "setting", "rna", latents="2+2+2"),
        "cll-meth": lambda: r2_table("cll", "cross", "setting", "meth", latents="2+2+2"),
        "brca-auc": lambda: auc_table("brca", "latents", setting="paper-like"),
        "brca-auc-dominated": lambda: auc_table("brca", "latents", setting="dominated"),
        "brca-cross": lambda: r2_table("brca", "cross", "latents", "rna", setting="paper-like"),
        "brca-cross-dominated": lambda: r2_table(
            "brca", "cross", "latents", "rna", setting="dominated"
        ),
        "brca-same": lambda: r2_table("brca", "same", "latents", "rna", setting="paper-like"),
        "pbmc-auc": lambda: auc_table("pbmc", "setting", latents="2+2+2"),
        "pbmc-rna": lambda: r2_table("pbmc", "cross", "setting", "rna", latents="2+2+2"),
        "times": times,
    },
    "beyond": {
        "default-synthetic": default_synthetic,
        "default-same-view": default_same_view,
        "default-privates": default_privates,
        "default-pbmc": default_pbmc,
        "ablation-synthetic": ablation_of_synthetic,
        "ablation-cll": ablation_of_cll,
    },
}


def fill(page: Path, blocks: dict[str, Callable[[], str]]) -> None:
    """Replace the tables of a page."""
    text = page.read_text()
    for name, block in blocks.items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise SystemExit(f"{page} has no place for the table {name!r}")
        table = block().replace("\\", "\\\\")
        text = pattern.sub(rf"\g<1>\n{table}\n\n\g<2>", text)
    draft = page.with_suffix(".draft")
    draft.write_text(text)
    os.replace(draft, page)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    figure_synthetic("shared", "figure_1b_2_synthetic")
    figure_synthetic("private", "figure_s2_synthetic")
    figure_by_setting("cll", "figure_3_cll_auc", "auc", "other genes, Q1", "AUC of IGHV")
    figure_by_setting(
        "cll", "figure_s6_cll_r2", "rna", "other genes, Q1", "R² of IGHV-related genes"
    )
    figure_brca("cross", "figure_4_brca_cross")
    figure_brca("same", "figure_s4_brca_same")
    figure_pbmc()

    for name, blocks in PAGES.items():
        fill(DOCS / f"{name}.md", blocks)
    n_tables = sum(map(len, PAGES.values()))
    print(f"Wrote {n_tables} tables to {DOCS} and 7 figures to {DOCS / '_static' / 'paper'}")


if __name__ == "__main__":
    main()
