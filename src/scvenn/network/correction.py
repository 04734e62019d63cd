"""The correction of a latent for batches, as a part of the networks: it is saved with them.

Shapes: ``B`` cells, ``K`` dimensions of the latent.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scvenn.batches import BatchShifts, corrected


class BatchCorrection(nn.Module):
    """Takes out of a latent what batches shift in it: nothing, until that is learned.

    Parameters
    ----------
    n_dims
        Size K of the latent.
    """

    variance: Tensor

    def __init__(self, n_dims: int) -> None:
        super().__init__()
        for name, value in BatchShifts.none(n_dims)._asdict().items():
            self.register_buffer(name, value)

    @property
    def found(self) -> BatchShifts:
        """What is taken out."""
        return BatchShifts(*(getattr(self, name) for name in BatchShifts._fields))

    @found.setter
    def found(self, found: BatchShifts) -> None:
        for name, value in found._asdict().items():
            setattr(self, name, value.to(self.variance))

    def forward(
        self, latent: Float[Tensor, "B K"], batch: Int[Tensor, " B"]
    ) -> Float[Tensor, "B K"]:
        """Latents of cells of these batches, corrected."""
        return corrected(latent, batch, self.found)

    def _load_from_state_dict(self, state: Any, prefix: str, *args: Any) -> None:
        """Take on the sizes of what was saved, which depend on the training cells."""
        saved = [state.get(f"{prefix}{name}") for name in BatchShifts._fields]
        if all(isinstance(value, Tensor) for value in saved):
            self.found = BatchShifts(*(torch.empty_like(value) for value in saved))
        super()._load_from_state_dict(state, prefix, *args)


class ReferenceCells(nn.Module):
    """Some training cells, with which other cells are compared.

    Parameters
    ----------
    n_dims
        Size D of all latents together.
    n_shared
        Size K of the shared latent.
    """

    latents: Float[Tensor, "N D"]  # corrected for batches; infinite where a cell lacks a modality
    shared_mean: Float[Tensor, " K"]  # of shared, uncorrected; (0,) where it is not known

    def __init__(self, n_dims: int, n_shared: int) -> None:
        super().__init__()
        self.register_buffer("latents", torch.zeros(0, n_dims))
        self.n_shared = n_shared
        self.register_buffer("shared_mean", torch.zeros(0))

    def _load_from_state_dict(self, state: Any, prefix: str, *args: Any) -> None:
        """Take on the number of cells that were saved; none in files without them."""
        mean = state.setdefault(f"{prefix}shared_mean", self.shared_mean[:0])
        if mean.shape in ((0,), (self.n_shared,)):
            self.shared_mean = self.shared_mean.new_empty(mean.shape)
        saved = state.setdefault(f"{prefix}latents", self.latents[:0])
        if saved.ndim == 2 and saved.shape[1] == self.latents.shape[1]:  # else it is refused
            self.latents = self.latents.new_empty(saved.shape)
        super()._load_from_state_dict(state, prefix, *args)
