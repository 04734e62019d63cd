"""The command line: ``scvenn train`` and what can be done with a trained model.

In reading order: this file (the commands that take a few lines), ``train`` (tables of its options,
and the command), ``command`` (how results are written and printed, and what becomes of errors),
``options`` (how tables are read), ``files`` (where results go, what is read), ``probe`` (a process
of its own that reads a file first, as a damaged one may hang or crash it).
"""

import json
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

import click

from scvenn.cli.command import Command, Result
from scvenn.cli.files import (
    H5MU,
    SAVED,
    Output,
    embeddings,
    library,
    load,
    read_h5mu,
    shape_lines,
    writer_of,
)
from scvenn.cli.options import Arguments
from scvenn.cli.train import REPORT, set_seed, train

__all__ = ["main"]


@click.group(
    commands=[train],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Try it on a simulation:
  scvenn datasets get simulate_counts --out sim.h5mu
  scvenn train sim.h5mu --out embedded.h5mu --save model
  scvenn evaluate model sim.h5mu --labels cell_type
  scvenn report model sim.h5mu --out report.html --labels cell_type
  scvenn embed model sim.h5mu --out new.h5mu
  scvenn map model sim.h5mu --out mapped.h5mu
  scvenn predict model sim.h5mu --from rna --to atac --out atac.h5ad

`scvenn COMMAND --help` explains a command. Results go to stdout, progress and messages to
stderr. Exit codes: 0 done; 1 the data or the model cannot be used, for the reason in the
message; 2 the command line is wrong; 130 stopped by Ctrl-C, 143 by SIGTERM. No file is ever left
half written.""",
)
@click.version_option(
    version("scvenn"),
    message=f"scvenn %(version)s, scvi-tools {version('scvi-tools')}, torch {version('torch')}",
)
def main() -> None:
    """Find what modalities of the same cells share, and what is specific to each.

    scvenn reads a MuData (.h5mu) with two or more modalities, such as RNA and ATAC, and learns two
    kinds of latent spaces. SHARED holds what the modalities agree on and can predict of each
    other, as a rule the cell types. PRIVATE, one for each modality, holds what is specific to it:
    its own programmes and its technical noise.
    """


@main.command(cls=Command, outputs=[Output("--out", "data and embeddings", ".h5mu", required=True)])
@click.argument("model", type=SAVED)
@click.argument("path", type=H5MU, metavar="NEW.h5mu")
def embed(model: Path, path: Path) -> Result:
    """Embed new cells with a trained model, the folder of `scvenn train --save MODEL`.

    Writes X_shared and X_private_MODALITY to .obsm, as `scvenn train` does. The file needs the
    layers, columns and features that the model was trained with; features are matched by name, may
    be in any order, and others are ignored. A modality may be missing: the shared latent is then
    inferred from those that are there.
    """
    mdata = read_h5mu(path)
    trained = load(model)
    trained.embed(mdata)
    name, shapes = type(trained).__name__, embeddings(mdata, trained)
    return Result(
        "\n".join([f"{name}: embedded {mdata.n_obs} cells", *shape_lines(shapes)]),
        {"model": name, "data": path, "obsm": shapes, "versions": trained.versions_},
        {"out": writer_of(mdata)},
    )


MAPPING = """
--batch COLUMN (batch_key): Column of obs with the batches of the new cells, if the model was
    trained without --batch. Default: the column that the model was trained with.
--max-epochs INTEGER: Maximum number of passes through the new cells. Default: about 500 steps, but
    at most 100 epochs.
--batch-size INTEGER: Cells per step. Default: 128.
--accelerator NAME: Where to train: auto, cpu, gpu or mps. Default: auto.
--seed INTEGER: Seed; the same one gives the same result, bit for bit on CPU. Default: 0.
"""


@main.command(
    "map",
    cls=Command,
    outputs=[
        Output("--out", "data, embeddings and novelty", ".h5mu", required=True),
        Output("--save", "the model that knows the new batches"),
    ],
    sections={"Mapping": MAPPING},
    epilog="""\b
Examples:
  scvenn map model new.h5mu --out mapped.h5mu
  scvenn map model new.h5mu --batch sample --out mapped.h5mu --save model2""",
)
@click.argument("model", type=SAVED)
@click.argument("path", type=H5MU, metavar="NEW.h5mu")
def map_(model: Path, path: Path, mapping: Arguments) -> Result:
    """Map cells of new batches onto a trained model, which stays as it is.

    Learns what is particular to the new batches alone, and writes X_shared and X_private_MODALITY
    to .obsm, corrected for them. obs gets scvenn_novelty: how far a cell is from all that the model
    was trained on, about 1 for a cell like those. The file may lack modalities and features, which
    then count as not measured.
    """
    set_seed(mapping)
    mdata = read_h5mu(path)
    trained = load(model)
    mapped = trained.map_query(mdata, **mapping, enable_progress_bar=sys.stderr.isatty())
    mapped.embed()
    mdata.obs["scvenn_novelty"] = mapped.get_novelty()
    new = list(mapped.batches[len(trained.batches) :])
    name, shapes = type(mapped).__name__, embeddings(mdata, mapped)
    text = f"{name}: mapped {mdata.n_obs} cells, of {len(new)} new batches"
    return Result(
        "\n".join([text + (f" ({', '.join(new)})" if new else ""), *shape_lines(shapes)]),
        {
            "model": name,
            "data": path,
            "new_batches": new,
            "obsm": shapes,
            "versions": mapped.versions_,
        },
        {"save": partial(mapped.save, overwrite=True), "out": writer_of(mdata)},
    )


PREDICTION = """
--from MODALITY... (source): Modality to predict from; may be repeated. Required.
--to MODALITY (target): Modality to predict. Required.
--feature NAME... (features): Feature to predict; may be repeated. Default: all.
--library-size NUMBER: Scale predicted counts to this sum in every cell. Default: the sum of the
    cell's own counts, or the median of training where --to was not measured.
"""


@main.command(
    cls=Command,
    outputs=[Output("--out", "the predictions", ".h5ad", required=True)],
    sections={"Prediction": PREDICTION},
    epilog="""\b
Examples:
  scvenn predict model in.h5mu --from rna --to atac --out atac.h5ad
  scvenn predict model in.h5mu --from rna --to adt --feature CD4 --feature CD8 --out adt.h5ad""",
)
@click.argument("model", type=SAVED)
@click.argument("path", type=H5MU, metavar="IN.h5mu")
def predict(model: Path, path: Path, prediction: Arguments) -> Result:
    """Predict one modality of the cells in IN.h5mu from others.

    Writes an AnnData of cells x features. X holds the mean that the model expects, on the scale of
    the data: counts for counts, probabilities for values of 0 and 1. Cells without any modality of
    --from are NaN. The prediction is through the shared latent alone, unless --from names --to as
    well.
    """
    mdata = read_h5mu(path)
    trained = load(model)
    source, target = prediction["source"], prediction["target"]
    if not mdata.n_obs:
        raise ValueError(f"{path} has no cells.")
    # one cell, which checks the names before anything is written
    features = trained.predict(mdata=mdata, indices=[0], **prediction).columns
    measured = set().union(*(mdata.mod[m].obs_names for m in source if m in mdata.mod))
    n_predicted = int(mdata.obs_names.isin(measured).sum())
    if not n_predicted:
        raise ValueError(
            f"source={source}: no cell of {path} has any of these; its modalities are "
            f"{list(mdata.mod)}."
        )
    name, shape = type(trained).__name__, [mdata.n_obs, len(features)]
    return Result(
        f"{name}: predicted {target} of {n_predicted} of {mdata.n_obs} cells from "
        f"{' and '.join(source)}\n{shape_lines({'X': shape})[0]}",
        {
            "model": name,
            "data": path,
            **prediction,
            "X": shape,
            "predicted_cells": n_predicted,
            "versions": trained.versions_,
        },
        {"out": partial(trained.write_predictions, mdata=mdata, **prediction)},
    )


@main.command(
    cls=Command,
    outputs=[Output("--out", "all scores, one line for each feature,", ".csv", ".csv.gz")],
    sections={"Data": "--labels COLUMN (labels_key): Column of obs that latents should predict."},
    epilog="""\b
Scores:
  r2, cross          how well one modality predicts another through the shared latent
  leakage_r2         how well a private latent predicts other modalities: beside by_chance, not 0
  auc, balanced_...  how well a latent separates the labels
""",
)
@click.argument("model", type=SAVED)
@click.argument("path", type=H5MU, metavar="IN.h5mu")
def evaluate(model: Path, path: Path, data: Arguments) -> Result:
    """Score a trained model on cells that were held out.

    IN.h5mu is the file that the model in the folder MODEL was trained on, or the one that `scvenn
    train` wrote: probes are fitted on its training cells and scored on the others. Prints medians
    over all n features, also those that no other modality can predict, what is expected by chance,
    and medians over the features that screening calls shared; then the part of each modality's
    variance that latents explain. --out has all scores.
    """
    mdata = read_h5mu(path)
    trained = load(model, mdata)
    scores = trained.evaluate(**data)
    medians = library().metrics.medians(scores)
    explained = trained.variance_explained()
    explained = explained[explained["latent"].isin(["shared", "private", "both", "overlap"])]
    tables = {"scores": medians, "variance_explained": explained}
    shown = [
        table.to_string(index=False, float_format="{:.3f}".format, na_rep="-")
        for table in tables.values()
    ]
    return Result(
        "\n\nvariance explained\n".join(shown),
        {
            "model": type(trained).__name__,
            "data": path,
            **{
                name: json.loads(table.to_json(orient="records", double_precision=15))
                for name, table in tables.items()
            },
            "versions": trained.versions_,
        },
        {"out": partial(scores.to_csv, index=False)},
    )


LABELS = """
--labels COLUMN (labels_key): Column of obs that a classifier looks for in the latents. Default: of
    the data that the model was trained on, the labels of training.
"""


@main.command(
    cls=Command,
    outputs=[Output("--out", "the report", ".html", required=True)],
    sections={"Report": LABELS + REPORT},
)
@click.argument("model", type=SAVED)
@click.argument("path", type=H5MU, metavar="IN.h5mu")
def report(model: Path, path: Path, report: Arguments) -> Result:
    """Write a page on a trained model for a colleague.

    One HTML file with figures, scores, features and settings, and a guide to each section.

    IN.h5mu is the file that the model in the folder MODEL was trained on, or the one that `scvenn
    train` wrote: the cells that training held out are scored. Of a file with new cells, all are;
    what needs the training cells, such as the search for labels, is then left out.
    """
    mdata = read_h5mu(path)
    trained = load(model, mdata)
    name, new = type(trained).__name__, trained.train_indices is None
    return Result(
        f"{name}: reported on {mdata.n_obs} {'new ' if new else ''}cells",
        {"model": name, "data": path, "new_cells": new, **report, "versions": trained.versions_},
        {"out": partial(trained.report, **report)},
    )


@main.group(invoke_without_command=True)
@click.pass_context
def datasets(ctx: click.Context) -> None:
    """List data sets to try, or get one as a file.

    Real data sets are downloaded once, to a cache; a folder named by the environment variable
    SCVENN_DATA may hold them instead.
    """
    if ctx.invoked_subcommand is None:
        with list_all.make_context(ctx.info_name, [], parent=ctx) as own:
            list_all.invoke(own)


@datasets.command("list", cls=Command)
def list_all() -> Result:
    """List the data sets; the same as without a command."""
    from scvenn import datasets as sets

    rows = []
    for name in sets.__all__:
        about = (getattr(sets, name).__doc__ or "").partition("\n")[0]
        simulated = name.startswith("simulate_")
        where = "simulated" if simulated else sets.stored_file(name) or "not downloaded yet"
        rows.append({"name": name, "about": about, "where": str(where)})
    return Result("\n".join("\n    ".join(row.values()) for row in rows), {"datasets": rows})


@datasets.command(cls=Command, outputs=[Output("--out", "it", ".h5mu", required=True)])
@click.argument("name")
def get(name: str) -> Result:
    """Write the data set NAME, one that `scvenn datasets` lists, to a file."""
    from scvenn import datasets as sets

    if name not in sets.__all__:
        raise click.BadParameter(f"{name!r} is not in {sets.__all__}.", param_hint="NAME")
    mdata = getattr(sets, name)()
    shapes = {m: list(adata.shape) for m, adata in mdata.mod.items()}
    columns = list(mdata.obs.columns)
    lines = [f"{name}: {mdata.n_obs} cells", *shape_lines(shapes), f"obs    {', '.join(columns)}"]
    found = {"name": name, "modalities": shapes, "obs": columns}
    return Result("\n".join(lines), found, {"out": writer_of(mdata)})
