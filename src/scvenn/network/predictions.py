"""What trained networks give: posteriors, embeddings, predictions, slopes and draws.

Every function takes the network first; those that read cells take minibatches of tensors as a data
loader gives them. Nothing here is used in training. Latents are given and taken on their ordered
axes; only :func:`posteriors` has them as the networks do, where their dimensions are independent.

Shapes: ``B`` cells, ``D`` features, ``R`` raw parameters of a modality, ``K`` and ``P`` sizes of a
shared and a private latent, ``C`` classes.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from scvi.module.base import auto_move_data
from torch import Tensor
from torch.func import jvp

from scvenn.data import Tensors
from scvenn.likelihoods import dense
from scvenn.network.branch import ScreenedBranch
from scvenn.network.gaussians import Gaussian, mixture_of_experts, product_of_experts, rsample
from scvenn.network.layers import LabelHead
from scvenn.network.minibatch import Encoded, Minibatch
from scvenn.network.vae import SharedPrivateVAE

# By which parameters are moved for a difference of gradients.
_SMALL_STEP = 0.01
# Derivatives (directions times cells times features) that are held at a time.
_MOST_VALUES = 2_000_000
# Derivatives in forward mode are of one thread at a time: PyTorch counts them for the process.
_FORWARD_MODE = threading.Lock()


@torch.inference_mode()
@auto_move_data
def posteriors(
    network: SharedPrivateVAE, tensors: Tensors, sources: Sequence[str]
) -> tuple[Gaussian, dict[str, Gaussian], Minibatch]:
    """Posteriors given some modalities: of shared, (B, K), and of each source's private latent.

    Where training multiplies posteriors, that of ``shared`` is the sources' product; else it has
    the mean and the variance of their mixture, weighted by the network's ``expert_weights``. It is
    N(0, I) where no source was observed.

    Returns
    -------
    The two, and the minibatch of the sources, which holds where each was observed.

    Raises
    ------
    ValueError
        If values are so large that a posterior is not finite.
    """
    minibatch = network.read(tensors, sources)
    experts, observed, private = network.encode(minibatch)
    for expert, (m, view) in zip(experts.loc, minibatch.views.items(), strict=True):
        finite = (expert.isfinite().all(-1) & private[m].loc.isfinite().all(-1)) | ~view.observed
        if not finite.all():
            largest = dense(view.x)[~finite].nan_to_num(0.0).abs().max()
            raise ValueError(
                f"modality {m!r}: {int((~finite).sum())} of {len(finite)} cells that were read "
                f"together have no finite latent; their values reach {largest:g}. Look for "
                "outliers in the data, and for a scale that is not that of the training data."
            )
    if network.objective.pools_experts:
        prior_expert = network.objective.prior_expert
        shared = product_of_experts(experts, observed, prior_expert=prior_expert)
    else:
        weights = network.expert_weights[[network.modalities.index(m) for m in sources]]
        shared = mixture_of_experts(experts, observed, weights)
    return shared, private, minibatch


@torch.inference_mode()
@auto_move_data
def encoded(network: SharedPrivateVAE, tensors: Tensors, modality: str) -> Float[Tensor, "B W"]:
    """All that is read of a modality once it was encoded: see :class:`Encoded`."""
    minibatch = network.read(tensors, [modality])
    view = minibatch.views[modality]
    shared, private = network.encode_alone(modality, view, minibatch.covariates)
    # NaN where values that are no counts are missing, and then nothing depends on it
    library = view.library.nan_to_num(1.0)
    return Encoded(shared, private, library).joined()


def on_axes(
    network: SharedPrivateVAE, shared: Tensor, private: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Latents of the networks, (..., K), on their ordered axes: of shared, and of modalities."""
    turned = {m: z @ network.branch(m).private_axes for m, z in private.items()}
    return shared @ network.shared_axes, turned


