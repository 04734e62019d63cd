"""Training: what it learns from, what it records, and how it ends."""

import copy
import dataclasses
import itertools
import logging
import os
import pickle
import signal

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger
from mudata import MuData
from tqdm.auto import tqdm

import scvenn
from scvenn import Objective, SharedPrivateModel, Term, _progress
from scvenn.models import duration, runner, training
from scvenn.models.history import Records
from scvenn.models.training_arguments import default_max_epochs
from scvenn.readouts import shared_features
from tests.conftest import QUIET, shuffled, three_modalities
from tests.test_model import SMALL, trained


def embeddings(model):
    return {key: model.adata.obsm[key] for key in model.adata.obsm if key.startswith("X_")}


def assert_same_bits(one, two):
    assert set(one) == set(two)
    for key in one:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)


def test_every_model_trains_on_three_modalities(model_class, mdata):
    """nb + normal + bernoulli, with missing cells and entries, batches and labels."""
    model_class.setup_mudata(
        mdata, labels_key="cell_type", unlabeled_category="type0", batch_key="batch"
    )
    model = trained(model_class, mdata, epochs=3, encode_covariates=True)
    assert np.isfinite(model.history["elbo_train"].to_numpy(float)).all()
    assert mdata.obsm["X_shared"].shape == (mdata.n_obs, 3)
    assert np.isfinite(mdata.obsm["X_shared"]).all()


def test_training_lowers_the_loss(model_class, mdata):
    model = trained(model_class, mdata, epochs=6)
    elbo = model.history["elbo_train"].to_numpy(float).ravel()
    assert elbo[-1] < elbo[0]


def test_a_seed_gives_the_same_bits(model_class, incomplete):
    one = embeddings(trained(model_class, incomplete.copy()))
    assert_same_bits(one, embeddings(trained(model_class, incomplete.copy())))
    scvi.settings.seed = 1
    other = model_class(incomplete, **SMALL)
    other.train(2, **QUIET)
    assert not np.array_equal(one["X_shared"], incomplete.obsm["X_shared"])


def test_a_seed_gives_the_same_bits_on_two_threads():
    """Of sparse counts, wide enough to be shared among threads; one thread may round otherwise."""
    rng = np.random.default_rng(0)
    # what is shared must vary: gradients that are rounding alone are made as long as others by Adam
    factor = rng.standard_normal((200, 1))
    widths = {"rna": 400, "atac": 3000}
    rates = {m: 0.03 * np.exp(factor * rng.choice([-1, 1], n)) for m, n in widths.items()}
    counts = {m: sp.csr_matrix(rng.poisson(r), dtype=np.float32) for m, r in rates.items()}
    names = pd.DataFrame(index=[f"cell{i}" for i in range(200)])
    n_threads, found = torch.get_num_threads(), []
    for threads in (2, 2, 1):
        torch.set_num_threads(threads)
        mdata = MuData({m: AnnData(x, obs=names) for m, x in counts.items()})
        found.append(embeddings(trained(scvenn.MMVAEpp, mdata, epochs=1)))
    torch.set_num_threads(n_threads)
    assert_same_bits(*found[:2])
    np.testing.assert_allclose(found[0]["X_shared"], found[2]["X_shared"], atol=1e-4)


def test_shuffling_the_rows_of_one_modality_changes_no_bit(model_class, mdata):
    expected = embeddings(trained(model_class, mdata))
    for modality in mdata.mod:
        other = shuffled(mdata, modality)
        assert list(other[modality].obs_names) != list(mdata[modality].obs_names)
        assert_same_bits(embeddings(trained(model_class, other)), expected)
        rows = mdata[modality].obs_names
        np.testing.assert_array_equal(
            mdata[modality].obsm["X_private"],
            other[modality].obsm["X_private"][other[modality].obs_names.get_indexer(rows)],
        )


def test_the_history_holds_what_users_watch(model_class, mdata):
    model_class.setup_mudata(mdata, labels_key="cell_type")
    history = trained(model_class, mdata).history
    for mode in ("train", "validation"):
        expected = ["elbo", "kl_shared", "log_likelihood_labels", "accuracy_labels"]
        for a in mdata.mod:
            expected.append(f"kl_private_{a}")
            if mode == "validation" or model_class is not scvenn.MVAE:  # which trains on no pair
                expected += [f"log_likelihood_{a}->{b}" for b in mdata.mod]
        for name in expected:
            values = history[f"{name}_{mode}"].to_numpy(float)
            assert len(values) == 2, name
            assert np.isfinite(values).all(), name
    assert "validation_loss" in history
    assert "train_loss" in history


def test_a_logger_gets_the_records_that_the_history_keeps(small, tmp_path):
    model = scvenn.MMVAE(small, **SMALL)
    model.train(2, logger=CSVLogger(tmp_path), **QUIET)
    logged = pd.read_csv(next(tmp_path.rglob("metrics.csv")))
    for name in ("train_loss", "validation_loss", "log_likelihood_rna->atac_validation"):
        records = model.history[name].to_numpy(float).ravel()
        assert len(records) == 2
        np.testing.assert_allclose(logged[name].dropna(), records, rtol=1e-6)


def test_records_are_means_over_the_cells_they_concern():
    """With all training cells in one minibatch the record is the plain mean."""
    mdata = three_modalities(missing=0.4, n_obs=80)
    scvi.settings.seed = 0
    model = scvenn.MMVAE(mdata, **SMALL)
    model.train(1, batch_size=7, train_size=0.5, plan_kwargs={"lr": 0.0}, **QUIET)
    loader = model._make_data_loader(mdata, indices=model.validation_indices)
    recorded = float(model.history["kl_private_rna_validation"].iloc[0, 0])
    values = torch.cat([model.module(t)[2].extra_metrics["kl_private_rna"] for t in loader])
    assert values.isnan().any()
    assert recorded == pytest.approx(values.nanmean().item(), rel=1e-5)


