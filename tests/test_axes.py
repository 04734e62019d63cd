"""Ordered axes of the latents: a fixed rotation, found at the end of training."""

from types import SimpleNamespace

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

import scvenn
from scvenn.data import Cells
from scvenn.readouts import axes as _axes
from scvenn.readouts.axes import ordered_axes
from tests.conftest import MODELS, QUIET, three_modalities

SIZES = {"n_shared": 4, "n_private": {"rna": 2, "meth": 3, "peaks": 1}}


@pytest.fixture(scope="module", params=list(MODELS))
def model(request):
    """One trained model of each class, on incomplete data."""
    return trained(request.param)


def trained(name, times=1):
    scvi.settings.seed = 0
    model = MODELS[name](three_modalities(missing=0.3), **SIZES)
    for _ in range(times):
        model.train(5, **QUIET)
    return model


def turns(model):
    net = model.module
    return [net.shared_axes, *(net.branch(m).private_axes for m in model.modalities)]


def results(model):
    scvi.settings.seed = 0
    m = model.modalities
    latents = [model.get_shared_representation()]
    latents += [model.get_private_representation(name) for name in m]
    predictions = [model.predict(a, b, return_numpy=True) for a in m for b in m]
    predictions += [model.get_normalized_expression(name, return_numpy=True) for name in m[:1]]
    whole = model.variance_explained()
    return latents, predictions, whole[whole.latent.isin(["shared", "private", "both"])].r2


def same_but_for_axes(model):
    """Results of the model, and of the same one without axes."""
    found = results(model)
    before = [turn.clone() for turn in turns(model)]
    for turn in turns(model):
        turn.copy_(torch.eye(len(turn)))
    try:
        return found, results(model)
    finally:
        for turn, value in zip(turns(model), before, strict=True):
            turn.copy_(value)


def test_axes_are_orthogonal(model):
    for turn in turns(model):
        torch.testing.assert_close(turn @ turn.T, torch.eye(len(turn)), atol=1e-5, rtol=0)
    assert not torch.equal(turns(model)[0], torch.eye(4))


