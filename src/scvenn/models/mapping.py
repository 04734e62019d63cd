"""New batches, donors and panels are mapped onto a trained model, which stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self

import numpy as np
import torch
from mudata import MuData
from torch import Tensor

from scvenn._arguments import check_positive
from scvenn._progress import no_progress
from scvenn.data import REFERENCE, Cells, Keys, Registry, check_mudata, extended_for, hashes_of
from scvenn.models.duration import Duration
from scvenn.models.messages import quiet_libraries
from scvenn.models.runner import HistoryPlan, KeptEpoch, Runner, single_precision, step
from scvenn.models.saving import SavingMixin
from scvenn.models.splitting import Splitter
from scvenn.models.training import OF_AXES
from scvenn.network import SharedPrivateVAE, learned_tensors, take_over
from scvenn.readouts import extend_batch_correction

# About as many steps of the optimiser, in so many epochs at most, and its rate: what is learned
# are offsets, of which each has its own data.
_STEPS, _MOST_EPOCHS, _RATE = 500, 100, 1e-2
# What training of a model leaves of itself, and its mapping anew.
_OF_TRAINING = (
    "best_epoch_",
    "cells_",
    "history_",
    "test_indices_",
    "train_indices_",
    "train_params_",
    "validation_indices_",
)


class _OffsetsPlan(HistoryPlan):
    """Training of offsets alone: networks that no longer learn have no dropout either."""

    def on_train_epoch_start(self) -> None:
        """Evaluation mode."""
        self.module.eval()


class MappingMixin(SavingMixin):
    """Mapping of new cells onto :class:`~scvenn.SharedPrivateModel`."""

    def map_query(
        self,
        mdata: MuData,
        *,
        batch_key: str | None = None,
        max_epochs: int | None = None,
        batch_size: int = 128,
        accelerator: str = "auto",
        enable_progress_bar: bool = True,
    ) -> Self:
        """Map new batches onto this model, which stays as it is.

        Of each new batch, the model that is returned learns what the decoders need to know of it,
        and what it shifts in the latents, so that embeddings can be corrected for it. Nothing else
        is learned: embeddings and predictions of the cells that were there before do not change.

        The new cells may have any of the modalities, and may lack features. A feature that the data
        does not have counts as not measured, and not as zero; its values can be predicted.

        Parameters
        ----------
        mdata
            The new cells, with the columns that the model was set up with. It is only read.
        batch_key
            Column of the new cells' batches, for a model that was set up without one. The cells
            that were there before are then the batch ``"reference"``. Leave it out for a model that
            was set up with ``batch_key``.
        max_epochs
            Most passes through the new cells; None for about 500 steps in all, in at most 100
            epochs.
        batch_size
            Cells per step.
        accelerator
            Where to train; see :class:`scvi.train.Trainer`.
        enable_progress_bar
            Whether to show progress bars.

        Returns
        -------
        A model of the same class whose data is ``mdata``. It can do all that this one can, but not
        be trained: it saves, loads, predicts, and maps further cells. It reads cells of all
        batches. Of the new cells, a tenth is held out for :meth:`evaluate`.

        Raises
        ------
        TypeError
            If ``mdata`` is not a MuData.
        ValueError
            If the model was not trained, or has no components because it is of scvenn 0.1 or its
            training was interrupted; or the data cannot be matched to it: it has none of the
            modalities, no feature of one of them, or not the columns of the set-up.

        Examples
        --------
        >>> import scvenn
        >>> mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20)
        >>> mdata.obs["batch"] = ["first"] * 100 + ["second"] * 100
        >>> reference, query = mdata[:100].copy(), mdata[100:].copy()
        >>> scvenn.MMVAEpp.setup_mudata(reference, batch_key="batch")
        >>> model = scvenn.MMVAEpp(reference)
        >>> model.train(1, enable_progress_bar=False)
        >>> mapped = model.map_query(query, max_epochs=1, enable_progress_bar=False)
        >>> mapped.embed()
        >>> query.obsm["X_shared"].shape
        (100, 10)

        Notes
        -----
        As the query models of scArches (Lotfollahi et al., Nat Biotechnol 2022), but new categories
        of the decoders start at the mean of those before, the encoders do not read the batch, and
        the shifts of the new batches are found in the mixture that the correction for batches
        consists of, whose components stay where they are.
        """
        check_mudata(mdata, may_be_view=False)
        if not self.is_trained_:
            raise ValueError("map_query() needs a trained model; call train() first.")
        if not mdata.n_obs:
            raise ValueError("map_query() found no cells in the MuData; expected at least one.")
        check_positive(batch_size=batch_size)
        if max_epochs is not None:
            check_positive(max_epochs=max_epochs)
        registry = extended_for(self.registry_, mdata, batch_key)
        n_before = max(1, len(Registry(self.registry_).batches))
        with no_progress(not enable_progress_bar), quiet_libraries():
            mapped, is_new = self._with_more_categories(registry, mdata)
            if is_new:
                mapped._learn_offsets(
                    is_new,
                    max_epochs=max_epochs,
                    batch_size=batch_size,
                    accelerator=accelerator,
                    enable_progress_bar=enable_progress_bar,
                )
            else:
                mapped._hold_out(batch_size)
            mapped._find_new_shifts(self, n_before)
        return mapped

    # ----------------------------------------------------------------- steps

    def _with_more_categories(
        self, registry: dict, mdata: MuData
    ) -> tuple[Self, dict[str, Tensor]]:
        """A model of the new cells with all that this one learned, and what it has yet to learn.

        Returns
        -------
        The model; and for each parameter or buffer that grew, which of its entries are of new
        categories.
        """
        attributes = {
            name: copy.deepcopy(value)
            for name, value in self._get_user_attributes()
            if name.endswith("_") and name not in ("registry_", "init_params_", *_OF_TRAINING)
        }
        arguments = dict(self.init_params_["non_kwargs"])
        mapped = self._empty(registry, arguments, attributes)
        mapped.to_device(self.device)
        is_new = take_over(mapped.module, self.module)
        mapped.module.eval()
        mapped.reference_batches_ = (
            self.reference_batches_ or Registry(self.registry_).batches or [REFERENCE]
        )
        mapped._attach(mdata)
        return mapped, is_new

    def _learn_offsets(
        self,
        is_new: Mapping[str, Tensor],
        *,
        max_epochs: int | None,
        batch_size: int,
        accelerator: str,
        enable_progress_bar: bool,
    ) -> None:
        """Train what is of new categories; all else is put back as it was."""
        shuffle = "blocks" if self.adata_manager.on_disk else "cells"
        splitter = Splitter(
            self.adata_manager, train_size=0.9, batch_size=batch_size, shuffle=shuffle
        )
        if max_epochs is None:
            steps_per_epoch = -(-splitter.n_train // batch_size)
            max_epochs = int(np.clip(-(-_STEPS // steps_per_epoch), 1, _MOST_EPOCHS))
        kept = KeptEpoch("validation_loss" if splitter.n_val else None, "min", warmup_epochs=0)
        rates = {"lr": _RATE, "eps": 1e-8, "weight_decay": 0.0, "n_epochs_kl_warmup": None}
        self.is_trained_ = False  # so that its history begins anew
        self.module.train()  # as Lightning expects at the start
        of_reference = {name: tensor.clone() for name, tensor in learned_tensors(self.module)}
        of_axes = {name: getattr(self, name) for name in OF_AXES}
        with _all_fixed_but(self.module, is_new), single_precision(self.module):
            runner = Runner(
                self,
                training_plan=_OffsetsPlan(self.module, **rates),
                data_splitter=splitter,
                max_epochs=max_epochs,
                accelerator=accelerator,
                devices=1,
                kept=kept,
                callbacks=[Duration()],
                early_stopping=splitter.n_val > 0,
                early_stopping_monitor="validation_loss",
                early_stopping_patience=max(5, max_epochs // 10),
                check_val_every_n_epoch=1,
                log_every_n_steps=1,
                enable_progress_bar=enable_progress_bar,
            )
            with self.adata_manager.keep_aligned():
                runner()
        with torch.no_grad():
            for name, tensor in learned_tensors(self.module):
                before = of_reference[name].to(tensor)
                if name in is_new:
                    before = torch.where(is_new[name].to(tensor.device), tensor, before)
                tensor.copy_(before)
        for name, value in of_axes.items():
            setattr(self, name, value)

    def _hold_out(self, batch_size: int) -> None:
        """Hold a part of the cells out, as a training would: for what is fitted and scored."""
        splitter = Splitter(self.adata_manager, train_size=0.9, batch_size=batch_size)
        splitter.setup()
        self.train_indices, self.validation_indices, self.test_indices = (
            splitter.train_idx,
            splitter.val_idx,
            splitter.test_idx,
        )
        self.cells_ = hashes_of(self.adata_manager.adata.obs_names)

    def _find_new_shifts(self, reference: Self, n_before: int) -> None:
        """Extend the correction for batches, of which the reference knows the first ones."""
        net, known = self.module, reference.module
        net.set_learned_after_training(
            shared_shifts=known.shared_correction.found,
            private_shifts={m: known.branch(m).private_correction.found for m in net.modalities},
            reference=known.reference.latents.cpu().numpy(),
            shared_mean=known.reference.shared_mean.cpu().numpy(),
        )
        if net.n_categories[Keys.BATCH] <= n_before:
            return
        if not len(known.reference.latents):
            raise ValueError(
                "map_query() compares new batches with the components that training finds in the "
                "latents, and this model has none: it is of scvenn 0.1, or its training was "
                "interrupted. Train it for another epoch."
            )
        manager = self.adata_manager.snapshot()
        cells = Cells(manager, np.arange(manager.adata.n_obs))
        with step("correcting for new batches", "No model was made.", caller="map_query"):
            extend_batch_correction(net, cells, n_before)


@contextmanager
def _all_fixed_but(network: SharedPrivateVAE, is_new: Mapping[str, Tensor]) -> Iterator[None]:
    """Networks of which some entries of some parameters have a gradient."""
    hooks = []
    for name, parameter in network.named_parameters():
        if name in is_new:
            mask = is_new[name]
            hooks.append(parameter.register_hook(lambda grad, mask=mask: grad * mask.to(grad)))
        else:
            parameter.requires_grad_(False)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        network.requires_grad_(True)
