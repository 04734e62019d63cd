"""New batches are mapped onto a trained model, which stays as it is."""

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
import torch
from anndata import AnnData
from click.testing import CliRunner
from mudata import MuData
from sklearn.metrics import roc_auc_score

import scvenn
from scvenn.batches import extend_batch_shifts
from scvenn.cli import main
from scvenn.data.renaming import similar_names
from scvenn.network import Branch, learned_tensors
from scvenn.novelty import novelty
from tests.conftest import MODELS, QUIET, three_modalities
from tests.test_batches import ALL, correct, learned, planted

BATCHES = np.array(["a", "b", "c", "d"])


def cells(batches, *, n_obs=240, seed=0):
    """RNA (nb, some cells lack it) and peaks of some of four batches."""
    mdata = scvenn.datasets.simulate_counts(n_obs, n_features=30, n_types=3, missing=0.1, seed=seed)
    mdata.obs["batch"] = BATCHES[np.arange(n_obs) % 4]
    chosen = mdata[mdata.obs["batch"].isin(list(batches)).to_numpy()].copy()
    found = MuData({m: AnnData(a.X, a.obs[[]], a.var[[]]) for m, a in chosen.mod.items()})
    found.obs = chosen.obs[["batch", "cell_type"]].copy()
    return found


def trained(mdata, name="MMVAEpp", batch_key="batch", max_epochs=3, **arguments):
    scvi.settings.seed = 0
    MODELS[name].setup_mudata(mdata, batch_key=batch_key)
    model = MODELS[name](mdata, n_shared=3, n_private=3, n_hidden=16, **arguments)
    model.train(max_epochs, write_obsm=False, **QUIET)
    return model


def without(mdata, modality, n):
    """The same without the last features of a modality."""
    found = mdata.copy()
    found.mod[modality] = found[modality][:, :-n].copy()
    found.update()
    return found


@pytest.fixture(scope="module")
def model():
    return trained(cells("ab"))


@pytest.fixture(scope="module")
def query():
    return without(cells("cd"), "rna", 10)


@pytest.fixture(scope="module")
def mapped(model, query):
    return model.map_query(query, max_epochs=2, **QUIET)


def everything(model, mdata):
    """Bits of what a model gives for cells."""
    return [
        model.get_latent_representation(mdata),
        model.get_latent_representation(mdata, batch_corrected=False),
        model.predict("rna", "atac", mdata).to_numpy(),
        model.predict(["rna", "atac"], "rna", mdata).to_numpy(),
        model.get_novelty(mdata),
    ]


def same(one, other):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


# ----------------------------------------------------------------- the reference


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dispersion", ["feature", "feature-batch"])
def test_nothing_of_the_reference_moves(name, dispersion):
    reference = cells("ab")
    model = trained(reference, name, dispersion=dispersion)
    before = everything(model, None)
    mapped = model.map_query(cells("cd"), max_epochs=1, **QUIET)
    assert same(everything(model, None), before)
    assert same(everything(mapped, reference), before)


def test_a_reference_without_batches_is_a_batch_of_its_own():
    reference = cells("ab")
    model = trained(reference, batch_key=None)
    before = everything(model, None)
    mapped = model.map_query(cells("cd"), batch_key="batch", max_epochs=1, **QUIET)
    assert mapped.batches == ["reference", "c", "d"]
    reference.obs["batch"] = "reference"
    assert same(everything(mapped, reference), before)


def test_only_what_is_of_new_batches_is_learned(model, mapped):
    known, found = (dict(learned_tensors(m.module)) for m in (model, mapped))
    grown = {name for name in known if known[name].shape != found[name].shape}
    assert grown
    assert all(torch.equal(known[name], found[name]) for name in known if name not in grown)
    shift = "branches.0.cross_decoder.shift"
    assert torch.equal(found[shift][:2], known[shift])
    assert not torch.equal(found[shift][2], known[shift].mean(0))
    assert not torch.equal(found[shift][2], found[shift][3])


