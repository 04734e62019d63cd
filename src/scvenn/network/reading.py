"""What the networks of a trained model say: embeddings, predictions, slopes and draws.

Shapes: ``B`` cells, ``D`` features, ``R`` raw parameters of a modality, ``K`` latent size, ``C``
classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scvi.module.base import auto_move_data
from torch import Tensor
from torch.func import jvp

from scvenn.network.coding import SharedPrivateCoder
from scvenn.network.gaussians import Gaussian, mean_of_experts, product_of_experts, rsample
from scvenn.network.minibatch import View


class SharedPrivateReader(SharedPrivateCoder):
    """Read-outs of :class:`~scvenn.network.vae.SharedPrivateVAE`; nothing here is used in training."""

    @torch.inference_mode()
    @auto_move_data
    def posteriors(
        self, tensors: dict[str, Tensor], sources: Sequence[str]
    ) -> tuple[Gaussian, dict[str, Gaussian], Tensor, dict[str, View]]:
        """Posteriors given some modalities: of shared, of each private, and who has any source.

        Where training multiplies posteriors, that of ``shared`` is the sources' product; else its
        mean and variance are the means of the experts', weighted by :attr:`expert_weights`.
        """
        views = self._views(tensors, sources)
        encoded = self._encode(views, self.covariates(tensors))
        experts, observed = self._experts(encoded, views, sources)
        if self.objective.pools_experts:
            shared = product_of_experts(experts, observed, prior_expert=self.objective.prior_expert)
        else:
            weights = self.expert_weights[[self._index[m] for m in sources]]
            shared = Gaussian(*(mean_of_experts(v, observed, weights) for v in experts))
        private = {m: self._private(encoded[m][1]) for m in sources}
        return shared, private, observed.any(0), views

    @torch.inference_mode()
    @auto_move_data
    def embed(
        self, tensors: dict[str, Tensor], sources: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Posterior means given some modalities.

        Parameters
        ----------
        tensors
            A minibatch that holds the sources.
        sources
            Modalities to encode.

        Returns
        -------
        The shared latent, (B, K), NaN where no source was observed; and the private latent of each
        source, (B, K), NaN where it was not observed. Where training multiplies posteriors, the
        shared one is the mean of the sources' product, else the weighted mean of the experts'.
        """
        q_shared, q_private, known, views = self.posteriors(tensors, sources)
        shared = torch.where(known.unsqueeze(-1), q_shared.loc, torch.nan)
        private = {
            m: torch.where(views[m].observed.unsqueeze(-1), q.loc, torch.nan)
            for m, q in q_private.items()
        }
        return shared, private

    @torch.inference_mode()
    @auto_move_data
    def predict(
        self,
        tensors: dict[str, Tensor],
        sources: Sequence[str],
        target: str,
        *,
        replaced: dict[str, Tensor] | None = None,
        library_size: float | None = None,
    ) -> Tensor:
        """Mean of a modality given the posterior means of the sources.

        The private latent of the target is used where the target is a source that was observed;
        elsewhere the prediction is cross-view, with a private latent of zero. Counts are scaled by
        the cell's own library size where the target was observed, else by the training median.

        Parameters
        ----------
        tensors
            A minibatch that holds the sources.
        sources, target
            Modalities to encode, and the one to decode.
        replaced
            Covariates that the decoder is to see instead of the cells' own.
        library_size
            Sum of the counts of every cell, instead of its own.

        Returns
        -------
        Shape (B, D), on the scale of the data; NaN where no source was observed.
        """
        shared, private = self.embed(tensors, sources)
        view = self._views(tensors, [target])[target]
        same_view = view.observed & (target in sources)
        z_private = private.get(target, shared.new_zeros(len(shared), self.n_private[target]))
        covariates = self.covariates({**tensors, **(replaced or {})})
        raw = self._raw(target, shared, z_private.nan_to_num(0.0), same_view, covariates)
        library = view.library
        if library_size is not None:
            library = torch.full_like(library, library_size)
        mean = self.likelihood(target).mean(raw, library)
        # a baseline needs no source, but a prediction does
        return torch.where(shared[:, :1].isnan(), torch.nan, mean)

    def _raw(
        self,
        modality: str,
        shared: Tensor,
        private: Tensor,
        same_view: Tensor,
        covariates: Tensor,
    ) -> Tensor:
        """Parameters (B, R) from latents (B, K), and from shared alone where not same-view (B,)."""
        i = self._index[modality]
        raw = self.decoders[i](shared, private, covariates)
        if self.screened:
            cross: Any = self.cross_decoders[i]
            correction = torch.where(same_view.unsqueeze(-1), raw, cross.of_baselines(shared))
            raw = cross(shared, covariates) + correction
        return raw

    def _raw_given(
        self, tensors: dict[str, Tensor], modality: str, shared: Tensor, private: Tensor | None
    ) -> Tensor:
        """Parameters (B, R) from latents (B, K); without a private one, as across views."""
        same_view = shared.new_full((len(shared),), private is not None, dtype=torch.bool)
        if private is None:
            private = shared.new_zeros(len(shared), self.n_private[modality])
        return self._raw(modality, shared, private, same_view, self.covariates(tensors))

    @torch.inference_mode()
    @auto_move_data
    def decode(
        self,
        tensors: dict[str, Tensor],
        modality: str,
        shared: Tensor,
        private: Tensor | None,
        library: float = 1.0,
    ) -> Tensor:
        """Mean of a modality given latents, whatever they are.

        Parameters
        ----------
        tensors
            A minibatch that holds the covariates.
        modality
            Which one to decode.
        shared, private
            Latents, (B, K). Without a private one the prediction is that from shared alone.
        library
            Sum of the counts of every cell.

        Returns
        -------
        Shape (B, D), on the scale of the data.
        """
        raw = self._raw_given(tensors, modality, shared, private)
        return self.likelihood(modality).mean(raw, shared.new_full((1,), library))

    @torch.no_grad()
    @auto_move_data
    def slopes(
        self, tensors: dict[str, Tensor], modality: str, shared: Tensor, private: Tensor | None
    ) -> Tensor:
        """How a modality's prediction changes with each dimension of a latent, summed over cells.

        With a private latent, that one is moved, else the shared one.

        Parameters
        ----------
        tensors, modality, shared, private
            As in :meth:`decode`.

        Returns
        -------
        Shape (K, D). The prediction is the logarithm of the mean for counts; for all others it is
        the output of the decoder: standard deviations of the feature, or logits.
        """
        likelihood = self.likelihood(modality)

        def predicted(latent: Tensor) -> Tensor:
            latents = (latent, None) if private is None else (shared, latent)
            raw = self._raw_given(tensors, modality, *latents)
            return likelihood.mean(raw, raw.new_ones(1)).log() if likelihood.of_counts else raw

        moved = shared if private is None else private  # (B, K)
        # one direction at a time: all at once would hold K arrays of cells by features
        steps = torch.eye(moved.shape[1], device=moved.device)
        return torch.stack(
            [jvp(predicted, (moved,), (step.expand_as(moved),))[1].sum(0) for step in steps]
        )

    @torch.inference_mode()
    @auto_move_data
    def draw(self, tensors: dict[str, Tensor], sources: Sequence[str], target: str) -> Tensor:
        """One draw of a modality given the sources: of the latents, then of the values, (B, D)."""
        q_shared, q_private, known, _ = self.posteriors(tensors, sources)
        shared, view = rsample(q_shared), self._views(tensors, [target])[target]
        same_view = view.observed & (target in sources)
        private = shared.new_zeros(len(shared), self.n_private[target])
        if target in sources:
            private = torch.where(same_view.unsqueeze(-1), rsample(q_private[target]), private)
        raw = self._raw(target, shared, private, same_view, self.covariates(tensors))
        values = self.likelihood(target).sample(raw, view.library, view.batch)
        return torch.where(known.unsqueeze(-1), values, torch.nan)

    @torch.inference_mode()
    @auto_move_data
    def draw_from_prior(self, n: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Values of each modality, (n, D), of n cells whose latents follow the prior.

        Parameters
        ----------
        n
            Number of cells.
        tensors
            The covariates of all of them, as a minibatch of one cell.
        """
        everyone = {key: value.expand(n, -1) for key, value in tensors.items()}
        covariates, batch = self.covariates(everyone), self._batch(everyone)  # (n, V), (n,)
        device = covariates.device
        shared = torch.randn(n, self.n_shared, dtype=covariates.dtype, device=device)
        everywhere = torch.ones(n, dtype=torch.bool, device=device)
        drawn = {}
        for m in self.modalities:
            private = torch.randn(n, self.n_private[m], dtype=covariates.dtype, device=device)
            raw = self._raw(m, shared, private, everywhere, covariates)
            likelihood = self.likelihood(m)
            drawn[m] = likelihood.sample(raw, likelihood.library_.expand(n, 1), batch)
        return drawn

    @torch.inference_mode()
    @auto_move_data
    def label_probabilities(self, shared: Tensor) -> Tensor:
        """Probability of each class, (B, C), given shared latents (B, K)."""
        return self.label_head(shared).exp()  # type: ignore[misc]
