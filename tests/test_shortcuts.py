"""Wide modalities are computed by shortcuts, which give what the plain way gives."""

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import scvenn
from scvenn.data import registry
from scvenn.likelihoods import (
    LIKELIHOODS,
    FeatureStats,
    LastLayer,
    Parts,
    densities,
    last_layer,
    rows,
)
from scvenn.likelihoods.baselines import Interpolation, n_points
from scvenn.network.layers import product_of_rows
from tests.conftest import QUIET


def sparse(x):
    """Values as a minibatch holds them where few are not 0."""
    return rows.SparseRows.of(sp.csr_matrix(x.numpy()))


# ------------------------------------------------------------------------------- sparse rows

some_rows = st.integers(0, 10_000).map(
    lambda seed: torch.poisson(
        torch.full((7, 9), 0.4), generator=torch.Generator().manual_seed(seed)
    )
)


@given(some_rows)
def test_sparse_rows_hold_the_values(x):
    found = sparse(x)
    assert found.n_rows == len(x)
    assert torch.equal(found.dense(), x)
    assert torch.equal(found.sums(), x.sum(1, keepdim=True))
    assert torch.equal(found.between(2, 5).dense(), x[2:5])
    assert torch.equal(found.transposed().dense(), x.T)


@given(some_rows, st.sets(st.integers(0, 6)), st.sets(st.integers(0, 8)))
def test_cells_and_features_of_sparse_rows_are_those_of_dense_ones(x, cells, features):
    cells, features = (torch.tensor(sorted(s), dtype=torch.long) for s in (cells, features))
    found = rows.some_cells(sparse(x), cells)
    assert torch.equal(rows.dense(found), x[cells])
    assert torch.equal(rows.some_features(sparse(x), features), x[:, features])
    row, column, value = rows.entries_of(sparse(x), features)
    assert torch.equal(torch.stack([row, column], 1), x[:, features].nonzero())
    assert torch.equal(x[row, features[column]], value)


# ------------------------------------------------------------------------------- interpolation


@given(st.floats(-20, 20), st.floats(0, 12), st.integers(0, 1000))
def test_a_sum_of_softplus_functions_is_interpolated_to_the_last_digits(middle, width, seed):
    torch.manual_seed(seed)
    at = middle + width * (torch.rand(300, dtype=torch.double) - 0.5)
    at.requires_grad_()
    places, weight = 5 * torch.randn(40, dtype=torch.double), torch.rand(40, dtype=torch.double)

    def function(points):
        return (torch.nn.functional.softplus(points.unsqueeze(-1) + places) * weight).sum(-1)

    cells = Interpolation.of(at, torch.zeros(300, dtype=torch.long), 1)
    found, expected = cells(function(cells.points)), function(at)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    slopes = [torch.autograd.grad(values.sum(), at)[0] for values in (found, expected)]
    # on a short interval, slopes are differences of roundings
    torch.testing.assert_close(*slopes, rtol=1e-7, atol=1e-9)


def test_wide_intervals_take_more_points_and_double_precision_does():
    assert n_points(1, torch.float32) < n_points(3, torch.float32) < n_points(3, torch.float64)
    assert n_points(3, torch.float32) < 40


def test_groups_of_a_few_cells_are_computed_one_by_one():
    at, group = torch.randn(40), torch.tensor([0] * 37 + [1, 1, 2])
    cells = Interpolation.of(at, group, 3)
    alone = cells.points[-3:]
    assert torch.equal(alone, at[-3:])
    assert len(cells.points) == len(cells.group) < 40
    torch.testing.assert_close(cells(cells.points), at)


# ------------------------------------------------------------------------------- likelihoods

B, D, P, H = 64, 300, 40, 8


