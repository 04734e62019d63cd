"""What a trained model gives for cells: embeddings, predictions, labels and draws."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mudata import MuData

from scvenn import network
from scvenn._arguments import check_flags, check_positive
from scvenn.data import (
    Cells,
    Indices,
    check_mudata,
    choose_rows,
    hashes_of,
    warn_of_spelled_missing,
)
from scvenn.novelty import novelty
from scvenn.readouts.embeddings import embed, write_embeddings
from scvenn.readouts.model_state import ModelState
from scvenn.readouts.predictions import (
    Prediction,
    check_modalities,
    check_modality,
    choose_features,
)
from scvenn.readouts.sampling import draw_posterior, draw_prior
from scvenn.readouts.writing import write_prediction


class CellMethods(ModelState):
    """What :class:`~scvenn.SharedPrivateModel` gives of each cell.

    Every method takes the training data (``mdata=None``) or a new MuData, which may hold fewer
    modalities, other cells in any order, and more features in any order: cells and features are
    matched by name. The data is only read, except by :meth:`embed`.
    """

    # ----------------------------------------------------------------- embeddings

    def get_shared_representation(
        self,
        mdata: MuData | None = None,
        *,
        from_modalities: str | Sequence[str] | None = None,
        indices: Indices | None = None,
        batch_corrected: bool = True,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Shared latent of each cell.

        Models that multiply posteriors in training (MVAE, MoPoE-VAE) give the mean of the product
        over a cell's observed modalities; the others (MMVAE, MMVAE++) the mean of the means,
        weighted where the model screens (:attr:`expert_weights`).

        If ``setup_mudata`` had a ``batch_key``, embeddings are corrected for batches (see
        *Notes*). Predictions are not affected: they are decoded from uncorrected latents.

        Parameters
        ----------
        mdata
            Data to embed; None for the training data.
        from_modalities
            Read only these modalities; None for all.
        indices
            Positions, boolean mask or names of cells; None for all.
        batch_corrected
            Whether to remove the shifts of batches, if ``setup_mudata`` had a ``batch_key``.
        batch_size
            Cells per forward pass.

        Returns
        -------
        Array (n_cells, n_shared) in the order of ``mdata.obs_names``, or of ``indices``. A row is
        NaN where none of the modalities was measured.

        Raises
        ------
        ValueError
            If a modality is unknown, or the data cannot be matched to the training data.

        Examples
        --------
        >>> model.get_shared_representation(from_modalities="rna")  # doctest: +SKIP

        Notes
        -----
        The correction is learned at the end of training, from up to 5,000 training cells (100 of
        each batch, where there are more than 50 batches), and saved with the model. It applies to
        new cells of the same batches. The latent is modelled as a mixture of Gaussians whose
        centres each batch shifts; the expected shift of a cell is subtracted.
        """
        sources = check_modalities(self._found, from_modalities, "from_modalities")
        cells = self._cells(mdata, indices, batch_size)
        shared, _ = embed(
            self.module, cells, sources, batch_corrected=batch_corrected, bar="Shared embedding"
        )
        return shared

    def get_private_representation(
        self,
        modality: str,
        mdata: MuData | None = None,
        *,
        indices: Indices | None = None,
        batch_corrected: bool = True,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Private latent of one modality in each cell.

        Parameters
        ----------
        modality
            Which modality.
        mdata, indices, batch_corrected, batch_size
            As in :meth:`get_shared_representation`.

        Returns
        -------
        Array (n_cells, n_private) in the order of ``mdata.obs_names``, or of ``indices``. A row is
        NaN where the modality was not measured.

        Raises
        ------
        ValueError
            If the modality is unknown, or the data cannot be matched to the training data.
        """
        modality = check_modality(self._found, modality)
        cells = self._cells(mdata, indices, batch_size)
        _, private = embed(
            self.module, cells, [modality], batch_corrected=batch_corrected, bar="Private embedding"
        )
        return private[modality]

    def get_latent_representation(
        self,
        mdata: MuData | None = None,
        *,
        indices: Indices | None = None,
        batch_corrected: bool = True,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Shared and all private latents side by side.

        Parameters
        ----------
        mdata, indices, batch_corrected, batch_size
            As in :meth:`get_shared_representation`.

        Returns
        -------
        Array (n_cells, n_shared + n_private of each modality in turn) in the order of
        ``mdata.obs_names``, or of ``indices``. Columns of a latent that the cell does not have are
        NaN.

        Raises
        ------
        ValueError
            If the data cannot be matched to the training data.
        """
        cells = self._cells(mdata, indices, batch_size)
        shared, private = embed(
            self.module,
            cells,
            self.modalities,
            batch_corrected=batch_corrected,
            bar="Latent representation",
        )
        return np.hstack([shared, *private.values()])

    def get_novelty(
        self,
        mdata: MuData | None = None,
        *,
        indices: Indices | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """How far each cell is from those that the model was trained on.

        In each latent, corrected for batches, the mean distance of the cell to its 10 nearest among
        up to 2,000 training cells is measured. It is divided by the usual distance, the median of
        the same number over these training cells. The score is the root mean square over the
        latents that the cell has; those of which no axis carries anything are left out.

        Parameters
        ----------
        mdata, indices, batch_size
            As in :meth:`get_shared_representation`.

        Returns
        -------
        One number for each cell, (n_cells,): about 1 for a cell like those of the training. NaN
        where no modality was measured.

        Raises
        ------
        ValueError
            If the data cannot be matched to the training data; or if the model is of scvenn 0.1 or
            its training was interrupted: it then has no cells to compare with.

        Examples
        --------
        >>> mapped = model.map_query(query)  # doctest: +SKIP
        >>> query.obs["novelty"] = mapped.get_novelty()  # doctest: +SKIP

        Notes
        -----
        A new type that lies within a known one in all latents cannot be found in this way: the
        encoders were not trained to tell the two apart. Nor can one that differs only in features
        that had one value in all training cells.
        """
        cells = self._cells(mdata, indices, batch_size)
        reference = self.module.reference.latents.cpu().numpy()
        if not len(reference):
            raise ValueError(
                "get_novelty() compares cells with some of the training cells, and this model has "
                "none of these: it is of scvenn 0.1, or its training was interrupted. Train it "
                "for another epoch."
            )
        shared, private = embed(
            self.module, cells, self.modalities, batch_corrected=True, bar="Novelty"
        )
        ends = np.cumsum([self.module.n_shared, *self.module.n_private.values()])
        latents = {"shared": shared} | {f"private_{m}": z for m, z in private.items()}
        pairs = zip(latents.items(), np.split(reference, ends[:-1], axis=1), strict=True)
        n_axes = self._n_effective()
        carrying = [(latent, known) for (name, latent), known in pairs if n_axes.get(name) != 0]
        return novelty(*zip(*carrying, strict=True)) if carrying else np.full(len(cells), np.nan)

    def embed(
        self,
        mdata: MuData | None = None,
        *,
        key_prefix: str = "X",
        drop_empty_axes: bool = False,
        batch_corrected: bool = True,
        batch_size: int | None = None,
    ) -> None:
        """Embed cells with any of the modalities, and write this where scanpy finds it.

        ``mdata.obsm`` gets ``X_shared`` and ``X_private_<modality>``, ``mdata[<modality>].obsm``
        gets ``X_shared`` and ``X_private``, ``mdata.uns["scvenn"]`` the model and the versions
        behind them. Rows of cells that lack a modality are NaN in its private embedding; those in
        the modality's own ``obsm`` never are. A model that screens also writes
        ``mdata[<modality>].var["scvenn_shared_score"]``, see :meth:`get_shared_scores`.

        Parameters
        ----------
        mdata
            Data to embed and write to; None for the training data.
        key_prefix
            Replaces the ``X`` of the keys.
        drop_empty_axes
            Whether to leave out the axes that carry next to nothing: those after the first
            :attr:`n_shared_effective_` of ``shared``, and likewise of each private latent. At least
            one is written.
        batch_corrected
            As in :meth:`get_shared_representation`.
        batch_size
            Cells per forward pass.

        Raises
        ------
        ValueError
            If the MuData is a view, or cannot be matched to the training data; or if axes are to be
            dropped and the model has none, since scvenn 0.1 trained it.
        """
        if not isinstance(key_prefix, str) or not key_prefix or "/" in key_prefix:
            raise ValueError(
                f"key_prefix={key_prefix!r}: expected a text without '/', such as 'X'."
            )
        check_flags(drop_empty_axes=drop_empty_axes)
        cells = self._cells_to_write(mdata, batch_size, "embed")
        kept = self._effective_sizes() if drop_empty_axes else None
        shared, private = embed(
            self.module, cells, self.modalities, batch_corrected=batch_corrected
        )
        if kept is not None:
            shared = shared[:, : kept["shared"]]
            private = {m: z[:, : kept[f"private_{m}"]] for m, z in private.items()}
        write_embeddings(
            cells.mdata,
            (shared, private),
            key_prefix=key_prefix,
            screening=self.screening_,
            features={m: self._found.features(m) for m in self.modalities},
            written_by={
                "model": type(self).__name__,
                "key_prefix": key_prefix,
                "batch_corrected": batch_corrected and self.module.corrects_batches,
                "modalities": self.modalities,
                "versions": self.versions_,
            },
        )

    # ----------------------------------------------------------------- predictions

    def predict(
        self,
        source: str | Sequence[str],
        target: str,
        mdata: MuData | None = None,
        *,
        features: str | Sequence[str] | None = None,
        indices: Indices | None = None,
        transform_batch: str | None = None,
        library_size: float | None = None,
        batch_size: int | None = None,
        return_numpy: bool = False,
    ) -> pd.DataFrame | np.ndarray:
        """Mean of one modality given one or several.

        Decodes the mean of the shared latent of the sources. Without the target among them the
        prediction is *cross-view*: its private latent is zero, so that it holds only what is
        shared. With it, the prediction is *same-view* in the cells where the target was measured.

        Parameters
        ----------
        source
            One or more modalities to read.
        target
            Modality to predict.
        mdata, indices, batch_size
            As in :meth:`get_shared_representation`.
        features
            Names of the target's features to return, in this order; None for all.
        transform_batch
            Predict as if all cells were of this batch; None for the cells' own.
        library_size
            Scale counts to this sum in every cell; None for the cells' own. Likelihoods other than
            those of counts relative to the library size ignore it.
        return_numpy
            Whether to return an array instead of a DataFrame.

        Returns
        -------
        Cells by features, on the scale of the data; DataFrames are indexed by ``obs_names`` and
        named by the target's ``var_names``. Counts are scaled to the cell's own library size (1
        for a cell without any count) where the target was measured, elsewhere to the median of
        training. Rows are NaN where no source was measured.

        Raises
        ------
        ValueError
            If a modality, feature or batch is unknown, or the data cannot be matched.

        Examples
        --------
        >>> model.predict("rna", "atac")  # doctest: +SKIP
        """
        check_flags(return_numpy=return_numpy)
        prediction = Prediction.of(
            self._found,
            source,
            target,
            features=features,
            transform_batch=transform_batch,
            library_size=library_size,
        )
        cells = self._cells(mdata, indices, batch_size)
        values = prediction.values(self.module, cells)
        if return_numpy:
            return values
        names = self._found.features(target)[prediction.columns]
        return pd.DataFrame(values, index=cells.names, columns=names)

    def get_normalized_expression(
        self,
        modality: str,
        mdata: MuData | None = None,
        *,
        library_size: float = 1e4,
        **kwargs: Any,
    ) -> pd.DataFrame | np.ndarray:
        """Denoised values of a modality, free of the cells' library sizes.

        Predicted from all modalities that a cell has: where this one was measured, through both of
        its latents; where not, it is imputed through the shared one.

        Parameters
        ----------
        modality
            Which modality.
        mdata
            Data to read; None for the training data.
        library_size
            Sum of the expected counts of every cell.
        **kwargs
            Further arguments of :meth:`predict`, such as ``features`` and ``transform_batch``.

        Returns
        -------
        As :meth:`predict`.

        Raises
        ------
        ValueError
            As :meth:`predict`.

        Examples
        --------
        >>> model.get_normalized_expression("rna", transform_batch="batch1")  # doctest: +SKIP
        """
        if "gene_list" in kwargs:  # scvi-tools' name
            raise TypeError("get_normalized_expression(gene_list=...): pass features=... instead.")
        if mdata is not None:
            check_mudata(mdata, may_be_view=True)
        data = self.adata if mdata is None else mdata
        sources = [m for m in self.modalities if data is None or m in data.mod]
        return self.predict(sources, modality, mdata, library_size=library_size, **kwargs)

    def write_predictions(
        self,
        path: str | os.PathLike,
        source: str | Sequence[str],
        target: str,
        mdata: MuData | None = None,
        *,
        features: str | Sequence[str] | None = None,
        indices: Indices | None = None,
        transform_batch: str | None = None,
        library_size: float | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Write what :meth:`predict` returns, one minibatch after the other.

        For modalities with many features, of which cells times features would not fit into memory:
        no more than the predictions of a minibatch are held at a time. The file is an AnnData.
        :func:`anndata.read_h5ad` and :func:`anndata.read_zarr` read it whole; of large files,
        ``anndata.read_h5ad(path, backed="r")`` and ``zarr.open(path)["X"][rows]`` read some cells.

        Parameters
        ----------
        path
            File to create, which ends in ``.h5ad`` or ``.zarr``. Where writing stops half-way, none
            is left.
        source, target, mdata, features, indices, transform_batch, library_size
            As in :meth:`predict`.
        batch_size
            Cells per forward pass, and per chunk of a zarr file; None for
            ``scvi.settings.batch_size``.

        Raises
        ------
        FileExistsError
            If there is something at the path.
        ValueError
            As :meth:`predict`.

        Examples
        --------
        >>> import anndata, scvenn
        >>> mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20)
        >>> model = scvenn.MMVAEpp(mdata)
        >>> model.train(1, enable_progress_bar=False)
        >>> model.write_predictions("imputed.zarr", "rna", "atac")
        >>> anndata.read_zarr("imputed.zarr").shape
        (200, 20)

        Notes
        -----
        ``X`` is dense, as predictions are: float32, in zarr files compressed, with NaN where no
        source was measured. ``obs`` is that of the MuData, ``var`` that of the target if the MuData
        has it, and ``uns["scvenn"]`` has the names of sources and target.
        """
        prediction = Prediction.of(
            self._found,
            source,
            target,
            features=features,
            transform_batch=transform_batch,
            library_size=library_size,
        )
        cells = self._cells(mdata, indices, batch_size)
        written_by = {"model": type(self).__name__}
        write_prediction(Path(path), self.module, cells, prediction, written_by=written_by)

    def predict_labels(
        self,
        mdata: MuData | None = None,
        *,
        from_modalities: str | Sequence[str] | None = None,
        indices: Indices | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""Probability of each label in each cell.

        .. math:: p(y \mid \bar s), \qquad \bar s \text{ the shared embedding of the cell}

        by the linear head that was trained with the model (paper, section 3.3). It needs no
        labels: cells without one, and new cells with any of the modalities, get theirs.

        Parameters
        ----------
        mdata
            Data to label; None for the training data.
        from_modalities
            Read only these modalities; None for all.
        indices
            Positions, boolean mask or names of cells; None for all.
        batch_size
            Cells per forward pass.

        Returns
        -------
        Cells by labels; rows sum to 1, and are NaN where none of the modalities was measured.
        ``.idxmax(axis=1)`` is the most probable label.

        Raises
        ------
        ValueError
            If the model has no labels, a modality is unknown, or the data cannot be matched.

        Examples
        --------
        >>> import scvenn
        >>> mdata = scvenn.datasets.simulate_counts(n_obs=100, n_features=20)
        >>> scvenn.MMVAEpp.setup_mudata(mdata, labels_key="cell_type")
        >>> model = scvenn.MMVAEpp(mdata)
        >>> model.train(1, enable_progress_bar=False)
        >>> model.predict_labels().shape
        (100, 8)

        Notes
        -----
        On cells whose labels were used in training, these probabilities show how well the labels
        were learned, not how well labels are predicted. The accuracy in held-out cells is
        ``model.history["accuracy_labels_validation"]``. Source: Märtens & Yau (MLCB 2023).
        """
        if self.module.label_head is None:
            raise ValueError(
                "predict_labels(): this model was trained without labels. Name their column with "
                "setup_mudata(mdata, labels_key=...) before building it."
            )
        sources = check_modalities(self._found, from_modalities, "from_modalities")
        cells = self._cells(mdata, indices, batch_size)
        shared = torch.as_tensor(embed(self.module, cells, sources, bar="Labels")[0])
        probabilities = network.label_probabilities(self.module, shared).cpu().numpy()
        return pd.DataFrame(probabilities, index=cells.names, columns=self._found.classes)

    # ----------------------------------------------------------------- draws

    def sample_posterior(
        self,
        source: str | Sequence[str],
        target: str,
        mdata: MuData | None = None,
        *,
        features: str | Sequence[str] | None = None,
        n_samples: int = 25,
        indices: Indices | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        r"""Draw a modality given one or several, to see how sure a prediction is.

        .. math:: s \sim q(s \mid x_{\mathrm{source}}), \quad
                  p_t \sim q(p_t \mid x_t) \text{ or } 0, \quad x_t \sim p(x_t \mid s, p_t)

        The private latent is drawn where the target is a source and was measured; elsewhere it is
        zero, as in :meth:`predict`. Mean and spread over the samples hold both the uncertainty of
        the latents and the noise of the likelihood.

        Parameters
        ----------
        source
            One or more modalities to read.
        target
            Modality to draw.
        mdata
            Data to read; None for the training data.
        features
            Names of the features to give, in that order; None for all.
        n_samples
            Number of draws.
        indices
            Positions, boolean mask or names of cells; None for all.
        batch_size
            Cells per forward pass.

        Returns
        -------
        Array (n_samples, n_cells, n_features) on the scale of the data: choose ``features`` or
        ``indices`` where that is too large. NaN where no source was measured.

        Raises
        ------
        ValueError
            If a modality or feature is unknown, ``n_samples`` is below 1, or the data cannot be
            matched.

        Examples
        --------
        >>> model.sample_posterior("rna", "atac", indices=range(100))  # doctest: +SKIP

        Notes
        -----
        Set ``scvi.settings.seed`` for draws that can be repeated.
        """
        check_positive(n_samples=n_samples)
        sources = check_modalities(self._found, source, "source")
        target = check_modality(self._found, target, "target")
        columns = choose_features(self._found, target, features)
        cells = self._cells(mdata, indices, batch_size)
        return draw_posterior(self.module, cells, sources, target, columns, n_samples=n_samples)

    def sample_prior(self, n_obs: int, *, batch: str | None = None) -> dict[str, np.ndarray]:
        """Draw simulated cells: latents from the prior, values from the decoders.

        Parameters
        ----------
        n_obs
            Number of cells.
        batch
            Their batch; None for the first one. Other covariates are at their first category, or
            their mean.

        Returns
        -------
        An array (n_obs, n_features) by modality, of the same cells, on the scale of the data;
        counts have the median library size of training.

        Raises
        ------
        ValueError
            If ``n_obs`` is below 1, or the batch is unknown.

        Examples
        --------
        >>> model.sample_prior(100)  # doctest: +SKIP
        """
        check_positive(n_obs=n_obs)
        self._get_ready()
        code = None if batch is None else self._found.code_of_batch(batch, argument="batch")
        return draw_prior(self.module, n_obs, batch=code)

    # ----------------------------------------------------------------- cells

    def _n_effective(self) -> dict[str, int]:
        """How many axes of each latent carry something, by its name; empty where not known."""
        if self.n_shared_effective_ is None or self.n_private_effective_ is None:
            return {}
        of_private = {f"private_{m}": n for m, n in self.n_private_effective_.items()}
        return {"shared": self.n_shared_effective_, **of_private}

    def _effective_sizes(self) -> dict[str, int]:
        """How many axes of each latent are kept where empty ones are left out; at least one."""
        if not (sizes := self._n_effective()):
            raise ValueError(
                "drop_empty_axes=True: the model has no ordered axes, since it was trained by "
                "scvenn 0.1 or interrupted at its end. Train it for another epoch."
            )
        return {name: max(1, n) for name, n in sizes.items()}

    def _get_ready(self) -> None:
        """Evaluation mode, whatever came before; warn where nothing was trained."""
        self._check_if_trained(warn=True)  # type: ignore[attr-defined]
        self.module.eval()

    def _cells(
        self, mdata: MuData | None, indices: Indices | None, batch_size: int | None
    ) -> Cells:
        """Cells to read, of data that is checked here, once for all that is read of them."""
        if batch_size is not None:
            check_positive(batch_size=batch_size)
        self._get_ready()
        manager = self._manager_of(mdata)
        return Cells(manager, choose_rows(manager.adata, indices), batch_size=batch_size)

    def _training_cells(self, caller: str, others: Cells | None = None) -> Cells:
        """The cells that the model was trained on, read together with others of the same data."""
        if self.adata is None:
            raise ValueError(
                f"{caller}() reads the training cells, and this model was loaded without data. "
                "Load it with load(dir_path, mdata)."
            )
        # this moves positions of cells that were put in another order since
        own = others is not None and others.mdata is self.adata
        manager = others.manager if others is not None and own else self._manager_of(None)
        if self.train_indices is None:
            raise ValueError(
                f"{caller}() reads the training cells, of which this model has none: it was not "
                "trained yet, or was loaded with other cells. Load it with the data it was trained "
                "on."
            )
        batch_size = None if others is None else others.batch_size
        return Cells(manager, np.sort(self.train_indices), batch_size=batch_size)

    def _cells_to_write(self, mdata: MuData | None, batch_size: int | None, caller: str) -> Cells:
        """All cells of data to which results are written."""
        cells = self._cells(mdata, None, batch_size)
        if cells.mdata.is_view:
            raise ValueError(
                f"{caller}() found a view of a MuData, which would not keep what is written. Pass "
                "a copy: mdata = mdata.copy()."
            )
        return cells

    def _chosen_or_held_out(
        self, mdata: MuData | None, indices: Indices | None, batch_size: int | None
    ) -> Cells:
        """As :meth:`_cells`; None means cells that were not trained on."""
        cells = self._cells(mdata, indices, batch_size)
        return self._held_out(cells) if indices is None else cells

    def _held_out(self, every: Cells) -> Cells:
        """Of all cells of the model's own data those held out, test cells first; others are all."""
        if every.mdata is not self.adata or self.train_indices is None:
            return every
        parts = (getattr(self, f"{name}_indices", None) for name in ("test", "validation"))
        held_out = next((part for part in parts if part is not None and len(part)), ())
        return every.take(np.asarray(held_out, dtype=int))

    def _to_score(self, cells: Cells, caller: str) -> Cells:
        """Cells to score, after checking that none of them was trained on."""
        n_trained = int(self._trained(cells.names).sum())
        if len(cells) < 2 or n_trained:
            found = (
                f"{n_trained} of the {len(cells)} cells to score were trained on, by their names"
            )
            raise ValueError(
                f"{caller}() needs two or more cells that were not trained on; {found}. Train with "
                "train_size below 1, or pass indices=... or new data. Other cells that have the "
                "same names, such as barcodes of another run, need names of their own."
            )
        return cells

    def _trained(self, names: pd.Index) -> np.ndarray:
        """Which cells, by their names, the model was ever trained on; boolean, (n,)."""
        return np.isin(hashes_of(names), self.trained_cells_)

    def _labels_of(self, mdata: MuData, labels_key: str) -> pd.Series:
        """A column of labels as text; missing where not known, as in the set-up."""
        return self._found.categories(mdata, labels_key, f"labels_key={labels_key!r}")

    def _warn_of_labels(self, labels: pd.Series, labels_key: str) -> None:
        """Warn of labels that look missing, and of which the set-up did not warn before."""
        in_setup = labels_key == self._found.arguments["labels_key"]
        known = self._found.classes if in_setup else ()
        warn_of_spelled_missing(labels, f"labels_key={labels_key!r}", known=known)
