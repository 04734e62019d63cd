"""One contract for every likelihood, and what is special of each."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from scvenn.likelihoods import LIKELIHOODS, FeatureStats

B, D = 6, 4
VALUES = {
    "normal": lambda rng: rng.normal(3, 2, (B, D)),
    "bernoulli": lambda rng: rng.integers(0, 2, (B, D)),
    "poisson": lambda rng: rng.poisson(3, (B, D)),
    "nb": lambda rng: rng.poisson(3, (B, D)),
}
each = pytest.mark.parametrize("name", list(LIKELIHOODS))


def build(name, seed=0):
    rng = np.random.default_rng(seed)
    x = VALUES[name](rng).astype(np.float32)
    stats = FeatureStats(x.mean(0), x.std(0) + 0.1, float(np.median(x.sum(1))))
    tensor = torch.as_tensor(x)
    library = tensor.sum(-1, keepdim=True).clamp(min=1)
    raw = torch.as_tensor(rng.normal(size=(3, B, D)), dtype=torch.float32)  # three terms
    return LIKELIHOODS[name](stats), tensor, library, raw


@each
def test_log_prob_has_a_value_for_each_term_cell_and_feature(name):
    likelihood, x, library, raw = build(name)
    assert likelihood.log_prob(raw, x, library).shape == (3, B, D)
    assert likelihood.mean(raw, library).shape == (3, B, D)
    assert likelihood.encoder_input(x).shape == (B, D)


@each
@given(seed=st.integers(0, 1000))
def test_values_and_gradients_are_finite(name, seed):
    likelihood, x, library, raw = build(name, seed)
    raw = (10 * raw).requires_grad_()
    value = likelihood.log_prob(raw, x, library).sum()
    value.backward()
    assert value.isfinite()
    assert raw.grad.isfinite().all()
    for parameter in likelihood.parameters():
        assert parameter.grad.isfinite().all()


@each
def test_terms_are_scored_independently(name):
    likelihood, x, library, raw = build(name)
    together = likelihood.log_prob(raw, x, library)
    torch.testing.assert_close(together[1], likelihood.log_prob(raw[1], x, library))


@each
def test_the_mean_is_the_mean_of_the_distribution(name):
    """Probabilities over a fine grid of values sum to 1 and average to the stated mean."""
    likelihood, _, _, raw = build(name)
    library = torch.full((B, 1), 12.0)
    if name == "normal":
        mean, scale = likelihood.mean_, likelihood.scale_
        grid = [mean + scale * t for t in torch.linspace(-15, 15, 6001).tolist()]
        width = scale * 30 / 6000
    else:
        top = 1 if name == "bernoulli" else 400
        grid, width = [torch.full((D,), float(v)) for v in range(top + 1)], torch.ones(D)
    # the density of a standardised value is scale times that of the value
    jacobian = likelihood.scale_ if name == "normal" else torch.ones(D)
    total, average = torch.zeros(B, D), torch.zeros(B, D)
    for x in grid:
        log_prob = likelihood.log_prob(raw[0], x.expand(B, D), library)
        mass = log_prob.exp() * width / jacobian
        total += mass
        average += mass * x
    torch.testing.assert_close(total, torch.ones(B, D), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(average, likelihood.mean(raw[0], library), rtol=2e-3, atol=2e-3)


@each
def test_domains(name):
    inside = {
        "normal": [True, True, True, True],
        "bernoulli": [False, True, True, False],
        "poisson": [False, True, True, True],
        "nb": [False, True, True, True],
    }[name]
    values = np.array([-0.31, 0.0, 1.0, 7.0])
    assert LIKELIHOODS[name].in_domain(values).tolist() == inside
    assert LIKELIHOODS[name].in_domain(np.array([0.5])).tolist() == [name == "normal"]


def test_normal_is_blind_to_the_units_of_the_data():
    likelihood, x, library, raw = build("normal")
    stats = FeatureStats(1000 * likelihood.mean_.numpy() + 5, 1000 * likelihood.scale_.numpy(), 1.0)
    scaled = LIKELIHOODS["normal"](stats)
    torch.testing.assert_close(
        scaled.log_prob(raw, 1000 * x + 5, library),
        likelihood.log_prob(raw, x, library),
        rtol=1e-3,
        atol=1e-3,
    )
    torch.testing.assert_close(
        scaled.mean(raw, library), 1000 * likelihood.mean(raw, library) + 5, rtol=1e-4, atol=1e-2
    )


@pytest.mark.parametrize("name", ["poisson", "nb"])
def test_means_of_counts_sum_to_the_library(name):
    likelihood, _, library, raw = build(name)
    torch.testing.assert_close(
        likelihood.mean(raw, library).sum(-1, keepdim=True), library.expand(3, B, 1)
    )


@given(seed=st.integers(0, 1000), spread=st.sampled_from([1, 10, 100]))
def test_bernoulli_and_its_gradient_equal_torchs(seed, spread):
    likelihood, x, library, raw = build("bernoulli", seed)
    ours, theirs = (spread * raw.clone()).requires_grad_(), (spread * raw).requires_grad_()
    value = likelihood.log_prob(ours, x, library)
    reference = -torch.nn.functional.binary_cross_entropy_with_logits(
        theirs, x.expand_as(raw), reduction="none"
    )
    torch.testing.assert_close(value, reference, rtol=1e-5, atol=1e-5)
    weights = torch.rand(raw.shape)
    (value * weights).sum().backward()
    (reference * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


@given(seed=st.integers(0, 1000))
def test_nb_equals_torchs(seed):
    likelihood, x, library, raw = build("nb", seed)
    likelihood.log_theta.data.normal_()
    theta = likelihood.log_theta.exp()
    mean = likelihood.mean(raw, library)
    reference = torch.distributions.NegativeBinomial(
        theta, logits=mean.log() - theta.log(), validate_args=False
    )
    torch.testing.assert_close(
        likelihood.log_prob(raw, x, library), reference.log_prob(x), rtol=1e-4, atol=1e-4
    )


def test_cross_view_noise_is_that_of_the_residuals():
    likelihood, x, library, raw = build("normal")
    measured = torch.rand(B, D) < 0.8
    for _ in range(200):
        likelihood.follow_cross_view(raw, x, measured)
    square = (likelihood.encoder_input(x) - raw).square()
    expected = torch.stack([square[:, measured[:, j], j].mean() for j in range(D)])
    torch.testing.assert_close(likelihood.cross_view_variance, expected, rtol=1e-3, atol=1e-4)
    own, same = (likelihood.log_prob(raw, x, library, cross_view=c) for c in (True, False))
    normal = torch.distributions.Normal(raw, expected.sqrt())
    torch.testing.assert_close(
        own, normal.log_prob(likelihood.encoder_input(x)), rtol=1e-3, atol=1e-3
    )
    assert not torch.allclose(own, same)


def test_a_feature_that_no_cell_of_a_minibatch_has_keeps_its_noise():
    likelihood, x, _, raw = build("normal")
    likelihood.follow_cross_view(raw, x, torch.zeros(B, 1, dtype=torch.bool))
    torch.testing.assert_close(likelihood.cross_view_variance, torch.ones(D))


@each
def test_other_likelihoods_do_not_tell_cross_view_apart(name):
    likelihood, x, library, raw = build(name)
    likelihood.follow_cross_view(raw, x, torch.ones(B, 1, dtype=torch.bool))
    values = [likelihood.log_prob(raw, x, library, cross_view=c) for c in (True, False)]
    assert torch.equal(*values) == (name != "normal")


@pytest.mark.parametrize("name", ["poisson", "nb"])
def test_linear_scale_is_blind_to_the_depth_of_a_cell(name):
    likelihood, x, library, _ = build(name)
    depth = np.arange(1, B + 1)[:, None]
    values, sums = x.numpy(), library.numpy()
    one = likelihood.linear_scale(values, sums)
    np.testing.assert_allclose(
        one, likelihood.linear_scale(values * depth, sums * depth), rtol=1e-6
    )
    sparse = likelihood.linear_scale(sp.csr_matrix(values), sums)
    assert sp.issparse(sparse)
    np.testing.assert_allclose(one, sparse.toarray(), rtol=1e-6)