def test_nothing_is_learned_of_batches_that_the_model_knows(model):
    mapped = model.map_query(cells("ab", seed=1), **QUIET)
    assert mapped.batches == model.batches
    assert mapped.history_ is None
    assert same(everything(mapped, model.adata), everything(model, None))


def test_new_categories_of_other_covariates_are_learned_as_well():
    reference, query = cells("ab"), cells("c")
    for mdata, donors in ((reference, ["x", "y"]), (query, ["z", "x"])):
        mdata.obs["donor"] = np.resize(donors, mdata.n_obs)
    scvenn.MMVAEpp.setup_mudata(reference, batch_key="batch", categorical_covariate_keys=["donor"])
    model = scvenn.MMVAEpp(reference, n_shared=2, n_private=2, n_hidden=8, decoder="linear")
    model.train(1, **QUIET)
    before = model.predict("rna", "atac")
    mapped = model.map_query(query, max_epochs=1, **QUIET)
    assert mapped.module.n_categories == {"batch": 3, "categorical_donor": 3}
    pd.testing.assert_frame_equal(mapped.predict("rna", "atac", reference), before)


# ----------------------------------------------------------------- the query


def test_the_callers_data_is_only_read(model):
    query = without(cells("cd"), "rna", 10)
    before = query.copy()
    model.map_query(query, max_epochs=1, **QUIET)
    assert query.obs.equals(before.obs)
    assert len(query.uns) == 0
    assert set(query.obsm) == set(before.obsm)
    for m in query.mod:
        assert (query[m].X != before[m].X).nnz == 0
        assert len(query[m].obsm) == 0


def test_a_seed_gives_the_same_bits(model, query):
    found = []
    for _ in range(2):
        scvi.settings.seed = 1
        mapped = model.map_query(query, max_epochs=2, **QUIET)
        found.append(everything(mapped, None))
    assert same(*found)


@pytest.mark.parametrize("kept", ["rna", "atac"])
def test_a_query_may_have_one_modality(model, kept):
    part = cells("c")
    query = MuData({kept: part[kept].copy()})
    query.obs["batch"] = "c"
    mapped = model.map_query(query, max_epochs=1, **QUIET)
    assert np.isfinite(mapped.get_shared_representation()).all()
    other = {"rna": "atac", "atac": "rna"}[kept]
    assert np.isfinite(mapped.predict(kept, other)).all(axis=None)


def test_three_modalities_of_any_kind_are_mapped_with_cells_and_values_missing():
    """Counts, real values with NaN and peaks, each without some of its features."""
    mdata = three_modalities(missing=0.2, n_obs=160)
    is_new = (mdata.obs["batch"] == "batch1").to_numpy()
    reference, query = mdata[~is_new].copy(), mdata[is_new].copy()
    for m in query.mod:
        query = without(query, m, 6)
    model = trained(reference)
    before = model.get_latent_representation()
    mapped = model.map_query(query, max_epochs=1, **QUIET)
    np.testing.assert_array_equal(mapped.get_latent_representation(reference), before)
    assert np.isfinite(mapped.get_shared_representation()).all()
    assert np.isfinite(mapped.get_elbo(return_mean=False)).all()
    scores = mapped.evaluate().query("metric == 'r2'")
    lacking = scores["feature"].isin([f"{m}_{j}" for m in query.mod for j in range(14, 20)])
    assert scores.loc[lacking, "value"].isna().all()
    assert all(scores[~lacking].groupby("target")["value"].count() > 0)
    assert mapped.variance_explained()["r2"].notna().all()


def test_a_query_may_stay_on_disk(model, query, tmp_path):
    query.write(tmp_path / "new.h5mu")
    on_disk = mudata.read_h5mu(tmp_path / "new.h5mu", backed=True)
    mapped = model.map_query(on_disk, max_epochs=1, **QUIET)
    in_memory = model.map_query(query, max_epochs=1, **QUIET)
    np.testing.assert_array_equal(
        mapped.get_shared_representation(), in_memory.get_shared_representation()
    )
    assert mapped.evaluate()["value"].notna().any()