def test_a_record_that_concerns_no_cell_is_not_a_number():
    """No validation cell has atac: nothing says how well it is predicted, least of all 0."""
    mdata = scvenn.datasets.simulate_counts(80, n_features=20)
    mdata.mod["atac"] = mdata["atac"][:60].copy()
    model = scvenn.MMVAE(mdata, **SMALL)
    split = {"external_indexing": [np.arange(60), np.arange(60, 80)]}
    model.train(1, datasplitter_kwargs=split, **QUIET)
    of_atac = model.history["log_likelihood_rna->atac_validation"].to_numpy(float)
    assert np.isnan(of_atac).all()
    assert np.isfinite(model.history["log_likelihood_rna->rna_validation"].to_numpy(float)).all()


def test_the_warm_up_fits_the_epochs(small):
    model = scvenn.MMVAEpp(small, **SMALL)
    model.train(40, early_stopping=False, **QUIET)
    weights = model.history["kl_weight"].to_numpy(float).ravel()
    np.testing.assert_allclose(weights, [0, 0.25, 0.5, 0.75] + 36 * [1])


@pytest.mark.parametrize(("steps", "epochs"), [(1, 400), (7, 400), (72, 56), (7000, 20)])
def test_default_epochs_make_about_four_thousand_steps(steps, epochs):
    assert default_max_epochs(steps) == epochs


@pytest.mark.parametrize(("lr", "of_dispersions"), [(1e-3, 1e-2), (5e-3, 1e-2), (2e-2, 2e-2)])
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "nb_mixture"])
def test_dispersions_learn_ten_times_as_fast_and_by_a_hundredth_at_most(
    likelihood, lr, of_dispersions
):
    """The first step of Adam is as long as its learning rate."""
    mdata = scvenn.datasets.simulate_counts(60, n_features=20)
    scvenn.MMVAEpp.setup_mudata(mdata, likelihoods={"rna": likelihood})
    model = scvenn.MMVAE(mdata)
    parameters = dict(model.module.named_parameters())
    names = ("branches.0.likelihood.log_theta", "branches.0.shared_head.weight")
    before = {name: parameters[name].detach().clone() for name in names}
    model.train(1, plan_kwargs={"lr": lr}, early_stopping=False, write_obsm=False, **QUIET)
    moved = [(parameters[name].detach() - before[name]).abs().max().item() for name in names]
    assert moved == pytest.approx([of_dispersions, lr], rel=1e-2)


def test_a_short_training_learns_how_much_counts_vary():
    """Poisson counts of 10: by a theta of 1, the start, their variance would be 110."""
    mdata = scvenn.datasets.simulate_counts(300, n_features=20)
    mdata["rna"].X = np.random.default_rng(0).poisson(10, mdata["rna"].shape).astype(np.float32)
    model = trained(scvenn.MMVAE, mdata, epochs=60)
    assert model.module.likelihood("rna").log_theta.exp().min() > 3


def test_training_without_validation_cells(small):
    model = scvenn.MMVAEpp(small, **SMALL)
    model.train(2, train_size=1.0, **QUIET)
    assert "elbo_train" in model.history


def test_training_stops_early_after_the_warm_up(small):
    model = scvenn.MMVAEpp(small, **SMALL)
    model.train(50, early_stopping_patience=1, plan_kwargs={"lr": 0.1}, **QUIET)
    assert 5 < len(model.history["elbo_validation"]) < 50


def test_training_returns_to_the_best_epoch(small):
    """The embeddings are those of a run that ends at the epoch with the best validation loss."""
    plan = {"lr": 0.05, "n_epochs_kl_warmup": 1}
    scvi.settings.seed = 0
    stopped = scvenn.MMVAEpp(small, **SMALL)
    stopped.train(40, early_stopping_patience=5, plan_kwargs=plan, **QUIET)
    losses = stopped.history["validation_loss"].to_numpy(float).ravel()
    best = 1 + losses[1:].argmin()
    assert best < len(losses) - 1
    assert stopped.best_epoch_ == best
    scvi.settings.seed = 0
    exact = scvenn.MMVAEpp(small, **SMALL)
    exact.train(int(best) + 1, early_stopping=False, plan_kwargs=plan, **QUIET)
    np.testing.assert_array_equal(
        stopped.get_shared_representation(), exact.get_shared_representation()
    )


@pytest.mark.parametrize("shown", [True, False])
def test_one_argument_hides_every_bar(small, shown, monkeypatch):
    """Those of screening, of what follows the training, and of the embeddings."""
    disabled = {}

    def bar(items=None, *, desc, disable, **_):
        disabled[desc] = disable
        return tqdm(items, disable=True)

    monkeypatch.setattr(_progress, "tqdm", bar)
    model = scvenn.MMVAEpp(small)
    disabled.clear()  # those of the set-up
    model.train(1, enable_progress_bar=shown)
    assert len(disabled) > 3
    assert set(disabled.values()) == {not shown}
    disabled.clear()
    scvenn.MMVAEpp(small, screen=False).embed()
    assert set(disabled.values()) == {False}


def test_write_obsm_can_be_left_out(small):
    model = scvenn.MMVAEpp(small, **SMALL)
    model.train(1, write_obsm=False, **QUIET)
    assert not [key for key in small.obsm if key.startswith("X_")]


def test_an_objective_of_ones_own(small):
    objective = Objective(
        (Term(("rna",), ("rna", "atac")), Term(("atac",), ("atac",), ("atac",))), reduction="sum"
    )
    model = trained(SharedPrivateModel, small, objective=objective)
    assert np.isfinite(model.get_shared_representation(from_modalities="rna")).all()
    assert "log_likelihood_atac->rna_validation" in model.history


