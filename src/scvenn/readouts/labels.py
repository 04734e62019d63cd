"""What a supervised model says of the labels of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from mudata import MuData

from scvenn import network
from scvenn.data.keys import Keys
from scvenn.readouts.predictions import ReadoutsMixin


class LabelsMixin(ReadoutsMixin):
    """Labels of :class:`~scvenn.SharedPrivateModel`."""

    registry_: Any

    def predict_labels(
        self,
        mdata: MuData | None = None,
        *,
        from_modalities: str | Sequence[str] | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
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
            Positions in ``mdata.obs_names``; None for all cells.
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
        On cells whose labels were used in training, these probabilities say how well they were
        learned, not how well labels are predicted. ``model.history["accuracy_labels_validation"]``
        is the accuracy in cells that were held out. Source: Märtens & Yau (MLCB 2023).
        """
        head = self.module.label_head
        if head is None:
            raise ValueError(
                "predict_labels(): this model was trained without labels. Name their column with "
                "setup_mudata(mdata, labels_key=...) before building it."
            )
        mdata = self._given(mdata)
        sources = self._known(from_modalities)
        labels = self.registry_["field_registries"][Keys.LABELS]["state_registry"][Keys.CATEGORIES]
        shared = self._embed(mdata, sources, indices, batch_size, "Labels")[0]
        cells = mdata.obs_names if indices is None else mdata.obs_names[np.asarray(indices)]
        probabilities = (
            network.label_probabilities(self.module, torch.as_tensor(shared)).cpu().numpy()
        )
        return pd.DataFrame(probabilities, index=cells, columns=labels)
