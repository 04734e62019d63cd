"""A model and its data over time: what is noticed, what is found by name, what is kept alive."""

import copy
import gc
import os
import subprocess
import sys
import weakref
from types import MappingProxyType

import anndata
import mudata
import muon
import numpy as np
import pandas as pd
import pytest
import scanpy
import scipy.sparse as sp
import scvi
from scvi.model.base import BaseModelClass

import scvenn
from scvenn.data import setup as data_setup
from scvenn.data.fingerprint import Fingerprint
from tests.conftest import QUIET, under_other_names

N = 80
ARGUMENTS = {
    "batch_key": "batch",
    "categorical_covariate_keys": ["donor"],
    "continuous_covariate_keys": ["age"],
    "labels_key": "cell_type",
}


def data():
    mdata = scvenn.datasets.simulate_counts(N, n_features=12, n_batches=2)
    mdata.obs["donor"] = ["a", "b"] * (N // 2)
    mdata.obs["age"] = np.linspace(20, 80, N)
    mdata["rna"].layers["counts"] = mdata["rna"].X.copy()
    return mdata


def small_model(mdata, **arguments):
    scvi.settings.seed = 0
    scvenn.MMVAEpp.setup_mudata(mdata, **arguments)
    model = scvenn.MMVAEpp(mdata, n_hidden=8, screen=False)
    model.train(1, train_size=0.7, **QUIET)
    return model


@pytest.fixture(scope="module")
def trained():
    return small_model(data(), **ARGUMENTS)


@pytest.fixture(scope="module")
def trained_on_a_layer():
    return small_model(data(), **ARGUMENTS, layers={"rna": "counts"})


@pytest.fixture
def model(trained):
    return copy.deepcopy(trained)


def change_x(how):
    def change(mdata):
        mdata["rna"].X = how(mdata["rna"].X)

    return change


def change_column(name, how):
    def change(mdata):
        mdata.obs[name] = how(mdata.obs[name])

    return change


def replace_rna(how):
    def change(mdata):
        mdata.mod["rna"] = how(mdata["rna"])
        mdata.update()

    return change


def rename_features(how):
    def change(mdata):
        mdata.mod["rna"].var_names = how(list(mdata["rna"].var_names))

    return change


def rename_cells(n):
    def change(mdata):
        for adata in mdata.mod.values():
            adata.obs_names = [f"{c}-1" for c in adata.obs_names[:n]] + list(adata.obs_names[n:])
        mdata.update()

    return change


def one_more(mdata):
    mdata["rna"].X.data[3] += 1


def remove_atac(mdata):
    del mdata.mod["atac"]
    mdata.update()


READOUTS = {
    "get_shared_representation": lambda m: m.get_shared_representation(),
    "get_private_representation": lambda m: m.get_private_representation("rna"),
    "get_latent_representation": lambda m: m.get_latent_representation(),
    "embed": lambda m: m.embed(),
    "predict": lambda m: m.predict("rna", "atac"),
    "get_normalized_expression": lambda m: m.get_normalized_expression("rna"),
    "predict_labels": lambda m: m.predict_labels(),
    "sample_posterior": lambda m: m.sample_posterior("rna", "atac", n_samples=1),
    "evaluate": lambda m: m.evaluate(),
    "write_predictions": lambda m: m.write_predictions("x.zarr", "rna", "atac"),
    "get_elbo": lambda m: m.get_elbo(),
    "differential": lambda m: m.differential("donor", modality="rna", n_samples=10),
    "train": lambda m: m.train(1, **QUIET),
}
CHANGED = "was changed after the model was set up"
CHANGES = {
    "logarithms": (lambda m: scanpy.pp.log1p(m["rna"]), "'nb' needs non-negative integers"),
    "normalised": (lambda m: scanpy.pp.normalize_total(m["rna"]), "'nb' needs non-negative int"),
    "doubled": (change_x(lambda x: x * 2), rf"mdata\['rna'\]\.X {CHANGED}"),
    "clipped": (change_x(lambda x: x.minimum(1)), rf"mdata\['rna'\]\.X {CHANGED}"),
    "one value": (one_more, rf"mdata\['rna'\]\.X {CHANGED}"),
    "two rows": (change_x(lambda x: x[np.r_[1, 0, 2:N]]), CHANGED),
    "NaN": (change_x(lambda x: np.where(x.toarray() > 3, np.nan, x.toarray())), "found nan"),
    "features filtered": (replace_rna(lambda a: a[:, :6].copy()), "6 of the 12 features that the"),
    "features renamed": (rename_features(lambda v: [f"z{i}" for i, _ in enumerate(v)]), "missing"),
    "features mixed up": (rename_features(lambda v: v[::-1]), CHANGED),
    "batches renamed": (change_column("batch", lambda _: "new"), "batch.*the new data has 'new'"),
    "batches swapped": (change_column("batch", lambda c: c.to_numpy()[::-1]), f"'batch' {CHANGED}"),
    "batch missing": (change_column("batch", lambda _: np.nan), "batch_key.*80 of 80 cells have"),
    "batch removed": (lambda m: m.obs.pop("batch"), "batch_key='batch' not found"),
    "donors swapped": (change_column("donor", lambda c: c.to_numpy()[::-1]), f"'donor' {CHANGED}"),
    "older": (change_column("age", lambda c: c + 1), f"'age' {CHANGED}"),
    "age missing": (change_column("age", lambda c: c.where(c > 30)), "'age': .* have no value"),
    "cells renamed": (rename_cells(N), "obs_names were changed.*'cell0'.*'cell0-1'"),
    "some cells renamed": (rename_cells(5), "obs_names were changed.*5 cells such as 'cell0'"),
    "modality removed": (remove_atac, "modality 'atac' was removed"),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_changed_data_is_noticed_by_every_readout_and_by_training(model, name):
    change, message = CHANGES[name]
    change(model.adata)
    before = sorted(model.adata.obsm)
    for readout in READOUTS.values():
        with pytest.raises(ValueError, match=message):
            readout(model)
    assert sorted(model.adata.obsm) == before


def test_new_data_gets_the_same_message_where_it_gets_one(model):
    new = model.adata.copy()
    new.obs["batch"] = "new"
    for make in (lambda: new, lambda: None):
        model.adata.obs["batch"] = "new"
        with pytest.raises(ValueError, match="the model was trained on 'batch0', 'batch1', the"):
            model.get_shared_representation(make())


def test_a_layer_that_is_read_is_watched_and_others_are_not(trained_on_a_layer):
    model = copy.deepcopy(trained_on_a_layer)
    scanpy.pp.log1p(model.adata["rna"])  # .X is not read
    model.get_shared_representation()
    scanpy.pp.log1p(model.adata["rna"], layer="counts")
    with pytest.raises(ValueError, match=r"found .* in mdata\['rna'\]\.layers\['counts'\]"):
        model.get_shared_representation()


SAME_VALUES = {
    "nothing": lambda m: None,
    "dense": change_x(lambda x: x.toarray()),
    "F-ordered": change_x(lambda x: np.asfortranarray(x.toarray())),
    "CSC": change_x(sp.csc_matrix),
    "CSR array": change_x(sp.csr_array),
    "double precision": change_x(lambda x: x.astype(np.float64)),
    "half precision": change_x(lambda x: x.toarray().astype(np.float16)),
    "integers": change_x(lambda x: x.astype(np.int64)),
    "categories": change_column("donor", lambda c: c.astype("category")),
    "text": change_column("batch", lambda c: c.astype(str)),
    "numbers as text": change_column("age", lambda c: c.astype(str)),
    "single precision": change_column("age", lambda c: c.astype(np.float32)),
    "features reordered": replace_rna(lambda a: a[:, ::-1].copy()),
    "features added": replace_rna(
        lambda a: anndata.concat(
            [a, anndata.AnnData(np.ones((N, 1)), obs=a.obs, var=pd.DataFrame(index=["new"]))],
            axis=1,
        )
    ),
    "other columns": lambda m: m.obs.insert(0, "other", 1),
    "a modality added": lambda m: m.mod.update({"adt": m["rna"].copy()}) or m.update(),
    "modalities reordered": lambda m: m.mod.update({"rna": m.mod.pop("rna")}),
}


@pytest.mark.parametrize("name", list(SAME_VALUES))
def test_what_keeps_the_values_is_no_change(model, name):
    before = model.predict("rna", "atac")
    SAME_VALUES[name](model.adata)
    pd.testing.assert_frame_equal(model.predict("rna", "atac"), before, atol=1e-5)
    model.train(1, **QUIET)


def test_writing_and_reading_a_file_is_no_change(model):
    model.adata.write("x.h5mu")
    before = model.predict("rna", "atac")
    model.save("model")
    loaded = scvenn.MMVAEpp.load("model", mudata.read_h5mu("x.h5mu"))
    pd.testing.assert_frame_equal(loaded.predict("rna", "atac"), before, atol=1e-5)
    assert list(loaded.train_indices) == list(model.train_indices)


def test_labels_matter_to_training_and_not_to_readouts(model):
    model.adata.obs["cell_type"] = model.adata.obs["cell_type"].to_numpy()[::-1]
    model.get_shared_representation()
    model.evaluate(labels_key="cell_type")
    with pytest.raises(ValueError, match=f"'cell_type' {CHANGED}"):
        model.train(1, **QUIET)


# ------------------------------------------------------------------------------- cells in place


def filter_cells(mdata):
    muon.pp.filter_obs(mdata, np.arange(N) % 3 > 0)


def reorder_cells(mdata):
    order = np.random.default_rng(0).permutation(N)
    for m in list(mdata.mod):
        mdata.mod[m] = mdata[m][order].copy()
    mdata.update()
    mdata.obs = mdata.obs.iloc[order]


@pytest.mark.parametrize("change", [filter_cells, reorder_cells])
def test_positions_of_held_out_cells_follow_them_before_any_readout(model, change):
    held_out = set(model.adata.obs_names[model.validation_indices])
    change(model.adata)
    names = model.adata.obs_names
    assert set(names[model.validation_indices]) == held_out & set(names)


@pytest.mark.parametrize("change", [filter_cells, reorder_cells])
def test_cells_filtered_or_reordered_in_place_are_found_by_name(model, change):
    def names(part):
        return set(model.adata.obs_names[getattr(model, f"{part}_indices")])

    parts = ["train", "validation"]
    before = {part: names(part) for part in parts}
    predicted = model.predict("rna", "atac")
    change(model.adata)
    left = set(model.adata.obs_names)
    assert list(model.adata.obs_names) != list(predicted.index)
    now = model.predict("rna", "atac")
    pd.testing.assert_frame_equal(now, predicted.loc[now.index], atol=1e-5)
    for part in parts:
        assert names(part) == before[part] & left
    assert len(model.evaluate())
    model.save("model")
    loaded = scvenn.MMVAEpp.load("model", model.adata)
    assert list(loaded.train_indices) == list(model.train_indices)
    model.train(1, **QUIET)
    for part in parts:
        assert names(part) == before[part] & left


@pytest.mark.parametrize(
    "read",
    [
        lambda m, new: m.get_shared_scores(given="donor"),
        # what a simulation planted is in obsm, which `reorder_cells` leaves in its order
        lambda m, new: m.evaluate(new).query("not metric.str.startswith('recovery')"),
    ],
    ids=["get_shared_scores", "evaluate"],
)
def test_training_cells_are_found_by_the_first_readout_after_a_new_order(read):
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(data(), n_hidden=8)
    model.train(1, train_size=0.7, **QUIET)
    new, moved = under_other_names(data()), copy.deepcopy(model)
    expected = read(model, new)
    reorder_cells(moved.adata)
    pd.testing.assert_frame_equal(read(moved, new), expected, rtol=1e-4, atol=1e-5)


def test_cells_that_were_trained_on_and_filtered_since_are_not_scored(model):
    before = model.adata.copy()
    trained = model.adata.obs_names[model.train_indices]
    filter_cells(model.adata)
    model.get_shared_representation()
    gone = trained.difference(model.adata.obs_names)
    for score in (model.evaluate, model.variance_explained):
        with pytest.raises(ValueError, match=f"{len(gone)} of the {len(gone)} cells .* trained on"):
            score(before, indices=gone)


def test_cells_that_came_after_the_first_training_are_test_cells(model, caplog):
    before = set(model.adata.obs_names[model.train_indices])
    others = under_other_names(model.adata)
    mods = {m: anndata.concat([a, others[m]], merge="same") for m, a in model.adata.mod.items()}
    more = mudata.MuData(mods)
    more.obs = pd.concat([model.adata.obs, others.obs]).loc[more.obs_names]
    model.save("model")
    loaded = scvenn.MMVAEpp.load("model", more)
    with caplog.at_level("WARNING", "scvi.scvenn"):
        loaded.train(1, **QUIET)
    assert f"{N} of the {2 * N} cells were not there in the first training" in caplog.text
    assert set(more.obs_names[loaded.train_indices]) == before
    assert set(more.obs_names[loaded.test_indices]) == set(others.obs_names)


def test_a_split_outlives_cells_that_are_filtered_before_the_model_is_saved(model):
    before = set(model.adata.obs_names[model.validation_indices])
    filter_cells(model.adata)
    model.save("model")
    loaded = scvenn.MMVAEpp.load("model", model.adata)
    left = before & set(model.adata.obs_names)
    assert set(loaded.adata.obs_names[loaded.validation_indices]) == left


def test_data_that_was_changed_is_not_saved_with_a_model(model):
    model.adata["rna"].X = model.adata["rna"].X * 2
    model.save("weights")
    with pytest.raises(ValueError, match="changed"):
        model.save("both", save_anndata=True)
    assert not os.path.exists("both")


def test_evaluation_needs_held_out_cells_that_are_left(model):
    keep = np.isin(np.arange(N), model.train_indices)
    muon.pp.filter_obs(model.adata, keep)
    with pytest.raises(ValueError, match="needs two or more cells that were not trained on; 0 of"):
        model.evaluate()


def test_cells_that_a_modality_lost_are_read_without_it(model):
    model.adata.mod["rna"] = model.adata["rna"][20:].copy()
    model.adata.update()
    lost = ~model.adata.obs_names.isin(model.adata["rna"].obs_names)
    assert lost.sum() == 20
    assert np.isnan(model.get_private_representation("rna")[lost]).all()
    assert np.isfinite(model.get_shared_representation()).all()


# ------------------------------------------------------------------------------- a damaged index


@pytest.mark.slow
def test_data_that_is_damaged_later_is_an_error_and_no_crash():
    """In a process of its own, which a crash would end."""
    code = """
import copy, numpy as np, scipy.sparse as sp, scvenn
mdata = scvenn.datasets.simulate_counts(60, n_features=12)
other = mdata.copy()
for m in other.mod:
    other[m].layers["csc"] = sp.csc_matrix(other[m].X)
for data, layers in ((mdata, None), (other, {"rna": "csc"})):
    scvenn.MMVAEpp.setup_mudata(data, layers=layers)
    model = scvenn.MMVAEpp(data, screen=False, n_hidden=8)
    model.train(1, enable_progress_bar=False)
    x = data["rna"].X if layers is None else data["rna"].layers["csc"]
    new = data.copy()
    y = new["rna"].X if layers is None else new["rna"].layers["csc"]
    for array in ("indptr", "indices"):
        for matrix, given in ((x, None), (y, new)):
            values = getattr(matrix, array)
            kept = values.copy()
            values[5] += 10**7
            for call in (lambda: model.get_shared_representation(given),
                         lambda: model.predict("rna", "atac", given),
                         lambda: scvenn.MMVAEpp(data if given is None else given)):
                try:
                    call()
                    print("> accepted", flush=True)
                except ValueError as error:
                    right = "'rna': the sparse matrix" in str(error)
                    print(">", "right" if right else error, flush=True)
            values[:] = kept
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    outcomes = [line for line in run.stdout.splitlines() if line.startswith(">")]
    assert outcomes == ["> right"] * 24, run.stderr[-500:]
    assert run.returncode == 0


# ------------------------------------------------------------------------------- new models


def inferred(model):
    return {m: model.module.likelihood(m).name for m in model.modalities}


@pytest.mark.parametrize("set_up", [False, True])
@pytest.mark.parametrize("first", ["model", "set-up"])
def test_a_new_model_of_changed_data_of_any_class_sets_up_anew(model_class, set_up, first):
    mdata = data()
    if set_up:
        scvenn.MVAE.setup_mudata(mdata, batch_key="batch")
    if first == "model":
        scvenn.MMVAEpp(mdata)
    scanpy.pp.log1p(mdata["rna"])
    model = model_class(mdata)
    assert inferred(model) == {"rna": "normal", "atac": "bernoulli"}
    assert model._found.batches == (["batch0", "batch1"] if set_up else [])


def test_what_the_user_asked_for_holds_for_changed_data():
    mdata = data()
    scvenn.MMVAEpp.setup_mudata(mdata, likelihoods={"rna": "poisson"}, layers={"rna": "counts"})
    assert inferred(scvenn.MMVAEpp(mdata))["rna"] == "poisson"
    mdata["rna"].layers["counts"] = mdata["rna"].layers["counts"] * 2
    mean = scvenn.MMVAEpp(mdata)._found.stats("rna").mean
    np.testing.assert_allclose(mean, 2 * mdata["rna"].X.toarray().mean(0), rtol=1e-5)
    scanpy.pp.log1p(mdata["rna"], layer="counts")
    with pytest.raises(ValueError, match="'poisson' needs non-negative integers, found"):
        scvenn.MMVAEpp(mdata)


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (replace_rna(lambda a: a[:, :6].copy()), lambda f: len(f.features("rna")) == 6),
        (change_column("batch", lambda _: "one"), lambda f: f.batches == ["one"]),
        (change_column("cell_type", lambda c: [*"xy"] * 40), lambda f: f.classes == ["x", "y"]),
        (
            change_column("age", lambda c: c + 100),
            lambda f: f.state("continuous_age")["mean"] == pytest.approx(150),
        ),
        (filter_cells, lambda f: f.state("continuous_age")["mean"] != pytest.approx(50, rel=1e-9)),
    ],
)
def test_a_new_model_reads_what_is_there(change, seen):
    mdata = data()
    scvenn.MMVAEpp.setup_mudata(mdata, **ARGUMENTS)
    old = scvenn.MMVAEpp(mdata)
    assert not seen(old._found)
    change(mdata)
    assert seen(scvenn.MVAE(mdata)._found)
    assert not seen(old._found)


def test_modalities_that_come_or_go_are_seen_by_a_new_model():
    mdata = data()
    scvenn.MMVAEpp(mdata)
    mdata.mod["adt"] = mdata["rna"].copy()
    mdata.update()
    assert scvenn.MMVAEpp(mdata).modalities == ["rna", "atac", "adt"]
    del mdata.mod["atac"]
    mdata.update()
    assert scvenn.MMVAEpp(mdata).modalities == ["rna", "adt"]


def test_a_copy_is_set_up_with_the_arguments_of_its_original():
    mdata = data()
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key="batch")
    other = mdata.copy()
    scanpy.pp.log1p(other["rna"])
    assert inferred(scvenn.MVAE(other))["rna"] == "normal"
    assert scvenn.MVAE(other)._found.batches == ["batch0", "batch1"]
    assert inferred(scvenn.MVAE(mdata))["rna"] == "nb"


def test_two_data_sets_of_the_same_names_are_kept_apart():
    one, two = data(), data()
    two["rna"].X = two["rna"].X * 3
    models = [small_model(mdata) for mdata in (one, two)]
    for model in models:
        model.get_shared_representation()
    ours, theirs = (model.predict("rna", "rna") for model in models)
    pd.testing.assert_frame_equal(models[0].predict("rna", "rna", one), ours)
    assert (models[0].predict("rna", "rna", two) - ours).abs().to_numpy().max() > 1e-3
    pd.testing.assert_frame_equal(models[1].predict("rna", "rna", two), theirs)


# ------------------------------------------------------------------------------- the fingerprint


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_the_fingerprint_reads_few_rows_of_large_data(form, monkeypatch):
    import scvenn.data.fingerprint as module

    monkeypatch.setattr(module, "_MOST_VALUES", 100)
    mdata = data()
    for m in mdata.mod:
        mdata[m].X = form(mdata[m].X.toarray())
    scvenn.MMVAEpp.setup_mudata(mdata)
    manager = scvenn.MMVAEpp._get_most_recent_anndata_manager(mdata)
    assert len(manager.fingerprint._rows["X_rna"].names) == 8
    mdata["rna"].X = mdata["rna"].X * 2
    with pytest.raises(ValueError, match=CHANGED):
        manager.check_unchanged()


def test_a_fingerprint_holds_no_data():
    mdata = data()
    scvenn.MMVAEpp.setup_mudata(mdata)
    manager = scvenn.MMVAEpp._get_most_recent_anndata_manager(mdata)
    found = Fingerprint(mdata, manager.fields, manager.found.states)
    alive = weakref.ref(mdata), *(weakref.ref(mdata[m]) for m in mdata.mod)
    del mdata, manager
    gc.collect()
    assert [ref() for ref in alive] == [None] * 3
    assert len(found.cells) == N


def repeated(names):
    return [names[0], *names[:-1]]


REPEATED = {
    "cells of the data": (
        lambda d: setattr(d, "obs_names", repeated(d.obs_names)),
        "mdata.obs_names holds 'cell0' more than once",
    ),
    "cells of a modality": (
        lambda d: setattr(d["rna"], "obs_names", repeated(d["rna"].obs_names)),
        "obs_names holds 'cell0' more than once",
    ),
    "features": (
        lambda d: setattr(d["rna"], "var_names", repeated(d["rna"].var_names)),
        "'rna': var_names holds 'rna_0' more than once",
    ),
}
USES = {
    "read-out": lambda m: m.get_shared_representation(),
    "names": lambda m: m.predict("rna", "atac", indices=["cell3"]),
    "training": lambda m: m.train(1, **QUIET),
    "new model": lambda m: scvenn.MMVAEpp(m.adata),
    "new data": lambda m: m.predict("rna", "atac", m.adata.copy()),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("names", REPEATED)
def test_names_that_repeat_after_the_set_up_are_refused(model, names, use):
    change, message = REPEATED[names]
    change(model.adata)
    with pytest.raises(ValueError, match=message):
        USES[use](model)


# ------------------------------------------------------------------------------- nothing is kept


def held():
    """Managers that are kept: in scvi-tools' stores, and of our own last set-ups."""
    ours = [scvenn.SharedPrivateModel, *scvenn.SharedPrivateModel.__subclasses__()]
    of_classes = [managers for c in ours for managers in c._per_instance_manager_store.values()]
    n_held = len(BaseModelClass._setup_adata_manager_store) + sum(map(len, of_classes))
    n_held += sum(len(c._setup_adata_manager_store) for c in ours)
    return n_held + sum(known.manager is not None for known in data_setup._SETUPS.values())


def test_arguments_of_a_set_up_are_kept_plain_and_without_the_data():
    mdata = data()
    scvenn.MMVAEpp.setup_mudata(
        mdata,
        modalities=mdata.mod.keys(),
        layers=MappingProxyType({"rna": None}),
        likelihoods=pd.Series({"rna": "poisson"}),
        labels_key=np.str_("cell_type"),
        categorical_covariate_keys=pd.Index(["batch"]),
    )
    (kept,) = [s.arguments for s in data_setup._SETUPS.values() if s.mdata() is mdata]
    alive = [weakref.ref(x) for x in (mdata, *mdata.mod.values())]
    del mdata
    gc.collect()
    assert [ref() for ref in alive] == [None] * 3
    assert kept["modalities"] == ["rna", "atac"]
    assert kept["categorical_covariate_keys"] == ["batch"]
    plain = {"layers": dict, "likelihoods": dict, "labels_key": str}
    assert {name: type(kept[name]) for name in plain} == plain


@pytest.mark.slow
def test_nothing_of_a_mudata_is_kept_alive():
    gc.collect()
    before = held()
    alive = []
    for cycle in range(8):
        mdata = data()
        model = small_model(mdata, **ARGUMENTS)
        new = mdata.copy()
        model.predict("rna", "atac", new)
        model.get_elbo(new)
        objects = [mdata, *mdata.mod.values(), new, model, model.module, model.adata_manager]
        if cycle % 4 == 0:
            model.evaluate()
            model.save("model", overwrite=True)
            loaded = scvenn.MMVAEpp.load("model", new)
            copied = copy.deepcopy(model)
            scvenn.MVAE(new)
            objects += [loaded, loaded.adata_manager, copied, copied.adata]
        alive += [weakref.ref(x) for x in objects]
    del mdata, model, new, loaded, copied, objects
    gc.collect()
    assert [ref for ref in alive if ref() is not None] == []
    assert held() == before


def test_setting_up_again_and_again_keeps_one_set_up():
    mdata = data()
    for _ in range(3):
        scvenn.MMVAEpp.setup_mudata(mdata)
    kept = [known for known in data_setup._SETUPS.values() if known.manager and known.is_of(mdata)]
    assert len(kept) == 1


def rename_rna_cells(mdata, n):
    names = mdata["rna"].obs_names.to_numpy().copy()
    names[:n] = [f"{name}-1" for name in names[:n]]
    mdata["rna"].obs_names = names


@pytest.mark.parametrize("n", [1, N])
@pytest.mark.parametrize("updated", [False, True], ids=["as_it_is", "after_update"])
def test_cells_renamed_in_one_modality_are_not_cells_without_it(model, n, updated):
    rename_rna_cells(model.adata, n)
    if updated:
        model.adata.update()
    message = rf"obs_names of modality 'rna' were changed after .* {n} cells such as 'cell0'"
    for read in (lambda: model.predict("rna", "atac"), model.embed, model.evaluate, model.train):
        with pytest.raises(ValueError, match=message):
            read()


def test_a_new_model_of_a_modality_with_unknown_cells_says_what_to_do():
    mdata = data()
    scvenn.MMVAEpp(mdata)
    rename_rna_cells(mdata, 3)
    with pytest.raises(ValueError, match=r"not in mdata.obs_names: 'cell0-1'.*mdata.update\(\)"):
        scvenn.MMVAEpp(mdata)


def test_a_new_model_sees_other_cells_of_the_same_number():
    mdata = data()
    rna = mdata["rna"].copy()
    mdata.mod["rna"] = rna[: N // 2].copy()
    assert scvenn.MMVAEpp(mdata).module.likelihood("rna").name == "nb"
    others = rna[N // 2 :].copy()
    others.X = np.log1p(others.X) / 3
    mdata.mod["rna"] = others
    assert scvenn.MMVAEpp(mdata).module.likelihood("rna").name == "normal"


def test_training_on_needs_a_cell_of_each_modality(model):
    rna = model.adata["rna"]
    model.adata.mod["rna"] = rna[:0].copy()
    with pytest.raises(ValueError, match="'rna' was measured in none of the 56 training cells"):
        model.train(1, **QUIET)
