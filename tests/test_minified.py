"""Minified data: what the encoders made of the cells, in place of their values."""

import copy

import mudata
import numpy as np
import pytest
import scipy.sparse as sp
import scvi
from mudata import MuData

import scvenn
from tests.conftest import MODELS, QUIET, three_modalities
from tests.test_indices import CALLS, assert_same, result_of

# What compares predictions with values, or is scvi-tools' and reads them.
NEED_VALUES = {
    "evaluate",
    "variance_explained",
    "shared_features",
    "private_features",
    "get_elbo",
    "get_reconstruction_error",
}
POSTERIOR = "scvenn_posterior"

pytestmark = pytest.mark.filterwarnings("ignore:evaluate")


def trained(name="MMVAEpp", missing=0.3):
    scvi.settings.seed = 0
    mdata = three_modalities(missing=missing, n_obs=90)
    mdata["rna"].layers["counts"] = mdata["rna"].X.copy()
    mdata["rna"].raw = mdata["rna"]
    mdata.obs["half"] = np.where(np.arange(90) % 2, "a", "b")
    MODELS[name].setup_mudata(mdata, labels_key="cell_type", batch_key="batch")
    model = MODELS[name](mdata, n_shared=2, n_private={"rna": 2, "meth": 3, "peaks": 1}, n_hidden=8)
    model.train(1, train_size=0.5, **QUIET)
    return model


@pytest.fixture(scope="module", params=["MVAE", "MMVAEpp"])
def models(request):
    """A model that multiplies posteriors, or one that screens; and the same with minified data."""
    model = trained(request.param)
    minified = copy.deepcopy(model)
    minified.minify_mudata()
    return model, minified


@pytest.fixture(scope="module")
def model():
    return trained()


@pytest.fixture(scope="module")
def minified(model):
    found = copy.deepcopy(model)
    found.minify_mudata()
    return found


@pytest.mark.parametrize("method", sorted(set(CALLS) - NEED_VALUES))
def test_results_are_those_of_before_to_the_last_bit(models, method):
    before, now = (result_of(model, method, None) for model in models)
    assert_same(before, now)


@pytest.mark.parametrize(
    "sources", [["rna"], ["peaks"], ["meth", "peaks"], ["peaks", "meth", "rna"]], ids="+".join
)
def test_any_modalities_can_be_read(models, sources):
    before, now = (model.predict(sources, "rna") for model in models)
    assert_same(before, now)


@pytest.mark.parametrize("method", sorted(NEED_VALUES))
def test_what_needs_values_says_so(minified, method):
    message = r"is needed here, and the data was minified: modality '.*'.*load\(dir_path, mdata\)"
    with pytest.raises(ValueError, match=message):
        CALLS[method](minified, None)


def test_training_and_a_set_up_need_values(minified):
    for needs in (lambda: minified.train(1, **QUIET), lambda: scvenn.MMVAE(minified.adata.copy())):
        with pytest.raises(ValueError, match="was minified"):
            needs()
    assert minified.is_trained_


def test_a_report_says_what_needs_values(minified, tmp_path):
    minified.report(tmp_path / "report.html")
    assert "was minified" in (tmp_path / "report.html").read_text()


def test_no_value_is_kept_and_all_else_is(model, minified):
    data, before = minified.adata, model.adata
    assert data.obs_names.equals(before.obs_names)
    assert data.obs.equals(before.obs)
    for m, adata in data.mod.items():
        assert adata.X is None
        assert not adata.layers
        assert adata.raw is None
        assert adata.var.equals(before[m].var)
        assert set(adata.obsm) == {*before[m].obsm, POSTERIOR}
    assert np.array_equal(data.obsm["X_shared"], before.obsm["X_shared"], equal_nan=True)


def test_graphs_of_cells_are_kept():
    mdata = three_modalities(missing=0.3, n_obs=90)
    mdata.obsp["connectivities"] = sp.random(90, 90, 0.1, "csr", random_state=0)
    mdata["rna"].obsp["connectivities"] = sp.identity(mdata["rna"].n_obs, format="csr")
    scvenn.MMVAEpp.setup_mudata(mdata, modalities=["rna", "peaks"])
    model = scvenn.MMVAEpp(mdata, n_hidden=8)
    model.train(1, **QUIET)
    model.minify_mudata()
    kept = mdata.obs_names.get_indexer(model.adata.obs_names)
    expected = mdata.obsp["connectivities"][kept][:, kept]
    assert (model.adata.obsp["connectivities"] != expected).nnz == 0
    assert model.adata["rna"].obsp["connectivities"].nnz == mdata["rna"].n_obs


def test_the_data_of_the_user_is_only_read(model):
    mdata = model.adata.copy()
    before = mdata["rna"].X.copy()
    changed = copy.deepcopy(model)
    given = changed.adata
    changed.minify_mudata()
    assert changed.adata is not given
    assert (before != given["rna"].X).nnz == 0
    assert POSTERIOR not in given["rna"].obsm
    assert "counts" in given["rna"].layers