def test_a_mapped_model_is_saved_loaded_and_maps_on(model, mapped, query, tmp_path):
    mapped.save(tmp_path / "model")
    loaded = scvenn.MMVAEpp.load(tmp_path / "model", query)
    assert same(everything(loaded, None), everything(mapped, None))
    assert loaded.reference_batches_ == ["a", "b"]
    further = cells("a", seed=2)
    further.obs["batch"] = "e"
    again = loaded.map_query(further, max_epochs=1, **QUIET)
    assert again.batches == ["a", "b", "c", "d", "e"]
    assert same(everything(again, query), everything(mapped, None))
    assert same(everything(again, model.adata), everything(model, None))


def test_held_out_cells_of_the_query_are_evaluated(mapped):
    table = mapped.evaluate(labels_key="cell_type")
    lacking = table.query("target == 'rna' and metric == 'r2'")
    assert (
        lacking.loc[lacking["feature"].isin([f"rna_{j}" for j in range(20, 30)]), "value"]
        .isna()
        .all()
    )
    assert table.query("target == 'atac' and metric == 'pearson'")["value"].notna().any()
    assert len(mapped.history["validation_loss"]) == 2


def test_what_a_batch_shifts_is_taken_out_of_the_embedding_of_the_query():
    """Three times the same simulation, of which each batch has another effect on the genes."""
    rng = np.random.default_rng(0)
    clean = scvenn.datasets.simulate_counts(300, n_features=60, n_types=3)
    effect = np.exp(rng.normal(0, 1, 60))
    parts = {}
    for name, power in (("a", 0), ("b", 0.5), ("c", 1)):
        counts = rng.poisson(clean["rna"].X.toarray() * effect**power).astype(np.float32)
        parts[name] = {
            "rna": AnnData(counts, var=clean["rna"].var[[]]),
            "atac": AnnData(clean["atac"].X),
        }
        for adata in parts[name].values():
            adata.obs_names = [f"{name}{i}" for i in range(300)]
    reference = MuData({m: anndata.concat([parts[b][m] for b in "ab"]) for m in ("rna", "atac")})
    query = MuData(parts["c"])
    for mdata in (reference, query):
        mdata.obs["batch"] = mdata.obs_names.str[0]
    model = trained(reference, max_epochs=15)
    mapped = model.map_query(query, max_epochs=2, **QUIET)
    middle = model.get_shared_representation().mean(0)
    corrected, uncorrected = (
        np.linalg.norm(mapped.get_shared_representation(batch_corrected=c).mean(0) - middle)
        for c in (True, False)
    )
    assert corrected < 0.5 * uncorrected


# ----------------------------------------------------------------- features that are missing


@pytest.mark.parametrize("convert", [np.array, sp.csr_matrix, sp.csc_matrix])
def test_missing_features_count_as_not_measured(model, mapped, query, convert):
    stored = query.copy()
    stored["rna"].X = convert(stored["rna"].X.toarray())
    expected = mapped.get_latent_representation()
    np.testing.assert_array_equal(mapped.get_latent_representation(stored), expected)
    zeros = cells("cd")
    zeros["rna"].X[:, -10:] = 0
    assert np.nanmax(np.abs(mapped.get_latent_representation(zeros) - expected)) > 0.01


def test_values_of_missing_features_are_predicted(mapped, query):
    predicted = mapped.predict(["rna", "atac"], "rna")
    measured = query.obs_names.isin(query["rna"].obs_names)
    own = predicted[measured]
    assert np.isfinite(own).all(axis=None)
    truth = cells("cd")["rna"][own.index].to_df()
    gone = truth.columns[-10:]
    # a cell's library size counts what is missing: not a third less than of all features
    ratio = own[gone].to_numpy().sum() / truth[gone].to_numpy().sum()
    assert 0.8 < ratio < 1.25


