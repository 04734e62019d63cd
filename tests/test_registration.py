"""How a MuData becomes tensors: alignment by name, inference of likelihoods, columns of obs."""

import warnings

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from mudata import MuData

import scvenn
from scvenn.data import AlignedManager, ColumnField
from scvenn.data.fields import ModalityField, ObservedField
from scvenn.data.matrices import align
from tests.conftest import shuffled, three_modalities


def manager_of(mdata, **kwargs):
    scvenn.MMVAEpp.setup_mudata(mdata, **kwargs)
    return scvenn.MMVAEpp._get_most_recent_anndata_manager(mdata, required=True)


def dense(matrix):
    return matrix.toarray() if sp.issparse(matrix) else matrix


@st.composite
def matrices(draw):
    n, d = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    x = np.arange(1, n * d + 1, dtype=np.float32).reshape(n, d)
    rows = np.array(draw(st.lists(st.integers(-1, n - 1), min_size=1, max_size=8)))
    columns = np.array(draw(st.permutations(range(d))))[: draw(st.integers(1, d))]
    return x, rows, columns


@given(matrices(), st.sampled_from(["array", "csr", "csc"]))
def test_gather_takes_rows_and_columns_and_fills_with_zeros(case, kind):
    x, rows, columns = case
    matrix = {"array": lambda v: v, "csr": sp.csr_matrix, "csc": sp.csc_matrix}[kind](x)
    expected = np.where((rows >= 0)[:, None], x[rows][:, columns], 0)
    out = align(matrix, rows, columns)
    assert sp.issparse(out) == (kind != "array")
    np.testing.assert_array_equal(dense(out), expected)


def test_an_aligned_matrix_is_passed_through_without_a_copy(small):
    manager = manager_of(small)
    for m in small.mod:
        assert manager.get_from_registry(f"X_{m}") is small[m].X


def test_sparse_stays_sparse(incomplete):
    manager = manager_of(incomplete)
    assert sp.issparse(manager.get_from_registry("X_rna"))
    assert sp.issparse(manager.get_from_registry("X_peaks"))


def test_rows_follow_the_names_of_the_cells(incomplete):
    manager = manager_of(incomplete)
    observed = manager.get_from_registry("observed")
    for i, (m, adata) in enumerate(incomplete.mod.items()):
        x = dense(manager.get_from_registry(f"X_{m}"))
        for row, name in enumerate(incomplete.obs_names):
            assert observed[row, i] == (name in adata.obs_names)
            if observed[row, i]:
                np.testing.assert_array_equal(x[row], dense(adata[name].X).ravel())


def test_shuffling_the_rows_of_a_modality_changes_no_tensor(mdata):
    other = shuffled(mdata, "rna")
    assert list(other["rna"].obs_names) != list(mdata["rna"].obs_names)
    one, two = manager_of(mdata), manager_of(other)
    for key in ("X_rna", "X_meth", "X_peaks", "observed"):
        np.testing.assert_array_equal(
            dense(one.get_from_registry(key)), dense(two.get_from_registry(key))
        )


def test_nothing_of_the_data_changes(incomplete):
    before, var = incomplete.copy(), incomplete.var.copy()
    manager_of(incomplete, labels_key="cell_type", batch_key="batch")
    assert set(incomplete.uns) - set(before.uns) == {"_scvi_uuid"}
    assert list(incomplete.mod) == list(before.mod)
    pd.testing.assert_frame_equal(incomplete.obs, before.obs)
    pd.testing.assert_frame_equal(incomplete.var, var)
    assert set(incomplete.obsm) == set(before.obsm)
    for m in before.mod:
        np.testing.assert_array_equal(dense(incomplete[m].X), dense(before[m].X))
        assert not incomplete[m].uns


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0, 1], [1, 0], [1, 1]], "bernoulli"),
        ([[0, 2], [1, 0], [1, 1]], "nb"),
        ([[0, 2.5], [1, 0], [1, 1]], "normal"),
        ([[0, -1], [1, 0], [1, 1]], "normal"),
        ([[0, np.nan], [1, 0], [1, 1]], "bernoulli"),
        ([[0, np.nan], [5, 1], [1, 1]], "normal"),
    ],
)
@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_the_narrowest_likelihood_is_inferred(values, expected, kind, small):
    names = small.obs_names[:3]
    other = AnnData(kind(np.array(values, np.float32)), obs=pd.DataFrame(index=names))
    mdata = MuData({"rna": small["rna"][names].copy(), "other": other})
    fields = manager_of(mdata).registry["field_registries"]
    assert fields["X_other"]["state_registry"]["likelihood"] == expected