@pytest.mark.parametrize("arguments", [{"max_epochs": 0}, {"batch_size": 0}])
def test_training_arguments_out_of_range_are_refused(small, arguments):
    with pytest.raises(ValueError, match="expected an integer of at least 1"):
        scvenn.MMVAEpp(small).train(**arguments)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"train_size": 0}, "train_size=0: expected a part of the cells, above 0 to 1"),
        ({"train_size": 1.5}, "train_size=1.5: expected a part"),
        ({"train_size": float("nan")}, "train_size=nan: expected a part"),
        ({"train_size": "half"}, "train_size='half': expected a part"),
        ({"validation_size": -0.1}, "validation_size=-0.1: expected a part"),
        ({"validation_size": 0.5}, "1 or less together, found 1.4"),
    ],
)
def test_parts_of_the_cells_that_are_none_are_refused(small, sizes, said):
    with pytest.raises(ValueError, match=said):
        scvenn.MMVAEpp(small).train(1, **sizes)


# ------------------------------------------------------------------------------- the ends


class Raise(Callback):
    """Raises an error at a hook of the third epoch."""

    def __init__(self, error, hook="on_train_epoch_end", epoch=2):
        self.error, self.epoch = error, epoch
        setattr(self, hook, self.act)

    def act(self, trainer, *args):
        if trainer.current_epoch == self.epoch:
            if self.error is KeyboardInterrupt:
                os.kill(os.getpid(), signal.SIGINT)  # as a user's Ctrl-C
            raise self.error("stop")


class Refuses(Logger):
    """A logger that breaks in the third epoch."""

    name = version = "refuses"

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        if metrics.get("epoch") == 2:
            raise OSError("disk full")


def weights(model):
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def assert_same_weights(one, two, but=()):
    assert set(one) == set(two)
    for name in set(one) - set(but):
        assert torch.equal(one[name], two[name]), name


def said(caplog):
    """What scvenn warned of in its log."""
    return [
        r.getMessage()
        for r in caplog.records
        if r.name.startswith("scvi.scvenn") and r.levelname == "WARNING"
    ]


def assert_usable(model, small):
    """Trained, deterministic despite dropout, the same after saving, and trainable."""
    assert model.is_trained_
    assert not any(module.training for module in model.module.modules())
    before = model.get_latent_representation()
    np.testing.assert_array_equal(before, model.get_latent_representation())
    model.save("model")
    loaded = type(model).load("model", small)
    np.testing.assert_array_equal(before, loaded.get_latent_representation())
    assert loaded.best_epoch_ == model.best_epoch_
    assert loaded.train_params_["max_epochs"] == "9"
    assert not set(loaded.train_indices) & set(loaded.validation_indices)
    loaded.evaluate()
    assert len({len(records) for records in model.history.values()}) == 1


