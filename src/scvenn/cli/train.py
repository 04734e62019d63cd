"""``scvenn train``: its options are the arguments of set-up, constructor and training."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import click

from scvenn._whole_files import draft
from scvenn.cli.files import H5MU, MODELS, embeddings, library, read_h5mu, write_h5mu
from scvenn.cli.options import (
    ByModality,
    Command,
    NumberOrAuto,
    Output,
    Result,
    given,
    mirror,
    option,
)

data_option = mirror("data/setup.py", "setup_mudata", "Data")
model_option = mirror("models/base.py", "__init__", "Model")
training_option = mirror("models/base.py", "train", "Training")
paper_option = mirror("models/published.py", "paper_setting", "Training")


@click.command(
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
    type=click.Choice(["zero", "prior", "learned"]),
    help="What stands for the private latent when another modality is predicted in training; "
    "prior and learned, which are noise, need --no-screen.",
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
@model_option(
    "dispersion",
    type=click.Choice(["feature", "feature-batch"]),
    help="feature-batch: each batch has a noise of its own.",
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
    paced = {name: training.pop(name) for name in [*training] if name in ("max_epochs", "lr")}
    if paper_setting:
        of_model, of_training = scvenn.paper_setting(model_class, **paced)
        constructor, training = of_model | constructor, of_training | training
    else:
        if "lr" in paced:
            training["plan_kwargs"] = {"lr": paced.pop("lr")}
        training |= paced

    model_class.setup_mudata(mdata, **given("Data"))
    model = model_class(mdata, **constructor)
    model.train(**training, **progress())
    if save is not None:
        model.save(save, overwrite=True)
    if report is not None:
        with draft(report) as path:
            model.report(path, labels_key=given("Data").get("labels_key"))
    write_h5mu(mdata, out)

    epochs = len(model.history["train_loss"])
    epoch = range(epochs)[model.best_epoch_]
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
    width = max(map(len, ["log-likelihood, nats per cell", *scores]))
    lines = [
        f"{model_name}: trained {epochs} epochs, kept epoch {epoch + 1}",
        "",
        f"{'log-likelihood, nats per cell':{width}} {'training':>12} {'held out':>12}",
    ]
    for pair, of in scores.items():
        columns = (number(of.get(mode)) for mode in ("train", "validation"))
        lines.append(" ".join([f"{pair:{width}}", *columns]))
    lines += ["", *(f"{name:6} {path}" for name, path in written.items() if path is not None)]
    return Result("\n".join(lines), result)


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
            loss = trainer.callback_metrics.get("validation_loss")
            told = "" if loss is None else f": validation_loss {float(loss):.1f}"
            click.echo(f"epoch {done} of at most {of}{told}", err=True)

    return {"enable_progress_bar": False, "callbacks": [LambdaCallback(on_train_epoch_end=say)]}


def number(value: float | None) -> str:
    """A log-likelihood as a column of a table."""
    return f"{'-' if value is None else f'{value:.1f}':>12}"
