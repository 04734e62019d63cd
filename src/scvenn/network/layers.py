"""The networks of a modality: its encoder and its decoders.

Shapes: ``B`` cells, ``D`` features, ``R`` raw parameters of the features, ``H`` hidden units, ``K``
latent dimensions, ``V`` columns of covariates.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from scvi.nn import FCLayers
from torch import Tensor, nn

from scvenn.likelihoods.base import Parts
from scvenn.network.gaussians import Gaussian

# As in the paper's code: no posterior is infinitely sure of itself.
_MIN_VARIANCE = 1e-8


def _hidden_layers(
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

    def forward(self, x: Tensor, cont: Tensor) -> Tensor:
        """Latents (..., B, K) and covariates (B, V) as one array (..., B, K + V)."""
        return torch.cat([x, cont.expand(*x.shape[:-1], -1)], dim=-1)


def _layers_of_decoder(
    n_in: int, *, n_hidden: int, n_layers: int, n_covariates: int, dropout: float
) -> tuple[nn.Module, int]:
    """What a decoder has before its last layer, and the width of that; without layers, linear."""
    if n_layers == 0:
        return _SideBySide(), n_in + n_covariates
    hidden = _hidden_layers(
        n_in, n_hidden=n_hidden, n_layers=n_layers, n_covariates=n_covariates, dropout=dropout
    )
    return hidden, n_hidden


class Encoder(nn.Module):
    """q(shared, private | x) of one modality: two diagonal Gaussians off the same hidden layers.

    Parameters
    ----------
    n_features, n_shared, n_private
        D and the sizes K of the two latents.
    n_hidden, **layers
        Arguments of the hidden layers: ``n_layers``, ``dropout`` and ``n_covariates``, the number V
        of columns they see besides (0: none).
    """

    def __init__(
        self, n_features: int, n_shared: int, n_private: int, *, n_hidden: int, **layers: Any
    ) -> None:
        super().__init__()
        self.hidden = _hidden_layers(n_features, n_hidden=n_hidden, **layers)
        self.shared = nn.Linear(n_hidden, 2 * n_shared)
        self.private = nn.Linear(n_hidden, 2 * n_private)

    def forward(self, x: Tensor, covariates: Tensor | None) -> tuple[Gaussian, Gaussian]:
        """Posteriors of shared and private, (B, K) each, from x (B, D) and covariates (B, V)."""
        hidden = self.hidden(x, cont=covariates)  # (B, H)
        return _gaussian(self.shared(hidden)), _gaussian(self.private(hidden))


class ScreenedEncoder(nn.Module):
    """q(shared | some features) and q(private | what shared leaves over), each with hidden layers.

    Parameters
    ----------
    n_features, n_shared, n_private, n_hidden, **layers
        As those of :class:`Encoder`.
    """

    features: Tensor  # positions of those that `shared` is read off, all at first

    def __init__(
        self, n_features: int, n_shared: int, n_private: int, *, n_hidden: int, **layers: Any
    ) -> None:
        super().__init__()
        self._layers = {"n_hidden": n_hidden, **layers}
        self.hidden_shared = _hidden_layers(n_features, **self._layers)
        self.hidden_private = _hidden_layers(n_features, **self._layers)
        self.shared = nn.Linear(n_hidden, 2 * n_shared)
        self.private = nn.Linear(n_hidden, 2 * n_private)
        self.register_buffer("features", torch.arange(n_features))

    def restrict(self, features: Tensor) -> None:
        """Start anew with layers that read ``shared`` off the features at these positions."""
        device = self.features.device
        hidden = _hidden_layers(len(features), **self._layers)
        self.hidden_shared = hidden.to(device).train(self.training)
        self.features = features.to(device)

    def encode_shared(self, x: Tensor, covariates: Tensor | None) -> Gaussian:
        """Posterior of shared, (B, K), from x (B, D) and covariates (B, V)."""
        return _gaussian(
            self.shared(self.hidden_shared(x.index_select(-1, self.features), cont=covariates))
        )

    def encode_private(self, left_over: Tensor, covariates: Tensor | None) -> Gaussian:
        """Posterior of private, (B, K), from what is left over, (B, D), and covariates (B, V)."""
        return _gaussian(self.private(self.hidden_private(left_over, cont=covariates)))


def _gaussian(parameters: Tensor) -> Gaussian:
    loc, raw_scale = parameters.chunk(2, dim=-1)  # (B, 2K) -> 2 x (B, K)
    return Gaussian(loc, F.softplus(raw_scale).square() + _MIN_VARIANCE)


class Decoder(nn.Module):
    """From shared and private to the raw parameters of the features of one modality.

    Parameters
    ----------
    n_raw
        Number R of raw parameters, one or more for each feature.
    n_shared, n_private
        Sizes K of the two latents.
    **layers
        Arguments of the hidden layers: ``n_hidden``, ``n_layers`` (0: a linear decoder),
        ``dropout`` and ``n_covariates``, the number V of columns they see besides (0: none).
    """

    def __init__(self, n_raw: int, n_shared: int, n_private: int, **layers: Any) -> None:
        super().__init__()
        self.hidden, width = _layers_of_decoder(n_shared + n_private, **layers)
        self.out = nn.Linear(width, n_raw)

    def forward(self, shared: Tensor, private: Tensor, covariates: Tensor) -> Tensor:
        """Raw parameters, (..., B, R), from latents (..., B, K) and covariates (B, V)."""
        return self.out(self.hidden(torch.cat([shared, private], dim=-1), cont=covariates))


@torch.no_grad()
def _layer_around(start: Tensor, width: int) -> nn.Linear:
    """A layer that reads ``width`` units and whose outputs are close to ``start``, at first."""
    layer = nn.Linear(width, len(start)).to(start.device)
    layer.bias.add_(start)
    return layer


class CrossDecoder(nn.Module):
    """From shared alone to the raw parameters of the features that other modalities predict.

    It reads the shared latent of every encoder, the modality's own as well, so that they agree.

    Any other parameter is a baseline, which only covariates change: it teaches ``shared`` nothing.
    What can be told of it from ``shared`` all the same is learned after training, in :attr:`slope`.

    Parameters
    ----------
    start
        The raw parameters, one or more for each feature, where learning starts, (R,).
    n_shared
        Size K of the shared latent.
    **layers
        As those of :class:`Decoder`.
    """

    predicted: Tensor  # positions of the parameters that are no baseline, all at first
    rest: Tensor  # positions of the baselines
    centre: Tensor  # mean of shared in training, (K,)
    slope: Tensor  # of baselines, by shared, (K, R)

    def __init__(self, start: Tensor, n_shared: int, **layers: Any) -> None:
        super().__init__()
        n_raw = len(start)
        self.hidden, width = _layers_of_decoder(n_shared, **layers)
        self.baseline = nn.Parameter(start.clone())
        self.out = _layer_around(start, width)
        # A batch effect is easier to learn here than by way of shared, which need not hold it then.
        self.shift = nn.Parameter(torch.zeros(layers["n_covariates"], n_raw))
        self.register_buffer("predicted", torch.arange(n_raw))
        self.register_buffer("rest", torch.arange(0), persistent=False)
        self.register_buffer("centre", torch.zeros(n_shared))
        self.register_buffer("slope", torch.zeros(n_shared, n_raw))

    def restrict(self, predicted: Tensor) -> None:
        """Start anew with a last layer that gives the parameters at these positions."""
        self.predicted = predicted.to(self.predicted.device)
        self.out = _layer_around(self.baseline[self.predicted], self.out.in_features)
        is_baseline = torch.ones_like(self.baseline, dtype=torch.bool)
        is_baseline[self.predicted] = False
        self.rest = is_baseline.nonzero().squeeze(1)

    def parts(self, shared: Tensor, covariates: Tensor) -> Parts:
        """What is predicted from shared (..., B, K) and covariates (B, V), and the baselines."""
        raw = self.out(self.hidden(shared, cont=covariates))  # (..., B, P)
        baseline: Tensor = self.baseline
        if len(self.shift):
            shift = covariates @ self.shift  # (B, R)
            raw, baseline = raw + shift.index_select(-1, self.predicted), baseline + shift
        return Parts(raw, self.predicted, baseline, self.rest)

    def forward(self, shared: Tensor, covariates: Tensor) -> Tensor:
        """Raw parameters, (..., B, R), from shared (..., B, K) and covariates (B, V)."""
        return self.parts(shared, covariates).whole()

    def remember(self, centre: np.ndarray, slope: np.ndarray) -> None:
        """Keep the slopes (K, R) of baselines around the mean (K,) of shared."""
        self.centre.copy_(torch.as_tensor(centre))
        self.slope.copy_(torch.as_tensor(slope))

    def of_baselines(self, shared: Tensor) -> Tensor:
        """By how much baselines move with shared, (..., B, R); 0 for all other parameters."""
        return (shared - self.centre) @ self.slope


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

    def forward(self, private: Tensor) -> Tensor:
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

    def forward(self, shared: Tensor) -> Tensor:
        """Log-probabilities (..., C) from shared latents (..., K)."""
        return F.pad(self.logits(shared), (1, 0)).log_softmax(-1)

    def score(self, shared: Tensor, codes: Tensor) -> Tensor:
        """Log-likelihood (B,) of labels given shared latents (B, K); 0 where the code is -1."""
        picked = self(shared).gather(-1, codes.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return torch.where(codes >= 0, picked, 0.0)
