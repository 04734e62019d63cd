"""Any MuData works, with finite results in the right rows, or is refused with a message of ours."""

import os

import numpy as np
import pytest
import scvi
from hypothesis import HealthCheck, assume, given, settings

from tests.any_mudata import recipes, strange
from tests.conftest import QUIET
from tests.errors import is_ours

pytestmark = pytest.mark.filterwarnings("ignore")

# `make fuzz` draws more, others each time
EXAMPLES = int(os.environ.get("SCVENN_FUZZ_EXAMPLES", "50"))


def equal(found, expected):
    scale = np.nanmax(np.abs(expected), initial=0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * scale + 1e-30)


def use(recipe, mdata):
    """Set up, train and read out; every result is compared with what is in which row."""
    recipe.set_up(mdata)
    model = recipe.build(mdata)
    model.train(1, batch_size=recipe.batch_size, accelerator="cpu", **QUIET)
    assert all(np.isfinite(model.history["train_loss"].to_numpy(float)))
    has = {m: mdata.obs_names.isin(mdata[m].obs_names) for m in model.modalities}
    shared = model.get_shared_representation()
    assert shared.shape == (mdata.n_obs, 2)
    np.testing.assert_array_equal(np.isfinite(shared).all(1), np.any(list(has.values()), axis=0))
    source, target = model.modalities[:2]
    for m in (source, target):
        private = model.get_private_representation(m)
        np.testing.assert_array_equal(np.isfinite(private).all(1), has[m])
        np.testing.assert_array_equal(np.isnan(private).all(1), ~has[m])
        np.testing.assert_array_equal(mdata[m].obsm["X_shared"], shared[_rows(mdata, m)])
    for m in (target, source):
        predicted = model.predict(source, m)
        assert list(predicted.index) == list(mdata.obs_names)
        assert list(predicted.columns) == [str(name) for name in mdata[m].var_names]
        np.testing.assert_array_equal(np.isfinite(predicted.to_numpy()).all(1), has[source])
    order = np.random.default_rng(0).permutation(mdata.n_obs)[: 1 + mdata.n_obs // 2]
    equal(model.get_shared_representation(indices=order), shared[order])
    view = mdata[order]
    equal(model.get_shared_representation(view), shared[order])
    equal(model.predict(source, source, view), predicted.to_numpy()[order])


def works_or_is_refused(recipe, mdata):
    scvi.settings.seed = 0
    try:
        use(recipe, mdata)
    except Exception as error:
        # a step of the training names itself, whatever ended it
        cause = error.__cause__ if str(error).startswith("train() failed") else error
        if isinstance(error, AssertionError) or not is_ours(cause):
            raise


def _rows(mdata, m):
    return mdata.obs_names.get_indexer(mdata[m].obs_names)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="SCVENN_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
@given(recipe=recipes())
def test_any_mudata_works_or_is_refused_with_a_message(recipe):
    try:
        mdata = recipe.mdata()
    except Exception:  # of anndata or mudata
        assume(False)
    works_or_is_refused(recipe, mdata)


@pytest.mark.soak
@pytest.mark.parametrize("recipe", [pytest.param(r, id=f"{i}") for i, r in enumerate(strange())])
def test_a_mudata_with_one_strange_thing_works_or_is_refused_with_a_message(recipe):
    try:
        mdata = recipe.mdata()
    except Exception:
        pytest.skip("refused by anndata or mudata")
    works_or_is_refused(recipe, mdata)
