"""From values to latents and back: the networks of all modalities, as training runs them.

Shapes: ``B`` cells, ``D`` features, ``R`` raw parameters of a modality (one or more for each
feature), ``K`` latent size, ``E`` experts, ``T`` terms. Dicts are keyed
by the name of a modality, or by a tuple of names where posteriors are multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from scvi.module.base import BaseModuleClass
from torch import Tensor, nn

from scvenn.data.keys import Keys
from scvenn.likelihoods import LIKELIHOODS, FeatureStats, Likelihood
from scvenn.likelihoods.base import Parts
from scvenn.network.gaussians import Gaussian, product_of_experts
from scvenn.network.layers import (
    AbsentPrivate,
    CrossDecoder,
    Decoder,
    Encoder,
    LabelHead,
    ScreenedEncoder,
)
from scvenn.network.minibatch import View
from scvenn.objective import Objective, Term

Subset = tuple[str, ...]


class Decoded(NamedTuple):
    """Output of one network of a modality for some of the terms."""

    positions: list[int]  # of the terms, among all of them
    raw: Tensor | Parts  # (T, B, R)
    from_shared: bool  # whether the network is the one that reads `shared` alone


class SharedPrivateCoder(BaseModuleClass):
    """Encoders, decoders and likelihoods of every model, without its loss.

    With ``screened`` the private latent of a modality is what ``shared`` leaves over: its encoder
    reads how far values are from their cross-view prediction, and its decoder corrects that
    prediction. Neither has a reason to repeat what is shared.

    Parameters
    ----------
    objective
        The terms; see :class:`~scvenn.Objective`.
    likelihoods
        Name of the likelihood of each modality; gives the stored order of the modalities.
    stats
        Summary of each modality's training data.
    n_shared, n_private
        Latent sizes.
    n_hidden, n_layers
        Of the hidden layers of every network.
    dropout_rate
        Of the hidden layers of each modality's networks.
    n_categories
        Number of categories of each categorical covariate, the batch among them, by the name of its
        tensor.
    continuous
        Names of the tensors of continuous covariates.
    encode_covariates
        Whether the encoders see the covariates as the decoders do.
    n_classes
        Number of label classes; 0 for no label head.
    absent_private
        What a cross-view decoder gets for its private latent; see
        :class:`~scvenn.network.layers.AbsentPrivate`.
    screened
        Whether ``shared`` has networks of its own: encoders and cross-view decoders that read and
        predict some of the features (see :meth:`restrict`).
    decoder
        ``"mlp"``, or ``"linear"`` for decoders without hidden layers.
    dispersion
        ``"feature"``, or ``"feature-batch"`` for likelihoods with a noise for each batch.
    """

    expert_weights: Tensor  # (M,)

    def __init__(
        self,
        objective: Objective,
        likelihoods: Mapping[str, str],
        stats: Mapping[str, FeatureStats],
        *,
        n_shared: int,
        n_private: Mapping[str, int],
        n_hidden: int,
        n_layers: int,
        dropout_rate: Mapping[str, float],
        n_categories: Mapping[str, int],
        continuous: Sequence[str],
        encode_covariates: bool,
        n_classes: int,
        absent_private: Literal["zero", "prior", "learned"],
        screened: bool,
        decoder: Literal["mlp", "linear"],
        dispersion: Literal["feature", "feature-batch"],
    ) -> None:
        super().__init__()
        self.objective = objective
        self.modalities = list(likelihoods)
        self.n_shared = n_shared
        self.n_private = dict(n_private)
        self.n_classes = n_classes
        self.screened = screened
        self.n_categories = dict(n_categories)
        self.continuous = list(continuous)
        self.encode_covariates = encode_covariates
        self.dispersion = dispersion
        self._index = {m: i for i, m in enumerate(self.modalities)}

        n_covariates = sum(n for n in self.n_categories.values() if n > 1) + len(self.continuous)
        layers: dict[str, Any] = {
            "n_hidden": n_hidden,
            "n_layers": n_layers,
            "n_covariates": n_covariates,
        }
        seen = {**layers, "n_covariates": n_covariates if encode_covariates else 0}
        decoding = {**layers, "n_layers": n_layers if decoder == "mlp" else 0}
        n_batches = self.n_categories[Keys.BATCH] if dispersion == "feature-batch" else None
        encoders, decoders, cross_decoders, scored, absent = [], [], [], [], []
        for m in self.modalities:
            n_features, latents = len(stats[m].mean), (n_shared, n_private[m])
            likelihood = LIKELIHOODS[likelihoods[m]](stats[m], n_batches)
            n_raw = likelihood.n_outputs * n_features
            encoder = ScreenedEncoder if screened else Encoder
            dropout = dropout_rate[m]
            encoders.append(encoder(n_features, *latents, dropout=dropout, **seen))
            decoders.append(Decoder(n_raw, *latents, dropout=dropout, **decoding))
            if screened:
                start = likelihood.start()
                cross_decoders.append(CrossDecoder(start, n_shared, dropout=dropout, **decoding))
            scored.append(likelihood)
            absent.append(AbsentPrivate(absent_private, n_private[m]))
        # lists, as a ModuleDict refuses names such as "type" or "a.b"
        self.encoders = nn.ModuleList(encoders)
        self.decoders = nn.ModuleList(decoders)
        self.cross_decoders = nn.ModuleList(cross_decoders)
        self.likelihoods = nn.ModuleList(scored)
        self.absent = nn.ModuleList(absent)
        self.label_head = LabelHead(n_shared, n_classes) if n_classes else None
        # of each modality in the mean of their experts; a model that screens learns them at the end
        n_modalities = len(self.modalities)
        self.register_buffer("expert_weights", torch.full((n_modalities,), 1 / n_modalities))

    def likelihood(self, modality: str) -> Likelihood:
        """The likelihood of a modality."""
        return cast(Likelihood, self.likelihoods[self._index[modality]])

    def set_stats(self, stats: Mapping[str, FeatureStats]) -> None:
        """Start from the statistics of other cells of each modality, before anything is learned.

        In a model that screens, the last layers of the cross-view decoders follow with
        :meth:`restrict`.
        """
        for m, found in stats.items():
            self.likelihood(m).set_stats(found)
        for decoder, likelihood in zip(self.cross_decoders, self.likelihoods, strict=False):
            decoder.baseline.data.copy_(likelihood.start())  # type: ignore[operator]

    def restrict(self, modality: str, reads: np.ndarray, predicts: np.ndarray) -> None:
        """Say which features concern ``shared``; the networks that did all of them start anew.

        Parameters
        ----------
        modality
            Whose features.
        reads, predicts
            Which of them the encoder of ``shared`` reads, and the cross-view decoder predicts;
            boolean, (D,).
        """
        i = self._index[modality]
        encoder, decoder = cast(Any, self.encoders[i]), cast(Any, self.cross_decoders[i])
        encoder.restrict(torch.as_tensor(np.flatnonzero(reads)))
        parameters = np.tile(predicts, self.likelihood(modality).n_outputs)  # (R,)
        decoder.restrict(torch.as_tensor(np.flatnonzero(parameters)))

    def on_load(self, model: Any, **kwargs: Any) -> None:
        """Give the networks the shape they were saved with."""
        for modality, found in (model.screening_ or {}).items():
            self.restrict(modality, reads=found.related, predicts=found.shared)

    # ----------------------------------------------------------------- encoding

    def _views(self, tensors: dict[str, Tensor], modalities: Sequence[str]) -> dict[str, View]:
        """Read modalities from a minibatch so that no unobserved value can reach a result."""
        return {
            m: View.read(
                tensors[Keys.x(m)],
                tensors[Keys.OBSERVED][:, self._index[m]].bool(),
                self.likelihood(m),
                self._batch(tensors),
            )
            for m in modalities
        }

    def _batch(self, tensors: dict[str, Tensor]) -> Tensor | None:
        """Number of each cell's batch, (B,), where batches have a noise of their own."""
        if self.dispersion == "feature":
            return None
        return tensors[Keys.BATCH].view(-1).long()

    def covariates(self, tensors: dict[str, Tensor]) -> Tensor:
        """A column for each category of a covariate that has two or more, and for each number."""
        columns = [
            F.one_hot(tensors[key].view(-1).long(), n)
            for key, n in self.n_categories.items()
            if n > 1
        ]
        columns += [tensors[key] for key in self.continuous]
        nothing = tensors[Keys.OBSERVED].new_zeros((len(tensors[Keys.OBSERVED]), 0))
        return torch.cat([nothing, *columns], dim=1).float()  # (B, V)

    def _encode(
        self, views: dict[str, View], covariates: Tensor
    ) -> dict[str, tuple[Gaussian, Gaussian]]:
        """Posteriors (shared, private) of each modality."""
        encoded = {}
        seen = covariates if self.encode_covariates else None
        for m, view in views.items():
            x = self.likelihood(m).encoder_input(view.x)
            encoder: Any = self.encoders[self._index[m]]
            if self.screened:
                shared = encoder.encode_shared(x, seen)
                left_over = self._left_over(m, x, view, shared.loc, covariates)
                encoded[m] = shared, encoder.encode_private(left_over, seen)
            else:
                encoded[m] = encoder(x, seen)
        return encoded

    @torch.no_grad()
    def _left_over(
        self, modality: str, x: Tensor, view: View, shared: Tensor, covariates: Tensor
    ) -> Tensor:
        """How far values x, as encoders read them, are from what ``shared`` predicts, (B, D)."""
        likelihood = self.likelihood(modality)
        raw = self.cross_decoders[self._index[modality]](shared, covariates)
        left_over = x - likelihood.encoder_input(likelihood.mean(raw, view.library))
        return left_over if view.measured.all() else torch.where(view.measured, left_over, 0.0)

    def _experts(
        self,
        encoded: Mapping[str, tuple[Gaussian, Gaussian]],
        views: Mapping[str, View],
        subset: Sequence[str],
    ) -> tuple[Gaussian, Tensor]:
        """Stack the shared posteriors of a subset, (E, B, K), and where they exist, (E, B)."""
        experts = Gaussian(
            torch.stack([encoded[m][0].loc for m in subset]),
            torch.stack([encoded[m][0].var for m in subset]),
        )
        return experts, torch.stack([views[m].observed for m in subset])

    def _private(self, expert: Gaussian) -> Gaussian:
        """Posterior of a private latent: its one expert, with the prior if that is an expert."""
        if not self.objective.prior_expert:
            return expert
        always = torch.ones_like(expert.loc[None, :, 0], dtype=torch.bool)  # (1, B)
        alone = Gaussian(expert.loc[None], expert.var[None])  # (1, B, K)
        return product_of_experts(alone, always, prior_expert=True)

    # ----------------------------------------------------------------- decoding

    def _decode(
        self,
        modality: str,
        terms: Sequence[Term],
        z_shared: dict[Subset, Tensor],
        z_private: dict[str, Tensor],
        covariates: Tensor,
    ) -> list[Decoded]:
        """Outputs of a modality's decoders for those of the terms that decode it.

        Where ``shared`` has a decoder of its own, that one decodes same-view terms as well: it
        must read the shared latents of all encoders, which makes them agree. The decoder that
        reads both latents then adds to its output.
        """
        decoding = [t for t, term in enumerate(terms) if modality in term.decode]
        if not decoding:
            return []
        samples, present, i = [], z_private[modality], self._index[modality]
        for term in (terms[t] for t in decoding):
            sample = z_shared[term.encode]
            samples.append(sample.detach() if modality in term.detach_shared else sample)
        shared = torch.stack(samples)  # (T, B, K)
        cross_view = [terms[t].is_cross_view(modality) for t in decoding]
        private = torch.stack([self.absent[i](present) if c else present for c in cross_view])
        if not self.screened:
            raw = self.decoders[i](shared, private, covariates)  # (T, B, R)
            return [Decoded(decoding, raw, from_shared=False)]
        cross_decoder: Any = self.cross_decoders[i]
        parts = cross_decoder.parts(shared, covariates)
        from_shared = parts if self.likelihood(modality).separable else parts.whole()
        decoded = [Decoded(decoding, from_shared, from_shared=True)]
        if same := [row for row, cross in enumerate(cross_view) if not cross]:
            fixed = parts._replace(raw=parts.raw[same].detach(), baseline=parts.baseline.detach())
            raw = fixed.whole() + self.decoders[i](shared[same], private[same], covariates)
            decoded.append(Decoded([decoding[row] for row in same], raw, from_shared=False))
        return decoded
