"""Embeddings and predictions, on training data and on new data."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
from mudata import MuData
from scipy.spatial.distance import pdist
from scipy.special import expit

import scvenn
from scvenn import network
from scvenn.models.training import TrainingMixin
from scvenn.readouts.predictions import Prediction
from tests.conftest import MODELS, QUIET, shuffled, three_modalities
from tests.test_testing import Geometric


@pytest.fixture(scope="module", params=list(MODELS))
def model(request):
    """One trained model of each class on incomplete data with batches."""

    scvi.settings.seed = 0
    mdata = three_modalities(missing=0.3)
    MODELS[request.param].setup_mudata(mdata, batch_key="batch")
    model = MODELS[request.param](mdata, n_shared=3, n_private={"rna": 2, "meth": 4, "peaks": 1})
    model.train(3, **QUIET)
    return model


def measured(mdata, *modalities):
    """In which cells at least one of the modalities was measured."""
    return np.any([mdata.obs_names.isin(mdata[m].obs_names) for m in modalities], axis=0)


def finite_rows(array):
    """Which rows are finite; none may be so in part."""
    finite = np.isfinite(array)
    assert (finite.all(1) == finite.any(1)).all()
    return finite.all(1)


@pytest.mark.parametrize("batch", [None, "batch1"])
@pytest.mark.parametrize("target", ["rna", "meth", "peaks"])
def test_predictions_of_some_features_are_those_of_all(model, target, batch):
    """Of counts as well, whose means depend on the sum over all features."""
    cells = model._cells(None, None, 64)
    for source in ("rna", "meth", ["rna", "peaks"], model.modalities):
        prediction = Prediction.of(model._found, source, target, transform_batch=batch)
        whole = prediction.values(model.module, cells)
        some = prediction.some_at_a_time(model.module, cells)
        blocks = [some.values(slice(start, start + 6)) for start in (0, 6, 12, 18)]
        np.testing.assert_allclose(np.hstack(blocks), whole, rtol=2e-5, atol=1e-6)
        np.testing.assert_array_equal(some.values(slice(None)), whole)


@pytest.mark.parametrize("likelihood", ["zinb", "nb_mixture", "poisson", "beta", "geometric"])
@pytest.mark.parametrize("screen", [True, False])
def test_any_likelihood_predicts_some_features(likelihood, screen, monkeypatch):
    """One from outside the package as well, of which all features are decoded for each block."""
    monkeypatch.setitem(scvenn.likelihoods.LIKELIHOODS, "geometric", Geometric)
    kind = "normal" if likelihood == "beta" else "nb"
    mdata = scvenn.datasets.simulate_counts(60, modalities={"a": kind, "b": "nb"}, n_features=9)
    if likelihood == "beta":
        mdata["a"].X = expit(mdata["a"].X)
    scvenn.MMVAEpp.setup_mudata(mdata, likelihoods={"a": likelihood, "b": "nb"})
    model = scvenn.MMVAEpp(mdata, screen=screen)
    model.train(2, **QUIET)
    cells = model._cells(None, None, None)
    for source in ("a", "b"):
        prediction = Prediction.of(model._found, source, "a")
        some = prediction.some_at_a_time(model.module, cells)
        blocks = [some.values(slice(start, min(start + 4, 9))) for start in (0, 4, 8)]
        whole = prediction.values(model.module, cells)
        np.testing.assert_allclose(np.hstack(blocks), whole, rtol=2e-5, atol=1e-6)


def test_a_feature_is_decoded_twice_however_many_blocks_there_are(model, monkeypatch):
    """And each cell is encoded once."""
    cells = model._cells(None, measured(model.adata, "rna"), None)
    decoded, encoded, embed = [], [], network.predictions.embed
    monkeypatch.setattr(network.predictions, "embed", lambda *a: encoded.append(1) or embed(*a))
    count = model.module.branch("rna").decoder.register_forward_hook(
        lambda _, latents, raw: decoded.append(raw.numel())
    )
    some = Prediction.of(model._found, "rna", "rna").some_at_a_time(model.module, cells)
    assert len(encoded) == -(-len(cells) // 128)
    for start in range(0, 20, 2):
        some.values(slice(start, start + 2))
    count.remove()
    assert len(encoded) == -(-len(cells) // 128)
    assert sum(decoded) == 2 * 20 * len(cells)


def test_every_cell_has_a_shared_embedding(model):
    shared = model.get_shared_representation()
    assert shared.shape == (model.adata.n_obs, 3)
    assert np.isfinite(shared).all()


@pytest.mark.parametrize("sources", [["rna"], ["peaks", "rna"], ["meth"]])
def test_shared_embeddings_from_some_modalities(model, sources):
    shared = model.get_shared_representation(from_modalities=sources)
    np.testing.assert_array_equal(finite_rows(shared), measured(model.adata, *sources))


def test_one_modality_may_be_named_without_a_list(model):
    np.testing.assert_array_equal(
        model.get_shared_representation(from_modalities="rna"),
        model.get_shared_representation(from_modalities=["rna"]),
    )


def test_the_order_of_the_sources_does_not_matter(model):
    np.testing.assert_allclose(
        model.get_shared_representation(from_modalities=["rna", "peaks"]),
        model.get_shared_representation(from_modalities=["peaks", "rna"]),
        rtol=1e-5,
        atol=1e-6,
    )


def test_mixtures_average_the_means_of_the_experts(model):
    if model.module.objective.pools_experts:
        pytest.skip("this model multiplies its experts")
    as_they_are = {"batch_corrected": False}
    each = [
        model.get_shared_representation(from_modalities=m, **as_they_are) for m in model.modalities
    ]
    each = np.stack(each)
    weights = np.array(list(model.expert_weights.values()))
    share = weights[:, None, None] * ~np.isnan(each)  # (M, N, K)
    expected = np.nansum(share * each, axis=0) / share.sum(0)
    found = model.get_shared_representation(**as_they_are)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("modality", "size"), [("rna", 2), ("meth", 4), ("peaks", 1)])
def test_private_embeddings_are_nan_where_not_measured(model, modality, size):
    private = model.get_private_representation(modality)
    assert private.shape == (model.adata.n_obs, size)
    np.testing.assert_array_equal(finite_rows(private), measured(model.adata, modality))


def test_the_latent_representation_is_all_of_it(model):
    whole = model.get_latent_representation()
    parts = [model.get_shared_representation()]
    parts += [model.get_private_representation(m) for m in model.modalities]
    np.testing.assert_array_equal(whole, np.hstack(parts))


def test_elbo_of_all_and_of_each_cell(model):
    each = model.get_elbo(return_mean=False)
    assert each.shape == (model.adata.n_obs,)
    assert np.isfinite(float(model.get_elbo()))


def test_normalized_expression_is_free_of_the_library_size(model):
    values = model.get_normalized_expression("rna", library_size=100)
    np.testing.assert_allclose(values.sum(axis=1), 100, rtol=1e-4)
    assert values.shape == (model.adata.n_obs, 20)  # imputed where rna was not measured
    own = model.predict(model.modalities, "rna")
    np.testing.assert_allclose(own.div(own.sum(axis=1), axis=0), values / 100, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("size", [0, np.inf, np.nan, "latent", np.ones(3)])
def test_a_library_size_is_a_finite_number_above_0(model, size):
    with pytest.raises(ValueError, match="library_size=.*expected None or a finite number above 0"):
        model.predict("rna", "meth", library_size=size)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda m: m.sample_posterior("rna", "meth", n_samples=2.5), "n_samples=2.5: expected an"),
        (lambda m: m.sample_prior("5"), "n_obs='5': expected an integer"),
        (lambda m: m.embed(key_prefix=None), "key_prefix=None: expected a text"),
        (lambda m: m.embed(key_prefix="a/b"), "key_prefix='a/b': expected a text without '/'"),
        (
            lambda m: m.differential("cell_type", modality="rna", group2=["type0", "type1"]),
            "group2=.*expected one group",
        ),
    ],
)
def test_arguments_of_another_kind_are_refused(model, read, message):
    with pytest.raises(ValueError, match=message):
        read(model)


def test_the_name_that_scvi_tools_has_for_features_is_answered_by_ours(model):
    with pytest.raises(TypeError, match=r"pass features=\.\.\. instead"):
        model.get_normalized_expression("rna", gene_list=["rna_0"])


def test_samples_vary_around_the_prediction(model):
    rows = np.flatnonzero(measured(model.adata, "rna"))[:20]
    drawn = model.sample_posterior("rna", "rna", n_samples=300, indices=rows)
    assert drawn.shape == (300, 20, 20)
    assert (drawn == np.round(drawn)).all()  # counts
    predicted = model.predict("rna", "rna", indices=rows, return_numpy=True)
    assert np.corrcoef(drawn.mean(0).ravel(), predicted.ravel())[0, 1] > 0.8
    assert (drawn.std(0) > 0).all()


def spread_of_experts(monkeypatch, apart):
    """Variance of samples of a modality, (D,), where two experts are points, this far apart.

    Also the weights of its decoder, (D, K).
    """
    import torch

    from scvenn.network import Gaussian

    scvi.settings.seed = 0
    mdata = scvenn.datasets.simulate_counts(
        60, modalities={"a": "normal", "b": "normal"}, n_features=8, n_types=2
    )
    model = scvenn.MMVAE(mdata, n_shared=2, n_private=2, n_hidden=4, decoder="linear")
    model.train(1, early_stopping=False, **QUIET)

    def encode(minibatch):
        n = len(minibatch.covariates)
        loc = apart * torch.tensor([1.0, -1.0])[:, None, None].expand(2, n, 2) / 2
        point = Gaussian(torch.zeros(n, 2), torch.full((n, 2), 1e-12))
        observed = torch.ones(2, n, dtype=torch.bool)
        return Gaussian(loc, torch.full((2, n, 2), 1e-12)), observed, {"a": point, "b": point}

    monkeypatch.setattr(model.module, "encode", encode)
    drawn = model.sample_posterior(["a", "b"], "a", n_samples=1500, indices=[0])[:, 0]
    weights = model.module.branch("a").decoder.out.weight[:, :2].detach().numpy()
    return drawn.var(0), weights * model.module.likelihood("a").scale_.numpy()[:, None]


def test_samples_of_a_mixture_vary_by_what_its_experts_disagree_on(monkeypatch):
    """Experts at +1 and -1 of each dimension: a variance of 1 between them, through the decoder."""
    (within, _), (both, weights) = (spread_of_experts(monkeypatch, apart) for apart in (0, 20))
    between = np.square(10 * weights).sum(1)
    assert between.max() > 0.5 * within[between.argmax()]
    np.testing.assert_allclose(both, within + between, rtol=0.25)


def test_samples_of_some_features_are_those_of_all(model):
    rows, some = np.flatnonzero(measured(model.adata, "rna"))[:8], ["meth_3", "meth_0"]
    drawn = []
    for features in (None, some):
        scvi.settings.seed = 0
        drawn.append(
            model.sample_posterior("rna", "meth", features=features, n_samples=2, indices=rows)
        )
    np.testing.assert_array_equal(drawn[1], drawn[0][..., [3, 0]])


def test_samples_are_nan_without_a_source(model):
    rows = np.flatnonzero(~measured(model.adata, "rna"))[:5]
    drawn = model.sample_posterior("rna", "peaks", n_samples=2, indices=rows)
    assert np.isnan(drawn).all()


def test_samples_of_the_prior_look_like_the_data(model):
    drawn = model.sample_prior(50)
    assert {m: x.shape for m, x in drawn.items()} == dict.fromkeys(model.modalities, (50, 20))
    assert set(np.unique(drawn["peaks"])) <= {0, 1}
    assert all(np.isfinite(x).all() for x in drawn.values())


def test_a_seed_gives_the_same_samples(model):

    drawn = []
    for _ in range(2):
        scvi.settings.seed = 5
        drawn.append(model.sample_posterior("rna", "meth", n_samples=3))
    np.testing.assert_array_equal(*drawn)


# ------------------------------------------------------------------------------- obsm


def test_embeddings_are_where_scanpy_finds_them(model):
    mdata = model.adata
    np.testing.assert_array_equal(mdata.obsm["X_shared"], model.get_shared_representation())
    for m in mdata.mod:
        private = model.get_private_representation(m)
        np.testing.assert_array_equal(mdata.obsm[f"X_private_{m}"], private)
        rows = mdata.obs_names.get_indexer(mdata[m].obs_names)
        np.testing.assert_array_equal(mdata[m].obsm["X_private"], private[rows])
        np.testing.assert_array_equal(mdata[m].obsm["X_shared"], mdata.obsm["X_shared"][rows])
        assert np.isfinite(mdata[m].obsm["X_private"]).all()


def test_embeddings_survive_the_file(model, tmp_path):
    import mudata

    model.adata.write(tmp_path / "x.h5mu")
    again = mudata.read_h5mu(tmp_path / "x.h5mu")
    np.testing.assert_array_equal(again.obsm["X_shared"], model.adata.obsm["X_shared"])
    assert again.uns["scvenn"]["model"] == type(model).__name__


def test_a_prefix_of_ones_own(model):
    mdata = three_modalities(missing=0.3)
    slots = set(mdata.obsm)
    model.embed(mdata, key_prefix="mine")
    assert set(mdata.obsm) - slots == {
        "mine_shared",
        "mine_private_rna",
        "mine_private_meth",
        "mine_private_peaks",
    }


def test_writing_to_a_view_is_refused(model):
    with pytest.raises(ValueError, match=r"mdata.copy\(\)"):
        model.embed(model.adata[:10])


# ------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("target", ["rna", "meth", "peaks"])
@pytest.mark.parametrize("source", ["rna", ["meth", "peaks"]])
def test_predictions_are_named_and_nan_where_no_source(model, source, target):
    predicted = model.predict(source, target)
    assert list(predicted.index) == list(model.adata.obs_names)
    assert list(predicted.columns) == list(model.adata[target].var_names)
    sources = [source] if isinstance(source, str) else source
    np.testing.assert_array_equal(
        finite_rows(predicted.to_numpy()), measured(model.adata, *sources)
    )


def test_predictions_are_on_the_scale_of_the_data(model):
    mdata = model.adata
    counts = model.predict("rna", "rna").dropna()
    library = mdata["rna"][counts.index].X.toarray().sum(1)
    np.testing.assert_allclose(counts.sum(axis=1), library, rtol=1e-4)
    cross = model.predict("meth", "rna").dropna()
    unmeasured = cross.loc[cross.index.difference(mdata["rna"].obs_names)]
    trained = mdata.obs_names[model.train_indices].intersection(mdata["rna"].obs_names)
    median = np.median(mdata["rna"][trained].X.toarray().sum(1))
    np.testing.assert_allclose(unmeasured.sum(axis=1), median, rtol=1e-4)
    open_peaks = model.predict("rna", "peaks").dropna().to_numpy()
    assert ((open_peaks > 0) & (open_peaks < 1)).all()


def test_cross_view_predictions_read_nothing_private(model):
    """Changing the target's own values moves the same-view prediction only."""
    mdata = model.adata.copy()
    mdata["meth"].X[:] = np.nanmean(mdata["meth"].X) + 3
    old, new = (model.predict("rna", "meth", d).to_numpy() for d in (model.adata, mdata))
    np.testing.assert_array_equal(old, new)
    old, new = (model.predict("meth", "meth", d).to_numpy() for d in (model.adata, mdata))
    assert not np.allclose(old, new, equal_nan=True)


