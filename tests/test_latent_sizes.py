"""Sizes of latents, chosen by cross-validation."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scvi
import torch

import scvenn
from scvenn.models.latent_sizes import _smallest
from scvenn.models.side_by_side import Parcel


def scored(**scores):
    """A table of scores by size, such as ``k2=[1.0, 2.0]``: one score for each split."""
    rows = [
        (split, int(size[1:]), value)
        for size, values in scores.items()
        for split, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["split", "n_shared", "score"])


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        # the best is always within one standard error of itself
        ({"k2": [0, 0, 0], "k5": [1, 1, 1], "k9": [3, 3, 3]}, 9),
        # shortfalls 1, 1, 1 of k5: mean 1, standard error 0
        ({"k2": [-9, -9, -9], "k5": [0, 5, 9], "k9": [1, 6, 10]}, 9),
        # shortfalls 2, -1, 0 of k5: mean 1/3, standard error 0.88
        ({"k2": [-9, -9, -9], "k5": [0, 3, 2], "k9": [2, 2, 2]}, 5),
        # both smaller ones fit: the smallest
        ({"k2": [0, 3, 2], "k5": [3, 0, 2], "k9": [2, 2, 2]}, 2),
        # larger is not better
        ({"k2": [3, 3, 3], "k5": [1, 1, 1]}, 2),
    ],
)
def test_the_smallest_size_within_one_standard_error_of_the_best(scores, chosen):
    assert _smallest(scored(**scores), "n_shared", "score") == chosen


@pytest.fixture
def watched(monkeypatch):
    """Every model that is trained."""
    models = []
    train = scvenn.MMVAE.train

    def kept(self, *args, **kwargs):
        train(self, *args, **kwargs)
        models.append(self)

    monkeypatch.setattr(scvenn.SharedPrivateModel, "train", kept)
    return models


def test_all_sizes_are_scored_on_the_same_cells_which_are_not_trained_on(small, watched):
    sizes = scvenn.choose_latent_sizes(
        small,
        model=scvenn.MMVAE,
        n_shared=(1, 3),
        n_private=(2, 4),
        n_splits=3,
        model_kwargs={"n_hidden": 8},
        max_epochs=2,
    )
    assert len(watched) == len(sizes.table) == 3 * 2 * 2
    held_out = [frozenset(model.validation_indices) for model in watched]
    for i, model in enumerate(watched):
        assert not held_out[i] & set(model.train_indices)
        assert len(held_out[i]) + len(model.train_indices) == small.n_obs
    for of_split in sizes.table.groupby("split").groups.values():
        assert len({held_out[i] for i in of_split}) == 1
    assert frozenset.union(*held_out) == set(range(small.n_obs))
    assert sum(map(len, set(held_out))) == small.n_obs  # each cell once


def test_the_scores_are_those_of_the_epoch_to_which_training_returned(small, watched):
    table = scvenn.choose_latent_sizes(
        small, model=scvenn.MMVAE, n_shared=(2,), n_splits=2, max_epochs=12
    ).table
    for model, (_, row) in zip(watched, table.iterrows(), strict=True):
        loss = model.history["validation_loss"].to_numpy(float).ravel()
        assert row["epoch"] == 1 + loss[1:].argmin()  # the first one is warm-up
        for column, record, sign in (
            ("log_likelihood_cross_view", "log_likelihood_cross_view", 1),
            ("elbo", "elbo", -1),
        ):
            values = sign * model.history[f"{record}_validation"].to_numpy(float).ravel()
            assert row[column] == pytest.approx(values[int(row["epoch"])])


def test_the_choice_is_what_a_model_takes_and_the_data_stays_as_it_is(small):
    sizes = scvenn.choose_latent_sizes(small, n_shared=(3, 1), n_splits=2, max_epochs=1)
    assert not small.obsm.keys() - {"rna", "atac", "z_shared", "z_private_rna", "z_private_atac"}
    model = scvenn.MMVAEpp(small, **sizes.choice)
    assert model.module.n_shared in (1, 3)
    assert set(model.module.n_private.values()) == {10}


def test_a_seed_repeats_the_choice(small):
    def table():
        scvi.settings.seed = 3
        return scvenn.choose_latent_sizes(
            small, model=scvenn.MMVAE, n_shared=(2,), n_splits=2, max_epochs=1
        ).table

    pd.testing.assert_frame_equal(table(), table())


@pytest.mark.slow
def test_the_planted_size_of_shared_is_found():
    """Centres of many types in three dimensions: one is too few, and eight are no better."""
    scvi.settings.seed = 0
    mdata = scvenn.datasets.simulate_counts(
        300,
        modalities={"rna": "poisson", "meth": "normal"},
        n_features=40,
        n_shared_features=30,
        n_types=20,
        n_latent=3,
    )
    sizes = scvenn.choose_latent_sizes(
        mdata,
        n_shared=(1, 3, 8),
        n_splits=2,
        model_kwargs={"n_hidden": 32},
        max_epochs=25,
        plan_kwargs={"lr": 1e-2},
    )
    assert sizes.choice["n_shared"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_shared": ()}, "n_shared=.*one or more sizes"),
        ({"n_private": (2, 2)}, "n_private=.*each once"),
        ({"n_private": {"rna": 2}}, "n_private={'rna': 2}: expected a list"),
        ({"n_shared": (0,)}, "n_shared=0"),
        ({"n_splits": 1}, "n_splits=1: expected"),
        ({"n_splits": 61}, "and the 60 cells"),
    ],
)
def test_what_makes_no_sense_is_refused(small, arguments, message):
    with pytest.raises(ValueError, match=message):
        scvenn.choose_latent_sizes(small, max_epochs=1, **arguments)


def test_cells_held_out_must_have_two_modalities():
    """Of forty cells two are paired: most tenths hold none of them."""
    mdata = scvenn.datasets.simulate_counts(40, n_features=6, n_types=2)
    rna, atac = mdata["rna"][:21].copy(), mdata["atac"][19:].copy()
    mosaic = scvenn.datasets.mudata.MuData({"rna": rna, "atac": atac})
    with pytest.raises(ValueError, match="Take fewer splits"):
        scvenn.choose_latent_sizes(
            mosaic, model=scvenn.MMVAE, n_shared=(2,), n_splits=10, max_epochs=1
        )


def test_tuning_with_ray_says_what_it_needs(small):
    """scvi-tools' own message, where Ray is not installed."""
    pytest.importorskip("scvi.autotune")
    try:
        import hyperopt
        import ray.tune
    except ImportError:
        from scvi.autotune import run_autotune

        scvenn.MMVAEpp.setup_mudata(small)
        with pytest.raises(ModuleNotFoundError, match="install.*ray"):
            run_autotune(scvenn.MMVAEpp, small)
    else:
        pytest.skip(f"ray {ray.__version__} and hyperopt {hyperopt.__version__} are installed")


