"""Every likelihood keeps the public contract; the rest is what is special of each."""

import ast
from pathlib import Path

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
from scvenn.likelihoods import LIKELIHOODS, FeatureStats, inferred_likelihoods
from scvenn.likelihoods.densities import negative_binomial_log_prob
from scvenn.testing import check_likelihood
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


@each
def test_it_keeps_the_contract(name):
    check_likelihood(LIKELIHOODS[name])


def test_cross_view_noise_is_followed_in_each_batch():
    likelihood, x, _, raw = build("normal", n_batches=3)
    batch = torch.tensor([0, 0, 0, 1, 1, 1])
    measured = torch.ones(3, B, 1, dtype=torch.bool)
    misses = likelihood.cross_view_misses(raw, x, measured, batch)
    for _ in range(200):
        likelihood.update_cross_view_noise(misses)
    square = (likelihood.encoder_input(x) - raw).square()
    for number in (0, 1):
        expected = square[:, batch == number].mean((0, 1))
        torch.testing.assert_close(likelihood.cross_view_variance[number], expected)
    assert (likelihood.cross_view_variance[2] == 1).all()  # nothing was seen of it


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
        mu2=likelihood.foreground_mean(raw),
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
    np.testing.assert_allclose(likelihood.regression_scale(x.numpy(), library), x.log1p())
    sparse = likelihood.regression_scale(sp.csr_matrix(x.numpy()), library)
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
    linear = likelihood.regression_scale(values, library.numpy())
    np.testing.assert_allclose(linear, expected, rtol=1e-6)
    sparse = likelihood.regression_scale(sp.csr_matrix(values), library.numpy())
    np.testing.assert_allclose(sparse, expected, rtol=1e-6)
    assert np.isnan(likelihood.regression_scale(np.array([[np.nan]]), library.numpy())).all()
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
    misses = likelihood.cross_view_misses(raw, x, measured.expand(3, B, D))
    for _ in range(200):
        likelihood.update_cross_view_noise(misses)
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
    misses = likelihood.cross_view_misses(raw, x, torch.zeros(3, B, 1, dtype=torch.bool))
    likelihood.update_cross_view_noise(misses)
    likelihood.set_held_out_noise(misses)
    torch.testing.assert_close(likelihood.cross_view_variance, torch.ones(D))
    torch.testing.assert_close(likelihood.held_out_ratio, torch.ones(D))


def test_one_prediction_of_one_cell_counts_in_full():
    likelihood, x, _, raw = build("normal")
    counts = torch.zeros(3, B, 1, dtype=torch.bool)
    counts[1, 2] = True
    misses = likelihood.cross_view_misses(raw, x, counts)
    for _ in range(200):
        likelihood.update_cross_view_noise(misses)
    expected = (likelihood.encoder_input(x)[2] - raw[1, 2]).square().clamp(min=1e-4)
    torch.testing.assert_close(likelihood.cross_view_variance, expected)


def test_predictions_that_do_not_count_leave_the_noise_as_it_is():
    likelihood, x, _, raw = build("normal")
    counts = torch.tensor([True, False, True])[:, None, None].expand(3, B, 1)
    misses = likelihood.cross_view_misses(raw, x, counts)
    likelihood.cross_view_variance.copy_(misses[0] / misses[1])
    expected = (likelihood.encoder_input(x) - raw[[0, 2]]).square().mean((0, 1))
    torch.testing.assert_close(likelihood.cross_view_variance, expected)


def test_cross_view_noise_is_that_of_held_out_cells_where_they_are_many():
    likelihood, x, library, raw = build("normal")
    likelihood.cross_view_variance.fill_(0.01)  # networks are as close as that to training cells
    misses = likelihood.cross_view_misses(raw, x, torch.ones(3, B, 1, dtype=torch.bool))
    likelihood.set_held_out_noise(misses * 10_000)
    expected = (likelihood.encoder_input(x) - raw).square().mean((0, 1))
    found = likelihood.cross_view_variance * likelihood.held_out_ratio
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0)
    normal = torch.distributions.Normal(raw, found.sqrt())
    found = likelihood.log_prob(raw, x, library, cross_view=True)
    torch.testing.assert_close(found, normal.log_prob(likelihood.encoder_input(x)))


def test_the_noise_of_few_held_out_cells_is_scaled_for_all_features_alike():
    likelihood, _, _, _ = build("normal")
    one_cell = torch.stack([torch.linspace(0, 6, D), torch.ones(D)])  # squares, numbers of cells
    likelihood.set_held_out_noise(one_cell)
    assert likelihood.held_out_ratio.mean() == pytest.approx(3)
    assert (likelihood.held_out_ratio - 3).abs().max() < 0.1


