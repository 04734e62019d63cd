"""The command line: ``scvenn train``, ``embed``, ``evaluate`` and ``datasets``.

scvenn itself is imported where it is needed and nowhere else, so that ``--help`` does not wait.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from scvenn._cli_options import (
    ByModality,
    Command,
    NumberOrAuto,
    Output,
    Result,
    draft,
    given,
    mirror,
    option,
)

MODELS = ("MMVAEpp", "MMVAE", "MVAE", "MoPoEVAE")

data_option = mirror("_setup.py", "setup_mudata", "Data")
model_option = mirror("_model.py", "__init__", "Model")
training_option = mirror("_model.py", "train", "Training")
paper_option = mirror("models.py", "paper_setting", "Training")

# a file or folder to read
H5MU = click.Path(exists=True, dir_okay=False, path_type=Path)
SAVED = click.Path(exists=True, file_okay=False, path_type=Path)


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


# --------------------------------------------------------------------------------------------
# train
# --------------------------------------------------------------------------------------------


@main.command(
    cls=Command,
    short_help="Train a model and write the embeddings of its cells.",
    epilog="""\b
Examples:
  scvenn train in.h5mu --out out.h5mu
  scvenn train in.h5mu --out out.h5mu --layer rna=counts --likelihood atac=poisson
  scvenn train in.h5mu --out out.h5mu --save model --labels celltype --batch donor
  scvenn train in.h5mu --out out.h5mu --n-private rna=20 --n-private adt=5
  scvenn train in.h5mu --out out.h5mu --model mvae --paper-setting --json > result.json