def test_what_is_written_later_does_not_reach_the_data_of_the_user(model):
    changed = copy.deepcopy(model)
    given = changed.adata
    changed.minify_mudata()
    changed.adata["rna"].obsm["X_shared"][:] = 7
    changed.adata.obs["half"] = "c"
    assert not (given["rna"].obsm["X_shared"] == 7).any()
    assert set(given.obs["half"]) == {"a", "b"}


def test_it_is_saved_and_loaded_with_its_data(model, minified, tmp_path):
    minified.save(tmp_path / "model", save_anndata=True)
    loaded = scvenn.MMVAEpp.load(tmp_path / "model")
    assert_same(loaded.predict("rna", "meth"), model.predict("rna", "meth"))
    assert np.array_equal(loaded.train_indices, model.train_indices)
    assert loaded.adata["rna"].X is None
    loaded.minify_mudata()  # once more changes nothing
    assert_same(loaded.predict("rna", "meth"), model.predict("rna", "meth"))


def test_with_the_values_it_does_all_again(model, minified, tmp_path):
    minified.save(tmp_path / "model")
    loaded = scvenn.MMVAEpp.load(tmp_path / "model", model.adata.copy())
    assert_same(loaded.evaluate(), model.evaluate())
    assert_same(loaded.predict("rna", "meth", minified.adata), model.predict("rna", "meth"))


def test_cells_are_found_by_name_and_may_be_some_or_moved(model, minified, tmp_path):
    some = minified.adata[::-2].copy()
    found = minified.predict("peaks", "rna", some)
    assert_same(found, model.predict("peaks", "rna", indices=some.obs_names))
    view = minified.adata[5:9]
    assert_same(
        minified.get_latent_representation(view),
        model.get_latent_representation(indices=range(5, 9)),
    )


def test_posteriors_of_another_model_are_refused(minified, model):
    with pytest.raises(ValueError, match="these are of another model"):
        model.predict("rna", "meth", minified.adata)


def test_posteriors_are_refused_once_the_model_was_trained_on(model, minified, tmp_path):
    minified.save(tmp_path / "model")
    loaded = scvenn.MMVAEpp.load(tmp_path / "model", model.adata.copy())
    loaded.train(1, **QUIET)
    with pytest.raises(ValueError, match="before it was trained further"):
        loaded.predict("rna", "meth", minified.adata)


def test_posteriors_that_were_changed_are_refused(minified):
    mdata = minified.adata.copy()
    mdata["meth"].obsm[POSTERIOR][3, 0] = np.nan
    with pytest.raises(ValueError, match=r"mdata\['meth'\].obsm\['scvenn_posterior'\].*changed"):
        minified.predict("rna", "meth", mdata)
    for change, what in (
        (lambda z: np.ones_like(z[:, :-1]), "has 10 columns, expected 11"),
        (lambda z: -np.ones_like(z), "has variances that are not above 0"),
    ):
        mdata["meth"].obsm[POSTERIOR] = change(mdata["meth"].obsm[POSTERIOR])
        message = rf"mdata\['meth'\].obsm\['scvenn_posterior'\] {what}.*changed since"
        with pytest.raises(ValueError, match=message):
            minified.predict("meth", "rna", mdata)
        mdata["meth"].obsm[POSTERIOR] = minified.adata["meth"].obsm[POSTERIOR]
    own = copy.deepcopy(minified)
    own.adata["rna"].obsm[POSTERIOR][:] += 1
    with pytest.raises(ValueError, match="was changed after the model was set up"):
        own.predict("rna", "meth")


def test_values_that_were_put_back_are_read(model, minified):
    whole = minified.adata.copy()
    for m, adata in whole.mod.items():
        adata.X = model.adata[m].X.copy()
    found = result_of(minified, "get_reconstruction_error", whole)
    assert_same(found, result_of(model, "get_reconstruction_error", None))


def test_values_beside_minified_modalities_are_read(model, minified):
    mixed = MuData({"rna": minified.adata["rna"], "peaks": model.adata["peaks"]})
    mixed.obs = model.adata.obs.loc[mixed.obs_names]
    found = minified.predict(["rna", "peaks"], "rna", mixed)
    expected = model.predict(["rna", "peaks"], "rna").loc[mixed.obs_names]
    assert_same(found, expected)


def test_new_batches_are_mapped_as_onto_the_model_with_values(model, minified):
    scvi.settings.seed = 0
    query = three_modalities(missing=0.0, n_obs=40, seed=1)
    query.obs["batch"] = "new"
    found = []
    for reference in (model, minified):
        scvi.settings.seed = 0
        mapped = reference.map_query(query.copy(), max_epochs=1, **QUIET)
        found.append(mapped.get_latent_representation())
    assert np.array_equal(*found)


