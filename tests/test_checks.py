"""Every mistake in the data ends in one clear message."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scanpy
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

import scvenn
from scvenn.data.cells import choose_rows
from scvenn.data.fields import ModalityField
from tests.conftest import three_modalities


def setup(mdata, **kwargs):
    scvenn.MMVAEpp.setup_mudata(mdata, **kwargs)


def with_value(mdata, modality, value, sparse=True):
    """Put one value into a modality's matrix."""
    x = mdata[modality].X.toarray()
    x[3, 2] = value
    mdata[modality].X = sp.csr_matrix(x) if sparse else x
    return mdata


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("likelihood", ["nb", "poisson"])
@pytest.mark.parametrize("value", [-1, 0.5, -0.31])
def test_counts_must_be_non_negative_integers(small, sparse, likelihood, value):
    with_value(small, "rna", value, sparse)
    with pytest.raises(ValueError) as error:
        setup(small, likelihoods={"rna": likelihood})
    assert str(error.value) == (
        f"modality 'rna': likelihood '{likelihood}' needs non-negative integers, found {value:g} "
        "in mdata['rna'].X. Pass layers={'rna': <layer>} with a layer that has them, or "
        "likelihoods={'rna': 'normal'}."
    )


def test_binary_values_must_be_0_or_1(small):
    with_value(small, "atac", 2)
    with pytest.raises(ValueError, match=r"'bernoulli' needs 0 or 1, found 2 in mdata\['atac'\]"):
        setup(small, likelihoods={"atac": "bernoulli"})


@pytest.mark.parametrize(
    ("modality", "value", "likelihood", "remedy"),
    [
        ("rna", 3, "bernoulli", "If these are counts, leave 'rna' out of likelihoods. Pass layers"),
        ("meth", 60.0, "beta", "If these are percentages, divide them by 100. Pass layers"),
    ],
)
def test_counts_and_percentages_are_recognised(modality, value, likelihood, remedy):
    mdata = three_modalities(missing=0.0, n_obs=30)
    mdata[modality].X = np.full(mdata[modality].shape, value, np.float32)
    with pytest.raises(ValueError, match=remedy):
        scvenn.MMVAEpp.setup_mudata(mdata, likelihoods={modality: likelihood})


def test_the_layer_is_named_in_the_message(small):
    small["rna"].layers["scaled"] = small["rna"].X - sp.csr_matrix(np.full((60, 12), 0.5))
    with pytest.raises(ValueError, match=r"in mdata\['rna'\]\.layers\['scaled'\]"):
        setup(small, layers={"rna": "scaled"}, likelihoods={"rna": "nb"})


def test_missing_counts_are_refused(small):
    with_value(small, "rna", np.nan, sparse=False)
    with pytest.raises(ValueError, match="needs non-negative integers, found nan"):
        setup(small, likelihoods={"rna": "nb"})


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("sparse", [True, False])
def test_infinite_values_are_refused(small, value, sparse):
    with_value(small, "atac", value, sparse)
    with pytest.raises(ValueError, match=rf"'atac': found {value} in mdata\['atac'\].X; expected"):
        setup(small)


def test_a_feature_without_any_value_is_refused():
    mdata = three_modalities(missing=0.3)
    mdata["meth"].X[:, 4] = np.nan
    with pytest.raises(ValueError, match=r"'meth': features 'meth_4' are NaN in every cell"):
        setup(mdata)


def test_all_nan_is_refused(small):
    small["atac"].X = np.full((60, 12), np.nan, np.float32)
    with pytest.raises(ValueError, match="NaN in every cell"):
        setup(small)


@pytest.mark.parametrize("n", [0, 1])
def test_a_modality_needs_two_cells(small, n):
    mdata = MuData({"rna": small["rna"].copy(), "atac": small["atac"][:n].copy()})
    with pytest.raises(ValueError, match=rf"'atac' has {n} cells?; at least 2"):
        setup(mdata)


def test_a_modality_needs_a_feature(small):
    mdata = MuData({"rna": small["rna"].copy(), "atac": small["atac"][:, :0].copy()})
    with pytest.raises(ValueError, match="'atac' has no features"):
        setup(mdata)


def test_modalities_must_have_cells_in_common(small):
    other = small["atac"].copy()
    other.obs_names = [f"other{i}" for i in range(60)]
    mdata = MuData({"rna": small["rna"].copy(), "atac": other})
    with pytest.raises(ValueError, match=r"no cell in common.*'cell0'.*'other0'"):
        setup(mdata)