def test_features_and_cells_can_be_chosen(model):
    whole = model.predict("rna", "meth")
    part = model.predict("rna", "meth", features=["meth_7", "meth_2"], indices=[5, 1, 30])
    pd.testing.assert_frame_equal(part, whole.iloc[[5, 1, 30]][["meth_7", "meth_2"]])


@pytest.mark.parametrize("read", ["predict", "normalised", "loadings", "write_predictions"])
def test_a_name_is_one_feature(model, read):
    """Not as many features as it has letters."""
    rna = "meth_7"

    def of(features):
        if read == "predict":
            return model.predict("rna", "meth", features=features)
        if read == "normalised":
            return model.get_normalized_expression("meth", features=features)
        if read == "loadings":
            return model.loadings("meth", features=features)
        file = f"{type(features).__name__}.zarr"
        model.write_predictions(file, "rna", "meth", features=features)
        return anndata.read_zarr(file).to_df()

    pd.testing.assert_frame_equal(of(rna), of([rna]))


def test_a_mask_chooses_cells(model):
    mask = np.arange(model.adata.n_obs) % 7 == 0
    pd.testing.assert_frame_equal(
        model.predict("rna", "meth", indices=mask), model.predict("rna", "meth")[mask]
    )
    np.testing.assert_array_equal(
        model.get_shared_representation(indices=mask), model.get_shared_representation()[mask]
    )


