"""Cells are chosen in one way by every method: positions, a mask, names or a slice."""

import inspect

import anndata
import numpy as np
import pandas as pd
import pytest
import scvi

import scvenn
from scvenn.data import choose_rows
from tests.conftest import QUIET, three_modalities, under_other_names

# few cells, some of whose features are constant
pytestmark = pytest.mark.filterwarnings("ignore:evaluate")


def write_predictions(model, mdata, **arguments):
    import shutil

    shutil.rmtree("written.zarr", ignore_errors=True)
    model.write_predictions("written.zarr", "rna", "meth", mdata, **arguments)
    return anndata.read_zarr("written.zarr").to_df()


# How each method is called: all that has no default, and few draws.
CALLS = {
    "get_shared_representation": lambda m, d, **k: m.get_shared_representation(d, **k),
    "get_private_representation": lambda m, d, **k: m.get_private_representation("rna", d, **k),
    "get_latent_representation": lambda m, d, **k: m.get_latent_representation(d, **k),
    "get_novelty": lambda m, d, **k: m.get_novelty(d, **k),
    "predict": lambda m, d, **k: m.predict("rna", "meth", d, **k),
    "get_normalized_expression": lambda m, d, **k: m.get_normalized_expression("rna", d, **k),
    "write_predictions": write_predictions,
    "predict_labels": lambda m, d, **k: m.predict_labels(d, **k),
    "sample_posterior": lambda m, d, **k: m.sample_posterior("rna", "meth", d, n_samples=2, **k),
    "get_elbo": lambda m, d, **k: m.get_elbo(d, return_mean=False, **k),
    "get_reconstruction_error": lambda m, d, **k: m.get_reconstruction_error(
        d, return_mean=False, **k
    ),
    "evaluate": lambda m, d, **k: m.evaluate(d, **k),
    "variance_explained": lambda m, d, **k: m.variance_explained(d, **k),
    "loadings": lambda m, d, **k: m.loadings("rna", mdata=d, **k),
    "enrichment": lambda m, d, **k: m.enrichment(
        "rna", {"a": list(m.adata["rna"].var_names[:5])}, mdata=d, **k
    ),
    "shared_features": lambda m, d, **k: m.shared_features("rna", mdata=d, **k),
    "private_features": lambda m, d, **k: m.private_features("rna", mdata=d, **k),
    "differential": lambda m, d, **k: m.differential(
        "half", modality="rna", group1="a", n_samples=3, mdata=d, **k
    ),
}
# Methods that need two cells or more, and those that need one.
NEED_CELLS = {
    "evaluate",
    "variance_explained",
    "loadings",
    "enrichment",
    "shared_features",
    "private_features",
    "differential",
}
NEED_ONE = {"get_elbo", "get_reconstruction_error"}


@pytest.fixture(scope="module")
def model():
    scvi.settings.seed = 0
    mdata = three_modalities(missing=0.0, n_obs=60)
    mdata.obs["half"] = np.where(np.arange(60) % 2, "a", "b")
    scvenn.MMVAEpp.setup_mudata(mdata, labels_key="cell_type")
    model = scvenn.MMVAEpp(mdata, n_shared=2, n_private=2, n_hidden=8)
    # cells that may be scored are in the first half, and in the order of the data
    split = [np.arange(30, 60), np.arange(30)]
    model.train(1, datasplitter_kwargs={"external_indexing": split}, **QUIET)
    return model


@pytest.fixture(scope="module")
def new(model):
    """The same values of cells with other names."""
    return under_other_names(model.adata)


POSITIONS = np.array([2, 3, 5, 8, 11, 14, 17, 22])