def build(name, dtype, n_batches=None):
    """A likelihood of sparse data, and that data with the library sizes of a wide range."""
    torch.manual_seed(0)
    mean = np.exp(np.random.default_rng(0).normal(-2, 1.5, D)).clip(0, 0.9)
    likelihood = LIKELIHOODS[name](FeatureStats(mean, np.ones(D), mean.sum()), n_batches)
    for parameter in likelihood.parameters():
        parameter.data.normal_()
    share = torch.as_tensor(mean / mean.sum(), dtype=dtype)
    library = mean.sum() * torch.randn(B, 1, dtype=dtype).mul(2).exp()
    x = torch.poisson(library * share)
    return likelihood.to(dtype), x.clamp(max=1) if name == "bernoulli" else x


def compared(totals, learned, dtype, weight):
    """Require equal totals and gradients."""
    tolerance = {torch.float64: 1e-6, torch.float32: 1e-4}[dtype]
    found, expected = totals
    largest = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance / 10 * largest)
    gradients = [torch.autograd.grad((weight * total).sum(), learned) for total in totals]
    for one, other in zip(*gradients, strict=True):
        largest = other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * largest)


CASES = [("bernoulli", 1, None), ("poisson", 1, None), ("nb", 1, None), ("nb", 2, 2)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("in_cache", [2 * D, rows.ENTRIES_IN_CACHE], ids=["in parts", "at once"])
@pytest.mark.parametrize(
    ("name", "n_groups", "n_batches"), [*CASES, ("nb", 3, None), ("nb", B, None)]
)
def test_baselines_are_scored_as_the_whole(name, n_groups, n_batches, in_cache, dtype, monkeypatch):
    monkeypatch.setattr(densities, "ENTRIES_IN_CACHE", in_cache)
    likelihood, x = build(name, dtype, n_batches)
    group = torch.arange(B) % n_groups
    predicted = torch.randperm(D)[:P].sort()[0]
    rest = torch.tensor(sorted(set(range(D)) - set(predicted.tolist())))
    baseline = (likelihood.start() + 0.3 * torch.randn(n_groups, D)).to(dtype).requires_grad_()
    raw = torch.randn(2, B, P, dtype=dtype, requires_grad=True)
    parts = Parts(raw, predicted, baseline, rest, group)
    measured, library = torch.arange(B).unsqueeze(1) % 5 > 0, x.sum(1, keepdim=True).clamp(min=1)
    totals = [
        likelihood.total(output, values, measured, library, group if n_batches else None)
        for output, values in ((parts, sparse(x)), (parts.whole(), x))
    ]
    weight = torch.rand(2, B, dtype=dtype)
    compared(totals, [raw, baseline, *likelihood.parameters()], dtype, weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [None, 3 * D], ids=["at once", "three cells at a time"])
@pytest.mark.parametrize(
    ("name", "n_groups", "n_batches"), [*CASES, ("zinb", 1, None), ("zinb", 2, 2)]
)
def test_a_last_layer_is_scored_as_its_output(monkeypatch, name, n_groups, n_batches, size, dtype):
    if size is not None:
        monkeypatch.setattr(last_layer, "_BUFFER", size)
        monkeypatch.setattr(last_layer, "ENTRIES_IN_CACHE", 2 * D)
    likelihood, x = build(name, dtype, n_batches)
    group, batch = torch.arange(B) % n_groups, torch.arange(B) % 2 if n_batches else None
    width = likelihood.n_outputs * D
    baseline, raw = torch.randn(n_groups, width, dtype=dtype), torch.randn(2, B, P, dtype=dtype)
    every = torch.arange(width)
    fixed = Parts(raw, every[:P], baseline, every[P:], group)
    hidden = torch.randn(2, B, H, dtype=dtype, requires_grad=True)
    weights, bias = (torch.randn(width, *n, dtype=dtype, requires_grad=True) for n in ((H,), ()))
    layer = LastLayer(hidden, weights, bias, fixed)
    measured, library = torch.arange(B).unsqueeze(1) % 5 > 0, x.sum(1, keepdim=True).clamp(min=1)
    weight = torch.rand(2, B, dtype=dtype) * (torch.rand(2, B) < 0.8)
    totals = [
        likelihood.total(output, values, measured, library, batch, weight=weight)
        for output, values in ((layer, sparse(x)), (layer.whole(), x))
    ]
    totals = [torch.where(weight == 0, 0.0, total) for total in totals]
    compared(totals, [hidden, weights, bias, *likelihood.parameters()], dtype, weight)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_gradient_of_sparse_values_is_that_of_dense_ones(name):
    likelihood, x = build(name, torch.float64, n_batches=2)
    x = x.clamp(max=0.5) if name == "beta" else x
    raw = torch.randn(B, likelihood.n_outputs * D, dtype=torch.double)
    library, batch = x.sum(1, keepdim=True).clamp(min=1), torch.arange(B) % 2
    measured = torch.arange(B).unsqueeze(1) % 5 > 0
    kept = raw.clone()
    found, expected = (
        likelihood.gradient(raw, values, measured, library, batch)
        for values in (sparse(x) if likelihood.reads_sparse else x, x)
    )
    assert torch.equal(raw, kept)
    assert not found[0].any()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_cells_without_weight_or_measurement_cost_nothing():
    likelihood, x = build("nb", torch.float32)
    scored = []
    score_rows = likelihood.score_rows
    likelihood.score_rows = lambda raw, *args: (scored.append(len(raw)), score_rows(raw, *args))[1]
    layer = LastLayer(torch.randn(2, B, H), torch.randn(D, H), torch.randn(D))
    measured, weight = torch.arange(B).unsqueeze(1) % 2 > 0, torch.ones(2, B)
    weight[0] = 0
    library = x.sum(1, keepdim=True) + 1
    likelihood.total(layer, sparse(x), measured, library, weight=weight)
    assert sum(scored) == B // 2
    likelihood.total(layer, x, measured, library, weight=weight)
    assert sum(scored) == B // 2  # dense values are scored the plain way


def test_other_weights_than_were_announced_are_an_error():
    likelihood, x = build("bernoulli", torch.float32)
    hidden = torch.randn(1, B, H, requires_grad=True)
    layer = LastLayer(hidden, torch.randn(D, H), torch.randn(D))
    total = likelihood.total(
        layer, sparse(x), torch.ones(B, 1, dtype=torch.bool), x[:, :1], weight=torch.ones(1, B)
    )
    with pytest.raises(RuntimeError, match="weighed otherwise"):
        (torch.rand(1, B) * total).sum().backward()


def test_of_a_layer_one_array_is_made_and_used_again():
    likelihood, x = build("nb", torch.float32)
    layer = LastLayer(torch.randn(1, B, H), torch.randn(D, H), torch.randn(D))
    everywhere = torch.ones(B, 1, dtype=torch.bool)
    arguments = (layer, sparse(x), everywhere, x.sum(1, keepdim=True) + 1)
    last_layer._buffers.kept = None
    kept = []
    for _ in range(2):
        likelihood.total(*arguments, weight=torch.ones(1, B))
        kept.append(last_layer._buffers.kept.data_ptr())
    assert kept[0] == kept[1]


@pytest.mark.parametrize("n_groups", [1, 3, B])
@pytest.mark.parametrize("name", [n for n in LIKELIHOODS if LIKELIHOODS[n].reads_sparse])
def test_what_is_left_over_is_read_without_making_it_dense(name, n_groups):
    likelihood, x = build(name, torch.float64)
    width = likelihood.n_outputs * D
    every = torch.arange(width)
    parts = Parts(
        torch.randn(B, width // 3, dtype=torch.double),
        every[::3],
        torch.randn(n_groups, width, dtype=torch.double),
        torch.tensor([i for i in range(width) if i % 3]),
        torch.arange(B) % n_groups,
    )
    library = x.sum(1, keepdim=True).clamp(min=1)
    weight = torch.randn(D, H, dtype=torch.double, requires_grad=True)
    read = likelihood.encoder_input(x)
    values = sparse(x)
    values = values._replace(values=likelihood.encoder_input(values.values))
    with torch.no_grad():
        minus = likelihood.read_mean(parts, library)
        left_over = read - likelihood.encoder_input(likelihood.mean(parts.whole(), library))
    found, expected = product_of_rows(values, weight, minus), left_over @ weight
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    upstream = torch.randn(B, H, dtype=torch.double)
    gradients = [torch.autograd.grad(out, weight, upstream)[0] for out in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------- networks


def sparse_data(kinds, *, missing=True, n=150, d=60):
    """Modalities that share one factor, about 4 % of whose values are not 0; a mosaic."""
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(n, 1))
    mod = {}
    for i, kind in enumerate(kinds):
        x = rng.poisson(np.exp(-3.8 + factor * rng.normal(size=d))).astype(np.float32)
        x[0] = 1  # of every feature a count
        if kind == "bernoulli":
            x = x.clip(max=1)
        if kind == "normal":
            x = (factor + rng.normal(size=(n, d))).astype(np.float32)
        cells = rng.permutation(n)[: 2 * n // 3] if missing and i else np.arange(n)
        names = pd.DataFrame(index=[f"c{j}" for j in cells])
        x = x[cells]
        mod[f"m{i}"] = anndata.AnnData(x if kind == "normal" else sp.csr_matrix(x), obs=names)
        mod[f"m{i}"].var_names = [f"m{i}_{j}" for j in range(d)]
    mdata = mudata.MuData(mod)
    mdata.obs["batch"] = np.where(np.arange(mdata.n_obs) % 2, "a", "b")
    mdata.obs["age"] = rng.normal(size=mdata.n_obs)
    return mdata


def loss_and_gradients(model, *, dense, plain, monkeypatch):
    with monkeypatch.context() as patch:
        if dense:
            patch.setattr(registry, "_LEAST_DENSE", 0.0)
        if plain:
            for likelihood in LIKELIHOODS.values():
                patch.setattr(likelihood, "scores_rows", False)
                patch.setattr(likelihood, "scores_parts", False)
        ((_, tensors),) = model._cells(None, None, 200).minibatches(model.modalities, "")
        is_sparse = [isinstance(values, rows.SparseRows) for values in tensors.values()]
        assert any(is_sparse) is not dense
        network = model.module.train()
        state = {key: value.clone() for key, value in network.state_dict().items()}
        torch.manual_seed(0)
        network.zero_grad()
        *_, losses = network(tensors)
        losses.loss.backward()
        network.load_state_dict(state)  # the noise of cross-view predictions has moved
        gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    return losses.loss.detach(), {name: gradient.clone() for name, gradient in gradients.items()}


@pytest.mark.parametrize("covariates", [False, True])
@pytest.mark.parametrize(
    "kinds", [("nb", "bernoulli", "nb"), ("poisson", "zinb"), ("nb_mixture", "normal", "nb", "nb")]
)
@pytest.mark.parametrize(
    ("model_class", "screen"),
    [(scvenn.MMVAEpp, True), (scvenn.MMVAEpp, False), (scvenn.MoPoEVAE, False)],
)
def test_loss_and_every_gradient_are_those_of_the_plain_way(
    model_class, screen, kinds, covariates, monkeypatch
):
    mdata = sparse_data(kinds)
    arguments = {"batch_key": "batch"} if covariates else {}
    if covariates and len(kinds) == 3:
        arguments["continuous_covariate_keys"] = ["age"]
    likelihoods = {f"m{i}": kind for i, kind in enumerate(kinds)}
    model_class.setup_mudata(mdata, likelihoods=likelihoods, **arguments)
    scvi.settings.seed = 0
    model = model_class(
        mdata,
        n_shared=3,
        n_private=2,
        n_hidden=8,
        screen=screen,
        dropout_rate=0.0,
        dispersion="feature-batch" if covariates else "feature",
        encode_covariates=covariates,
    )
    model.train(1, **QUIET)
    monkeypatch.setattr(registry, "_LEAST_DENSE", 0.2)
    how = {"monkeypatch": monkeypatch}
    expected, gradients = loss_and_gradients(model, dense=True, plain=True, **how)
    for dense in (False, True):
        loss, found = loss_and_gradients(model, dense=dense, plain=False, **how)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
        assert found.keys() == gradients.keys()
        for name, gradient in gradients.items():
            largest = gradient.abs().max().item() if gradient.numel() else 0.0
            torch.testing.assert_close(
                found[name], gradient, rtol=0, atol=1e-4 * largest + 1e-9, msg=name
            )


# ------------------------------------------------------------------------------- minibatches


@pytest.mark.filterwarnings("ignore:Trying to query inferred values from an untrained model")
@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, sp.csr_matrix.toarray])
def test_what_is_read_sparse_depends_on_the_values_alone(form):
    mdata = sparse_data(["nb", "normal"], missing=False)
    x = mdata["m0"].X.copy()
    mdata["m0"].X = form(x)
    model = scvenn.MMVAEpp(mdata, n_hidden=8)
    assert model._found.is_sparse("m0")
    assert not model._found.is_sparse("m1")
    ((_, tensors),) = model._cells(None, None, 200).minibatches(["m0", "m1"], "")
    np.testing.assert_array_equal(tensors["X_m0"].dense(), x.toarray())


def test_a_modality_with_more_values_is_read_dense():
    mdata = scvenn.datasets.simulate_counts(60, n_features=12, n_shared_features=6, n_types=2)
    model = scvenn.MMVAEpp(mdata, n_hidden=8)
    assert not any(model._found.is_sparse(m) for m in model.modalities)


def test_missing_values_of_a_sparse_modality_are_left_out():
    mdata = sparse_data(["bernoulli", "normal"], missing=False)
    mdata["m0"].X[3, 5] = np.nan
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mdata, n_hidden=8)
    assert model._found.is_sparse("m0")
    model.train(1, **QUIET)
    assert np.isfinite(model.get_latent_representation()).all()