def test_a_terminated_training_leaves_a_usable_model_and_is_no_success(small, caplog):
    class Terminate(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.current_epoch == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    model = scvenn.MMVAEpp(small, **SMALL)
    with pytest.raises(SystemExit) as stopped:
        model.train(9, callbacks=[Terminate()], plan_kwargs={"n_epochs_kl_warmup": 0}, **QUIET)
    assert stopped.value.code == 143
    assert "SIGTERM ended training. The model is trained" in said(caplog)[-1]
    assert_usable(model, small)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_train_batch_end", "on_train_end"])
def test_a_training_that_is_stopped_leaves_a_usable_model(small, error, hook, caplog, capsys):
    before = signal.getsignal(signal.SIGINT)
    model = scvenn.MMVAEpp(small, **SMALL)
    stop = Raise(error, hook, epoch=9 if hook == "on_train_end" else 2)
    with pytest.raises(error):
        model.train(9, callbacks=[stop], plan_kwargs={"n_epochs_kl_warmup": 0}, **QUIET)
    assert signal.getsignal(signal.SIGINT) is before
    assert "raised during training" not in capsys.readouterr().out  # as scvi-tools prints
    n_finished = 9 if hook == "on_train_end" else 2
    assert len(model.history["train_loss"]) == n_finished
    losses = model.history["validation_loss"].to_numpy(float).ravel()
    assert model.best_epoch_ == losses.argmin()
    assert "X_shared" not in small.obsm
    (line,) = said(caplog)
    assert f"weights of epoch {model.best_epoch_}" in line
    assert "call model.embed()" in line
    assert_usable(model, small)


def test_an_interrupted_training_returns_to_the_best_epoch_so_far(small):
    """The weights are those of a training that ended there."""
    plan = {"lr": 0.05, "n_epochs_kl_warmup": 0}
    scvi.settings.seed = 0
    stopped = scvenn.MMVAEpp(small, **SMALL)
    stop = Raise(KeyboardInterrupt, epoch=25)
    with pytest.raises(KeyboardInterrupt):
        stopped.train(40, callbacks=[stop], plan_kwargs=plan, **QUIET)
    assert 0 < stopped.best_epoch_ < 24
    scvi.settings.seed = 0
    exact = scvenn.MMVAEpp(small, **SMALL)
    epochs = int(stopped.best_epoch_) + 1
    exact.train(epochs, early_stopping=False, plan_kwargs=plan, **QUIET)
    exact._forget_estimates()
    assert_same_weights(weights(stopped), weights(exact))


def test_without_early_stopping_the_last_finished_epoch_is_kept(small):
    scvi.settings.seed = 0
    stopped = scvenn.MMVAE(small, **SMALL)
    with pytest.raises(KeyboardInterrupt):
        stopped.train(9, early_stopping=False, callbacks=[Raise(KeyboardInterrupt)], **QUIET)
    assert stopped.best_epoch_ == -1
    scvi.settings.seed = 0
    exact = scvenn.MMVAE(small, **SMALL)
    plan = {"n_epochs_kl_warmup": 1}  # as of nine epochs
    exact.train(2, early_stopping=False, plan_kwargs=plan, **QUIET)
    exact._forget_estimates()
    assert_same_weights(weights(stopped), weights(exact))


def test_an_error_of_a_logger_leaves_a_usable_model(small):
    model = scvenn.MMVAE(small, **SMALL)
    with pytest.raises(OSError, match="disk full"):
        model.train(9, logger=Refuses(), **QUIET)
    assert model.is_trained_
    assert np.isfinite(model.get_shared_representation()).all()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_stopped_in_the_first_epoch_a_model_is_not_trained(small, error, caplog):
    model = scvenn.MMVAE(small, **SMALL)
    with pytest.raises(error):
        model.train(9, train_size=1.0, callbacks=[Raise(error, epoch=0)], **QUIET)
    assert not model.is_trained_
    assert model.train_indices is None
    assert not model.history
    (line,) = said(caplog)
    assert "No epoch was finished" in line
    model.train(1, **QUIET)
    assert_finite(model)


def assert_finite(model):
    assert np.isfinite(model.get_shared_representation()).all()


def test_a_later_training_stopped_at_once_changes_nothing(small):
    model = scvenn.MMVAEpp(small, **SMALL)
    model.train(3, **QUIET)
    before, history, best = weights(model), len(model.history["train_loss"]), model.best_epoch_
    with pytest.raises(KeyboardInterrupt):
        model.train(9, callbacks=[Raise(KeyboardInterrupt, epoch=0)], **QUIET)
    assert_same_weights(before, weights(model))
    assert (len(model.history["train_loss"]), model.best_epoch_) == (history, best)


@pytest.mark.parametrize("error", [KeyboardInterrupt, np.linalg.LinAlgError])
def test_screening_that_fails_leaves_the_model_as_it_was(small, error, monkeypatch):
    model = scvenn.MMVAEpp(small, **SMALL)
    before = weights(model)
    calls = []

    def screen(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise error("not positive definite")
        return real(*args, **kwargs)

    real = shared_features.screen
    expected = KeyboardInterrupt if error is KeyboardInterrupt else ValueError
    with monkeypatch.context() as patch:
        patch.setattr(shared_features, "screen", screen)
        with pytest.raises(expected) as found:
            model.train(2, **QUIET)
    if expected is ValueError:
        assert "screening" in str(found.value)
        assert "not positive definite" in str(found.value)
    assert model.screening_ is None
    assert not model.is_trained_
    assert_same_weights(before, weights(model))
    model.train(2, **QUIET)
    assert_finite(model)


@pytest.mark.parametrize("error", [KeyboardInterrupt, np.linalg.LinAlgError])
@pytest.mark.parametrize(
    ("method", "named"),
    [
        ("weigh_experts", "weighing the experts"),
        ("learn_weak_effects", "estimating weak effects"),
        ("embed", "embedding the cells"),
    ],
)
def test_a_failure_after_training_keeps_the_networks(
    small, error, method, named, monkeypatch, caplog
):
    def fail(*args):
        raise error("not positive definite")

    model = scvenn.MMVAEpp(small, **SMALL)
    expected = KeyboardInterrupt if error is KeyboardInterrupt else ValueError
    with monkeypatch.context() as patch:
        patch.setattr(scvenn.MMVAEpp if method == "embed" else training, method, fail)
        with pytest.raises(expected) as found:
            model.train(9, **QUIET)
    text = said(caplog)[0] if error is KeyboardInterrupt else str(found.value)
    assert (error is KeyboardInterrupt) or named in text
    assert "The networks are trained" in text
    assert_usable(model, small)


# ------------------------------------------------------------------------------- divergence


def test_a_diverged_training_is_one_error_and_writes_nothing(small):
    model = scvenn.MMVAEpp(small, **SMALL, screen=False)
    before = weights(model)
    with pytest.raises(ValueError, match=r"diverged in epoch \d") as found:
        model.train(5, plan_kwargs={"lr": 1e6}, **QUIET)
    for words in ("plan_kwargs={'lr': 100000}", "given", "feature", "cell", "modality"):
        assert words in str(found.value)
    assert "X_shared" not in small.obsm
    assert all(value.isfinite().all() for value in weights(model).values())
    if not model.is_trained_:
        # decoders start at the means of the training cells
        learned = {n for n, _ in model.module.named_parameters() if not n.endswith("out.bias")}
        assert_same_weights(before, weights(model), but=set(before) - learned)


class Explode(Callback):
    """Breaks the decoder of a modality in the fourth epoch."""

    def __init__(self, modality):
        self.modality = modality

    def on_train_epoch_start(self, trainer, plan):
        if trainer.current_epoch == 3:
            i = plan.module.modalities.index(self.modality)
            plan.module.branches[i].decoder.out.bias.data.fill_(torch.nan)


def test_a_training_that_diverges_later_keeps_the_epochs_before(small):
    model = scvenn.MMVAE(small, **SMALL)
    with pytest.raises(ValueError, match=r"in epoch 3 .* modality 'rna' given") as found:
        model.train(9, callbacks=[Explode("rna")], **QUIET)
    assert f"weights of epoch {model.best_epoch_ % 3}" in str(found.value)
    assert "'atac' given" not in str(found.value)
    assert len(model.history["train_loss"]) == 3
    assert "X_shared" not in small.obsm
    assert_usable(model, small)


def infinite(latents):
    """A penalty that overflows."""
    return next(iter(latents.shared.values())).square().sum(1) * torch.inf


def break_kl(net):
    net.branches[0].private_head.bias.data.fill_(1e30)


def break_labels(net):
    net.label_head.logits.bias.data.fill_(torch.nan)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (break_kl, "the KL of the private latent of modality 'rna'"),
        (break_labels, "the log-likelihood of the labels"),
        (None, "the penalty 'size'"),
    ],
)
def test_the_part_of_the_loss_that_is_not_finite_is_named(small, change, what):
    class Change(Callback):
        def on_train_epoch_start(self, trainer, plan):
            if change is not None and trainer.current_epoch == 1:
                change(plan.module)

    scvenn.MMVAE.setup_mudata(small, labels_key="cell_type")
    objective = scvenn.MMVAE(small, **SMALL).module.objective
    if change is None:
        penalty = scvenn.Penalty("size", 1.0, infinite)
        objective = dataclasses.replace(objective, penalties=(penalty,))
    model = SharedPrivateModel(small, objective=objective, **SMALL)
    with pytest.raises(ValueError, match="diverged in epoch") as found:
        model.train(3, callbacks=[Change()], **QUIET)
    assert what in str(found.value)