@pytest.mark.parametrize("axis", ["obs_names", "var_names"])
def test_names_must_be_unique(small, axis):
    names = list(getattr(small["rna"], axis))
    names[1] = names[0]
    setattr(small.mod["rna"], axis, names)
    with pytest.raises(ValueError, match=rf"'rna': {axis} holds '{names[0]}' more than once"):
        setup(small)


def test_cells_unknown_to_the_mudata_are_refused(small):
    small.mod["rna"].obs_names = [f"new{i}" for i in range(60)]
    with pytest.raises(ValueError, match=r"not in mdata.obs_names: 'new0'.*mdata.update\(\)"):
        setup(small)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modalities": ["rna", "adt"]}, r"'adt' not found; mdata.mod has \['rna', 'atac'\]"),
        ({"modalities": ["rna", "rna"]}, "names one more than once"),
        ({"modalities": ["rna"]}, "two or more modalities"),
        ({"modalities": "rna"}, "expected a list"),
        ({"modalities": {"rna", "atac"}}, "found a set, which has no order"),
        ({"layers": {"rna": "counts"}}, "'rna': layer 'counts' not found"),
        ({"layers": {"adt": "counts"}}, r"\['adt'\] not found among the modalities"),
        ({"layers": "counts"}, "expected a dictionary"),
        ({"likelihoods": {"rna": "gaussian"}}, "'gaussian'.*expected one of"),
        ({"likelihoods": {"adt": "nb"}}, r"\['adt'\] not found among the modalities"),
        ({"likelihoods": "nb"}, "expected a dictionary"),
        ({"labels_key": "kind"}, "labels_key='kind' not found. Searched mdata.obs"),
        ({"labels_key": pd.Series(["a", "b"] * 30)}, "labels_key: expected the name .* Series"),
        ({"batch_key": ["donor"]}, "batch_key: expected the name of one column, found list"),
        ({"batch_key": "donor"}, "batch_key='donor' not found. Searched mdata.obs"),
    ],
)
def test_unknown_names_are_refused(small, arguments, message):
    with pytest.raises(ValueError, match=message):
        setup(small, **arguments)


@pytest.mark.parametrize("values", [["a"] * 60, ["a", np.nan] * 30, [np.nan] * 60])
def test_a_label_needs_two_classes(small, values):
    small.obs["kind"] = values
    with pytest.raises(ValueError, match=r"labels_key='kind': found [01] class.*two or more"):
        setup(small, labels_key="kind")


def test_a_batch_must_be_known_for_every_cell(small):
    small.obs["donor"] = ["a", "b", None] * 20
    with pytest.raises(ValueError, match="batch_key='donor': 20 of 60 cells have no value"):
        setup(small, batch_key="donor")


@pytest.mark.parametrize("argument", ["labels_key", "batch_key"])
def test_a_column_of_lists_is_refused(small, argument):
    small.obs["types"] = pd.Series([["a"], ["b", "c"]] * 30, index=small.obs_names)
    with pytest.raises(
        ValueError, match=r"mdata.obs\['types'\] has \['a'\] \(list\) in cell 'cell0'; expected"
    ):
        setup(small, **{argument: "types"})


def test_an_anndata_is_refused(small):
    for call in (setup, scvenn.MMVAEpp, scvenn.MMVAEpp.setup_anndata):
        with pytest.raises(TypeError, match="MuData"):
            call(small["rna"])


@pytest.fixture(scope="module")
def model():
    mdata = scvenn.datasets.simulate_counts(60, n_features=12, n_types=2, n_batches=2)
    model = scvenn.MMVAEpp(mdata, n_hidden=8, screen=False)
    model.train(1, train_size=0.7, enable_progress_bar=False)
    return model


QUERIES = {
    "predict": lambda model, x: model.predict("rna", "atac", x),
    "get_normalized_expression": lambda model, x: model.get_normalized_expression("rna", x),
    "get_shared_representation": lambda model, x: model.get_shared_representation(x),
    "get_latent_representation": lambda model, x: model.get_latent_representation(x),
    "embed": lambda model, x: model.embed(x),
    "evaluate": lambda model, x: model.evaluate(x),
    "sample_posterior": lambda model, x: model.sample_posterior("rna", "atac", x),
    "write_predictions": lambda model, x: model.write_predictions("x.zarr", "rna", "atac", x),
    "differential": lambda model, x: model.differential("cell_type", modality="rna", mdata=x),
    "report": lambda model, x: model.report("r.html", mdata=x),
    "write_contributions": lambda model, x: model.write_contributions(x),
    "get_elbo": lambda model, x: model.get_elbo(x),
}


