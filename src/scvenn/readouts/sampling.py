"""Random draws from a trained model: what cells could look like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mudata import MuData

from scvenn import network
from scvenn.data.keys import Keys
from scvenn.readouts.predictions import ReadoutsMixin


class SamplingMixin(ReadoutsMixin):
    """Samples of :class:`~scvenn.SharedPrivateModel`."""

    def sample_posterior(
        self,
        source: str | Sequence[str],
        target: str,
        mdata: MuData | None = None,
        *,
        n_samples: int = 25,
        indices: Sequence[int] | np.ndarray | None = None,
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
        n_samples
            Number of draws.
        indices
            Positions in ``mdata.obs_names``; None for all cells.
        batch_size
            Cells per forward pass.

        Returns
        -------
        Array (n_samples, n_cells, n_features) on the scale of the data: choose ``indices`` where
        that is too large. NaN where no source was measured.

        Raises
        ------
        ValueError
            If a modality is unknown, ``n_samples`` is below 1, or the data cannot be matched.

        Examples
        --------
        >>> model.sample_posterior("rna", "atac", indices=range(100))  # doctest: +SKIP

        Notes
        -----
        Set ``scvi.settings.seed`` for draws that can be repeated.
        """
        if n_samples < 1:
            raise ValueError(f"n_samples={n_samples!r}: expected a number of at least 1.")
        sources = self._known(source)
        (target,) = self._known(target)
        mdata = self._given(mdata)
        rows = np.arange(mdata.n_obs) if indices is None else np.asarray(indices)
        drawn = np.empty((n_samples, len(rows), len(self._feature_names(target))), np.float32)
        loader = self._minibatches(mdata, {*sources, target}, rows, batch_size, "Sampling")
        for part, tensors in loader:
            for k in range(n_samples):
                drawn[k, part] = network.draw(self.module, tensors, sources, target).cpu().numpy()
        return drawn

    def sample_prior(self, n_obs: int, *, batch: str | None = None) -> dict[str, np.ndarray]:
        """Draw cells that never were: latents from the prior, values from the decoders.

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
        if n_obs < 1:
            raise ValueError(f"n_obs={n_obs!r}: expected a number of at least 1.")
        tensors = {Keys.OBSERVED: torch.ones(1, len(self.modalities))}
        tensors |= {key: torch.zeros(1, 1) for key in self.module.n_categories}
        tensors |= {key: torch.zeros(1, 1) for key in self.module.continuous}
        drawn = network.draw_from_prior(self.module, n_obs, {**tensors, **self._batch_of(batch)})
        return {m: values.cpu().numpy() for m, values in drawn.items()}