def test_missing_features_alone_are_filled_with_what_latents_predict(mapped, query, monkeypatch):
    seen, filled = [], Branch.filled

    def recording(self, view, *latents):
        seen.append((view, filled(self, view, *latents)))
        return seen[-1][1]

    monkeypatch.setattr(Branch, "filled", recording)
    mapped.get_shared_representation()
    (before, after) = seen[0]
    lacking = np.arange(30) >= 20
    assert torch.equal(after.x[:, ~lacking], before.x[:, ~lacking])
    observed = before.observed.numpy()
    moved = (after.x != before.x).numpy()[observed][:, lacking]
    assert moved.mean() > 0.9
    # what is expected of all features adds up to the cell's library size
    expected = after.x[observed][:, lacking].sum() / before.library[observed].sum()
    share = (
        mapped.module.likelihood("rna").mean_[lacking].sum()
        / mapped.module.likelihood("rna").mean_.sum()
    )
    assert expected == pytest.approx(share.item(), rel=0.3)


def test_other_features_than_those_of_the_query_may_not_be_missing(mapped, query):
    fewer = without(query, "rna", 1)
    with pytest.raises(ValueError, match=r"rna.*11 of the 30 features.*are missing"):
        mapped.get_shared_representation(fewer)


def test_the_features_of_a_query_may_be_in_any_order(mapped, query):
    turned = query.copy()
    turned.mod["rna"] = turned["rna"][:, ::-1].copy()
    np.testing.assert_array_equal(
        mapped.get_latent_representation(turned), mapped.get_latent_representation()
    )


# ----------------------------------------------------------------- novelty


def test_a_type_that_the_reference_lacks_stays_apart_and_is_novel():
    share = np.array(ALL)
    share[0, -1] = share[1, -1] = 0  # the last type is of the last batch alone
    latent, batch, types, _ = planted(share, near=4.0)
    known = batch < 2
    found = extend_batch_shifts(
        learned(latent[known], batch[known], 2), latent[~known], batch[~known], 3
    )
    after = correct(latent, batch, found)
    new = types[~known] == 5
    score = novelty([after[~known]], [after[known]])
    assert roc_auc_score(new, score) > 0.95
    assert np.median(score[~new]) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("n_dims", [3, 20])
def test_a_cell_of_the_reference_is_no_neighbour_of_itself(n_dims):
    rng = np.random.default_rng(0)
    reference, new = rng.standard_normal((2, 500, n_dims)).astype(np.float32)
    own, others = novelty([reference], [reference]), novelty([new], [reference])
    assert np.median(own) == pytest.approx(1)
    assert np.median(own) == pytest.approx(np.median(others), rel=0.03)


def test_novelty_is_finite_where_most_cells_of_the_reference_lie_on_each_other():
    """As with mutations that few cells have."""
    rng = np.random.default_rng(0)

    def latents(n):
        return np.float32(rng.standard_normal((n, 2))), np.float32(rng.random((n, 4)) < 0.02)

    reference, new = latents(300), latents(300)
    score = novelty(new, reference)
    assert 0.5 < np.median(score) < 1.5
    assert score.max() < 10
    score = novelty(
        [np.float32([[1, 0], [1, 1e-3], [0.5, 0.5]])], [np.repeat(np.eye(3, 2), 100, 0)]
    )
    assert score[0] < score[1] < 10 < score[2] < 1e4


def test_a_latent_that_is_constant_in_the_reference_does_not_count():
    rng = np.random.default_rng(0)
    varies = np.float32(rng.standard_normal((100, 2)))
    constant = 1 + 1e-8 * rng.standard_normal((100, 2))
    expected = novelty([varies[:9]], [varies])
    np.testing.assert_array_equal(novelty([varies[:9], constant[:9]], [varies, constant]), expected)