\b
In Python afterwards:
  mdata = mudata.read_h5mu("out.h5mu"); scanpy.pp.neighbors(mdata, use_rep="X_shared")""",
)
@click.argument("data", type=H5MU, metavar="IN.h5mu")
@option(
    "--out",
    type=Output(".h5mu"),
    required=True,
    help="Write the data with its embeddings to this .h5mu file.",
)
@option("--save", type=Output(), help="Save the trained model to this folder.")
@option(
    "--report",
    type=Output(".html"),
    help="Write a report on the trained model to this .html file; --labels colours it.",
)
@data_option(
    "modalities",
    "--modality",
    multiple=True,
    metavar="MODALITY",
    help="Modality to use; give it two or more times. All where none is given.",
)
@data_option(
    "layers",
    "--layer",
    multiple=True,
    type=ByModality(click.STRING),
    metavar="MODALITY=LAYER",
    help="Layer to read instead of .X, such as rna=counts.",
)
@data_option(
    "likelihoods",
    "--likelihood",
    multiple=True,
    type=ByModality(click.STRING, for_all="auto"),
    metavar="MODALITY=NAME",
    help="Distribution of the values: normal, bernoulli (0 and 1), nb (counts), poisson, zinb, "
    "nb_mixture (proteins with background) or beta (fractions). auto looks at the values and "
    "chooses among the first three.",
)
@data_option(
    "labels_key",
    "--labels",
    metavar="COLUMN",
    help="Column of obs with classes, such as cell types, that the shared latent shall tell "
    "apart. Training is unsupervised without it.",
)
@data_option(
    "unlabeled_category",
    "--unlabeled",
    metavar="VALUE",
    help="Value in that column that means 'not known', as a missing one does.",
)
@data_option(
    "batch_key",
    "--batch",
    metavar="COLUMN",
    help="Column of obs with the batch, which the latents then need not hold.",
)
@data_option(
    "categorical_covariate_keys",
    "--categorical-covariate",
    multiple=True,
    metavar="COLUMN",
    help="Further column of categories to account for, such as the donor; may be repeated.",
)
@data_option(
    "continuous_covariate_keys",
    "--continuous-covariate",
    multiple=True,
    metavar="COLUMN",
    help="Further column of numbers to account for, such as pct_mito; may be repeated.",
)
@option(
    "--model",
    "model_name",
    section="Model",
    type=click.Choice(MODELS, case_sensitive=False),
    default=MODELS[0],
    show_default=True,
    help="MMVAEpp (MMVAE++) keeps private variation out of the shared latent best.",
)
@model_option("n_shared", type=int, help="Size of the shared latent.")
@model_option(
    "n_private",
    multiple=True,
    type=ByModality(click.INT, for_all="any"),
    metavar="SIZE or MODALITY=SIZE",
    help="Size of the private latents; repeat it for a size for each modality.",
)
@model_option("n_hidden", type=int, help="Width of the hidden layers.")
@model_option("n_layers", type=int, help="Number of hidden layers.")
@model_option("dropout_rate", type=float, help="Dropout in the hidden layers.")
@model_option(
    "label_weight",
    type=NumberOrAuto(),
    help="Weight of the labels; auto is the largest modality's number of features.",
)
@model_option("encode_covariates", is_flag=True, help="Show batch and covariates to encoders, too.")
@model_option(
    "absent_private",
    type=click.Choice(["zero", "prior"]),
    help="What stands for the private latent when another modality is predicted in training.",
)
@model_option(
    "screen",
    "--screen/--no-screen",
    help="Keep the shared latent to features that other modalities predict. As a default "
    "MMVAEpp does, the others do not.",
)
@model_option(
    "kl_weight_shared",
    type=float,
    help="Weight of the KL of the shared latent: 0.1 with --screen, else 1, where not given.",
)
@model_option(
    "modality_weights",
    multiple=True,
    type=ByModality(click.FLOAT, for_all="auto"),
    metavar="auto or MODALITY=WEIGHT",
    help="Weight of each modality's likelihood; auto makes up for their numbers of features. "
    "All weigh 1 where none is given.",
)
@model_option(
    "decoder",
    type=click.Choice(["mlp", "linear"]),
    help="linear: the decoders' weights are loadings of the features.",
)
@training_option(
    "max_epochs",
    type=int,
    help="Most passes through the cells: about 4,000 steps, but between 20 and 400 epochs, where "
    "not given.",
)
@training_option("batch_size", type=int, help="Cells per step.")
@training_option("train_size", type=float, help="Fraction of the cells to train on.")
@training_option(
    "early_stopping",
    "--early-stopping/--no-early-stopping",
    help="Stop when held-out cells are no longer explained better, and return to the best epoch.",
)
@training_option("accelerator", metavar="NAME", help="Where to train: auto, cpu, gpu or mps.")
@paper_option("lr", type=float, help="Learning rate of Adam.")
@option(
    "--paper-setting",
    is_flag=True,
    section="Training",
    help="The hyperparameters of the paper's code (arXiv 2403.06338): latents of size 2, no "
    "screening, no early stopping, 100 epochs. Options that are given win over them.",
)
@option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    section="Training",
    help="Of the random numbers: the same seed gives the same result (on CPU, to the last bit).",
)
def train(
    data: Path,
    out: Path,
    save: Path | None,
    report: Path | None,
    model_name: str,
    paper_setting: bool,
    seed: int,
    **_: Any,
) -> Result:
    """Train a model on IN.h5mu and write the embeddings of its cells to --out.

    The output holds the whole input and, in .obsm, X_shared (what the modalities agree on) and
    X_private_MODALITY (what one modality keeps to itself; NaN for cells that lack it). Cells are
    matched by name, and may lack modalities. The result on stdout is how well held-out cells are
    predicted: rna->atac is atac, predicted from the shared latent of rna.
    """
    scvenn = library()
    import scvi

    scvi.settings.seed = seed
    mdata = read_h5mu(data)
    model_class = getattr(scvenn, model_name)
    constructor, training = given("Model"), given("Training")
    rate = {"lr": training.pop("lr")} if "lr" in training else {}
    if paper_setting:
        length = {k: training[k] for k in training if k == "max_epochs"}
        of_model, of_training = scvenn.paper_setting(model_class, **length, **rate)
        constructor, training = of_model | constructor, of_training | training
    elif rate:
        training["plan_kwargs"] = rate

    model_class.setup_mudata(mdata, **given("Data"))
    model = model_class(mdata, **constructor)
    model.train(**training, **progress())
    if save is not None:
        model.save(save, overwrite=True)
    if report is not None:
        with draft(report) as path:
            model.report(path, labels_key=given("Data").get("labels_key"))
    write_h5mu(mdata, out)

    epochs, epoch = len(model.history["train_loss"]), best_epoch(model)
    scores = log_likelihoods(model, epoch)
    written = {"out": out, "save": save, "report": report}
    result = {
        "model": model_name,
        "data": str(data),
        **{name: None if path is None else str(path) for name, path in written.items()},
        "seed": seed,
        "epochs": epochs,
        "best_epoch": epoch + 1,
        "log_likelihood": scores,
        "obsm": embeddings(mdata, model),
        "versions": model.versions_,
    }
    width = max(map(len, scores))
    lines = [
        f"{model_name}: trained {epochs} epochs, kept epoch {epoch + 1}",
        "",
        f"{'log-likelihood, nats per cell':{width}}  {'training':>12}  {'held out':>12}",
        *(
            f"{pair:{max(width, 29)}}  {number(s['train']):>12}  {number(s['validation']):>12}"
            for pair, s in scores.items()
        ),
        "",
        *(f"{name:6} {path}" for name, path in written.items() if path is not None),
    ]
    return Result("\n".join(lines), result)


def best_epoch(model: Any) -> int:
    """The epoch whose weights the model has: the best where training stopped early, or the last."""
    from scvenn._training import BestEpoch

    kept = [c.epoch for c in model.trainer.callbacks if isinstance(c, BestEpoch)]
    last = len(model.history["train_loss"]) - 1
    return next((epoch for epoch in kept if epoch is not None), last)


def log_likelihoods(model: Any, epoch: int) -> dict[str, dict[str, float | None]]:
    """Log-likelihood of training and held-out cells in an epoch, by what was predicted."""
    scores: dict[str, dict[str, float | None]] = {}
    for key, values in model.history.items():
        name, _, mode = key.removeprefix("log_likelihood_").rpartition("_")
        if key.startswith("log_likelihood_"):
            found = float(values[key].iloc[epoch])
            scores.setdefault(name, {})[mode] = found if math.isfinite(found) else None
    return scores


def progress() -> dict[str, Any]:
    """Arguments of ``train``: a bar on a terminal, ten lines where stderr is a file."""
    if sys.stderr.isatty():
        return {}
    from lightning.pytorch.callbacks import LambdaCallback

    def say(trainer: Any, _: Any) -> None:
        done, of = trainer.current_epoch + 1, trainer.max_epochs
        if done % max(1, of // 10) == 0:
            loss = float(trainer.callback_metrics["train_loss"])
            click.echo(f"epoch {done} of at most {of}: train_loss {loss:.1f}", err=True)

    return {"enable_progress_bar": False, "callbacks": [LambdaCallback(on_train_epoch_end=say)]}


# --------------------------------------------------------------------------------------------
# embed and evaluate
# --------------------------------------------------------------------------------------------


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
    trained.write_embeddings(mdata)
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
  auc, balanced_...  how well a latent tells the labels apart""",
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