@pytest.mark.parametrize("modality", ["rna", "meth"])
def test_an_outlier_is_named(incomplete, modality):
    adata = incomplete[modality]
    adata.X[7, 3] = 5000.0
    rest, cell = incomplete.obs_names, adata.obs_names[7]
    split = {"external_indexing": [np.arange(len(rest)), np.array([], int)]}
    model = scvenn.MMVAE(incomplete, **SMALL)
    with pytest.raises(ValueError, match="diverged in epoch 3") as found:
        model.train(9, datasplitter_kwargs=split, callbacks=[Explode(modality)], **QUIET)
    named = f"modality {modality!r}, feature {str(adata.var_names[3])!r}, cell {str(cell)!r}"
    assert "value of these cells is 5000, " in str(found.value)
    assert named in str(found.value)


def test_weights_that_are_not_finite_are_found_without_validation_cells(small):
    class Break(Callback):
        def on_train_batch_end(self, trainer, plan, *args):
            if trainer.current_epoch == 1:
                plan.module.branches[1].decoder.out.bias.data[0] = torch.inf

    model = scvenn.MMVAE(small, **SMALL)
    with pytest.raises(ValueError, match=r"epoch 1 .* modality 'atac' given"):
        model.train(2, train_size=1.0, callbacks=[Break()], **QUIET)
    assert len(model.history["train_loss"]) == 1
    assert_finite(model)


def test_on_other_devices_the_end_of_the_epoch_finds_it(small, monkeypatch):
    """As the check in the step is left out where it would have the device wait."""
    monkeypatch.setattr(runner, "_CHECKED_IN_EACH_STEP", ())
    model = scvenn.MMVAE(small, **SMALL)
    with pytest.raises(ValueError, match=r"epoch \d .* modality '\w+' given '\w+'"):
        model.train(3, train_size=1.0, batch_size=60, plan_kwargs={"lr": 1e6}, **QUIET)
    assert all(value.isfinite().all() for value in weights(model).values())


# ------------------------------------------------------------------------------- read-outs


def test_read_outs_have_no_dropout(incomplete):
    model = trained(scvenn.MMVAEpp, incomplete, dropout_rate=0.5)

    def read():
        return [
            model.get_latent_representation(),
            model.predict("rna", "meth", return_numpy=True),
            model.loadings("meth")["loading"].to_numpy(),
            model.evaluate().select_dtypes("number").to_numpy(),
        ]

    for one in zip(*[(model.module.train(), read())[1] for _ in range(2)], strict=True):
        np.testing.assert_array_equal(*one)


@pytest.mark.filterwarnings("ignore:Trying to query inferred values from an untrained model")
def test_a_read_out_in_a_callback_leaves_training_with_dropout(small):
    class Reads(Callback):
        def on_train_epoch_end(self, trainer, plan):
            model.get_shared_representation()

        def on_train_batch_start(self, trainer, plan, *args):
            modes.append(plan.module.training)

    modes = []
    model = scvenn.MMVAE(small, **SMALL, dropout_rate=0.5)
    model.train(3, callbacks=[Reads()], **QUIET)
    assert all(modes)


# ------------------------------------------------------------------------------- trained again


def test_trained_again_a_model_holds_out_the_same_cells(small):
    scvi.settings.seed = None
    model = scvenn.MMVAEpp(small, **SMALL)
    model.train(2, train_size=0.5, validation_size=0.3, **QUIET)
    parts = [np.sort(i) for i in (model.train_indices, model.validation_indices)]
    model.save("model")
    again = scvenn.MMVAEpp.load("model", small)
    for one in (model, again):
        one.train(1, **QUIET)
        one.train(1, train_size=0.5, validation_size=0.3, **QUIET)
        np.testing.assert_array_equal(np.sort(one.train_indices), parts[0])
        np.testing.assert_array_equal(np.sort(one.validation_indices), parts[1])
        assert len(one.test_indices) == 12
        assert one.train_params_["train_size"] == "0.5"
        one.evaluate()


@pytest.mark.parametrize(
    "other",
    [
        {"train_size": 0.7},
        {"datasplitter_kwargs": {"external_indexing": [np.arange(30), np.arange(30, 60)]}},
        {"train_size": 0.5, "shuffle_set_split": False},
    ],
)
def test_cells_of_an_earlier_split_are_never_scored(small, other, caplog):
    scvi.settings.seed = 3
    model = scvenn.MMVAE(small, **SMALL)
    model.train(1, train_size=0.5, **QUIET)
    first = set(model.train_indices)
    scvi.settings.seed = 4
    model.train(1, **other, **QUIET)
    assert "Another split" in said(caplog)[0]
    assert first & set(model.validation_indices)
    model.save("model")
    for one in (model, scvenn.MMVAE.load("model", small)):
        with pytest.raises(ValueError, match="were trained on"):
            one.evaluate()
        with pytest.raises(ValueError, match="were trained on"):
            one.evaluate(indices=sorted(first)[:5])


def test_a_screened_model_refuses_another_split(small):
    model = scvenn.MMVAEpp(small, **SMALL)
    model.train(1, train_size=0.5, **QUIET)
    before = weights(model)
    with pytest.raises(ValueError, match=r"another split .* or train a new model"):
        model.train(1, train_size=0.7, **QUIET)
    assert_same_weights(before, weights(model))


def test_screening_is_made_anew_if_no_epoch_was_finished(small):
    scvi.settings.seed = None
    model = scvenn.MMVAEpp(small, **SMALL)
    with pytest.raises(KeyboardInterrupt):
        model.train(2, train_size=0.5, callbacks=[Raise(KeyboardInterrupt, epoch=0)], **QUIET)
    first = model.screening_
    model.train(2, train_size=0.7, **QUIET)
    assert model.screening_ is not first
    assert len(model.train_indices) == 42
    assert_finite(model)


