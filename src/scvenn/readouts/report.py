"""All that a model tells on one page, to send to a colleague."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mudata import MuData
from tqdm.auto import tqdm

from scvenn import plotting
from scvenn.data import Keys, observed_cells, quoted
from scvenn.plotting.drawing import distinct
from scvenn.plotting.embeddings import draw_embeddings
from scvenn.plotting.page import Figure, Note, Part, Section, Table, write_page
from scvenn.plotting.tables import spoken, spoken_metric
from scvenn.readouts.evaluation import EvaluationMixin
from scvenn.readouts.interpretation import InterpretationMixin
from scvenn.readouts.shared_features import SharedFeaturesMixin

# Cells whose embeddings are drawn: more take minutes, and show no more.
MOST_DOTS = 5_000

# Features of a modality that are named.
_N_FEATURES = 8

_SHARED_AND_PRIVATE = (
    "The shared latent holds what the modalities of a cell have in common, so that each of them "
    "can be predicted from the others; a private latent holds what only its own modality knows."
)


class ReportMixin(EvaluationMixin, InterpretationMixin, SharedFeaturesMixin):
    """Report on :class:`~scvenn.SharedPrivateModel`."""

    registry_: Any
    init_params_: dict[str, dict[str, Any]]
    train_params_: dict[str, str] | None = None
    seed_: int | None
    versions_: dict[str, str]

    def report(
        self,
        path: str | os.PathLike,
        *,
        mdata: MuData | None = None,
        labels_key: str | None = None,
    ) -> Path:
        """Write all of it on one page: data, training, embeddings, scores, features, settings.

        One HTML file, pictures and all, that loads nothing when it is opened: a colleague needs
        no more than a browser. What cannot be shown is replaced by a note that says why, and how
        to get it. Nothing is written to the data.

        Parameters
        ----------
        path
            File to write, such as ``"report.html"``. One that is there is replaced once the new
            one is complete.
        mdata
            Data to report on; None for the training data, of which the cells that were held out
            by :meth:`train` are scored.
        labels_key
            Column of ``obs`` with classes that colour the embeddings and are looked for in them.
            None: of the training data, the labels that the model was trained with, if any.

        Returns
        -------
        The path of the file.

        Raises
        ------
        ValueError
            If there is no data or it cannot be matched to the training data, or there is no such
            column.
        IsADirectoryError
            If the path is that of a folder.

        Examples
        --------
        >>> import scvenn
        >>> model = scvenn.MMVAEpp(scvenn.datasets.simulate_counts(n_obs=200, n_features=20))
        >>> model.train(1, train_size=0.5, enable_progress_bar=False)
        >>> model.report("report.html", labels_key="cell_type").name  # doctest: +SKIP
        'report.html'
        """
        file = Path(path)
        if file.is_dir():
            raise IsADirectoryError(
                f"{file} is a folder. Name a file in it, such as {str(file / 'report.html')!r}."
            )
        data = self._given(mdata)
        self.get_anndata_manager(data)  # type: ignore[attr-defined]  # can it be read at all?
        if labels_key is None and data is self.adata:
            labels_key = self._state(Keys.LABELS)[Keys.SOURCE]
        labels = None
        if labels_key is not None:
            labels = self._labels_of(data, labels_key)

        makers: list[Callable[[], Section]] = [
            lambda: self._about_data(data, labels),
            lambda: self._about_training(),
            lambda: self._about_embeddings(data, labels),
            lambda: self._about_variance(data),
            lambda: self._about_scores(data, labels_key),
            lambda: self._about_features(data),
            lambda: self._about_settings(),
        ]
        write_page(
            file,
            title=f"{type(self).__name__} of {_listed(self.modalities)}",
            written=f"Written by scvenn on {datetime.now():%d %B %Y at %H:%M}.",
            summary=f"{self._latents_in_words()} {_SHARED_AND_PRIVATE}",
            sections=[make() for make in tqdm(makers, desc="Report", leave=False, delay=2)],
        )
        return file

    # ----------------------------------------------------------------- sections

    def _about_data(self, mdata: MuData, labels: pd.Series | None) -> Section:
        measured = {m: observed_cells(mdata, m) for m in self.modalities}
        lacking = int((~np.all(list(measured.values()), axis=0)).sum())
        table = pd.DataFrame(
            {
                "modality": self.modalities,
                "cells": [int(cells.sum()) for cells in measured.values()],
                "cells without it": [int((~cells).sum()) for cells in measured.values()],
                "features": [len(self._feature_names(m)) for m in self.modalities],
                "likelihood": [self.module.likelihood(m).name for m in self.modalities],
            }
        )
        sentences = [f"{mdata.n_obs:,} cells, {lacking:,} of which lack at least one modality."]
        if mdata is self.adata and self.train_indices is not None:
            held_out = len(self._held_out(mdata, None))
            sentences.append(
                f"{len(self.train_indices):,} were trained on; {held_out:,} were held out, and are "
                "those that are scored below."
            )
        if covariates := self._covariates_in_words():
            sentences.append(f"The decoders see {_listed(covariates)}.")
        if labels is not None:
            classes = sorted(set(labels.dropna()))
            known = f"known of {labels.notna().sum():,} cells"
            sentences.append(f"Labels: {labels.name} ({quoted(classes)}), {known}.")
        return Section("Data", " ".join(sentences), [Table.of(table, "What the model reads.")])

    def _about_training(self) -> Section:
        text = (
            "Training maximises how likely the measured values are. What stays where it began in "
            "cells that were held out is not predicted by the other modality."
        )
        caption = "Log-likelihood of each modality given each of the others, and the loss."
        parts = _or_note(lambda: [Figure.of(plotting.training(self), caption)])
        return Section("Training", text, parts)

    def _about_embeddings(self, mdata: MuData, labels: pd.Series | None) -> Section:
        text = (
            "Cells that are alike in a latent are near each other. Kinds of cells that all "
            "modalities can tell apart are apart in shared; private latents need not know them."
        )
        cells = np.random.default_rng(0).permutation(mdata.n_obs)[:MOST_DOTS]
        present = [m for m in self.modalities if m in mdata.mod]
        shared, private = self._embed(mdata, present, cells, None, "Embeddings")
        latents = {"shared": shared} | {f"private {m}": z for m, z in private.items()}
        column = None if labels is None else labels.iloc[cells]
        caption = "UMAP of each latent."
        if len(cells) < mdata.n_obs:
            caption = f"UMAP of each latent, of {len(cells):,} of the {mdata.n_obs:,} cells."
        parts = _or_note(lambda: [Figure.of(draw_embeddings(latents, column), caption)])
        return Section("Embeddings", text, parts)

    def _about_variance(self, mdata: MuData) -> Section:
        text = (
            "How much of what varies between cells the shared latent explains in each modality, "
            "and how much the private one."
        )
        caption = (
            "Fraction of the variance (1 is all of it) explained by shared alone, by private "
            "alone and by both, in cells that were not trained on."
        )
        parts = _or_note(
            lambda: [
                Figure.of(plotting.variance_explained(self.variance_explained(mdata)), caption)
            ]
        )
        return Section("Variance explained", text, parts)

    def _about_scores(self, mdata: MuData, labels_key: str | None) -> Section:
        text = (
            "All scores are of cells that were not trained on. R² is 1 for a perfect prediction "
            "and 0 for one that is as good as the mean."
        )

        def evaluated() -> list[Part]:
            with warnings.catch_warnings():
                # the page says so
                warnings.filterwarnings("ignore", message=r"evaluate\(\): some scores are NaN")
                return _scores(self.evaluate(mdata, labels_key=labels_key))

        return Section("Scores", text, _or_note(evaluated))

    def _about_features(self, mdata: MuData) -> Section:
        text = (
            "Shared features are those that the other modalities predict best; private ones those "
            "that the modality itself predicts so much better than the others do."
        )
        parts: list[Part] = []
        if self.screening_ is not None:
            caption = (
                "Screening before training: how well a regression on the other modalities "
                "predicts each feature in training cells. The shared latent learns from those "
                "that are called shared."
            )
            parts.append(Figure.of(plotting.shared_scores(self), caption))
        for m in self.modalities:
            if m in mdata.mod:
                parts += _or_note(partial(self._top_features, m, mdata))
        return Section("Features", text, distinct(parts))  # a note may hold of all modalities

    def _top_features(self, modality: str, mdata: MuData) -> list[Part]:
        shared = self.shared_features(modality, n=_N_FEATURES, mdata=mdata)
        private = self.private_features(modality, n=_N_FEATURES, mdata=mdata)
        table = pd.DataFrame(
            {
                "most shared": shared["feature"],
                "R² from others": shared["score"],
                "most private": private["feature"],
                "R² from itself − from others": private["score"],
            }
        )
        return [Table.of(table, f"Features of {modality}.")]

    def _about_settings(self) -> Section:
        seed = "not set" if self.seed_ is None else self.seed_
        chosen = {
            "setup_mudata": _as_text(self.registry_["setup_args"]),
            type(self).__name__: _as_text(self.init_params_["non_kwargs"]),
            "train": self.train_params_ or {"": "not recorded"},
        }
        tables = [
            Table.of(
                pd.DataFrame({"argument": list(values), "value": list(values.values())}),
                f"Arguments of {name}.",
            )
            for name, values in chosen.items()
        ]
        versions = {**self.versions_, "seed": str(seed)}
        frame = pd.DataFrame({"": list(versions), "version": list(versions.values())})
        tables.append(Table.of(frame, "Versions and seed."))
        return Section("Settings", "What it takes to train this model again.", tables)

    # ----------------------------------------------------------------- helpers

    def _state(self, key: str) -> dict:
        """What a field of the set-up remembers."""
        return self.registry_["field_registries"][key]["state_registry"]

    def _latents_in_words(self) -> str:
        private = [f"{size} of {m}" for m, size in self.module.n_private.items()]
        return f"{self.module.n_shared} shared dimensions; private: {_listed(private)}."

    def _covariates_in_words(self) -> list[str]:
        """Columns that decoders see, with their categories."""
        states = {key: self._state(key) for key in self.registry_["field_registries"]}
        return [
            *(
                f"{state[Keys.SOURCE]} ({quoted(state[Keys.CATEGORIES])})"
                for key, state in states.items()
                if key != Keys.LABELS and state.get(Keys.SOURCE) is not None
            ),
            *(self.registry_["setup_args"]["continuous_covariate_keys"] or []),
        ]


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
        "own. On the diagonal, the other modality knows as much."
    )
    leakage = (
        "What a linear model reads off each latent (row), as an AUC of labels or a mean R². Of "
        "private latents the R² should be near 0: it is what leaks."
    )
    undefined = int(table["value"].isna().sum())
    left_out = f" {undefined:,} scores of features that do not vary are left out."
    of_latents = table["view"] == "latent"
    return [
        *_or_note(lambda: [Figure.of(plotting.r2(table), r2)]),
        *_or_note(lambda: [Figure.of(plotting.leakage(table), leakage)]),
        Table.of(
            _medians(table[~of_latents], ["target", "view", "source"]),
            "Predictions: medians over features." + (left_out if undefined else ""),
        ),
        Table.of(
            _medians(table[of_latents], ["source", "target"]),
            "What is read off latents: medians over features or dimensions.",
        ),
    ]


def _medians(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """A row for each view, source and target in the table's order, a column for each metric."""
    named = table.assign(source=table["source"].map(spoken), target=table["target"].map(spoken))
    wide = named.pivot_table("value", by, "metric", aggfunc="median", sort=False)
    rows = named[by].drop_duplicates()
    return rows.merge(wide.rename(columns=spoken_metric), "left", left_on=by, right_index=True)


def _as_text(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Arguments as they would be written in Python."""
    return {name: repr(value) for name, value in arguments.items()}


def _listed(names: list[str]) -> str:
    """Names as in a sentence: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