@pytest.mark.parametrize("call", list(QUERIES))
def test_what_is_no_mudata_in_memory_is_refused_by_every_readout(model, call):
    nested = MuData({"x": model.adata.copy(), "rna": model.adata["rna"].copy()})
    refused = {
        "Expected a MuData, found an AnnData. Put": model.adata["rna"],
        "Expected a MuData, found DataFrame": pd.DataFrame(),
        "modality 'x' is itself a MuData, expected an AnnData": nested,
    }
    for message, given in refused.items():
        with pytest.raises(TypeError, match=message):
            QUERIES[call](model, given)


def test_an_anndata_cannot_be_loaded_with(model):
    model.save("model")
    with pytest.raises(TypeError, match="Expected a MuData, found an AnnData"):
        scvenn.MMVAEpp.load("model", model.adata["rna"])


def test_a_nested_mudata_is_refused(small):
    with pytest.raises(TypeError, match=r"modality 'x' is itself a MuData.*side by side"):
        setup(MuData({"x": small.copy(), "rna": small["rna"].copy()}))


def test_dask_arrays_are_named_with_a_remedy(small):
    array = pytest.importorskip("dask.array", reason="refuses arrays of dask")
    small["rna"].X = array.from_array(small["rna"].X.toarray())
    with pytest.raises(TypeError, match=r"mdata\['rna'\].X = mdata\['rna'\].X.compute\(\)"):
        setup(small)


def with_numbers_as_names(mdata, modalities):
    mod = {m: mdata[m].copy() for m in mdata.mod}
    for m, adata in mod.items():
        adata.obs_names = pd.Index(range(60)) if m in modalities else [str(i) for i in range(60)]
    return mod


@pytest.mark.filterwarnings("ignore::anndata.ImplicitModificationWarning")
def test_names_that_are_numbers_here_and_text_there_are_refused(small, model):
    mod = with_numbers_as_names(small, ["rna"])
    for call in (setup, lambda x: model.get_shared_representation(x)):
        with pytest.raises(
            ValueError, match=r"'rna' has 0 \(int\), 'atac' has '0' \(str\).*astype"
        ):
            call(MuData(mod))
    mod["rna"].obs_names = mod["rna"].obs_names.astype(str)  # what the message says
    setup(MuData(mod))


@pytest.mark.filterwarnings("ignore::anndata.ImplicitModificationWarning")
@pytest.mark.parametrize("other", [1, 2.5, b"c1", None])
def test_one_name_that_is_no_text_is_refused_wherever_it_stands(small, model, other):
    mod = {m: small[m].copy() for m in small.mod}
    names = list(mod["atac"].obs_names)
    mod["atac"].obs.index = pd.Index([*names[:-1], other], dtype=object)
    kind = type(other).__name__
    for call in (setup, lambda x: model.get_shared_representation(x)):
        with pytest.raises(ValueError, match=rf"'atac' has '{names[0]}' \(str\) and .* \({kind}\)"):
            call(MuData(mod))


@pytest.mark.filterwarnings("ignore::anndata.ImplicitModificationWarning")
def test_names_that_are_text_in_the_mudata_alone_are_refused_with_a_remedy_that_works(small):
    mdata = MuData(with_numbers_as_names(small, ["rna", "atac"]))
    mdata.obs.index = mdata.obs_names.astype(str)
    with pytest.raises(ValueError, match=r"'atac' has 0 \(int\), mdata.obs has '0' \(str\)"):
        setup(mdata)
    for adata in mdata.mod.values():  # what the message says
        adata.obs_names = adata.obs_names.astype(str)
    mdata.update()
    setup(mdata)


@pytest.mark.filterwarnings("ignore::anndata.ImplicitModificationWarning")
def test_names_are_shown_without_the_name_of_their_type_in_numpy(small):
    mod = with_numbers_as_names(small, ["rna"])
    mod["atac"].obs.index = pd.Index([np.str_(f"c{i}") for i in range(60)], dtype=object)
    with pytest.raises(ValueError, match=r"'atac' has 'c0' \(str\)"):
        setup(MuData(mod))


@pytest.mark.filterwarnings("ignore::anndata.ImplicitModificationWarning")
def test_cells_whose_names_are_numbers_are_chosen_by_what_the_message_says(small):
    mdata = MuData(with_numbers_as_names(small, ["rna", "atac"]))
    with pytest.raises(ValueError, match=r"'1' not found: .* type int.*obs_names.isin\(\[0, 1\]\)"):
        choose_rows(mdata, ["1"])
    assert list(choose_rows(mdata, mdata.obs_names.isin([0, 1]))) == [0, 1]


