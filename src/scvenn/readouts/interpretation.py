"""What latents mean: variance they explain, features they move, and cells they matter in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from mudata import MuData

from scvenn import network
from scvenn.data.keys import Keys
from scvenn.data.registration import observed_cells
from scvenn.readouts.predictions import ReadoutsMixin

# Latents to decode, (n_cells, K) each: shared, and private or None for shared alone.
Latents = tuple[np.ndarray, np.ndarray | None]


class InterpretationMixin(ReadoutsMixin):
    """Interpretation of :class:`~scvenn.SharedPrivateModel`, on top of its read-outs.

    *Shared alone* is what the model predicts across views: a private latent of zero and, in a
    model that screens, the cross-view decoder. The shared latent is that of all modalities of a
    cell, the predicted one among them.
    """

    def variance_explained(
        self,
        mdata: MuData | None = None,
        *,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""Fraction of each modality's variance that shared and private latents explain.

        .. math::

            R^2(s, p) = 1 - \frac{\sum_{ij} (r_{ij} - \bar r_j)^2}{\sum_{ij} (x_{ij} - \bar x_j)^2},
            \qquad r_{ij} = x_{ij} - g_j(s_i, p_i)

        over cells i and features j, with the posterior means s and p of a cell, and values x and
        predictions g on a linear scale: logarithms of normalised counts, logits of fractions
        (``"beta"``), and other values as they are. A prediction may be off by a constant
        :math:`\bar r_j` for each feature, which explains nothing and costs nothing. The rows of
        the table:

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
            Positions or mask in ``mdata.obs_names``; None for the cells held out by
            :meth:`train` (test cells if there are, else validation cells), or all cells of new
            data.
        batch_size
            Cells per forward pass.

        Returns
        -------
        A tidy table with the columns ``modality``, ``latent`` and ``r2``: 1 is perfect, 0 is what a
        constant explains, and there is no lower bound; NaN where nothing varies. A modality that
        was measured in fewer than two of the cells is left out.

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
        mdata = self._given(mdata)
        cells = self._cells_to_score(mdata, indices, "variance_explained")
        shared, private = self._embed(mdata, self.modalities, cells, batch_size, "Embeddings")
        rows = []
        for m in self.modalities:
            measured = observed_cells(mdata, m)[cells]
            if measured.sum() < 2:
                continue
            s, p = shared[measured], private[m][measured]
            given: dict[str, Latents] = {
                "shared": (s, None),
                "private": (np.zeros_like(s), p),
                "both": (s, p),
                **{f"shared_{k}": (_at_mean(s, k), p) for k in range(s.shape[1])},
                **{f"private_{k}": (s, _at_mean(p, k)) for k in range(p.shape[1])},
            }
            residual, total = self._squares(mdata, m, cells[measured], given, batch_size)
            r2 = {latent: float(_r2(of.sum(), total.sum())) for latent, of in residual.items()}
            first = ("shared", "private", "both")
            rows += [(m, latent, r2[latent]) for latent in first]
            rows.append((m, "overlap", r2["shared"] + r2["private"] - r2["both"]))
            rows += [
                (m, latent, r2["both"] - r2[latent]) for latent in given if latent not in first
            ]
        return pd.DataFrame(rows, columns=["modality", "latent", "r2"])

    def loadings(
        self,
        modality: str,
        latent: Literal["shared", "private"] = "shared",
        *,
        features: Sequence[str] | None = None,
        mdata: MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""How each feature's prediction moves with each dimension of a latent.

        .. math::

            L_{jk} = \mathrm{sd}_i(z_{ik}) \cdot
                     \frac{1}{N} \sum_i \frac{\partial\, g_j(z_i)}{\partial z_{ik}}

        The prediction g is the logarithm of the mean for counts, relative to the cell's library
        size; the logit of the mean for ``"bernoulli"`` and ``"beta"``; and for ``"normal"`` the
        mean in standard deviations of the feature. For ``"shared"`` it is that from shared alone,
        for ``"private"`` that from both latents.

        Parameters
        ----------
        modality
            Whose features.
        latent
            ``"shared"``, or ``"private"`` for the private latent of the modality.
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
            If the modality, latent or a feature is unknown, fewer than two cells are left, or the
            data cannot be matched.

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
        With ``decoder="linear"`` these are the weights of the decoder times the standard
        deviations; of counts, less the weighted mean over features, as compositions sum to 1.
        Source for linear decoders: LDVAE, Svensson et al., Bioinformatics 36:3418 (2020).
        """
        (modality,) = self._known(modality)
        if latent not in ("shared", "private"):
            raise ValueError(f"latent={latent!r}: expected 'shared' or 'private'.")
        columns = self._columns(modality, features)
        mdata = self._given(mdata)
        cells = self._held_out(mdata, indices)
        cells = cells[observed_cells(mdata, modality)[cells]]
        self._check_enough(cells, "loadings", f"{modality!r} was measured")
        shared, privates = self._embed(mdata, self.modalities, cells, batch_size, "Embeddings")
        private = privates[modality] if latent == "private" else None
        moved = shared if private is None else private  # (n_cells, K)
        slope = np.zeros((moved.shape[1], len(self._feature_names(modality))))
        for part, tensors in self._minibatches(mdata, set(), cells, batch_size, "Loadings"):
            given = _tensors((shared, private), part)
            slope += network.slopes(self.module, tensors, modality, *given).cpu().numpy()
        loading = slope / len(cells) * moved.std(0, ddof=1)[:, None]  # (K, D)
        dimensions = [f"{latent}_{k}" for k in range(len(loading))]
        return pd.DataFrame(
            {
                "feature": np.tile(self._feature_names(modality)[columns], len(dimensions)),
                "dimension": np.repeat(dimensions, len(columns)),
                "loading": loading[:, columns].ravel(),
            }
        )

    def shared_features(
        self,
        modality: str,
        *,
        n: int | None = None,
        mdata: MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""Features that the other modalities predict best.

        .. math:: \mathrm{score}_j = R^2_j(x_j, \text{predicted from the other modalities})

        with the R² of :meth:`variance_explained`, in cells with the modality and another.

        Parameters
        ----------
        modality
            Whose features.
        n
            How many of them; None for all.
        mdata, indices, batch_size
            As in :meth:`variance_explained`.

        Returns
        -------
        A table with the columns ``feature`` and ``score``, best first; NaN, at the end, for
        features that are constant over the cells. A model that screens adds ``screening_score``,
        that of :meth:`get_shared_scores`.

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
        >>> list(model.shared_features("rna", n=5).columns)
        ['feature', 'score', 'screening_score']
        """
        cross, _ = self._r2_of_views(modality, mdata, indices, batch_size, "shared_features")
        return self._ranking(modality, cross, n)

    def private_features(
        self,
        modality: str,
        *,
        n: int | None = None,
        mdata: MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""Features of which the modality itself knows most that the others do not.

        .. math::

            \mathrm{score}_j = R^2_j(x_j, \text{predicted from the modality})
                             - R^2_j(x_j, \text{predicted from the other modalities})

        with the R² of :meth:`variance_explained`, in cells with the modality and another.

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
        >>> len(model.private_features("rna", n=5))
        5
        """
        cross, same = self._r2_of_views(modality, mdata, indices, batch_size, "private_features")
        return self._ranking(modality, same - cross, n)

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
        linear scale of :meth:`variance_explained`, and the mean :math:`\bar s` over the cells.
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
        shared does not move adds nothing to its part.
        """
        mdata = self._written_to(mdata, "write_contributions")
        every = np.arange(mdata.n_obs)
        shared, private = self._embed(mdata, self.modalities, every, batch_size, "Embeddings")
        written = pd.DataFrame(index=mdata.obs_names)
        for m in self.modalities:
            if m not in mdata.mod:
                continue
            cells = np.flatnonzero(observed_cells(mdata, m))
            s, p = shared[cells], private[m][cells]
            given: list[Latents] = [(np.broadcast_to(s.mean(0), s.shape), None), (s, None), (s, p)]
            due = np.full((mdata.n_obs, 2), np.nan)  # to shared, to private
            for part, tensors in self._minibatches(
                mdata, set(), cells, batch_size, "Contributions"
            ):
                baseline, alone, both = (self._decoded(m, tensors, of, part) for of in given)
                due[cells[part], 0] = np.square(alone - baseline).sum(1)
                due[cells[part], 1] = np.square(both - alone).sum(1)
            names = [Keys.contribution(latent, m) for latent in ("shared", "private")]
            written[names] = due / due.sum(1, keepdims=True)
        mdata.obs[written.columns] = written
        return written

    # ----------------------------------------------------------------- helpers

    def _decoded(
        self, modality: str, tensors: dict[str, torch.Tensor], given: Latents, part: slice
    ) -> np.ndarray:
        """Prediction of a minibatch on the linear scale, (B, D), given latents of all cells."""
        latents = _tensors(given, part)
        mean = network.decode(self.module, tensors, modality, *latents).cpu().numpy()
        return self.module.likelihood(modality).linear_scale(mean, np.ones(1, np.float32))

    def _squares(
        self,
        mdata: MuData,
        modality: str,
        cells: np.ndarray,
        given: Mapping[str, Latents],
        batch_size: int | None,
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Squares around their mean, summed over cells, of residuals given latents and of values.

        Some cells at a time, so that as many features fit as in training. Arrays are (D,); values
        that are constant have a sum of exactly 0.
        """
        n_features = len(self._feature_names(modality))
        sums = {name: np.zeros((2, n_features)) for name in given}  # of residuals, their squares
        sums_of_values, count = np.zeros((2, n_features)), np.zeros(n_features)
        lowest, highest = np.full(n_features, np.inf), np.full(n_features, -np.inf)
        for part, tensors in self._minibatches(mdata, {modality}, cells, batch_size, "Predicting"):
            raw = tensors[Keys.x(modality)].numpy()  # (B, D); NaN where not observed
            library = raw.sum(1, keepdims=True)
            x = self.module.likelihood(modality).linear_scale(raw, library).astype(np.float64)
            for name, latents in given.items():
                sums[name] += _sums(x - self._decoded(modality, tensors, latents, part))
            sums_of_values += _sums(x)
            count += np.isfinite(x).sum(0)
            lowest = np.fmin(lowest, np.fmin.reduce(x, 0))
            highest = np.fmax(highest, np.fmax.reduce(x, 0))

        def around_mean(total: np.ndarray, squares: np.ndarray) -> np.ndarray:
            return squares - np.square(total) / count.clip(min=1)

        residual = {name: around_mean(*of) for name, of in sums.items()}
        return residual, np.where(highest > lowest, around_mean(*sums_of_values), 0.0)

    def _r2_of_views(
        self,
        modality: str,
        mdata: MuData | None,
        indices: Sequence[int] | np.ndarray | None,
        batch_size: int | None,
        caller: str,
    ) -> tuple[np.ndarray, np.ndarray]:
        """R² of each feature, (D,), from the other modalities and from its own."""
        (modality,) = self._known(modality)
        mdata = self._given(mdata)
        others = [m for m in self.modalities if m != modality]
        cells = self._cells_to_score(mdata, indices, caller)
        paired = np.any([observed_cells(mdata, m) for m in others], axis=0)
        cells = cells[(paired & observed_cells(mdata, modality))[cells]]
        self._check_enough(cells, caller, f"{modality!r} and another modality were measured")
        cross, _ = self._embed(mdata, others, cells, batch_size, "Embeddings")
        own, private = self._embed(mdata, [modality], cells, batch_size, "Embeddings")
        given: dict[str, Latents] = {"cross": (cross, None), "same": (own, private[modality])}
        residual, total = self._squares(mdata, modality, cells, given, batch_size)
        return _r2(residual["cross"], total), _r2(residual["same"], total)

    def _ranking(self, modality: str, score: np.ndarray, n: int | None) -> pd.DataFrame:
        """The n features with the highest scores."""
        table = pd.DataFrame({"feature": self._feature_names(modality), "score": score})
        if self.screening_ is not None:
            table["screening_score"] = self.screening_[modality].score
        if n is not None and n < 1:
            raise ValueError(f"n={n!r}: expected None or a number of at least 1.")
        return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)[:n]

    def _check_enough(self, cells: np.ndarray, caller: str, where: str) -> None:
        if len(cells) < 2:
            raise ValueError(
                f"{caller}() needs two or more cells in which {where}; found {len(cells)} among "
                "those to read. Choose others with indices=... or pass new data."
            )


def _at_mean(latent: np.ndarray, k: int) -> np.ndarray:
    """The same latent, (n_cells, K), with one dimension at its mean."""
    changed = latent.copy()
    changed[:, k] = latent[:, k].mean()
    return changed


def _sums(values: np.ndarray) -> np.ndarray:
    """Sums over cells of values and of their squares, (2, D), without those that are NaN."""
    return np.stack([np.nansum(values, 0), np.nansum(np.square(values), 0)])


def _tensors(given: Latents, part: slice) -> list[Any]:
    """Latents of some of the cells."""
    return [None if z is None else torch.tensor(z[part]) for z in given]


def _r2(residual: Any, total: Any) -> np.ndarray:
    """R² from sums of squares; NaN where nothing varies."""
    return np.where(total > 0, 1 - residual / np.where(total > 0, total, 1), np.nan)
