"""Models for sharing: what the encoders made of the cells, without their values."""

from __future__ import annotations

import logging

import numpy as np

from scvenn import network
from scvenn.data import minified
from scvenn.models.saving import SavingMixin
from scvenn.readouts import LatentMethods

logger = logging.getLogger("scvi.scvenn")


class MinifyingMixin(LatentMethods, SavingMixin):
    """Minified data for :class:`~scvenn.SharedPrivateModel`."""

    def minify_mudata(self) -> None:
        """Replace the values of the model's data by what the encoders made of them.

        For sharing: the data of the model is then a few numbers for each cell, and without any
        counts. Embeddings, predictions, draws, loadings, differential expression and novelty are
        those of before, bit for bit, from any of the modalities. What compares predictions with
        values, such as :meth:`evaluate`, and training need the values: pass data that has them, or
        load the model with it.

        ``model.adata`` becomes another MuData, and yours is only read. It has the names, ``obs``,
        ``var``, ``obsm``, ``obsp`` and ``uns`` of yours and of its modalities, and ``varm`` and
        ``varp`` of the modalities: look through these before you share it.
        ``X``, ``layers`` and ``raw`` are left out, and so are modalities that the model does not
        read. Of each modality ``obsm["scvenn_posterior"]`` has means and variances of the shared
        and the private latent given this modality alone, and the sum of the cell's values.

        Raises
        ------
        ValueError
            If the model was not trained or was loaded without data, or its data was changed since
            it was set up.

        Examples
        --------
        >>> import scvenn
        >>> mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20)
        >>> model = scvenn.MMVAEpp(mdata)
        >>> model.train(1, enable_progress_bar=False)
        >>> model.minify_mudata()
        >>> model.predict("rna", "atac").shape
        (200, 20)
        >>> model.save("model", save_anndata=True)
        >>> shared = scvenn.MMVAEpp.load("model")

        Notes
        -----
        As ``minify_mudata`` of scvi-tools' models, with the posteriors of each modality, from which
        those given any of them follow.
        """
        if not self.is_trained_:
            raise ValueError("minify_mudata() needs a trained model; call train() first.")
        cells = self._cells(None, None, None)
        posteriors: dict[str, list[np.ndarray]] = {m: [] for m in cells.modalities}
        for _, tensors in cells.minibatches(cells.modalities, "Minifying"):
            for m, found in posteriors.items():
                found.append(network.encoded(self.module, tensors, m).cpu().numpy())
        of_cells = {m: np.concatenate(found) for m, found in posteriors.items()}
        manager = self.adata_manager
        self._attach(minified(manager.adata, of_cells, manager.name_posteriors()))
        logger.info(
            "Minified: %d cells have %.1f MB of posteriors in place of their values.",
            len(cells),
            sum(z.nbytes for z in of_cells.values()) / 1e6,
        )
