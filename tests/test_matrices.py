"""The one door for matrices: any storage comes out as CSR or dense float32, or is refused."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scvenn.data.matrices import canonical, canonical_rows, check_values
from scvenn.data.statistics import feature_stats
from scvenn.likelihoods import LIKELIHOODS

pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass")

HERE = "mdata['rna'].X"
VALUES = np.random.default_rng(0).poisson(1.0, (9, 5)).astype(np.float32)


def read(matrix):
    return canonical(matrix, "rna", HERE)


def dense(matrix):
    return matrix.toarray() if sp.issparse(matrix) else matrix


def parts(matrix):
    if not sp.issparse(matrix):
        return [np.asarray(matrix).tobytes()]
    return [np.asarray(a).tobytes() for a in (matrix.data, matrix.indices, matrix.indptr)]


# ------------------------------------------------------------------------------- forms


@pytest.mark.parametrize("kind", ["matrix", "array"])
@pytest.mark.parametrize("storage", ["csr", "csc", "coo", "dia", "bsr", "lil", "dok"])
@pytest.mark.parametrize("dtype", [bool, "u1", "i8", "u8", "f4", "f8", "longdouble"])
def test_sparse_matrices_of_any_storage_and_type_become_csr(storage, kind, dtype):
    values = VALUES.astype(dtype)
    found = read(getattr(sp, f"{storage}_{kind}")(values))
    assert isinstance(found, sp.csr_matrix)
    assert found.has_canonical_format
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.toarray(), values.astype(np.float32))


@pytest.mark.parametrize(
    "storage", [np.asarray, np.asfortranarray, np.matrix, pd.DataFrame, np.ma.array]
)
@pytest.mark.parametrize("dtype", [bool, "u1", "i8", "u8", "f2", "f4", "f8", "longdouble"])
def test_dense_arrays_of_any_storage_and_type_become_contiguous_rows(storage, dtype):
    values = VALUES.astype(dtype)
    found = read(storage(values))
    assert type(found) is np.ndarray
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, values.astype(np.float32))


def test_masked_entries_are_not_observed():
    for values in (VALUES, VALUES.astype(int)):
        found = read(np.ma.array(values, mask=values == 0))
        np.testing.assert_array_equal(found, np.where(VALUES == 0, np.nan, VALUES))


@pytest.mark.parametrize("form", [np.ascontiguousarray, sp.csr_matrix])
def test_what_has_the_form_is_passed_through(form):
    matrix = form(VALUES)
    assert read(matrix) is matrix


def test_what_is_stored_beyond_the_last_row_does_not_count():
    matrix = sp.csr_matrix(VALUES)
    expected = matrix.nnz
    matrix.data, matrix.indices = np.append(matrix.data, 9), np.append(matrix.indices, 1)
    before = parts(matrix)
    found = read(matrix)
    assert len(found.data) == expected
    np.testing.assert_array_equal(found.toarray(), VALUES)
    assert parts(matrix) == before


# ------------------------------------------------------------------------------- entries


def repeated(storage, dtype):
    """Of shape (2, 3): an entry of 200 + 200, stored out of order, and one of 3 + 4."""
    data = np.array([200, 1, 200, 3, 4]).astype(dtype)
    rows, columns, ends = np.array([0, 0, 0, 1, 1]), np.array([2, 0, 2, 1, 1]), np.array([0, 3, 5])
    if storage == "coo":
        return sp.coo_matrix((data, (rows, columns)), shape=(2, 3))
    if storage == "csr":
        return sp.csr_matrix((data, columns, ends), shape=(2, 3))
    return sp.csr_matrix((data, columns, ends), shape=(2, 3)).T


@pytest.mark.parametrize("storage", ["csr", "csc", "coo"])
@pytest.mark.parametrize("dtype", ["u1", "i4", "f4", "f8"])
def test_repeated_entries_are_summed_even_beyond_their_type(storage, dtype):
    expected = np.array([[1, 0, 400], [0, 7, 0]])
    matrix = repeated(storage, dtype)
    before = [matrix.data.tobytes(), matrix.nnz]
    found = read(matrix)
    assert found.has_canonical_format
    np.testing.assert_array_equal(found.toarray(), expected.T if storage == "csc" else expected)
    assert [matrix.data.tobytes(), matrix.nnz] == before


@pytest.mark.parametrize("storage", ["csr", "csc", "coo"])
def test_repeated_truth_is_true(storage):
    assert set(read(repeated(storage, bool)).data) == {1}


def test_repeated_entries_that_cancel_and_stored_zeros_are_not_stored():
    matrix = sp.csr_matrix(([2.0, -2.0, 0.0, 1.0], [1, 1, 0, 2], [0, 2, 4]), shape=(2, 3))
    before = parts(matrix)
    found = read(matrix)
    assert found.nnz == 1
    assert parts(matrix) == before


@given(
    arrays(np.float32, (4, 6), elements=st.sampled_from([0, 1, 2, 250, np.nan])),
    st.sampled_from([sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array]),
    st.integers(0, 2**32 - 1),
)
def test_the_stored_arrays_are_never_changed(values, form, seed):
    matrix = form(values)
    order = np.random.default_rng(seed).permutation(matrix.nnz)
    if matrix.format == "coo":
        new = (matrix.data[order], (matrix.row[order], matrix.col[order]))
        matrix = sp.coo_matrix(new, shape=matrix.shape)
        before = [a.tobytes() for a in (matrix.data, matrix.row, matrix.col)]
    else:
        before = parts(matrix)
    found = read(matrix)
    np.testing.assert_array_equal(found.toarray(), values)
    if matrix.format == "coo":
        assert [a.tobytes() for a in (matrix.data, matrix.row, matrix.col)] == before
    else:
        assert parts(matrix) == before


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.coo_matrix])
@pytest.mark.parametrize(
    ("value", "found"),
    [
        (np.inf, "inf"),
        (-np.inf, "-inf"),
        (1e39, "1e\\+39"),
        (-1e300, "-1e"),
        (9.96921e36, "9.9"),  # what NetCDF fills in
        (1e20, "1e\\+20"),
    ],
)
def test_values_that_are_no_measurements_are_refused(form, value, found):
    values = VALUES.astype(np.float64)
    values[3, 2] = value
    with pytest.raises(ValueError, match=rf"'rna': found {found}.* in mdata\['rna'\].X; expected"):
        read(form(values))


def test_infinite_entries_do_not_cancel():
    with pytest.raises(ValueError, match="found inf"):
        read(sp.csr_matrix(([np.inf, -np.inf], [1, 1], [0, 2]), shape=(1, 3)))


def test_a_value_beyond_double_precision_is_named():
    with pytest.raises(ValueError, match=r"found 1e\+4000 .*at most 1e\+15"):
        read(np.full((2, 2), np.longdouble("1e4000")))


@pytest.mark.parametrize(
    ("matrix", "found"),
    [
        (VALUES.astype(complex), "a ndarray of complex128 with 2 dim"),
        (sp.csr_matrix(VALUES.astype(complex)), "a csr_matrix of complex128"),
        (VALUES.astype(object), "a ndarray of object"),
        (VALUES.astype(str), "a ndarray of <U"),
        (VALUES.astype("M8[s]"), "a ndarray of datetime64"),
        (VALUES[None], "a ndarray of float32 with 3 dimensions; expected a matrix of real numb"),
        (VALUES.tolist(), "a list; expected a numpy array or a scipy sparse matrix"),
    ],
)
def test_what_is_no_matrix_of_real_numbers_is_refused(matrix, found):
    with pytest.raises(TypeError, match=rf"modality 'rna': mdata\['rna'\].X is {found}"):
        read(matrix)


def test_a_matrix_that_is_not_computed_is_named_with_its_remedy():
    class Lazy:
        def compute(self):
            raise AssertionError

    with pytest.raises(TypeError, match=r"Read it into memory: (mdata\['rna'\].X) = \1.compute()"):
        read(Lazy())


# ------------------------------------------------------------------------------- damage

DAMAGE = {
    "indptr[5] += 10**7": "csr csc bsr",
    "indptr[5] = -5": "csr csc bsr",
    "indptr[-1] += 100": "csr csc bsr",
    "indptr[0] = 2": "csr csc bsr",
    "indptr[[3, 4]] = m.indptr[[4, 3]] - [0, 1]": "csr csc bsr",
    "indptr = m.indptr[:-3]": "csr csc bsr",
    "indices[5] = 10**6": "csr csc bsr",
    "indices[5] = -1": "csr csc bsr",
    "indices[5] = -(10**6)": "csr csc bsr",
    "indices = m.indices[:-20]": "csr csc",
    "data = m.data[:-20]": "csr csc coo",
    "coords[0][5] = 10**7": "coo",
    "coords[0][5] = -(10**7)": "coo",
    "coords[1][5] = 10**7": "coo",
    "coords[1][5] = -1": "coo",
}


def test_a_damaged_index_is_an_error_and_no_crash():
    """In a process of its own, which a crash would end."""
    code = """