@pytest.mark.slow
def test_ray_tunes_by_a_record_of_the_history(small, tmp_path):
    ray = pytest.importorskip("ray")
    pytest.importorskip("hyperopt")
    from ray import tune
    from scvi.autotune import run_autotune

    record = "log_likelihood_cross_view_validation"
    scvenn.MMVAE.setup_mudata(small)
    try:
        experiment = run_autotune(
            scvenn.MMVAE,
            small,
            metrics=record,
            mode="max",
            search_space={
                "model_params": {"n_shared": tune.choice([1, 2, 3]), "n_hidden": 4},
                "train_params": {"max_epochs": 2},
            },
            num_samples=2,
            scheduler="fifo",
            seed=0,
            resources={"cpu": 1},
            logging_dir=str(tmp_path),
        )
        grid = experiment.result_grid
        assert not grid.errors
        assert [result.metrics["training_iteration"] for result in grid] == [2, 2]
        assert np.isfinite([result.metrics[record] for result in grid]).all()
        best = grid.get_best_result(record, "max").config["model_params"]["n_shared"]
        assert best in (1, 2, 3)
    finally:
        ray.shutdown()


# --------------------------------------------------------------------- several at a time


def searched(mdata, n_jobs, **kwargs):
    scvi.settings.seed = 3
    return scvenn.choose_latent_sizes(
        mdata, n_shared=(1, 2), n_splits=2, max_epochs=2, n_jobs=n_jobs, **kwargs
    ).table


@pytest.fixture(scope="module")
def mosaic():
    """Labels, a covariate, a layer, and cells of which some have one modality."""
    mdata = scvenn.datasets.simulate_counts(80, n_features=20, missing=0.2, n_batches=2)
    mdata["rna"].layers["counts"], mdata["rna"].X = mdata["rna"].X, None
    mdata.obsm["never_read"] = np.zeros((mdata.n_obs, 3))
    scvenn.MMVAEpp.setup_mudata(
        mdata, layers={"rna": "counts"}, batch_key="batch", labels_key="cell_type"
    )
    return mdata


