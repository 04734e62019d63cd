"""How well a trained model separates what is shared from what is private, in one table."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import permutations, product
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from mudata import MuData

from scvenn import metrics
from scvenn.data import Keys, observed_cells, quoted
from scvenn.metrics.features import UNDEFINED
from scvenn.readouts.predictions import ReadoutsMixin

# Values (cells times features) that are held dense at a time.
_BLOCK = 20_000_000

Parts = tuple[tuple[MuData, np.ndarray], ...]  # data, and positions of cells in it


class EvaluationMixin(ReadoutsMixin):
    """Evaluation of :class:`~scvenn.SharedPrivateModel`, on top of its read-outs."""

    def evaluate(
        self,
        mdata: MuData | None = None,
        *,
        indices: Sequence[int] | np.ndarray | None = None,
        labels_key: str | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Score predictions and embeddings on cells that were not trained on.

        Every probe and regression is fitted on the model's training cells and scored on the cells
        asked for. The rows of the table:

        ===================== ======== ====================================================
        ``metric``            ``view`` ``value``
        ===================== ======== ====================================================
        r2, pearson           cross    of each feature of ``target``, predicted from another
                                       modality, ``source``, through the shared latent
        r2, pearson           same     predicted from the modality itself
        r2, pearson           joint    predicted from ``all`` modalities
        auroc                 any      the same, for modalities of 0 and 1
        leakage_r2            latent   of each dimension of the shared or a private latent, or
                                       each feature of *another* modality, read off a latent
                                       by ridge regression; of a private latent it should be
                                       near 0
        auc,                  latent   of a linear probe for the labels, from each latent
        balanced_accuracy
        recovery_linear_r2,   latent   of a planted latent (``mdata.obsm["z_shared"]``,
        recovery_knn_r2                ``["z_private_<modality>"]``), read off a learned one
        ===================== ======== ====================================================

        Parameters
        ----------
        mdata
            Data to score; None for the training data.
        indices
            Positions or mask in ``mdata.obs_names``; None for the cells held out by
            :meth:`train` (test cells if there are, else validation cells), or all cells of new
            data.
        labels_key
            Column of ``obs`` with labels that the embeddings are probed for; None for no probe.
            Cells whose label is missing or, in the column that the model was set up with, its
            ``unlabeled_category`` are left out.
        batch_size
            Cells per forward pass.

        Returns
        -------
        A tidy table with the columns ``metric``, ``view``, ``source``, ``target``, ``feature``
        (None where the value concerns no single one) and ``value``. Sources and targets are
        modalities, latents (``shared``, ``private_<modality>``), planted latents or the labels.
        Values that are not defined are NaN, and a warning says why.

        Raises
        ------
        ValueError
            If the model was loaded without data or trained on all cells and no others are given,
            if cells to score were trained on, or the labels cannot be scored.

        Examples
        --------
        >>> import scvenn
        >>> model = scvenn.MMVAEpp(scvenn.datasets.simulate_counts(n_obs=200, n_features=20))
        >>> model.train(1, train_size=0.5, enable_progress_bar=False)
        >>> table = model.evaluate(labels_key="cell_type")
        >>> list(table.columns)
        ['metric', 'view', 'source', 'target', 'feature', 'value']

        Notes
        -----
        Source: Märtens & Yau (MLCB 2023), section 4, for R² and AUC. See :mod:`scvenn.metrics` for
        the definitions.
        """
        mdata = self._given(mdata)
        if self.adata is None:
            raise ValueError(
                "evaluate() fits probes on the training cells, and this model was loaded without "
                "data. Load it with load(dir_path, mdata)."
            )
        if self.train_indices is None:
            raise ValueError(
                "evaluate() fits probes on the training cells, of which this model knows none: it "
                "was not trained yet, or was loaded with other cells. Load it with the data it was "
                "trained on, its cells in the same order."
            )
        train = np.asarray(self.train_indices)
        test = self._cells_to_score(mdata, indices, "evaluate")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=UNDEFINED)  # said once, below
            rows = [
                *self._score_predictions(mdata, test, batch_size),
                *self._score_latents(mdata, train, test, labels_key, batch_size),
            ]
        table = pd.DataFrame(rows, columns=metrics.EVALUATION_COLUMNS)
        undefined = table[table["value"].isna()].groupby("target", sort=False)["feature"]
        if len(undefined):
            named = "; ".join(f"{m!r}: {quoted(names)}" for m, names in undefined.unique().items())
            warnings.warn(
                f"evaluate(): some scores are NaN, of features that are constant over the "
                f"{len(test)} scored cells or seen in fewer than two of them: {named}.",
                UserWarning,
                stacklevel=2,
            )
        return table

    # ----------------------------------------------------------------- predictions

    def _score_predictions(
        self, mdata: MuData, cells: np.ndarray, batch_size: int | None
    ) -> Iterator[tuple]:
        """Per-feature scores of every source and target that the data has."""
        present = [m for m in self.modalities if m in mdata.mod]
        for target in present:
            scored = {"r2": metrics.r2, "pearson": metrics.pearson}
            if self.module.likelihood(target).binary:
                scored["auroc"] = metrics.auroc
            choices: list[tuple[str, str, str | list[str]]] = [
                *(("cross", m, m) for m in present if m != target),
                ("same", target, target),
                ("joint", "all", present),
            ]
            for features, truth in self._blocks(((mdata, cells),), target):
                for view, label, source in choices:
                    predicted = self.predict(
                        source,
                        target,
                        mdata,
                        features=features,
                        indices=cells,
                        batch_size=batch_size,
                        return_numpy=True,
                    )
                    for name, score in scored.items():
                        for feature, value in zip(features, score(truth, predicted), strict=True):
                            yield name, view, label, target, feature, value

    def _blocks(
        self, parts: Parts, modality: str, *, linear: bool = False
    ) -> Iterator[tuple[list[str], np.ndarray]]:
        """Names and dense values (cells of all parts, features) of some features at a time.

        NaN where not observed; ``linear`` gives values on which linear methods make sense.
        """
        names = list(self._feature_names(modality))
        likelihood = self.module.likelihood(modality)
        matrices, measured = [], []
        for data, cells in parts:
            manager = self.get_anndata_manager(data)  # type: ignore[attr-defined]
            matrices.append(manager.get_from_registry(Keys.x(modality))[cells])
            measured.append(observed_cells(data, modality)[cells])
        observed = np.concatenate(measured)
        library = np.vstack([np.asarray(x.sum(1)).reshape(-1, 1) for x in matrices])
        width = max(1, _BLOCK // len(observed))
        if width < len(names):  # many slices of columns
            matrices = [x.tocsc() if sp.issparse(x) else x for x in matrices]
        for start in range(0, len(names), width):
            block = [x[:, start : start + width] for x in matrices]
            dense = np.vstack([x.toarray() if sp.issparse(x) else x for x in block])
            dense = np.where(observed[:, None], dense.astype(np.float32), np.nan)
            if linear:
                dense = likelihood.regression_scale(dense, library)
            yield names[start : start + width], dense

    # ----------------------------------------------------------------- latents

    def _score_latents(
        self,
        mdata: MuData,
        train: np.ndarray,
        test: np.ndarray,
        labels_key: str | None,
        batch_size: int | None,
    ) -> Iterator[tuple]:
        """Scores of embeddings. Arrays hold the training cells first, then those to score."""
        parts: Parts = ((self.adata, train), (mdata, test))
        latents = self._latents(parts, batch_size)
        fitted, scored = np.arange(len(train)), len(train) + np.arange(len(test))
        split: dict[str, Any] = {"train": fitted, "test": scored}

        for source, target in permutations(latents, 2):
            if "shared" in (source, target):
                values = metrics.ridge_r2(latents[source], latents[target], **split)
                for k, value in enumerate(values):
                    yield "leakage_r2", "latent", source, target, f"{target}_{k}", value
        for source, m in product(latents, self.modalities):
            if m in mdata.mod and source not in ("shared", f"private_{m}"):
                for features, values in self._blocks(parts, m, linear=True):
                    scores = metrics.ridge_r2(latents[source], values, **split)
                    for feature, value in zip(features, scores, strict=True):
                        yield "leakage_r2", "latent", source, m, feature, value
        if labels_key is not None:
            labels = pd.concat(
                [self._labels_of(data, labels_key).iloc[cells] for data, cells in parts]
            )
            for source, latent in latents.items():
                for metric, value in metrics.probe_scores(latent, labels, **split).items():
                    yield metric, "latent", source, labels_key, None, value
        planted = ["z_shared", *(f"z_private_{m}" for m in self.modalities)]
        for target in planted:
            if all(target in data.obsm for data, _ in parts):
                truth = np.vstack([np.asarray(data.obsm[target])[cells] for data, cells in parts])
                for source, latent in latents.items():
                    for form, value in metrics.recovery_r2(latent, truth, **split).items():
                        yield f"recovery_{form}_r2", "latent", source, target, None, value

    def _latents(self, parts: Parts, batch_size: int | None) -> dict[str, np.ndarray]:
        """Embeddings by name, for the modalities that all of the data has."""
        sources = [m for m in self.modalities if all(m in data.mod for data, _ in parts)]
        embedded = [
            self._embed(data, sources, cells, batch_size, "Embeddings") for data, cells in parts
        ]
        latents = {"shared": np.vstack([shared for shared, _ in embedded])}
        for m in sources:
            latents[f"private_{m}"] = np.vstack([private[m] for _, private in embedded])
        return latents