@torch.inference_mode()
@auto_move_data
def embed(
    network: SharedPrivateVAE,
    tensors: Tensors,
    sources: Sequence[str],
    *,
    batch_corrected: bool = False,
) -> tuple[Float[Tensor, "B K"], dict[str, Tensor]]:
    """Posterior means given some modalities.

    Parameters
    ----------
    network
        The trained network.
    tensors
        A minibatch that holds the sources.
    sources
        Modalities to encode.
    batch_corrected
        Whether to take out what batches shift. Only latents that are not corrected can be decoded.

    Returns
    -------
    The shared latent, (B, K), NaN where no source was observed; and the private latent of each
    source, (B, K), NaN where it was not observed. Where training multiplies posteriors, the shared
    one is the mean of the sources' product, else the weighted mean of the experts'.
    """
    q_shared, q_private, minibatch = posteriors(network, tensors, sources)
    means = {m: q.loc for m, q in q_private.items()}
    shared, private = on_axes(network, q_shared.loc, means)
    if batch_corrected:
        shared = network.shared_correction(shared, minibatch.batch)
        private = {
            m: network.branch(m).private_correction(z, minibatch.batch) for m, z in private.items()
        }
    shared = torch.where(_any_observed(minibatch).unsqueeze(-1), shared, torch.nan)
    private = {
        m: torch.where(minibatch.views[m].observed.unsqueeze(-1), z, torch.nan)
        for m, z in private.items()
    }
    return shared, private


@torch.inference_mode()
@auto_move_data
def read_again(
    network: SharedPrivateVAE, tensors: Tensors, modality: str
) -> Float[Tensor, "3 B K"]:
    """Posterior means of shared given a modality, and given two more measurements of it.

    They are drawn from what the network predicts of each cell from this modality. Values that
    were not measured stay so.

    Parameters
    ----------
    network
        The trained network.
    tensors
        A minibatch of cells that have the modality.
    modality
        Which one.
    """
    shared, private, minibatch = posteriors(network, tensors, [modality])
    branch, view = network.branch(modality), minibatch.views[modality]
    predicted = branch.predict(
        shared.loc, private[modality].loc, view.observed, minibatch.covariates
    )
    readings = [shared.loc]
    for _ in range(2):
        drawn = branch.likelihood.sample(predicted, view.library, minibatch.batch)
        x = torch.where(view.measured, drawn, dense(view.x))
        expert, _ = branch.encode(replace(view, x=x), minibatch.covariates)
        readings.append(expert.loc)
    return torch.stack(readings)


class Given(NamedTuple):
    """What the mean of a modality is decoded from, besides covariates."""

    shared: Float[Tensor, "B K"]  # NaN where there is none: so is the mean
    private: Float[Tensor, "B P"]
    same_view: Bool[Tensor, " B"]  # whether the private latent counts
    library: Float[Tensor, "B 1"]

    @classmethod
    def latents(
        cls, shared: Tensor, private: Tensor | None, library: float, n_private: int
    ) -> Given:
        """Latents, whatever they are; with a private one or, as across views, without."""
        beside = shared.new_zeros(len(shared), n_private) if private is None else private
        same_view = torch.full((len(shared),), private is not None, device=shared.device)
        return cls(shared, beside, same_view, shared.new_full((len(shared), 1), library))


@torch.inference_mode()
@auto_move_data
def given_sources(
    network: SharedPrivateVAE,
    tensors: Tensors,
    sources: Sequence[str],
    target: str,
    *,
    library_size: float | None = None,
) -> Given:
    """What a modality is predicted from: the posterior means of the sources.

    The private latent of the target is used where the target is a source that was observed;
    elsewhere the prediction is cross-view. Counts are scaled by the cell's own library size where
    the target was observed, else by the training median.

    Parameters
    ----------
    network
        The trained network.
    tensors
        A minibatch that holds the sources and the target.
    sources, target
        Modalities to encode, and the one to decode.
    library_size
        Sum of the counts of every cell, instead of its own.
    """
    shared, private = embed(network, tensors, sources)
    view = network.read(tensors, [target]).views[target]
    same_view = view.observed & (target in sources)
    z_private = private.get(target, shared.new_zeros(len(shared), network.n_private[target]))
    library = view.library
    if library_size is not None:
        library = torch.full_like(library, library_size)
    return Given(shared, z_private.nan_to_num(0.0), same_view, library)


@torch.inference_mode()
@auto_move_data
def means(
    network: SharedPrivateVAE,
    tensors: Tensors,
    modality: str,
    given: Given,
    features: slice | None = None,
    normaliser: Float[Tensor, "B W"] | None = None,
) -> Float[Tensor, "B d"]:
    """Mean of a modality, of all its features or of some.

    Parameters
    ----------
    network
        The trained network.
    tensors
        A minibatch that holds the covariates.
    modality
        Which one to decode.
    given
        From what.
    features
        Positions of the d features; None for all. Of a likelihood without ``means_of_some`` all are
        decoded in any case.
    normaliser
        What :func:`normalisers` gave; needed with ``features``.

    Returns
    -------
    On the scale of the data; NaN where there is no shared latent.
    """
    branch, covariates = network.branch(modality), network.covariates(tensors)
    likelihood = branch.likelihood
    # a baseline needs no source, but a prediction does
    missing = given.shared[:, :1].isnan()
    latents = _decoder_inputs(network, modality, given)
    if features is None or not likelihood.means_of_some:
        mean = likelihood.mean(branch.predict(*latents, covariates), given.library)
        mean = mean if features is None else mean[:, features]
    else:
        raw = branch.predict(*latents, covariates, features)
        mean = likelihood.mean_of_some(raw, given.library, features, cast(Tensor, normaliser))
    return torch.where(missing, torch.nan, mean)