def test_two_processes_find_what_one_does_to_the_last_bit(mosaic):
    before = torch.get_rng_state(), torch.get_num_threads(), scvi.settings.seed
    one = searched(mosaic, 1)
    assert torch.get_num_threads() == before[1]
    pd.testing.assert_frame_equal(one, searched(mosaic, 2), check_exact=True)
    assert scvi.settings.seed == 3
    assert one["log_likelihood_cross_view"].nunique() == len(one)


def test_a_process_is_sent_what_is_read(mosaic):
    found = scvenn.MMVAEpp(mosaic).adata_manager.found
    parcel = Parcel.of(mosaic, found.modalities, found.arguments)
    assert set(parcel.obs) == {"batch", "cell_type"}
    assert parcel.modalities["rna"][0] is mosaic["rna"].layers["counts"]
    again = parcel.unpacked(scvenn.MMVAEpp)
    assert set(again.obs_names) == set(mosaic.obs_names)
    assert not {"never_read"} & set(again.obsm)
    model = scvenn.MMVAEpp(again)
    assert model.adata_manager.found.arguments == found.arguments
    assert model.adata_manager.found.n_categories == found.n_categories


def test_the_error_of_a_process_is_the_message_alone(mosaic):
    none = {"n_hidden": 0}
    with (
        warnings.catch_warnings(record=True) as shown,
        pytest.raises(ValueError, match="^n_hidden=0") as caught,
    ):
        searched(mosaic, 2, model_kwargs=none)
    assert not [warning for warning in shown if "tasks" in str(warning.message)]
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("key", ["rna:lab", "lab"])
def test_columns_are_found_as_a_set_up_finds_them(key):
    mdata = scvenn.datasets.simulate_counts(60, n_features=10)
    labels = np.resize(["a", "b"], mdata.n_obs)
    if key == "lab":  # pulled from a modality which does not have it any more
        mdata.obs["rna:lab"] = labels
    else:
        mdata["rna"].obs["lab"] = labels
    scvenn.MMVAEpp.setup_mudata(mdata, labels_key=key)
    assert len(searched(mdata, 1)) == 4


@pytest.mark.parametrize("n_jobs", [0, 1.5, "2", -2])
def test_a_number_of_jobs_that_makes_no_sense_is_refused(small, n_jobs):
    with pytest.raises(ValueError, match="n_jobs=.*expected a number of processes"):
        scvenn.choose_latent_sizes(small, n_jobs=n_jobs, max_epochs=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_shared": 3}, "n_shared=3: expected a list"),
        ({"n_shared": [2.5]}, "n_shared=2.5: expected an integer"),
        ({"n_splits": 2.5}, "n_splits=2.5: expected an integer"),
        ({"model_kwargs": {"n_shared": 3}}, r"model_kwargs: \['n_shared'\] cannot be chosen here"),
        ({"train_size": 0.5}, r"train_kwargs: \['train_size'\] cannot be chosen here"),
        ({"write_obsm": True}, r"train_kwargs: \['write_obsm'\] cannot be chosen here"),
        ({"model": "MMVAE"}, "expected a class of models, .* found an object of class str"),
    ],
)
def test_arguments_that_cannot_be_tried_are_refused(small, arguments, message):
    with pytest.raises(ValueError, match=message):
        scvenn.choose_latent_sizes(small, **arguments)


def test_scores_are_of_the_best_epoch_where_few_are_validated(small):
    found = scvenn.choose_latent_sizes(
        small, n_shared=(2,), n_private=(2,), n_splits=2, max_epochs=4, check_val_every_n_epoch=2
    )
    assert set(found.table["epoch"]) <= {1, 3}
    with pytest.raises(ValueError, match="training never validated"):
        scvenn.choose_latent_sizes(
            small, n_shared=(2,), n_splits=2, max_epochs=1, check_val_every_n_epoch=5
        )


@pytest.mark.parametrize("arguments", [{"n_shared": [[2]]}, {"model_kwargs": ["a"]}])
def test_arguments_of_another_form_are_refused(small, arguments):
    with pytest.raises(ValueError, match="expected"):
        scvenn.choose_latent_sizes(small, **arguments)