def test_no_cells_give_an_empty_result(model):
    assert model.get_shared_representation(indices=[]).shape == (0, 3)
    assert model.get_private_representation("meth", indices=[]).shape == (0, 4)
    assert model.predict("rna", "meth", indices=[]).shape == (0, 20)


def test_arrays_on_request(model):
    array = model.predict("rna", "meth", return_numpy=True)
    np.testing.assert_array_equal(array, model.predict("rna", "meth").to_numpy())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.get_shared_representation(from_modalities="adt"), "from_modalities='adt': "),
        (lambda m: m.get_shared_representation(from_modalities=[]), r"from_modalities=\[\]: "),
        (lambda m: m.get_private_representation("adt"), "modality='adt': expected"),
        (lambda m: m.predict("adt", "rna"), "source='adt': expected"),
        (lambda m: m.predict("rna", "adt"), "target='adt': expected"),
        (lambda m: m.predict("rna", "meth", features=["x"]), "features: 'x' not found"),
        (lambda m: m.predict("rna", "meth", indices=[999]), "indices.*150 cells"),
    ],
)
def test_unknown_names_are_refused(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)


def test_an_untrained_model_warns(small):
    with pytest.warns(UserWarning, match="untrained"):
        scvenn.MMVAEpp(small).get_shared_representation()


