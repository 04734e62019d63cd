"""The correction for batches: what it takes out of a latent, and what it leaves alone."""

import numpy as np
import pytest
import scvi
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

import scvenn
from scvenn import batches as _batches
from scvenn.batches import BatchShifts, corrected, learn_batch_shifts
from tests.conftest import QUIET

N_DIMS = 5
ALL = [[1.0] * 6] * 3


def planted(share, n=1200, *, shift=1.5, near=None, seed=0):
    """A latent of six types; each batch moves it by an affine map of its own.

    ``share``: of each type in each batch, (B, 6). ``near``: distance of the last type from the one
    before. Returns the latent, batches, types, and the latent without batches.
    """
    rng = np.random.default_rng(seed)
    share = np.array(share)
    centres = 5 * np.eye(6, N_DIMS)  # the last at 0
    if near is not None:
        centres[5] = centres[4] + near * np.eye(N_DIMS)[0]
    batch = rng.integers(len(share), size=n)
    weights = share[batch] / share[batch].sum(1, keepdims=True)
    types = (weights.cumsum(1) > rng.random((n, 1))).argmax(1)
    clean = centres[types] + 0.5 * rng.standard_normal((n, N_DIMS))
    moves = shift * rng.standard_normal((len(share), N_DIMS))
    turns = np.eye(N_DIMS) + 0.05 * rng.standard_normal((len(share), N_DIMS, N_DIMS))
    latent = np.einsum("nd,nde->ne", clean, turns[batch]) + moves[batch]
    return latent.astype(np.float32), batch, types, clean


def correct(latent, batch, found):
    return corrected(torch.as_tensor(latent), torch.as_tensor(batch), found).numpy()


def learned(latent, batch, n_batches=3):
    return learn_batch_shifts(latent, batch, n_batches, seed=0)


def told(latent, labels, fitted, tested):
    """Balanced accuracy with which the 15 nearest of some cells tell a label of others."""
    nearest = KNeighborsClassifier(15).fit(latent[fitted], labels[fitted])
    return balanced_accuracy_score(labels[tested], nearest.predict(latent[tested]))


FIRST, LAST = np.arange(900), np.arange(900, 1200)


def test_batches_leave_cells_that_were_not_learned_from_and_types_stay():
    latent, batch, types, _ = planted(ALL)
    assert told(latent, batch, FIRST, LAST) > 0.9
    after = correct(latent, batch, learned(latent[FIRST], batch[FIRST]))
    assert told(after, batch, FIRST, LAST) < 0.42  # 1/3 by chance
    assert told(after, types, FIRST, LAST) > 0.98


def test_composition_is_not_taken_for_a_batch_effect():
    """Types are missing, thinned, or in one batch alone."""
    share = [[1, 1, 1, 1, 1, 1], [0, 1, 0.2, 1, 1, 0], [1, 0.2, 1, 1, 1, 0]]
    latent, batch, types, _ = planted(share)
    after = correct(latent, batch, learned(latent, batch))
    everywhere = np.flatnonzero(np.isin(types, [3, 4]))
    half = len(everywhere) // 2
    assert told(after, batch, everywhere[:half], everywhere[half:]) < 0.45
    assert told(after, types, FIRST, LAST) > 0.98


@pytest.mark.parametrize("near", [None, 2.5])
def test_a_type_that_one_batch_alone_has_keeps_its_neighbours(near):
    share = [[1] * 6, [1] * 5 + [0], [1] * 5 + [0]]
    latent, batch, types, _ = planted(share, near=near)
    after = correct(latent, batch, learned(latent, batch))
    nearest = KNeighborsClassifier(15).fit(after, types)
    lone = after[types == 5]
    assert (types[nearest.kneighbors(lone, return_distance=False)] == 5).mean() > 0.95


def test_without_a_batch_effect_cells_hardly_move():
    _, batch, _, clean = planted(ALL)
    after = correct(clean.astype(np.float32), batch, learned(clean, batch))
    moved = np.square(after - clean).sum() / np.square(clean - clean.mean(0)).sum()
    assert moved < 0.02


def test_distances_between_types_are_those_without_batches():
    latent, batch, types, clean = planted(ALL)
    after = correct(latent, batch, learned(latent, batch))

    def gaps(z):
        centres = np.stack([z[types == t].mean(0) for t in range(6)])
        return np.linalg.norm(centres[:, None] - centres, axis=2)[np.triu_indices(6, 1)]

    np.testing.assert_allclose(gaps(after), gaps(clean), rtol=0.15)


