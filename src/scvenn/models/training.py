"""Training: the split of the cells, what is learned from the training cells alone, and the end."""

from __future__ import annotations

import copy
import logging
import os
from functools import partial
from typing import Any, Literal

import numpy as np
from lightning.pytorch import Trainer
from scvi.model.base import UnsupervisedTrainingMixin

from scvenn._arguments import check_flags, check_positive
from scvenn._progress import no_progress
from scvenn._threads import respect_limits
from scvenn.batches import BatchShifts
from scvenn.data import Cells, Keys, hashes_of
from scvenn.models.checkpoint import Checkpoint, describe
from scvenn.models.duration import Duration
from scvenn.models.messages import quiet_libraries
from scvenn.models.processes import Together, in_several_processes, once
from scvenn.models.runner import (
    BeforeTraining,
    HistoryPlan,
    KeptEpoch,
    Runner,
    interrupts,
    single_precision,
    step,
)
from scvenn.models.splitting import Splitter, check_parts, listed_split
from scvenn.models.training_arguments import (
    as_callbacks,
    check_arguments,
    check_splitter,
    check_validation,
    default_max_epochs,
    defaults,
)
from scvenn.network import fill_in
from scvenn.readouts import (
    ModelState,
    agreement,
    learn_axes,
    learn_batch_correction,
    learn_weak_effects,
    screen_features,
    weigh_experts,
)
from scvenn.screening import Screening

logger = logging.getLogger("scvi.scvenn")

# Times the training cells: of more features than that the log says so.
_MANY_FEATURES = 10
# What is learned of the axes after training.
OF_AXES = ("n_shared_effective_", "n_private_effective_", "shared_agreement_")


