"""The public contracts: they pass what is right and name what is wrong."""

import numpy as np
import pytest
import scipy.sparse as sp
import scvi
import torch
from torch import nn
from torch.distributions import Geometric as TorchGeometric
from torch.distributions import LogNormal as TorchLogNormal

import scvenn
from scvenn.likelihoods import (
    LIKELIHOODS,
    LOG_FOLD_CHANGE,
    Likelihood,
    NegativeBinomial,
    Normal,
    Poisson,
)
from scvenn.objective import mmvae, mmvaepp, mopoe, mvae
from scvenn.testing import check_likelihood, check_objective
from tests.conftest import QUIET

# --------------------------------------------------------------------------------------------
# Two likelihoods that are not of the package
# --------------------------------------------------------------------------------------------


class LogNormal(Likelihood):
    """Positive numbers: the decoder gives location and spread of the logarithm."""

    name = "lognormal"
    summary = "positive numbers (log-normal)"
    domain = "numbers above 0"
    allows_missing = True
    effect = LOG_FOLD_CHANGE
    n_outputs = 2

    @staticmethod
    def in_domain(values):
        return values > 0

    def encoder_input(self, x):
        return x.clamp(min=1e-6).log()

    def _distribution(self, raw):
        location, spread = raw.chunk(2, -1)  # (..., B, D) each
        return TorchLogNormal(location.clamp(-20, 20), 0.1 + 0.4 * spread.sigmoid())

    def start(self):
        variance = self.mean_.new_full(self.mean_.shape, 0.3**2)
        location = self.mean_.clamp(min=1e-6).log() - variance / 2
        return torch.cat([location, torch.zeros_like(location)])

    def log_prob(self, raw, x, library, batch=None, cross_view=False):
        return self._distribution(raw).log_prob(x.clamp(min=1e-6))

    def mean(self, raw, library):
        return self._distribution(raw).mean

    def sample(self, raw, library, batch=None):
        return self._distribution(raw).sample()

    def _regression_scale(self, values, library):
        return np.log(values)

    def scaled_mean(self, raw):
        return super().scaled_mean(raw).log()


class Geometric(Likelihood):
    """Counts whose variance is mean + mean², a share of the library size."""

    name = "geometric"
    summary = "counts (geometric)"
    domain = "non-negative integers"
    allows_missing = False
    discrete = True
    effect = LOG_FOLD_CHANGE
    sparse_on_regression_scale = True
    squares_inform = False

    @staticmethod
    def in_domain(values):
        return (values >= 0) & (values == np.floor(values))

    def encoder_input(self, x):
        return x.log1p()

    def start(self):
        return self.mean_.clamp(min=1e-3).log()

    def log_prob(self, raw, x, library, batch=None, cross_view=False):
        log_mean = raw.log_softmax(-1) + library.log()
        return x * log_mean - (x + 1) * nn.functional.softplus(log_mean)

    def mean(self, raw, library):
        return raw.softmax(-1) * library

    def sample(self, raw, library, batch=None):
        return TorchGeometric(1 / (1 + self.mean(raw, library))).sample()

    def _regression_scale(self, values, library):
        return np.log1p(values)

    def scaled_mean(self, raw):
        return super().scaled_mean(raw).log1p()

    def linear_predictor(self, raw):
        return raw.log_softmax(-1)


OUTSIDE = [LogNormal, Geometric]


@pytest.mark.parametrize("cls", OUTSIDE)
def test_a_likelihood_from_outside_keeps_the_contract(cls):
    check_likelihood(cls)


def data_for(cls):
    """Counts beside values that suit the likelihood, with cells that lack one of them."""
    mdata = scvenn.datasets.simulate_counts(
        160,
        modalities={"rna": "nb", "other": "normal" if cls is LogNormal else "nb"},
        n_features=16,
        n_shared_features=10,
        n_types=3,
        missing=0.1,
    )
    if cls is LogNormal:
        x = np.exp(mdata["other"].X)
        x[np.random.default_rng(0).random(x.shape) < 0.05] = np.nan
        mdata["other"].X = x
    return mdata