@pytest.mark.parametrize("n_batches", [4, 30])
def test_a_batch_without_training_cells_stays_where_it_is(n_batches):
    latent, batch, _, _ = planted(ALL, 300)
    found = learned(latent, batch, n_batches)
    other = np.full(len(latent), n_batches - 1)
    np.testing.assert_allclose(correct(latent, other, found), latent, atol=1e-5)


def test_each_cell_is_corrected_by_itself():
    latent, batch, _, _ = planted(ALL, 300)
    found = learned(latent, batch)
    some = np.random.default_rng(0).permutation(300)[:40]
    whole = correct(latent, batch, found)
    np.testing.assert_allclose(correct(latent[some], batch[some], found), whole[some], atol=1e-6)


def test_the_same_seed_gives_the_same_shifts():
    latent, batch, _, _ = planted(ALL, 300)
    for one, other in zip(learned(latent, batch), learned(latent, batch), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_threads_change_no_bit():
    latent, batch, _, _ = planted(ALL, 600)
    before = torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            found.append(learned(latent, batch))
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@given(scale=st.floats(1e-3, 1e3), move=st.floats(-100, 100))
@settings(max_examples=5, deadline=None)
def test_units_of_the_latent_make_no_difference(scale, move):
    latent, batch, _, _ = planted(ALL, 150)
    after = correct(latent, batch, learned(latent, batch))
    other = (scale * (latent + move)).astype(np.float32)
    back = correct(other, batch, learned(other, batch)) / scale - move
    assert np.abs(back - after).max() < 0.02 * after.std()


@pytest.mark.filterwarnings("error")
@given(
    n=st.integers(1, 40),
    n_batches=st.integers(2, 12),
    n_dims=st.integers(1, 4),
    seed=st.integers(0),
)
@settings(max_examples=25, deadline=None)
def test_few_cells_and_equal_cells_give_finite_latents(n, n_batches, n_dims, seed):
    rng = np.random.default_rng(seed)
    latent = rng.integers(3, size=(n, n_dims)).astype(np.float32)
    batch = rng.integers(n_batches, size=n)
    assert np.isfinite(correct(latent, batch, learned(latent, batch, n_batches))).all()


def test_positions_and_maps_solve_the_normal_equations():
    rng = torch.Generator().manual_seed(0)
    mean = torch.randn(6, 4, 2, generator=rng, dtype=torch.float64)  # (K, B, D)
    weight = torch.rand(6, 4, generator=rng, dtype=torch.float64)
    basis = torch.randn(6, 3, generator=rng, dtype=torch.float64)  # (K, P)

    def loss(positions, maps):
        missed = mean - positions.unsqueeze(1) - torch.einsum("kp,bpd->kbd", basis, maps)
        return (weight.unsqueeze(-1) * missed.square()).sum() + (prior * maps.square()).sum()

    prior = torch.full((3, 1), _batches._PRIOR_SLOPES, dtype=torch.float64)
    prior[0] = _batches._PRIOR_CONSTANT
    positions, shifts = _batches._fit_affine(mean, weight, basis, None)
    maps = torch.linalg.pinv(basis) @ shifts.transpose(0, 1)  # (B, P, D)
    maps.requires_grad_()
    positions.requires_grad_()
    loss(positions, maps).backward()
    torch.testing.assert_close(positions.grad, torch.zeros_like(positions))
    torch.testing.assert_close(maps.grad, torch.zeros_like(maps))


def test_a_latent_that_does_not_vary_stays_as_it_is():
    latent, batch = np.ones((40, 3), np.float32), np.arange(40) % 2
    found = learned(latent, batch, 2)
    assert not len(found.centres)
    np.testing.assert_array_equal(correct(latent, batch, found), latent)


def test_nothing_learned_corrects_nothing():
    latent = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    np.testing.assert_array_equal(correct(latent, np.arange(5), BatchShifts.none(3)), latent)


@pytest.mark.parametrize("batch_key", [None, "batch"])
@pytest.mark.parametrize("value", [1e12, 1e15])
def test_a_cell_with_an_enormous_value_has_a_position_far_away(batch_key, value):
    scvi.settings.seed = 0
    mdata = scvenn.datasets.simulate_counts(
        100, modalities={"rna": "nb", "meth": "normal"}, n_features=12, n_batches=2
    )
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key=batch_key)
    model = scvenn.MMVAEpp(mdata, n_hidden=8)
    model.train(1, **QUIET)
    new = mdata.copy()
    new["meth"].X[0, 0] = value
    assert np.isfinite(model.get_shared_representation(new)).all()
    assert np.isfinite(model.get_private_representation("meth", new)).all()
    novelty = model.get_novelty(new)
    assert novelty[0] > 1e6 * np.median(novelty)