def test_cells_of_known_batches_can_be_evaluated_after_mapping():
    mdata = scvenn.datasets.simulate_counts(160, n_features=12, n_batches=2)
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key="batch")
    reference, query = mdata[:100].copy(), mdata[100:].copy()
    scvenn.MMVAEpp.setup_mudata(reference, batch_key="batch")
    model = scvenn.MMVAEpp(reference, n_hidden=8)
    model.train(1, **QUIET)
    mapped = model.map_query(query)
    assert len(mapped.validation_indices) == 6
    assert (mapped.evaluate()["metric"] == "r2").any()


def test_novelty_compares_what_a_cell_has():
    rng = np.random.default_rng(0)
    references = [rng.standard_normal((200, 2)).astype(np.float32) for _ in range(2)]
    references[1][:100] = np.nan  # cells without the second latent
    one, other = np.float32([[0, 0], [9, 0], [0, 0], [np.nan] * 2]), np.zeros((4, 2), np.float32)
    other[2:] = np.nan
    score = novelty([one, other], references)
    assert score[1] > 3 > 1 > score[0]
    assert score[2] == novelty([one[2:3]], references[:1])[0]
    assert np.isnan(score[3])


def test_extending_shifts_changes_no_earlier_one():
    latent, batch, _, _ = planted(ALL)
    found = learned(latent[batch < 2], batch[batch < 2], 2)
    more = extend_batch_shifts(found, latent[batch == 2], batch[batch == 2], 3)
    assert torch.equal(more.shifts[:, :2], found.shifts)
    assert torch.equal(more.centres, found.centres)


def test_a_new_batch_meets_the_others():
    latent, batch, _, clean = planted(ALL)
    found = learned(latent[batch < 2], batch[batch < 2], 2)
    more = extend_batch_shifts(found, latent[batch == 2], batch[batch == 2], 3)
    after = correct(latent, batch, more)
    apart = [
        np.linalg.norm(x[batch == 2].mean(0) - x[batch < 2].mean(0)) for x in (latent, after, clean)
    ]
    assert apart[1] < 0.3 * apart[0]


def test_a_batch_without_cells_is_not_shifted():
    latent, batch, _, _ = planted(ALL)
    found = learned(latent[batch < 2], batch[batch < 2], 2)
    more = extend_batch_shifts(found, latent[:0], batch[:0], 4)
    assert more.shifts.shape[1] == 4
    assert not more.shifts[:, 2:].any()


# ----------------------------------------------------------------- refusals


def refused(model, query, match, error=ValueError, **arguments):
    with pytest.raises(error, match=match):
        model.map_query(query, **arguments, **QUIET)


def test_what_cannot_be_mapped_is_refused_by_name(model, mapped):
    query = cells("cd")
    refused(scvenn.MMVAEpp(cells("ab")), query, "needs a trained model")
    refused(model, query["rna"], "MuData", TypeError)
    refused(model, query[:10], "is a view")
    refused(model, query, "max_epochs=0", max_epochs=0)
    refused(model, query, "set up with batch_key='batch'", batch_key="cell_type")
    other = query.copy()
    del other.obs["batch"]
    refused(model, other, "batch_key='batch' not found")
    renamed = query.copy()
    renamed["rna"].var_names = [f"x{j}" for j in range(30)]
    renamed.update()
    refused(model, renamed, "none of the 30 features")
    with pytest.raises(ValueError, match="mapped onto this model.*train a new model"):
        mapped.train(1, **QUIET)


def test_a_model_of_an_interrupted_training_says_so(query):
    model = trained(cells("ab"))
    model._forget_estimates()
    refused(model, query, "scvenn 0.1, or its training was interrupted", max_epochs=1)
    with pytest.raises(ValueError, match="interrupted"):
        model.get_novelty()


def test_an_unseen_batch_is_refused_with_this_remedy(model, query):
    with pytest.raises(ValueError, match=r"map_query\(mdata\)"):
        model.get_shared_representation(cells("cd"))


# ----------------------------------------------------------------- the command