def forms(names):
    """The same cells, in every form that they may be chosen by; all in the data's order."""
    mask = np.isin(np.arange(60), POSITIONS)
    series = pd.Series(mask, names)
    shuffled = series.sample(frac=1, random_state=0)
    return {
        "list": POSITIONS.tolist(),
        "small integers": POSITIONS.astype(np.uint8),
        "tuple": tuple(POSITIONS),
        "negative": POSITIONS - 60,
        "integers of pandas": pd.Series(POSITIONS, dtype="Int64"),
        "mask": mask,
        "list of booleans": mask.tolist(),
        "series": series,
        "shuffled series": shuffled,
        "shuffled series of pandas": shuffled.astype("boolean"),
        "shuffled series of objects": shuffled.astype(object),
        "series by position": series.reset_index(drop=True),
        "names": names[POSITIONS].tolist(),
        "index": names[POSITIONS],
        "array of names": np.array(names[POSITIONS], dtype=str),
        "series of names": pd.Series(names[POSITIONS], dtype="string"),
    }


def result_of(model, method, data, **arguments):
    scvi.settings.seed = 0
    return CALLS[method](model, data, **arguments)


def assert_same(one, two):
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, two)
    elif isinstance(one, dict):
        assert {k: np.asarray(v).tolist() for k, v in one.items()} == {
            k: np.asarray(v).tolist() for k, v in two.items()
        }
    else:
        np.testing.assert_array_equal(one, two)


def test_every_method_that_takes_indices_is_tested():
    methods = {
        name
        for name, method in inspect.getmembers(scvenn.MMVAEpp, callable)
        if not name.startswith("_") and "indices" in inspect.signature(method).parameters
    }
    # it hands further arguments on to predict
    assert methods | {"get_normalized_expression"} == set(CALLS)


@pytest.mark.parametrize("own", [True, False], ids=["own", "new"])
@pytest.mark.parametrize("method", CALLS)
def test_all_forms_choose_the_same_cells(model, new, method, own):
    data = None if own else new
    names = (model.adata if own else new).obs_names
    expected = result_of(model, method, data, indices=POSITIONS)
    chosen = forms(names)
    if method in {*NEED_CELLS, "write_predictions"}:  # they take longer
        chosen = {form: chosen[form] for form in ("negative", "shuffled series", "names")}
    for form, indices in chosen.items():
        found = result_of(model, method, data, indices=indices)
        try:
            assert_same(found, expected)
        except AssertionError as error:
            raise AssertionError(f"{method} with indices as {form}") from error