@pytest.mark.parametrize("screen", [True, False])
@pytest.mark.parametrize("cls", OUTSIDE)
def test_everything_runs_with_a_likelihood_from_outside(cls, screen, monkeypatch, tmp_path):
    monkeypatch.setitem(LIKELIHOODS, cls.name, cls)
    mdata, scvi.settings.seed = data_for(cls), 0
    scvenn.MMVAEpp.setup_mudata(
        mdata, likelihoods={"other": cls.name}, labels_key="cell_type", batch_key="batch"
    )
    model = scvenn.MMVAEpp(mdata, n_shared=3, n_private=3, n_hidden=16, screen=screen)
    assert type(model.module.likelihood("other")) is cls
    model.train(3, train_size=0.7, **QUIET)
    assert np.isfinite(model.history["train_loss"].to_numpy(float)).all()
    if screen:
        assert model.get_shared_scores().query("modality == 'other'")["shared"].any()

    scores = model.evaluate().query("target == 'other'")
    assert set(scores["metric"]) == {"r2", "pearson", "leakage_r2"}
    assert model.variance_explained()["r2"].notna().all()
    for latent in ("shared", "private"):
        loadings = model.loadings("other", latent)
        assert len(loadings) == 16 * 3
        assert loadings["loading"].abs().gt(0).any()
    table = model.differential("cell_type", modality="other", n_samples=50)
    assert {"lfc_mean", "pseudocounts", "scale1"} <= set(table.columns)
    assert np.isfinite(table["lfc_mean"]).all()

    measured = mdata.obs_names.isin(mdata["other"].obs_names)
    draws = model.sample_posterior("rna", "other", n_samples=2)
    drawn = np.asarray(draws)
    assert cls.in_domain(drawn[np.isfinite(drawn)]).all()
    expected = model.get_normalized_expression("other", return_numpy=True)
    assert np.isfinite(expected[measured]).all()

    model.save(tmp_path / "model")
    loaded = scvenn.MMVAEpp.load(tmp_path / "model", mdata)
    for source in ("rna", "other"):
        found, before = (m.predict(source, "other", return_numpy=True) for m in (loaded, model))
        np.testing.assert_allclose(found, before, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("cls", OUTSIDE)
def test_a_report_shows_a_likelihood_from_outside(cls, monkeypatch, tmp_path):
    monkeypatch.setitem(LIKELIHOODS, cls.name, cls)
    mdata = data_for(cls)
    scvenn.MMVAEpp.setup_mudata(mdata, likelihoods={"other": cls.name})
    model = scvenn.MMVAEpp(mdata, n_shared=3, n_private=3, n_hidden=16)
    model.train(2, train_size=0.7, **QUIET)
    model.report(tmp_path / "report.html")
    assert cls.name in (tmp_path / "report.html").read_text()


def test_a_likelihood_with_a_rank_is_inferred(monkeypatch):
    monkeypatch.setitem(LIKELIHOODS, "lognormal", LogNormal)
    monkeypatch.setattr(LogNormal, "inferred_rank", 1.5)
    model = scvenn.MMVAEpp(data_for(LogNormal))
    assert [model.module.likelihood(m).name for m in model.modalities] == ["nb", "lognormal"]


def test_values_outside_the_domain_of_a_likelihood_from_outside_are_refused(monkeypatch):
    monkeypatch.setitem(LIKELIHOODS, "lognormal", LogNormal)
    mdata = data_for(LogNormal)
    mdata["other"].X[2, 1] = 0
    with pytest.raises(ValueError, match="'lognormal' needs numbers above 0, found 0 in"):
        scvenn.MMVAEpp.setup_mudata(mdata, likelihoods={"other": "lognormal"})


# --------------------------------------------------------------------------------------------
# Broken likelihoods, each in one way
# --------------------------------------------------------------------------------------------


class NoSummary(Likelihood):
    name = "no_summary"
    domain = "real numbers"
    allows_missing = True
    in_domain = staticmethod(Normal.in_domain)


class SameRank(Normal):
    name = "another"


class OtherConstructor(Normal):
    def __init__(self, stats, n_batches=None, extra=1):
        super().__init__(stats, n_batches)


class NotStandardised(Normal):
    """Densities are of the standardised value, and the unit is that of the data."""

    unit = Likelihood.unit


class WrongMean(Poisson):
    def mean(self, raw, library):
        return 1.08 * super().mean(raw, library)

    def sample(self, raw, library, batch=None):
        return torch.poisson(super().mean(raw, library))


class WrongStart(NegativeBinomial):
    def start(self):
        return torch.zeros_like(self.mean_)


class SummedOverFeatures(Normal):
    def log_prob(self, raw, x, library, batch=None, cross_view=False):
        return super().log_prob(raw, x, library, batch, cross_view).sum(-1)


class Overflows(Normal):
    def log_prob(self, raw, x, library, batch=None, cross_view=False):
        return super().log_prob(raw, x, library, batch, cross_view) - (2 * raw).exp() * 1e-3


class ChangesItsInput(Normal):
    def encoder_input(self, x):
        return x.sub_(self.mean_).div_(self.scale_)


class OutOfDomain(NegativeBinomial):
    def sample(self, raw, library, batch=None):
        return self.mean(raw, library).detach()


class SpoiledByTheLibrary(NegativeBinomial):
    allows_missing = True


class StorageMatters(NegativeBinomial):
    def regression_scale(self, values, library):
        return values if sp.issparse(values) else super().regression_scale(values, library)


class ZerosDoNotStay(NegativeBinomial):
    def _regression_scale(self, values, library):
        return np.log(values + 0.1)


class AxesOnAnotherScale(NegativeBinomial):
    scaled_mean = Likelihood.scaled_mean


class Forgets(Normal):
    """Its centre is neither a parameter nor a buffer."""

    def __init__(self, stats, n_batches=None):
        super().__init__(stats, n_batches)
        self.centre = torch.as_tensor(stats.mean, dtype=torch.float32)

    def mean(self, raw, library):
        return raw * self.scale_ + self.centre


class IgnoresBatches(Normal):
    def log_prob(self, raw, x, library, batch=None, cross_view=False):
        first = None if batch is None else torch.zeros_like(batch)
        return super().log_prob(raw, x, library, first, cross_view)


class CountsWhatIsMissing(Normal):
    def total(self, output, x, measured, library, batch=None, cross_view=False):
        everything = torch.ones_like(measured)
        return super().total(output, x, everything, library, batch, cross_view)


@pytest.mark.parametrize(
    ("cls", "promise"),
    [
        (NoSummary, "It declares name, summary"),
        (SameRank, "inferred_rank is 2, as that of ['normal']"),
        (OtherConstructor, "It is built from stats and n_batches"),
        (NotStandardised, "per unit, is the density"),
        (WrongMean, "The mean is that of what sample draws"),
        (WrongStart, "The start predicts the mean"),
        (SummedOverFeatures, "a value for each term, cell and feature"),
        (Overflows, "Values and gradients are finite"),
        (ChangesItsInput, "change none of their arguments"),
        (OutOfDomain, "sample draws"),
        (SpoiledByTheLibrary, "nothing depends on the library size"),
        (StorageMatters, "the same finite numbers however values are stored"),
        (ZerosDoNotStay, "the same finite numbers however values are stored"),
        (AxesOnAnotherScale, "scaled_mean is the mean on the scale of regression"),
        (Forgets, "is in its state_dict"),
        (IgnoresBatches, "as by a likelihood of that batch alone"),
        (CountsWhatIsMissing, "The total sums log_prob over what was measured"),
    ],
)
def test_a_broken_promise_is_named(cls, promise):
    with pytest.raises(AssertionError, match=f"likelihood {cls.__name__} breaks a promise") as e:
        check_likelihood(cls)
    assert promise in str(e.value)


def test_a_likelihood_of_a_local_class_cannot_be_pickled():
    class Local(Normal):
        pass

    with pytest.raises(AssertionError, match="It can be pickled and copied"):
        check_likelihood(Local)


class Hundreds(NegativeBinomial):
    """Counts of at least a hundred."""

    @staticmethod
    def in_domain(values):
        return (values >= 100) & (values == np.floor(values))


def test_a_domain_of_its_own_needs_values():
    with pytest.raises(AssertionError, match=r"Pass values=\.\.\., an array of shape \(6, 4\)"):
        check_likelihood(Hundreds)
    with pytest.raises(AssertionError, match="sample draws"):
        check_likelihood(Hundreds, values=np.full((6, 4), 123))


def test_random_numbers_of_the_user_are_not_touched():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check_likelihood(LIKELIHOODS["poisson"])
    assert torch.equal(torch.get_rng_state(), before)


# --------------------------------------------------------------------------------------------
# Objectives
# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("a", "b"), ("rna", "a.b", "type")], ids=len)
@pytest.mark.parametrize("recipe", [mvae, mmvae, mmvaepp, mopoe])
def test_the_four_objectives_keep_the_contract(recipe, names):
    check_objective(recipe(names), modalities=names)


def test_an_objective_must_cover_the_modalities():
    with pytest.raises(AssertionError, match=r"encode and decode each of .* names \['b'\]"):
        check_objective(mmvae(["a", "b"]), modalities=["a", "c"])
    only_a = scvenn.Objective((scvenn.Term(("a",), ("a", "b")),))
    with pytest.raises(AssertionError, match=r"No term of the objective has \['b'\] encoded"):
        check_objective(only_a)


def test_a_network_that_no_term_trains_is_named():
    """Nothing of b is decoded from its own private latent."""
    objective = scvenn.Objective((scvenn.Term(("a",), ("a", "b")), scvenn.Term(("b",), ("a",))))
    with pytest.raises(AssertionError, match="Every parameter of a model gets a gradient"):
        check_objective(objective)


# --------------------------------------------------------------------------------------------
# What is no part at all
# --------------------------------------------------------------------------------------------


class _OneAnswer(Poisson):
    name = "one answer"

    @staticmethod
    def in_domain(values):
        return bool((values >= 0).all())


class _NoAnswer(Poisson):
    name = "no answer"

    @staticmethod
    def in_domain(values):
        raise NotImplementedError


@pytest.mark.parametrize("cls", [_OneAnswer, _NoAnswer])
def test_a_domain_must_judge_each_value(cls):
    with pytest.raises(AssertionError, match=r"breaks a promise: in_domain .* each value"):
        check_likelihood(cls)


class _NameOfAnother(Poisson):
    pass


def test_a_name_is_of_one_likelihood():
    with pytest.raises(AssertionError, match="name is 'poisson', as that of Poisson"):
        check_likelihood(_NameOfAnother)


@pytest.mark.parametrize("part", ["poisson", 3, nn.Linear])
def test_what_is_no_likelihood_is_refused(part):
    with pytest.raises(ValueError, match="expected a subclass of Likelihood"):
        check_likelihood(part)


def test_typical_values_must_be_numbers():
    with pytest.raises(ValueError, match=r"values=.*expected an array of numbers"):
        check_likelihood(Poisson, values=[["a"] * 4] * 6)


def test_what_is_no_objective_is_refused():
    terms = (scvenn.Term(("a",), ("a", "b")), scvenn.Term(("b",), ("a", "b")))
    with pytest.raises(ValueError, match=r"expected a scvenn\.Objective"):
        check_objective(terms)


def test_a_saved_model_of_a_likelihood_that_is_not_here_says_so(small, tmp_path, monkeypatch):
    monkeypatch.setitem(LIKELIHOODS, LogNormal.name, LogNormal)
    small["atac"].X = 1 + np.asarray(small["atac"].X.todense())
    scvenn.MMVAE.setup_mudata(small, likelihoods={"atac": "lognormal"})
    model = scvenn.MMVAE(small, n_hidden=8)
    model.train(1, **QUIET)
    model.save(tmp_path / "model")
    monkeypatch.delitem(LIKELIHOODS, LogNormal.name)
    with pytest.raises(ValueError, match=r"^likelihood 'lognormal' not found.*must be added"):
        scvenn.MMVAE.load(tmp_path / "model", small)