@pytest.mark.parametrize("dtype", [bool, np.int32, np.uint8, np.float64])
def test_any_type_of_number_is_read(dtype, small):
    small["atac"].X = small["atac"].X.toarray().astype(dtype)
    fields = manager_of(small).registry["field_registries"]
    assert fields["X_atac"]["state_registry"]["likelihood"] == "bernoulli"


def test_inference_is_logged_in_one_line_for_each_modality(small, caplog):
    with caplog.at_level("INFO", "scvi.scvenn"):
        manager_of(small, likelihoods={"atac": "poisson"})
    lines = [r.getMessage() for r in caplog.records if r.name == "scvi.scvenn"]
    assert lines == [
        "rna: 12 features, 60 of 60 cells, likelihood nb (inferred)",
        "atac: 12 features, 60 of 60 cells, likelihood poisson (as asked)",
    ]


def test_a_layer_is_read_instead_of_x(small):
    small["rna"].layers["counts"] = small["rna"].X.copy()
    small["rna"].X = small["rna"].X.copy()
    small["rna"].X.data -= 0.5
    manager = manager_of(small, layers={"rna": "counts"})
    assert manager.get_from_registry("X_rna") is small["rna"].layers["counts"]


def test_statistics_leave_out_what_was_not_measured(incomplete):
    fields = manager_of(incomplete).registry["field_registries"]
    state = fields["X_meth"]["state_registry"]
    x = incomplete["meth"].X
    np.testing.assert_allclose(state["mean"], np.nanmean(x, 0), rtol=1e-5)
    np.testing.assert_allclose(state["scale"], np.nanstd(x, 0), rtol=1e-5)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_counts_with_nan_get_a_warning_before_they_are_modelled_as_real_values(small, form):
    x = small["rna"].X.toarray()
    x[3, 4] = np.nan
    small["rna"].X = form(x)
    with pytest.warns(UserWarning, match="'rna': .* holds counts, and NaN in 1 "):
        assert manager_of(small).found.likelihood("rna") == "normal"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*holds counts, and NaN")
        manager_of(small, likelihoods={"rna": "normal"})
        manager_of(small, likelihoods={"rna": "nb_mixture"})
        small["rna"].X = form(np.nan_to_num(x))
        assert manager_of(small).found.likelihood("rna") == "nb"
        small["rna"].X = form(x / 3)  # real values may be missing
        manager_of(small)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("layer", [None, "scaled"])
def test_cells_that_are_nan_in_every_feature_get_a_warning_whose_remedy_works(small, form, layer):
    x = small["rna"].X.toarray() - 0.5
    x[:2], x[5, 1:] = np.nan, np.nan
    x[6, 0] = np.nan
    small["rna"].layers["scaled"] = small["rna"].X = form(x)
    with pytest.warns(
        UserWarning, match="'rna': 2 of 60 cells are NaN in every.*'cell0', 'cell1'"
    ) as w:
        manager_of(small, layers={"rna": layer})
    found = next(str(x.message) for x in w if "are NaN in every" in str(x.message))
    exec(found.partition("modality: ")[2].removesuffix("."), {"mdata": small})  # what it says
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*are NaN in every")
        manager = manager_of(small, layers={"rna": layer})
    lacks = ~manager.get_from_registry("observed")[:, 0]
    assert set(small.obs_names[lacks]) == {"cell0", "cell1"}


def test_a_constant_feature_has_scale_one(small):
    x = small["rna"].X.toarray()
    x[:, 0] = 3
    small["rna"].X = x
    fields = manager_of(small).registry["field_registries"]
    assert fields["X_rna"]["state_registry"]["scale"][0] == 1


def test_set_up_twice_gives_the_same(small):
    first = manager_of(small).registry["field_registries"]["X_rna"]["state_registry"]
    second = manager_of(small).registry["field_registries"]["X_rna"]["state_registry"]
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])


# ------------------------------------------------------------------------------- columns of obs


def codes(mdata, key, **kwargs):
    field = ColumnField("labels", key, **kwargs)
    state = field.register_field(mdata)
    return [None if c < 0 else state["categories"][c] for c in field.read(mdata, state).ravel()]


def test_labels_come_from_the_mudata(small):
    assert codes(small, "cell_type") == list(small.obs["cell_type"])


def test_labels_come_from_a_modality(incomplete):
    known = incomplete.obs.pop("cell_type").astype(str)
    incomplete["rna"].obs["cell_type"] = known[incomplete["rna"].obs_names]
    expected = [
        known[c] if c in incomplete["rna"].obs_names else None for c in incomplete.obs_names
    ]
    assert codes(incomplete, "cell_type") == expected


def test_labels_of_several_modalities_complete_each_other(incomplete):
    known = incomplete.obs.pop("cell_type").astype(str)
    for m in incomplete.mod:
        incomplete[m].obs["cell_type"] = known[incomplete[m].obs_names]
    assert codes(incomplete, "cell_type") == list(known)


