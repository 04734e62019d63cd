"""Extreme values of every likelihood: finite results or a message, never a silent NaN."""

import numpy as np
import pytest
import scvi
from anndata import AnnData
from mudata import MuData

import scvenn
from scvenn.likelihoods import LIKELIHOODS
from tests.conftest import MODELS, QUIET
from tests.errors import is_ours

pytestmark = pytest.mark.filterwarnings("ignore")

N_CELLS, N_FEATURES = 60, 8


def one_large_cell(x, likelihood):
    x[7] *= 100


def constant_features(x, likelihood):
    x[:, :3] = x[0, :3]


def mostly_zeros(x, likelihood):
    x[:] = 0
    x[7, 3] = 1


def one(value):
    def change(x, likelihood):
        x[7, 3] = value if LIKELIHOODS[likelihood].discrete else -value

    return change


def all_of(value):
    def change(x, likelihood):
        x *= value / x.max()
        if LIKELIHOODS[likelihood].discrete:
            np.rint(x, out=x)

    return change


EXTREMES = {
    "one 1e6": one(1e6),
    "one 1e30": one(1e30),
    "one 3e38": one(3e38),
    "all 1e6": all_of(1e6),
    "all 1e30": all_of(1e30),
    "all 3e38": all_of(3e38),
    "99.8 % zeros": mostly_zeros,
    "a cell with 100 times the counts": one_large_cell,
    "constant features": constant_features,
}


def data(likelihood, extreme):
    """Two modalities, the first of which has extreme values as far as its domain has them."""
    rng = np.random.default_rng(0)
    shape = (N_CELLS, N_FEATURES)
    cls = LIKELIHOODS[likelihood]
    if cls.discrete and not cls.binary:
        x = rng.poisson(2.0, shape).astype(np.float64)
    elif cls.binary:
        x = rng.integers(0, 2, shape).astype(np.float64)
    else:
        x = rng.random(shape) if likelihood == "beta" else rng.normal(size=shape)
    EXTREMES[extreme](x, likelihood)
    cells = [f"cell{i}" for i in range(N_CELLS)]
    mod = {}
    for m, values in (("extreme", x), ("usual", rng.poisson(2.0, shape))):
        mod[m] = AnnData(values.astype(np.float32))
        mod[m].obs_names = cells
        mod[m].var_names = [f"{m}{i}" for i in range(N_FEATURES)]
    return MuData(mod)


def results(model):
    """Everything that a model tells of all cells, by what it is."""
    yield "loss", model.history["train_loss"].to_numpy(float)
    yield "shared", model.get_shared_representation()
    for m in model.modalities:
        yield f"private of {m}", model.get_private_representation(m)
        yield f"loadings of {m}", model.loadings(m).select_dtypes("number").to_numpy()
        yield f"normalised {m}", model.get_normalized_expression(m).to_numpy()
        for source in model.modalities:
            yield f"{source} to {m}", model.predict(source, m, return_numpy=True)


def train(model_class, likelihood, extreme, **arguments):
    """The model, or None where it was refused."""
    scvi.settings.seed = 0
    mdata = data(likelihood, extreme)
    try:
        scvenn.MMVAEpp.setup_mudata(mdata, likelihoods={"extreme": likelihood})
        model = MODELS[model_class](mdata, n_shared=2, n_private=2, n_hidden=4, **arguments)
        model.train(2, **QUIET)
    except (ValueError, TypeError) as error:
        if not is_ours(error):
            raise
        return None
    return model


CASES = [
    pytest.param(
        model_class,
        likelihood,
        extreme,
        # each pair of two of the three in the quick tests
        marks=[] if (i + j) % len(MODELS) == k else pytest.mark.soak,
    )
    for i, likelihood in enumerate(LIKELIHOODS)
    for j, extreme in enumerate(EXTREMES)
    for k, model_class in enumerate(MODELS)
]


@pytest.mark.parametrize(("model_class", "likelihood", "extreme"), CASES)
def test_results_of_extreme_values_are_finite_or_refused(model_class, likelihood, extreme):
    model = train(model_class, likelihood, extreme)
    if model is None:
        return
    for what, values in results(model):
        assert np.isfinite(values).all(), what
