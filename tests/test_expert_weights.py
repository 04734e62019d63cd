"""Weights of the modalities' readings: by how well they repeat, and equal where that is unknown."""

import numpy as np
import pytest
import scvi
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mudata import MuData

import scvenn
from scvenn import network
from scvenn.data import Cells
from scvenn.readouts import weigh_experts
from scvenn.readouts.expert_weights import weights_of_readings
from tests.conftest import QUIET, three_modalities

AMOUNTS = hnp.arrays(
    float, st.integers(2, 4), elements=st.one_of(st.floats(0, 1e6), st.just(np.nan))
)


@given(AMOUNTS, st.data())
def test_weights_are_positive_and_sum_to_one(noise, data):
    variance = data.draw(hnp.arrays(float, len(noise), elements=st.floats(0, 1e6)))
    weights = weights_of_readings(noise, variance)
    assert (weights > 0).all()
    assert weights.sum() == pytest.approx(1)


def test_a_reading_weighs_as_its_signal_over_its_noise():
    weights = weights_of_readings(np.array([0.1, 0.2, 1.0]), np.array([1.1, 1.2, 2.0]))
    np.testing.assert_allclose(weights, np.array([10, 5, 1]) / 16)


def test_the_weighted_mean_is_closest_to_the_latent():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(2000, 3))
    noise = np.array([0.2, 1.5])
    readings = [latent + np.sqrt(n) * rng.normal(size=latent.shape) for n in noise]
    miss = {
        w: np.square(w * readings[0] + (1 - w) * readings[1] - latent).mean()
        for w in (0.0, 0.5, 1.0, weights_of_readings(3 * noise, 3 * (1 + noise))[0])
    }
    assert min(miss, key=miss.get) not in (0.0, 0.5, 1.0)


def test_a_reading_that_hardly_moves_gets_no_weight_for_its_little_noise():
    weights = weights_of_readings(np.array([1e-6, 0.5]), np.array([1.1e-6, 2.0]))
    assert weights[0] < 0.05


@pytest.mark.parametrize("rounding", [0.0, 1e-12])
def test_a_reading_that_does_not_vary_gets_next_to_no_weight(rounding):
    weights = weights_of_readings(np.array([rounding / 100, 0.5]), np.array([rounding, 2.0]))
    assert weights[0] < 0.01


def test_a_modality_that_shares_nothing_does_not_count():
    mdata = scvenn.datasets.simulate_counts(300, n_features=40, seed=0)
    rng = np.random.default_rng(0)
    third = mdata["atac"].copy()
    third.X = rng.poisson(1, third.shape).astype(np.float32)
    mdata = MuData({"rna": mdata["rna"], "atac": mdata["atac"], "noise": third})
    model = scvenn.MMVAEpp(mdata)
    model.train(10, **QUIET)
    assert not model.screening_["noise"].related.any()
    assert model.expert_weights["noise"] < 0.05


def test_noise_below_a_hundredth_of_the_variance_does_not_count():
    weights = weights_of_readings(np.array([1e-9, 1e-4]), np.array([1.0, 1.0]))
    assert weights.tolist() == [0.5, 0.5]


def test_a_reading_whose_noise_is_unknown_weighs_as_the_others_on_average():
    weights = weights_of_readings(np.array([0.1, 0.4, np.nan]), np.array([1, 1, np.nan]))
    assert weights[2] == pytest.approx(weights[:2].mean())


def test_where_nothing_is_known_all_weigh_alike():
    assert weights_of_readings(*np.full((2, 2), np.nan)).tolist() == [0.5, 0.5]


def weighed(depths):
    """A model of two modalities of counts, of which these parts are left."""
    mdata = scvenn.datasets.simulate_counts(
        400, modalities={"deep": "nb", "shallow": "nb"}, n_features=60, seed=1
    )
    rng = np.random.default_rng(0)
    for m, depth in zip(("deep", "shallow"), depths, strict=True):
        mdata[m].X = rng.binomial(mdata[m].X.toarray().astype(int), depth).astype(np.float32)
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mdata)
    model.train(40, **QUIET)
    return model


def test_a_modality_weighs_less_when_it_has_fewer_counts():
    whole, thinned = (weighed((1.0, depth)).expert_weights["shallow"] for depth in (1.0, 0.1))
    assert thinned < whole - 0.05


@pytest.fixture(scope="module")
def model():
    built = scvenn.MMVAEpp(three_modalities(missing=0.3))
    built.train(3, **QUIET)
    return built


def test_weights_are_learned_at_the_end_of_training_and_saved(model, tmp_path):
    weights = model.expert_weights
    assert len(set(weights.values())) == 3
    model.save(tmp_path / "model")
    loaded = scvenn.MMVAEpp.load(tmp_path / "model", model.adata)
    assert loaded.expert_weights == weights


def cells_of(model):
    """Held-out cells and training cells."""
    manager = model.adata_manager.snapshot()
    return [
        Cells(manager, np.sort(rows)) for rows in (model.validation_indices, model.train_indices)
    ]


def test_training_cells_are_read_only_where_few_cells_are_held_out(model):
    held_out, train = cells_of(model)
    weights = []
    for cells in ((held_out.take(np.arange(5)), train), (train, held_out), (train, train)):
        weigh_experts(model.module, *cells)
        weights.append(model.expert_weights)
    assert weights[0] == weights[1] == weights[2]
    weigh_experts(model.module, held_out.take(np.arange(0)), held_out)
    assert model.expert_weights != weights[0]


def test_weighing_leaves_the_random_numbers_of_others_alone(model):
    cells = cells_of(model)
    state = torch.random.get_rng_state()
    weigh_experts(model.module, *cells)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_cell_measured_again_is_read_nearby(model):
    tensors = next(iter(model._make_data_loader(model.adata, batch_size=model.adata.n_obs)))
    seen = tensors["observed"][:, 0].bool()
    read, first, second = network.read_again(model.module.eval(), tensors, "rna")[:, seen]
    assert torch.equal(read, network.posteriors(model.module, tensors, ["rna"])[0].loc[seen])
    assert not torch.equal(first, second)
    spread = read.var(0).sum()
    assert (first - read).square().sum(1).mean() < 4 * spread


def test_a_model_that_does_not_screen_weighs_its_experts_alike():
    built = scvenn.MMVAEpp(three_modalities(missing=0.3), screen=False)
    built.train(2, **QUIET)
    assert list(built.expert_weights.values()) == pytest.approx([1 / 3] * 3)
