"""The results of a model on one page, to send to a colleague."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scvenn import metrics, plotting
from scvenn._progress import progress
from scvenn.data import Cells, quoted
from scvenn.likelihoods import find_likelihood
from scvenn.plotting import (
    draw_embeddings,
    in_two_dimensions,
    names_are_no_formulas,
    spoken,
    spoken_metric,
)
from scvenn.readouts.embeddings import embed
from scvenn.readouts.interpretation import variance_explained
from scvenn.readouts.page import Figure, Note, Part, Section, Table, write_page

# Cells whose embeddings are drawn: more take minutes, and show no more.
MOST_DOTS = 5_000

# Features of a modality that are named.
_N_FEATURES = 8

_SHARED_AND_PRIVATE = (
    "A model was trained with scvenn on {modalities}, measured in the same cells. It gives each "
    "cell coordinates of two kinds. The shared latent holds what the modalities have in common, so "
    "that each of them can be predicted from the others. A private latent, one for each modality, "
    "holds what only its own modality measures."
)


def write_report(
    path: Path, model: Any, cells: Cells, labels: pd.Series | None, colours: Sequence[pd.Series]
) -> None:
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
    colours
        Columns that colour the embeddings, a figure each.
    """
    report = _Report(model, cells, labels, colours)
    modalities = _listed(model.modalities)
    write_page(
        path,
        title=f"{type(model).__name__} of {modalities}",
        written=f"Written by scvenn on {datetime.now():%d %B %Y at %H:%M}.",
        summary=_SHARED_AND_PRIVATE.format(modalities=modalities),
        sections=[make() for make in progress(report.sections(), description="Report")],
    )