def test_axes_change_no_distance_and_no_prediction(model):
    (latents, predictions, r2), (plain, plain_predictions, plain_r2) = same_but_for_axes(model)
    for found, expected in zip(latents, plain, strict=True):
        known = np.isfinite(expected).all(1)
        np.testing.assert_array_equal(np.isfinite(found).all(1), known)
        np.testing.assert_allclose(pdist(found[known]), pdist(expected[known]), rtol=1e-3)
    for found, expected in zip(predictions, plain_predictions, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(r2, plain_r2, atol=1e-5)


@pytest.mark.parametrize("name", ["MMVAEpp", "MVAE"])
def test_training_further_finds_the_axes_anew(name):
    """Estimates of the second training are of latents as the networks have them."""
    model = trained(name, times=2)
    (_, predictions, r2), (_, plain_predictions, plain_r2) = same_but_for_axes(model)
    for found, expected in zip(predictions, plain_predictions, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(r2, plain_r2, atol=1e-5)


def test_axes_are_saved(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", model.adata)
    for one, other in zip(turns(loaded), turns(model), strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
    assert loaded.n_shared_effective_ == model.n_shared_effective_
    assert loaded.n_private_effective_ == model.n_private_effective_


def test_draws_of_latents_are_turned_too(small):
    """Differential analysis decodes draws from the posterior, whose dimensions are independent."""
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(small)
    model.train(3, **QUIET)
    found = model.differential("cell_type", modality="rna")
    for turn in turns(model):
        turn.copy_(torch.eye(len(turn)))
    plain = model.differential("cell_type", modality="rna")
    np.testing.assert_allclose(found.select_dtypes(float), plain.select_dtypes(float), atol=1e-3)


# --------------------------------------------------------------------------------------------
# Their order
# --------------------------------------------------------------------------------------------


def axes_of(latent, predicted):
    latent, predicted = latent - latent.mean(0), predicted - predicted.mean(0)
    return ordered_axes(latent.T @ predicted / len(latent), latent.T @ latent / len(latent))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 8))
def test_how_a_latent_is_rotated_does_not_matter(seed, k, d):
    rng = np.random.default_rng(seed)
    latent, weights = rng.normal(size=(60, k)), rng.normal(size=(k, d))
    rotated = latent @ np.linalg.qr(rng.normal(size=(k, k)))[0]
    one, other = (axes_of(z, latent @ weights) for z in (latent, rotated))
    rank = min(k, d)  # beyond, nothing moves with the axes, and any will do
    np.testing.assert_allclose(
        (latent @ one.turn)[:, :rank], (rotated @ other.turn)[:, :rank], atol=1e-5
    )
    assert one.n_effective == other.n_effective <= rank
    np.testing.assert_allclose(one.turn @ one.turn.T, np.eye(k), atol=1e-9)


def test_axes_are_ordered_by_what_they_move():
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(500, 3))
    loadings = rng.normal(size=(3, 40)) * np.array([[3.0], [0.3], [1.0]])
    latent = factors @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    axes = axes_of(latent, factors @ loadings)
    match = np.abs(np.corrcoef((latent @ axes.turn).T, factors.T)[:3, 3:])
    assert match.argmax(1).tolist() == [0, 2, 1]
    assert (match.max(1) > 0.9).all()


def test_an_axis_points_to_where_the_feature_it_moves_most_goes_up():
    latent = np.random.default_rng(0).normal(size=(100, 1))
    axes = axes_of(latent, latent @ np.array([[1.0, -3.0]]))
    assert axes.turn.item() == pytest.approx(-1)


def test_the_largest_loading_along_an_axis_is_positive():
    for seed in range(3):
        scvi.settings.seed = seed
        model = scvenn.MMVAEpp(three_modalities(missing=0.0, n_obs=200, seed=seed), n_hidden=16)
        model.train(5, write_obsm=False, **QUIET)
        cells = model.train_indices
        tables = {m: model.loadings(m, indices=cells) for m in model.modalities}
        shared = pd.concat(tables.values())
        privates = [model.loadings(m, "private", indices=cells) for m in model.modalities]
        n_effective = [model.n_shared_effective_, *model.n_private_effective_.values()]
        for table, n in zip([shared, *privates], n_effective, strict=True):
            for _, of_axis in list(table.groupby("dimension", sort=False))[:n]:
                largest, second = of_axis["loading"].abs().nlargest(2)
                if second < 0.9 * largest:  # of cells that decided, it may have been another one
                    assert of_axis["loading"].max() == largest


def test_a_direction_of_no_variance_comes_last_however_steep_the_prediction_is():
    latent = np.random.default_rng(0).normal(size=(1000, 2)) * [1e-3, 1.0]
    axes = axes_of(latent, latent @ np.array([[100.0, -100.0], [1.0, 1.0]]))
    assert abs(axes.turn[1, 0]) > 0.99


@pytest.mark.parametrize("rank", [0, 1, 3, 5])
def test_axes_that_carry_something_are_counted(rank):
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(300, 5))
    axes = axes_of(latent, latent[:, :rank] @ rng.normal(size=(rank, 20)))
    assert axes.n_effective == rank


def test_dimensions_that_carry_nothing_stay_as_they_are():
    """Axes of rounding would depend on the number of threads."""
    rounding = 1e-9 * np.random.default_rng(0).standard_normal((3, 8))
    axes = ordered_axes(rounding, np.diag([2.0, 1.0, 1.0]))
    assert axes.n_effective == 0
    np.testing.assert_array_equal(axes.turn, np.eye(3))


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["normal", "nb"])
def test_planted_factors_come_back_one_per_axis(likelihood):
    """Three independent factors of different strength, in both modalities."""
    rng = np.random.default_rng(1)
    n, d = 800, 60
    factors = rng.normal(size=(n, 3))
    strength = np.array([[1.6], [1.0], [0.6]])

    def modality(seed):
        rng = np.random.default_rng(seed)
        # each feature belongs to one factor, so that none is a mixture of others
        of = np.arange(d) % 3
        loadings = (np.arange(3)[:, None] == of) * rng.choice([-1, 1], d) * strength
        x = factors @ loadings
        x = rng.poisson(np.exp(1 + 0.5 * x)) if likelihood == "nb" else x + rng.normal(size=(n, d))
        names = [f"{seed}_{j}" for j in range(d)]
        adata = anndata.AnnData(x.astype(np.float32))
        adata.var_names = names
        return adata

    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mudata.MuData({"one": modality(1), "two": modality(2)}))
    model.train(60, **QUIET)
    shared = model.get_shared_representation()[:, :3]
    match = np.abs(np.corrcoef(shared.T, factors.T)[:3, 3:])
    assert match.argmax(1).tolist() == [0, 1, 2]
    assert (match.max(1) > 0.85).all()
    assert model.n_shared_effective_ <= 5


