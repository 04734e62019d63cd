"""Weights of embeddings of one latent: known errors, and equal weights where nothing is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import scvenn
from scvenn.screening import reliability_weights
from tests.conftest import QUIET, three_modalities


def embeddings_with(rng, errors, n_cells=4000):
    """Of a latent of three dimensions, with errors of these variances."""
    latent = rng.normal(size=(n_cells, 3))
    noise = [np.sqrt(e) * rng.normal(size=latent.shape) for e in errors]
    return np.stack([latent + e for e in noise])


@given(st.integers(0, 2**16), st.lists(st.floats(0.05, 1), min_size=2, max_size=4))
def test_an_embedding_weighs_as_the_inverse_variance_of_its_error(seed, errors):
    weights = reliability_weights(embeddings_with(np.random.default_rng(seed), errors))
    expected = 1 / np.array(errors)
    np.testing.assert_allclose(weights, expected / expected.sum(), atol=0.1)


def test_the_weighted_mean_is_closest_to_the_latent():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(2000, 3))
    embeddings = np.stack([latent + s * rng.normal(size=latent.shape) for s in (0.3, 1.0)])
    misses = {
        w: np.square(w * embeddings[0] + (1 - w) * embeddings[1] - latent).mean()
        for w in (0.0, 0.5, 1)
    }
    weights = reliability_weights(embeddings)
    assert np.square(np.tensordot(weights, embeddings, 1) - latent).mean() < min(misses.values())


@given(st.integers(0, 2**16), st.integers(2, 4))
def test_weights_are_positive_and_sum_to_one(seed, n_modalities):
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(n_modalities, 20, 2)) * rng.choice([0, 1e-6, 1, 1e6])
    embeddings[rng.random(embeddings.shape[:2]) < 0.5] = np.nan
    weights = reliability_weights(embeddings)
    assert (weights > 0).all()
    assert weights.sum() == pytest.approx(1)


def test_a_modality_without_common_cells_weighs_as_the_others_on_average():
    embeddings = embeddings_with(np.random.default_rng(0), (0.1, 0.4, 0.4))
    embeddings[:2, :2000] = np.nan
    embeddings[2, 2000:] = np.nan
    weights = reliability_weights(embeddings)
    assert weights[2] == pytest.approx(weights[:2].mean())


def test_where_nothing_is_known_all_weigh_alike():
    apart = np.full((2, 10, 3), np.nan)
    apart[0, :5], apart[1, 5:] = 1.0, 2.0
    assert reliability_weights(apart).tolist() == [0.5, 0.5]


def test_few_cells_change_the_weights_little():
    weights = [
        reliability_weights(embeddings_with(np.random.default_rng(0), (0.1, 1.0), n))[0]
        for n in (10, 50, 4000)
    ]
    assert 0.5 < weights[0] < weights[1] < weights[2]
    assert weights[0] < 0.65


def test_a_model_that_screens_weighs_its_experts_by_cells_it_was_not_trained_on(tmp_path):
    mdata = three_modalities(missing=0.3)
    model = scvenn.MMVAEpp(mdata)
    assert list(model.expert_weights.values()) == pytest.approx([1 / 3] * 3)
    model.train(3, **QUIET)
    weights = model.expert_weights
    assert len(set(weights.values())) == 3
    cells = model.validation_indices
    readings = [model.get_shared_representation(from_modalities=m)[cells] for m in weights]
    assert list(weights.values()) == pytest.approx(reliability_weights(np.stack(readings)))
    model.save(tmp_path / "model")
    assert scvenn.MMVAEpp.load(tmp_path / "model", mdata).expert_weights == model.expert_weights


def test_without_held_out_cells_all_modalities_weigh_alike():
    model = scvenn.MMVAEpp(three_modalities(missing=0.3))
    model.train(2, train_size=1.0, **QUIET)
    assert list(model.expert_weights.values()) == pytest.approx([1 / 3] * 3)


def test_a_model_that_does_not_screen_weighs_its_experts_alike():
    model = scvenn.MMVAEpp(three_modalities(missing=0.3), screen=False)
    model.train(2, **QUIET)
    assert list(model.expert_weights.values()) == pytest.approx([1 / 3] * 3)