def test_the_best_epoch_is_counted_over_all_trainings(small):
    model = scvenn.MMVAEpp(small, **SMALL)
    plan = {"n_epochs_kl_warmup": 0}
    model.train(3, plan_kwargs=plan, **QUIET)
    model.train(4, plan_kwargs=plan, **QUIET)
    losses = model.history["validation_loss"].to_numpy(float).ravel()
    assert len(losses) == 7
    assert model.best_epoch_ == 3 + losses[3:].argmin()


# ------------------------------------------------------------------------------- training cells


def other_cells(mdata, rows):
    """The same data, but for what some cells hold: outliers, and values not measured."""
    mdata = mdata.copy()
    for m, adata in mdata.mod.items():
        which = np.flatnonzero(np.isin(mdata.obs_names.get_indexer(adata.obs_names), rows))
        x = adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X.copy()
        x[which] = 1 - x[which] if m == "peaks" else 1000 + 50 * x[which]
        if m == "meth":
            x[which[::2], 3:] = np.nan
        adata.X = x if not hasattr(adata.X, "toarray") else type(adata.X)(x)
    return mdata


LIKELIHOODS = [
    {"rna": "nb", "meth": "normal", "peaks": "bernoulli"},
    {"rna": "nb_mixture", "meth": "normal", "peaks": "beta"},
]


@pytest.mark.parametrize("likelihoods", LIKELIHOODS, ids=["usual", "learned starts"])
@pytest.mark.parametrize("cls", [scvenn.MMVAE, scvenn.MMVAEpp])
def test_test_cells_change_no_weight(cls, likelihoods):
    mdata = three_modalities(missing=0.2)
    split = {"external_indexing": [np.arange(70), np.arange(70, 100), np.arange(100, 150)]}
    found = []
    for data in (mdata, other_cells(mdata, np.arange(100, 150))):
        cls.setup_mudata(data, likelihoods=likelihoods)
        scvi.settings.seed = 0
        model = cls(data, **SMALL)
        model.train(3, datasplitter_kwargs=split, **QUIET)
        found.append(weights(model))
    assert_same_weights(*found)


def test_validation_cells_change_no_weight_but_by_noise_and_experts(monkeypatch):
    """And, by way of experts, the slopes and axes that are estimated after training."""
    monkeypatch.setattr(
        scvenn.likelihoods.LIKELIHOODS["normal"], "set_held_out_noise", lambda *_: None
    )
    mdata = three_modalities(missing=0.2)
    split = {"external_indexing": [np.arange(100), np.arange(100, 150)]}
    found = []
    for data in (mdata, other_cells(mdata, np.arange(100, 150))):
        scvi.settings.seed = 0
        model = scvenn.MMVAEpp(data, **SMALL)
        model.train(3, early_stopping=False, datasplitter_kwargs=split, **QUIET)
        found.append(weights(model))
    estimates = ("expert_weights", "centre", "slope", "_axes")
    after = [name for name in found[0] if name.endswith(estimates)]
    assert_same_weights(*found, but=after)