# --------------------------------------------------------------------------------------------
# What the commands have in common
# --------------------------------------------------------------------------------------------


def library() -> Any:
    """The package, whose import takes seconds; of all libraries only it tells what it does."""
    import scvi  # noqa: F401  it and Lightning set their levels when they are imported

    import scvenn

    for name in ("scvi", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("scvi.scvenn").setLevel(logging.INFO)
    return scvenn


def load(folder: Path, mdata: Any = False) -> Any:
    """The model in a folder, whichever class it is of."""
    scvenn = library()
    from scvenn._saving import class_of

    name = class_of(folder)
    if name not in (*MODELS, "SharedPrivateModel"):
        raise ValueError(f"{folder} holds a model of class {name!r}, which is not one of scvenn's.")
    return getattr(scvenn, name).load(folder, mdata)


def read_h5mu(path: Path) -> Any:
    """Read a MuData; if the file is none, say what it is instead."""
    import h5py
    import mudata

    try:
        with h5py.File(path) as file:
            groups = set(file)
    except OSError as error:
        raise ValueError(
            f"{path} is not an HDF5 file, or was cut off ({error}). Expected a MuData, as "
            "Python's mdata.write('data.h5mu') makes it."
        ) from error
    if "mod" not in groups:
        kind = "an AnnData of one modality" if {"obs", "var"} <= groups else "no MuData"
        raise ValueError(
            f"{path} holds {kind}; expected a MuData with two or more modalities of the same "
            "cells. Put them together in Python: mudata.MuData({'rna': anndata.read_h5ad("
            "'rna.h5ad'), 'atac': anndata.read_h5ad('atac.h5ad')}).write('data.h5mu')."
        )
    click.echo(f"reading {path}", err=True)
    with columns_as_they_are():
        return mudata.read_h5mu(path)


def write_h5mu(mdata: Any, path: Path) -> None:
    """Write a MuData: the whole file or none."""
    with columns_as_they_are(), draft(path) as unfinished:
        mdata.write(unfinished)


@contextmanager
def columns_as_they_are() -> Iterator[None]:
    """Keep mudata from copying columns of the modalities' tables to its own."""
    import mudata

    # 0.3 does so unless it is told not to; 0.4 never does
    if hasattr(mudata, "set_options"):
        with mudata.set_options(pull_on_update=False):
            yield
    else:
        yield


def embeddings(mdata: Any, model: Any) -> dict[str, list[int]]:
    """Shapes of what the model wrote to ``.obsm``."""
    from scvenn._keys import Keys

    keys = [Keys.shared(), *(Keys.private(m) for m in model.modalities if m in mdata.mod)]
    return {key: list(mdata.obsm[key].shape) for key in keys}


def number(value: float | None) -> str:
    """A log-likelihood for people to read."""
    return "-" if value is None else f"{value:.1f}"