# --------------------------------------------------------------------------------------------
# What is told of them
# --------------------------------------------------------------------------------------------


def test_the_log_says_how_many_axes_carry_something(small, caplog):
    model = scvenn.MMVAEpp(small, n_shared=6)
    with caplog.at_level("INFO", logger="scvi.scvenn"):
        model.train(2, **QUIET)
    (line,) = (r.getMessage() for r in caplog.records if r.getMessage().startswith("Axes"))
    assert f"{model.n_shared_effective_} of 6 of shared, " in line


def test_the_variance_of_predictions_is_right_where_their_mean_is_large():
    rng = np.random.default_rng(0)
    predicted = torch.tensor(3000 + rng.standard_normal((500, 4)), dtype=torch.float32)
    moved = _axes._Moved(torch.zeros(500, 2))
    for start in range(0, 500, 100):
        moved.add(slice(start, start + 100), predicted[start : start + 100])
    expected = predicted.double().numpy().var(0).sum()
    assert moved.variance() == pytest.approx(expected, rel=1e-6)


def test_signs_of_axes_do_not_depend_on_the_order_of_cells(monkeypatch):
    """Cells that are sorted by type are common, and loadings of one type are not those of all."""
    monkeypatch.setattr(_axes, "_CELLS_OF_SIGNS", 20)
    read = []
    whole = _axes.matrix_of_loadings
    monkeypatch.setattr(
        _axes,
        "matrix_of_loadings",
        lambda net, cells, *of: read.append(set(cells.names)) or whole(net, cells, *of),
    )
    mdata = three_modalities(missing=0.0)
    model = scvenn.MMVAEpp(mdata, **SIZES)
    model.train(1, **QUIET)
    first, n_read = read[0], len(read)
    cells = Cells(model.adata_manager, np.sort(model.train_indices)[::-1])
    _axes._pointed(
        model.module,
        cells,
        _axes.embed(model.module, cells, model.modalities),
        _axes.Axes(np.eye(4), 4),
        {m: _axes.Axes(np.eye(n), n) for m, n in SIZES["n_private"].items()},
    )
    assert len(first) == 20
    assert read[n_read] == first


def test_an_embedding_leaves_out_empty_axes_on_request(small):
    model = scvenn.MMVAEpp(small, n_shared=6)
    model.train(2, **QUIET)
    whole = small.obsm["X_shared"].copy()
    model.n_shared_effective_, model.n_private_effective_["rna"] = 2, 0
    model.embed(drop_empty_axes=True)
    np.testing.assert_array_equal(small.obsm["X_shared"], whole[:, :2])
    assert small["rna"].obsm["X_private"].shape[1] == 1  # never none


def test_axes_of_a_rare_modality_are_learned_from_cells_that_have_it(monkeypatch):
    monkeypatch.setattr("scvenn.readouts.axes.MOST_CELLS", 5)
    mdata = three_modalities(missing=0.3)
    mdata.mod["peaks"] = mdata["peaks"][:8].copy()
    mdata.update()
    split = [np.arange(mdata.n_obs)]
    model = scvenn.MMVAEpp(mdata, screen=False)
    model.train(1, datasplitter_kwargs={"external_indexing": split}, **QUIET)
    assert model.n_private_effective_["peaks"] > 0


def test_axes_of_a_model_without_any_cannot_be_dropped(small):
    model = scvenn.MMVAEpp(small)
    model.train(1, **QUIET)
    model.n_shared_effective_ = None
    with pytest.raises(ValueError, match="no ordered axes.*another epoch"):
        model.embed(drop_empty_axes=True)


# --------------------------------------------------------------------------------------------
# Loadings
# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["linear", None])
def test_an_unknown_scale_of_loadings_is_refused(small, scale):
    model = scvenn.MMVAEpp(small)
    model.train(1, **QUIET)
    with pytest.raises(ValueError, match="expected 'data' or 'log'"):
        model.loadings("rna", scale=scale)


def test_loadings_on_both_scales_agree_for_standardised_values():
    model = trained("MMVAEpp")
    assert model.module.likelihood("meth").name == "normal"
    tables = [model.loadings("meth", scale=scale).loading for scale in ("data", "log")]
    np.testing.assert_allclose(*tables, rtol=1e-4, atol=1e-6)


