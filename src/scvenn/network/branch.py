"""A branch: all that one modality has, from its values to its latents and back.

Shapes: ``B`` cells, ``D`` features, ``R`` raw parameters of the features, ``P`` of which are
predicted from ``shared``, ``K`` latent dimensions, ``V`` columns of covariates, ``T`` latents that
are decoded at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from scvenn.likelihoods import (
    FeatureStats,
    LastLayer,
    Likelihood,
    Parts,
    Rows,
    SparseRows,
    dense,
    some_features,
)
from scvenn.network.correction import BatchCorrection
from scvenn.network.design import Design
from scvenn.network.gaussians import Gaussian
from scvenn.network.layers import (
    AbsentPrivate,
    Decoder,
    HiddenLayers,
    SideBySide,
    decoder_layers,
    hidden_layers,
    product_of_rows,
)
from scvenn.network.minibatch import View

# As in the paper's code: no posterior is infinitely sure of itself.
_MIN_VARIANCE = 1e-8


class Decoded(NamedTuple):
    """Output of one decoder for some of the latents that were decoded at once."""

    rows: list[int]  # of the latents, among all T
    raw: Tensor | Parts | LastLayer  # (rows, B, R)
    from_shared: bool  # whether it is a prediction from `shared` alone


class Branch(nn.Module):
    """One encoder of both latents, one decoder of both, and the likelihood of a modality.

    Across views the decoder gets a stand-in for the private latent.

    Parameters
    ----------
    likelihood
        Of the modality's values.
    design
        Sizes and kinds of the networks.
    n_private
        Size of the private latent.
    dropout
        Of the hidden layers.
    n_covariates
        Number V of columns of covariates, inputs of the decoders.
    """

    private_axes: Tensor  # (P, P)
    around_zero: Tensor  # where the bias of the decoder would start without means, (R,)

    def __init__(
        self,
        likelihood: Likelihood,
        design: Design,
        *,
        n_private: int,
        dropout: float,
        n_covariates: int,
    ) -> None:
        super().__init__()
        n_features, n_shared, n_hidden = len(likelihood.mean_), design.n_shared, design.n_hidden
        self.likelihood = likelihood
        self.encode_covariates = design.encode_covariates
        layers: dict[str, Any] = {"n_hidden": n_hidden, "dropout": dropout}
        self._encoding = {
            **layers,
            "n_layers": design.n_layers,
            "n_covariates": n_covariates if design.encode_covariates else 0,
        }
        self._decoding = {
            **layers,
            "n_layers": 0 if design.decoder == "linear" else design.n_layers,
            "n_covariates": n_covariates,
        }
        self.hidden = hidden_layers(n_features, **self._encoding)
        self.shared_head = nn.Linear(n_hidden, 2 * n_shared)
        self.private_head = nn.Linear(n_hidden, 2 * n_private)
        n_raw = likelihood.n_outputs * n_features
        self.decoder = Decoder(n_raw, n_shared, n_private, **self._decoding)
        # that of a branch that screens corrects a prediction, which starts there
        self._starts_at_means = design.start_at_means and not design.screen
        if self._starts_at_means:
            around_zero = self.decoder.out.bias.detach().clone()
            self.register_buffer("around_zero", around_zero, persistent=False)
            self._start_at_means()
        self.absent = AbsentPrivate(design.absent_private, n_private)
        # from the latent to its ordered axes, orthogonal; learned at the end of training
        self.register_buffer("private_axes", torch.eye(n_private))
        self.private_correction = BatchCorrection(n_private)  # on these axes

    def set_stats(self, stats: FeatureStats) -> None:
        """Start from the statistics of other cells, before anything is learned."""
        self.likelihood.set_stats(stats)
        if self._starts_at_means:
            self._start_at_means()

    def _start_at_means(self) -> None:
        self.decoder.out.bias.data.copy_(self.around_zero + self.likelihood.start())

    def ignore_features(self, constant: Bool[np.ndarray, " D"]) -> None:
        """Have the encoder leave out features that had one value in training.

        Nothing was learned of other values of them: their weights are as random as at the start.
        """
        features, read = self._constant_input(constant)
        self.hidden.leave_out(features, read)

    @torch.no_grad()
    def _constant_input(
        self, constant: Bool[np.ndarray, " D"]
    ) -> tuple[Int[Tensor, " C"], Float[Tensor, " C"]]:
        """Positions of constant features, and what is read of them: the same, whatever others are.

        A likelihood of a user's may read values relative to those of other features.
        """
        mean, scale = self.likelihood.mean_, self.likelihood.scale_
        fixed = torch.as_tensor(constant, device=mean.device)
        one, other = self.likelihood.encoder_input(
            torch.stack([mean, torch.where(fixed, mean, mean + scale)])
        )
        features = torch.nonzero(fixed & (one == other)).squeeze(1)
        return features, one[features]

    def encode(self, view: View, covariates: Float[Tensor, "B V"]) -> tuple[Gaussian, Gaussian]:
        """Posteriors of shared and private, (B, K) each, given this modality."""
        seen = covariates if self.encode_covariates else None
        hidden = self._read(self._encoder_input(view.x), seen)  # (B, H)
        return _gaussian(self.shared_head(hidden)), _gaussian(self.private_head(hidden))

    @torch.no_grad()
    def filled(
        self,
        view: View,
        shared: Float[Tensor, "B K"],
        private: Float[Tensor, "B P"],
        covariates: Float[Tensor, "B V"],
    ) -> View:
        """The cells, with what latents predict in place of features that were not measured."""
        raw = self.predict(shared, private, view.observed, covariates)
        expected = self.likelihood.mean(raw, view.library)
        missing = view.observed.unsqueeze(-1) & ~view.measured
        return replace(view, x=torch.where(missing, expected, dense(view.x)))

    def _encoder_input(self, x: Rows) -> Rows:
        """Values as the encoder reads them; of sparse ones, 0 is read as 0."""
        if isinstance(x, SparseRows):
            return x._replace(values=self.likelihood.encoder_input(x.values))
        return self.likelihood.encoder_input(x)

    def _read(self, x: Rows, covariates: Tensor | None) -> Float[Tensor, "B H"]:
        """What the hidden layers of the encoder make of what it reads."""
        if not isinstance(x, SparseRows):
            return self.hidden(x, cont=covariates)
        return self.hidden.after_product(product_of_rows(x, self.hidden.weight), covariates)

    def decode(
        self,
        shared: Float[Tensor, "T B K"],
        private: Float[Tensor, "B P"],
        cross_view: Sequence[bool],
        covariates: Float[Tensor, "B V"],
    ) -> list[Decoded]:
        """Outputs of the decoders for several shared latents at once.

        Parameters
        ----------
        shared
            Samples of the shared latent, (T, B, K).
        private
            Sample of the private latent, (B, K).
        cross_view
            For which of the T the modality was not encoded, so that its private latent is absent.
        covariates
            Of the cells, (B, V).
        """
        beside = torch.stack([self.absent(private) if c else private for c in cross_view])
        layer = self.decoder.last_layer(shared, beside, covariates)  # (T, B, R)
        return [Decoded(list(range(len(shared))), layer, from_shared=False)]

    def of_covariates(self) -> Iterator[Tensor]:
        """All that was learned of the columns of covariates: views, with a row for each column."""
        for module in self.modules():
            if isinstance(module, HiddenLayers):
                yield from module.of_covariates()
            elif isinstance(module, Decoder | CrossDecoder):
                if isinstance(module.hidden, SideBySide) and module.hidden.n_cov:
                    yield module.out.weight[:, -module.hidden.n_cov :].t()
                if isinstance(module, CrossDecoder):
                    yield module.shift

    def predict(
        self,
        shared: Float[Tensor, "B K"],
        private: Float[Tensor, "B P"],
        same_view: Bool[Tensor, " B"],
        covariates: Float[Tensor, "B V"],
        features: slice | None = None,
    ) -> Float[Tensor, "B r"]:
        """Raw parameters of trained networks, of all features or of some.

        Where a cell is not same-view, its private latent counts as zero.
        """
        beside = torch.where(same_view[:, None], private, 0.0)
        return self.decoder(shared, beside, covariates, self.parameters_of(features))

    def parameters_of(self, features: slice | None) -> Int[Tensor, " r"] | None:
        """Positions of the raw parameters of some features; None for all."""
        if features is None:
            return None
        every = torch.arange(len(self.decoder.out.bias), device=self.decoder.out.bias.device)
        return every.unflatten(0, (self.likelihood.n_outputs, -1))[:, features].flatten()


class CrossDecoder(nn.Module):
    """From shared alone to the raw parameters of the features that other modalities predict.

    It reads the shared latent of every encoder, the modality's own as well, so that they agree.

    Any other parameter is a baseline, which only covariates change: it teaches ``shared`` nothing.
    Its weak dependence on ``shared`` is estimated after training, in :attr:`slope`.

    Parameters
    ----------
    start
        The raw parameters, one or more for each feature, where learning starts, (R,).
    n_shared
        Size K of the shared latent.
    **layers
        As those of :class:`~scvenn.network.layers.Decoder`.
    """

    predicted: Tensor  # positions of the parameters that are no baseline, all at first
    rest: Tensor  # positions of the baselines
    centre: Tensor  # mean of shared in training, (K,)
    slope: Tensor  # of baselines, by shared, (K, R)

    def __init__(self, start: Float[Tensor, " R"], n_shared: int, **layers: Any) -> None:
        super().__init__()
        n_raw = len(start)
        self.hidden, width = decoder_layers(n_shared, **layers)
        self.baseline = nn.Parameter(start.clone())
        self.out = _layer_around(start, width)
        # A batch effect is easier to learn here than by way of shared, which need not hold it then.
        self.shift = nn.Parameter(torch.zeros(layers["n_covariates"], n_raw))
        self.register_buffer("predicted", torch.arange(n_raw))
        self.register_buffer("rest", torch.arange(0), persistent=False)
        self.register_buffer("centre", torch.zeros(n_shared))
        self.register_buffer("slope", torch.zeros(n_shared, n_raw))

    def restrict(self, predicted: Bool[np.ndarray, " R"]) -> None:
        """Start anew with a last layer that gives these parameters."""
        device = self.baseline.device
        self.predicted = torch.as_tensor(np.flatnonzero(predicted), device=device)
        self.rest = torch.as_tensor(np.flatnonzero(~predicted), device=device)
        self.out = _layer_around(self.baseline[self.predicted], self.out.in_features)

    def parts(self, shared: Float[Tensor, "*T B K"], covariates: Float[Tensor, "B V"]) -> Parts:
        """What is predicted from shared (..., B, K) and covariates (B, V), and the baselines."""
        raw = self.out(self.hidden(shared, cont=covariates))  # (..., B, P)
        if not len(self.shift):
            return Parts(raw, self.predicted, self.baseline.unsqueeze(0), self.rest)
        distinct, group = covariates.unique(dim=0, return_inverse=True)  # (G, V), (B,)
        shift = distinct @ self.shift  # (G, R)
        raw = raw + shift.index_select(-1, self.predicted)[group]
        return Parts(raw, self.predicted, self.baseline + shift, self.rest, group)

    def forward(
        self, shared: Float[Tensor, "*T B K"], covariates: Float[Tensor, "B V"]
    ) -> Float[Tensor, "*T B R"]:
        """Raw parameters, (..., B, R), from shared (..., B, K) and covariates (B, V)."""
        return self.parts(shared, covariates).whole()

    def of_some(
        self,
        shared: Float[Tensor, "B K"],
        covariates: Float[Tensor, "B V"],
        chosen: Int[Tensor, " r"],
    ) -> Float[Tensor, "B r"]:
        """What :meth:`forward` gives, of the parameters at some positions."""
        row_of = torch.full_like(self.baseline, -1, dtype=torch.long)  # in the last layer, (R,)
        row_of[self.predicted] = torch.arange(len(self.predicted), device=row_of.device)
        rows = row_of[chosen]
        is_predicted = rows >= 0
        rows = rows[is_predicted]
        raw = self.baseline[chosen].repeat(len(shared), 1)
        hidden = self.hidden(shared, cont=covariates)
        raw[:, is_predicted] = F.linear(hidden, self.out.weight[rows], self.out.bias[rows])
        return raw + covariates @ self.shift[:, chosen]

    def of_baselines(
        self, shared: Float[Tensor, "*T B K"], chosen: Int[Tensor, " r"] | None = None
    ) -> Float[Tensor, "*T B r"]:
        """By how much baselines move with shared; 0 for all other parameters."""
        slope = self.slope if chosen is None else self.slope[:, chosen]
        return (shared - self.centre) @ slope


class ScreenedBranch(Branch):
    """A branch in which ``shared`` has networks of its own, and private is what they leave over.

    The encoder of shared reads the features that concern it, and a decoder predicts from shared
    alone. The encoder of private reads how far values are from that prediction, and the decoder of
    both latents corrects it. Neither has a reason to repeat what is shared.

    Nothing stands in for a private latent: across views, none is decoded.
    """

    features: Tensor  # positions of those that the encoder of shared reads, all at first

    def __init__(
        self, likelihood: Likelihood, design: Design, **parameters: Any
    ) -> None:  # as those of Branch
        super().__init__(likelihood, design, **parameters)
        n_features = len(likelihood.mean_)
        self.shared_hidden = hidden_layers(n_features, **self._encoding)
        self.register_buffer("features", torch.arange(n_features))
        self.cross_decoder = CrossDecoder(likelihood.start(), design.n_shared, **self._decoding)

    def set_stats(self, stats: FeatureStats) -> None:
        """Take over the statistics of other cells, in the baselines of both decoders.

        Predicted features follow with :meth:`restrict`.
        """
        super().set_stats(stats)
        self.cross_decoder.baseline.data.copy_(self.likelihood.start())

    def restrict(self, reads: Bool[np.ndarray, " D"], predicts: Bool[np.ndarray, " D"]) -> None:
        """Start anew with networks for the features that concern ``shared``; see the VAE's."""
        device = self.features.device
        self.features = torch.as_tensor(np.flatnonzero(reads), device=device)
        hidden = hidden_layers(len(self.features), **self._encoding)
        self.shared_hidden = hidden.to(device).train(self.training)
        self.cross_decoder.restrict(np.tile(predicts, self.likelihood.n_outputs))  # (R,)

    def ignore_features(self, constant: Bool[np.ndarray, " D"]) -> None:
        """Leave constant features out of both encoders.

        That of private reads how far a feature is from its prediction: next to nothing if it is
        constant. Counts above 0 are an exception, as their prediction depends on the cell's sum.
        """
        features, read = self._constant_input(constant)  # ascending, as self.features
        of_sums = self.likelihood.discrete and not self.likelihood.binary
        silent = features[read == 0] if of_sums else features
        self.hidden.leave_out(silent, read.new_zeros(len(silent)))
        is_read = torch.isin(self.features, features)
        of_read = torch.isin(features, self.features)
        self.shared_hidden.leave_out(torch.nonzero(is_read).squeeze(1), read[of_read])

    def encode(self, view: View, covariates: Float[Tensor, "B V"]) -> tuple[Gaussian, Gaussian]:
        """Posteriors of shared, and of private given what the prediction of shared leaves over."""
        seen = covariates if self.encode_covariates else None
        x = self._encoder_input(view.x)
        hidden = self.shared_hidden(some_features(x, self.features), cont=seen)  # (B, H)
        shared = _gaussian(self.shared_head(hidden))
        if isinstance(x, SparseRows):  # what is left over is never made dense
            with torch.no_grad():
                parts = self.cross_decoder.parts(shared.loc, covariates)
                read = self.likelihood.read_mean(parts, view.library)
            product = product_of_rows(x, self.hidden.weight, minus=read)
            product = torch.where(view.measured, product, 0.0)
            hidden = self.hidden.after_product(product, seen)
        else:
            left_over = self.left_over(x, view, shared.loc, covariates)
            hidden = self.hidden(left_over, cont=seen)
        return shared, _gaussian(self.private_head(hidden))

    @torch.no_grad()
    def left_over(
        self,
        x: Float[Tensor, "B D"],
        view: View,
        shared: Float[Tensor, "B K"],
        covariates: Float[Tensor, "B V"],
    ) -> Float[Tensor, "B D"]:
        """How far values x, as encoders read them, are from what ``shared`` predicts, (B, D)."""
        predicted = self.likelihood.mean(self.cross_decoder(shared, covariates), view.library)
        left_over = x - self.likelihood.encoder_input(predicted)
        return left_over if view.measured.all() else torch.where(view.measured, left_over, 0.0)

    def decode(
        self,
        shared: Float[Tensor, "T B K"],
        private: Float[Tensor, "B P"],
        cross_view: Sequence[bool],
        covariates: Float[Tensor, "B V"],
    ) -> list[Decoded]:
        """Predictions from shared alone, and corrected by private where the modality was encoded.

        The decoder of shared alone decodes the modality's own shared latent as well: it must read
        those of all encoders, which makes them agree.
        """
        parts = self.cross_decoder.parts(shared, covariates)
        same = [row for row, cross in enumerate(cross_view) if not cross]
        from_shared = parts if self.likelihood.scores_parts else parts.whole()
        decoded = [Decoded(list(range(len(shared))), from_shared, from_shared=True)]
        if same:
            beside = private.expand(len(same), -1, -1)  # (same, B, K)
            fixed = parts._replace(raw=parts.raw[same])
            layer = self.decoder.last_layer(shared[same], beside, covariates, fixed)
            decoded.append(Decoded(same, layer, from_shared=False))
        return decoded

    def predict(
        self,
        shared: Float[Tensor, "B K"],
        private: Float[Tensor, "B P"],
        same_view: Bool[Tensor, " B"],
        covariates: Float[Tensor, "B V"],
        features: slice | None = None,
    ) -> Float[Tensor, "B r"]:
        """Raw parameters of trained networks: the prediction from shared alone, corrected."""
        chosen, decoder = self.parameters_of(features), self.cross_decoder
        correction = decoder.of_baselines(shared, chosen)
        if same_view.any():
            by_private = self.decoder(shared, private, covariates, chosen)
            correction = torch.where(same_view[:, None], by_private, correction)
        if chosen is None:
            return decoder(shared, covariates) + correction
        return decoder.of_some(shared, covariates, chosen) + correction


def _gaussian(parameters: Float[Tensor, "B twice_K"]) -> Gaussian:
    loc, raw_scale = parameters.chunk(2, dim=-1)  # (B, 2K) -> 2 x (B, K)
    return Gaussian(loc, F.softplus(raw_scale).square() + _MIN_VARIANCE)


@torch.no_grad()
def _layer_around(start: Float[Tensor, " P"], width: int) -> nn.Linear:
    """A layer that reads ``width`` units and whose outputs are close to ``start``, at first."""
    layer = nn.Linear(width, len(start)).to(start.device)
    layer.bias.add_(start)
    return layer
