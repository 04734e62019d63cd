"""The layers that networks are built of: hidden layers, the decoder, the label head.

Shapes: ``B`` cells, ``R`` raw parameters of the features, ``H`` hidden units, ``K`` latent
dimensions, ``V`` columns of covariates, ``C`` classes.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scvi.nn import FCLayers
from torch import Tensor, nn


def hidden_layers(
    n_in: int, *, n_hidden: int, n_layers: int, n_covariates: int, dropout: float
) -> FCLayers:
    """Layers as in the paper's code: linear, LeakyReLU, no normalisation over cells.

    Without batch norm a cell's result never depends on the other cells of its minibatch, among
    them those in which this modality was not measured.
    """
    return FCLayers(
        n_in=n_in,
        n_out=n_hidden,
        n_cont=n_covariates,
        n_layers=n_layers,
        n_hidden=n_hidden,
        dropout_rate=dropout,
        use_batch_norm=False,
        activation_fn=nn.LeakyReLU,
    )


class _SideBySide(nn.Module):
    """In place of hidden layers: latents and covariates side by side, for a linear decoder."""

    def forward(self, x: Float[Tensor, "*T B K"], cont: Float[Tensor, "B V"]) -> Tensor:
        """Latents (..., B, K) and covariates (B, V) as one array (..., B, K + V)."""
        return torch.cat([x, cont.expand(*x.shape[:-1], -1)], dim=-1)


def decoder_layers(
    n_in: int, *, n_hidden: int, n_layers: int, n_covariates: int, dropout: float
) -> tuple[nn.Module, int]:
    """What a decoder has before its last layer, and the width of that; without layers, linear."""
    if n_layers == 0:
        return _SideBySide(), n_in + n_covariates
    hidden = hidden_layers(
        n_in, n_hidden=n_hidden, n_layers=n_layers, n_covariates=n_covariates, dropout=dropout
    )
    return hidden, n_hidden


class Decoder(nn.Module):
    """From shared and private to the raw parameters of the features of one modality.

    Parameters
    ----------
    n_raw
        Number R of raw parameters, one or more for each feature.
    n_shared, n_private
        Sizes of the two latents.
    **layers
        Arguments of the hidden layers: ``n_hidden``, ``n_layers`` (0: a linear decoder),
        ``dropout`` and ``n_covariates``, the number V of columns they see besides (0: none).
    """

    def __init__(self, n_raw: int, n_shared: int, n_private: int, **layers: Any) -> None:
        super().__init__()
        self.hidden, width = decoder_layers(n_shared + n_private, **layers)
        self.out = nn.Linear(width, n_raw)

    def forward(
        self,
        shared: Float[Tensor, "*T B K"],
        private: Float[Tensor, "*T B P"],
        covariates: Float[Tensor, "B V"],
    ) -> Float[Tensor, "*T B R"]:
        """Raw parameters, (..., B, R), from latents (..., B, K) and covariates (B, V)."""
        return self.out(self.hidden(torch.cat([shared, private], dim=-1), cont=covariates))


class AbsentPrivate(nn.Module):
    """What stands in for a private latent that was not encoded.

    Parameters
    ----------
    kind
        ``"zero"``; a sample of the ``"prior"``; or ``"learned"``, a sample of a Gaussian with mean
        0 and, at first, the standard deviations of the prior.
    n_private
        Size K of the latent.
    """

    def __init__(self, kind: Literal["zero", "prior", "learned"], n_private: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "learned":
            self.log_scale = nn.Parameter(torch.zeros(n_private))

    def forward(self, private: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """A latent of the shape of the one that would be there, (B, K)."""
        if self.kind == "zero":
            return torch.zeros_like(private)
        noise = torch.randn_like(private)
        return noise * self.log_scale.exp() if self.kind == "learned" else noise


class LabelHead(nn.Module):
    """A linear map from shared to the log-probability of each class.

    The first class has logit 0: two classes are then exactly a Bernoulli.

    Parameters
    ----------
    n_shared, n_classes
        Size K of the shared latent and number of classes C.
    """

    def __init__(self, n_shared: int, n_classes: int) -> None:
        super().__init__()
        self.logits = nn.Linear(n_shared, n_classes - 1)

    def forward(self, shared: Float[Tensor, "*S K"]) -> Float[Tensor, "*S C"]:
        """Log-probabilities (..., C) from shared latents (..., K)."""
        return F.pad(self.logits(shared), (1, 0)).log_softmax(-1)

    def score(
        self, shared: Float[Tensor, "S B K"], labels: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "S B"], Float[Tensor, "S B"]]:
        """Log-likelihood of labels given shared latents, and whether the likeliest class is right.

        Parameters
        ----------
        shared
            Latents, (S, B, K).
        labels
            Number of each cell's class, (B,); -1 is unlabelled, and its log-likelihood is NaN.
        """
        log_probs = self(shared)  # (S, B, C)
        each = labels.clamp(min=0).expand(log_probs.shape[:2]).unsqueeze(2)  # (S, B, 1)
        picked = log_probs.gather(2, each).squeeze(2)
        right = (log_probs.argmax(2) == labels).float()
        return torch.where(labels >= 0, picked, torch.nan), right