def test_features_that_are_asked_for_by_number_are_to_be_named(model):
    with pytest.raises(ValueError, match=r"such as 'rna_0', .* found 3 \(int\). List names"):
        model.predict("atac", "rna", features=[3])


@pytest.mark.filterwarnings("ignore::anndata.ImplicitModificationWarning")
def test_features_that_are_numbers_and_text_are_refused(model):
    new = model.adata.copy()
    new["rna"].var.index = pd.Index([*new["rna"].var_names[:-2], 1, "1"], dtype=object)
    for call in (setup, lambda x: model.predict("rna", "atac", x)):
        with pytest.raises(
            ValueError, match=r"'rna': var_names has 'rna_0' \(str\) and 1 \(int\).*astype"
        ):
            call(new)


@pytest.mark.filterwarnings("ignore::anndata.ImplicitModificationWarning")
def test_names_that_are_numbers_everywhere_are_names(small):
    mdata = MuData(with_numbers_as_names(small, ["rna", "atac"]))
    model = scvenn.MMVAEpp(mdata, n_hidden=8, screen=False)
    model.train(1, train_size=0.7, enable_progress_bar=False)
    assert len(model.evaluate())
    assert list(model.predict("rna", "atac").index) == list(range(60))


# ------------------------------------------------------------------------------- queries


def renamed(model, names):
    new = model.adata.copy()
    new.mod["rna"].var_names = [names(name) for name in new["rna"].var_names]
    new.update()
    return new


RENAMED = "mdata['rna'].var_names"


@pytest.mark.parametrize(
    ("names", "remedy"),
    [
        (str.upper, ".str.lower()"),
        (lambda v: v.replace("rna_3", "RNA_3"), ".str.lower()"),
        (lambda v: f" {v}  ", ".str.strip()"),
        (lambda v: f"{v}-1", ".str.removesuffix('-1')"),
        (lambda v: f"hg38-{v}", ".str.removeprefix('hg38-')"),
        (lambda v: f"{v}.{len(v)}{v[-1]}", r".str.replace(r'\.\d+$', '', regex=True)"),
        (lambda v: f"z{v}.z", ".str.removeprefix('z').str.removesuffix('.z')"),
        (lambda v: f" rna:{v.upper()}", ".str.strip().str.removeprefix('rna:').str.lower()"),
        (lambda v: v.removeprefix("rna_"), None),
    ],
)
def test_a_query_with_similar_names_is_told_the_expression_that_renames_them(model, names, remedy):
    new = renamed(model, names)
    written = f"'rna_' + {RENAMED}" if remedy is None else RENAMED + remedy
    with pytest.raises(ValueError, match=r"modality 'rna': \d+ of the 12 features") as error:
        model.predict("rna", "atac", new)
    assert str(error.value).endswith(f" Rename them: {RENAMED} = {written}.")
    new["rna"].var_names = eval(written, {"mdata": new})  # what the message says
    model.predict("rna", "atac", new)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            lambda v: f"{v}.{'abc'[len(v) % 3]}{v}",
            "behind the last dot, such as 'rna_0.crna_0' for",
        ),
        (lambda v: v.replace("rna_3", "X"), r"Use the same names\. If .* map_query\(mdata\)"),
    ],
)
def test_a_query_with_other_names_is_shown_the_names_of_both_sides(model, names, message):
    with pytest.raises(ValueError, match=rf"modality 'rna': \d+ of the 12 .* 'rna_.*{message}"):
        model.predict("rna", "atac", renamed(model, names))


def test_names_whose_case_follows_no_rule_are_shown(small):
    small["rna"].var_names = [*small["rna"].var_names[2:], "ACTB", "MT-CO1"]
    with pytest.raises(
        ValueError, match="upper and lower case or blanks, such as 'ACTB' for 'Actb'"
    ):
        ModalityField("rna", None, None).columns(
            small, {"column_names": np.array(["Actb", "mt-Co1"])}
        )


def test_a_query_with_none_of_the_features_is_not_told_to_add_all_of_them(model):
    with pytest.raises(ValueError, match="'X0', .* Give the features the names") as error:
        model.predict("rna", "atac", renamed(model, lambda v: f"X{v.removeprefix('rna_')}"))
    assert "add" not in str(error.value)


