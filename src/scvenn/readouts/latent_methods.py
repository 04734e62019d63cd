"""How good the latents of a trained model are, and what they mean."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from mudata import MuData

from scvenn.data import Cells, Indices, as_list, find_column, has_column
from scvenn.readouts import evaluation, interpretation
from scvenn.readouts.feature_methods import FeatureMethods
from scvenn.readouts.report import write_report
from scvenn.readouts.shared_features import groups_of

logger = logging.getLogger("scvi.scvenn")

# Cells of data on disk that are scored, and on which probes and regressions are fitted.
_MOST_ON_DISK = 10_000


class LatentMethods(FeatureMethods):
    """Evaluation of :class:`~scvenn.SharedPrivateModel`, and what its latents mean."""

    # ----------------------------------------------------------------- how good they are

    def evaluate(
        self,
        mdata: MuData | None = None,
        *,
        indices: Indices | None = None,
        labels_key: str | None = None,
        given: str | None = None,
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
                                       each feature of *another* modality, predicted from a
                                       latent by ridge regression; near 0 from a private
                                       latent where all is well
        auc,                  latent   of a linear probe for the labels, from each latent
        balanced_accuracy
        recovery_linear_r2,   latent   of a planted latent (``mdata.obsm["z_shared"]``,
        recovery_knn_r2                ``["z_private_<modality>"]``), from a learned one
        ===================== ======== ====================================================

        Most of what modalities share is often which types of cells there are. With ``given``, it is
        also scored what is predicted *within* types, relative to their means:

        ===================== ======== ====================================================
        ``metric``            ``view`` ``value``
        ===================== ======== ====================================================
        r2_within,            cross    as above, of deviations from the mean of the type (in
        pearson_within                 each combination of batch and other categories) that
                                       continuous covariates do not explain, on a linear scale:
                                       logarithms of counts relative to their sum
        shared_within         cross    1 if that correlation is above what predictions
                                       reach that are shuffled within types and batches, at a
                                       false discovery rate of 5 %, else 0
        leakage_r2_within     latent   of each dimension of a private latent from shared, and the
                                       other way round, relative to the means of the types over all
                                       batches (latents are corrected for these)
        ===================== ======== ====================================================

        Parameters
        ----------
        mdata
            Data to score; None for the training data.
        indices
            Positions, boolean mask or names of cells; None for the cells held out by
            :meth:`train` (test cells if there are, else validation cells), or all cells of new
            data. Of data on disk 10,000 of them are scored, and probes and regressions are fitted
            on 10,000 training cells, which their names choose.
        labels_key
            Column of ``obs`` with labels that the embeddings are probed for; None for no probe.
            Cells whose label is missing or, in the column that the model was set up with, its
            ``unlabeled_category`` are left out; with a warning, those whose label no training
            cell has.
        given
            A categorical column of ``obs`` such as ``"cell_type"``; None for no scores within
            types.
        batch_size
            Cells per forward pass.

        Returns
        -------
        A tidy table with the columns ``metric``, ``view``, ``source``, ``target``, ``feature``
        (None where the value concerns no single one), ``value`` and ``by_chance``: the same score
        if each cell has the latents of another one, at its own library size and covariates; for
        labels, that of guessing. A model that screens adds ``screened``: whether screening calls
        the feature shared. Sources and targets are modalities, latents (``shared``,
        ``private_<modality>``), planted latents or the labels; a modality with the name of a latent
        is ``modality <name>`` as a target of leakage. Dimensions of a latent that vary by rounding
        alone are left out. Values that are not defined are NaN, and a warning says why. With
        ``given``, there is also ``group``: for predictions within types ``"all"`` or a type of at
        least 50 scored cells, else None.

        Raises
        ------
        ValueError
            If the model was loaded without data or trained on all cells and no others are given,
            if cells to score were trained on, there is no such column of labels or types, or none
            of the scored cells has a value in it.

        Examples
        --------
        >>> import scvenn
        >>> model = scvenn.MMVAEpp(scvenn.datasets.simulate_counts(n_obs=200, n_features=20))
        >>> model.train(1, train_size=0.5, enable_progress_bar=False)
        >>> table = model.evaluate(labels_key="cell_type")
        >>> list(table.columns)
        ['metric', 'view', 'source', 'target', 'feature', 'value', 'by_chance', 'screened']

        Medians over features, and over those that are shared:

        >>> medians = scvenn.metrics.medians(table)

        Notes
        -----
        Source: Märtens & Yau (MLCB 2023), section 4, for R² and AUC. See :mod:`scvenn.metrics` for
        the definitions.
        """
        cells = self._chosen_or_held_out(mdata, indices, batch_size)
        return self._evaluation_of(cells, labels_key, given)

    def variance_explained(
        self,
        mdata: MuData | None = None,
        *,
        indices: Indices | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""Fraction of each modality's variance that shared and private latents explain.

        .. math::

            R^2(s, p) = 1 - \frac{\sum_{ij} (r_{ij} - \bar r_j)^2}{\sum_j t_j},
            \qquad r_{ij} = x_{ij} - g_j(s_i, p_i),
            \qquad t_j = \sum_i (x_{ij} - \bar x_j)^2

        over cells i and features j, with the posterior means s and p of a cell, and values x and
        predictions g on a linear scale: logarithms of normalised counts, logits of fractions
        (``"beta"``), and other values as they are. A prediction may be off by a constant
        :math:`\bar r_j` for each feature, which does not change the R². With covariates, which
        decoders know of each cell, :math:`t_j` is what these leave over, if that is less: the same
        sum as in the numerator, of the prediction from covariates alone, with the shared latent at
        its mean. The rows of the table:

        ===================== ==================================================================
        ``latent``            ``r2``
        ===================== ==================================================================
        shared                of shared alone
        private               of private alone: a shared latent of zero
        both                  of both
        overlap               shared + private - both: what either could explain
        shared_0, private_0,  of both, minus that with this dimension at its mean over cells:
        ...                   what is lost without it
        ===================== ==================================================================

        Parameters
        ----------
        mdata
            Data to explain; None for the training data.
        indices
            Positions, boolean mask or names of cells; None for the cells held out by
            :meth:`train` (test cells if there are, else validation cells), or all cells of new
            data.
        batch_size
            Cells per forward pass.

        Returns
        -------
        A tidy table with the columns ``modality``, ``latent`` and ``r2``: 1 is perfect, 0 is what a
        constant explains or, in a model with a batch or other covariates, what these explain.
        There is no lower bound; NaN where nothing varies. A modality that was measured in fewer
        than two of the cells is left out.

        Raises
        ------
        ValueError
            If cells were trained on or are fewer than two, or the data cannot be matched.

        Examples
        --------
        >>> import scvenn
        >>> model = scvenn.MMVAEpp(scvenn.datasets.simulate_counts(n_obs=200, n_features=20))
        >>> model.train(1, train_size=0.5, enable_progress_bar=False)
        >>> list(model.variance_explained().columns)
        ['modality', 'latent', 'r2']

        Notes
        -----
        Features count by their variance. The constant is left out because it has nothing to do
        with variance: a decoder that is not linear gives other means where a latent is zero, and
        the logarithm of a mean is above the mean of logarithms. Source: as in MOFA (Argelaguet et
        al., Mol Syst Biol 2018), for a decoder that need not be linear.
        """
        cells = self._chosen_or_held_out(mdata, indices, batch_size)
        cells = self._to_score(cells, "variance_explained")
        return interpretation.variance_explained(self.module, cells)

    # ----------------------------------------------------------------- cells, and all on a page

    def write_contributions(
        self, mdata: MuData | None = None, *, batch_size: int | None = None
    ) -> pd.DataFrame:
        r"""Write how much of each cell's predictions is due to shared and to private.

        .. math::

            a_i = \lVert g(s_i) - g(\bar s) \rVert^2, \quad
            b_i = \lVert g(s_i, p_i) - g(s_i) \rVert^2, \quad
            \mathrm{shared}_i = \frac{a_i}{a_i + b_i}, \quad
            \mathrm{private}_i = \frac{b_i}{a_i + b_i}

        with predictions from shared alone, :math:`g(s)`, and from both, :math:`g(s, p)`, on the
        linear scale of :meth:`variance_explained`. :math:`\bar s` is the mean over up to 5,000
        training cells, so that the numbers of a cell do not depend on the others that are read.
        ``mdata.obs`` gets ``scvenn_shared_<modality>`` and ``scvenn_private_<modality>``.

        Parameters
        ----------
        mdata
            Data to read and write to; None for the training data. These are descriptions and not
            scores: they are written for all cells, those that were trained on as well.
        batch_size
            Cells per forward pass.

        Returns
        -------
        What was written, cells by columns: fractions that sum to 1 for each modality; NaN where it
        was not measured. A modality that the data lacks has no columns.

        Raises
        ------
        ValueError
            If the MuData is a view, or cannot be matched to the training data.

        Examples
        --------
        >>> import scvenn
        >>> mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20)
        >>> model = scvenn.MMVAEpp(mdata)
        >>> model.train(1, enable_progress_bar=False)
        >>> list(model.write_contributions().columns[:2])
        ['scvenn_shared_rna', 'scvenn_private_rna']

        Notes
        -----
        The baseline :math:`g(\bar s)` is of the same kind as :math:`g(s)`, so that a feature that
        shared does not move adds nothing to its part. A model of scvenn 0.1, or one whose training
        was interrupted at its end, has no mean of its training cells: it takes that of the cells
        that are read.
        """
        cells = self._cells_to_write(mdata, batch_size, "write_contributions")
        written = interpretation.contributions(self.module, cells)
        cells.mdata.obs[written.columns] = written
        return written

    def report(
        self,
        path: str | os.PathLike,
        *,
        mdata: MuData | None = None,
        labels_key: str | None = None,
        color: str | Sequence[str] | None = None,
    ) -> Path:
        """Write all of it on one page: data, training, embeddings, scores, features, settings.

        One HTML file, pictures and all, that loads nothing when it is opened: a colleague needs
        no more than a browser. A part that cannot be shown is replaced by the reason and what to
        do. Nothing is written to the data.

        Parameters
        ----------
        path
            File to write, such as ``"report.html"``. One that is there is replaced once the new
            one is complete.
        mdata
            Data to report on; None for the training data, of which the cells that were held out
            by :meth:`train` are scored.
        labels_key
            Column of ``obs`` with classes that a classifier looks for in the latents. None: of the
            training data, the labels that the model was trained with, if any.
        color
            One or more columns of ``mdata.obs``, or of the ``obs`` of modalities, that colour the
            embeddings, a figure for each; None for the labels, if there are any.

        Returns
        -------
        The path of the file.

        Raises
        ------
        ValueError
            If the model was not trained, there is no data or it cannot be matched to the training
            data, or there is no such column.
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
        if not self.is_trained_:
            raise ValueError("report() is about a trained model. Call train() first.")
        file = Path(path)
        if file.is_dir():
            raise IsADirectoryError(
                f"{file} is a folder. Name a file in it, such as {str(file / 'report.html')!r}."
            )
        cells = self._cells(mdata, None, None)
        own = cells.mdata is self.adata and self.train_indices is not None
        if labels_key is None and own:
            key = self._found.arguments["labels_key"]  # which the data may have lost since
            labels_key = key if has_column(cells.mdata, key) else None
        labels = None
        if labels_key is not None:
            labels = self._labels_of(cells.mdata, labels_key)
            self._warn_of_labels(labels, labels_key)
        if color is None:
            colours = [] if labels is None else [labels]
        else:
            keys = [color] if isinstance(color, str) else as_list(color, "color")
            colours = [find_column(cells.mdata, key, f"color={key!r}") for key in keys]
        write_report(file, self, cells, labels, colours)
        return file

    # ----------------------------------------------------------------- helpers

    def _evaluation_of(
        self, cells: Cells, labels_key: str | None, given: str | None = None
    ) -> pd.DataFrame:
        """The table of :meth:`evaluate` for cells of checked data."""
        train = self._training_cells("evaluate", cells).few(_MOST_ON_DISK)
        test = self._to_score(cells, "evaluate").few(_MOST_ON_DISK)
        if len(test) < len(cells):
            logger.info(
                "evaluate(): the data is on disk. Scored are %d of the %d cells, chosen by their "
                "names; pass indices=... for others.",
                len(test),
                len(cells),
            )
        labels = None
        if labels_key is not None:
            labels = pd.concat(
                [self._labels_of(c.mdata, labels_key).iloc[c.rows] for c in (train, test)]
            )
            self._warn_of_labels(labels, labels_key)
        groups = None
        if given is not None:
            of_test = groups_of(test, given, "scored cell")
            groups = pd.concat([groups_of(train, given, "training cell"), of_test])
        table = evaluation.evaluate(self.module, train, test, labels=labels, groups=groups)
        if self.screening_ is not None:
            screened = {
                (m, feature): is_shared
                for m, of_modality in self.screening_.items()
                for feature, is_shared in zip(
                    self._found.features(m), of_modality.shared, strict=True
                )
            }
            keys = zip(table["target"], table["feature"], strict=True)
            known = [screened.get(key, pd.NA) for key in keys]
            table["screened"] = pd.array(known, dtype="boolean")
        return table
