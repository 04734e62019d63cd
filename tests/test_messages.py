"""What training and loading say: what concerns the user, and nothing of the libraries below."""

import logging
import re
import subprocess
import sys
import warnings

import pytest
import scvi

import scvenn
from scvenn._progress import progress
from scvenn.models.messages import quiet_libraries
from tests.conftest import QUIET

WITH_BAR = {"accelerator": "cpu", "enable_progress_bar": True}

WORKFLOW = """
import mudata, scvenn
mudata.set_options(pull_on_update=False)
mdata = scvenn.datasets.simulate_counts(300, n_features=40)
model = scvenn.MMVAEpp(mdata)
model.train(3, accelerator="cpu")
model.save("model")
model = scvenn.MMVAEpp.load("model", mdata)
"""


def test_a_workflow_says_nothing_of_the_libraries_below(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WORKFLOW], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)  # without colours
    assert "features" in said
    assert "Trained 3 epochs" in said
    for foreign in ("GPU", "TPU", "Tip", "LeafSpec", "Trainer.fit", "downloaded", "Warning"):
        assert foreign not in said


def test_the_bar_shows_the_loss_of_training_and_of_held_out_cells(small, capfd):
    scvenn.MMVAE(small).train(2, train_size=0.5, **WITH_BAR)
    shown = "".join(capfd.readouterr())
    assert "train_loss=" in shown
    assert "validation_loss=" in shown
    assert "v_num" not in shown


def test_without_held_out_cells_the_bar_shows_the_loss_of_training(small, capfd):
    scvenn.MMVAE(small).train(2, train_size=1.0, **WITH_BAR)
    shown = "".join(capfd.readouterr())
    assert "train_loss=" in shown
    assert "validation_loss" not in shown


def test_no_bar_is_shown_where_the_user_turned_off_those_of_tqdm(small, capfd, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    scvenn.MMVAE(small).train(2, train_size=0.5, **WITH_BAR)
    shown = "".join(capfd.readouterr())
    assert "train_loss" not in shown
    assert progress([1], description="Reading").disable


def test_a_bar_is_shown_where_tqdm_is_asked_for_them(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")
    assert not progress([1], description="Reading").disable


def test_the_end_of_training_is_told_with_its_reason(small, caplog, capsys):
    scvi.settings.seed = 0
    model = scvenn.MMVAE(small)
    with caplog.at_level("INFO", logger="scvi.scvenn"):
        model.train(
            200, train_size=0.5, early_stopping_patience=1, early_stopping_warmup_epochs=0, **QUIET
        )
    n_epochs = len(model.history["train_loss"])
    assert n_epochs < 200
    assert (
        f"Trained {n_epochs} epochs, until validation_loss had not improved in 1 epochs. The model "
        f"has the weights of epoch {model.best_epoch_} (the first is 0)."
    ) in caplog.text
    assert "Monitored metric" not in capsys.readouterr().out


def test_a_training_without_early_stopping_keeps_the_last_epoch(small, caplog):
    with caplog.at_level("INFO", logger="scvi.scvenn"):
        scvenn.MMVAE(small).train(2, early_stopping=False, **QUIET)
    assert "Trained 2 epochs." in caplog.text


@pytest.mark.parametrize(("n_features", "told"), [(400, True), (100, False)])
def test_many_more_features_than_cells_are_told(n_features, told, caplog):
    mdata = scvenn.datasets.simulate_counts(60, n_features=n_features)
    with caplog.at_level("INFO", logger="scvi.scvenn"):
        scvenn.MMVAE(mdata).train(1, train_size=0.5, **QUIET)
    assert ("rna: 400 features for 30 training cells" in caplog.text) is told


def test_levels_and_filters_of_the_user_are_as_before():
    one = logging.getLogger("lightning.pytorch")
    before, filters = one.level, list(warnings.filters)
    with quiet_libraries():
        assert logging.getLogger("lightning.pytorch.utilities").getEffectiveLevel() > logging.INFO
    assert one.level == before
    assert warnings.filters == filters


def test_what_a_user_asked_to_see_is_shown():
    one = logging.getLogger("lightning.pytorch")
    before = one.level
    one.setLevel(logging.DEBUG)
    try:
        with quiet_libraries():
            assert one.level == logging.DEBUG
    finally:
        one.setLevel(before)


def test_warnings_of_others_are_shown_inside():
    with pytest.warns(UserWarning, match="mine"), quiet_libraries():
        warnings.warn("mine", UserWarning, stacklevel=1)