def test_a_query_without_features_is_refused(model):
    new = MuData({"rna": model.adata["rna"][:, :0].copy(), "atac": model.adata["atac"].copy()})
    with pytest.raises(ValueError, match="This data has no features"):
        model.predict("rna", "atac", new)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: scanpy.pp.normalize_total(a),
        lambda a: scanpy.pp.log1p(a),
        lambda a: scanpy.pp.scale(a),
    ],
)
def test_a_transformed_query_gets_a_remedy_that_a_query_has(model, change):
    new = model.adata.copy()
    change(new["rna"])
    with pytest.raises(ValueError, match=r"'nb' needs .*found .* must hold them as they were") as e:
        model.predict("rna", "atac", new)
    assert "layers=" not in str(e.value)
    assert "likelihoods=" not in str(e.value)


def test_a_query_of_nearly_counts_is_to_be_rounded(model):
    new = model.adata.copy()
    x = new["rna"].X.toarray().astype(np.float64)
    x[0, 0] = 7.0000007
    new["rna"].X = x
    with pytest.raises(ValueError, match=r"found 7.00000.*: mdata\['rna'\].X = np.round"):
        model.predict("rna", "atac", new)
    new["rna"].X = np.round(new["rna"].X)  # what the message says
    model.predict("rna", "atac", new)


@pytest.mark.parametrize("n", [0, 1])
def test_a_query_may_have_few_cells_of_a_modality_or_none(model, n):
    new = MuData({"rna": model.adata["rna"].copy(), "atac": model.adata["atac"][:n].copy()})
    assert np.isfinite(model.predict("rna", "atac", new, return_numpy=True)).all()
    found = model.get_private_representation("atac", new)
    assert np.isfinite(found).all(1).sum() == n


@pytest.mark.parametrize("use", [setup, scvenn.MMVAEpp, scvenn.choose_latent_sizes])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (pd.DataFrame(), "found DataFrame. Put the measurements together"),
        ({"rna": AnnData(np.eye(3))}, "found dict"),
        (np.eye(3), "found ndarray"),
        (None, "found NoneType"),
        (AnnData(np.eye(3)), "found an AnnData"),
        ("x.h5mu", r"found the path 'x.h5mu'. Read the file first: mudata.read_h5mu"),
        (Path("x.h5mu"), r"found the path 'x.h5mu'"),
    ],
    ids=["DataFrame", "dict", "array", "None", "AnnData", "text", "Path"],
)
def test_anything_else_is_refused(use, given, message):
    with pytest.raises(TypeError, match=f"Expected a MuData, {message}"):
        use(given)


def test_a_view_is_refused_for_training(small):
    with pytest.raises(ValueError, match=r"view.*mdata.copy\(\)"):
        setup(small[:30])


def test_an_axis_of_features_is_refused(small):
    mdata = MuData({"a": small["rna"].copy(), "b": small["rna"].copy()}, axis=1)
    with pytest.raises(ValueError, match="axis is 1, expected 0"):
        setup(mdata)


def test_a_matrix_of_words_is_refused(small):
    small.mod["rna"].layers["words"] = np.full((60, 12), "a", dtype=object)
    with pytest.raises(TypeError, match=r"\.layers\['words'\] is a ndarray of object"):
        setup(small, layers={"rna": "words"})


def without_matrix(mdata):
    """The same without .X of a modality, which has it as the layer "raw"."""
    rna = mdata["rna"]
    empty = AnnData(obs=rna.obs.copy(), var=rna.var.copy(), layers={"raw": rna.X})
    return MuData({"rna": empty, "atac": mdata["atac"].copy()})


def test_a_modality_without_matrix_is_refused_with_what_it_has(small):
    mdata = without_matrix(small)
    with pytest.raises(
        ValueError, match=r"mdata\['rna'\].X is None; the modality has .layers\['raw'"
    ):
        setup(mdata)
    with pytest.raises(ValueError, match=r"'Raw' not found; .*setup_mudata\(layers=...\)\.$"):
        setup(mdata, layers={"rna": "Raw"})
    del mdata["rna"].layers["raw"]
    with pytest.raises(ValueError, match=r"has no matrix. Put the values into mdata\['rna'\].X\.$"):
        setup(mdata)


def test_a_query_without_matrix_is_told_where_to_put_it(model):
    new = without_matrix(model.adata)
    with pytest.raises(
        ValueError, match=r"Put the values into mdata\['rna'\].X of the data given"
    ) as e:
        model.predict("rna", "atac", new)
    assert "layers=" not in str(e.value)
    new["rna"].X = new["rna"].layers["raw"]  # what the message says
    model.predict("rna", "atac", new)


def test_a_refused_mudata_is_left_as_it_was(small):
    with_value(small, "atac", np.inf)
    with pytest.raises(ValueError, match="inf"):
        setup(small)
    assert not small.uns