@pytest.mark.parametrize("method", sorted(set(CALLS) - NEED_CELLS))
def test_the_result_is_that_of_the_cells_in_the_order_asked_for(model, method):
    if method in ("sample_posterior", "get_elbo", "get_reconstruction_error"):
        pytest.skip("draws depend on the cells before")
    whole = result_of(model, method, None)
    part = result_of(model, method, None, indices=[9, -1, 4])
    part, whole = np.asarray(part), np.asarray(whole)
    np.testing.assert_allclose(part, whole[[9, 59, 4]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", CALLS)
def test_a_slice_is_a_range(model, method):
    assert_same(
        result_of(model, method, None, indices=slice(2, 20, 3)),
        result_of(model, method, None, indices=range(2, 20, 3)),
    )


@pytest.mark.parametrize("method", sorted(set(CALLS) - NEED_CELLS))
def test_a_scalar_is_one_cell(model, method):
    one = result_of(model, method, None, indices=[7])
    for scalar in (7, np.int64(7), -53, model.adata.obs_names[7]):
        assert_same(result_of(model, method, None, indices=scalar), one)


@pytest.mark.parametrize("nothing", [[], np.zeros(60, bool), slice(0), pd.Index([]), np.array([])])
@pytest.mark.parametrize("method", CALLS)
def test_no_cells_give_an_empty_result_or_a_message(model, method, nothing):
    if method in NEED_CELLS | NEED_ONE:
        with pytest.raises(ValueError, match="found|expected at least one|of the 0 cells"):
            result_of(model, method, None, indices=nothing)
    else:
        found = np.asarray(result_of(model, method, None, indices=nothing))
        assert 0 in found.shape[:2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([60], "there is no position 60"),
        ([-61], "positions or a mask of the 60 cells"),
        (np.ones(59, bool), "positions or a mask of the 60 cells"),
        (np.ones(61, bool), "positions or a mask of the 60 cells"),
        (["obs0", "nobody"], "'nobody'.* not found among the 60 cells"),
        ("nobody", "'nobody' not found among the 60 cells"),
        ([0.0, 1.0], r"found floating values, .*0\.0"),
        ([0, None], "1 of 2 values are missing, the first at position 1"),
        ([0, "obs1"], "found|not found"),
        (pd.array([True, None] * 30, dtype="boolean"), "30 of 60 values are missing"),
        (np.ones((60, 1), bool), "indices has 2 dimensions"),
        ([[0, 1]], "indices has 2 dimensions"),
        (pd.DataFrame({"a": [0, 1]}), "indices has 2 dimensions"),
        (slice("a", "b"), "expected a slice of positions"),
        ({1, 2}, "found set"),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", CALLS)
def test_what_chooses_no_cells_is_refused(model, method, wrong, message):
    with pytest.raises(ValueError, match=message):
        result_of(model, method, None, indices=wrong)


def test_a_mask_needs_a_value_for_each_cell(model):
    names = model.adata.obs_names
    with pytest.raises(ValueError, match="the mask has no value for"):
        model.get_shared_representation(indices=pd.Series(True, names[:50]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda d: np.array([0, 2**64 - 1], dtype=np.uint64), "no position 18446744073709551615"),
        (lambda d: [2**70], f"there is no position {2**70}"),
        (lambda d: slice(0.0, 3.0), "expected a slice of positions"),
        (lambda d: d[:3], "such as mdata.obs_names.*found MuData"),
        (lambda d: d["rna"], "found AnnData"),
        (lambda d: (i for i in range(3)), "found generator"),
        (lambda d: pd.Series(True, [*d.obs_names, d.obs_names[3]]), "more than one value for"),
        (
            lambda d: pd.Series([True] * 59 + [None], d.obs_names),
            "1 of 60 values are missing, the first at position 59",
        ),
    ],
    ids=["uint64", "2**70", "slice", "MuData", "AnnData", "generator", "repeated", "missing"],
)
def test_what_chooses_no_cells_is_named(small, wrong, message):
    with pytest.raises(ValueError, match=message):
        choose_rows(small, wrong(small))


@pytest.mark.parametrize(
    ("features", "found"), [(3, "found 3"), ({"meth_1", "meth_2"}, "a set, which has no order")]
)
def test_features_are_a_list_of_names(model, features, found):
    with pytest.raises(ValueError, match=f"features: expected a list of names, .*{found}"):
        model.predict("rna", "meth", features=features)


# ------------------------------------------------------------------------------- and their state


@pytest.mark.parametrize("method", CALLS)
def test_networks_are_in_evaluation_mode_whatever_came_before(method, noisy):
    expected = result_of(noisy, method, None, indices=POSITIONS)
    noisy.module.train()
    assert_same(result_of(noisy, method, None, indices=POSITIONS), expected)
    assert not noisy.module.training


@pytest.fixture(scope="module")
def noisy(model):
    """A model with much dropout."""
    scvi.settings.seed = 0
    noisy = scvenn.MMVAEpp(model.adata, n_shared=2, n_private=2, n_hidden=8, dropout_rate=0.5)
    split = [np.arange(30, 60), np.arange(30)]
    noisy.train(1, datasplitter_kwargs={"external_indexing": split}, **QUIET)
    return noisy


OTHERS = {
    "embed": lambda m: (m.embed(), m.adata.obsm["X_shared"])[1],
    "write_contributions": lambda m: m.write_contributions(),
    "sample_prior": lambda m: m.sample_prior(3),
}


@pytest.mark.parametrize("method", OTHERS)
def test_so_they_are_in_methods_of_all_cells(method, noisy):
    scvi.settings.seed = 0
    expected = OTHERS[method](noisy)
    noisy.module.train()
    scvi.settings.seed = 0
    assert_same(OTHERS[method](noisy), expected)
    assert not noisy.module.training
