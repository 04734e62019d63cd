"""From a minibatch to latents and to the loss.

In reading order: ``design`` (sizes and kinds), ``minibatch`` (what is read), ``gaussians``
(products, mixtures, samples, KL), ``correction`` (what batches shift in a latent), ``layers`` and
``branch`` (all that one modality has), ``plan`` (the terms, in the order in which a step uses
them), ``vae`` (inference, generative, loss), ``records`` (columns of the history), ``penalties``
(what a penalty gets), ``predictions`` (what trained networks give), ``growing`` (networks with more
categories than those that they learned from).
"""

from scvenn.network.branch import Branch, ScreenedBranch
from scvenn.network.design import Design
from scvenn.network.gaussians import Gaussian
from scvenn.network.growing import fill_in, learned_tensors, take_over
from scvenn.network.minibatch import Minibatch, View
from scvenn.network.predictions import (
    Given,
    decode,
    decoder_gradient,
    draw,
    draw_from_prior,
    embed,
    encoded,
    given_sources,
    label_probabilities,
    means,
    normalisers,
    on_axes,
    posteriors,
    read_again,
    scaled_means,
    slopes,
)
from scvenn.network.vae import SharedPrivateVAE

__all__ = [
    "Branch",
    "Design",
    "Gaussian",
    "Given",
    "Minibatch",
    "ScreenedBranch",
    "SharedPrivateVAE",
    "View",
    "decode",
    "decoder_gradient",
    "draw",
    "draw_from_prior",
    "embed",
    "encoded",
    "fill_in",
    "given_sources",
    "label_probabilities",
    "learned_tensors",
    "means",
    "normalisers",
    "on_axes",
    "posteriors",
    "read_again",
    "scaled_means",
    "slopes",
    "take_over",
]
