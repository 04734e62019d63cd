"""The network behind every model: encode once, decode once, score the terms of an objective.

Shapes: ``B`` cells, ``D`` features, ``K`` latent size, ``E`` experts, ``T`` terms. Dicts are keyed
by the name of a modality, or by a tuple of names where posteriors are multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn

from scvenn._gaussians import (
    Gaussian,
    kl_to_standard_normal,
    mean_of_experts,
    product_of_experts,
    rsample,
)
from scvenn._keys import Keys
from scvenn._networks import CrossDecoder, Decoder, Encoder, LabelHead
from scvenn._views import View
from scvenn.likelihoods import LIKELIHOODS, FeatureStats, Likelihood
from scvenn.objective import Objective, Term

Subset = tuple[str, ...]


class Decoded(NamedTuple):
    """Output of one network of a modality for some of the terms."""

    positions: list[int]  # of the terms, among all of them
    raw: Tensor  # (T, B, D)
    from_shared: bool  # whether the network is the one that reads `shared` alone


class SharedPrivateVAE(BaseModuleClass):
    r"""Multimodal VAE with latents z = [shared, private of each modality].

    The loss of a cell with observed modalities :math:`O` is

    .. math::

        L = \sum_t w_t \Big[ -\!\! \sum_{m \in D_t \cap O} \log p(x_m \mid s, p_m)
            + \beta \Big( \alpha\, \mathrm{KL}[q(s \mid x_{S_t}) \,\|\, N(0, I)]
            + \!\! \sum_{j \in S_t \cap D_t} \mathrm{KL}[q(p_j \mid x_j) \,\|\, N(0, I)] \Big)
            - \lambda \log p(y \mid s) \Big],
        \qquad S_t = E_t \cap O

    A term with empty :math:`S_t` is skipped. :math:`w_t` is 1 for ``"sum"`` and 1 over the number
    of terms left for ``"mean"``; :math:`\alpha` is 1 in the paper. Märtens & Yau (MLCB 2023),
    sections 2 and 3.

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
    n_batch
        Number of batches the decoders see.
    encode_covariates
        Whether the encoders see the batch, too.
    n_classes
        Number of label classes; 0 for no label head.
    label_weight
        :math:`\lambda`, the weight of the labels' log-likelihood.
    absent_private
        What a cross-view decoder gets for its private latent: ``"zero"`` or a ``"prior"`` sample.
    screened
        Whether ``shared`` has networks of its own: encoders and cross-view decoders that read and
        predict a feature as far as its gate is open (see :meth:`open_gates`).
    kl_weight_shared
        Weight of the KL of the shared latent, relative to :math:`\beta`.
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
        n_batch: int,
        encode_covariates: bool,
        n_classes: int,
        label_weight: float,
        absent_private: Literal["zero", "prior"],
        screened: bool,
        kl_weight_shared: float,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.modalities = list(likelihoods)
        self.n_shared = n_shared
        self.n_private = dict(n_private)
        self.n_classes = n_classes
        self.label_weight = label_weight
        self.absent_private = absent_private
        self.screened = screened
        self.kl_weight_shared = kl_weight_shared
        self._index = {m: i for i, m in enumerate(self.modalities)}

        layers: dict[str, Any] = {
            "n_hidden": n_hidden,
            "n_layers": n_layers,
            "dropout": dropout_rate,
        }
        encoders, decoders, cross_decoders, scored = [], [], [], []
        for m in self.modalities:
            sizes = (len(stats[m].mean), n_shared, n_private[m])
            seen = n_batch if encode_covariates else 0
            encoders.append(Encoder(*sizes, gated=screened, n_batch=seen, **layers))
            decoders.append(Decoder(*sizes, n_batch=n_batch, **layers))
            if screened:
                cross_decoders.append(CrossDecoder(*sizes[:2], n_batch=n_batch, **layers))
            scored.append(LIKELIHOODS[likelihoods[m]](stats[m]))
        # lists, as a ModuleDict refuses names such as "type" or "a.b"
        self.encoders = nn.ModuleList(encoders)
        self.decoders = nn.ModuleList(decoders)
        self.cross_decoders = nn.ModuleList(cross_decoders)
        self.likelihoods = nn.ModuleList(scored)
        self.label_head = LabelHead(n_shared, n_classes) if n_classes else None

        trained = {(term.encode, m) for term in objective.terms for m in term.decode}
        # Cross-view pairs the objective leaves out are still worth watching.
        self._watched = [
            Term((a,), (b,))
            for a, b in permutations(self.modalities, 2)
            if ((a,), b) not in trained
        ]

    def likelihood(self, modality: str) -> Likelihood:
        """The likelihood of a modality."""
        return cast(Likelihood, self.likelihoods[self._index[modality]])

    @torch.no_grad()
    def open_gates(self, modality: str, reads: np.ndarray, predicts: np.ndarray) -> None:
        """Say which features concern ``shared``.

        Parameters
        ----------
        modality
            Whose features.
        reads, predicts
            How far the encoder of ``shared`` reads each feature, and the cross-view decoder
            predicts it: from 0 to 1, or boolean, (D,).
        """
        i = self._index[modality]
        for network, gate in ((self.encoders[i], reads), (self.cross_decoders[i], predicts)):
            network.gate.copy_(torch.as_tensor(gate))  # type: ignore[operator]

    # ----------------------------------------------------------------- inference

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

    def _encode(
        self, views: dict[str, View], batch: Tensor
    ) -> dict[str, tuple[Gaussian, Gaussian]]:
        """Posteriors (shared, private) of each modality."""
        encoded = {}
        for m, view in views.items():
            x = self.likelihood(m).encoder_input(view.x)
            encoded[m] = self.encoders[self._index[m]](x, batch)
        return encoded

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

    def _get_inference_input(
        self, tensors: dict[str, Tensor], full_forward_pass: bool = False
    ) -> dict[str, Any]:
        return {"views": self._views(tensors, self.modalities), "batch": tensors[Keys.BATCH]}

    def inference(self, views: dict[str, View], batch: Tensor) -> dict[str, Any]:
        """Encode each modality once; one shared posterior and sample for each encoded subset."""
        encoded = self._encode(views, batch)
        subsets = dict.fromkeys(term.encode for term in (*self.objective.terms, *self._watched))
        shared = {
            subset: product_of_experts(
                *self._experts(encoded, views, subset), prior_expert=self.objective.prior_expert
            )
            for subset in subsets
        }
        private = {m: self._private(encoded[m][1]) for m in self.modalities}
        return {
            "views": views,
            "shared": shared,
            "private": private,
            "z_shared": {subset: rsample(q) for subset, q in shared.items()},  # (B, K) each
            "z_private": {m: rsample(q) for m, q in private.items()},
        }

    # ----------------------------------------------------------------- generative

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        return {
            "z_shared": inference_outputs["z_shared"],
            "z_private": inference_outputs["z_private"],
            "batch": tensors[Keys.BATCH],
        }

    def generative(
        self, z_shared: dict[Subset, Tensor], z_private: dict[str, Tensor], batch: Tensor
    ) -> dict[str, Any]:
        """Run each decoder once, on the stacked latents of all terms that it decodes."""
        latents = (z_shared, z_private, batch)
        raw = {m: self._decode(m, self.objective.terms, *latents) for m in self.modalities}
        with torch.no_grad():
            watched = {m: self._decode(m, self._watched, *latents) for m in self.modalities}
        return {"raw": raw, "raw_watched": watched}

    def _decode(
        self,
        modality: str,
        terms: Sequence[Term],
        z_shared: dict[Subset, Tensor],
        z_private: dict[str, Tensor],
        batch: Tensor,
    ) -> list[Decoded]:
        """Outputs of a modality's decoders for those of the terms that decode it.

        Where ``shared`` has a decoder of its own, that one decodes same-view terms as well: it
        must read the shared latents of all encoders, which makes them agree.
        """
        decoding = [t for t, term in enumerate(terms) if modality in term.decode]
        own = [t for t in decoding if not (self.screened and terms[t].is_cross_view(modality))]
        groups = {False: own, True: decoding if self.screened else []}  # by `from_shared`
        i, decoded = self._index[modality], []
        for from_shared, positions in groups.items():
            if not positions:
                continue
            shared, private = [], []
            for term in (terms[t] for t in positions):
                sample = z_shared[term.encode]
                shared.append(sample.detach() if modality in term.detach_shared else sample)
                present = z_private[modality]
                private.append(self._absent(present) if term.is_cross_view(modality) else present)
            rows = batch.repeat(len(positions), 1)  # (T * B, 1)
            raw = (
                self.cross_decoders[i](torch.cat(shared), rows)
                if from_shared
                else self.decoders[i](torch.cat(shared), torch.cat(private), rows)
            )
            raw = raw.view(len(positions), len(batch), -1)  # (T * B, D) -> (T, B, D)
            decoded.append(Decoded(positions, raw, from_shared))
        return decoded

    def _absent(self, private: Tensor) -> Tensor:
        """What stands in for a private latent that was not encoded."""
        if self.absent_private == "prior":
            return torch.randn_like(private)
        return torch.zeros_like(private)

    # ----------------------------------------------------------------- loss

    def _log_likelihoods(
        self, raw: Mapping[str, list[Decoded]], views: dict[str, View]
    ) -> dict[tuple[int, str, bool], Tensor]:
        """Log-likelihood (B,) by term, modality and network; 0 where it was not measured."""
        scores = {}
        for m, decoded in raw.items():
            view = views[m]
            for positions, output, from_shared in decoded:
                if from_shared and self.training:
                    self.likelihood(m).follow_cross_view(output, view.x, view.measured)
                values = self.likelihood(m).log_prob(
                    output, view.x, view.library, cross_view=from_shared
                )
                if view.measured.shape[-1] > 1:  # some entries of a cell are missing
                    values = torch.where(view.measured, values, 0.0)
                per_cell = torch.where(view.observed, values.sum(-1), 0.0)  # (T, B, D) -> (T, B)
                for t, row in zip(positions, per_cell, strict=True):
                    scores[t, m, from_shared] = row
        return scores

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        kl_weight: float = 1.0,
    ) -> LossOutput:
        """Score the terms; see the equation of the class.

        Returns
        -------
        ``loss`` is the mean over cells. ``reconstruction_loss`` and ``kl_local``, (B,), are the
        parts of the objective without ``kl_weight`` and without labels. ``extra_metrics`` holds
        tensors (B,) that are NaN for cells they do not concern.
        """
        terms, views = self.objective.terms, inference_outputs["views"]
        scores = self._log_likelihoods(generative_outputs["raw"], views)
        kl_shared = {s: kl_to_standard_normal(q) for s, q in inference_outputs["shared"].items()}
        kl_private = {
            m: torch.where(views[m].observed, kl_to_standard_normal(q), 0.0)
            for m, q in inference_outputs["private"].items()
        }
        active = {
            s: torch.stack([views[m].observed for m in s]).any(0)  # (B,)
            for s in inference_outputs["shared"]
        }
        label = self._score_labels(tensors, inference_outputs["z_shared"])

        parts: dict[str, list[Tensor]] = {"reconstruction": [], "kl": [], "label": []}
        for t, term in enumerate(terms):
            part = {
                "reconstruction": -sum(score for (of, *_), score in scores.items() if of == t),
                "kl": self.kl_weight_shared * kl_shared[term.encode]
                + sum(kl_private[m] for m in term.encode if m in term.decode),
                "label": -label[term.encode],
            }
            for name, value in part.items():
                parts[name].append(torch.where(active[term.encode], value, 0.0))
        weight = torch.ones_like(parts["kl"][0])  # (B,)
        if self.objective.reduction == "mean":
            n_active = torch.stack([active[term.encode] for term in terms]).sum(0)
            weight = 1.0 / n_active.clamp(min=1)
        reconstruction, kl, label_loss = (
            weight * torch.stack(parts[name]).sum(0)  # (T, B) -> (B,)
            for name in ("reconstruction", "kl", "label")
        )
        loss = reconstruction + kl_weight * kl + self.label_weight * label_loss
        metrics = self._metrics(
            tensors, inference_outputs, generative_outputs, scores, kl_shared, kl_private, active
        )
        return LossOutput(
            loss=loss.mean(),
            reconstruction_loss=reconstruction,
            kl_local=kl,
            n_obs_minibatch=len(loss),
            extra_metrics=metrics,
        )

    def _score_labels(
        self, tensors: dict[str, Tensor], z_shared: dict[Subset, Tensor]
    ) -> dict[Subset, Tensor]:
        """Log-likelihood (B,) of each cell's label given each shared sample; 0 if unlabelled."""
        codes = tensors[Keys.LABELS].view(-1).long()  # (B,); -1 is unlabelled
        if self.label_head is None:
            return dict.fromkeys(z_shared, torch.zeros(len(codes), device=codes.device))
        return {subset: self.label_head.score(z, codes) for subset, z in z_shared.items()}

    @torch.no_grad()
    def _metrics(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        scores: dict[tuple[int, str, bool], Tensor],
        kl_shared: dict[Subset, Tensor],
        kl_private: dict[str, Tensor],
        active: dict[Subset, Tensor],
    ) -> dict[str, Tensor]:
        """What the history records, (B,) each; NaN for cells that a record does not concern."""
        views = inference_outputs["views"]
        subsets = self.objective.encode_sets

        def where(condition: Tensor, value: Tensor) -> Tensor:
            return torch.where(condition, value.detach(), torch.nan)

        metrics = {
            Keys.KL_SHARED: torch.stack([where(active[s], kl_shared[s]) for s in subsets]).nanmean(
                0
            ),
            **{
                Keys.kl_private(m): where(view.observed, kl_private[m]) for m, view in views.items()
            },
        }
        watched = self._log_likelihoods(generative_outputs["raw_watched"], views)
        for terms, values in ((self.objective.terms, scores), (self._watched, watched)):
            for (t, m, from_shared), value in values.items():
                if from_shared and not terms[t].is_cross_view(m):
                    continue  # same-view: what both latents say is recorded
                encode = terms[t].encode
                metrics[Keys.log_likelihood(encode, m)] = where(
                    active[encode] & views[m].observed, value
                )
        if self.label_head is not None:
            codes = tensors[Keys.LABELS].view(-1).long()
            shared = torch.stack([inference_outputs["z_shared"][s] for s in subsets])  # (S, B, K)
            known = (codes >= 0) & torch.stack([active[s] for s in subsets])  # (S, B)
            log_probs = self.label_head(shared)  # (S, B, n_classes)
            picked = log_probs.gather(2, codes.clamp(min=0).expand(known.shape).unsqueeze(2))
            right = (log_probs.argmax(-1) == codes).float()
            metrics[Keys.LABEL_LOG_LIKELIHOOD] = where(known, picked.squeeze(2)).nanmean(0)
            metrics[Keys.LABEL_ACCURACY] = where(known, right).nanmean(0)
        return metrics

    # ----------------------------------------------------------------- read-outs

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
        views = self._views(tensors, sources)
        encoded = self._encode(views, tensors[Keys.BATCH])
        experts, observed = self._experts(encoded, views, sources)
        if self.objective.pools_experts:
            shared = product_of_experts(
                experts, observed, prior_expert=self.objective.prior_expert
            ).loc
        else:
            shared = mean_of_experts(experts, observed)
        shared = torch.where(observed.any(0).unsqueeze(-1), shared, torch.nan)
        private = {
            m: torch.where(
                views[m].observed.unsqueeze(-1), self._private(encoded[m][1]).loc, torch.nan
            )
            for m in sources
        }
        return shared, private

    @torch.inference_mode()
    @auto_move_data
    def predict(self, tensors: dict[str, Tensor], sources: Sequence[str], target: str) -> Tensor:
        """Mean of a modality given the posterior means of the sources.

        The private latent of the target is used where the target is a source that was observed;
        elsewhere the prediction is cross-view, with a private latent of zero. Counts are scaled by
        the cell's own library size where the target was observed, else by the training median.

        Returns
        -------
        Shape (B, D), on the scale of the data; NaN where no source was observed.
        """
        shared, private = self.embed(tensors, sources)
        i, batch = self._index[target], tensors[Keys.BATCH]
        view = self._views(tensors, [target])[target]
        z_private = private.get(target, shared.new_zeros(len(shared), self.n_private[target]))
        raw = self.decoders[i](shared, z_private.nan_to_num(0.0), batch)
        if self.screened:
            same_view = view.observed.unsqueeze(-1) & (target in sources)
            raw = torch.where(same_view, raw, self.cross_decoders[i](shared, batch))
        return self.likelihood(target).mean(raw, view.library)

    def sample(self, *args: Any, **kwargs: Any) -> None:
        """Not offered: predictions are means."""
        raise NotImplementedError("scvenn models predict means; use model.predict(source, target).")