# ------------------------------------------------------------------------------- new data


def test_cells_in_another_order(model):
    mdata = model.adata[np.random.default_rng(0).permutation(model.adata.n_obs)].copy()
    rows = model.adata.obs_names.get_indexer(mdata.obs_names)
    np.testing.assert_allclose(
        model.get_latent_representation(mdata),
        model.get_latent_representation()[rows],
        rtol=1e-4,
        atol=1e-5,
    )


def test_rows_of_a_modality_in_another_order(model):
    np.testing.assert_array_equal(
        model.get_latent_representation(shuffled(model.adata, "meth")),
        model.get_latent_representation(),
    )


def test_a_view_can_be_read(model):
    np.testing.assert_allclose(
        model.get_shared_representation(model.adata[10:40]),
        model.get_shared_representation()[10:40],
        rtol=1e-4,
        atol=1e-5,
    )


def test_new_data_is_only_read(model):
    mdata = three_modalities(missing=0.3)
    model.get_shared_representation(mdata)
    model.get_elbo(mdata)
    assert not mdata.uns
    assert model.adata is not mdata


def test_features_in_another_order(model):
    mods = {m: a.copy() for m, a in model.adata.mod.items()}
    mods["rna"] = mods["rna"][:, ::-1].copy()
    mdata = MuData(mods)[model.adata.obs_names].copy()
    mdata.obs["batch"] = model.adata.obs["batch"]
    np.testing.assert_array_equal(
        model.get_latent_representation(mdata), model.get_latent_representation()
    )