def test_workers_give_the_same_bits_of_sparse_data(monkeypatch):
    found = []
    for workers in (0, 1):
        monkeypatch.setattr(scvi.settings, "dl_num_workers", workers)
        scvi.settings.seed = 0
        model = scvenn.MMVAEpp(sparse_data(["nb", "bernoulli"]), n_hidden=8)
        model.train(1, **QUIET)
        found.append(model.get_latent_representation())
    np.testing.assert_array_equal(*found)


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 150))
def test_the_size_of_minibatches_changes_no_reading(batch_size):
    model = _model_of_sparse_data()
    whole = model.get_latent_representation()
    parts = model.get_latent_representation(batch_size=batch_size)
    np.testing.assert_allclose(parts, whole, atol=1e-4)


_MODELS = {}


def _model_of_sparse_data():
    """A model trained on a mosaic of sparse data, once."""
    if not _MODELS:
        scvi.settings.seed = 0
        model = scvenn.MMVAEpp(sparse_data(["nb", "bernoulli"]), n_hidden=8)
        model.train(1, **QUIET)
        assert model._found.is_sparse("m0")
        _MODELS["sparse"] = model
    return _MODELS["sparse"]


READ_OUTS = {
    "predict": lambda m: m.predict("m0", "m1"),
    "sample_posterior": lambda m: m.sample_posterior("m0", "m1", n_samples=2),
    "evaluate": lambda m: m.evaluate(),
    "variance_explained": lambda m: m.variance_explained(),
    "loadings": lambda m: m.loadings("m1"),
    "shared_features": lambda m: m.shared_features("m1"),
    "private_features": lambda m: m.private_features("m1"),
    "differential": lambda m: m.differential("batch", modality="m0", n_samples=3),
    "get_elbo": lambda m: m.get_elbo(),
    "get_reconstruction_error": lambda m: m.get_reconstruction_error(),
    "write_contributions": lambda m: m.write_contributions(),
}


