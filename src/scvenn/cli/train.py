"""``scvenn train``: its options are the arguments of set-up, constructor and training."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from scvenn.cli.command import Command, Result
from scvenn.cli.files import (
    H5MU,
    MODELS,
    Output,
    check_checkpoint,
    embeddings,
    library,
    read_h5mu,
    writer_of,
)
from scvenn.cli.options import Arguments, likelihoods

DATA = f"""
--modality MODALITY... (modalities): Modality to use; repeat it for each. Default: all.
--layer MODALITY=LAYER (layers): Layer to read instead of .X, such as rna=counts.
--likelihood auto|MODALITY=NAME (likelihoods): Distribution of the values; auto infers it from
    them. Names are {likelihoods()}. Default: auto.
--labels COLUMN (labels_key): Column of obs with classes, such as cell types, for the shared latent
    to separate. Training is unsupervised without it.
--unlabeled VALUE (unlabeled_category): Value of the labels that, as a missing one, means 'unknown'.
--batch COLUMN (batch_key): Column of obs with the batch, for the decoders to account for.
--categorical-covariate COLUMN... (categorical_covariate_keys): Further column of categories to
    account for, such as the donor; may be repeated.
--continuous-covariate COLUMN... (continuous_covariate_keys): Further column of numbers to account
    for, such as pct_mito; may be repeated.
"""

MODEL = f"""
--model {"|".join(MODELS)} (model_class): Objective; MMVAEpp (MMVAE++) keeps private variation
    out of the shared latent best. Default: {MODELS[0]}.
--n-shared INTEGER: Size of the shared latent. Default: 10.
--n-private INTEGER|MODALITY=INTEGER: Size of each private latent, or of all. Default: 10.
--n-hidden INTEGER: Width of the hidden layers. Default: 128.
--n-layers INTEGER: Number of hidden layers. Default: 1.
--dropout-rate NUMBER: Dropout in the hidden layers. Default: with --screen 0.1 for counts and 0/1
    values, else 0.
--label-weight auto|NUMBER: Weight of the labels; auto is the number of features of the largest
    modality. Default: auto.
--encode-covariates: Deprecated; encoders receive batch and covariates, too.
--absent-private zero|prior|learned: Private latent of a modality that is predicted from another
    one in training; prior and learned, which are random, need --no-screen. Default: zero.
--screen/--no-screen: Restrict the shared latent to features that other modalities predict.
    Default: MMVAEpp does, the others do not.
--kl-weight-shared NUMBER: Weight of the shared latent's KL. Default: 0.1 with --screen, else 1.
--modality-weights auto|MODALITY=NUMBER: Weight of the likelihood of a modality; auto compensates
    for different numbers of features. Default: 1.
--decoder mlp|linear: The weights of linear decoders are loadings of the features. Default: mlp.
--dispersion feature|feature-batch: Noise of a feature: the same in all batches, or one for each
    batch. Default: feature.
--start-at-means/--no-start-at-means: Decoders predict the means of the features before they have
    learned anything, or start around 0. Default: --start-at-means.
"""

REPORT = """
--color COLUMN...: Column of obs that colours the embeddings in the report, a figure for each; may
    be repeated. Default: the labels.
"""

TRAINING = """
--max-epochs INTEGER: Maximum number of passes through the cells. Default: about 4,000 steps, but
    20 to 400 epochs.
--batch-size INTEGER: Cells per step. Default: 128.
--train-size NUMBER: Fraction of the cells to train on. Default: 0.9.
--early-stopping/--no-early-stopping: Stop when the loss of held-out cells no longer falls, and
    return to the best epoch. Default: --early-stopping.
--accelerator NAME: Where to train: auto, cpu, gpu or mps. Default: auto.
--lr NUMBER: Learning rate of Adam. Default: 0.001.
--paper-setting: The hyperparameters of the paper's code (arXiv 2403.06338): latents of size 2, no
    screening, no early stopping, 100 epochs. Options that are given override them.
--checkpoint FOLDER: Folder for the state of the training, from which the same command goes on if it
    is killed.