def test_more_features_than_known(model):
    import anndata

    rna = model.adata["rna"]
    extra = rna[:, :3].copy()
    extra.var_names = ["new1", "new2", "new3"]
    mods = {m: a.copy() for m, a in model.adata.mod.items()}
    mods["rna"] = anndata.concat([extra, rna], axis=1)
    mdata = MuData(mods)[model.adata.obs_names].copy()
    mdata.obs["batch"] = model.adata.obs["batch"]
    np.testing.assert_array_equal(
        model.get_latent_representation(mdata), model.get_latent_representation()
    )


def test_missing_features_are_listed(model):
    mdata = model.adata.copy()
    mdata.mod["rna"] = mdata["rna"][:, 7:].copy()
    with pytest.raises(ValueError) as error:
        model.get_shared_representation(mdata)
    assert "7 of the 20 features" in str(error.value)
    assert "'rna_0', 'rna_1', 'rna_2'" in str(error.value)


def test_fewer_modalities(model):
    mdata = MuData({"meth": model.adata["meth"].copy()})
    mdata.obs["batch"] = model.adata.obs["batch"]
    rows = model.adata.obs_names.get_indexer(mdata.obs_names)
    np.testing.assert_allclose(
        model.get_shared_representation(mdata),
        model.get_shared_representation(from_modalities="meth")[rows],
        rtol=1e-4,
        atol=1e-5,
    )
    assert np.isnan(model.get_private_representation("rna", mdata)).all()
    predicted = model.predict("meth", "rna", mdata)
    assert list(predicted.columns) == list(model.adata["rna"].var_names)
    model.embed(mdata)
    assert "X_private_rna" not in mdata.obsm
    assert mdata.obsm["X_private_meth"].shape == (mdata.n_obs, 4)


