"""The results of a model on one page, to send to a colleague."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scvenn import metrics, plotting
from scvenn._progress import progress
from scvenn.data import Cells, quoted
from scvenn.plotting import draw_embeddings, spoken, spoken_metric
from scvenn.readouts.embeddings import embed
from scvenn.readouts.interpretation import variance_explained
from scvenn.readouts.page import Figure, Note, Part, Section, Table, write_page

# Cells whose embeddings are drawn: more take minutes, and show no more.
MOST_DOTS = 5_000

# Features of a modality that are named.
_N_FEATURES = 8

_SHARED_AND_PRIVATE = (
    "The shared latent holds what the modalities of a cell have in common, so that each of them "
    "can be predicted from the others; a private latent holds what only its own modality measures."
)


def write_report(path: Path, model: Any, cells: Cells, labels: pd.Series | None) -> None:
    """Write a page about a trained model; see :meth:`scvenn.SharedPrivateModel.report`.

    Parameters
    ----------
    path
        File to write.
    model
        The model.
    cells
        All cells of the data to report on.
    labels
        Classes of the cells as text; None for none.
    """
    report = _Report(model, cells, labels)
    write_page(
        path,
        title=f"{type(model).__name__} of {_listed(model.modalities)}",
        written=f"Written by scvenn on {datetime.now():%d %B %Y at %H:%M}.",
        summary=f"{report.latents()} {_SHARED_AND_PRIVATE}",
        sections=[make() for make in progress(report.sections(), description="Report")],
    )


class _Report:
    """Sections of the page."""

    def __init__(self, model: Any, cells: Cells, labels: pd.Series | None) -> None:
        self.model, self.cells, self.labels = model, cells, labels
        self.held_out = model._held_out(cells)

    def sections(self) -> list[Callable[[], Section]]:
        """Functions that make the sections, in their order."""
        return [
            self._about_data,
            self._about_training,
            self._about_embeddings,
            self._about_variance,
            self._about_scores,
            self._about_features,
            self._about_settings,
        ]

    def latents(self) -> str:
        """Sizes of the latents, in words."""
        net = self.model.module
        private = [f"{size} of {m}" for m, size in net.n_private.items()]
        return f"{net.n_shared} shared dimensions; private: {_listed(private)}."

    def _about_data(self) -> Section:
        model, cells, found = self.model, self.cells, self.cells.found
        measured = {m: cells.observed(m) for m in model.modalities}
        lacking = int((~np.all(list(measured.values()), axis=0)).sum())
        table = pd.DataFrame(
            {
                "modality": model.modalities,
                "cells": [int(cells.sum()) for cells in measured.values()],
                "cells without it": [int((~cells).sum()) for cells in measured.values()],
                "features": [len(found.features(m)) for m in model.modalities],
                "likelihood": [found.likelihood(m) for m in model.modalities],
            }
        )
        sentences = [f"{len(cells):,} cells, {lacking:,} of which lack at least one modality."]
        if cells.mdata is model.adata and model.train_indices is not None:
            held_out = len(self.held_out)
            sentences.append(
                f"{len(model.train_indices):,} were trained on; {held_out:,} were held out, and "
                "are those that are scored below."
            )
        if covariates := found.covariates():
            sentences.append(f"Inputs of the decoders: {_listed(covariates)}.")
        if self.model.module.corrects_batches:
            sentences.append("Embeddings are corrected for the batch.")
        labels = self.labels
        if labels is not None:
            classes = sorted(set(labels.dropna()))
            known = f"known of {labels.notna().sum():,} cells"
            sentences.append(f"Labels: {labels.name} ({quoted(classes)}), {known}.")
        return Section("Data", " ".join(sentences), [Table.of(table, "What the model reads.")])

    def _about_training(self) -> Section:
        model = self.model
        n_epochs = len((model.history or {}).get("train_loss", ()))
        text = (
            "Training maximises how likely the measured values are. Curves of held-out cells "
            "(dashed) should rise and level off; where one stays at its start, that modality is "
            "not predicted."
        )
        if n_epochs:
            kept = model.best_epoch_ if model.best_epoch_ >= 0 else n_epochs - 1
            text += (
                f" The model was trained for {n_epochs:,} epochs and has the weights of epoch "
                f"{kept:,} (the first is 0)."
            )
        caption = "Log-likelihood of each modality given each of the others, and the loss."
        parts = _or_note(lambda: [Figure.of(plotting.training(self.model), caption)])
        return Section("Training", text, parts)

    def _about_embeddings(self) -> Section:
        text = (
            "Cells that are alike in a latent are near each other. Kinds of cells that all "
            "modalities can tell apart are apart in shared; private latents need not separate them."
        )
        n_cells = len(self.cells)
        drawn = np.random.default_rng(0).permutation(n_cells)[:MOST_DOTS]
        cells = self.cells.take(drawn)
        shared, private = embed(self.model.module, cells, cells.modalities, batch_corrected=True)
        latents = {"shared": shared} | {f"private {m}": z for m, z in private.items()}
        column = None if self.labels is None else self.labels.iloc[drawn]
        caption = "UMAP of each latent."
        if len(cells) < n_cells:
            caption = f"UMAP of each latent, of {len(cells):,} of the {n_cells:,} cells."
        parts = _or_note(lambda: [Figure.of(draw_embeddings(latents, column), caption)])
        return Section("Embeddings", text, parts)

    def _about_variance(self) -> Section:
        text = (
            "How much of what varies between cells the shared latent explains in each modality, "
            "and how much the private one."
        )
        caption = (
            "Fraction of the variance (1 is all of it) explained by shared alone, by private "
            "alone and by both, in cells that were not trained on."
        )

        def explained() -> list[Part]:
            cells = self.model._to_score(self.held_out, "variance_explained")
            table = variance_explained(self.model.module, cells)
            return [Figure.of(plotting.variance_explained(table), caption)]

        return Section("Variance explained", text, _or_note(explained))

    def _about_scores(self) -> Section:
        text = (
            "All scores are of cells that were not trained on. R² is 1 for a perfect prediction "
            "and 0 for one that is as good as the mean."
        )

        def evaluated() -> list[Part]:
            labels_key = None if self.labels is None else self.labels.name
            with warnings.catch_warnings(record=True) as caught:
                # the page says what is left out
                warnings.simplefilter("ignore")
                warnings.filterwarnings("always", message=r"evaluate\(labels_key=")
                table = self.model._evaluation_of(self.held_out, labels_key)
            return [*_scores(table), *(Note(str(one.message)) for one in caught)]

        return Section("Scores", text, _or_note(evaluated))

    def _about_features(self) -> Section:
        text = (
            "Shared features are those that the other modalities predict; their gain is the R² of "
            "that prediction. Private features are those of which the private latent explains what "
            "shared does not; their gain is the R² that it adds. Features are listed if their gain "
            "is clearly above 0, each in one list."
        )
        parts: list[Part] = []
        if self.model.screening_ is not None:
            caption = (
                "Screening before training: how well a regression on the other modalities "
                "predicts each feature in training cells. The shared latent learns from those "
                "that are called shared."
            )
            parts.append(Figure.of(plotting.shared_scores(self.model), caption))
        for m in self.cells.modalities:
            parts += _or_note(partial(self._top_features, m))
        # a note may hold of all modalities
        return Section("Features", text, list(dict.fromkeys(parts)))

    def _top_features(self, modality: str) -> list[Part]:
        model = self.model
        gains = model._gains(modality, self.held_out, "shared_features")
        shared, private = (
            model._ranking(modality, gains, latent, _N_FEATURES) for latent in ("shared", "private")
        )
        table = pd.DataFrame(
            {
                "shared": shared["feature"],
                "gain by shared": shared["score"],
                "private": private["feature"],
                "gain by private": private["score"],
            }
        )
        return [Table.of(table, f"Features of {modality}.")]

    def _about_settings(self) -> Section:
        model = self.model
        seed = "not set" if model.seed_ is None else model.seed_
        chosen = {
            "setup_mudata": _as_text(self.cells.found.arguments),
            # where an argument was left to its default, what that came to
            type(model).__name__: _as_text(
                {
                    name: getattr(model.module.design, name, value)
                    for name, value in model.init_params_["non_kwargs"].items()
                }
            ),
            "train": model.train_params_ or {"": "not recorded"},
        }
        tables = [
            Table.of(
                pd.DataFrame({"argument": list(values), "value": list(values.values())}),
                f"Arguments of {name}.",
            )
            for name, values in chosen.items()
        ]
        versions = {**model.versions_, "seed": str(seed)}
        frame = pd.DataFrame({"": list(versions), "version": list(versions.values())})
        tables.append(Table.of(frame, "Versions and seed."))
        return Section("Settings", "What it takes to train this model again.", tables)


def _or_note(make: Callable[[], list[Part]]) -> list[Part]:
    """Parts of a section, or why they cannot be made: messages say what to do."""
    try:
        return make()
    except ValueError as error:
        return [Note(str(error))]


def _scores(table: pd.DataFrame) -> list[Part]:
    """Figures and medians of what ``evaluate`` returned."""
    r2 = (
        "Each dot is a feature: R² of its prediction from another modality against that from its "
        "own. On the diagonal, the other modality predicts it as well."
    )
    leakage = (
        "What a linear model reads off each latent (row), as an AUC of labels or a median R². Of "
        "private latents the R² should be near 0 or below: it is what leaks."
    )
    undefined = int(table["value"].isna().sum())
    left_out = f" {undefined:,} scores of features that do not vary are left out."
    of_latents = table["view"] == "latent"
    predictions = (
        "Predictions: medians over features, and what they are by chance: if each cell were "
        "predicted from the latents of another one."
    )
    if "screened" in table:
        predictions += " Last, of the features that screening calls shared."
    latents = "What is read off latents: medians over features or dimensions, and by chance."
    return [
        *_or_note(lambda: [Figure.of(plotting.r2(table), r2)]),
        *_or_note(lambda: [Figure.of(plotting.leakage(table), leakage)]),
        Table.of(_medians(table[~of_latents]), predictions + (left_out if undefined else "")),
        Table.of(_medians(table[of_latents]), latents),
    ]


def _medians(table: pd.DataFrame) -> pd.DataFrame:
    """Medians of scores, in words."""
    found = metrics.medians(table)
    found["metric"] = found["metric"].map(spoken_metric)
    for column in ("source", "target"):
        found[column] = found[column].map(spoken)
    order = ["target", "source", "view", "metric"]
    names = {
        "median_screened": "median of shared",
        "n_screened": "n of shared",
        "by_chance": "by chance",
    }
    return found[order + [name for name in found if name not in order]].rename(columns=names)


def _as_text(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Arguments as they would be written in Python."""
    return {name: repr(value) for name, value in arguments.items()}


def _listed(names: list[str]) -> str:
    """Names as in a sentence: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