@pytest.mark.filterwarnings("ignore:evaluate")
@pytest.mark.parametrize("read_out", READ_OUTS)
def test_every_read_out_of_sparse_data_is_that_of_dense_data(read_out, monkeypatch):
    model = _model_of_sparse_data()
    scvi.settings.seed = 0
    found = READ_OUTS[read_out](model)
    monkeypatch.setattr(registry, "_LEAST_DENSE", 0.0)
    scvi.settings.seed = 0
    expected = READ_OUTS[read_out](model)
    if isinstance(found, pd.DataFrame):
        # axes along which a latent hardly varies are rounding, and so is what is known of them
        atol = 1e-3 if read_out == "evaluate" else 1e-4
        pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=atol)
    elif isinstance(found, dict):
        assert found.keys() == expected.keys()
        for key, value in found.items():
            assert float(value) == pytest.approx(float(expected[key]), rel=1e-5)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_training_goes_on_after_a_read_out_that_came_first():
    """The array that is used again may be made while no gradients are recorded."""
    model = _model_of_sparse_data()
    last_layer._buffers.kept = None
    model.get_elbo()
    model.train(1, **QUIET)
    _MODELS.clear()


def test_cells_without_a_modality_hold_no_values_that_would_be_scored():
    mdata = scvenn.datasets.simulate_counts(60, n_features=12, missing=0.5)
    model = scvenn.MMVAEpp(mdata, n_hidden=8)
    with pytest.warns(UserWarning, match="untrained"):
        ((_, tensors),) = model._cells(None, None, 200).minibatches(model.modalities, "")
    for view in model.module.read(tensors).views.values():
        assert not view.observed.all()
        row = view.x.nonzero()[:, 0]
        assert view.observed[row].all()


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_where_networks_diverged_the_loss_is_not_finite_and_nothing_fails(broken):
    """The check of the loss then says what happened."""
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(sparse_data(["nb", "bernoulli"]), n_hidden=8)
    model.train(1, **QUIET)
    ((_, tensors),) = model._cells(None, None, 200).minibatches(model.modalities, "")
    with torch.no_grad():
        model.module.branch("m0").cross_decoder.out.bias.fill_(broken)
        model.module.branch("m0").decoder.out.bias.fill_(broken)
    *_, losses = model.module.train()(tensors)
    assert not losses.loss.isfinite()
    losses.loss.backward()


