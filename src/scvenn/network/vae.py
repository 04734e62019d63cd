"""The loss behind every model: encode once, decode once, score the terms of an objective.

Shapes: ``B`` cells, ``D`` features, ``K`` latent size, ``E`` experts, ``T`` terms. Dicts are keyed
by the name of a modality, or by a tuple of names where posteriors are multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import torch
from scvi.module.base import LossOutput, auto_move_data
from torch import Tensor

from scvenn.data import Keys
from scvenn.network.coding import Decoded, Subset
from scvenn.network.gaussians import kl_to_standard_normal, product_of_experts, rsample
from scvenn.network.minibatch import View
from scvenn.network.reading import SharedPrivateReader
from scvenn.objective import Objective, Term


class SharedPrivateVAE(SharedPrivateReader):
    r"""Multimodal VAE with latents z = [shared, private of each modality].

    The loss of a cell with observed modalities :math:`O` is

    .. math::

        L = \sum_t w_t \Big[ -\!\! \sum_{m \in D_t \cap O} \mu_m \log p(x_m \mid s, p_m)
            + \beta \Big( \alpha\, \mathrm{KL}[q(s \mid x_{S_t}) \,\|\, N(0, I)]
            + \!\! \sum_{j \in S_t \cap D_t} \mathrm{KL}[q(p_j \mid x_j) \,\|\, N(0, I)] \Big)
            - \lambda \log p(y \mid s) \Big],
        \qquad S_t = E_t \cap O

    A term with empty :math:`S_t` is skipped. :math:`w_t` is 1 for ``"sum"`` and 1 over the number
    of terms left for ``"mean"``; :math:`\alpha` and :math:`\mu_m` are 1 in the paper. Märtens & Yau
    (MLCB 2023), sections 2 and 3.

    Parameters
    ----------
    objective
        The terms; see :class:`~scvenn.Objective`.
    label_weight
        :math:`\lambda`, the weight of the labels' log-likelihood.
    kl_weight_shared
        :math:`\alpha`, the weight of the KL of the shared latent relative to the private ones.
    modality_weights
        :math:`\mu_m`, the weight of each modality's log-likelihood.
    *args, **kwargs
        Further parameters of :class:`~scvenn.network.coding.SharedPrivateCoder`.
    """

    def __init__(
        self,
        objective: Objective,
        *args: Any,
        label_weight: float,
        kl_weight_shared: float,
        modality_weights: Mapping[str, float],
        **kwargs: Any,
    ) -> None:
        super().__init__(objective, *args, **kwargs)
        self.label_weight = label_weight
        self.kl_weight_shared = kl_weight_shared
        self.modality_weights = dict(modality_weights)
        trained = {(term.encode, m) for term in objective.terms for m in term.decode}
        # Cross-view pairs the objective leaves out are still worth watching.
        self._watched = [
            Term((a,), (b,))
            for a, b in permutations(self.modalities, 2)
            if ((a,), b) not in trained
        ]

    # ----------------------------------------------------------------- inference

    def _get_inference_input(
        self, tensors: dict[str, Tensor], full_forward_pass: bool = False
    ) -> dict[str, Any]:
        return {
            "views": self._views(tensors, self.modalities),
            "covariates": self.covariates(tensors),
        }

    def inference(self, views: dict[str, View], covariates: Tensor) -> dict[str, Any]:
        """Encode each modality once; one shared posterior and sample for each encoded subset."""
        encoded = self._encode(views, covariates)
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
            "covariates": covariates,
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
            "covariates": inference_outputs["covariates"],
        }

    def generative(
        self, z_shared: dict[Subset, Tensor], z_private: dict[str, Tensor], covariates: Tensor
    ) -> dict[str, Any]:
        """Run each decoder once, on the stacked latents of all terms that it decodes."""
        latents = (z_shared, z_private, covariates)
        raw = {m: self._decode(m, self.objective.terms, *latents) for m in self.modalities}
        with torch.no_grad():
            watched = {m: self._decode(m, self._watched, *latents) for m in self.modalities}
        return {"raw": raw, "raw_watched": watched}

    # ----------------------------------------------------------------- loss

    def _log_likelihoods(
        self, raw: Mapping[str, list[Decoded]], views: dict[str, View]
    ) -> dict[tuple[int, str, bool], Tensor]:
        """Log-likelihood (B,) by term, modality and network; 0 where it was not measured."""
        scores = {}
        for m, decoded in raw.items():
            view, likelihood = views[m], self.likelihood(m)
            for positions, output, from_shared in decoded:
                if from_shared and self.training and isinstance(output, Tensor):
                    likelihood.update_cross_view_noise(output, view.x, view.measured, view.batch)
                per_cell = likelihood.total(
                    output, view.x, view.measured, view.library, view.batch, from_shared
                )  # (T, B)
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
                "reconstruction": -sum(
                    self.modality_weights[m] * score
                    for (of, m, _), score in scores.items()
                    if of == t
                ),
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

    @auto_move_data
    def score(self, tensors: dict[str, Tensor], modality: str, shared: Tensor) -> Tensor:
        """Gradient of the cross-view log-likelihood with respect to the decoder's output, (B, R).

        Parameters
        ----------
        tensors
            A minibatch that holds the modality.
        modality
            Which one is predicted.
        shared
            Latents it is predicted from, (B, K).
        """
        view = self._views(tensors, [modality])[modality]
        decoder = self.cross_decoders[self._index[modality]]
        with torch.no_grad():
            raw = decoder(shared, self.covariates(tensors))
        raw.requires_grad_()
        log_prob = self.likelihood(modality).log_prob(
            raw, view.x, view.library, batch=view.batch, cross_view=True
        )
        (gradient,) = torch.autograd.grad(torch.where(view.measured, log_prob, 0.0).sum(), raw)
        return gradient

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
        cross_view = []
        for terms, values in ((self.objective.terms, scores), (self._watched, watched)):
            for (t, m, from_shared), value in values.items():
                if from_shared and not terms[t].is_cross_view(m):
                    continue  # same-view: what both latents say is recorded
                encode = terms[t].encode
                record = where(active[encode] & views[m].observed, value)
                metrics[Keys.log_likelihood(encode, m)] = record
                if terms[t].is_cross_view(m):
                    cross_view.append(record)
        pairs = torch.stack(cross_view)  # (pairs, B)
        metrics[Keys.CROSS_VIEW] = where(~pairs.isnan().all(0), pairs.nansum(0))
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

    def sample(self, *args: Any, **kwargs: Any) -> None:
        """Not offered: samples are of a modality, given others or the prior."""
        raise NotImplementedError(
            "Use model.sample_posterior(source, target) or model.sample_prior(n_obs)."
        )