def test_labels_that_contradict_each_other_are_refused(small):
    known = small.obs.pop("cell_type").astype(str).to_numpy()
    small["rna"].obs["cell_type"] = known
    small["atac"].obs["cell_type"] = known[::-1]
    with pytest.raises(
        ValueError,
        match=r"differs between mdata\['rna'\].obs\[.* and mdata\['atac'\].obs.* in 28 cells",
    ):
        codes(small, "cell_type")


def test_nan_and_the_unlabeled_category_mean_not_known(small):
    labels = small.obs["cell_type"].astype(object)
    labels.iloc[0] = np.nan
    small.obs["cell_type"] = labels
    small.obs["kind"] = ["a", "b", "?"] * 20
    assert codes(small, "cell_type")[0] is None
    assert codes(small, "kind", unlabeled_category="?")[:3] == ["a", "b", None]


def test_numbers_are_labels_as_well(small):
    for values in ([0.0, 1.0, np.nan], pd.array([0, 1, None], dtype="Int64")):
        small.obs["IGHV"] = pd.Series(list(values) * 20, index=small.obs_names)
        assert codes(small, "IGHV")[:3] == ["0", "1", None]
        assert codes(small, "IGHV", unlabeled_category=7)[:3] == ["0", "1", None]


@pytest.mark.parametrize("doses", [[0.1, 0.3], [0.5, 1.0], [1e-3, 123.456]])
def test_a_fraction_is_one_category_in_either_precision(incomplete, doses):
    dose = pd.Series(np.resize(doses, incomplete.n_obs), index=incomplete.obs_names)
    for (_, adata), precision in zip(
        incomplete.mod.items(), (np.float32, np.float64, np.float32), strict=False
    ):
        adata.obs["dose"] = dose[adata.obs_names].astype(precision)
    assert codes(incomplete, "dose") == [f"{x:g}" for x in dose]


def test_dates_as_numbers_are_whole_whatever_holds_them(incomplete):
    """Single precision has none for 20230115."""
    dates = np.resize([20230115, 20230117], incomplete.n_obs)
    incomplete.obs["run"] = dates.astype(float)
    for adata in incomplete.mod.values():
        adata.obs["run"] = incomplete.obs["run"][adata.obs_names].astype(int)
    assert codes(incomplete, "run") == [str(date) for date in dates]


def test_a_manager_that_keeps_aligned_reads_once(incomplete):
    manager = manager_of(incomplete)
    with manager.keep_aligned():
        assert manager.get_from_registry("X_rna") is manager.get_from_registry("X_rna")
    assert manager.get_from_registry("X_rna") is not manager.get_from_registry("X_rna")


def test_fields_hold_no_data():
    """Fields are shared between the managers of several MuData."""
    one, two = three_modalities(missing=0.3, seed=1), three_modalities(missing=0.3, seed=2)
    field, observed = ModalityField("rna", None, None), ObservedField(["rna"])
    managers = []
    for mdata in (one, two):
        manager = AlignedManager([field, observed], setup_method_args={})
        manager.register_fields(mdata)
        managers.append(manager)
    for manager, mdata in zip(managers, (one, two), strict=True):
        assert manager.get_from_registry("X_rna").shape[0] == mdata.n_obs
        assert manager.get_from_registry("X_rna").sum() == mdata["rna"].X.sum()


def test_a_file_written_after_set_up_can_be_read_and_set_up(small, tmp_path):
    manager_of(small)
    small.write(tmp_path / "x.h5mu")
    manager_of(mudata.read_h5mu(tmp_path / "x.h5mu"))


@pytest.mark.parametrize("dense_rna", [False, True])
def test_a_modality_may_be_a_view_of_a_view(small, dense_rna):
    if dense_rna:
        small["rna"].X = small["rna"].X.toarray()
    view = small["rna"][10:][:, 2:]
    expected = view.copy()
    mdata = MuData({"rna": view, "atac": small["atac"]})
    assert mdata["rna"].is_view
    model = scvenn.MMVAEpp(mdata, screen=False)
    model.train(1, enable_progress_bar=False)
    np.testing.assert_array_equal(dense(mdata["rna"].X), dense(expected.X))
    assert mdata["rna"].obsm["X_shared"].shape == (50, 10)


def test_cells_without_any_of_the_modalities_are_named(caplog):
    mdata = three_modalities(missing=0.0, n_obs=40)
    for m in list(mdata.mod):
        mdata.mod[m] = mdata[m][:30].copy()  # without mdata.update()
    with caplog.at_level("WARNING", logger="scvi.scvenn"):
        scvenn.MMVAEpp.setup_mudata(mdata)
    assert "10 of 40 cells have none of the modalities" in caplog.text
