"""The command line: ``scvenn train``, ``embed``, ``evaluate`` and ``datasets``."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import click

from scvenn._whole_files import draft
from scvenn.cli.files import (
    H5MU,
    SAVED,
    columns_as_they_are,
    embeddings,
    load,
    read_h5mu,
    write_h5mu,
)
from scvenn.cli.options import Command, Output, Result, option
from scvenn.cli.train import train


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Try it on a simulation:
  scvenn datasets get simulate_counts --out sim.h5mu
  scvenn train sim.h5mu --out embedded.h5mu --save model
  scvenn evaluate model sim.h5mu --labels cell_type
  scvenn embed model sim.h5mu --out new.h5mu

`scvenn COMMAND --help` explains a command. Results go to stdout, progress and messages to
stderr. Exit codes: 0 done; 1 the data or the model cannot be used, and the message says why;
2 the command line is wrong. No file is ever left half written.""",
)
@click.version_option(
    version("scvenn"),
    message=f"scvenn %(version)s, scvi-tools {version('scvi-tools')}, torch {version('torch')}",
)
def main() -> None:
    """Find what modalities of the same cells share, and what each keeps to itself.

    scvenn reads a MuData (.h5mu) with two or more modalities, such as RNA and ATAC, and learns two
    kinds of latent spaces. SHARED holds what the modalities agree on and can predict of each
    other, as a rule the cell types. PRIVATE, one for each modality, holds what only that modality
    knows: its own programmes and its technical noise.
    """


main.add_command(train)


@main.command(
    cls=Command,
    short_help="Embed new cells with a trained model.",
    epilog="""\b
Example:
  scvenn embed model new.h5mu --out embedded.h5mu""",
)
@click.argument("model", type=SAVED, metavar="MODEL")
@click.argument("data", type=H5MU, metavar="NEW.h5mu")
@option(
    "--out",
    type=Output(".h5mu"),
    required=True,
    help="Write the data with its embeddings to this .h5mu file.",
)
def embed(model: Path, data: Path, out: Path) -> Result:
    """Embed the cells of NEW.h5mu with the model that `scvenn train --save MODEL` saved.

    Writes X_shared and X_private_MODALITY to .obsm, as `scvenn train` does. The file needs the
    layers, columns and features that the model was trained with; features are matched by name, may
    be in any order, and others are left aside. A modality may be missing: the shared latent is then
    read off those that are there.
    """
    mdata = read_h5mu(data)
    trained = load(model)
    trained.embed(mdata)
    write_h5mu(mdata, out)
    written = embeddings(mdata, trained)
    lines = [
        f"{type(trained).__name__}: embedded {mdata.n_obs} cells",
        *(f"{key:20} {n} x {k}" for key, (n, k) in written.items()),
        "",
        f"out    {out}",
    ]
    result = {
        "model": type(trained).__name__,
        "data": str(data),
        "out": str(out),
        "obsm": written,
        "versions": trained.versions_,
    }
    return Result("\n".join(lines), result)


@main.command(
    cls=Command,
    short_help="Score a trained model on cells that were held out.",
    epilog="""\b
Examples:
  scvenn evaluate model in.h5mu --labels celltype
  scvenn evaluate model in.h5mu --out scores.csv --json > medians.json

\b
What to look for:
  r2, cross          how well one modality predicts another through the shared latent
  leakage_r2         of a private latent, near 0: what it tells of anything but its modality
  auc, balanced_...  how well a latent tells the labels apart

The medians count all features, also those that no other modality can predict.""",
)
@click.argument("model", type=SAVED, metavar="MODEL")
@click.argument("data", type=H5MU, metavar="IN.h5mu")
@option(
    "--labels",
    "labels_key",
    section="Data",
    metavar="COLUMN",
    help="Column of obs with labels to probe the latents for.",
)
@option(
    "--out",
    type=Output(".csv", ".csv.gz"),
    help="Write all scores, one line for each feature, to this .csv file.",
)
def evaluate(model: Path, data: Path, labels_key: str | None, out: Path | None) -> Result:
    """Score the model saved in MODEL on cells of IN.h5mu that it was not trained on.

    IN.h5mu is the file that the model was trained on, or the one that `scvenn train` wrote: probes
    are fitted on the training cells and scored on those that training held out. Prints the median
    over features of each score; --out has them all.
    """
    mdata = read_h5mu(data)
    trained = load(model, mdata)
    table = trained.evaluate(labels_key=labels_key)
    if out is not None:
        with draft(out) as path:
            table.to_csv(path, index=False)
    groups = table.groupby(["metric", "view", "source", "target"], sort=False)["value"]
    medians = groups.agg(median="median", features="count").reset_index()
    text = medians.to_string(index=False, float_format=lambda value: f"{value:.3f}")
    result = {
        "model": type(trained).__name__,
        "data": str(data),
        "out": None if out is None else str(out),
        "scores": [
            {key: None if value != value else value for key, value in row.items()}
            for row in medians.to_dict("records")
        ],
        "versions": trained.versions_,
    }
    return Result(text if out is None else f"{text}\n\nout    {out}", result)


# --------------------------------------------------------------------------------------------
# datasets
# --------------------------------------------------------------------------------------------


@main.group(invoke_without_command=True, short_help="List data sets to try, or get one.")
@click.pass_context
def datasets(ctx: click.Context) -> None:
    """List the data sets that scvenn knows, or get one as a file.

    Real ones are downloaded once, to a cache; a folder named by the environment variable
    SCVENN_DATA may hold them instead.
    """
    if ctx.invoked_subcommand is None:
        with list_all.make_context(ctx.info_name, [], parent=ctx) as own:
            list_all.invoke(own)


@click.command(cls=Command)
def list_all() -> Result:
    """List the data sets."""
    from scvenn import datasets as sets

    found = []
    for name in sets.__all__:
        if name.startswith("simulate_"):
            where = "simulated"
        else:
            where = str(sets.stored_file(name) or "not downloaded yet")
        about = (getattr(sets, name).__doc__ or "").partition("\n")[0]
        found.append({"name": name, "about": about, "where": where})
    lines = (f"{row['name']}\n    {row['about']}\n    {row['where']}" for row in found)
    return Result("\n".join(lines), {"datasets": found})


@datasets.command(
    cls=Command,
    short_help="Write a data set to a file.",
    epilog="""\b
Example:
  scvenn datasets get simulate_counts --out sim.h5mu""",
)
@click.argument("name")
@option("--out", type=Output(".h5mu"), required=True, help="Write it to this .h5mu file.")
def get(name: str, out: Path) -> Result:
    """Write the data set NAME, one that `scvenn datasets` lists, to a file."""
    from scvenn import datasets as sets

    if name not in sets.__all__:
        raise click.BadParameter(
            f"{name!r} is not among {', '.join(sets.__all__)}.", param_hint="NAME"
        )
    with columns_as_they_are():
        mdata = getattr(sets, name)()
    write_h5mu(mdata, out)
    sizes = {m: list(adata.shape) for m, adata in mdata.mod.items()}
    lines = [
        f"{name}: {mdata.n_obs} cells",
        *(f"{m:20} {n} x {d}" for m, (n, d) in sizes.items()),
        f"obs    {', '.join(mdata.obs.columns)}",
        "",
        f"out    {out}",
    ]
    result = {"name": name, "out": str(out), "modalities": sizes, "obs": list(mdata.obs.columns)}
    return Result("\n".join(lines), result)
