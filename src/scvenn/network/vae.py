"""The network and the loss of every model: encode once, decode once, score the terms.

In reading order, which is that of a minibatch: ``inference``, ``generative``, ``loss``.

Shapes: ``B`` cells, ``R`` raw parameters of a modality, ``K`` latent size, ``M`` modalities, ``S``
encoded subsets of the modalities, ``T`` terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor, nn

from scvenn._processes import sum_of_all
from scvenn.batches import BatchShifts
from scvenn.data import Keys, Tensors
from scvenn.likelihoods import FeatureStats, Likelihood, dense, find_likelihood
from scvenn.network import records
from scvenn.network.branch import Branch, Decoded, ScreenedBranch
from scvenn.network.correction import BatchCorrection, ReferenceCells
from scvenn.network.design import Design
from scvenn.network.gaussians import Gaussian, Sampled, product_of_experts, sample_each
from scvenn.network.layers import LabelHead
from scvenn.network.minibatch import Minibatch, MinibatchReader, View
from scvenn.network.penalties import latents_of, value_of
from scvenn.network.plan import Decoding, Plan
from scvenn.network.records import Scored
from scvenn.objective import Objective


class SharedPrivateVAE(BaseModuleClass):
    r"""Multimodal VAE with latents z = [shared, private of each modality].

    The loss of a cell with observed modalities :math:`O` is

    .. math::

        L = \sum_t w_t \Big[ -\!\! \sum_{m \in D_t \cap O} \mu_m \log p(x_m \mid s, p_m)
            + \beta \Big( \alpha\, \mathrm{KL}[q(s \mid x_{S_t}) \,\|\, N(0, I)]
            + \!\! \sum_{j \in S_t \cap D_t} \mathrm{KL}[q(p_j \mid x_j) \,\|\, N(0, I)] \Big)
            - \lambda \log p(y \mid s) \Big] + \sum_r \omega_r \, r(s, p),
        \qquad S_t = E_t \cap O

    A term with empty :math:`S_t` is skipped. :math:`w_t` is 1 for ``"sum"`` and 1 over the number
    of terms left for ``"mean"``; :math:`\alpha` and :math:`\mu_m` are 1 in the paper, and there
    are no penalties :math:`r`. Märtens & Yau (MLCB 2023), sections 2 and 3.

    Parameters
    ----------
    objective
        The terms and penalties; see :class:`~scvenn.Objective`.
    likelihoods
        Name of the likelihood of each modality; gives the stored order of the modalities.
    stats
        Summary of each modality's training data.
    design
        Sizes, weights and kinds of the networks.
    n_categories
        Number of categories of each categorical covariate, the batch among them, by the name of its
        tensor.
    continuous
        Names of the tensors of continuous covariates.
    n_classes
        Number of label classes; 0 for no label head.
    """

    expert_weights: Tensor  # (M,)
    shared_axes: Tensor  # from `shared` to its ordered axes, orthogonal, (K, K)
    of_terms: Tensor  # position of the subset that each term encodes, (T,)
    subsets: Tensor  # which modalities are encoded together, boolean, (S, M)
    pays: Tensor  # for which private latents a term pays KL, boolean, (T, M)

    def __init__(
        self,
        objective: Objective,
        likelihoods: Mapping[str, str],
        stats: Mapping[str, FeatureStats],
        design: Design,
        *,
        n_categories: Mapping[str, int],
        continuous: Sequence[str],
        n_classes: int,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.modalities = list(likelihoods)
        self.design = design
        self.n_shared = design.n_shared
        self.n_private = dict(design.n_private)
        self.n_classes = n_classes
        self.screened = design.screen
        self.n_categories = dict(n_categories)
        self.continuous = list(continuous)
        self.label_weight = design.label_weight
        self.kl_weight_shared = design.kl_weight_shared
        self.modality_weights = dict(design.modality_weights)
        self._reader = MinibatchReader(
            self.modalities,
            self.n_categories,
            self.continuous,
            {m: (self.n_shared, n) for m, n in self.n_private.items()},
        )
        self._plan = Plan.of(objective, self.modalities)
        for name, part in (
            ("of_terms", self._plan.subset_of_term),
            ("subsets", self._plan.members),
            ("pays", self._plan.pays_private),
        ):
            self.register_buffer(name, torch.tensor(part), persistent=False)
        by_batch = design.dispersion == "feature-batch"
        n_batches = self.n_categories[Keys.BATCH] if by_batch else None
        kind = ScreenedBranch if design.screen else Branch
        # a list, as a ModuleDict refuses names such as "type" or "a.b"
        self.branches = nn.ModuleList(
            kind(
                find_likelihood(name)(stats[m], n_batches),
                design,
                n_private=design.n_private[m],
                dropout=design.dropout_rate[m],
                n_covariates=self._reader.n_covariates,
            )
            for m, name in likelihoods.items()
        )
        self.label_head = LabelHead(design.n_shared, n_classes) if n_classes else None
        # of each modality in the mean of their experts; a model that screens learns them at the end
        n_modalities = len(self.modalities)
        self.register_buffer("expert_weights", torch.full((n_modalities,), 1 / n_modalities))
        self.register_buffer("shared_axes", torch.eye(design.n_shared))
        self.shared_correction = BatchCorrection(design.n_shared)  # on these axes
        n_dims = design.n_shared + sum(self.n_private.values())
        self.reference = ReferenceCells(n_dims, design.n_shared)

    def branch(self, modality: str) -> Branch:
        """All that one modality has."""
        return cast(Branch, self.branches[self.modalities.index(modality)])

    def likelihood(self, modality: str) -> Likelihood:
        """The likelihood of a modality."""
        return self.branch(modality).likelihood

    @property
    def corrects_batches(self) -> bool:
        """Whether shifts of batches were learned."""
        return bool(self.shared_correction.found.shifts.any())

    def set_stats(self, stats: Mapping[str, FeatureStats]) -> None:
        """Start from the statistics of other cells of each modality, before anything is learned."""
        for m, found in stats.items():
            self.branch(m).set_stats(found)

    # ----------------------------------------------------------------- reading a minibatch

    def read(self, tensors: Tensors, modalities: Sequence[str] | None = None) -> Minibatch:
        """Read modalities, by default all, and covariates from the tensors of a data loader."""
        chosen = self.modalities if modalities is None else modalities
        likelihoods = {m: self.likelihood(m) for m in chosen}
        return self._reader.read(tensors, likelihoods)

    def covariates(self, tensors: Tensors) -> Float[Tensor, "B V"]:
        """What decoders see besides latents; see :class:`MinibatchReader`."""
        return self._reader.covariates(tensors)

    # ----------------------------------------------------------------- inference

    def _get_inference_input(
        self, tensors: Tensors, full_forward_pass: bool = False
    ) -> dict[str, Any]:
        return {"minibatch": self.read(tensors)}

    def encode_alone(
        self, modality: str, view: View, covariates: Float[Tensor, "B V"]
    ) -> tuple[Gaussian, Gaussian]:
        """Posteriors of shared and private, (B, K) each, as the encoder of a modality gives them.

        Of minified data, those that it gave when the values were there.
        """
        if view.encoded is not None:
            return view.encoded.shared, view.encoded.private
        branch = self.branch(modality)
        shared, private = branch.encode(view, covariates)
        if view.lacks_features:
            filled = branch.filled(view, shared.loc, private.loc, covariates)
            shared, private = branch.encode(filled, covariates)
        return shared, private

    def encode(
        self, minibatch: Minibatch
    ) -> tuple[Gaussian, Bool[Tensor, "E B"], dict[str, Gaussian]]:
        """Experts of shared (E, B, K), where they were observed, and the posteriors of private.

        One expert for each modality of the minibatch.
        """
        shared, private = [], {}
        for m, view in minibatch.views.items():
            expert, private[m] = self.encode_alone(m, view, minibatch.covariates)
            shared.append(expert)
        experts = Gaussian(
            torch.stack([expert.loc for expert in shared]),
            torch.stack([expert.var for expert in shared]),
        )
        observed = torch.stack([view.observed for view in minibatch.views.values()])
        if self.objective.prior_expert:  # it is one of every posterior
            always = torch.ones_like(observed[:1])  # (1, B)
            for m, q in private.items():
                alone = Gaussian(q.loc[None], q.var[None])  # (1, B, K)
                private[m] = product_of_experts(alone, always, prior_expert=True)
        return experts, observed, private

    def inference(self, minibatch: Minibatch) -> dict[str, Any]:
        """Encode each modality once; one posterior and sample of shared for each subset."""
        experts, observed, private = self.encode(minibatch)
        present = self.subsets.unsqueeze(-1) & observed  # (S, M, B)
        shared = product_of_experts(experts, present, prior_expert=self.objective.prior_expert)
        sampled_shared, *sampled_private = sample_each(shared, *private.values())
        return {
            "minibatch": minibatch,
            "shared": sampled_shared,  # (S, B, K)
            "private": dict(zip(private, sampled_private, strict=True)),  # (B, K) each
            "active": present.any(1),  # (S, B): whether any modality of the subset was observed
        }

    # ----------------------------------------------------------------- generative

    def _get_generative_input(
        self, tensors: Tensors, inference_outputs: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        names = ("minibatch", "shared", "private", "active")
        return {name: inference_outputs[name] for name in names}

    def generative(
        self,
        minibatch: Minibatch,
        shared: Sampled,
        private: dict[str, Sampled],
        active: Bool[Tensor, "S B"],
    ) -> dict[str, Any]:
        """Run each decoder once, on the stacked latents of all terms that it decodes."""
        latents = (shared.z, {m: sampled.z for m, sampled in private.items()})
        decoded = self._decode(self._plan.trained, *latents, minibatch.covariates)
        misses = self._cross_view_misses(decoded, minibatch, active)
        if self.training:
            for m, of_modality in misses.items():
                self.likelihood(m).update_cross_view_noise(sum_of_all(of_modality))
            return {"decoded": decoded, "watched": {}, "misses": misses}
        with torch.no_grad():  # for the history alone, of validation cells
            watched = self._decode(self._plan.watched, *latents, minibatch.covariates)
        return {"decoded": decoded, "watched": watched, "misses": misses}

    def _decode(
        self,
        plan: Mapping[str, Decoding],
        z_shared: Float[Tensor, "S B K"],
        z_private: Mapping[str, Tensor],
        covariates: Float[Tensor, "B V"],
    ) -> dict[str, list[Decoded]]:
        """Decode each modality from the latents of its plan."""
        decoded = {}
        for m, decoding in plan.items():
            if not decoding.terms:
                continue
            samples = []
            for subset, detached in zip(decoding.subsets, decoding.detached, strict=True):
                sample = z_shared[subset]
                samples.append(sample.detach() if detached else sample)
            shared = torch.stack(samples)  # (T, B, K)
            branch = self.branch(m)
            decoded[m] = branch.decode(shared, z_private[m], decoding.cross_view, covariates)
        return decoded

    def _cross_view_misses(
        self,
        decoded: Mapping[str, list[Decoded]],
        minibatch: Minibatch,
        active: Bool[Tensor, "S B"],
    ) -> dict[str, Tensor]:
        """How far predictions from shared alone miss, of modalities that have a noise for it."""
        found = {}
        for m, outputs in decoded.items():
            view, likelihood = minibatch.views[m], self.likelihood(m)
            if not likelihood.cross_view_noise:
                continue
            for rows, raw, from_shared in outputs:
                if not from_shared or not isinstance(raw, Tensor):
                    continue
                subsets = [self._plan.trained[m].subsets[row] for row in rows]
                measured = active[subsets].unsqueeze(-1) & view.measured  # (T, B, D) or (T, B, 1)
                found[m] = likelihood.cross_view_misses(
                    raw, dense(view.x), measured, minibatch.batch
                )
        return found

    # ----------------------------------------------------------------- loss

    def loss(
        self,
        tensors: Tensors,
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        kl_weight: float | Tensor = 1.0,
    ) -> LossOutput:
        """Score the terms; see the equation of the class.

        Returns
        -------
        ``loss`` is the mean over cells. ``reconstruction_loss`` and ``kl_local``, (B,), are the
        parts of the objective without ``kl_weight``, and without labels and penalties.
        ``extra_metrics`` holds tensors (B,) that are NaN for cells they do not concern.
        """
        minibatch: Minibatch = inference_outputs["minibatch"]
        shared: Sampled = inference_outputs["shared"]
        private: dict[str, Sampled] = inference_outputs["private"]
        active = inference_outputs["active"]  # (S, B)
        observed = {m: view.observed for m, view in minibatch.views.items()}  # (B,) each

        left = active[self.of_terms]  # (T, B): terms that are not skipped
        weight = left.float()
        if self.objective.reduction == "mean":
            weight = weight / weight.sum(0).clamp(min=1)
        scores = self._log_likelihoods(generative_outputs["decoded"], minibatch, weight)
        log_likelihood = self._over_decoders(scores)  # (T, B)
        kl_private = {m: torch.where(observed[m], p.kl, 0.0) for m, p in private.items()}
        pays = self.pays.unsqueeze(-1)  # (T, M, 1)
        paid = torch.where(pays, torch.stack([*kl_private.values()]), 0.0).sum(1)  # (T, B)
        kl = self.kl_weight_shared * shared.kl[self.of_terms] + paid

        def over_terms(values: Tensor) -> Tensor:
            return (weight * torch.where(left, values, 0.0)).sum(0)  # (T, B) -> (B,)

        reconstruction, kl = -over_terms(log_likelihood), over_terms(kl)
        loss = reconstruction + kl_weight * kl
        with torch.no_grad():
            watched = self._log_likelihoods(generative_outputs["watched"], minibatch, weight=None)
        history = records.of_terms(
            self._plan, scores, watched, shared.kl, kl_private, active, observed
        )
        if self.label_head is not None:
            codes = cast(Tensor, minibatch.labels)
            label, right = self.label_head.score(shared.z, codes)  # (S, B) each
            known = codes >= 0  # (B,)
            label_of_terms = torch.where(known, label, 0.0)[self.of_terms]  # (T, B)
            loss = loss - self.label_weight * over_terms(label_of_terms)
            history |= records.of_labels(self._plan, label, right, known & active)
        if self.objective.penalties:
            latents = latents_of(self._plan, minibatch, shared, private, active)
            for penalty in self.objective.penalties:
                value = value_of(penalty, latents)  # (B,)
                loss = loss + penalty.weight * torch.where(value.isnan(), 0.0, value)
                history[penalty.name] = value.detach()
        return LossOutput(
            loss=loss.mean(),
            reconstruction_loss=reconstruction,
            kl_local=kl,
            n_obs_minibatch=len(loss),
            extra_metrics=history,
        )

    def _log_likelihoods(
        self,
        decoded: Mapping[str, list[Decoded]],
        minibatch: Minibatch,
        weight: Float[Tensor, "T B"] | None,
    ) -> dict[str, list[Scored]]:
        """Log-likelihood of each modality by each of its decoders.

        ``weight``: of each term and cell in the loss; None for all the same.
        """
        scores: dict[str, list[Scored]] = {}
        for m, outputs in decoded.items():
            view, likelihood = minibatch.views[m], self.likelihood(m)
            measured = (view.x, view.measured, view.library, minibatch.batch)
            scores[m] = []
            for rows, output, from_shared in outputs:
                of_rows = self._weight_of(m, rows, weight, len(view.observed))
                total = likelihood.total(output, *measured, from_shared, of_rows)
                scores[m].append(Scored(rows, from_shared, total))
        return scores

    def _weight_of(
        self, modality: str, rows: list[int], weight: Tensor | None, n_cells: int
    ) -> Float[Tensor, "rows B"]:
        """Gradient of the loss by the log-likelihood of a modality in some rows of its plan."""
        if weight is None:
            return torch.ones(len(rows), n_cells, device=self.expert_weights.device)
        terms = [self._plan.trained[modality].terms[row] for row in rows]
        return weight[terms] * (-self.modality_weights[modality] / n_cells)

    def _over_decoders(self, scores: Mapping[str, list[Scored]]) -> Float[Tensor, "T B"]:
        """Weighted log-likelihood of all that each term decodes."""
        parts: list[list[Tensor]] = [[] for _ in self.objective.terms]
        for m, scored in scores.items():
            for rows, _, log_likelihood in scored:
                for row, value in zip(rows, log_likelihood, strict=True):
                    t = self._plan.trained[m].terms[row]
                    parts[t].append(self.modality_weights[m] * value)
        return torch.stack([torch.stack(values).sum(0) for values in parts])

    # ----------------------------------------------------------------- around training

    def restrict(self, modality: str, reads: np.ndarray, predicts: np.ndarray) -> None:
        """Say which features concern ``shared``; the networks that did all of them start anew.

        Only for networks that are :attr:`screened`.

        Parameters
        ----------
        modality
            Whose features.
        reads, predicts
            Which of them the encoder of ``shared`` reads, and the cross-view decoder predicts;
            boolean, (D,).
        """
        cast(ScreenedBranch, self.branch(modality)).restrict(reads=reads, predicts=predicts)

    @torch.no_grad()
    def set_learned_after_training(
        self,
        *,
        expert_weights: np.ndarray | None = None,
        weak_effects: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
        shared_axes: np.ndarray | None = None,
        private_axes: Mapping[str, np.ndarray] | None = None,
        shared_shifts: BatchShifts | None = None,
        private_shifts: Mapping[str, BatchShifts] | None = None,
        reference: np.ndarray | None = None,
        shared_mean: np.ndarray | None = None,
    ) -> None:
        """Set what is learned when ``shared`` no longer changes; saved with the parameters.

        Parameters
        ----------
        expert_weights
            Of each modality in the mixture of the experts of ``shared``, (M,); used by
            :func:`~scvenn.network.posteriors`.
        weak_effects
            For some modalities the mean (K,) of ``shared``, and the slopes (K, R) of raw parameters
            on its deviation from that; used in predictions across views. Only for networks that are
            :attr:`screened`.
        shared_axes, private_axes
            Orthogonal maps, (K, K), from ``shared`` and from private latents to their ordered axes,
            in which :mod:`scvenn.network` gives and takes latents from then on.
        shared_shifts, private_shifts
            Where batches lie in these latents, on their axes; used in embeddings alone, by
            :func:`~scvenn.network.embed`.
        reference
            Corrected latents of some training cells side by side, (N, D), infinite where a cell
            lacks a modality; what new cells are compared with.
        shared_mean
            Mean of ``shared`` over some training cells, (K,), not corrected for batches; (0,) where
            it is not known.
        """
        if expert_weights is not None:
            self.expert_weights.copy_(torch.as_tensor(expert_weights))
        if shared_axes is not None:
            self.shared_axes.copy_(torch.as_tensor(shared_axes))
        for m, axes in (private_axes or {}).items():
            self.branch(m).private_axes.copy_(torch.as_tensor(axes))
        if reference is not None:
            self.reference.latents = torch.as_tensor(reference).to(self.reference.latents)
        if shared_mean is not None:
            self.reference.shared_mean = torch.as_tensor(shared_mean).to(self.shared_axes)
        if shared_shifts is not None:
            self.shared_correction.found = shared_shifts
        for m, shifts in (private_shifts or {}).items():
            self.branch(m).private_correction.found = shifts
        for m, (centre, slope) in (weak_effects or {}).items():
            decoder = cast(ScreenedBranch, self.branch(m)).cross_decoder
            decoder.centre.copy_(torch.as_tensor(centre))
            decoder.slope.copy_(torch.as_tensor(slope))

    def on_load(self, model: Any, **kwargs: Any) -> None:
        """Give the networks the shape they were saved with."""
        for modality, found in (model.screening_ or {}).items():
            self.restrict(modality, reads=found.related, predicts=found.shared)

    def sample(self, *args: Any, **kwargs: Any) -> None:
        """Not offered: samples are of a modality, given others or the prior."""
        raise NotImplementedError(
            "Use model.sample_posterior(source, target) or model.sample_prior(n_obs)."
        )