def test_statistics_are_those_of_the_training_cells(incomplete):
    model = trained(scvenn.MMVAEpp, incomplete, epochs=1)
    names = incomplete["meth"].obs_names.intersection(incomplete.obs_names[model.train_indices])
    values = incomplete["meth"][names].X
    likelihood = model.module.likelihood("meth")
    np.testing.assert_allclose(likelihood.mean_, np.nanmean(values, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(likelihood.scale_, np.nanstd(values, 0), rtol=1e-4)
    before = weights(model)["branches.1.likelihood.mean_"]
    model.train(1, **QUIET)
    assert torch.equal(before, weights(model)["branches.1.likelihood.mean_"])


def test_a_feature_that_no_training_cell_has_does_no_harm(incomplete):
    rows = incomplete["meth"].obs_names.isin(incomplete.obs_names[:100])
    incomplete["meth"].X[rows, 2] = np.nan
    split = {"external_indexing": [np.arange(100), np.arange(100, 150)]}
    model = scvenn.MMVAE(incomplete, **SMALL)
    model.train(2, datasplitter_kwargs=split, **QUIET)
    assert_finite(model)


def test_a_modality_that_no_training_cell_has_is_refused(small):
    small.mod["atac"] = small["atac"][40:].copy()
    split = {"external_indexing": [np.arange(40), np.arange(40, 60)]}
    with pytest.raises(ValueError, match=r"'atac' was measured in none of the 40 training cells"):
        scvenn.MMVAE(small, **SMALL).train(1, datasplitter_kwargs=split, **QUIET)


# ------------------------------------------------------------------------------- platforms


def test_a_default_of_double_precision_changes_nothing(small):
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            model = trained(scvenn.MMVAEpp, small)
            model.save("model", overwrite=True)
            loaded = scvenn.MMVAEpp.load("model", small)
            found.append(loaded.predict("rna", "atac", return_numpy=True))
            assert torch.get_default_dtype() == dtype
            loaded.sample_prior(3)
        finally:
            torch.set_default_dtype(torch.float32)
    assert found[0].dtype == found[1].dtype


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", 64])
def test_other_precisions_are_refused(small, precision):
    with pytest.raises(ValueError, match="expected one of"):
        scvenn.MMVAE(small, **SMALL).train(1, precision=precision, **QUIET)


def test_half_precision_trains(incomplete):
    model = scvenn.MMVAEpp(incomplete, **SMALL)
    model.train(2, precision="bf16-mixed", **QUIET)
    assert_finite(model)
    assert weights(model)["branches.0.shared_head.weight"].dtype == torch.float32


def test_workers_give_the_same_bits(small, monkeypatch):
    one = trained(scvenn.MMVAEpp, small.copy(), epochs=1).get_latent_representation()
    monkeypatch.setattr(scvi.settings, "dl_num_workers", 2)
    two = trained(scvenn.MMVAEpp, small.copy(), epochs=1).get_latent_representation()
    np.testing.assert_array_equal(one, two)


def test_what_spawned_workers_are_sent_is_whole(incomplete):
    model = scvenn.MMVAE(incomplete, **SMALL)
    dataset = model.adata_manager.create_torch_dataset()
    sent = pickle.loads(pickle.dumps(dataset))
    for key, values in dataset[[3, 1]].items():
        np.testing.assert_array_equal(sent[[3, 1]][key], values)


@pytest.mark.slow
def test_spawned_workers_train(small):
    model = scvenn.MMVAE(small, **SMALL)
    workers = {"num_workers": 1, "multiprocessing_context": "spawn"}
    model.train(1, train_size=1.0, datasplitter_kwargs=workers, **QUIET)
    assert_finite(model)


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_deep_copy_is_a_model_of_its_own(small, epochs):
    model = scvenn.MMVAEpp(small, **SMALL)
    if epochs:
        model.train(epochs, **QUIET)
    other = copy.deepcopy(model)
    assert other.adata is not small
    before = weights(model)
    assert_same_weights(before, weights(other))
    other.train(1, **QUIET)
    assert_same_weights(before, weights(model))
    assert (model.is_trained_, other.is_trained_) == (epochs > 0, True)
    assert ("X_shared" in small.obsm) == (epochs > 0)


def test_records_are_tables_that_follow_what_is_logged():
    records = Records()
    for epoch, loss in ((0, 3.0), (1, torch.tensor(2.0)), (1, 1.5)):
        records.log_metrics({"loss": loss, "epoch": epoch})
        assert records.data["loss"].index[-1] == epoch
    records.log_metrics({"lr": 0.1}, step=7)
    expected = pd.DataFrame({"loss": [3.0, 1.5]}, index=pd.Index([0, 1], name="epoch"))
    pd.testing.assert_frame_equal(records.data["loss"], expected)
    assert records.data["lr"].index.name == "step"
    assert list(records.data["lr"].index) == [7]
    assert records.data is records.data  # made once


@pytest.mark.parametrize(
    ("per_epoch", "said"),
    [
        (10, None),
        (25, "took 25 s; 3 epochs take about 75 s"),
        (600, "took 10 min; 3 epochs take about 30 min"),
        (7000, "took 1.9 h; 3 epochs take about 5.8 h"),
    ],
)
def test_how_long_a_training_takes_is_said_if_that_is_long(per_epoch, said, caplog, monkeypatch):
    mdata = scvenn.datasets.simulate_counts(60, n_features=12)
    now = itertools.count(step=per_epoch)  # a clock that is looked at when epochs begin
    monkeypatch.setattr(duration.time, "perf_counter", lambda: next(now))
    model = scvenn.MMVAE(mdata, **SMALL)
    with caplog.at_level(logging.INFO, "scvi.scvenn"):
        model.train(3, **QUIET)
    found = [r.getMessage() for r in caplog.records if "first epoch" in r.getMessage()]
    assert len(found) == (said is not None)
    assert all(said in message and "early stopping" in message for message in found)


def test_epochs_are_counted_over_trainings_also_where_few_are_validated(small):
    model = scvenn.MMVAE(small, **SMALL)
    for _ in range(2):
        model.train(4, check_val_every_n_epoch=2, **QUIET)
    assert list(model.history["train_loss"].index) == [*range(8)]
    assert list(model.history["validation_loss"].index) == [1, 3, 5, 7]
    assert model.best_epoch_ in (5, 7)


def test_a_training_without_an_epoch_writes_nothing_and_says_so(small, caplog):
    model = scvenn.MMVAE(small, **SMALL)
    with caplog.at_level(logging.WARNING, "scvi.scvenn"):
        model.train(2, max_time="00:00:00:00", **QUIET)
    assert "No epoch was finished" in caplog.text
    assert not model.is_trained_
    assert "X_shared" not in small.obsm


@pytest.mark.parametrize("monitor", ["nonsense", "train_loss"])
def test_what_cannot_be_watched_is_named(small, monitor):
    model = scvenn.MMVAE(small, **SMALL)
    with pytest.raises(ValueError, match=f"{monitor!r} is not recorded .* 'validation_loss'"):
        model.train(2, early_stopping_monitor=monitor, **QUIET)


@pytest.mark.parametrize(
    ("external_indexing", "said"),
    [
        ([np.arange(-10, 40), np.arange(40, 60)], "10 cells are listed more than once"),
        ([np.arange(40), np.arange(30, 60)], "among the training and the validation cells"),
        ([[0, 0, *range(1, 60)]], "1 cells are listed more than once"),
        ([np.arange(40), np.arange(40, 50)], "10 of the 60 cells are in no list"),
        ([np.arange(40), np.arange(40, 70)], "validation cells: .*there is no position 60"),
        ([np.arange(40.0), np.arange(40, 60)], "training cells: .*found floating"),
        ([[], np.arange(60)], "at least one training cell"),
        (np.arange(60), "found ndarray of 60"),
        ([], "found list of 0"),
    ],
)
def test_lists_of_cells_that_are_no_split_are_refused(small, external_indexing, said):
    model = scvenn.MMVAE(small)
    with pytest.raises(ValueError, match=said):
        model.train(1, datasplitter_kwargs={"external_indexing": external_indexing}, **QUIET)


def test_a_split_may_list_cells_by_mask_and_by_name(small):
    mask = np.arange(60) < 40
    model = scvenn.MMVAE(small)
    split = {"external_indexing": (mask, list(small.obs_names[40:50]), np.arange(-10, 0))}
    model.train(1, datasplitter_kwargs=split, **QUIET)
    assert model.train_indices.tolist() == list(range(40))
    assert model.validation_indices.tolist() == list(range(40, 50))
    assert model.test_indices.tolist() == list(range(50, 60))


def test_a_dry_run_is_no_training(small):
    model = scvenn.MMVAE(small)
    with pytest.raises(ValueError, match="pass max_epochs=1"):
        model.train(fast_dev_run=True, **QUIET)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0.1}, r"train\(lr=...\): pass it as plan_kwargs={'lr': 0.1}"),
        ({"plan_kwargs": {"foo": 1}}, r"plan_kwargs: \['foo'\] not found; expected some of"),
        ({"plan_kwargs": ["lr"]}, "plan_kwargs=.*expected a dictionary"),
        ({"callbacks": "x"}, "expected callbacks of Lightning, found 'x'"),
        ({"checkpoint": 5}, "checkpoint=5: expected a folder"),
        ({"early_stopping": "no"}, "early_stopping='no': expected True or False"),
        *(
            ({"checkpoint_minutes": minutes}, "checkpoint_minutes=.*: expected a number of minutes")
            for minutes in (np.nan, -5, "1", None, True)
        ),
    ],
)
def test_arguments_of_training_of_another_kind_are_refused(small, arguments, message):
    model = scvenn.MMVAE(small)
    with pytest.raises(ValueError, match=message):
        model.train(1, **QUIET, **arguments)
    assert not model.is_trained_


