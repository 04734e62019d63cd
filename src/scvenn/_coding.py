"""From values to latents and back: the networks of all modalities.

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
from scvi.module.base import BaseModuleClass, auto_move_data
from torch import Tensor, nn
from torch.func import jvp

from scvenn._gaussians import Gaussian, mean_of_experts, product_of_experts, rsample
from scvenn._keys import Keys
from scvenn._networks import (
    AbsentPrivate,
    CrossDecoder,
    Decoder,
    Encoder,
    LabelHead,
    ScreenedEncoder,
)
from scvenn._views import View
from scvenn.likelihoods import LIKELIHOODS, FeatureStats, Likelihood
from scvenn.objective import Objective, Term

Subset = tuple[str, ...]


class Decoded(NamedTuple):
    """Output of one network of a modality for some of the terms."""

    positions: list[int]  # of the terms, among all of them
    raw: Tensor  # (T, B, R)
    from_shared: bool  # whether the network is the one that reads `shared` alone


class SharedPrivateCoder(BaseModuleClass):
    """Encoders, decoders and likelihoods of :class:`SharedPrivateVAE`, without its loss.

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
    n_hidden, n_layers, dropout_rate
        Of the hidden layers of every network.
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
        :class:`~scvenn._networks.AbsentPrivate`.
    screened
        Whether ``shared`` has networks of its own: encoders and cross-view decoders that read and
        predict some of the features (see :meth:`restrict`).
    decoder
        ``"mlp"``, or ``"linear"`` for decoders without hidden layers.
    """

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
        dropout_rate: float,
        n_categories: Mapping[str, int],
        continuous: Sequence[str],
        encode_covariates: bool,
        n_classes: int,
        absent_private: Literal["zero", "prior", "learned"],
        screened: bool,
        decoder: Literal["mlp", "linear"],
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
        self._index = {m: i for i, m in enumerate(self.modalities)}

        n_covariates = sum(n for n in self.n_categories.values() if n > 1) + len(self.continuous)
        layers: dict[str, Any] = {
            "n_hidden": n_hidden,
            "n_layers": n_layers,
            "dropout": dropout_rate,
            "n_covariates": n_covariates,
        }
        seen = {**layers, "n_covariates": n_covariates if encode_covariates else 0}
        decoding = {**layers, "n_layers": n_layers if decoder == "mlp" else 0}
        encoders, decoders, cross_decoders, scored, absent = [], [], [], [], []
        for m in self.modalities:
            n_features, latents = len(stats[m].mean), (n_shared, n_private[m])
            likelihood = LIKELIHOODS[likelihoods[m]](stats[m])
            n_raw = likelihood.n_outputs * n_features
            encoder = ScreenedEncoder if screened else Encoder
            encoders.append(encoder(n_features, *latents, **seen))
            decoders.append(Decoder(n_raw, *latents, **decoding))
            if screened:
                cross_decoders.append(CrossDecoder(n_raw, n_shared, **decoding))
            scored.append(likelihood)
            absent.append(AbsentPrivate(absent_private, n_private[m]))
        # lists, as a ModuleDict refuses names such as "type" or "a.b"
        self.encoders = nn.ModuleList(encoders)
        self.decoders = nn.ModuleList(decoders)
        self.cross_decoders = nn.ModuleList(cross_decoders)
        self.likelihoods = nn.ModuleList(scored)
        self.absent = nn.ModuleList(absent)
        self.label_head = LabelHead(n_shared, n_classes) if n_classes else None

    def likelihood(self, modality: str) -> Likelihood:
        """The likelihood of a modality."""
        return cast(Likelihood, self.likelihoods[self._index[modality]])

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
            )
            for m in modalities
        }

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
                left_over = self._left_over(m, view, shared.loc, covariates)
                encoded[m] = shared, encoder.encode_private(left_over, seen)
            else:
                encoded[m] = encoder(x, seen)
        return encoded

    @torch.no_grad()
    def _left_over(self, modality: str, view: View, shared: Tensor, covariates: Tensor) -> Tensor:
        """How far values are from what ``shared`` predicts, (B, D), as encoders read them."""
        likelihood = self.likelihood(modality)
        raw = self.cross_decoders[self._index[modality]](shared, covariates)
        predicted = likelihood.encoder_input(likelihood.mean(raw, view.library))
        difference = likelihood.encoder_input(view.x) - predicted
        return torch.where(view.measured, difference, 0.0)

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
        from_shared = self.cross_decoders[i](shared, covariates)
        decoded = [Decoded(decoding, from_shared, from_shared=True)]
        if same := [row for row, cross in enumerate(cross_view) if not cross]:
            raw = from_shared[same].detach() + self.decoders[i](
                shared[same], private[same], covariates
            )
            decoded.append(Decoded([decoding[row] for row in same], raw, from_shared=False))
        return decoded

    # ----------------------------------------------------------------- read-outs

    @torch.inference_mode()
    @auto_move_data
    def posteriors(
        self, tensors: dict[str, Tensor], sources: Sequence[str]
    ) -> tuple[Gaussian, dict[str, Gaussian], Tensor, dict[str, View]]:
        """Posteriors given some modalities: of shared, of each private, and who has any source.

        Where training multiplies posteriors, that of ``shared`` is the sources' product; else its
        mean and variance are the means of the experts' means and variances.
        """
        views = self._views(tensors, sources)
        encoded = self._encode(views, self.covariates(tensors))
        experts, observed = self._experts(encoded, views, sources)
        if self.objective.pools_experts:
            shared = product_of_experts(experts, observed, prior_expert=self.objective.prior_expert)
        else:
            variances = Gaussian(experts.var, experts.loc)
            shared = Gaussian(
                mean_of_experts(experts, observed), mean_of_experts(variances, observed)
            )
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
        shared one is the mean of the sources' product, else the mean of the experts' means.
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
        values = self.likelihood(target).sample(raw, view.library)
        return torch.where(known.unsqueeze(-1), values, torch.nan)

    @torch.inference_mode()
    def draw_from_prior(self, n: int, covariates: Tensor) -> dict[str, Tensor]:
        """Values of n cells of each modality, (n, D), from latents that follow the prior."""
        device = covariates.device
        shared = torch.randn(n, self.n_shared, device=device)
        everywhere = torch.ones(n, dtype=torch.bool, device=device)
        drawn = {}
        for m in self.modalities:
            private = torch.randn(n, self.n_private[m], device=device)
            raw = self._raw(m, shared, private, everywhere, covariates)
            likelihood = self.likelihood(m)
            drawn[m] = likelihood.sample(raw, likelihood.library_.expand(n, 1))
        return drawn

    @torch.inference_mode()
    @auto_move_data
    def label_probabilities(self, shared: Tensor) -> Tensor:
        """Probability of each class, (B, C), given shared latents (B, K)."""
        return self.label_head(shared).exp()  # type: ignore[misc]
