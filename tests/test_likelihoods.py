"""One contract for every likelihood, and what is special of each."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
import scvi
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from scipy.special import expit, logit, softmax

import scvenn
from scvenn.likelihoods import LIKELIHOODS, FeatureStats
from scvenn.likelihoods.base import Parts
from scvenn.likelihoods.densities import negative_binomial_log_prob
from scvenn.network import View
from tests.conftest import QUIET, data_file

B, D = 6, 4
VALUES = {
    "normal": lambda rng: rng.normal(3, 2, (B, D)),
    "bernoulli": lambda rng: rng.integers(0, 2, (B, D)),
    "beta": lambda rng: rng.beta(20, 30, (B, D)),
    "poisson": lambda rng: rng.poisson(3, (B, D)),
    "nb": lambda rng: rng.poisson(3, (B, D)),
    "zinb": lambda rng: rng.poisson(3, (B, D)),
    "nb_mixture": lambda rng: rng.poisson(3, (B, D)),
}
# the least and the largest value that may come
EXTREMES = dict.fromkeys(LIKELIHOODS, (0.0, 1e6))
EXTREMES |= {"normal": (-1e6, 1e6), "bernoulli": (0, 1), "beta": (0, 1)}
COMPOSITIONS = ["poisson", "nb", "zinb"]  # counts whose mean is a share of the library size
each = pytest.mark.parametrize("name", list(LIKELIHOODS))


def build(name, seed=0, n_batches=None):
    rng = np.random.default_rng(seed)
    x = VALUES[name](rng).astype(np.float32)
    stats = FeatureStats(x.mean(0), x.std(0) + 0.1, float(np.median(x.sum(1))))
    tensor = torch.as_tensor(x)
    library = tensor.sum(-1, keepdim=True).clamp(min=1)
    likelihood = LIKELIHOODS[name](stats, n_batches)
    raw = rng.normal(size=(3, B, likelihood.n_outputs * D))  # three terms
    return likelihood, tensor, library, torch.as_tensor(raw, dtype=torch.float32)


def tensors(draw, values, shape):
    """Any arrangement of some values."""
    n = math.prod(shape)
    chosen = draw(st.lists(st.sampled_from(values), min_size=n, max_size=n))
    return torch.tensor(chosen, dtype=torch.float32).reshape(shape)


@each
def test_log_prob_has_a_value_for_each_term_cell_and_feature(name):
    likelihood, x, library, raw = build(name)
    assert likelihood.log_prob(raw, x, library).shape == (3, B, D)
    assert likelihood.mean(raw, library).shape == (3, B, D)
    assert likelihood.sample(raw, library).shape == (3, B, D)
    assert likelihood.encoder_input(x).shape == (B, D)


@each
@pytest.mark.parametrize("some_missing", [True, False])
def test_the_total_of_a_cell_sums_what_was_measured(name, some_missing):
    likelihood, x, library, raw = build(name)
    measured = torch.tensor([[True], [False]] * (B // 2))
    if some_missing:
        measured = measured & (torch.arange(D) > 0)
    expected = (likelihood.log_prob(raw, x, library) * measured).sum(-1)
    torch.testing.assert_close(likelihood.total(raw, x, measured, library), expected)


@each
@pytest.mark.parametrize("some_missing", [True, False])
@pytest.mark.parametrize("baseline_varies", [True, False])
def test_an_output_in_parts_is_scored_as_the_whole_and_learns_as_it(
    name, some_missing, baseline_varies
):
    likelihood, x, library, raw = build(name)
    width = raw.shape[-1]
    positions, rest = torch.arange(width)[1::2], torch.arange(width)[::2]
    baseline = torch.randn(*((B, width) if baseline_varies else (width,)), requires_grad=True)
    predicted = raw[..., positions].requires_grad_()
    parts = Parts(predicted, positions, baseline, rest)
    assert torch.equal(parts.whole()[..., positions], predicted)
    assert torch.equal(parts.whole()[..., rest], baseline.expand(3, B, -1)[..., rest])
    measured = torch.ones(B, D if some_missing else 1, dtype=torch.bool)
    measured[0] = False
    totals = [likelihood.total(p, x, measured, library) for p in (parts, parts.whole())]
    torch.testing.assert_close(*totals)
    gradients = [torch.autograd.grad(t.sum(), (predicted, baseline)) for t in totals]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


@each
def test_a_batch_with_a_noise_of_its_own_is_as_one_that_is_alone(name):
    """What is said of each half of the cells is what a likelihood of that half alone would say."""
    _, x, library, raw = build(name)
    both, apart = (build(name, n_batches=n)[0] for n in (2, None))
    batch = torch.arange(B) % 2
    with torch.no_grad():
        noises = [(p, q) for p, q in zip(both.parameters(), apart.parameters(), strict=True)]
        for noise, _ in noises:
            noise += torch.arange(2.0).unsqueeze(1) if noise.dim() == 2 else 0
    found = both.log_prob(raw, x, library, batch=batch)
    for number in (0, 1):
        with torch.no_grad():
            for noise, alone in noises:
                alone.copy_(noise[number] if noise.dim() == 2 else noise)
        expected = apart.log_prob(raw, x, library)
        rows = batch == number
        torch.testing.assert_close(found[:, rows], expected[:, rows])
    assert both.sample(raw, library, batch).shape == (3, B, D)


def test_cross_view_noise_is_followed_in_each_batch():
    likelihood, x, _, raw = build("normal", n_batches=3)
    batch = torch.tensor([0, 0, 0, 1, 1, 1])
    measured = torch.ones(B, 1, dtype=torch.bool)
    for _ in range(200):
        likelihood.update_cross_view_noise(raw, x, measured, batch)
    square = (likelihood.encoder_input(x) - raw).square()
    for number in (0, 1):
        expected = square[:, batch == number].mean((0, 1))
        torch.testing.assert_close(likelihood.cross_view_variance[number], expected)
    assert (likelihood.cross_view_variance[2] == 1).all()  # nothing was seen of it


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
@given(data=st.data())
def test_nothing_overflows_at_the_extremes(name, data):
    """Cells without any count, counts of a million, and whatever the decoder says."""
    likelihood, _, _, raw = build(name)
    x = tensors(data.draw, EXTREMES[name], (B, D))
    raw = tensors(data.draw, [-50.0, 0.0, 50.0], raw.shape).requires_grad_()
    library = x.sum(-1, keepdim=True).clamp(min=1)
    likelihood.log_prob(raw, x, library).sum().backward()
    for gradient in [raw.grad, *(parameter.grad for parameter in likelihood.parameters())]:
        assert gradient.isfinite().all()
    values = {
        "log_prob": likelihood.log_prob(raw, x, library),
        "mean": likelihood.mean(raw, library),
        "sample": likelihood.sample(raw, library),
        "encoder_input": likelihood.encoder_input(x),
    }
    for what, value in values.items():
        assert value.isfinite().all(), what
    assert likelihood.in_domain(values["sample"].numpy()).all()


@each
def test_features_without_variance_are_a_start_like_any_other(name):
    for value in EXTREMES[name]:
        stats = FeatureStats(np.full(D, value, np.float32), np.ones(D, np.float32), 1.0)
        likelihood = LIKELIHOODS[name](stats)
        x = torch.full((B, D), float(value))
        raw = torch.zeros(B, likelihood.n_outputs * D)
        assert likelihood.log_prob(raw, x, x.sum(-1, keepdim=True).clamp(min=1)).isfinite().all()
        assert likelihood.encoder_input(x).isfinite().all()


@each
def test_entries_that_were_not_measured_do_not_matter(name):
    likelihood, x, _, raw = build(name)
    observed = torch.arange(B) > 1
    gone = ~observed.unsqueeze(-1).expand(B, D)
    if likelihood.allows_missing:
        gone = gone | (torch.rand(B, D) < 0.3)
    found = []
    for garbage in (torch.nan, 7.0):
        # garbage in an observed cell can only be NaN
        fill = torch.where(observed.unsqueeze(-1), torch.nan, garbage)
        view = View.read(torch.where(gone, fill, x), observed, likelihood)
        decoded = raw.clone().requires_grad_()
        value = likelihood.log_prob(decoded, view.x, view.library)
        value = torch.where(view.measured & ~gone, value, 0.0)
        likelihood.zero_grad()
        value.sum().backward()
        gradients = [decoded.grad, *(parameter.grad for parameter in likelihood.parameters())]
        assert all(gradient.isfinite().all() for gradient in gradients)
        found.append([value, *gradients])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    library = x.sum(-1, keepdim=True)
    known = likelihood.log_prob(raw, x, library)[:, ~gone]
    torch.testing.assert_close(found[0][0][:, ~gone], known)


@each
def test_terms_are_scored_independently(name):
    likelihood, x, library, raw = build(name)
    together = likelihood.log_prob(raw, x, library)
    torch.testing.assert_close(together[1], likelihood.log_prob(raw[1], x, library))


def moments(likelihood, raw, library):
    """Total, mean and standard deviation of exp(log_prob) over a fine grid of values, (B, D)."""
    width = torch.ones(D)
    if likelihood.name == "normal":
        mean, scale = likelihood.mean_, likelihood.scale_
        grid = [mean + scale * t for t in torch.linspace(-15, 15, 6001).tolist()]
        # the density of a standardised value is scale times that of the value
        width = torch.full((D,), 30 / 6000)
    elif likelihood.name == "beta":
        grid = [torch.full((D,), (i + 0.5) / 6000) for i in range(6000)]
        width = torch.full((D,), 1 / 6000)
    else:
        top = 1 if likelihood.name == "bernoulli" else 400
        grid = [torch.full((D,), float(value)) for value in range(top + 1)]
    x = torch.stack(grid).unsqueeze(1).expand(-1, B, -1)  # (values, B, D)
    log_prob = torch.stack([likelihood.log_prob(raw, value, library) for value in x])
    mass = log_prob.exp() * width
    average = (mass * x).sum(0)
    return mass.sum(0), average, (mass * (x - average).square()).sum(0).sqrt()


@each
def test_the_mean_is_the_mean_of_the_distribution(name):
    """Probabilities over a fine grid of values sum to 1 and average to the stated mean."""
    likelihood, _, _, raw = build(name)
    library = torch.full((B, 1), 12.0)
    total, average, _ = moments(likelihood, raw[0], library)
    torch.testing.assert_close(total, torch.ones(B, D), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(average, likelihood.mean(raw[0], library), rtol=2e-3, atol=2e-3)


@each
@given(seed=st.integers(0, 1000))
def test_predictions_start_at_the_mean_of_each_feature(name, seed):
    """With zero inflation at half of it, as half of the counts start as additional zeros."""
    likelihood, x, _, _ = build(name, seed)
    start = likelihood.start()
    assert start.shape == (likelihood.n_outputs * D,)
    mean = x.mean(0)
    library = mean.sum(0, keepdim=True)
    found = likelihood.mean(start, library) * (2 if name == "zinb" else 1)
    torch.testing.assert_close(found, mean, rtol=1e-2, atol=1e-3)


@each
def test_a_feature_that_is_always_the_same_has_a_start(name):
    likelihood, _, _, _ = build(name)
    for value in (0.0, 1.0):
        likelihood.mean_.fill_(value)
        assert likelihood.start().isfinite().all()


@each
def test_samples_are_drawn_from_the_distribution(name):
    likelihood, _, _, raw = build(name)
    library = torch.full((B, 1), 12.0)
    torch.manual_seed(0)
    n = 20_000
    draws = likelihood.sample(raw[0].expand(n, -1, -1), library)
    assert draws.shape == (n, B, D)
    assert not draws.requires_grad
    assert likelihood.in_domain(draws.numpy()).all()
    _, mean, sd = moments(likelihood, raw[0], library)
    assert ((draws.mean(0) - mean).abs() < 5 * sd / math.sqrt(n) + 2e-3 * mean.abs()).all()
    torch.testing.assert_close(draws.std(0), sd, rtol=0.1, atol=0.0)


@each
def test_domains(name):
    inside = {
        "normal": [True, True, True, True],
        "bernoulli": [False, True, True, False],
        "beta": [False, True, True, False],
    }.get(name, [False, True, True, True])
    values = np.array([-0.31, 0.0, 1.0, 7.0])
    assert LIKELIHOODS[name].in_domain(values).tolist() == inside
    assert LIKELIHOODS[name].in_domain(np.array([0.5])).tolist() == [name in ("normal", "beta")]


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


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_means_of_counts_sum_to_the_library(name):
    likelihood, _, library, raw = build(name)
    raw[..., D:] = -50  # no additional zeros
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


def scipy_log_prob(likelihood, raw, x, library):
    """What scipy says, in double precision."""
    raw, x, library = (t.detach().numpy().astype(float) for t in (raw, x, library))
    learned = {k: p.detach().numpy().astype(float) for k, p in likelihood.named_parameters()}
    first, second = raw[..., :D], raw[..., D:]
    if likelihood.name == "normal":
        scale = np.log1p(np.exp(learned["raw_scale"]))
        standardised = (x - likelihood.mean_.numpy()) / likelihood.scale_.numpy()
        return scipy_stats.norm.logpdf(standardised, first, scale)
    if likelihood.name == "bernoulli":
        return scipy_stats.bernoulli.logpmf(x, expit(first))
    if likelihood.name == "beta":
        a, b = (np.exp(learned["log_precision"]) * expit(sign * first) for sign in (1, -1))
        return scipy_stats.beta.logpdf(x.clip(1e-3, 1 - 1e-3), a, b)
    mean = softmax(first, -1) * library
    if likelihood.name == "poisson":
        return scipy_stats.poisson.logpmf(x, mean)
    theta = np.exp(learned["log_theta"])

    def nb(mean):
        return scipy_stats.nbinom.logpmf(x, theta, theta / (theta + mean))

    if likelihood.name == "nb":
        return nb(mean)
    share = expit(second)
    if likelihood.name == "zinb":
        return np.log(share * (x == 0) + (1 - share) * np.exp(nb(mean)))
    background = np.exp(learned["log_background"])
    foreground = background * (1 + np.log1p(np.exp(first)))
    return np.log(share * np.exp(nb(background)) + (1 - share) * np.exp(nb(foreground)))


@each
@given(seed=st.integers(0, 1000))
def test_log_prob_equals_scipys(name, seed):
    likelihood, x, library, raw = build(name, seed)
    for parameter in likelihood.parameters():
        parameter.data += torch.randn(D)
    np.testing.assert_allclose(
        likelihood.log_prob(raw, x, library).detach(),
        scipy_log_prob(likelihood, raw, x, library),
        rtol=1e-4,
        atol=1e-3,  # differences of log Γ that are hundreds, in single precision
    )


def scvi_distribution(likelihood, raw, library):
    """The same distribution in scvi-tools."""
    first, second = raw.chunk(2, -1)
    theta = likelihood.log_theta.exp()
    if likelihood.name == "zinb":
        return scvi.distributions.ZeroInflatedNegativeBinomial(
            mu=first.softmax(-1) * library, theta=theta, zi_logits=second
        )
    return scvi.distributions.NegativeBinomialMixture(
        mu1=likelihood.log_background.exp(),
        mu2=likelihood.foreground_mean(raw, library),
        theta1=theta,
        mixture_logits=second,
    )


@pytest.mark.parametrize("name", ["zinb", "nb_mixture"])
@given(seed=st.integers(0, 1000))
def test_log_prob_and_mean_equal_those_of_scvi_tools(name, seed):
    likelihood, x, library, raw = build(name, seed)
    likelihood.log_theta.data.normal_()
    reference = scvi_distribution(likelihood, raw, library)
    torch.testing.assert_close(
        likelihood.log_prob(raw, x, library), reference.log_prob(x), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(likelihood.mean(raw, library), reference.mean)


def test_zeros_are_inflated_and_nothing_else():
    likelihood, _, library, raw = build("zinb")
    nb = LIKELIHOODS["nb"](FeatureStats(np.ones(D), np.ones(D), 1.0))
    raw[..., D:] = 1.5
    share = torch.tensor(1.5).sigmoid()
    zero, one = torch.zeros(B, D), torch.ones(B, D)
    expected = share + (1 - share) * nb.log_prob(raw[..., :D], zero, library).exp()
    torch.testing.assert_close(likelihood.log_prob(raw, zero, library).exp(), expected)
    expected = (1 - share).log() + nb.log_prob(raw[..., :D], one, library)
    torch.testing.assert_close(likelihood.log_prob(raw, one, library), expected)


def test_a_background_starts_between_the_dim_cells_and_the_median():
    """A marker of one cell in ten: 20 counts of background, 100 times as many elsewhere."""
    rng = np.random.default_rng(0)
    bright = rng.random((2000, 1)) < 0.1
    x = rng.poisson(rng.gamma(5, np.where(bright, 2000, 20) / 5))
    stats = FeatureStats(x.mean(0), x.std(0), 1.0)
    start = LIKELIHOODS["nb_mixture"](stats).log_background.exp().item()
    assert 1 < start < np.median(x)
    assert (stats.mean - stats.scale).item() < 0


def test_counts_of_proteins_do_not_depend_on_the_library_size():
    likelihood, x, library, raw = build("nb_mixture")
    assert torch.equal(
        likelihood.log_prob(raw, x, library), likelihood.log_prob(raw, x, library * torch.nan)
    )
    assert torch.equal(likelihood.mean(raw, library), likelihood.mean(raw, library * torch.nan))
    np.testing.assert_allclose(likelihood.linear_scale(x.numpy(), library), x.log1p())
    sparse = likelihood.linear_scale(sp.csr_matrix(x.numpy()), library)
    assert sp.issparse(sparse)
    np.testing.assert_allclose(sparse.toarray(), x.log1p())


def test_the_precision_starts_as_moments_say():
    rng = np.random.default_rng(0)
    x = rng.beta([20, 0.5, 300], [30, 0.5, 100], (5000, 3))
    likelihood = LIKELIHOODS["beta"](FeatureStats(x.mean(0), x.std(0), 1.0))
    np.testing.assert_allclose(likelihood.log_precision.exp().detach(), [50, 1, 400], rtol=0.1)


def test_fractions_are_read_and_regressed_as_logits():
    likelihood, x, library, _ = build("beta")
    x[0] = torch.tensor([0.0, 1.0, 0.5, 0.25])
    values = x.numpy().astype(float)
    expected = logit(values.clip(1e-3, 1 - 1e-3))
    linear = likelihood.linear_scale(values, library.numpy())
    np.testing.assert_allclose(linear, expected, rtol=1e-6)
    sparse = likelihood.linear_scale(sp.csr_matrix(values), library.numpy())
    np.testing.assert_allclose(sparse, expected, rtol=1e-6)
    assert np.isnan(likelihood.linear_scale(np.array([[np.nan]]), library.numpy())).all()
    read = likelihood.encoder_input(x)
    for j in range(D):
        assert np.corrcoef(read[:, j], linear[:, j])[0, 1] > 0.999
    torch.testing.assert_close(
        likelihood.encoder_input(likelihood.mean_), torch.zeros(D), rtol=0, atol=1e-5
    )


def test_fractions_are_read_with_a_spread_of_about_one():
    rng = np.random.default_rng(0)
    x = rng.beta([20, 3, 300], [30, 9, 100], (5000, 3)).astype(np.float32)
    likelihood = LIKELIHOODS["beta"](FeatureStats(x.mean(0), x.std(0), 1.0))
    read = likelihood.encoder_input(torch.as_tensor(x))
    torch.testing.assert_close(read.std(0), torch.ones(3), rtol=0.2, atol=0)


def test_cross_view_noise_is_that_of_the_residuals():
    likelihood, x, library, raw = build("normal")
    measured = torch.rand(B, D) < 0.8
    for _ in range(200):
        likelihood.update_cross_view_noise(raw, x, measured)
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
    likelihood.update_cross_view_noise(raw, x, torch.zeros(B, 1, dtype=torch.bool))
    torch.testing.assert_close(likelihood.cross_view_variance, torch.ones(D))


@each
def test_other_likelihoods_do_not_tell_cross_view_apart(name):
    likelihood, x, library, raw = build(name)
    likelihood.update_cross_view_noise(raw, x, torch.ones(B, 1, dtype=torch.bool))
    values = [likelihood.log_prob(raw, x, library, cross_view=c) for c in (True, False)]
    assert torch.equal(*values) == (name != "normal")


@pytest.mark.parametrize("name", COMPOSITIONS)
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


# --------------------------------------------------------------------------------------------
# In a model
# --------------------------------------------------------------------------------------------


def simulated(likelihood):
    """Data of which the second modality suits a likelihood."""
    kind = {"beta": "normal", "zinb": "nb", "nb_mixture": "nb"}[likelihood]
    mdata = scvenn.datasets.simulate_counts(
        300,
        modalities={"rna": "nb", "other": kind},
        n_features=16,
        n_shared_features=12,
        n_types=3,
        missing=0.1,
    )
    x = mdata["other"].X
    if likelihood == "beta":
        x = expit(x)
    if LIKELIHOODS[likelihood].allows_missing:
        x = x.toarray() if sp.issparse(x) else x
        x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    mdata["other"].X = x
    return mdata


@pytest.mark.parametrize("likelihood", ["zinb", "nb_mixture", "beta"])
def test_a_model_trains_with_it_and_predicts_in_its_range(likelihood):
    mdata = simulated(likelihood)
    scvi.settings.seed = 0
    scvenn.MMVAEpp.setup_mudata(mdata, likelihoods={"other": likelihood})
    model = scvenn.MMVAEpp(mdata, n_hidden=16)
    model.train(2, **QUIET)
    assert np.isfinite(model.history["train_loss"].to_numpy(float)).all()
    assert model.get_shared_scores()["shared"].any()
    for source in ("rna", "other", ["rna", "other"]):
        predicted = model.predict(source, "other", return_numpy=True)
        first = source if isinstance(source, str) else source[0]
        measured = mdata.obs_names.isin(mdata[first].obs_names)
        predicted = predicted[measured]
        assert predicted.shape[1] == 16
        assert np.isfinite(predicted).all()
        assert (predicted >= 0).all()
        assert likelihood != "beta" or (predicted <= 1).all()


def test_they_are_not_inferred():
    for likelihood, inferred in (("zinb", "nb"), ("nb_mixture", "normal"), ("beta", "normal")):
        mdata = simulated(likelihood)
        model = scvenn.MMVAEpp(mdata, n_hidden=16)
        assert model.module.likelihood("other").name == inferred


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [
        ("beta", "'beta' needs fractions between 0 and 1, found 2 in"),
        ("zinb", "'zinb' needs non-negative integers, found 0"),
        ("nb_mixture", "'nb_mixture' needs non-negative integers, found 0"),
    ],
)
def test_other_values_are_refused(likelihood, message):
    mdata = simulated("beta")
    mdata["other"].X[3, 2] = 2
    with pytest.raises(ValueError, match=message):
        scvenn.MMVAEpp.setup_mudata(mdata, likelihoods={"other": likelihood})


@pytest.mark.slow
def test_proteins_with_a_background():
    """Counts of 224 antibodies; some cells have no RNA, some have no antibodies."""
    data_file("citeseq_mosaic.h5mu")
    mdata = scvenn.datasets.citeseq_mosaic()
    scvi.settings.seed = 0
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key="batch", likelihoods={"adt": "nb_mixture"})
    model = scvenn.MMVAEpp(mdata)
    model.train(10, **QUIET)
    elbo = model.history["elbo_validation"].to_numpy(float).ravel()
    assert np.isfinite(elbo).all()
    assert elbo[-1] < elbo[0]
    predicted = model.predict("adt", "adt", return_numpy=True)
    measured = mdata.obs_names.isin(mdata["adt"].obs_names)
    assert np.isfinite(predicted[measured]).all()
    background = model.module.likelihood("adt").log_background.exp().detach().cpu().numpy()
    assert (predicted[measured] >= 0.999 * background).all()


def test_gradients_by_hand_are_those_of_finite_differences():
    """Of the negative binomial: with zeros, large counts, and odds shared by all cells."""
    x = torch.tensor([[0.0, 1, 70], [2, 0, 0]], dtype=torch.double)
    log_theta = torch.tensor([-1.0, 0.5, 2], dtype=torch.double, requires_grad=True)
    of_cells = torch.randn(2, 3, dtype=torch.double, requires_grad=True)
    for shape in ((3, 2, 3), (2, 3), (3,)):
        log_odds = torch.randn(shape, dtype=torch.double, requires_grad=True)
        for theta in (log_theta, of_cells):
            assert torch.autograd.gradcheck(
                lambda odds, theta: negative_binomial_log_prob(x, odds, theta), (log_odds, theta)
            )