def test_the_command_maps_as_the_method_does(model, query, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save("model")
    query.write("new.h5mu")
    arguments = ["map", "model", "new.h5mu", "--out", "out.h5mu", "--save", "mapped"]
    result = CliRunner().invoke(main, [*arguments, "--max-epochs", "2"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "of 2 new batches (c, d)" in result.stdout
    written = mudata.read_h5mu("out.h5mu")
    scvi.settings.seed = 0
    mapped = scvenn.MMVAEpp.load("model", False).map_query(query, max_epochs=2, **QUIET)
    np.testing.assert_array_equal(written.obsm["X_shared"], mapped.get_shared_representation())
    np.testing.assert_array_equal(written.obs["scvenn_novelty"], mapped.get_novelty())
    loaded = scvenn.MMVAEpp.load("mapped", query)
    assert same(everything(loaded, None), everything(mapped, None))


def test_a_query_without_cells_is_refused(model, query):
    with pytest.raises(ValueError, match="found no cells"):
        model.map_query(query[:0].copy())


def test_features_under_similar_names_are_pointed_out(model, query):
    new = query.copy()
    names = new["rna"].var_names.to_numpy().copy()
    names[:3] = [name.upper() for name in names[:3]]
    new["rna"].var_names = names
    new.update()
    message = r"'rna': 3 of the features that count as not measured .* 'RNA_0' for 'rna_0'"
    with pytest.warns(UserWarning, match=message):
        model.map_query(new, max_epochs=1, enable_progress_bar=False)


def test_a_modality_under_a_similar_name_is_pointed_out(model, query):
    cells = query.copy()
    new = MuData({"RNA": cells["rna"].copy(), "atac": cells["atac"].copy()})
    new.obs["batch"] = "a"
    with pytest.warns(UserWarning, match="'rna' of the model counts as not measured: .* 'RNA'"):
        model.get_shared_representation(new)


@pytest.mark.parametrize(
    ("missing", "there", "similar"),
    [
        ("ENSG01.2", "ENSG01.3", True),
        ("ENSG01", "ENSG01.3", True),
        (" Cd4", "CD4", True),
        ("AC004.1", "AC004.2", False),  # two genes
        ("chr1.100.200", "chr1.100.300", False),  # two peaks
    ],
)
def test_names_are_similar_if_they_are_of_one_feature(missing, there, similar):
    found = similar_names(np.array([missing]), pd.Index([there, "other"]))
    assert found == ({missing: there} if similar else {})


def test_a_modality_under_a_similar_name_is_pointed_out_when_a_model_is_loaded(
    model, query, tmp_path
):
    model.save(tmp_path / "model")
    new = MuData({"RNA": query["rna"].copy(), "atac": query["atac"].copy()})
    new.obs["batch"] = "a"
    with pytest.warns(UserWarning, match="'rna' of the model counts as not measured: .* 'RNA'"):
        scvenn.MMVAEpp.load(tmp_path / "model", new)


def test_a_mapped_model_has_the_axes_of_its_reference():
    mdata = scvenn.datasets.simulate_counts(120, n_features=12, n_batches=2)
    reference, query = (
        mdata[(mdata.obs["batch"] == batch).to_numpy()].copy() for batch in ("batch0", "batch1")
    )
    scvi.settings.seed = 0
    scvenn.MMVAEpp.setup_mudata(reference, batch_key="batch")
    model = scvenn.MMVAEpp(reference, n_hidden=8)
    model.train(2, **QUIET)
    mapped = model.map_query(query, max_epochs=1, **QUIET)
    assert mapped.n_shared_effective_ == model.n_shared_effective_
    assert mapped.n_private_effective_ == model.n_private_effective_
    mapped.embed(drop_empty_axes=True)
    assert query.obsm["X_shared"].shape[1] == max(1, model.n_shared_effective_)


def test_contributions_count_from_the_mean_of_the_reference(model, mapped):
    mean = model.module.reference.shared_mean
    assert len(mean) == 3
    assert torch.equal(mapped.module.reference.shared_mean, mean)
    some = cells("ab")[5:8].copy()
    expected = model.write_contributions(some.copy())
    pd.testing.assert_frame_equal(mapped.write_contributions(some), expected, rtol=1e-4)