class _Report:
    """Sections of the page."""

    def __init__(
        self,
        model: Any,
        cells: Cells,
        labels: pd.Series | None,
        colours: Sequence[pd.Series] = (),
    ) -> None:
        self.model, self.cells, self.labels, self.colours = model, cells, labels, colours
        self.held_out = model._held_out(cells)

    def sections(self) -> list[Callable[[], Section]]:
        """Functions that make the sections, in their order."""
        return [
            self._about_results,
            self._about_data,
            self._about_model,
            self._about_training,
            self._about_embeddings,
            self._about_variance,
            self._about_scores,
            self._about_features,
            self._about_settings,
        ]

    @cached_property
    def _scores(self) -> tuple[pd.DataFrame, list[Note]]:
        """What ``evaluate`` returns, and of what it warns."""
        labels_key = None if self.labels is None else self.labels.name
        with warnings.catch_warnings(record=True) as caught:
            # the page says what is left out
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", message=r"evaluate\(labels_key=")
            table = self.model._evaluation_of(self.held_out, labels_key)
        return table, [Note(str(one.message)) for one in caught]

    def _about_results(self) -> Section:
        text = (
            "The main results, of cells that were not trained on. “By chance” is what a result "
            "would be if each cell had the latents of another cell."
        )
        reading = [
            "R² is 1 for a perfect prediction and 0 for one that is as good as the mean of all "
            "cells. Counts of single cells are mostly noise, so that their R² is low even for a "
            "good model: compare it with what is found by chance.",
            "The R² of a private latent should be near 0, or no higher than by chance. A clearly "
            "higher one is leakage: the private latent holds what is shared.",
        ]
        if self.labels is not None:
            reading.append(
                "AUC measures how well a linear classifier separates the labels: 1 is perfect, 0.5 "
                "is chance."
            )
        parts = _or_note(lambda: [Table.of(_main_results(self._scores[0]), "Main results.")])
        return Section("In short", text, parts, reading)

    def _about_data(self) -> Section:
        model, cells, found = self.model, self.cells, self.cells.found
        measured = {m: cells.observed(m) for m in model.modalities}
        lacking = int((~np.all(list(measured.values()), axis=0)).sum())
        kinds = {m: find_likelihood(found.likelihood(m)) for m in model.modalities}
        table = pd.DataFrame(
            {
                "modality": model.modalities,
                "cells": [int(cells.sum()) for cells in measured.values()],
                "cells without it": [int((~cells).sum()) for cells in measured.values()],
                "features": [len(found.features(m)) for m in model.modalities],
                "values": [kind.summary for kind in kinds.values()],
                "likelihood": [kind.name for kind in kinds.values()],
            }
        )
        sentences = [f"{len(cells):,} cells, {lacking:,} of which lack at least one modality."]
        if cells.mdata is model.adata and model.train_indices is not None:
            held_out = len(self.held_out)
            sentences.append(
                f"{len(model.train_indices):,} were trained on; {held_out:,} were held out, and "
                "are those that are scored below."
            )
        else:
            n_trained = int(model._trained(cells.names).sum())
            sentences.append(f"{n_trained:,} of them were trained on.")
        if self.labels is not None:
            known, classes = self.labels.notna().sum(), sorted(set(self.labels.dropna()))
            sentences.append(
                f"Labels: {self.labels.name}, known of {known:,} cells; classes: {quoted(classes)}."
            )
        return Section("Data", " ".join(sentences), [Table.of(table, "What the model reads.")])

    def _about_model(self) -> Section:
        model, net, found = self.model, self.model.module, self.cells.found
        private = [f"{size} of {m}" for m, size in net.n_private.items()]
        about = {
            "class": type(model).__name__,
            "trained on": f"{len(model.trained_cells_):,} cells",
            "dimensions of shared": str(net.n_shared),
            "dimensions of private": _listed(private),
        }
        if model.screening_ is not None:
            shared = [
                f"{of.shared.sum():,} of {len(of.shared):,} of {m}"
                for m, of in model.screening_.items()
            ]
            about["features that screening calls shared"] = _listed(shared)
        if covariates := found.covariates():
            about["decoders account for"] = _listed(covariates)
        if net.corrects_batches:
            about["embeddings"] = "corrected for the batch"
        column = found.arguments["labels_key"]
        about["labels in training"] = "none" if column is None else str(column)
        about["seed"] = "not set" if model.seed_ is None else str(model.seed_)
        about["scvenn"] = model.versions_.get("scvenn", "not recorded")
        table = pd.DataFrame({"": list(about), "value": list(about.values())})
        text = "What was trained. All settings are at the end of the page."
        return Section("Model", text, [Table.of(table, "The model.")])

    def _about_training(self) -> Section:
        model = self.model
        n_epochs = len((model.history or {}).get("train_loss", ()))
        text = "Training maximises how likely the measured values are under the model."
        if n_epochs:
            kept = model.best_epoch_ if model.best_epoch_ >= 0 else n_epochs - 1
            text += (
                f" The model was trained for {n_epochs:,} epochs and has the weights of epoch "
                f"{kept:,} (the first is 0)."
            )
        reading = [
            "Each panel but the last is a modality that is predicted, and a colour is the modality "
            "that it is predicted from. Higher is better; in the loss, lower is.",
            "Curves of held-out cells (dashed) should rise and level off. Where one stays at its "
            "start, that modality is not predicted. Where it falls while the solid one rises, the "
            "model fits its training cells better than new ones. The dotted line is the epoch "
            "whose weights are used.",
        ]
        caption = (
            "Log-likelihood of each modality given each of the others, and the loss, by epoch."
        )
        parts = _or_note(lambda: [Figure.of(plotting.training(self.model), caption)])
        return Section("Training", text, parts, reading)

    def _about_embeddings(self) -> Section:
        text = "Each latent, drawn in two dimensions by UMAP. Each dot is a cell."
        reading = [
            "Cells that are alike in a latent are near each other. Axes have no unit, and "
            "distances between groups that are far apart mean little.",
            "Groups that are apart in shared are told apart by what the modalities have in common. "
            "Groups that are apart in a private latent differ in what only this modality measures. "
            "A private latent without groups is no fault.",
        ]
        if (labels := self.cells.found.arguments["labels_key"]) is not None:
            reading.append(
                f"The shared latent was trained to separate {labels}. That it does so in training "
                "cells is no result; in held-out cells, it is one (the AUC at the top of the page)."
            )
        n_cells = len(self.cells)
        drawn = np.random.default_rng(0).permutation(n_cells)[:MOST_DOTS]
        cells = self.cells.take(drawn)
        shown = f" of {len(cells):,} of the {n_cells:,} cells" if len(cells) < n_cells else ""

        def figures() -> list[Part]:
            shared, private = embed(
                self.model.module, cells, cells.modalities, batch_corrected=True
            )
            latents = {"shared": shared} | {f"private {m}": z for m, z in private.items()}
            places = in_two_dimensions(latents)
            with names_are_no_formulas():
                if not self.colours:
                    panels = draw_embeddings(places, None)
                    return [Figure.of(panels, f"UMAP of each latent{shown}.")]
                return [
                    Figure.of(
                        draw_embeddings(places, column.iloc[cells.rows]),
                        f"UMAP of each latent{shown}, coloured by {column.name}.",
                    )
                    for column in self.colours
                ]

        return Section("Embeddings", text, _or_note(figures), reading)

    def _about_variance(self) -> Section:
        text = (
            "How much of what varies between cells the shared latent explains in each modality, "
            "and how much the private one."
        )
        reading = [
            "1 is all of the variance, 0 none. Below 0, a prediction is worse than the mean of "
            "all cells. Where both are below shared alone, private adds nothing that holds in new "
            "cells.",
            "Overlap is what either of the two latents could explain: shared and private together, "
            "less both.",
        ]
        caption = (
            "Fraction of the variance explained by shared alone, by private alone and by both, in "
            "cells that were not trained on."
        )

        def explained() -> list[Part]:
            cells = self.model._to_score(self.held_out, "variance_explained")
            table = variance_explained(self.model.module, cells)
            return [
                Figure.of(plotting.variance_explained(table), caption),
                Table.of(_by_latent(table), "The same in numbers."),
            ]

        return Section("Variance explained", text, _or_note(explained), reading)

    def _about_scores(self) -> Section:
        text = (
            "All scores are of cells that were not trained on: how well modalities are predicted, "
            "and what each latent holds."
        )
        reading = [
            "A cross-view prediction of a modality is through the shared latent of another one; "
            "same-view is from the modality itself, joint from all.",
            "Most features of a modality may share nothing with the others. The median over all of "
            "them is then near 0 for any model. Look at the median over features that screening "
            "calls shared.",
            "Compare a score with the one by chance, which is often below 0. n is the number of "
            "features, or of dimensions of a latent, that a median is of.",
        ]

        def evaluated() -> list[Part]:
            table, notes = self._scores
            return [*_figures_and_medians(table), *notes]

        return Section("Scores", text, _or_note(evaluated), reading)

    def _about_features(self) -> Section:
        text = (
            "Shared features are those that the other modalities predict; their gain is the R² of "
            "that prediction. Private features are those of which the private latent explains what "
            "shared does not; their gain is the R² that it adds. Features are listed if their gain "
            "is clearly above 0, each in one list."
        )
        reading = [
            "A gain of 0.1 is a tenth of the variance of a feature in cells that were not trained "
            "on. Gains are shrunk towards 0, most where they are least certain.",
            "With few held-out cells or sparse counts, lists are short: a feature that is not "
            "listed may be shared or private all the same.",
        ]
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
        return Section("Features", text, list(dict.fromkeys(parts)), reading)

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
        none = "" if len(table) else ": the gain of none is clearly above 0"
        return [Table.of(table, f"Features of {modality}{none}.")]

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
            # of an object, its class: an address in memory says nothing
            "train": {
                name: re.sub(r"<(?:\w+\.)*(\w+) object at \w+>", r"\1", value)
                for name, value in (model.train_params_ or {"": "not recorded"}).items()
            },
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


def _main_results(table: pd.DataFrame) -> pd.DataFrame:
    """Some medians of what ``evaluate`` returned: predictions, labels, and the largest leak."""
    cross = table[(table["metric"] == "r2") & (table["view"] == "cross")]
    kind = ""
    if "screened" in table and cross["screened"].fillna(False).any():
        cross, kind = cross[cross["screened"].fillna(False)], "shared "
    rows = [
        (
            f"{row.target} predicted from {row.source}, median R² of its {row.n:,} {kind}features",
            row.median,
            row.by_chance,
        )
        for row in metrics.medians(cross).itertuples()
    ]
    found = metrics.medians(table)
    rows += [
        (f"{row.target} predicted from {spoken(row.source)}, AUC", row.median, row.by_chance)
        for row in found[found["metric"] == "auc"].itertuples()
    ]
    leaks = found[(found["metric"] == "leakage_r2") & (found["source"] != "shared")]
    leaks = leaks.sort_values("median", ascending=False)
    rows += [
        (
            f"largest leakage: {spoken(row.target)} predicted from {spoken(row.source)}, median R²",
            row.median,
            row.by_chance,
        )
        for row in leaks.head(1).itertuples()
    ]
    return pd.DataFrame(rows, columns=["result", "value", "by chance"])


def _by_latent(explained: pd.DataFrame) -> pd.DataFrame:
    """Variance that each latent explains, a row for each modality."""
    latents = ["shared", "private", "both", "overlap"]
    wide = explained.pivot_table("r2", "modality", "latent", sort=False)[latents]
    return wide.reset_index().rename_axis(columns=None)


def _figures_and_medians(table: pd.DataFrame) -> list[Part]:
    """Figures and medians of what ``evaluate`` returned."""
    r2 = (
        "Each dot is a feature: R² of its prediction from another modality against that from its "
        "own. On the diagonal, the other modality predicts it as well. Values below −0.5 are drawn "
        "there."
    )
    leakage = (
        "What a linear model predicts from each latent (row), as an AUC of labels or a median R². "
        "Of private latents the R² should be near 0 or below: it is what leaks."
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
    latents = "What is predicted from latents: medians over features or dimensions, and by chance."
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
        "by_chance_screened": "of shared, by chance",
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