import sys, numpy as np, scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from scvenn.data.matrices import canonical, canonical_rows
from scvenn.data.stored import stored_matrix
values = np.random.default_rng(0).poisson(1., (60, 12)).astype(np.float32)

def some_rows(m, *names):
    canonical_rows(m, np.arange(60)[::-1], *names)

def view(m, modality, where):
    stored_matrix(MuData({modality: AnnData(m)[::-1][5:, 1:]}), modality, None)

for line in sys.stdin.read().splitlines():
    form, change = line.split(" ", 1)
    in_anndata = form[:3] in ("csr", "csc")
    for read in (canonical, some_rows, view)[: 2 + in_anndata]:
        m = getattr(sp, form)(values)
        exec(f"m.{change}")
        try:
            read(m, "rna", "mdata['rna'].X")
            print(line, "accepted", flush=True)
        except ValueError as error:
            right = "'rna': the sparse matrix mdata['rna'].X is damaged (" in str(error)
            print("right" if right else f"{line}: {error}", flush=True)
"""
    cases = [
        f"{form}_{kind} {change}"
        for change, forms in DAMAGE.items()
        for form in forms.split()
        for kind in ("matrix", "array")
    ]
    run = subprocess.run(
        [sys.executable, "-c", code], input="\n".join(cases), capture_output=True, text=True
    )
    n_readers = sum(3 if case[:3] in ("csr", "csc") else 2 for case in cases)
    assert run.stdout.splitlines() == ["right"] * n_readers, run.stderr[-500:]
    assert run.returncode == 0


# ------------------------------------------------------------------------------- some rows


@pytest.mark.parametrize(
    "form",
    [
        *(np.asarray, np.asfortranarray, np.matrix, np.ma.array, pd.DataFrame),
        *(sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.coo_matrix, sp.bsr_matrix),
    ],
)
def test_some_rows_are_those_of_the_whole(form):
    rows = np.array([7, 0, 3, 3])
    found = canonical_rows(form(VALUES), rows, "rna", HERE)
    np.testing.assert_array_equal(dense(found), VALUES[rows])


# ------------------------------------------------------------------------------- statistics


@given(
    arrays(np.int64, (7, 4), elements=st.integers(0, 6)),
    st.sampled_from(list(LIKELIHOODS)),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=4),
    st.sets(st.integers(0, 6), min_size=1),
)
def test_statistics_do_not_depend_on_storage_to_the_last_bit(counts, likelihood, holes, rows):
    values = (counts > 2 if likelihood == "bernoulli" else counts).astype(np.float64)
    if likelihood == "normal":
        values = np.where(values > 0, values / 7 - 0.3, 0)
    if likelihood == "beta":
        values = values / 7
    if LIKELIHOODS[likelihood].allows_missing:
        for i, j in holes:
            values[i, j] = np.nan
    cells = np.array(sorted(rows))
    dense_as_is, *others = (
        feature_stats(read(form(values)), cells, likelihood=likelihood).stats
        for form in (np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.coo_matrix)
    )
    for found in others:
        assert found.mean.tobytes() == dense_as_is.mean.tobytes()
        assert found.scale.tobytes() == dense_as_is.scale.tobytes()
        assert found.library == dense_as_is.library


def test_sums_of_half_precision_counts_do_not_overflow():
    values = np.full((3, 40), 60_000, np.float16)
    found = feature_stats(read(values), np.arange(3), likelihood="nb").stats
    assert found.library == pytest.approx(40 * 60_000, rel=1e-3)
    assert np.isfinite(found.mean).all()


def test_a_feature_that_is_missing_in_all_cells_has_mean_0_and_scale_1():
    values = VALUES / 3 - 0.5
    values[:4, 2] = np.nan
    for form in (np.asarray, sp.csr_matrix):
        found = feature_stats(read(form(values)), np.arange(4), likelihood="normal").stats
        assert (found.mean[2], found.scale[2]) == (0, 1)


# ------------------------------------------------------------------------------- domains


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_zeros_that_are_not_stored_are_checked_as_well(form, monkeypatch):
    """As a likelihood of positive values needs, which users may add."""
    positive = type("Positive", (LIKELIHOODS["normal"],), {"domain": "positive values"})
    positive.in_domain = staticmethod(lambda values: values > 0)
    monkeypatch.setitem(LIKELIHOODS, "positive", positive)
    with pytest.raises(ValueError, match="needs positive values, found 0 in"):
        check_values(
            read(form(VALUES)), np.arange(9), modality="rna", where=HERE, likelihood="positive"
        )


NEARLY = np.array([[7.0000007, 0], [2, 3]])


@pytest.mark.parametrize("form", [np.asarray, np.matrix, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize(
    ("likelihood", "new_data"),
    [(None, False), ("nb", False), ("nb", True), ("poisson", True), ("nb_mixture", True)],
)
def test_counts_that_are_nearly_integers_are_to_be_rounded(form, likelihood, new_data):
    with pytest.raises(ValueError, match=r"7\.00000.*Round|7\.00000.*round") as error:
        check_values(
            read(form(NEARLY)),
            np.arange(2),
            modality="rna",
            where="matrix",
            likelihood=likelihood,
            new_data=new_data,
        )
    assert "matrix = np.round(matrix)" in str(error.value)
    rounded = read(np.round(form(NEARLY)))  # what the message says works
    check_values(rounded, np.arange(2), modality="rna", where="matrix", likelihood=likelihood)


def test_large_counts_recovered_from_single_precision_are_to_be_rounded():
    counts = np.random.default_rng(0).poisson([1, 30, 7500], (50, 3)).astype(np.float32)
    totals = counts.sum(1, keepdims=True)
    recovered = np.expm1(np.log1p(counts / totals * np.float32(1e4))) * totals / np.float32(1e4)
    assert np.abs(recovered - counts).max() > 2e-3
    with pytest.raises(ValueError, match=r"counts but for rounding, such as .*np.round"):
        check_values(recovered, np.arange(50), modality="rna", where="matrix", likelihood=None)


def test_large_real_values_are_not_taken_for_counts():
    values = (1e5 * np.random.default_rng(0).normal(1, 0.1, (50, 3))).astype(np.float32)
    found = check_values(values, np.arange(50), modality="rna", where="matrix", likelihood=None)
    assert found == "normal"


def test_01_values_that_are_nearly_so_are_to_be_rounded():
    values = read(np.array([[1.0000005, 0], [0, 1]]))
    with pytest.raises(ValueError, match="needs 0 or 1, found 1.00000.*np.round"):
        check_values(values, np.arange(2), modality="a", where=HERE, likelihood="bernoulli")


def test_a_difference_that_single_precision_does_not_hold_is_none():
    values = read(np.array([[7.0000000007, 0], [2, 3]]))
    found = check_values(values, np.arange(2), modality="rna", where=HERE, likelihood=None)
    assert found == "nb"