class TrainingMixin(UnsupervisedTrainingMixin, ModelState):
    """Training of :class:`~scvenn.SharedPrivateModel`."""

    _training_plan_cls = HistoryPlan
    _data_splitter_cls = Splitter
    _train_runner_cls = Runner

    def train(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        batch_size: int = 128,
        shuffle: Literal["cells", "blocks"] | None = None,
        early_stopping: bool = True,
        write_obsm: bool = True,
        checkpoint: str | os.PathLike | None = None,
        checkpoint_minutes: float = 1.0,
        datasplitter_kwargs: dict[str, Any] | None = None,
        plan_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train with scvi-tools' runner, then write the embeddings.

        ``model.history`` holds, per epoch and for training and validation cells, the loss, the KL
        of the shared and private latents, and the log-likelihood (nats per cell) of each modality
        given each encoded one: ``log_likelihood_rna->atac_validation`` is how well the shared
        latent of ``rna`` predicts ``atac`` in cells that were not trained on, and
        ``log_likelihood_cross_view_validation`` is the sum over all such pairs. Pairs that the
        objective leaves out, as :class:`~scvenn.MVAE` does, are recorded of validation cells alone.
        ``model.best_epoch_`` is the epoch whose weights the model has, counted over all trainings
        as in the history; -1 for the last.

        After the first epoch, the log has an estimate of the whole time if that is more than a
        minute.

        Statistics for likelihoods and screening are those of training cells only.

        After Ctrl-C, or an error in a callback, the model has the weights of the best epoch so far
        (without early stopping: of the last that finished) and can be used, saved and trained
        further. No embeddings were written, and what is learned after training is missing: ordered
        axes, the correction for batches, the cells that :meth:`get_novelty` compares with
        and, in a model that screens, weak effects and the weights of the experts, which are equal.

        Set ``scvi.settings.seed`` before building the model for results that can be repeated; on
        CPU they are then bit-equal.

        Parameters
        ----------
        max_epochs
            Most passes through the training cells; None for about 4,000 steps in all, but no
            fewer than 20 epochs and no more than 400.
        accelerator, devices
            Where to train; see :class:`scvi.train.Trainer`. With several devices, which takes a
            script, each trains on its part of every minibatch: see *Several devices* on the
            documentation's page *Performance*.
        train_size, validation_size, shuffle_set_split
            How cells are split; see :class:`scvi.dataloaders.DataSplitter`. Without a
            ``train_size``, 0.9 of the cells are trained on. A model that is trained again keeps
            its split, unless another one is asked for; :meth:`evaluate` then refuses cells that
            were trained on in either.
        batch_size
            Cells per step, of each device.
        shuffle
            How training cells are shuffled in each epoch: all ``"cells"``; or in ``"blocks"`` of
            128 cells that follow each other, which are read in random order, 64 at a time, and
            whose cells are then mixed. None: cells of data in memory, blocks of data on disk (see
            :doc:`/large_data`). The same seed and the same shuffling give the same weights,
            wherever the data is.
        early_stopping
            Whether to stop when ``validation_loss`` has not fallen for a tenth of ``max_epochs``,
            but no fewer than 10 epochs, and to return to the weights of its best epoch. It is
            watched once the weight of the KL has reached 1, and only where there are validation
            cells.
        write_obsm
            Whether to end with :meth:`embed`.
        checkpoint
            Folder for a file, ``checkpoint.safetensors``, with the state of the training. If it is
            there, the training goes on from it: one that was killed ends with the same weights and
            history, bit for bit on CPU, as one that was not. A checkpoint of other data, other
            arguments or other versions is refused. At the end the file stays; remove it to train
            anew. The state of callbacks of your own is not in it.
        checkpoint_minutes
            The least time between two writings, which are between epochs; 0 writes after each.
        datasplitter_kwargs
            Further arguments of :class:`scvi.dataloaders.DataSplitter`. Of these,
            ``external_indexing`` lists the training, validation and test cells, as positions, masks
            or names.
        plan_kwargs
            Further arguments of :class:`scvi.train.TrainingPlan`. Unlike its own defaults, Adam
            runs with eps 1e-8 and without weight decay, dispersions of counts learn ten times as
            fast as ``lr`` (but no faster than 0.01 or ``lr``, whichever is larger), and the weight
            of the KL rises over the first tenth of ``max_epochs``.
        **trainer_kwargs
            Further arguments of :class:`scvi.train.Trainer`. ``enable_progress_bar=False`` hides
            the bars of screening and of what follows the training, too. ``strategy`` is
            ``"ddp_find_unused_parameters_true"``, the default of several devices, ``"ddp"``,
            ``"ddp_find_unused_parameters_false"``, or a ``DDPStrategy`` of Lightning.

        Raises
        ------
        ValueError
            If the model has no data or came from :meth:`map_query`; ``max_epochs`` or
            ``batch_size`` is below 1; ``shuffle`` is none of its choices; ``checkpoint_minutes`` is
            negative; there is a checkpoint of another training, or the model was trained before;
            lists of cells overlap or leave cells out; a model that screens is asked for another
            split than its first; several devices are asked for in a notebook, or by a strategy
            other than DDP; the loss is not finite (the model then has the weights of the best epoch
            so far); or a file that data is read from was changed.
        TypeError
            If there is no argument of a name.
        OSError
            If a file that data is read from was removed or cut off.
        KeyboardInterrupt
            After Ctrl-C.
        SystemExit
            After SIGTERM, as cluster schedulers send it, with the exit code 143.
        """
        self._check_trainable()
        self._find_cells_by_name(labels=True)
        self.adata_manager.check_labels()
        respect_limits()  # again: compiled functions of other packages raise the number of threads
        check_arguments(
            batch_size=batch_size,
            shuffle=shuffle,
            checkpoint=checkpoint,
            checkpoint_minutes=checkpoint_minutes,
            plan_kwargs=plan_kwargs,
            trainer_kwargs=trainer_kwargs,
            function=TrainingMixin.train,
        )
        check_flags(
            shuffle_set_split=shuffle_set_split,
            early_stopping=early_stopping,
            write_obsm=write_obsm,
        )
        check_splitter(datasplitter_kwargs or {})
        several = in_several_processes(devices, trainer_kwargs)
        split: dict[str, Any] = {
            "train_size": 0.9 if train_size is None else train_size,
            "validation_size": validation_size,
            "shuffle_set_split": shuffle_set_split,
        }
        check_parts(split["train_size"], validation_size)
        options = {**(datasplitter_kwargs or {})}
        in_blocks = self.adata_manager.on_disk if shuffle is None else shuffle == "blocks"
        if in_blocks:
            options["shuffle"] = "blocks"
        asked = {"batch_size": batch_size, **options}
        by_default = train_size is None and validation_size is None and shuffle_set_split
        splitter, used = self._split_cells(split, batch_size, options, by_default=by_default)
        steps_per_epoch = -(-splitter.n_train // batch_size)
        if max_epochs is None:
            max_epochs = default_max_epochs(steps_per_epoch)
        check_positive(max_epochs=max_epochs)
        plan, trainer = defaults(max_epochs, steps_per_epoch, plan_kwargs or {}, trainer_kwargs)
        n_val = 0 if trainer.get("limit_val_batches") == 0 else splitter.n_val
        check_validation(plan, trainer, n_val, early_stopping=early_stopping)
        early_stopping = early_stopping and n_val > 0
        kept = KeptEpoch(
            trainer["early_stopping_monitor"] if early_stopping else None,
            trainer["early_stopping_mode"],
            trainer["early_stopping_warmup_epochs"],
        )
        arguments = {"max_epochs": max_epochs, **split, "early_stopping": early_stopping, **asked}
        arguments |= {**plan, **trainer_kwargs}
        written = None
        if checkpoint is not None:
            self._refuse_a_second_training()
            written = Checkpoint(checkpoint, checkpoint_minutes, describe(self, arguments))
            if written.split is not None:
                options["external_indexing"] = written.split
        trainer = self._with_callbacks(trainer, written, several, early_stopping)
        # as text: callbacks and loggers may not be saved
        used = {name: repr(value) for name, value in arguments.items()} | used
        self._run(
            kept,
            used,
            write_obsm,
            max_epochs=max_epochs,
            accelerator=accelerator,
            devices=devices,
            **split,
            batch_size=batch_size,
            early_stopping=early_stopping,
            datasplitter_kwargs=options,
            plan_kwargs=plan,
            checkpoint=written,
            **trainer,
        )

    def _check_trainable(self) -> None:
        if self.adata is None:
            raise ValueError(
                "This model was loaded without data. Load it with load(dir_path, mdata) to train."
            )
        if self.reference_batches_ is not None:
            raise ValueError(
                "New cells were mapped onto this model, and what it learned before stays as it is: "
                "train() would change that. Map further cells with map_query(mdata), or train a "
                "new model of all cells."
            )

    def _with_callbacks(
        self,
        trainer: dict[str, Any],
        checkpoint: Checkpoint | None,
        several: bool,
        early_stopping: bool,
    ) -> dict[str, Any]:
        """Arguments of the trainer, with what precedes the training and what runs beside it."""
        screening = None if checkpoint is None else checkpoint.screening
        before = BeforeTraining(partial(self._prepare, screening=screening))
        callbacks = [before, Duration(), *as_callbacks(trainer.get("callbacks"))]
        if not several:
            return {**trainer, "callbacks": callbacks}
        together = Together(None if checkpoint is None else checkpoint.found_together)
        if checkpoint is not None:
            checkpoint.together = together
        trainer = {**trainer, "callbacks": [together, *callbacks]}
        return trainer | together.arguments(trainer, early_stopping=early_stopping)

    def _run(
        self, kept: KeptEpoch, used: dict[str, str], write_obsm: bool, **arguments: Any
    ) -> None:
        """Train the networks; after one epoch or more, learn what they have no gradient for.

        Parameters
        ----------
        kept
            The best epoch, which says how many were finished.
        used
            Arguments of the training as text, for the record.
        write_obsm
            Whether embeddings are written.
        **arguments
            Of scvi-tools' training, of the runner and of the trainer.
        """
        self.module.train()  # loading and an earlier training leave it in evaluation mode
        hide_bars = not arguments.get("enable_progress_bar", True)
        with single_precision(self.module), no_progress(hide_bars), quiet_libraries():
            try:
                with self.adata_manager.keep_aligned():
                    super().train(kept=kept, **arguments)
            finally:
                # not if a signal came before the end of the training was on record
                if kept.n_finished and self.is_trained_:
                    self.train_params_ = used
                    self._ignore_constant_features()
            if not kept.n_finished:
                logger.warning(kept.summary)
                return
            self._finish(write_obsm)

    def _refuse_a_second_training(self) -> None:
        """Refuse checkpoints of a training that does not start from networks that are new."""
        if self.is_trained_:
            raise ValueError(
                "checkpoint=... is for the first training of a model, and this one was trained "
                "before. Build the model anew, train it on without a checkpoint, or save it after "
                "each training."
            )

    def _split_cells(
        self, split: dict[str, Any], batch_size: int, options: dict[str, Any], *, by_default: bool
    ) -> tuple[Splitter, dict[str, str]]:
        """The split of a training: the one that is asked for, or that of the training before.

        Parameters
        ----------
        split, batch_size, options
            Arguments of the splitter. A split that is passed or kept is put into ``options``.
        by_default
            Whether no sizes were asked for.

        Returns
        -------
        The splitter, and the arguments of ``split`` of the training whose split is kept, if one is.
        """
        if options.get("external_indexing") is not None:
            options["external_indexing"] = listed_split(
                self.adata_manager.adata, options["external_indexing"]
            )
        splitter = Splitter(self.adata_manager, **split, batch_size=batch_size, **options)
        if not self._keeps_split(splitter, by_default and "external_indexing" not in options):
            return splitter, {}
        options["external_indexing"] = self._kept_split()
        splitter = Splitter(self.adata_manager, batch_size=batch_size, **options)
        before = self.train_params_ or {}
        return splitter, {name: before.get(name, "not recorded") for name in split}

    def _keeps_split(self, splitter: Splitter, by_default: bool) -> bool:
        """Whether a training goes on with the training and held-out cells of the one before.

        Parameters
        ----------
        splitter
            The split that was asked for.
        by_default
            Whether nothing particular was asked for.
        """
        if not self.is_trained_ or self.cells_ is None:
            return False
        if not np.array_equal(self.cells_, hashes_of(self.adata_manager.adata.obs_names)):
            return False
        split = [self.train_indices, self.validation_indices, self.test_indices]
        if by_default or splitter.gives(split):
            return True
        if self.screening_ is not None:
            raise ValueError(
                "train() was asked for another split of the cells than that of the first training, "
                "whose training cells decided which features are shared. (If cells were "
                "removed since, the same train_size gives another split.) Leave out train_size, "
                "validation_size, shuffle_set_split and external_indexing to train on with the "
                "same cells, or train a new model."
            )
        logger.warning(
            "Another split of the cells than in the training before: cells that were trained on "
            "then may be validation cells now, which makes validation_loss too good. evaluate() "
            "refuses them."
        )
        return False

    def _kept_split(self) -> list[np.ndarray]:
        """Training, validation and test cells of the training before; cells since then are test."""
        parts = (self.train_indices, self.validation_indices, self.test_indices)
        train, validation, test = (np.asarray(() if p is None else p, dtype=int) for p in parts)
        n = self.adata_manager.adata.n_obs
        new = np.setdiff1d(np.arange(n), np.concatenate([train, validation, test]))
        if len(new):
            logger.warning(
                "%d of the %d cells were not there in the first training. train() goes on with its "
                "training and validation cells; the others count as test cells. To train on them, "
                "train a new model.",
                len(new),
                n,
            )
        return [train, validation, np.concatenate([test, new])]

    def _prepare(
        self, train: np.ndarray, trainer: Trainer, screening: dict[str, Screening] | None = None
    ) -> None:
        """Start from the training cells: their statistics, and which of their features are shared.

        Networks that have learned something keep what they started from.

        Parameters
        ----------
        train
            Positions of the training cells; no other cell is read.
        trainer
            Whose processes all go on with what the first one finds.
        screening
            Which features are shared, if a checkpoint has it.
        """
        self.adata_manager.forget_posteriors()  # encoders are about to change
        if self.is_trained_:
            self.adata_manager.check_measured(np.asarray(train))
            return
        cells = Cells(self.adata_manager, np.sort(train))
        for m in cells.modalities:
            n_features, n_cells = len(cells.found.features(m)), int(cells.observed(m).sum())
            if n_features > _MANY_FEATURES * n_cells:
                logger.info(
                    "%s: %d features for %d training cells. Fewer, chosen ones train faster; see "
                    "'Before you train' in the documentation.",
                    m,
                    n_features,
                    n_cells,
                )
        before = copy.deepcopy(self.module)  # screening makes networks smaller
        outcome = "The model was not trained."
        try:
            with step("summarising the training cells", outcome):
                self.module.set_stats(self.adata_manager.learn_statistics(cells.rows))
            if self.module.screened:
                if screening is None:
                    with step("screening the features", outcome):
                        screening = once(trainer, lambda: screen_features(self.module, cells))
                self._restrict(screening)
        except BaseException:
            self.module = before
            raise

    def _restrict(self, screening: dict[str, Screening]) -> None:
        """Keep ``shared`` to the features that screening selected."""
        for m, found in screening.items():
            self.module.restrict(m, reads=found.related, predicts=found.shared)
        self.screening_ = screening

    def _finish(self, write_obsm: bool) -> None:
        """What follows when the networks no longer change; they are usable without it."""
        outcome = "The networks are trained; embeddings were not written: call model.embed()."
        try:
            try:
                learned = once(self.trainer, partial(self._learn_after_training, outcome))
                if not self.trainer.is_global_zero:
                    self._take_over(learned)
            except BaseException:
                self._forget_estimates()
                raise
            if write_obsm:
                with step("embedding the cells", outcome):
                    self.embed()
        except KeyboardInterrupt:
            interrupts.warning("Interrupted after training. %s", outcome)
            raise

    def _learn_after_training(self, outcome: str) -> dict[str, Any]:
        """Estimate what the networks have no gradient for; what other processes take over."""
        manager = self.adata_manager.snapshot()
        train, held_out = (
            Cells(manager, np.asarray([] if rows is None else rows, dtype=int))
            for rows in (self.train_indices, self.validation_indices)
        )
        self._fill_in(train)
        if self.screening_ is not None:
            with step("weighing the experts", outcome):
                weigh_experts(self.module, held_out, train)
            with step("estimating weak effects", outcome):
                learn_weak_effects(self.module, train, self.screening_)
        with step("ordering the axes", outcome):
            self._order_axes(train, held_out)
        with step("correcting for batches", outcome):
            learn_batch_correction(self.module, train)
        return {
            "state": {name: value.cpu() for name, value in self.module.state_dict().items()},
            "attributes": {name: getattr(self, name) for name in OF_AXES},
        }

    def _fill_in(self, train: Cells) -> None:
        """Let decoders use a mean where a modality was measured in no training cell of a category.

        Such as RNA in a batch with ATAC alone: its parameters are still those of the random start.
        """
        net, found = self.module, self.adata_manager.found
        codes = {key: train.column(key)[:, 0] for key, n in net.n_categories.items() if n > 1}
        for m in net.modalities:
            observed = train.observed(m)
            learned = {
                key: np.isin(np.arange(net.n_categories[key]), of_cells[observed])
                for key, of_cells in codes.items()
            }
            if not observed.any() or all(known.all() for known in learned.values()):
                continue
            fill_in(net, m, learned)
            lacking = [
                f"{found.state(key)[Keys.SOURCE]}={category!r}"
                for key, known in learned.items()
                for category in np.asarray(found.state(key)[Keys.CATEGORIES])[~known].tolist()
            ]
            logger.info(
                "%s was measured in no training cell of %s. Predictions of %s there use the mean "
                "effect of the other categories.",
                m,
                ", ".join(lacking),
                m,
            )

    def _ignore_constant_features(self) -> None:
        """Have encoders leave out features that had one value in all cells ever trained on."""
        if len(self.trained_cells_) > len(np.asarray(self.train_indices)):
            return  # the statistics are of the first training, whose cells were others
        for m in self.modalities:
            constant = self.adata_manager.found.state(Keys.x(m)).get(Keys.CONSTANT)
            if constant is not None:  # files of earlier versions do not have it
                self.module.branch(m).ignore_features(constant)

    def _take_over(self, learned: dict[str, Any]) -> None:
        """Take over what the first of several processes learned after training."""
        self.module.load_state_dict(learned["state"])
        for name, value in learned["attributes"].items():
            setattr(self, name, value)

    def _order_axes(self, train: Cells, held_out: Cells) -> None:
        """Turn the latents to ordered axes, and say which carry something and are agreed on."""
        of_shared, of_private = learn_axes(self.module, train)
        self.n_shared_effective_ = of_shared.n_effective
        self.n_private_effective_ = {m: axes.n_effective for m, axes in of_private.items()}
        logger.info(
            "Axes that carry 99 %% of what a latent predicts: %d of %d of shared, %s",
            self.n_shared_effective_,
            self.module.n_shared,
            ", ".join(
                f"{n} of {self.module.n_private[m]} of private {m}"
                for m, n in self.n_private_effective_.items()
            ),
        )
        self.shared_agreement_ = agreement(self.module, held_out)
        if np.isfinite(self.shared_agreement_).any():
            logger.info(
                "Agreement of the modalities on each axis of shared (correlation in held-out "
                "cells; 1 is perfect, 0 none): %s",
                " ".join(f"{value:.2f}" for value in self.shared_agreement_),
            )

    def _forget_estimates(self) -> None:
        """Back to what the networks had before any training: equal weights, and nothing else."""
        net, nothing = self.module, (np.zeros(()), np.zeros(()))
        net.set_learned_after_training(
            expert_weights=np.full(len(net.modalities), 1 / len(net.modalities)),
            weak_effects=dict.fromkeys(net.modalities if net.screened else (), nothing),
            shared_axes=np.eye(net.n_shared),
            private_axes={m: np.eye(n) for m, n in net.n_private.items()},
            shared_shifts=BatchShifts.none(net.n_shared),
            private_shifts={m: BatchShifts.none(n) for m, n in net.n_private.items()},
            reference=net.reference.latents[:0].cpu().numpy(),
            shared_mean=np.zeros(0),
        )
        self.n_shared_effective_ = self.n_private_effective_ = None
        self.shared_agreement_ = None
