"""The layers that networks are built of: hidden layers, the decoder, the label head.

Shapes: ``B`` cells, ``R`` raw parameters of the features, ``H`` hidden units, ``K`` latent
dimensions, ``V`` columns of covariates, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scvi.nn import FCLayers
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from scvenn.likelihoods import LastLayer, Parts, ReadMean, SparseRows


class FirstLayer(nn.Module):
    """A linear layer whose weights lie feature by feature, so that those of a few are read quickly.

    It is saved as any other, with weights (H, D).

    Parameters
    ----------
    linear
        What it starts from.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.by_feature = nn.Parameter(linear.weight.detach().t().contiguous())  # (D, H)
        self.bias = nn.Parameter(linear.bias.detach())

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = destination.pop(f"{prefix}by_feature").t()

    def _load_from_state_dict(self, state: Any, prefix: str, *args: Any) -> None:
        saved = state.pop(f"{prefix}weight", None)
        if saved is not None:
            state[f"{prefix}by_feature"] = saved.t()
        super()._load_from_state_dict(state, prefix, *args)
        if saved is not None:
            state[f"{prefix}weight"] = state.pop(f"{prefix}by_feature").t()


class HiddenLayers(FCLayers):
    """scvi-tools' layers, the first of which can be computed by other means."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.fc_layers[0][0] = FirstLayer(self.fc_layers[0][0])

    @property
    def weight(self) -> Float[Tensor, "D H"]:
        """Of the first layer, for each feature."""
        by_feature = self.fc_layers[0][0].by_feature  # (D + V, H)
        # the gradient of a part is copied into that of the whole
        return by_feature[: len(by_feature) - self.n_cov] if self.n_cov else by_feature

    @torch.no_grad()
    def leave_out(self, features: Int[Tensor, " C"], read: Float[Tensor, " C"]) -> None:
        """Set the weights of some features to 0, and add what was read of them to the bias.

        Parameters
        ----------
        features
            Their positions.
        read
            The value of each, which was the same in all cells.
        """
        self.fc_layers[0][0].bias.add_(read @ self.weight[features])
        self.weight[features] = 0

    def of_covariates(self) -> Iterator[Float[Tensor, "V H"]]:
        """Weights of the covariates, which all layers read: views of those of each layer."""
        if self.n_cov:
            yield self.fc_layers[0][0].by_feature[-self.n_cov :]
            for layers in self.fc_layers[1:]:
                yield layers[0].weight[:, -self.n_cov :].t()

    def forward(
        self, x: Float[Tensor, "*T B D"], cont: Float[Tensor, "B V"] | None
    ) -> Float[Tensor, "*T B H"]:
        """What the layers make of features (..., B, D) and covariates (B, V)."""
        return self.after_product(x @ self.weight, cont)

    def after_product(
        self, product: Float[Tensor, "*T B H"], cont: Float[Tensor, "B V"] | None
    ) -> Float[Tensor, "*T B H"]:
        """What the layers make of (..., B, H), the product of the features and :attr:`weight`."""
        first = self.fc_layers[0][0]
        x = product + first.bias
        if cont is not None and self.n_cov:
            x = x + cont.to(x.dtype) @ first.by_feature[-self.n_cov :]
        for i, layers in enumerate(self.fc_layers):
            for layer in layers[1:] if i == 0 else layers:
                if isinstance(layer, nn.Linear) and cont is not None:
                    x = torch.cat([x, cont.expand(*x.shape[:-1], -1)], dim=-1)
                x = x if layer is None else layer(x)
        return x


def product_of_rows(
    x: SparseRows, weight: Float[Tensor, "D H"], minus: ReadMean | None = None
) -> Float[Tensor, "B H"]:
    """Product of sparse values, or of what they are above some means, and weights.

    Parameters
    ----------
    x
        Values, (B, D).
    weight
        Of each feature.
    minus
        Means, (B, D), that are subtracted from the values.
    """
    return _ProductOfRows.apply(weight, x, minus)


def _product(x: SparseRows, weight: Tensor) -> Tensor:
    """Product of sparse values (B, D) and weights (D, H)."""
    starts = x.ends[:-1]
    return F.embedding_bag(x.columns, weight, starts, mode="sum", per_sample_weights=x.values)


class _ProductOfRows(torch.autograd.Function):
    """One array for the gradient, where a sum of products would have one for each.

    Autograd adds to the gradient value by value, which takes tens of times longer than a second
    product does.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: SparseRows, minus: ReadMean | None) -> Tensor:
        ctx.found = x, minus
        product = _product(x, weight.detach())  # faster where no gradient is asked for
        if minus is not None:
            product -= minus.mix @ (minus.rows @ weight)
            product -= minus.added @ weight.index_select(0, minus.positions)
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, minus = ctx.found
        total = _product(x.transposed(), gradient.contiguous())  # (D, H)
        if minus is not None:
            total.addmm_(minus.rows.T, minus.mix.T @ gradient, alpha=-1)
            # positions are distinct
            total[minus.positions] -= minus.added.T @ gradient
        return total, None, None


def hidden_layers(
    n_in: int, *, n_hidden: int, n_layers: int, n_covariates: int, dropout: float
) -> HiddenLayers:
    """Layers as in the paper's code: linear, LeakyReLU, no normalisation over cells.

    Without batch norm a cell's result never depends on the other cells of its minibatch, among
    them those in which this modality was not measured.
    """
    return HiddenLayers(
        n_in=n_in,
        n_out=n_hidden,
        n_cont=n_covariates,
        n_layers=n_layers,
        n_hidden=n_hidden,
        dropout_rate=dropout,
        use_batch_norm=False,
        activation_fn=nn.LeakyReLU,
    )


class SideBySide(nn.Module):
    """In place of hidden layers: latents and covariates side by side, for a linear decoder."""

    def __init__(self, n_covariates: int) -> None:
        super().__init__()
        self.n_cov = n_covariates

    def forward(self, x: Float[Tensor, "*T B K"], cont: Float[Tensor, "B V"]) -> Tensor:
        """Latents (..., B, K) and covariates (B, V) as one array (..., B, K + V)."""
        return torch.cat([x, cont.expand(*x.shape[:-1], -1)], dim=-1)


def decoder_layers(
    n_in: int, *, n_hidden: int, n_layers: int, n_covariates: int, dropout: float
) -> tuple[nn.Module, int]:
    """What a decoder has before its last layer, and the width of that; without layers, linear."""
    if n_layers == 0:
        return SideBySide(n_covariates), n_in + n_covariates
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
        chosen: Int[Tensor, " r"] | None = None,
    ) -> Float[Tensor, "*T B r"]:
        """Raw parameters from latents (..., B, K) and covariates (B, V): all, or those chosen."""
        layer = self.last_layer(shared, private, covariates)
        if chosen is not None:
            weight, bias = (of.index_select(0, chosen) for of in (layer.weight, layer.bias))
            layer = layer._replace(weight=weight, bias=bias)
        return layer.whole()

    def last_layer(
        self,
        shared: Float[Tensor, "*T B K"],
        private: Float[Tensor, "*T B P"],
        covariates: Float[Tensor, "B V"],
        fixed: Parts | None = None,
    ) -> LastLayer:
        """The last layer that gives raw parameters: its input and weights.

        ``fixed``: parts of the output that are added to it, without a gradient.
        """
        hidden = self.hidden(torch.cat([shared, private], dim=-1), cont=covariates)
        return LastLayer(hidden, self.out.weight, self.out.bias, fixed)


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