def test_sparse_data_trains_in_half_precision():
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(sparse_data(["nb", "bernoulli"]), n_hidden=8)
    model.train(1, precision="bf16-mixed", **QUIET)
    assert np.isfinite(model.get_shared_representation()).all()
    assert all(p.dtype == torch.float32 for p in model.module.parameters())


@pytest.mark.parametrize(
    ("n_features", "density", "sparse"),
    [(200, 0.08, True), (200, 0.18, False), (5000, 0.18, True), (5000, 0.3, False)],
)
def test_minibatches_are_sparse_by_density_and_width(n_features, density, sparse):
    names = pd.DataFrame(index=[f"cell{i}" for i in range(30)])
    x = sp.random(30, n_features, density, format="csr", random_state=0, dtype=np.float32)
    x.data[:] = np.ceil(3 * x.data)
    both = {
        storage: mudata.MuData({"rna": anndata.AnnData(values, obs=names.copy())})
        for storage, values in (("sparse", x), ("dense", x.toarray()))
    }
    for mdata in both.values():
        mdata.mod["adt"] = anndata.AnnData(np.full((30, 2), 50.0, np.float32), obs=names.copy())
        mdata.update()
        model = scvenn.MMVAEpp(mdata)
        assert model._found.is_sparse("rna") == sparse