def test_an_argument_that_is_misspelt_is_pointed_out(small):
    model = scvenn.MMVAE(small)
    said = r"train\(\) has no argument 'max_epoch'\. Did you mean 'max_epochs'\?"
    with pytest.raises(TypeError, match=said):
        model.train(max_epoch=1)
    said = r"setup_mudata\(\) has no argument 'batch_keys'\. Did you mean 'batch_key'\?"
    with pytest.raises(TypeError, match=said):
        scvenn.MMVAE.setup_mudata(small, batch_keys="batch")


def test_one_callback_needs_no_list(small):
    class Counts(Callback):
        n = 0

        def on_train_epoch_end(self, trainer, pl_module):
            self.n += 1

    counts = Counts()
    scvenn.MMVAE(small).train(2, callbacks=counts, **QUIET)
    assert counts.n == 2


def test_the_reason_of_a_failure_ends_with_one_full_stop():
    with (
        pytest.raises(ValueError, match=r"failed while looking: no cell\. Nothing was done\.$"),
        runner.step("looking", "Nothing was done."),
    ):
        raise ValueError("no cell.")


@pytest.mark.parametrize("name", ["hashes_of", "np.union1d"])
def test_ctrl_c_while_a_training_is_put_on_record_is_ctrl_c(small, monkeypatch, name):
    """Found by a soak of signals: it became a TypeError of numpy."""

    def interrupted(*_):
        raise KeyboardInterrupt

    model = scvenn.MMVAEpp(small, n_hidden=8)
    with monkeypatch.context() as patch:
        patch.setattr(f"scvenn.models.runner.{name}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.train(1, **QUIET)
    assert not model.is_trained_
    model.train(1, **QUIET)
    assert np.isfinite(small.obsm["X_shared"]).all()


def test_ctrl_c_between_two_restrictions_by_screening_leaves_the_networks(small, monkeypatch):
    """Found by a soak of signals: of two modalities, one was made smaller already."""
    model = scvenn.MMVAEpp(small, n_hidden=8)
    sizes = {name: value.shape for name, value in model.module.state_dict().items()}
    restrict, calls = type(model.module).restrict, []

    def once(self, *args, **kwargs):
        if calls:
            raise KeyboardInterrupt
        calls.append(restrict(self, *args, **kwargs))

    with monkeypatch.context() as patch:
        patch.setattr(type(model.module), "restrict", once)
        with pytest.raises(KeyboardInterrupt):
            model.train(1, **QUIET)
    assert {name: value.shape for name, value in model.module.state_dict().items()} == sizes
    assert not model.is_trained_
    model.train(1, **QUIET)
    assert np.isfinite(small.obsm["X_shared"]).all()


def test_early_stopping_waits_for_a_warm_up_that_counts_steps(small):
    model = scvenn.MMVAE(small, **SMALL)
    plan = {"n_steps_kl_warmup": 10}  # two steps in each epoch
    model.train(
        9, train_size=0.8, batch_size=24, early_stopping_patience=1, plan_kwargs=plan, **QUIET
    )
    weight = model.history["kl_weight"].iloc[:, 0].to_numpy(float)
    assert 0 < weight[3] < 1  # of the steps, not of the epochs
    assert model.best_epoch_ in (-1, *range(5, 9))


def test_gradients_are_clipped_in_mixed_precision(small):
    model = scvenn.MMVAE(small, **SMALL)
    model.train(1, precision="bf16-mixed", gradient_clip_val=1.0, **QUIET)
    assert_finite(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"plan_kwargs": {"lr": "a"}}, r"plan_kwargs\['lr'\]='a': expected a number of 0 or more"),
        ({"plan_kwargs": {"optimizer": "SGD"}}, "='SGD': expected 'Adam', 'AdamW' or 'Custom'"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches=0: expected an integer of at"),
        ({"gradient_clip_val": -1}, "gradient_clip_val=-1: expected None or a number of 0 or"),
        ({"logger": "logs"}, "logger='logs': expected a logger of Lightning"),
        ({"early_stopping_monitor": None}, "pass early_stopping=False"),
        ({"datasplitter_kwargs": {"batch_size": 10}}, r"\['batch_size'\] are arguments of train"),
        (
            {"plan_kwargs": {"reduce_lr_on_plateau": True}, "train_size": 1.0},
            "reduce_lr_on_plateau needs validation in each epoch",
        ),
        (
            {"plan_kwargs": {"reduce_lr_on_plateau": True}, "check_val_every_n_epoch": 2},
            "reduce_lr_on_plateau needs validation in each epoch",
        ),
    ],
)
def test_what_training_cannot_use_is_refused_before_it_begins(small, arguments, message):
    with pytest.raises(ValueError, match=message):
        scvenn.MMVAE(small, **SMALL).train(2, **arguments, **QUIET)


def test_a_training_that_never_validates_is_not_stopped_early(small):
    model = scvenn.MMVAE(small, **SMALL)
    model.train(2, limit_val_batches=0, **QUIET)
    assert len(model.history["train_loss"]) == 2