def test_a_mapped_model_that_lacks_features_can_be_minified(model):
    query = three_modalities(missing=0.0, n_obs=40, seed=1)
    query.obs["batch"] = "new"
    query.mod["rna"] = query["rna"][:, 3:].copy()
    query.update()
    mapped = model.map_query(query, max_epochs=1, **QUIET)
    before = mapped.predict("rna", "rna"), mapped.get_latent_representation()
    mapped.minify_mudata()
    assert_same(mapped.predict("rna", "rna"), before[0])
    assert_same(mapped.get_latent_representation(), before[1])


def test_data_on_disk_is_minified_into_memory(tmp_path):
    mdata = scvenn.datasets.simulate_counts(60, n_features=12, n_types=2)
    mdata.write(tmp_path / "cells.h5mu")
    backed = mudata.read_h5mu(tmp_path / "cells.h5mu", backed=True)
    model = scvenn.MMVAEpp(backed, n_hidden=8)
    model.train(1, **QUIET)
    before = model.predict("rna", "atac")
    model.minify_mudata()
    assert_same(model.predict("rna", "atac"), before)


@pytest.mark.parametrize("ending", ["h5mu", "zarr"])
def test_minified_data_in_a_file_is_read(model, minified, tmp_path, ending):
    path = tmp_path / f"cells.{ending}"
    minified.adata.write(path) if ending == "h5mu" else minified.adata.write_zarr(path)
    found = minified.predict("rna", "meth", scvenn.read_lazy(path))
    assert_same(found, model.predict("rna", "meth"))


def test_cells_and_modalities_that_the_model_does_not_read_are_left_out():
    mdata = three_modalities(missing=0.3, n_obs=90)
    read = ["rna", "peaks"]
    scvenn.MMVAEpp.setup_mudata(mdata, modalities=read)
    model = scvenn.MMVAEpp(mdata, n_hidden=8)
    model.train(1, **QUIET)
    before = model.get_latent_representation()
    model.minify_mudata()
    assert list(model.adata.mod) == read
    has_one = np.any([mdata.obs_names.isin(mdata[m].obs_names) for m in read], axis=0)
    assert not has_one.all()
    assert model.adata.obs_names.equals(mdata.obs_names[has_one])
    assert np.array_equal(model.get_latent_representation(), before[has_one], equal_nan=True)


def test_a_model_that_was_not_trained_is_refused(small):
    with pytest.raises(ValueError, match=r"minify_mudata\(\) needs a trained model"):
        scvenn.MMVAE(small).minify_mudata()


def test_the_hub_of_scvi_tools_opens_the_folder_of_a_model(minified, tmp_path):
    hub = pytest.importorskip("scvi.hub", reason="scvi.hub needs huggingface_hub")
    from huggingface_hub import ModelCard

    minified.save(tmp_path / "model", save_anndata=True)
    metadata = hub.HubMetadata(
        scvi_version=minified.versions_["scvi-tools"],
        anndata_version=minified.versions_["anndata"],
        model_cls_name="MMVAEpp",
        model_parent_module="scvenn",
    )
    card = ModelCard("---\nlicense: mit\n---\n")
    hub.HubModel(str(tmp_path / "model"), metadata=metadata, model_card=card).save()
    opened = hub.HubModel(str(tmp_path / "model"))
    opened.load_model(adata=minified.adata.copy(), accelerator="cpu")
    assert_same(opened.model.predict("rna", "meth"), minified.predict("rna", "meth"))


def test_the_hub_of_scvi_tools_cannot_describe_a_folder_without_a_pickle(minified, tmp_path):
    """docs/saving.md says so."""
    hub = pytest.importorskip("scvi.hub", reason="scvi.hub needs huggingface_hub")
    minified.save(tmp_path / "model", save_anndata=True)
    with pytest.raises(ValueError, match="Failed to load model file"):
        hub.HubMetadata.from_dir(str(tmp_path / "model"), anndata_version="0.12")


@pytest.mark.parametrize(("modality", "part"), [(None, "obsm"), (None, "obsp"), ("rna", "varm")])
def test_a_damaged_matrix_beside_the_values_is_an_error_and_no_crash(small, modality, part):
    model = scvenn.MMVAE(small, n_hidden=8)
    model.train(1, **QUIET)
    owner = small if modality is None else small[modality]
    n_rows, n_columns = {"obsm": (60, 2), "obsp": (60, 60), "varm": (12, 2)}[part]
    graph = sp.csr_matrix(np.ones((n_rows, n_columns)))
    graph.indptr[5] += 10**7
    getattr(owner, part)["graph"] = graph
    with pytest.raises(ValueError, match=rf"the sparse matrix mdata.*{part}\['graph'\] is damaged"):
        model.minify_mudata()