--seed INTEGER: Seed; the same one gives the same result, bit for bit on CPU. Default: 0.
"""


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  scvenn train in.h5mu --out out.h5mu
  scvenn train in.h5mu --out out.h5mu --layer rna=counts --likelihood atac=poisson
  scvenn train in.h5mu --out out.h5mu --save model --labels celltype --batch donor
  scvenn train in.h5mu --out out.h5mu --model mvae --paper-setting --json > result.json""",
    outputs=[
        Output("--out", "data and embeddings", ".h5mu", required=True),
        Output("--save", "the trained model"),
        Output("--report", "a report on the trained model", ".html"),
    ],
    sections={"Data": DATA, "Model": MODEL, "Training": TRAINING, "Report": REPORT},
)
@click.argument("path", type=H5MU, metavar="IN.h5mu")
def train(
    path: Path, data: Arguments, model: Arguments, training: Arguments, report: Arguments
) -> Result:
    """Train a model on IN.h5mu and write the embeddings of its cells to --out.

    The output holds the whole input and, in .obsm, X_shared (what the modalities agree on) and
    X_private_MODALITY (what is specific to one modality; NaN for cells that lack it). Cells are
    matched by name, and may lack modalities. The result on stdout is how well held-out cells are
    predicted: rna->atac is atac, predicted from the shared latent of rna.
    """
    ctx = click.get_current_context()
    if report and ctx.get_parameter_source("report") is ParameterSource.DEFAULT:
        raise click.UsageError("--color colours the report. Name its file: --report FILE.")
    seed = set_seed(training)
    if "checkpoint" in training:
        check_checkpoint(Path(training["checkpoint"]), ctx.obj)
    scvenn = library()
    from scvenn.data import find_column

    mdata = read_h5mu(path)
    for column in report.get("color", []):  # before training, which takes long
        find_column(mdata, column, f"color={column!r}")
    model_class = getattr(scvenn, model.pop("model_class", MODELS[0]))
    if training.pop("paper_setting", False):
        pace = {key: training[key] for key in ("max_epochs", "lr") if key in training}
        defaults = scvenn.paper_setting(model_class, **pace)
        model, training = defaults[0] | model, defaults[1] | training
    if "lr" in training:
        training["plan_kwargs"] = training.get("plan_kwargs", {}) | {"lr": training.pop("lr")}

    model_class.setup_mudata(mdata, **data)
    trained = model_class(mdata, **model)
    trained.train(**training, **progress())

    n_epochs = len(trained.history["train_loss"])
    epoch = range(n_epochs)[trained.best_epoch_]
    scores = log_likelihoods(trained.history, epoch)
    table = scores.rename(columns={"train": "training", "validation": "held out"})
    table.columns.name = "log-likelihood, nats per cell"
    text = table.to_string(float_format="{:.1f}".format, na_rep="-", col_space=12)
    return Result(
        f"{model_class.__name__}: trained {n_epochs} epochs, kept epoch {epoch} (the first is 0)"
        f"\n\n{text}",
        {
            "model": model_class.__name__,
            "data": path,
            "seed": seed,
            "epochs": n_epochs,
            "best_epoch": epoch,
            "log_likelihood": json.loads(scores.to_json(orient="index", double_precision=15)),
            "obsm": embeddings(mdata, trained),
            "versions": trained.versions_,
        },
        {
            "save": partial(trained.save, overwrite=True),
            "report": partial(trained.report, labels_key=data.get("labels_key"), **report),
            "out": writer_of(mdata),
        },
    )


def set_seed(arguments: Arguments) -> int:
    """Take the seed out of arguments, and have random numbers depend on it."""
    if not 0 <= (seed := arguments.pop("seed", 0)) < 2**32:
        raise click.BadParameter(
            f"expected a number from 0 to {2**32 - 1}, found {seed}.", param_hint="'--seed'"
        )
    library()
    import scvi

    scvi.settings.seed = seed
    return seed


def log_likelihoods(history: Any, epoch: int) -> Any:
    """Table of an epoch: a row for each prediction, a column each for training and validation."""
    import pandas as pd

    scores: dict[str, dict[str, float]] = {"train": {}, "validation": {}}
    for key, values in history.items():
        name, _, mode = key.removeprefix("log_likelihood_").rpartition("_")
        if key.startswith("log_likelihood_"):
            scores[mode][name] = float(values[key].iloc[epoch])
    return pd.DataFrame(scores, dtype=float)


def progress() -> dict[str, Any]:
    """Arguments of ``train``: a progress bar on a terminal, ten lines where stderr is a file."""
    if sys.stderr.isatty():
        return {}
    from lightning.pytorch.callbacks import LambdaCallback

    def log(trainer: Any, _: Any) -> None:
        epoch, n_epochs = trainer.current_epoch + 1, trainer.max_epochs
        if epoch % max(1, n_epochs // 10) == 0:
            loss = trainer.callback_metrics.get("validation_loss")
            suffix = "" if loss is None else f": validation_loss {float(loss):.1f}"
            click.echo(f"epoch {epoch} of at most {n_epochs}{suffix}", err=True)

    return {"enable_progress_bar": False, "callbacks": [LambdaCallback(on_train_epoch_end=log)]}