def test_no_known_modality_is_refused(model):
    mdata = MuData({"adt": model.adata["rna"].copy()})
    with pytest.raises(ValueError, match=r"has the modalities .* this MuData has \['adt'\]"):
        model.get_shared_representation(mdata)


def test_unseen_batches_are_refused(model):
    mdata = model.adata.copy()
    mdata.obs["batch"] = ["batch0", "batch9"] * 75
    with pytest.raises(ValueError, match=r"trained on 'batch0', 'batch1'.*'batch9'"):
        model.get_shared_representation(mdata)


def test_a_missing_batch_column_is_refused(model):
    mdata = model.adata.copy()
    del mdata.obs["batch"]
    with pytest.raises(ValueError, match="batch_key='batch' not found. Searched"):
        model.get_shared_representation(mdata)


def test_new_values_are_checked(model):
    mdata = model.adata.copy()
    mdata["rna"].X.data[0] = -2
    with pytest.raises(ValueError, match="'rna': likelihood 'nb' needs .* found -2"):
        model.get_shared_representation(mdata)


def test_an_anndata_is_refused(model):
    with pytest.raises(TypeError, match="Expected a MuData, found an AnnData"):
        model.get_shared_representation(model.adata["rna"])


def test_new_cells_need_no_labels(small):
    scvenn.MMVAEpp.setup_mudata(small, labels_key="cell_type")
    model = scvenn.MMVAEpp(small, n_shared=2, n_private=2)
    model.train(1, **QUIET)
    new = small.copy()
    del new.obs["cell_type"]
    np.testing.assert_array_equal(
        model.get_shared_representation(new), model.get_shared_representation()
    )


def test_across_views_the_decoder_of_both_latents_is_not_run(small):
    model = scvenn.MMVAEpp(small, n_shared=2, n_private=2)
    model.train(1, **QUIET)
    calls = []
    model.module.branch("atac").decoder.register_forward_hook(lambda *_: calls.append(1))
    model.predict("rna", "atac")
    assert not calls
    model.predict("atac", "atac")
    assert len(calls) == 1


@pytest.mark.parametrize("named", [3, ["rna", "meth"], None, ["rna", ["meth"]]])
def test_what_is_no_modality_is_refused(model, named):
    with pytest.raises(ValueError, match=r"target=.*: expected one of the model's modalities \["):
        model.predict("rna", named)
    if named != ["rna", "meth"] and named is not None:  # several may be read, and None is all
        with pytest.raises(ValueError, match=r"source=.*one or more of the model's modalities \["):
            model.predict(named, "rna")


def test_counts_given_to_a_model_of_other_values_are_refused(model):
    mdata = model.adata.copy()
    mdata["meth"].X = np.random.default_rng(0).poisson(3, mdata["meth"].shape).astype(float)
    with pytest.raises(ValueError, match=r"all values of mdata\['meth'\].X look like counts"):
        model.get_shared_representation(mdata)


@pytest.mark.parametrize("modality", ["rna", "meth"])
def test_values_that_are_no_measurements_are_refused_in_new_data(model, modality):
    mdata = model.adata.copy()
    mdata[modality].X = sp.csr_matrix(mdata[modality].X).toarray()
    mdata[modality].X[7, 0] = 1e30
    with pytest.raises(
        ValueError, match=rf"'{modality}': found 1e\+30 .*expected values of at most"
    ):
        model.get_elbo(mdata)


def test_values_too_large_for_the_networks_are_an_error_and_no_nan(small):
    """Of a feature with a tiny standard deviation."""
    small["atac"].X = 1e-25 * np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32)
    model = scvenn.MMVAE(small, n_hidden=8)
    model.train(1, **QUIET)
    mdata = small.copy()
    mdata["atac"].X[:4] = 1e15
    with pytest.raises(ValueError, match=r"'atac': \d of .* no finite latent.* reach 1e\+15"):
        model.predict("atac", "rna", mdata)


