"""A training that is killed goes on from its checkpoint, and ends as if it had not been."""

import os
import random
import signal
import time

import numpy as np
import pytest
import scvi
from lightning.pytorch.callbacks import Callback
from safetensors.numpy import load_file, save_file

import scvenn
from tests import archives
from tests.conftest import QUIET
from tests.files import forks, header_of, in_child

EVERY_EPOCH = {"checkpoint_minutes": 0, "batch_size": 32, **QUIET}


@pytest.fixture(scope="module")
def data():
    return scvenn.datasets.simulate_counts(120, n_features=12, n_types=3, n_batches=2)


def build(data, cls=scvenn.MMVAEpp, labels=None, **arguments):
    scvi.settings.seed = 0
    mdata = data.copy()
    cls.setup_mudata(mdata, batch_key="batch", labels_key=labels)
    return cls(mdata, **{"n_shared": 3, "n_private": 2, "n_hidden": 8, **arguments})


class Stop(Exception):
    pass


class StopIn(Callback):
    """An error in a step of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_end(self, trainer, *_):
        if trainer.current_epoch == self.epoch:
            raise Stop


def stopped_in(epoch, data, folder, n_epochs, **arguments):
    model = build(data, **arguments)
    with pytest.raises(Stop):
        model.train(n_epochs, checkpoint=folder, callbacks=[StopIn(epoch)], **EVERY_EPOCH)


def assert_same(found, expected):
    """The same bits: weights, history, split, embeddings."""
    state = found.module.state_dict()
    for name, value in expected.module.state_dict().items():
        np.testing.assert_array_equal(state[name].numpy(), value.numpy(), err_msg=name)
    assert found.history.keys() == expected.history.keys()
    for name, table in expected.history.items():
        np.testing.assert_array_equal(found.history[name], table, err_msg=name)
    assert found.best_epoch_ == expected.best_epoch_
    for key in expected.adata.obsm:
        np.testing.assert_array_equal(found.adata.obsm[key], expected.adata.obsm[key])


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [(scvenn.MMVAEpp, {}), (scvenn.MVAE, {"decoder": "linear"})],
)
def test_a_stopped_training_goes_on_to_the_same_end(cls, arguments, data, tmp_path):
    expected = build(data, cls, **arguments)
    expected.train(6, **EVERY_EPOCH)
    for epoch in (0, 1, 5):
        folder = tmp_path / str(epoch)
        stopped_in(epoch, data, folder, 6, cls=cls, **arguments)
        model = build(data, cls, **arguments)
        model.train(6, checkpoint=folder, **EVERY_EPOCH)
        assert_same(model, expected)


def test_a_learning_rate_that_was_lowered_stays_so(data, tmp_path):
    schedule = {"reduce_lr_on_plateau": True, "lr_patience": 0, "lr_threshold": 0.9}
    how = {"plan_kwargs": schedule, **EVERY_EPOCH}
    with pytest.raises(Stop):
        build(data).train(6, checkpoint=tmp_path, callbacks=[StopIn(4)], **how)
    model = build(data)
    model.train(6, checkpoint=tmp_path, **how)
    expected = build(data)  # which sets the seed
    expected.train(6, **how)
    for rate in ("networks", "dispersions"):
        assert expected.history[f"lr-Adam/{rate}"].nunique().item() > 2
    assert_same(model, expected)


@pytest.mark.parametrize("cls", [scvenn.MMVAEpp, scvenn.MoPoEVAE])
def test_three_modalities_with_missing_cells_and_labels_go_on_alike(cls, tmp_path):
    data, how = archives.data(), {"cls": cls, "labels": "cell_type"}
    stopped_in(2, data, tmp_path, 4, **how)
    model = build(data, **how)
    model.train(4, checkpoint=tmp_path, **EVERY_EPOCH)
    expected = build(data, **how)  # which sets the seed
    expected.train(4, **EVERY_EPOCH)
    assert_same(model, expected)


def test_a_finished_training_is_not_repeated(data, tmp_path):
    first, second = build(data), build(data)
    first.train(30, checkpoint=tmp_path, early_stopping_patience=1, **EVERY_EPOCH)
    assert len(first.history["train_loss"]) < 30
    written = (tmp_path / "checkpoint.safetensors").stat().st_mtime_ns
    second.train(30, checkpoint=tmp_path, early_stopping_patience=1, **EVERY_EPOCH)
    assert_same(second, first)
    assert (tmp_path / "checkpoint.safetensors").stat().st_mtime_ns == written


def test_a_training_without_a_seed_goes_on_with_its_cells_and_features(data, tmp_path):
    stopped_in(2, data, tmp_path, 4)
    model = build(data)
    scvi.settings.seed = 1  # another split and another screening, were they done again
    model.train(4, checkpoint=tmp_path, **EVERY_EPOCH)
    expected = build(data)
    expected.train(4, **EVERY_EPOCH)
    np.testing.assert_array_equal(model.train_indices, expected.train_indices)
    for name, table in expected.history.items():
        np.testing.assert_array_equal(model.history[name], table, err_msg=name)


@pytest.mark.slow
@forks
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_training_that_is_killed_at_random_ends_with_the_same_bits(data, tmp_path):
    start = time.perf_counter()
    expected = build(data)
    expected.train(20, **EVERY_EPOCH)
    longest = time.perf_counter() - start
    rng = random.Random(0)
    for run in range(5):
        folder = tmp_path / str(run)

        def train(folder=folder):
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.2, 1) * longest)
            build(data).train(20, checkpoint=folder, **EVERY_EPOCH)

        for _ in range(4):
            _, status = os.waitpid(in_child(train), 0)
            rng.random()  # which the child drew
            assert status == 0 or os.WTERMSIG(status) == signal.SIGALRM
        model = build(data)
        model.train(20, checkpoint=folder, **EVERY_EPOCH)
        assert_same(model, expected)


# ------------------------------------------------------------------------------- refused


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    build(data).train(1, checkpoint=folder, **EVERY_EPOCH)
    return folder


def other_values(data):
    data = data.copy()
    data["rna"].X = data["rna"].X * 2
    return data


@pytest.mark.parametrize(
    ("change", "model", "training", "message"),
    [
        (None, {}, {"max_epochs": 2}, "the argument max_epochs was 1 then and is 2 now"),
        (None, {}, {"plan_kwargs": {"lr": 0.1}}, "the argument lr was 0.001 then and is 0.1 now"),
        (None, {"n_shared": 4}, {}, "the argument n_shared was 3 then and is 4 now"),
        (None, {"cls": scvenn.MMVAE}, {}, "the class was MMVAEpp then and is MMVAE now"),
        (other_values, {}, {}, "the data was"),
        (lambda data: data[::-1].copy(), {}, {}, "the data was"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    change, model, training, message, data, finished
):
    new = build(data if change is None else change(data), **model)
    with pytest.raises(ValueError, match=message):
        new.train(**{"max_epochs": 1, "checkpoint": finished, **EVERY_EPOCH, **training})
    assert not new.is_trained_


def test_a_checkpoint_of_another_version_is_refused(data, finished):
    model = build(data)
    model.versions_["torch"] = "1.0"
    with pytest.raises(ValueError, match=r"the version of torch was .* and is 1\.0"):
        model.train(1, checkpoint=finished, **EVERY_EPOCH)


def test_a_damaged_checkpoint_is_refused(data, finished, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    old = finished / path.name
    arrays = load_file(old)
    next(iter(arrays.values())).flat[0] += 1
    save_file(arrays, path, header_of(old))
    with pytest.raises(ValueError, match=r"checkpoint.safetensors \(.* bytes\) is damaged"):
        build(data).train(1, checkpoint=tmp_path, **EVERY_EPOCH)


def test_a_second_training_takes_no_checkpoint(data, tmp_path):
    model = build(data)
    model.train(1, **EVERY_EPOCH)
    with pytest.raises(ValueError, match="for the first training of a model"):
        model.train(1, checkpoint=tmp_path, **EVERY_EPOCH)


def test_a_checkpoint_of_another_seed_is_refused(tmp_path):
    def train(seed):
        scvi.settings.seed = seed
        mdata = scvenn.datasets.simulate_counts(60, n_features=12)
        scvenn.MMVAE(mdata, n_hidden=8).train(1, checkpoint=tmp_path / "checkpoint", **QUIET)

    train(0)
    with pytest.raises(ValueError, match="the seed was 0 then and is 1 now"):
        train(1)


@pytest.mark.parametrize(
    ("then", "now", "message"),
    [
        (
            {"likelihoods": {"atac": "bernoulli"}},
            {"likelihoods": {"atac": "poisson"}},
            "the likelihood of 'atac' was bernoulli then and is poisson now",
        ),
        (
            {"labels_key": "cell_type", "unlabeled_category": "type0"},
            {"labels_key": "cell_type", "unlabeled_category": "type1"},
            "the classes of labels was 'type1', 'type2' then and is 'type0', 'type2' now",
        ),
    ],
    ids=["likelihood", "classes"],
)
def test_a_checkpoint_of_another_set_up_is_refused(data, tmp_path, then, now, message):
    def train(arguments):
        scvi.settings.seed = 0
        mdata = data.copy()
        scvenn.MMVAE.setup_mudata(mdata, **arguments)
        scvenn.MMVAE(mdata, n_hidden=8).train(1, checkpoint=tmp_path / "checkpoint", **QUIET)

    train(then)
    with pytest.raises(ValueError, match=message):
        train(now)
