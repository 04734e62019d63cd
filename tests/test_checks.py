"""Every mistake in the data ends in one clear message."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

import scvenn
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
        ({"layers": {"rna": "counts"}}, "'rna': layer 'counts' not found"),
        ({"layers": {"adt": "counts"}}, r"\['adt'\] not found among the modalities"),
        ({"layers": "counts"}, "expected a dictionary"),
        ({"likelihoods": {"rna": "gaussian"}}, "'gaussian'.*expected one of"),
        ({"likelihoods": {"adt": "nb"}}, r"\['adt'\] not found among the modalities"),
        ({"likelihoods": "nb"}, "expected a dictionary"),
        ({"labels_key": "kind"}, "labels_key='kind' not found. Searched mdata.obs"),
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


def test_an_anndata_is_refused(small):
    for call in (setup, scvenn.MMVAEpp, scvenn.MMVAEpp.setup_anndata):
        with pytest.raises(TypeError, match="MuData"):
            call(small["rna"])


def test_anything_else_is_refused():
    with pytest.raises(TypeError, match="Expected a MuData, found DataFrame"):
        setup(pd.DataFrame())


def test_a_view_is_refused_for_training(small):
    with pytest.raises(ValueError, match=r"view.*mdata.copy\(\)"):
        setup(small[:30])


def test_a_backed_file_is_refused(small, tmp_path):
    import mudata

    small.write(tmp_path / "x.h5mu")
    backed = mudata.read_h5mu(tmp_path / "x.h5mu", backed=True)
    with pytest.raises(ValueError, match="backed by a file.*without backed=True"):
        setup(backed)


def test_an_axis_of_features_is_refused(small):
    mdata = MuData({"a": small["rna"].copy(), "b": small["rna"].copy()}, axis=1)
    with pytest.raises(ValueError, match="axis is 1, expected 0"):
        setup(mdata)


def test_a_matrix_of_words_is_refused(small):
    small.mod["rna"].layers["words"] = np.full((60, 12), "a", dtype=object)
    with pytest.raises(TypeError, match=r"\.layers\['words'\] is a ndarray of object"):
        setup(small, layers={"rna": "words"})


def test_a_modality_without_matrix_is_refused(small):
    empty = AnnData(obs=small["rna"].obs.copy(), var=small["rna"].var.copy())
    mdata = MuData({"rna": empty, "atac": small["atac"].copy()})
    with pytest.raises(ValueError, match=r"mdata\['rna'\].X is None. Pass layers"):
        setup(mdata)


def test_a_refused_mudata_is_left_as_it_was(small):
    with_value(small, "atac", np.inf)
    with pytest.raises(ValueError, match="inf"):
        setup(small)
    assert not small.uns
