"""Which features are shared: what a model that screens asks before training, and tells after."""

from __future__ import annotations

import logging
import warnings
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import scvi
import torch

from scvenn.data.checks import some
from scvenn.data.keys import Keys
from scvenn.data.registration import AlignedManager
from scvenn.readouts.predictions import ReadoutsMixin, _numpy
from scvenn.screening import (
    DiscreteValues,
    ExtremeValueError,
    RealValues,
    Screening,
    Values,
    as_csr,
    reliability_weights,
    screen,
    weak_effects,
    whitening,
)

logger = logging.getLogger("scvi.scvenn")

# Cells that are screened.
MOST_CELLS = 10_000


class SharedFeaturesMixin(ReadoutsMixin):
    """Screening of :class:`~scvenn.SharedPrivateModel`."""

    adata_manager: AlignedManager
    validation_indices: Any
    screening_: dict[str, Screening] | None = None

    def get_shared_scores(self) -> pd.DataFrame:
        """How well the other modalities predict each feature, and whether that is no accident.

        The score is the leave-one-out R² of a ridge regression on all features of the other
        modalities and, if they are real-valued, their squares, in training cells; counts are on the
        scale of logarithms. A feature is called *shared* if its score is above what shuffled cells
        reach, at a false discovery rate of 5 %: the shared latent learns to predict it. It is
        called *related* if that holds of itself or its square, or if the labels of a supervised
        model predict it: the shared latent is read off it.

        Returns
        -------
        A tidy table with the columns ``modality``, ``feature``, ``score``, ``shared`` and
        ``related``.

        Raises
        ------
        ValueError
            If the model was not trained with ``screen=True``.

        Examples
        --------
        >>> import scvenn
        >>> mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20)
        >>> model = scvenn.MMVAEpp(mdata, screen=True)
        >>> model.train(1, enable_progress_bar=False)
        >>> table = model.get_shared_scores()
        >>> list(table.columns)
        ['modality', 'feature', 'score', 'shared', 'related']
        """
        if self.screening_ is None:
            raise ValueError(
                "get_shared_scores() tells what was found before training by a model with "
                "screen=True, which this one is not or was not trained yet."
            )
        tables = [
            pd.DataFrame({"modality": m, "feature": self._feature_names(m), **found._asdict()})
            for m, found in self.screening_.items()
        ]
        return pd.concat(tables, ignore_index=True)

    @property
    def expert_weights(self) -> dict[str, float]:
        """What each modality counts in the shared latent of a cell that has all of them.

        A model that screens learns it at the end of training from where the modalities' readings
        of the validation cells disagree; for other models, without such cells, and before, all
        count alike. They are not used by models that multiply posteriors (MVAE, MoPoE-VAE), in
        which each cell has weights of its own.
        """
        weights = self.module.expert_weights.tolist()
        return dict(zip(self.modalities, weights, strict=True))

    def _screen(self, train: np.ndarray) -> None:
        """Screen the features in training cells, and restrict networks to those that are shared.

        Once only: a model that is trained further keeps to the features it has learned.

        Parameters
        ----------
        train
            Positions of the training cells; no other cell is read.
        """
        if self.screening_ is not None:
            return
        rng = np.random.default_rng(scvi.settings.seed)
        screening = {}
        for m in self.modalities:
            others, paired = self._others(m, np.sort(train))
            cells = rng.permutation(paired)[:MOST_CELLS]
            values = self._linear(m, cells)
            covariates = self._covariates(cells)
            sources = [self._linear(o, cells) for o in others]
            try:
                found = screen(values, sources, rng, covariates=covariates)
                if self.module.n_classes:  # the label head reads `shared`, too
                    labels = screen(values, [self._labels(cells)], rng, covariates=covariates)
                    found = found._replace(related=found.related | labels.related)
            except ValueError as error:  # LinAlgError is one
                raise ValueError(
                    f"Screening of modality {m!r} by {some(others)} failed in {len(cells)} "
                    f"training cells: {error} Look for constant features and extreme values in "
                    "these modalities and in continuous covariates, or train with screen=False."
                ) from error
            screening[m] = found
            self.module.restrict(m, reads=found.related, predicts=found.shared)
            n_shared, n_features = found.shared.sum(), len(found.shared)
            logger.info(
                "%s: %d of %d features are predicted by %s", m, n_shared, n_features, some(others)
            )
            if not found.related.any():
                warnings.warn(
                    f"No feature of modality {m!r} is predicted by {some(others)} better than by "
                    f"chance in {len(cells)} training cells that have both: the shared latent "
                    "will not learn to predict it. Are the cells matched by the right names? With "
                    "screen=False every feature counts.",
                    UserWarning,
                    stacklevel=2,
                )
        self.screening_ = screening

    def _weigh_experts(self) -> None:
        """Learn from validation cells what each modality's reading of ``shared`` is worth."""
        if self.module.objective.pools_experts:
            return
        cells = np.asarray(self.validation_indices, dtype=int)
        readings = [
            self._embed(self.adata, [m], cells, None, "Embeddings")[0] for m in self.modalities
        ]  # (N, K) each
        self.module.expert_weights.copy_(torch.as_tensor(reliability_weights(np.stack(readings))))

    def _learn_faint(self, screening: dict[str, Screening]) -> None:
        """Learn from training cells what ``shared`` tells of features that are not called shared.

        After training, when ``shared`` no longer changes: it is read off the other modalities, as
        for a cross-view prediction.
        """
        for i, (m, found) in enumerate(screening.items()):
            others, cells = self._others(m, np.asarray(self.train_indices))
            candidates = ~np.tile(found.shared, self.module.likelihood(m).n_outputs)
            if not len(cells) or not candidates.any():
                continue
            shared, _ = self._embed(self.adata, others, cells, None, "Embeddings")
            centre = shared.mean(0)
            map_ = whitening(shared - centre)
            directions = (shared - centre) @ map_
            loader = self._minibatches(self.adata, {m}, cells, None, "Faint relations")
            gradients = (
                (directions[part], _numpy(self.module.score(t, m, torch.as_tensor(shared[part]))))
                for part, t in loader
            )
            slopes = weak_effects(gradients, candidates)
            self.module.cross_decoders[i].remember(centre, map_ @ slopes)

    def _others(self, modality: str, cells: np.ndarray) -> tuple[list[str], np.ndarray]:
        """The other modalities, and those of the cells that have the modality and any of them."""
        observed = self.adata_manager.get_from_registry(Keys.OBSERVED)[cells]  # (cells, M)
        i = self.modalities.index(modality)
        paired = observed[:, i] & np.delete(observed, i, axis=1).any(1)
        return [m for m in self.modalities if m != modality], cells[paired]

    def _covariates(self, cells: np.ndarray) -> np.ndarray:
        """What the decoders see of some cells besides latents, (cells, V)."""
        keys = [Keys.OBSERVED, *self.module.n_categories, *self.module.continuous]
        values = {key: self.adata_manager.get_from_registry(key)[cells] for key in keys}
        tensors = {key: torch.as_tensor(value) for key, value in values.items()}
        return self.module.covariates(tensors).numpy()

    def _labels(self, cells: np.ndarray) -> Values:
        """Which class some cells have, (cells, classes); not observed where it is unknown."""
        codes = self.adata_manager.get_from_registry(Keys.LABELS)[cells]  # (cells, 1)
        return DiscreteValues(codes == np.arange(self.module.n_classes), codes[:, 0] >= 0)

    def _linear(self, modality: str, cells: np.ndarray) -> Values:
        """Values of some cells on the regression scale; the likelihood decides on their form."""
        matrix = self.adata_manager.get_from_registry(Keys.x(modality))[cells]
        i = self.modalities.index(modality)
        observed = self.adata_manager.get_from_registry(Keys.OBSERVED)[cells, i]
        likelihood = self.module.likelihood(modality)
        try:
            if likelihood.discrete:
                counts = as_csr(matrix)
                library = np.asarray(counts.sum(1)).reshape(-1, 1)
                return DiscreteValues(likelihood.linear_scale(counts, library), observed)
            # real values have no library size
            to_scale = partial(likelihood.linear_scale, library=np.ones((1, 1)))
            return RealValues(matrix, observed, to_scale=to_scale)
        except ExtremeValueError as error:
            raise ValueError(
                f"Screening of modality {modality!r}: expected values with a finite variance, "
                f"found {error.value:g} (on the scale of the regression) in feature "
                f"{self._feature_names(modality)[error.feature]!r}. Remove or clip it, or train "
                "with screen=False."
            ) from error