@each
def test_other_likelihoods_do_not_tell_cross_view_apart(name):
    likelihood, x, library, raw = build(name)
    assert likelihood.cross_view_noise == (name == "normal")
    if likelihood.cross_view_noise:
        misses = likelihood.cross_view_misses(raw, x, torch.ones(3, B, 1, dtype=torch.bool))
        likelihood.update_cross_view_noise(misses)
    values = [likelihood.log_prob(raw, x, library, cross_view=c) for c in (True, False)]
    assert torch.equal(*values) == (name != "normal")


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_regression_scale_is_blind_to_the_depth_of_a_cell(name):
    likelihood, x, library, _ = build(name)
    depth = np.arange(1, B + 1)[:, None]
    values, sums = x.numpy(), library.numpy()
    one = likelihood.regression_scale(values, sums)
    np.testing.assert_allclose(
        one, likelihood.regression_scale(values * depth, sums * depth), rtol=1e-6
    )
    sparse = likelihood.regression_scale(sp.csr_matrix(values), sums)
    assert sp.issparse(sparse)
    np.testing.assert_allclose(one, sparse.toarray(), rtol=1e-6)


@pytest.mark.parametrize("name", [n for n in LIKELIHOODS if n != "normal"])
@given(data=st.data())
def test_regression_scale_does_not_depend_on_storage_or_type(name, data):
    """The values of each type that are exact in it, with repeated entries that are to be summed."""
    likelihood = build(name)[0]
    top = 1 if name in ("bernoulli", "beta") else 120
    n = data.draw(st.integers(1, 5))
    numbers = data.draw(st.lists(st.integers(0, top), min_size=n * D, max_size=n * D))
    values = np.array(numbers, dtype=np.int8).reshape(n, D)
    library = values.sum(1, keepdims=True, dtype=np.float64)
    expected = likelihood.regression_scale(values.astype(np.float64), library)
    rows, columns = values.nonzero()
    twice = sp.coo_matrix(
        (np.tile(values[rows, columns] / 2, 2), (np.tile(rows, 2), np.tile(columns, 2))), (n, D)
    )
    uncanonical = sp.csr_matrix((n, D))
    uncanonical.indptr = np.concatenate([[0], np.bincount(np.tile(rows, 2), minlength=n).cumsum()])
    order = np.argsort(twice.row, kind="stable")
    uncanonical.indices, uncanonical.data = twice.col[order], twice.data[order]
    stored_before = uncanonical.data.copy()
    stored = [values, values.astype(np.float16), np.asfortranarray(values), values.astype(np.int64)]
    stored += [sp.csr_matrix(values), sp.csc_matrix(values), sp.coo_matrix(values), uncanonical]
    for matrix in stored:
        found = likelihood.regression_scale(matrix, library)
        assert found.dtype == np.float32
        dense = found.toarray() if sp.issparse(found) else found
        np.testing.assert_array_equal(dense, expected)
    np.testing.assert_array_equal(uncanonical.data, stored_before)


def test_a_library_beyond_half_precision_is_divided_by_in_full():
    likelihood = build("nb")[0]
    x = np.full((1, D), 30_000, np.float32)
    found = likelihood.regression_scale(x, np.array([[120_000]]))
    np.testing.assert_allclose(found, np.log1p(likelihood.library_.item() / 4), rtol=1e-6)


# --------------------------------------------------------------------------------------------
# What they declare, and who reads it
# --------------------------------------------------------------------------------------------

SOURCE = Path(scvenn.__file__).parent


def test_likelihoods_are_inferred_from_the_narrowest_to_the_widest():
    assert inferred_likelihoods() == ["bernoulli", "nb", "normal"]


def test_effects_are_fold_changes_of_counts_and_differences_of_others():
    effects = {
        name: (cls.effect.name, cls.effect.default_delta) for name, cls in LIKELIHOODS.items()
    }
    fractions = {"bernoulli": ("difference", 0.05), "beta": ("difference", 0.05)}
    counts = dict.fromkeys(["poisson", "nb", "zinb", "nb_mixture"], ("lfc", 0.25))
    assert effects == {"normal": ("difference", 0.25), **fractions, **counts}


def test_fold_changes_by_hand():
    compare = LIKELIHOODS["nb"].effect.compare
    np.testing.assert_allclose(compare(np.array([7.0, 0.0]), np.array([1.0, 0.0]), 1.0), [2, 0])


@each
def test_names_and_summaries_can_be_read_without_importing(name):
    """The command line lists them without waiting for torch."""
    found = {}
    for path in (SOURCE / "likelihoods").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                constants = {
                    statement.targets[0].id: statement.value.value
                    for statement in node.body
                    if isinstance(statement, ast.Assign)
                    and isinstance(statement.value, ast.Constant)
                }
                found[constants.get("name")] = constants.get("summary")
    assert found[name] == LIKELIHOODS[name].summary


def test_no_other_room_asks_which_likelihood_it_has():
    """Neither for a class of the table nor for a name: it would miss one from outside."""
    classes = {cls.__name__ for cls in LIKELIHOODS.values()}
    for path in SOURCE.rglob("*.py"):
        if path.relative_to(SOURCE).parts[0] in ("likelihoods", "datasets.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                named = {alias.name for alias in node.names} & classes
                assert not (node.module or "").startswith("scvenn.likelihoods") or not named, path
            if isinstance(node, ast.Compare):
                compared = {getattr(part, "value", None) for part in (node.left, *node.comparators)}
                assert not compared & set(LIKELIHOODS), f"{path} line {node.lineno}"


@each
def test_the_guide_to_data_has_a_row_for_it(name):
    guide = SOURCE.parent.parent / "docs" / "data.md"
    assert f"\n| `{name}` |" in guide.read_text()


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
    model.train(4, **QUIET)
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
