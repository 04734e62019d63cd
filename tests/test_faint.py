"""Slopes of features whose relation to `shared` is too faint to be screened."""

import numpy as np
import pytest
import scvi
from hypothesis import given
from hypothesis import strategies as st

import scvenn
from scvenn._faint import faint_slopes, whitening
from tests.conftest import QUIET

N, K, R = 2000, 5, 400


def gradients(effect, seed=0):
    """Of normal values with variance 1 around their mean, by slopes of this size."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(N, K))
    slopes = effect * rng.normal(size=(K, R))
    return latent, slopes, latent @ slopes + rng.normal(size=(N, R))


def found(latent, gradient, candidates=None, parts=3):
    candidates = np.full(R, True) if candidates is None else candidates
    both = zip(np.array_split(latent, parts), np.array_split(gradient, parts), strict=True)
    return faint_slopes(both, candidates)


def test_faint_slopes_are_found_with_less_error_than_by_least_squares():
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
    directions = latent @ whitening(latent)
    identity = np.eye(directions.shape[1])
    np.testing.assert_allclose(directions.T @ directions / 50, identity, atol=1e-6)
    assert directions.shape[1] <= n_dimensions


def test_training_ends_with_slopes_of_features_that_are_not_shared(small):
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(small, n_shared=3, n_private=2)
    model.train(3, **QUIET)
    for m, decoder in zip(model.modalities, model.module.cross_decoders, strict=True):
        shared = model.screening_[m].shared
        assert not decoder.slope[:, shared].any()
    model.save("model")
    loaded = scvenn.MMVAEpp.load("model", small)
    np.testing.assert_array_equal(
        loaded.predict("rna", "atac", return_numpy=True),
        model.predict("rna", "atac", return_numpy=True),
    )