def test_loadings_on_the_scale_of_the_data_are_small_for_rare_features():
    """A change by the same factor moves next to nothing of a feature of mean 0.01."""
    rng = np.random.default_rng(0)
    mean = np.where(np.arange(40) % 2, 4.0, 0.01)
    z = rng.normal(size=(400, 1))
    rates = mean * np.exp(z * rng.choice([-1, 1], 40))
    one, two = (anndata.AnnData(rng.poisson(rates).astype("f4")) for _ in range(2))
    two.var_names = [f"b{j}" for j in range(40)]
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mudata.MuData({"one": one, "two": two}), screen=False)
    model.train(30, **QUIET)
    table = model.loadings("one", scale="data")
    first = table[table.dimension == "shared_0"].loading.abs().to_numpy()
    assert first[mean < 1].max() < first[mean > 1].min()


# ------------------------------------------------------------------------------------- agreement


@pytest.mark.slow
def test_modalities_agree_on_planted_axes_and_on_no_others():
    """Two factors are shared; of six dimensions, four are left over."""
    scvi.settings.seed = 0
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((800, 2))
    parts = {}
    for m in ("one", "two"):
        own = rng.standard_normal((800, 2))
        x = np.hstack([factors @ rng.standard_normal((2, 40)), own @ rng.standard_normal((2, 40))])
        parts[m] = anndata.AnnData((x + 0.5 * rng.standard_normal(x.shape)).astype(np.float32))
        parts[m].var_names = [f"{m}{j}" for j in range(80)]
    model = scvenn.MMVAEpp(mudata.MuData(parts), n_shared=6, n_private=4)
    model.train(40, train_size=0.7, **QUIET)
    assert model.shared_agreement_.shape == (6,)
    assert (model.shared_agreement_[:2] > 0.8).all()
    model.save("model")
    loaded = scvenn.MMVAEpp.load("model", model.adata)
    np.testing.assert_array_equal(loaded.shared_agreement_, model.shared_agreement_)


def test_modalities_of_unrelated_cells_agree_on_nothing():
    scvi.settings.seed = 0
    mdata = scvenn.datasets.simulate_counts(400, n_features=20)
    order = np.random.default_rng(0).permutation(400)
    other = mdata["atac"][order].copy()
    other.obs_names = mdata["rna"].obs_names
    model = scvenn.MMVAEpp(mudata.MuData({"rna": mdata["rna"], "atac": other}), screen=False)
    model.train(5, train_size=0.5, write_obsm=False, **QUIET)
    assert np.abs(model.shared_agreement_).max() < 0.3


def test_without_held_out_cells_there_is_no_agreement_to_tell(small):
    model = scvenn.MMVAEpp(small)
    model.train(1, train_size=1.0, **QUIET)
    assert np.isnan(model.shared_agreement_).all()


def test_where_nothing_is_shared_shared_has_no_axis_and_no_effect():
    """Readings of cells then differ by rounding, and by which modalities a cell has."""
    simulated = scvenn.datasets.simulate_counts(
        300, n_features=30, seed=1, missing=0.1, modalities={"rna": "nb", "adt": "poisson"}
    )
    adt = simulated["adt"]
    adt.X = adt.X[np.random.default_rng(1).permutation(adt.n_obs)]
    scvi.settings.seed = 1
    model = scvenn.MMVAEpp(simulated)
    model.train(5, **QUIET)
    assert not model.get_shared_scores().shared.any()
    assert model.n_shared_effective_ == 0
    assert not model.loadings("rna").loading.any()
    assert model.write_contributions()["scvenn_shared_rna"].dropna().max() < 1e-6
    assert model.get_novelty().max() < 4


def test_agreement_is_that_of_modalities_that_vary(monkeypatch):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 2))
    read = {
        "rna": z,
        "meth": z + 0.1 * rng.normal(size=(50, 2)),
        "peaks": 0.3 + 1e-7 * rng.normal(size=(50, 2)),
    }
    net = SimpleNamespace(modalities=list(read), n_shared=2)
    monkeypatch.setattr(_axes, "embed", lambda net, cells, sources: (read[sources[0]], {}))
    assert (_axes.agreement(net, None) > 0.98).all()
    read["meth"] = read["peaks"]
    assert np.isnan(_axes.agreement(net, None)).all()