@torch.inference_mode()
@auto_move_data
def normalisers(
    network: SharedPrivateVAE, tensors: Tensors, modality: str, given: Given
) -> Float[Tensor, "B W"]:
    """What means of some features need to know of all others, of a likelihood that has them."""
    branch, covariates = network.branch(modality), network.covariates(tensors)
    raw = branch.predict(*_decoder_inputs(network, modality, given), covariates)
    return branch.likelihood.normaliser(raw)


@torch.inference_mode()
@auto_move_data
def decode(
    network: SharedPrivateVAE,
    tensors: Tensors,
    modality: str,
    shared: Float[Tensor, "B K"],
    private: Float[Tensor, "B P"] | None,
    library: float = 1.0,
) -> Float[Tensor, "B D"]:
    """Mean of a modality given latents, whatever they are.

    Parameters
    ----------
    network
        The trained network.
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
    given = Given.latents(shared, private, library, network.n_private[modality])
    return means(network, tensors, modality, given)


@torch.inference_mode()
@auto_move_data
def scaled_means(
    network: SharedPrivateVAE,
    tensors: Tensors,
    modality: str,
    shared: Float[Tensor, "B K"],
    private: Float[Tensor, "B P"] | None,
) -> Float[Tensor, "B D"]:
    """Means of a modality given latents, as :meth:`Likelihood.scaled_mean` has them.

    Parameters
    ----------
    network, tensors, modality, shared, private
        As in :func:`decode`.
    """
    raw = _raw(network, modality, shared, private, network.covariates(tensors))
    return network.likelihood(modality).scaled_mean(raw)


@torch.no_grad()
@auto_move_data
def slopes(
    network: SharedPrivateVAE,
    tensors: Tensors,
    modality: str,
    shared: Float[Tensor, "B K"],
    private: Float[Tensor, "B P"] | None,
    *,
    scale: Literal["data", "log"],
) -> Float[Tensor, "moved D"]:
    """How a modality's prediction changes with each dimension of a latent, summed over cells.

    With a private latent, that one is moved, else the shared one.

    Parameters
    ----------
    network, tensors, modality, shared, private
        As in :func:`decode`.
    scale
        What is predicted: the likelihood's ``scaled_mean`` for "data", its ``linear_predictor`` for
        "log".

    Returns
    -------
    Shape (K, D).
    """
    likelihood, covariates = network.likelihood(modality), network.covariates(tensors)
    of_raw = likelihood.scaled_mean if scale == "data" else likelihood.linear_predictor
    n_cells = len(shared)

    def predicted(latent: Tensor) -> Tensor:
        """Predictions of the cells, as often as the latent holds them, (times x B, D)."""
        times = len(latent) // n_cells
        of_shared, of_private = (
            (latent, None) if private is None else (shared.repeat(times, 1), latent)
        )
        raw = _raw(network, modality, of_shared, of_private, covariates.repeat(times, 1))
        return of_raw(raw)

    moved = shared if private is None else private  # (B, K)
    directions = torch.eye(moved.shape[1]).to(moved)
    # all at once would hold K arrays of cells by features; one at a time, a call costs more than
    # the derivatives of few features
    width = max(1, _MOST_VALUES // (n_cells * len(likelihood.mean_)))
    found = []
    with _FORWARD_MODE:
        for some in directions.split(width):
            steps = some.repeat_interleave(n_cells, 0)  # (width x B, K)
            slope = jvp(predicted, (moved.repeat(len(some), 1),), (steps,))[1]
            found.append(slope.view(len(some), n_cells, -1).sum(1))
    return torch.cat(found)


@torch.inference_mode()
@auto_move_data
def draw(
    network: SharedPrivateVAE, tensors: Tensors, sources: Sequence[str], target: str
) -> Float[Tensor, "B D"]:
    """One draw of a modality given the sources: of the latents, then of the values, (B, D)."""
    q_shared, q_private, minibatch = posteriors(network, tensors, sources)
    shared, view = rsample(q_shared), network.read(tensors, [target]).views[target]
    private = shared.new_zeros(len(shared), network.n_private[target])
    if target in sources:
        private = rsample(q_private[target])
    branch, same_view = network.branch(target), view.observed & (target in sources)
    raw = branch.predict(shared, private, same_view, minibatch.covariates)
    likelihood, given = branch.likelihood, (raw, view.library, minibatch.batch)
    values = likelihood.sample(*given)
    if network.screened and likelihood.cross_view_noise:
        across = likelihood.sample(*given, cross_view=True)
        values = torch.where(same_view.unsqueeze(-1), values, across)
    return torch.where(_any_observed(minibatch).unsqueeze(-1), values, torch.nan)


@torch.inference_mode()
@auto_move_data
def draw_from_prior(network: SharedPrivateVAE, n: int, tensors: Tensors) -> dict[str, Tensor]:
    """Values of each modality, (n, D), of n cells whose latents follow the prior.

    Parameters
    ----------
    network
        The trained network.
    n
        Number of cells.
    tensors
        The covariates of all of them, as a minibatch of one cell.
    """
    minibatch = network.read({key: value.expand(n, -1) for key, value in tensors.items()}, [])
    like = minibatch.covariates
    shared = torch.randn(n, network.n_shared, device=like.device, dtype=like.dtype)
    drawn = {}
    for m in network.modalities:
        private = torch.randn(n, network.n_private[m], device=like.device, dtype=like.dtype)
        raw = _raw(network, m, shared, private, minibatch.covariates)
        likelihood = network.likelihood(m)
        library = likelihood.library_.expand(n, 1)
        drawn[m] = likelihood.sample(raw, library, minibatch.batch)
    return drawn


@torch.inference_mode()
@auto_move_data
def label_probabilities(
    network: SharedPrivateVAE, shared: Float[Tensor, "B K"]
) -> Float[Tensor, "B C"]:
    """Probability of each class, (B, C), given shared latents (B, K)."""
    return cast(LabelHead, network.label_head)(shared @ network.shared_axes.T).exp()


@auto_move_data
def decoder_gradient(
    network: SharedPrivateVAE,
    tensors: Tensors,
    modality: str,
    shared: Float[Tensor, "B K"],
    signs: Float[Tensor, " R"],
) -> tuple[Float[Tensor, "B R"], Float[Tensor, " R"]]:
    """Derivatives of the cross-view log-likelihood with respect to the decoder's output.

    Parameters
    ----------
    network
        The trained network, one that is ``screened``.
    tensors
        A minibatch that holds the modality.
    modality
        Which one is predicted.
    shared
        Latents it is predicted from, (B, K).
    signs
        Random ones, +1 or -1: on average over many, what a parameter does to the derivatives of
        others cancels (Hutchinson's estimate of a diagonal).

    Returns
    -------
    The first derivatives, (B, R), and the negative second ones, summed over the cells, (R,).
    """
    minibatch = network.read(tensors, [modality])
    view, branch = minibatch.views[modality], cast(ScreenedBranch, network.branch(modality))
    with torch.no_grad():
        raw = branch.cross_decoder(shared @ network.shared_axes.T, minibatch.covariates)
    measured = (view.x, view.measured, view.library, minibatch.batch)
    gradient = branch.likelihood.gradient(raw, *measured)
    moved = branch.likelihood.gradient(raw + _SMALL_STEP * signs.to(raw), *measured)
    curvature = (gradient - moved).sum(0) * signs.to(raw) / _SMALL_STEP
    return gradient, curvature


def _decoder_inputs(
    network: SharedPrivateVAE, modality: str, given: Given
) -> tuple[Tensor, Tensor, Tensor]:
    """Latents as the networks have them, (B, K) and (B, P), and whether the private one counts."""
    shared = given.shared.nan_to_num(0.0) @ network.shared_axes.T
    return shared, given.private @ network.branch(modality).private_axes.T, given.same_view


def _any_observed(minibatch: Minibatch) -> Tensor:
    """Which cells (B,) have any of the minibatch's modalities."""
    return torch.stack([view.observed for view in minibatch.views.values()]).any(0)


def _raw(
    network: SharedPrivateVAE,
    modality: str,
    shared: Float[Tensor, "B K"],
    private: Float[Tensor, "B P"] | None,
    covariates: Float[Tensor, "B V"],
) -> Float[Tensor, "B R"]:
    given = Given.latents(shared, private, 1.0, network.n_private[modality])
    return network.branch(modality).predict(*_decoder_inputs(network, modality, given), covariates)
