"""Which features are shared, which are private, and what moves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import pandas as pd
from mudata import MuData

from scvenn._arguments import check_choice, check_positive
from scvenn.data import Cells, Indices, check_groups, warn_of_spelled_missing
from scvenn.readouts import differential as comparison
from scvenn.readouts import enrichment, interpretation
from scvenn.readouts.cell_methods import CellMethods
from scvenn.readouts.predictions import check_modality, choose_features
from scvenn.readouts.shared_features import groups_of, scores_within, table_of_scores


class FeatureMethods(CellMethods):
    """Read-outs of features of :class:`~scvenn.SharedPrivateModel`."""

    def get_shared_scores(self, *, given: str | None = None) -> pd.DataFrame:
        """How well the other modalities predict each feature, and whether more than by chance.

        The score is a leave-one-out R² in training cells, the better one of two regressions on the
        other modalities: ridge regression on all features and, if they are real-valued, their
        squares; and least squares on principal components. Counts are on the scale of logarithms. A
        feature is called *shared* if its score is above what shuffled cells reach, at a false
        discovery rate of 5 %: the shared latent learns to predict it. It is
        called *related* if that holds of itself or its square, or if the labels of a supervised
        model predict it: the shared latent is encoded from it. What the batch and other covariates
        explain does not count: they are regressed out, and cells are shuffled within batches.

        Most of what modalities share is often which types of cells there are. With ``given``, the
        means of the types do not count: what is shared *within* types is scored, and shuffled cells
        stay within their type and batch.

        Parameters
        ----------
        given
            A categorical column of ``mdata.obs`` such as ``"cell_type"``; None for the scores of
            the screening before training.

        Returns
        -------
        A tidy table with the columns ``modality``, ``feature``, ``score``, ``shared`` and
        ``related``. With ``given``, they are found anew in the training cells, and the column
        ``group`` is ``"all"`` where all types were pooled, their means regressed out, or the type,
        for types of at least 50 cells that have the modality and another.

        Raises
        ------
        ValueError
            If the model was not trained with ``screen=True``; or there is no such column, no
            training cell has a value in it, or a group is named ``"all"``.

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
                "get_shared_scores() needs a model with screen=True that was trained: features are "
                "screened before training, and this model has no such scores."
            )
        if given is None:
            return table_of_scores(self._found, self.screening_)
        self._get_ready()
        cells = self._training_cells("get_shared_scores")
        return scores_within(self.module, cells, groups_of(cells, given, "training cell"))

    @property
    def expert_weights(self) -> dict[str, float]:
        """Weight of each modality in the shared latent of a cell that has all of them.

        A number for each modality; they sum to 1. A model that screens learns them at the end of
        training. The weight of a modality is the signal of its estimate of the shared latent,
        divided by the noise: how much the estimate of a held-out cell would change if the cell were
        measured once more, as the model predicts such measurements. (Training cells are read where
        fewer than 50 are held out.) For other models, and before training, all weigh alike. The
        weights are not used by models that multiply posteriors (MVAE, MoPoE-VAE), in which each
        cell has weights of its own.
        """
        weights = self.module.expert_weights.tolist()
        return dict(zip(self.modalities, weights, strict=True))

    def loadings(
        self,
        modality: str,
        latent: Literal["shared", "private"] = "shared",
        *,
        scale: Literal["data", "log"] = "data",
        features: str | Sequence[str] | None = None,
        mdata: MuData | None = None,
        indices: Indices | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""How each feature's prediction moves with each dimension of a latent.

        .. math::

            L_{jk} = \mathrm{sd}_i(z_{ik}) \cdot
                     \frac{1}{N} \sum_i \frac{\partial\, g_j(z_i)}{\partial z_{ik}}

        The prediction g is that from shared alone for ``"shared"``, and that from both latents for
        ``"private"``. Dimensions are ordered: predictions change most along the first ones.

        Parameters
        ----------
        modality
            Whose features.
        latent
            ``"shared"``, or ``"private"`` for the private latent of the modality.
        scale
            Of the prediction. ``"data"``: how much of the data a feature moves, so that a rare gene
            whose mean doubles counts little. This is the logarithm of 1 + the mean for counts, in a
            cell of median library size; the mean for ``"bernoulli"``; its logit for ``"beta"``.
            ``"log"``: relative changes, the logarithm of the mean for counts and the logit for
            ``"bernoulli"`` and ``"beta"``. For ``"normal"`` both are the mean in standard
            deviations of the feature.
        features
            Names of the features to return, in this order; None for all.
        mdata, indices, batch_size
            As in :meth:`variance_explained`; the mean is over these cells, which may have been
            trained on, and in which the modality was measured.

        Returns
        -------
        A tidy table with the columns ``feature``, ``dimension`` (``shared_0``, ...) and
        ``loading``: the change for one standard deviation of the dimension.

        Raises
        ------
        ValueError
            If the modality, latent, scale or a feature is unknown, fewer than two cells are left,
            or the data cannot be matched.

        Examples
        --------
        >>> import scvenn
        >>> mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20)
        >>> model = scvenn.MMVAEpp(mdata, decoder="linear")
        >>> model.train(1, enable_progress_bar=False)
        >>> table = model.loadings("rna", "private")
        >>> weights = table.pivot(index="feature", columns="dimension", values="loading")
        >>> weights.shape
        (20, 10)

        Notes
        -----
        With ``decoder="linear"``, those on the scale ``"log"`` are the weights of the decoder on
        the axes, times the standard deviations; of counts, less the weighted mean over features, as
        compositions sum to 1.
        Source for linear decoders: LDVAE, Svensson et al., Bioinformatics 36:3418 (2020).
        """
        modality = check_modality(self._found, modality)
        check_choice(("shared", "private"), latent=latent)
        check_choice(("data", "log"), scale=scale)
        columns = choose_features(self._found, modality, features)
        cells = self._chosen_or_held_out(mdata, indices, batch_size)
        cells = cells.take(cells.observed(modality))
        _check_enough(cells, "loadings", f"{modality!r} was measured")
        return interpretation.loadings(self.module, cells, modality, latent, columns, scale)

    def enrichment(
        self,
        modality: str,
        sets: Mapping[str, Sequence[str]] | pd.DataFrame,
        latent: Literal["shared", "private"] = "shared",
        *,
        mdata: MuData | None = None,
        indices: Indices | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Sets of features, such as pathways, that dimensions of a latent move.

        For each dimension, the loadings of all features are regressed on whether a feature is in
        the set, or on its weight in it (decoupler's univariate linear model).

        Parameters
        ----------
        modality
            Whose features.
        sets
            Lists of features by the name of the set; or a table as decoupler has them, with the
            columns ``source`` (names of sets), ``target`` (features) and, if members have weights,
            ``weight``.
        latent
            ``"shared"``, or ``"private"`` for the private latent of the modality.
        mdata, indices, batch_size
            As in :meth:`loadings`.

        Returns
        -------
        A tidy table with the columns ``dimension``, ``set``, ``score`` (the t-value of the slope:
        positive if members go up along the dimension), ``p_adjusted`` (Benjamini & Hochberg, over
        the sets of a dimension) and ``n_features``, how many features of the model are in the set.
        Dimensions are in order, and of each the strongest set comes first. Sets with fewer than
        five of the features are left out, and so are dimensions that move nothing. Sets that have
        all of the features, with one weight, are left out with a warning.

        Raises
        ------
        ImportError
            If decoupler is not installed.
        ValueError
            If the modality or latent is unknown, the sets are something else, none has five of the
            features, or the data cannot be matched.

        Notes
        -----
        Source: decoupler, Badia-i-Mompel et al., Bioinformatics Advances vbac016 (2022).

        Examples
        --------
        >>> import scvenn
        >>> mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20)
        >>> model = scvenn.MMVAEpp(mdata)
        >>> model.train(1, enable_progress_bar=False)
        >>> sets = {"planted": [f"rna_{j}" for j in range(5)]}
        >>> model.enrichment("rna", sets).head(10)  # doctest: +SKIP
        """
        enrichment.decoupler()
        members = enrichment.as_network(sets)
        loadings = self.loadings(
            modality, latent, mdata=mdata, indices=indices, batch_size=batch_size
        )
        return enrichment.enrichment(loadings, members)

    def shared_features(
        self,
        modality: str,
        *,
        n: int | None = None,
        mdata: MuData | None = None,
        indices: Indices | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""Features that the other modalities predict.

        Of each feature, two gains are measured in held-out cells that have the modality and
        another:

        .. math::

            \mathrm{shared}_j = R^2_j(\text{shared, read from the other modalities}),
            \qquad
            \mathrm{private}_j = R^2_j(\text{both latents}) - \max(0, R^2_j(\text{shared alone}))

        with the R² of :meth:`variance_explained`: what ``shared`` predicts better than the mean of
        the feature, or than covariates alone, and what the private latent adds to that. The score
        is the gain, shrunk towards 0 the more the less certain it is (adaptive shrinkage; Stephens,
        Biostatistics 18:275, 2017), so that features that are measured in few cells do not come
        first by chance.

        Parameters
        ----------
        modality
            Whose features.
        n
            How many features at most, of those that are listed; None for a row of each feature.
        mdata, indices, batch_size
            As in :meth:`variance_explained`.

        Returns
        -------
        A table, best first, with the columns

        - ``feature`` and ``score``;
        - ``gain`` and ``error``: as measured, and its standard error (jackknife over ten parts of
          the cells);
        - ``n_cells``: cells with a value other than 0. Below 10, or where a feature is constant,
          ``score`` is NaN, and the feature comes last;
        - ``listed``: whether the gain is above twice its error and not below the other gain. So no
          feature is listed by both :meth:`shared_features` and :meth:`private_features`;
        - ``screening_score`` of a model that screens, as in :meth:`get_shared_scores`.

        Raises
        ------
        ValueError
            If the modality is unknown, ``n`` is below 1, cells were trained on or are fewer than
            two, or the data cannot be matched.

        Examples
        --------
        >>> import scvenn
        >>> model = scvenn.MMVAEpp(scvenn.datasets.simulate_counts(n_obs=200, n_features=20))
        >>> model.train(1, train_size=0.5, enable_progress_bar=False)
        >>> table = model.shared_features("rna")
        >>> list(table.columns)
        ['feature', 'score', 'gain', 'error', 'n_cells', 'listed', 'screening_score']
        """
        return self._best_features("shared", modality, n, mdata, indices, batch_size)

    def private_features(
        self,
        modality: str,
        *,
        n: int | None = None,
        mdata: MuData | None = None,
        indices: Indices | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""Features of which the private latent explains what ``shared`` does not.

        As :meth:`shared_features`, by the other of the two gains.

        Parameters
        ----------
        modality, n, mdata, indices, batch_size
            As in :meth:`shared_features`.

        Returns
        -------
        As :meth:`shared_features`.

        Raises
        ------
        ValueError
            As :meth:`shared_features`.

        Examples
        --------
        >>> import scvenn
        >>> model = scvenn.MMVAEpp(scvenn.datasets.simulate_counts(n_obs=200, n_features=20))
        >>> model.train(1, train_size=0.5, enable_progress_bar=False)
        >>> len(model.private_features("rna"))
        20
        """
        return self._best_features("private", modality, n, mdata, indices, batch_size)

    def differential(
        self,
        groupby: str,
        *,
        modality: str,
        through: Literal["shared", "private", "both"] = "both",
        group1: str | Sequence[str] | None = None,
        group2: str | None = None,
        mdata: MuData | None = None,
        indices: Indices | None = None,
        delta: float | None = None,
        fdr: float = 0.05,
        batch_correction: bool = False,
        n_samples: int = 5000,
        pseudocounts: float = 0.01,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""Features whose expected value differs between groups of cells, as a model sees it.

        .. math::

            r_j = e_j(h_j(z_a), h_j(z_b)), \qquad p_j = P(r_j \ge \delta) \text{ or }
            P(r_j < -\delta), \text{ whichever is larger}

        over pairs of cells, a of the first group and b of the second, drawn with replacement, and
        over the posteriors of their latents. ``through`` decides what is decoded:

        =========== ====================================== ===================================
        ``through`` :math:`h(z)`                           cells
        =========== ====================================== ===================================
        shared      of shared alone, as across views       with any modality
        private     of the cell's private latent and, for  with the modality
                    all cells, the mean shared latent
        both        of both latents                        with the modality
        =========== ====================================== ===================================

        A difference through ``"shared"`` is one that the modalities have in common; one through
        ``"private"`` is this modality's own. The shared latent is that of all modalities of a
        cell. Its mean is over the posterior means of the cells among ``indices`` that have a group
        and the modality. How two means are compared, :math:`e`, depends on the likelihood:

        ======================= ========================================= =====================
        likelihood              :math:`e(h_a, h_b)`                       default of ``delta``
        ======================= ========================================= =====================
        of counts               :math:`\log_2 (h_a + c) - \log_2 (h_b     0.25
                                + c)`
        ``bernoulli``, ``beta`` :math:`h_a - h_b`, of probabilities or    0.05
                                fractions
        ``normal``              :math:`(h_a - h_b) / \mathrm{sd}_j`, the  0.25
                                standard deviation in training
        ======================= ========================================= =====================

        Counts are those of a cell with the median library size of training (``"nb_mixture"``, which
        has no library size, as they are), and c are the ``pseudocounts``.

        Parameters
        ----------
        groupby
            Column of ``mdata.obs``, or of the modalities' ``obs``, with the groups.
        modality
            Whose features.
        through
            Which latents a difference may come from.
        group1
            One or more groups, each of which is compared with ``group2``; None for all.
        group2
            What they are compared with; None for all other cells that have a group.
        mdata
            Data to read; None for the training data.
        indices
            Positions, boolean mask or names of cells; None for all cells. These are descriptions of
            cells: they may have been trained on.
        delta
            Least difference that counts; None for the default of the table above.
        fdr
            Expected fraction of false discoveries among the features called different.
        batch_correction
            Whether both cells of a pair are decoded as if they were of the same batch, each batch
            in turn, instead of their own. Needs ``setup_mudata(batch_key=...)``.
        n_samples
            Number of pairs.
        pseudocounts
            Counts added before the logarithm, so that features that are hardly seen do not differ
            (a thousandth of them for the columns that begin with ``lfc``, as in scvi-tools).
        batch_size
            Cells per forward pass.

        Returns
        -------
        A tidy table, for each comparison the most certain differences first: ``comparison``,
        ``group1``, ``group2``, ``feature``; ``proba_de``, p above, ``proba_not_de``, and
        ``bayes_factor``, the logarithm of their ratio; ``scale1`` and ``scale2``, the means of the
        groups on the scale of the data; ``delta``; ``lfc_mean``, ``lfc_median``, ``lfc_std``,
        ``lfc_min`` and ``lfc_max`` of r and ``pseudocounts`` for counts, ``difference_mean``, ...
        for others; and ``is_de_fdr_<fdr>``.

        Raises
        ------
        ValueError
            If an argument is out of range, a modality or group is unknown, or a group has no cell
            that can be compared.

        Examples
        --------
        >>> import scvenn
        >>> mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20)
        >>> model = scvenn.MMVAEpp(mdata)
        >>> model.train(1, enable_progress_bar=False)
        >>> table = model.differential(
        ...     "cell_type", modality="rna", through="shared", group1="type0", n_samples=100
        ... )
        >>> list(table.columns[:5])
        ['comparison', 'group1', 'group2', 'feature', 'proba_de']

        Notes
        -----
        Set ``scvi.settings.seed`` for draws that can be repeated. Counts are relative to all counts
        of a modality: where some features rise much, all others fall a little, and a feature of
        which nothing is shared can differ through ``"shared"`` by that. Sources: Boyeau et al.,
        PNAS 120:e2209124120 (2023), for the comparison and the false discovery rate; Ashuach et
        al., Cell Rep Methods 2:100182 (2022), for differences of probabilities.
        """
        settings = comparison.Settings(
            through, delta, fdr, n_samples, pseudocounts, batch_correction
        )
        settings.check()
        modality = check_modality(self._found, modality)
        cells = self._cells(mdata, indices, batch_size)
        argument = f"groupby={groupby!r}"
        groups = self._found.categories(cells.mdata, groupby, argument).iloc[cells.rows]
        check_groups(groups, argument)
        if group2 is None:  # else only groups are compared that the user named
            warn_of_spelled_missing(groups, argument)
        return comparison.differential(
            self.module,
            cells,
            groups,
            modality,
            groupby=groupby,
            group1=group1,
            group2=group2,
            settings=settings,
        )

    # ----------------------------------------------------------------- helpers

    def _best_features(
        self,
        latent: str,
        modality: str,
        n: int | None,
        mdata: MuData | None,
        indices: Indices | None,
        batch_size: int | None,
    ) -> pd.DataFrame:
        """Features by what a latent explains of them."""
        if n is not None:
            check_positive(n=n)
        modality = check_modality(self._found, modality)
        cells = self._chosen_or_held_out(mdata, indices, batch_size)
        gains = self._gains(modality, cells, f"{latent}_features")
        return self._ranking(modality, gains, latent, n)

    def _gains(self, modality: str, cells: Cells, caller: str) -> pd.DataFrame:
        """What each latent adds to the predictions of each feature of a modality."""
        cells = self._to_score(cells, caller)
        cells = cells.take(cells.paired(modality))
        _check_enough(cells, caller, f"{modality!r} and another modality were measured")
        return interpretation.gains(self.module, cells, modality)

    def _ranking(
        self, modality: str, gains: pd.DataFrame, latent: str, n: int | None
    ) -> pd.DataFrame:
        """Features by what a latent adds: all, or the best n of those that are listed."""
        table = gains[["feature"]].copy()
        for column in ("score", "gain", "error"):
            table[column] = gains[f"{column}_{latent}"]
        table["n_cells"], table["listed"] = gains["n_cells"], gains[f"listed_{latent}"]
        if self.screening_ is not None:
            table["screening_score"] = self.screening_[modality].score
        table = table.sort_values("score", ascending=False, kind="stable", ignore_index=True)
        return table if n is None else table[table["listed"]].head(n).reset_index(drop=True)


def _check_enough(cells: Cells, caller: str, where: str) -> None:
    if len(cells) < 2:
        raise ValueError(
            f"{caller}() needs two or more cells in which {where}; found {len(cells)} among those "
            "to read. Choose others with indices=... or pass new data."
        )
