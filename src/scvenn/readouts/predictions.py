"""What a trained model tells: embeddings of cells and predictions across modalities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from mudata import MuData
from torch import Tensor
from tqdm.auto import tqdm

from scvenn.data.checks import some
from scvenn.data.keys import Keys
from scvenn.data.registration import ColumnField
from scvenn.screening import Screening


class ReadoutsMixin:
    """Read-outs of :class:`~scvenn.SharedPrivateModel`.

    Every method takes the training data (``mdata=None``) or a new MuData, which may hold fewer
    modalities, other cells in any order, and more features in any order: cells and features are
    matched by name. Nothing is written but by :meth:`embed`.
    """

    module: Any
    adata: Any
    screening_: dict[str, Screening] | None
    train_indices: Any

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities the model knows, in the order in which they were set up."""
        return list(self.module.modalities)

    # ----------------------------------------------------------------- embeddings

    def get_shared_representation(
        self,
        mdata: MuData | None = None,
        *,
        from_modalities: str | Sequence[str] | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Shared latent of each cell.

        Models that multiply posteriors in training (MVAE, MoPoE-VAE) give the mean of the product
        over a cell's observed modalities; the others (MMVAE, MMVAE++) the mean of the means,
        weighted where the model screens (:attr:`expert_weights`).

        Parameters
        ----------
        mdata
            Data to embed; None for the training data.
        from_modalities
            Read only these modalities; None for all.
        indices
            Positions in ``mdata.obs_names``; None for all cells.
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
        """
        sources = self._known(from_modalities)
        return self._embed(mdata, sources, indices, batch_size, "Shared embedding")[0]

    def get_private_representation(
        self,
        modality: str,
        mdata: MuData | None = None,
        *,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Private latent of one modality in each cell.

        Parameters
        ----------
        modality
            Which modality.
        mdata, indices, batch_size
            As in :meth:`get_shared_representation`.

        Returns
        -------
        Array (n_cells, n_private). A row is NaN where the modality was not measured.

        Raises
        ------
        ValueError
            If the modality is unknown, or the data cannot be matched to the training data.
        """
        sources = self._known(modality)
        return self._embed(mdata, sources, indices, batch_size, "Private embedding")[1][modality]

    def get_latent_representation(
        self,
        mdata: MuData | None = None,
        *,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Shared and all private latents side by side.

        Parameters
        ----------
        mdata, indices, batch_size
            As in :meth:`get_shared_representation`.

        Returns
        -------
        Array (n_cells, n_shared + n_private of each modality in turn); NaN where not measured.
        """
        shared, private = self._embed(
            mdata, self.modalities, indices, batch_size, "Latent representation"
        )
        return np.hstack([shared, *private.values()])

    def embed(
        self,
        mdata: MuData | None = None,
        *,
        key_prefix: str = "X",
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
        batch_size
            Cells per forward pass.

        Raises
        ------
        ValueError
            If the MuData is a view, or cannot be matched to the training data.
        """
        mdata = self._written_to(mdata, "embed")
        shared, private = self._embed(mdata, self.modalities, None, batch_size, "Embeddings")
        mdata.obsm[Keys.shared(key_prefix)] = shared
        for m in self.modalities:
            if m not in mdata.mod:
                continue
            mdata.obsm[Keys.private(m, key_prefix)] = private[m]
            adata = mdata.mod[m]
            rows = mdata.obs_names.get_indexer(adata.obs_names)
            adata.obsm[Keys.shared(key_prefix)] = shared[rows]
            adata.obsm[Keys.private(prefix=key_prefix)] = private[m][rows]
            if self.screening_ is not None:
                score = pd.Series(self.screening_[m].score, index=self._feature_names(m))
                adata.var[Keys.SHARED_SCORE] = score.reindex(adata.var_names).to_numpy()
        mdata.uns[Keys.UNS] = {
            "model": type(self).__name__,
            "key_prefix": key_prefix,
            "modalities": self.modalities,
            "versions": self.versions_,  # type: ignore[attr-defined]
        }

    # ----------------------------------------------------------------- predictions

    def predict(
        self,
        source: str | Sequence[str],
        target: str,
        mdata: MuData | None = None,
        *,
        features: Sequence[str] | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
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
            those of counts relative to the library size do not heed it.
        return_numpy
            Whether to return an array instead of a DataFrame.

        Returns
        -------
        Cells by features, on the scale of the data; DataFrames are indexed by ``obs_names`` and
        named by the target's ``var_names``. Counts are scaled to the cell's own library size
        where the target was measured, elsewhere to the median of training. Rows are NaN where no
        source was measured.

        Raises
        ------
        ValueError
            If a modality, feature or batch is unknown, or the data cannot be matched.

        Examples
        --------
        >>> model.predict("rna", "atac")  # doctest: +SKIP
        """
        mdata = self._given(mdata)
        rows, columns, predicted = self._predicting(
            source,
            target,
            mdata,
            features=features,
            indices=indices,
            transform_batch=transform_batch,
            library_size=library_size,
            batch_size=batch_size,
        )
        values = np.empty((len(rows), len(columns)), np.float32)
        for part, block in predicted:
            values[part] = block
        if return_numpy:
            return values
        return pd.DataFrame(
            values, index=mdata.obs_names[rows], columns=self._feature_names(target)[columns]
        )

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
        sources = [m for m in self.modalities if m in self._given(mdata).mod]
        return self.predict(sources, modality, mdata, library_size=library_size, **kwargs)

    # ----------------------------------------------------------------- helpers

    def _predicting(
        self,
        source: str | Sequence[str],
        target: str,
        mdata: MuData,
        *,
        features: Sequence[str] | None,
        indices: Sequence[int] | np.ndarray | None,
        transform_batch: str | None,
        library_size: float | None,
        batch_size: int | None,
    ) -> tuple[np.ndarray, np.ndarray, Iterator[tuple[slice, np.ndarray]]]:
        """Cells and features to predict, and the prediction, a minibatch of cells at a time."""
        if library_size is not None and not library_size > 0:
            raise ValueError(f"library_size={library_size!r}: expected None or a number above 0.")
        sources = self._known(source)
        (target,) = self._known(target)
        columns = self._columns(target, features)
        rows = _rows(mdata, indices)
        replaced = self._batch_of(transform_batch)

        def predicted() -> Iterator[tuple[slice, np.ndarray]]:
            read = {*sources, target}
            loader = self._minibatches(mdata, read, rows, batch_size, f"Predicting {target}")
            for part, tensors in loader:
                mean = self.module.predict(
                    tensors,
                    sources,
                    target,
                    replaced={k: v.expand(len(tensors[k]), -1) for k, v in replaced.items()},
                    library_size=library_size,
                )
                yield part, _numpy(mean[:, columns])

        return rows, columns, predicted()

    def _known(self, modalities: str | Sequence[str] | None) -> list[str]:
        """Check names of modalities; None means all."""
        if modalities is None:
            return self.modalities
        names = [modalities] if isinstance(modalities, str) else list(modalities)
        if not names or not set(names) <= set(self.modalities) or len(set(names)) < len(names):
            raise ValueError(
                f"Expected one or more of the model's modalities {self.modalities}, each once; "
                f"found {names}."
            )
        return names

    def _batch_of(self, batch: str | None) -> dict[str, Tensor]:
        """A covariate's tensor (1, 1) that says which batch; nothing for None."""
        if batch is None:
            return {}
        state = self.registry_["field_registries"][Keys.BATCH]["state_registry"]  # type: ignore[attr-defined]
        known = list(state[Keys.CATEGORIES])
        if str(batch) not in known:
            raise ValueError(
                f"transform_batch={batch!r}: expected one of the batches {some(known)}"
                + ("." if known else "; the model was set up without batch_key.")
            )
        return {Keys.BATCH: torch.tensor([[known.index(str(batch))]])}

    def _feature_names(self, modality: str) -> np.ndarray:
        return self.get_var_names()[modality]  # type: ignore[attr-defined]

    def _columns(self, modality: str, features: Sequence[str] | None) -> np.ndarray:
        """Positions of features by their names; None means all."""
        names = pd.Index(self._feature_names(modality))
        if features is None:
            return np.arange(len(names))
        columns = names.get_indexer(list(features))
        if (columns < 0).any():
            unknown = [f for f, c in zip(features, columns, strict=True) if c < 0]
            raise ValueError(
                f"features={unknown[:5]}{'…' if len(unknown) > 5 else ''} ({len(unknown)} in all) "
                f"not found among the {len(names)} features of {modality!r}, such as "
                f"{list(names[:3])}."
            )
        return columns

    def _given(self, mdata: MuData | None) -> MuData:
        """Return the data asked for, after checking that there is a trained model to read it."""
        mdata = self._validate_anndata(mdata)  # type: ignore[attr-defined]
        self._check_if_trained(warn=True)  # type: ignore[attr-defined]
        return mdata

    def _labels_of(self, mdata: MuData, labels_key: str) -> pd.Series:
        """A column of labels as text; missing where not known, as setup_mudata was told."""
        used = self.registry_["setup_args"]  # type: ignore[attr-defined]
        unknown = used["unlabeled_category"] if labels_key == used["labels_key"] else None
        return ColumnField(Keys.LABELS, labels_key, unknown).values(mdata)

    def _written_to(self, mdata: MuData | None, caller: str) -> MuData:
        """The same, where results are to be written."""
        mdata = self._given(mdata)
        if mdata.is_view:
            raise ValueError(
                f"{caller}() found a view of a MuData, which would not keep what is written. Pass "
                "a copy: mdata = mdata.copy()."
            )
        return mdata

    def _held_out(self, mdata: MuData, indices: Sequence[int] | np.ndarray | None) -> np.ndarray:
        """Positions of the cells asked for; None means those not trained on, test cells first."""
        if indices is not None or mdata is not self.adata or self.train_indices is None:
            return _rows(mdata, indices)
        held_out = (getattr(self, f"{name}_indices", None) for name in ("test", "validation"))
        return next((np.asarray(i) for i in held_out if i is not None and len(i)), _rows(mdata, []))

    def _cells_to_score(
        self, mdata: MuData, indices: Sequence[int] | np.ndarray | None, caller: str
    ) -> np.ndarray:
        """The same, after checking that none of them was trained on."""
        test = self._held_out(mdata, indices)
        known = self.adata is not None and self.train_indices is not None
        seen = self.adata.obs_names[self.train_indices] if known else []
        trained = mdata.obs_names[test].intersection(seen)
        if len(test) < 2 or len(trained):
            found = f"{len(trained)} of the {len(test)} cells to score were trained on"
            raise ValueError(
                f"{caller}() needs two or more cells that were not trained on; {found}. Train with "
                "train_size below 1, or pass indices=... or new data."
            )
        return test

    def _minibatches(
        self,
        mdata: MuData,
        modalities: set[str],
        rows: np.ndarray,
        batch_size: int | None,
        description: str,
    ) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Minibatches of the given modalities, and where their results go; a bar if slow."""
        keys = [Keys.x(m) for m in self.modalities if m in modalities]
        covariates = [*self.module.n_categories, *self.module.continuous]
        loader = self._make_data_loader(  # type: ignore[attr-defined]
            adata=mdata,
            indices=rows,
            batch_size=batch_size,
            data_and_attributes=[*keys, Keys.OBSERVED, *covariates],
        )
        done = 0
        for tensors in tqdm(loader, desc=description, leave=False, delay=2):
            n_cells = len(tensors[Keys.OBSERVED])
            yield slice(done, done + n_cells), tensors
            done += n_cells

    def _embed(
        self,
        mdata: MuData | None,
        sources: Sequence[str],
        indices: Sequence[int] | np.ndarray | None,
        batch_size: int | None,
        description: str,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Shared embedding given the sources, and the private one of each, in one pass."""
        mdata = self._given(mdata)
        rows = _rows(mdata, indices)
        shared = np.empty((len(rows), self.module.n_shared), np.float32)
        private = {m: np.empty((len(rows), self.module.n_private[m]), np.float32) for m in sources}
        loader = self._minibatches(mdata, set(sources), rows, batch_size, description)
        for part, tensors in loader:
            z_shared, z_private = self.module.embed(tensors, sources)
            shared[part] = _numpy(z_shared)
            for m, z in z_private.items():
                private[m][part] = _numpy(z)
        return shared, private


def _rows(mdata: MuData, indices: Sequence[int] | np.ndarray | None) -> np.ndarray:
    """Positions of the cells asked for; ``indices`` may be a boolean mask as well."""
    every = np.arange(mdata.n_obs)
    if indices is None:
        return every
    chosen = np.asarray(indices)
    try:
        return every[chosen] if chosen.size else every[:0]
    except IndexError as error:
        raise ValueError(
            f"indices must be positions or a mask of the {mdata.n_obs} cells: {error}."
        ) from error


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
