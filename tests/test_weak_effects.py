"""Slopes of features whose relation to `shared` is too weak for screening to select them."""

import anndata
import mudata
import numpy as np
import pytest
import scvi
import torch
from hypothesis import given
from hypothesis import strategies as st

import scvenn
from scvenn.screening import weak_effects, whitening
from tests.conftest import QUIET, data_file

N, K, R = 2000, 5, 400


def gradients(effect, seed=0):
    """Of normal values with variance 1 around their mean, by slopes of this size."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(N, K))
    slopes = effect * rng.normal(size=(K, R))
    return latent, slopes, latent @ slopes + rng.normal(size=(N, R))


def found(latent, gradient, candidates=None, parts=3):
    candidates = np.full(R, True) if candidates is None else candidates
    pieces = zip(np.array_split(latent, parts), np.array_split(gradient, parts), strict=True)
    return weak_effects([of_piece(*piece) for piece in pieces], candidates, np.ones(K))


def of_piece(latent, gradient):
    """With the second derivatives that go with such gradients if the noise is as expected."""
    return latent, gradient, np.square(gradient).sum(0)


def test_weak_effects_are_found_with_less_error_than_by_least_squares():
    """Each explains 0.5 % of a variance, of which no single one could be sure."""
    latent, slopes, gradient = gradients(0.03)
    estimate = found(latent, gradient)
    by_least_squares = np.linalg.lstsq(latent, gradient, rcond=None)[0]
    errors = [np.square(of - slopes).mean() for of in (estimate, by_least_squares)]
    assert errors[0] < 0.75 * errors[1]
    assert np.corrcoef(estimate.ravel(), slopes.ravel())[0, 1] > 0.75


@pytest.mark.parametrize("seed", range(5))
def test_where_there_is_nothing_slopes_are_next_to_nothing(seed):
    latent, _, gradient = gradients(0.0, seed)
    predicted = latent @ found(latent, gradient)
    assert predicted.var(0).mean() < 1e-4


def test_a_likelihood_that_expects_too_much_noise_gives_the_same_slopes():
    """With a hundred times the variance, gradients and curvature are a hundredth."""
    latent, _, gradient = gradients(0.03)
    expected = found(latent, gradient)
    pieces = [(latent, gradient / 100, np.full(R, N / 100))]
    estimate = weak_effects(pieces, np.full(R, True), np.ones(K))
    np.testing.assert_allclose(estimate, expected, rtol=0.15, atol=1e-3)


@pytest.mark.slow
def test_deep_counts_that_do_not_vary_are_predicted_by_their_mean():
    """Of features with thousands of counts and less noise than a negative binomial begins with."""
    scvi.settings.seed = 0
    mdata = scvenn.datasets.simulate_counts(600, n_features=40)
    rng = np.random.default_rng(0)
    for m in list(mdata.mod):
        deep = rng.poisson(3000, size=(600, 100)).astype(np.float32)
        values = np.hstack([mdata[m].X.toarray(), deep])
        mdata.mod[m] = anndata.AnnData(values, obs=mdata[m].obs)
        mdata.mod[m].var_names = [f"{m}{j}" for j in range(140)]
    mdata = mudata.MuData(dict(mdata.mod))
    model = scvenn.MMVAEpp(mdata)
    model.train(15, train_size=0.7, write_obsm=False, **QUIET)
    predicted = model.predict("atac", "rna", return_numpy=True)[:, 40:]
    assert np.abs(predicted / 3000 - 1).max() < 0.1


def test_others_than_candidates_get_no_slope_and_no_say():
    latent, _, gradient = gradients(0.03)
    candidates = np.arange(R) < 100
    estimate = found(latent, gradient, candidates)
    assert not estimate[:, 100:].any()
    gradient[:, 100:] = 7.0
    np.testing.assert_array_equal(found(latent, gradient, candidates), estimate)


def test_cells_come_in_parts_of_any_size():
    latent, _, gradient = gradients(0.03)
    np.testing.assert_allclose(found(latent, gradient, parts=1), found(latent, gradient, parts=9))


def test_a_parameter_without_gradient_gets_no_slope():
    latent, _, gradient = gradients(0.03)
    gradient[:, 0] = 0
    assert not found(latent, gradient)[:, 0].any()


@given(st.integers(0, 1000), st.integers(1, 6))
def test_whitened_directions_are_uncorrelated_with_variance_one(seed, n_dimensions):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(50, n_dimensions)) @ rng.normal(size=(n_dimensions, n_dimensions))
    latent = np.hstack([mixed, np.zeros((50, 1))])  # a dimension that is not used
    latent -= latent.mean(0)
    to_directions, spread = whitening(latent)
    directions = latent @ to_directions
    identity = np.eye(directions.shape[1])
    np.testing.assert_allclose(directions.T @ directions / 50, identity, atol=1e-6)
    assert directions.shape[1] <= n_dimensions
    total = np.square(latent).sum() / 50
    np.testing.assert_allclose(np.square(spread).sum(), total, rtol=1e-5)


def test_a_direction_in_which_the_latent_hardly_varies_gets_next_to_no_slope():
    """Noise would be fitted along it as well as along any other."""
    latent, _, gradient = gradients(0.03)
    spread = np.array([1, 1, 1, 1, 1e-4])
    slopes = weak_effects([of_piece(latent, gradient)], np.full(R, True), spread)
    size = np.square(slopes).mean(1)
    assert size[-1] < 1e-4 * size[:-1].min()


def test_training_ends_with_slopes_of_features_that_are_not_shared(small):
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(small, n_shared=3, n_private=2)
    model.train(3, **QUIET)
    for m in model.modalities:
        decoder = model.module.branch(m).cross_decoder
        shared = model.screening_[m].shared
        assert not decoder.slope[:, shared].any()
    model.save("model")
    loaded = scvenn.MMVAEpp.load("model", small)
    np.testing.assert_array_equal(
        loaded.predict("rna", "atac", return_numpy=True),
        model.predict("rna", "atac", return_numpy=True),
    )


def test_slopes_are_part_of_cross_view_predictions_only(small):
    model = scvenn.MMVAEpp(small, n_shared=3, n_private=2)
    model.train(1, **QUIET)
    decoder = model.module.branches[model.modalities.index("atac")].cross_decoder
    decoder.slope.zero_()
    before = [model.predict(m, "atac", return_numpy=True) for m in model.modalities]
    decoder.slope[:, 0] = torch.tensor([1.0, -2.0, 0.5])
    after = [model.predict(m, "atac", return_numpy=True) for m in model.modalities]
    same_view = model.modalities.index("atac")
    np.testing.assert_array_equal(before[same_view], after[same_view])
    changed = (before[1 - same_view] != after[1 - same_view]).any(0)
    assert np.flatnonzero(changed).tolist() == [0]


@pytest.mark.slow
def test_weak_effects_improve_predictions_of_snareseq():
    """Of genes and peaks that screening does not call shared."""
    mdata = mudata.read_h5mu(data_file("snareseq_cortex.h5mu"))[::4].copy()
    for m in mdata.mod:
        seen = np.asarray((mdata[m].X > 0).sum(0)).ravel()
        mdata.mod[m] = mdata[m][:, np.sort(np.argsort(-seen)[:3000])].copy()
    mdata.update()
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mdata)
    model.train(10, train_size=0.7, **QUIET)
    cells = model.validation_indices
    for source, target in (("atac", "rna"), ("rna", "atac")):
        truth = mdata[target].X[cells].toarray()
        truth = np.log1p(1e3 * truth / truth.sum(1, keepdims=True))
        weak = ~model.screening_[target].shared & (truth.std(0) > 0)
        decoder = model.module.branches[model.modalities.index(target)].cross_decoder
        correlation = []
        for part in (1.0, 0.0):
            decoder.slope *= part
            options = {"indices": cells, "library_size": 1e3, "return_numpy": True}
            predicted = np.log1p(model.predict(source, target, **options))
            found = scvenn.metrics.pearson(truth[:, weak], predicted[:, weak])
            correlation.append(np.nan_to_num(found).mean())
        assert weak.sum() > 1000
        assert correlation[0] > correlation[1] + 0.003


def test_few_features_without_any_effect_get_no_slopes():
    """By chance, half of all sets of features look as if they had some."""
    n_with = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        latent = rng.normal(size=(300, 3))
        piece = of_piece(latent, rng.normal(size=(300, 20)))
        slopes = weak_effects([piece], np.full(20, True), np.ones(3))
        n_with += slopes.any()
    assert n_with <= 4