@pytest.mark.parametrize("name", ["MMVAEpp", "MMVAE"])
def test_features_that_are_constant_in_training_tell_nothing_of_new_cells(name):
    mdata = three_modalities(missing=0.2)
    for m, values in (("rna", [0, 7]), ("meth", [3, 3]), ("peaks", [0, 1])):
        x = sp.csr_matrix(mdata[m].X).toarray()
        x[:, [0, 2]] = values
        mdata[m].X = x
    one = mdata["meth"].X.astype(np.float32)
    one[::2, 1], one[1::2, 1] = 1, np.nextafter(np.float32(1), np.float32(2))  # rounding
    mdata["meth"].X = one
    scvi.settings.seed = 0
    model = MODELS[name](mdata, n_shared=3, n_private=2, n_hidden=8)
    model.train(3, **QUIET)
    new = mdata.copy()
    new["meth"].X[:, 0], new["meth"].X[:, 1], new["peaks"].X[:, [0, 2]] = 7.5, 1.1, [1, 0]
    if name == "MMVAE":  # private encoders of models that screen read the sum of counts
        new["rna"].X[:, [0, 2]] = 5
    found, expected = (model.get_latent_representation(data) for data in (new, mdata))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["MMVAEpp", "MMVAE"])
def test_cells_of_training_stay_where_they_are_when_constant_features_are_ignored(
    name, monkeypatch
):
    def distances(mdata):
        scvi.settings.seed = 0
        model = MODELS[name](mdata, n_shared=3, n_private=2, n_hidden=8)
        model.train(20, early_stopping=False, **QUIET)
        return [pdist(model.get_private_representation(m)) for m in model.modalities]

    mdata = three_modalities(missing=0.0)
    for m, value in (("rna", 7), ("peaks", 1)):
        x = mdata[m].X.toarray()
        x[:, :3] = value
        mdata[m].X = x
    found = distances(mdata.copy())
    monkeypatch.setattr(TrainingMixin, "_ignore_constant_features", lambda self: None)
    for one, other in zip(found, distances(mdata), strict=True):
        assert np.abs(one - other).max() < 0.1 * other.mean()


def test_a_second_training_on_other_cells_keeps_what_it_learns_of_a_feature(small):
    x = small["atac"].X.toarray()
    x[:30, 0], x[30:, 0] = 0, 1
    small["atac"].X = x
    model = scvenn.MMVAE(small, n_hidden=8)
    cells = np.arange(60)
    for held_out in (cells[30:], cells[:10]):
        split = [np.setdiff1d(cells, held_out), held_out, []]
        model.train(1, datasplitter_kwargs={"external_indexing": split}, **QUIET)
        moved = model.module.branch("atac").hidden.weight[0]
    assert moved.abs().max() > 0


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "64"])
def test_a_batch_size_below_one_is_refused(small, batch_size):
    model = scvenn.MMVAE(small)
    with pytest.raises(ValueError, match="batch_size=.*expected an integer of at least 1"):
        model.predict("rna", "atac", batch_size=batch_size)


def test_a_flag_is_no_library_size(small):
    model = scvenn.MMVAE(small)
    with pytest.raises(ValueError, match="library_size=True: expected None or a finite number"):
        model.predict("rna", "atac", library_size=True)


@pytest.mark.parametrize("column", [["kind"], pd.Series(["a"])], ids=["list", "column"])
def test_a_column_is_named_by_one_name(small, column):
    model = scvenn.MMVAEpp(small, n_hidden=8)
    model.train(1, train_size=0.7, **QUIET)
    message = "expected the name of one column, found (list|Series)"
    for read in (
        lambda: model.evaluate(labels_key=column),
        lambda: model.get_shared_scores(given=column),
        lambda: model.differential(column, modality="rna"),
    ):
        with pytest.raises(ValueError, match=message):
            read()


def test_draws_across_views_have_the_noise_of_predictions_across_views():
    scvi.settings.seed = 0
    mdata = three_modalities(missing=0.3)
    model = scvenn.MMVAEpp(mdata, n_shared=2, n_private=2, n_hidden=8)
    model.train(1, **QUIET)
    likelihood = model.module.likelihood("meth")
    likelihood.raw_scale.data.fill_(-20)  # next to none
    likelihood.cross_view_variance.fill_(9)
    likelihood.held_out_ratio.fill_(1)
    drawn = model.sample_posterior(["rna", "meth"], "meth", n_samples=100)
    spread = (drawn.std(0) / likelihood.scale_.numpy()).mean(1)  # (cells,)
    own = measured(mdata, "meth")
    assert (spread[own] < 2).all()
    across = spread[~own & measured(mdata, "rna")]
    np.testing.assert_allclose(across, 3, rtol=0.2)
