"""Figures: what is drawn are the numbers of the tables, in the panels asked for."""

import copy
import inspect
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import scvi
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex, to_rgba
from mudata import MuData
from sklearn.decomposition import PCA

import scvenn
from scvenn.data import Keys
from scvenn.plotting import drawing as _drawing
from tests.conftest import QUIET, three_modalities

pl = scvenn.pl
LATENTS = ["shared", "private rna", "private meth", "private peaks"]


@pytest.fixture(scope="module")
def three():
    """MMVAE, which does not screen, on three modalities with missing cells."""
    scvi.settings.seed = 0
    model = scvenn.MMVAE(three_modalities(missing=0.3), n_shared=3, n_private=2, n_hidden=16)
    model.train(4, train_size=0.5, **QUIET)
    return model


@pytest.fixture(scope="module")
def two():
    """MMVAE++, which screens, on two modalities."""
    scvi.settings.seed = 0
    mdata = scvenn.datasets.simulate_counts(120, n_features=20, n_shared_features=10, n_types=3)
    model = scvenn.MMVAEpp(mdata, n_shared=3, n_private=2, n_hidden=16)
    model.train(4, train_size=0.5, **QUIET)
    return model


@pytest.fixture(scope="module")
def scores(three):
    return three.evaluate(labels_key="cell_type")


@pytest.fixture(scope="module")
def compared(two):
    tables = [two.evaluate(labels_key="cell_type").assign(model=name) for name in ("one", "other")]
    return pd.concat(tables, ignore_index=True)


@pytest.fixture
def mdata(three):
    """Data with embeddings and without colours, which a test may change."""
    copied = three.adata.copy()
    copied.uns.pop("cell_type_colors", None)  # of figures before
    return copied


def titles(axes):
    return [ax.get_title() for ax in axes]


def labels(ax):
    return [text.get_text() for text in ax.get_yticklabels()]


def legend(axes):
    """Texts of the one legend of some panels."""
    (found,) = [ax.get_legend() for ax in axes if ax.get_legend() is not None]
    return [text.get_text() for text in found.get_texts()]


def dots(ax):
    """Positions of all dots of a panel, (n, 2)."""
    return np.vstack([np.asarray(drawn.get_offsets()) for drawn in ax.collections])


# ------------------------------------------------------------------------ what holds for all


@pytest.fixture(scope="module")
def inputs(two, three, scores, compared):
    """What each figure draws, and the number of its panels."""
    return {
        "training": (two, 3),
        "embeddings": (three.adata, 4),
        "r2": (scores, 3),
        "shared_scores": (two, 2),
        "leakage": (scores, 1),
        "compare": (compared, 1),
        "variance_explained": (three.variance_explained(), 1),
        "variance_by_axis": (three.variance_explained(), 2),
        "loadings": (three.loadings("rna"), 1),
    }


SEVERAL = ["training", "embeddings", "r2", "shared_scores", "variance_by_axis"]
ONE = ["leakage", "compare", "variance_explained", "loadings"]


def draw(name, shown, axes=None):
    if name == "embeddings":
        return pl.embeddings(shown, "cell_type", basis="pca", axes=axes)
    return getattr(pl, name)(shown, **{"axes" if name in SEVERAL else "ax": axes})


@pytest.mark.parametrize("module", ["pl", "pp", "metrics", "datasets", "testing"])
def test_completion_shows_public_names_only(module):
    shown = getattr(scvenn, module)
    assert set(dir(shown)) == {*shown.__all__, "__all__"}  # without which Sphinx finds none


def test_completion_of_the_package_shows_public_names_only():
    assert set(dir(scvenn)) == {*scvenn.__all__, "__version__"}


def test_every_figure_is_tested():
    assert {*SEVERAL, *ONE} == set(pl.__all__)


@pytest.mark.parametrize("name", SEVERAL)
def test_panels_that_are_given_are_drawn_on_and_returned(name, inputs):
    shown, n = inputs[name]
    given = plt.subplots(1, n)[1]
    returned = draw(name, shown, given)
    assert [id(ax) for ax in returned] == [id(ax) for ax in given]
    assert len(plt.get_fignums()) == 1
    assert all(ax.has_data() for ax in given)


@pytest.mark.parametrize("name", ONE)
def test_axes_that_are_given_are_drawn_on_and_returned(name, inputs):
    given = plt.subplots()[1]
    assert draw(name, inputs[name][0], given) is given
    assert len(plt.get_fignums()) == 1
    assert given.has_data()


@pytest.mark.parametrize("name", [*SEVERAL, *ONE])
def test_without_axes_there_is_one_new_figure_with_nothing_beside(name, inputs):
    shown, n = inputs[name]
    axes = np.atleast_1d(draw(name, shown))
    assert len(axes) == n
    (number,) = plt.get_fignums()
    others = set(plt.figure(number).axes) - set(axes)
    assert len(others) == (name in ("loadings", "variance_by_axis"))  # their scale


@pytest.mark.parametrize("name", SEVERAL)
def test_a_wrong_number_of_axes_is_refused(name, inputs):
    shown, n = inputs[name]
    with pytest.raises(ValueError, match=rf"expected {n}, for .*; found 1\.") as refused:
        draw(name, shown, plt.subplots()[1])
    assert len(plt.get_fignums()) == 1
    assert str(refused.value).startswith("axes")


@pytest.mark.parametrize("name", [*SEVERAL, *ONE])
def test_no_setting_of_matplotlib_is_changed(name, inputs):
    before = copy.deepcopy(dict(mpl.rcParams))
    draw(name, inputs[name][0])
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", ["r2", *ONE])
def test_tables_are_not_changed(name, inputs):
    table = inputs[name][0]
    before = table.copy()
    draw(name, table)
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize("name", ["r2", "shared_scores", *ONE])
def test_another_table_is_refused_by_the_columns_it_lacks(name):
    with pytest.raises(ValueError, match=r"Expected a table with the columns .* without \["):
        draw(name, pd.DataFrame({"a": [1.0]}))
    assert not plt.get_fignums()


@pytest.mark.parametrize("name", [*SEVERAL, *ONE])
def test_texts_of_panels_do_not_overlap(name, inputs):
    """Neither tick labels, nor labels and titles of neighbours, nor a legend and a panel."""
    axes = np.atleast_1d(draw(name, inputs[name][0]))
    figure = axes[0].figure
    figure.canvas.draw()
    for ax in axes:
        ticks = [t.get_window_extent() for t in ax.get_xticklabels() if t.get_text()]
        assert not any(a.overlaps(b) for a, b in pairwise(ticks))
        tight = ax.title.get_window_extent()
        assert not any(tight.overlaps(other.bbox) for other in axes)
        if ax.get_legend() is not None:
            box = ax.get_legend().get_window_extent()
            assert not any(box.overlaps(other.bbox) for other in axes)
            assert figure.bbox.x1 >= box.x1 - 1


# ------------------------------------------------------------------------ shown, saved, returned

EXPLAINED = pd.DataFrame({"modality": "rna", "latent": ["shared", "private"], "r2": [0.2, 0.5]})


@pytest.fixture
def shows(monkeypatch):
    """How often figures were shown."""
    calls = []
    monkeypatch.setattr(plt, "show", lambda: calls.append(1))
    return calls


@pytest.mark.parametrize("name", [*SEVERAL, *ONE])
def test_every_figure_says_how_it_is_shown_and_saved(name):
    parameters = inspect.signature(getattr(pl, name)).parameters
    defaults = {key: parameters[key].default for key in list(parameters)[-3:]}
    assert defaults == {"show": None, "save": None, "return_fig": False}


@pytest.mark.parametrize("show", [None, False])
def test_a_figure_is_not_shown_unasked(show, shows):
    assert pl.variance_explained(EXPLAINED, show=show).has_data()
    assert not shows


def test_a_figure_that_is_shown_returns_nothing(shows):
    assert pl.variance_explained(EXPLAINED, show=True) is None
    assert len(shows) == 1


def test_the_figure_is_returned_when_asked_even_if_it_is_shown(shows):
    for show in (None, True):
        assert plt.fignum_exists(
            pl.variance_explained(EXPLAINED, show=show, return_fig=True).number
        )
    assert len(shows) == 1


def test_the_figure_that_is_returned_is_that_of_the_axes_given():
    figure = plt.figure()
    part, _ = figure.subfigures(1, 2)
    for axes in (figure.subplots(), part.subplots()):
        assert pl.variance_explained(EXPLAINED, ax=axes, return_fig=True) is figure


def test_panels_of_two_figures_are_not_one_figure(inputs):
    shown, n = inputs["shared_scores"]
    axes = [plt.subplots()[1] for _ in range(n)]
    assert len(pl.shared_scores(shown, axes=axes)) == n
    for output in ({"return_fig": True}, {"save": "a.png"}):
        with pytest.raises(ValueError, match="those of one figure .* found 2 figures"):
            pl.shared_scores(shown, axes=axes, **output)
    assert not Path("a.png").exists()


@pytest.mark.parametrize("path", ["a.png", Path("a.png"), "a.svg", "~/a.pdf"])
def test_a_figure_is_saved_where_and_as_what_the_path_says(path, monkeypatch):
    monkeypatch.setenv("HOME", str(Path.cwd()))
    ax = pl.variance_explained(EXPLAINED, save=path)
    assert ax.has_data()
    (written,) = Path.cwd().iterdir()
    assert written.name == Path(path).name
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[written.suffix]
    assert written.read_bytes().startswith(start)


def test_the_resolution_is_matplotlibs_setting_if_it_is_set():
    sizes = []
    for dpi in ("figure", 50):
        with mpl.rc_context({"savefig.dpi": dpi}):
            pl.variance_explained(EXPLAINED, save="a.png")
        sizes.append(plt.imread("a.png").shape[0])
    assert sizes[0] == pytest.approx(4 * sizes[1], rel=0.05)


def test_a_figure_that_cannot_be_written_leaves_the_old_file(monkeypatch):
    Path("a.png").write_text("old")

    def half(self, path, **how):
        Path(path).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half)
    with pytest.raises(OSError, match="disk full"):
        pl.variance_explained(EXPLAINED, save="a.png")
    assert [path.read_text() for path in Path.cwd().iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("save", "error", "message"),
    [
        ("a", ValueError, r"save='a': expected a file .* found the suffix ''\. Formats .*'png'"),
        ("a.xyz", ValueError, r"found the suffix '\.xyz'"),
        (".png", ValueError, r"such as 'figure\.png'; found the suffix ''"),
        ("no/a.png", FileNotFoundError, r"the folder no does not exist\. Create it first"),
        (True, TypeError, r"save=True: expected the path of a file"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_anything_is_drawn(save, error, message):
    with pytest.raises(error, match=message):
        pl.variance_explained(EXPLAINED, save=save)
    assert not plt.get_fignums()


# ------------------------------------------------------------------------ training


def test_training_has_a_panel_for_each_modality_and_one_for_the_loss(three):
    axes = pl.training(three)
    assert titles(axes) == ["rna", "meth", "peaks", "loss"]
    assert legend(axes)[:3] == ["from rna", "from meth", "from peaks"]
    assert legend(axes)[3:5] == ["training", "validation"]


def test_curves_are_the_records_of_the_history(two):
    ax = pl.training(two)[0]
    history = two.history
    for line, mode in zip(ax.get_lines(), ("train", "validation"), strict=False):
        record = history[f"log_likelihood_atac->rna_{mode}"].iloc[:, 0]
        np.testing.assert_array_equal(line.get_ydata(), record)
        np.testing.assert_array_equal(line.get_xdata(), record.index)


def test_a_history_gives_the_same_curves_as_the_model(two):
    of_model, of_history = pl.training(two), pl.training(two.history)
    for one, other in zip(of_model, of_history, strict=True):
        for a, b in zip(one.get_lines(), other.get_lines(), strict=False):
            np.testing.assert_array_equal(a.get_xydata(), b.get_xydata())


def history_of(**records):
    frame = {name: pd.DataFrame({name: values}) for name, values in records.items()}
    n = len(records["train_loss"])
    return {"kl_weight": pd.DataFrame({"kl_weight": [0.5, *[1.0] * (n - 1)]}), **frame}


def test_the_epoch_that_training_returned_to_is_marked(two, monkeypatch):
    monkeypatch.setattr(two, "best_epoch_", 1)
    for ax in pl.training(two):
        assert list(ax.get_lines()[-1].get_xdata()) == [1, 1]
    assert legend(pl.training(two))[-1] == "best epoch"


def test_without_validation_cells_there_is_no_dashed_curve_and_no_best_epoch():
    (ax,) = pl.training(history_of(train_loss=[4, 3, 2]))
    assert [line.get_linestyle() for line in ax.get_lines()] == ["-"]
    assert legend([ax]) == ["training"]


def test_no_best_epoch_where_training_did_not_return_to_it(small):
    model = scvenn.MMVAE(small)
    model.train(3, early_stopping=False, **QUIET)
    assert "best epoch" not in legend(pl.training(model))


def test_training_of_a_model_that_was_not_trained_is_refused(small):
    with pytest.raises(ValueError, match=r"found none\. Call model\.train\(\) first"):
        pl.training(scvenn.MMVAE(small))


def test_what_was_predicted_from_several_modalities_has_curves_of_its_own():
    names = ["log_likelihood_a+b->c_train", "log_likelihood_a+b->a_train"]
    axes = pl.training(history_of(train_loss=[2, 1], **{name: [-2, -1] for name in names}))
    assert titles(axes) == ["c", "loss"]  # a is not cross-view
    assert legend(axes)[0] == "from a and b"


def test_a_modality_called_a_plus_b_is_not_a_and_b_together():
    """Records of all pairs, by the names that the history has; each curve has its own panel."""
    pairs = [
        (("a",), "b"),
        (("a+b",), "b"),
        (("a", "b"), "a+b"),
        (("a",), "a->b"),
        (("a->b",), "a"),
    ]
    names = [Keys.log_likelihood(*pair) for pair in pairs]
    assert [Keys.of_log_likelihood(name) for name in names] == pairs
    records = {f"{name}_train": [-i, -i] for i, name in enumerate(names)}
    axes = pl.training(history_of(train_loss=[2, 1], **records))
    assert titles(axes) == ["b", "a+b", "a->b", "a", "loss"]
    assert [[line.get_ydata()[0] for line in ax.get_lines()] for ax in axes[:-1]] == [
        [0, -1], [-2], [-3], [-4]
    ]  # fmt: skip
    assert legend(axes)[:4] == ["from a+b", "from a->b", "from a", "from a and b"]


@given(st.lists(st.text("ab+->%2BDE_. ", min_size=1), min_size=2, max_size=4))
def test_every_pair_of_names_is_found_in_its_column(names):
    *encode, decode = names
    assert Keys.of_log_likelihood(Keys.log_likelihood(tuple(encode), decode)) == (
        tuple(encode),
        decode,
    )


@pytest.mark.parametrize(
    "name", ["train_loss", Keys.CROSS_VIEW, Keys.LABEL_LOG_LIKELIHOOD, "kl->x"]
)
def test_other_columns_are_no_pairs(name):
    assert Keys.of_log_likelihood(name) is None


# ------------------------------------------------------------------------ embeddings


def test_embeddings_leave_out_cells_without_the_modality_and_say_so(three):
    axes = pl.embeddings(three.adata, "cell_type", basis="pca")
    n = three.adata.n_obs
    assert [title.split("\n")[0] for title in titles(axes)] == LATENTS
    assert len(dots(axes[0])) == n
    for ax, adata in zip(axes[1:], three.adata.mod.values(), strict=True):
        assert len(dots(ax)) == adata.n_obs < n
        assert f"{adata.n_obs} of {n} cells" in ax.get_title()


def test_principal_components_are_those_of_the_latent(three):
    expected = PCA(2).fit_transform(three.adata.obsm["X_shared"])
    expected = np.sort(np.abs(expected), axis=0)
    drawn = np.sort(np.abs(dots(pl.embeddings(three.adata, basis="pca")[0])), axis=0)
    np.testing.assert_allclose(drawn, expected, rtol=1e-3, atol=1e-4)


def test_a_latent_of_one_dimension_can_be_drawn(small):
    model = scvenn.MVAE(small, n_shared=1, n_private=1)
    model.train(1, **QUIET)
    assert all(len(dots(ax)) == 60 for ax in pl.embeddings(small, basis="pca"))


def test_embeddings_write_the_colours_of_categories_and_nothing_else(mdata):
    columns, keys = list(mdata.obs.columns), (list(mdata.obsm), list(mdata.uns), list(mdata.obsp))
    before = {key: np.array(value) for key, value in mdata.obsm.items()}
    pl.embeddings(mdata, "cell_type", basis="pca")
    assert list(mdata.obs.columns) == columns
    assert mdata.uns.pop("cell_type_colors") == _drawing.PALETTE[:3]
    assert (list(mdata.obsm), list(mdata.uns), list(mdata.obsp)) == keys
    for key, value in before.items():
        np.testing.assert_array_equal(np.asarray(mdata.obsm[key]), value)


def colour_of(ax, cells):
    """Colours of cells (a mask) in a panel of all cells, whose order is that of the figure."""
    order = np.random.default_rng(0).permutation(len(cells))
    return {to_hex(c) for c in ax.collections[0].get_facecolor()[cells[order]]}


def test_each_category_has_its_colour_and_cells_without_one_are_grey(mdata):
    mdata.obs["type"] = mdata.obs["cell_type"].astype(object)
    mdata.obs.iloc[:20, mdata.obs.columns.get_loc("type")] = np.nan
    axes = pl.embeddings(mdata, "type", basis="pca")
    assert legend(axes) == ["type0", "type1", "type2", "no value"]
    for name, colour in zip(("type0", "type1", "type2"), _drawing.PALETTE, strict=False):
        cells = (mdata.obs["type"] == name).to_numpy()
        assert colour_of(axes[0], cells) == {colour.lower()}
    assert colour_of(axes[0], mdata.obs["type"].isna().to_numpy()) == {_drawing.PALE.lower()}


def test_numbers_have_a_scale(mdata):
    mdata.obs["age"] = np.linspace(20, 80, mdata.n_obs)
    mdata.obs.iloc[0, mdata.obs.columns.get_loc("age")] = np.nan
    axes = pl.embeddings(mdata, "age", basis="pca")
    scale = axes[1].child_axes[0]  # beside the right panel of the first of two rows
    assert scale.get_ylabel() == "age"
    known = mdata.obs["age"].dropna()
    assert scale.get_ylim() == pytest.approx((known.min(), known.max()))
    assert colour_of(axes[0], mdata.obs["age"].isna().to_numpy()) == {_drawing.PALE.lower()}
    assert all(ax.get_legend() is None for ax in axes)


@pytest.mark.parametrize("values", [[0.0, 1.0, np.nan], [True, False, True], ["0", "1", None]])
def test_zero_and_one_are_categories(values, mdata):
    mdata.obs["flag"] = np.resize(np.array(values, dtype=object), mdata.n_obs)
    mdata.obs["flag"] = mdata.obs["flag"].infer_objects()
    shown = legend(pl.embeddings(mdata, "flag", basis="pca"))
    assert shown[:2] in (["0", "1"], ["False", "True"])


@pytest.mark.parametrize("n", [8, 9, 21, 29, 110])
def test_any_number_of_categories_can_be_drawn(n, mdata):
    names = [f"type {i:03}" for i in range(n)]
    mdata.obs["many"] = pd.Categorical(np.resize(names, mdata.n_obs), [*names, "unused"])
    axes = pl.embeddings(mdata, "many", basis="pca")
    assert legend(axes) == names
    used = {to_hex(c) for c in axes[0].collections[0].get_facecolor()}
    assert len(used) == min(n, 102)
    axes[0].figure.canvas.draw()
    legends = [ax.get_legend() for ax in axes if ax.get_legend() is not None]
    assert legends[0].get_window_extent().x0 > max(ax.bbox.x1 for ax in axes)


def test_forty_long_names_fit_beside_the_panels(mdata):
    start, end = "positive, alpha-beta thymus-derived", "T cell of the peripheral blood"
    names = [f"CD{i:02} {start} {end}" for i in range(40)]
    mdata.obs["long"] = np.resize(names, mdata.n_obs)
    axes = pl.embeddings(mdata, "long", basis="pca")
    shown = legend(axes)
    assert len(set(shown)) == 40
    assert all(text.startswith("CD") and "…" in text and len(text) <= 32 for text in shown)
    figure = axes[0].figure
    figure.canvas.draw()
    box = next(ax.get_legend() for ax in axes if ax.get_legend()).get_window_extent()
    assert box.width < 0.5 * figure.bbox.width
    assert 0 <= box.y0 < box.y1 <= figure.bbox.y1 + 1
    assert all(ax.bbox.width > 150 for ax in axes)  # of 320


def test_names_of_which_only_the_middle_differs_are_left_longer(mdata):
    names = [f"a long beginning {i:02} that is followed by as long an end" for i in range(3)]
    mdata.obs["long"] = np.resize(names, mdata.n_obs)
    shown = legend(pl.embeddings(mdata, "long", basis="pca"))
    assert len(set(shown)) == 3
    assert all(32 < len(text) < len(names[0]) for text in shown)


def test_strings_are_in_the_order_that_scanpy_gives_them(mdata):
    mdata.obs["text"] = np.resize(["c10", "c2", "c1"], mdata.n_obs)
    assert legend(pl.embeddings(mdata, "text", basis="pca")) == ["c1", "c2", "c10"]


# ------------------------------------------------------------------------ colours kept in uns

RED, GOLD, TEAL = "#ff0000", "#ffd700", "#008080"


def colours_by_type(mdata, column="cell_type"):
    """The colour of each category of a column in the panel of the shared latent."""
    ax = pl.embeddings(mdata, column, basis="pca")[0]
    values = scvenn.data.find_column(mdata, column, column)
    return {name: colour_of(ax, (values == name).to_numpy()) for name in sorted(set(values))}


def test_scanpy_draws_categories_in_the_same_colours_afterwards(mdata):
    mdata.obs["text"] = np.resize(["c10", "c2", "c1"], mdata.n_obs)
    ours = colours_by_type(mdata, "text")
    adata = AnnData(obs=mdata.obs[["text"]], obsm={"X_shared": mdata.obsm["X_shared"]})
    adata.uns = mdata.uns
    theirs = sc.pl.embedding(adata, "X_shared", color="text", show=False).collections[0]
    for name, (colour,) in ours.items():
        cells = (adata.obs["text"] == name).to_numpy()
        assert {to_hex(c) for c in theirs.get_facecolor()[cells]} == {colour}


@pytest.mark.parametrize("more", [[], ["#000000"]])
@pytest.mark.parametrize("kind", [list, np.array])
def test_colours_in_uns_are_used_and_left(kind, more, mdata):
    mdata.uns["cell_type_colors"] = kept = kind([RED, GOLD, TEAL, *more])
    found = colours_by_type(mdata)
    assert found == {"type0": {RED}, "type1": {GOLD}, "type2": {TEAL}}
    assert mdata.uns["cell_type_colors"] is kept


@pytest.mark.parametrize(
    "kept", [[RED, GOLD], ["no", "such", "colour"], {"type0": RED}, np.array(3)]
)
def test_colours_in_uns_that_do_not_fit_are_written_anew(kept, mdata):
    mdata.uns["cell_type_colors"] = kept
    pl.embeddings(mdata, "cell_type", basis="pca")
    assert mdata.uns["cell_type_colors"] == _drawing.PALETTE[:3]


@pytest.mark.parametrize("color", ["rna:kind", "kind"])
def test_colours_of_a_modality_are_used_for_its_column(color, mdata):
    rna = mdata["rna"]
    rna.obs["kind"] = mdata.obs["cell_type"].reindex(rna.obs_names)
    rna.uns["kind_colors"] = [RED, GOLD, TEAL]
    mdata.obs["rna:kind"] = rna.obs["kind"]
    ax = pl.embeddings(mdata, color, basis="pca")[0]
    known = mdata.obs["rna:kind"]
    assert colour_of(ax, (known == "type1").to_numpy()) == {GOLD}
    kept = {"rna:kind": [RED, GOLD, TEAL], "kind": None}[color]
    assert mdata.uns.get(f"{color}_colors") == kept
    assert rna.uns["kind_colors"] == [RED, GOLD, TEAL]


def test_a_column_that_was_pulled_from_a_modality_is_found_by_its_own_name(mdata):
    rna = mdata["rna"]
    mdata.obs["rna:kind"] = np.resize(["a", "b"], mdata.n_obs)
    assert "kind" not in rna.obs
    pl.embeddings(mdata, "kind", basis="pca")
    assert mdata.uns["rna:kind_colors"] == _drawing.PALETTE[:2]


def test_colours_of_a_column_of_a_modality_are_written_there(mdata):
    mdata["rna"].obs["kind"] = np.resize(["a", "b"], mdata["rna"].n_obs)
    pl.embeddings(mdata, "kind", basis="pca")
    assert mdata["rna"].uns["kind_colors"] == _drawing.PALETTE[:2]
    assert "kind_colors" not in mdata.uns


def test_a_subset_has_the_colours_of_the_whole_and_a_view_is_left_a_view(mdata):
    whole = colours_by_type(mdata)
    del mdata.uns["cell_type_colors"]
    view = mdata[(mdata.obs["cell_type"] != "type0").to_numpy()]
    assert colours_by_type(view) == {name: whole[name] for name in ("type1", "type2")}
    assert view.is_view
    assert "cell_type_colors" not in mdata.uns


def test_numbers_have_no_colours_in_uns(mdata):
    mdata.obs["age"] = np.linspace(20, 80, mdata.n_obs)
    pl.embeddings(mdata, "age", basis="pca")
    assert "age_colors" not in mdata.uns


def test_without_a_column_cells_have_one_colour(three):
    axes = pl.embeddings(three.adata, basis="pca")
    assert colour_of(axes[0], np.ones(three.adata.n_obs, bool)) == {_drawing.BLUE.lower()}
    assert all(ax.get_legend() is None for ax in axes)


def test_a_column_may_be_in_the_modalities(mdata):
    for adata in mdata.mod.values():
        adata.obs["plate"] = mdata.obs["batch"].reindex(adata.obs_names).astype(str)
    mdata.obs = mdata.obs[["cell_type"]]
    assert legend(pl.embeddings(mdata, "plate", basis="pca")) == ["batch0", "batch1"]


def test_an_unknown_column_is_refused_by_what_there_is(three):
    with pytest.raises(ValueError, match="color='nope' not found. Searched .*cell_type"):
        pl.embeddings(three.adata, "nope")


def test_an_unknown_basis_is_refused(three):
    with pytest.raises(ValueError, match="basis='tsne': expected 'umap' or 'pca'"):
        pl.embeddings(three.adata, "cell_type", basis="tsne")


@pytest.mark.usefixtures("_umap")
@pytest.mark.parametrize("n", [0, 1, 4])
def test_latents_of_hardly_any_cell_are_drawn(n):
    latent = np.full((20, 3), np.nan)
    latent[:n] = np.random.default_rng(0).standard_normal((n, 3))
    places = scvenn.plotting.in_two_dimensions({"shared": latent})
    (ax,) = scvenn.plotting.draw_embeddings(places, None)
    assert len(ax.collections[0].get_offsets()) == n


def test_a_model_in_place_of_its_data_is_refused(mdata):
    model = scvenn.MMVAEpp(mdata)
    with pytest.raises(TypeError, match="Expected a MuData, found MMVAEpp. Pass the data.*adata"):
        scvenn.pl.embeddings(model, "cell_type")
    with pytest.raises(TypeError, match="Expected a MuData, found an AnnData."):
        scvenn.pl.embeddings(mdata["rna"])


def test_data_without_embeddings_is_refused(small):
    with pytest.raises(ValueError, match=r"Call model\.embed\(mdata\) first"):
        pl.embeddings(small, "cell_type")


def test_data_that_was_embedded_with_fewer_modalities_has_fewer_panels(three):
    new = MuData({"rna": three.adata["rna"].copy()})
    three.embed(new)
    assert titles(pl.embeddings(new, basis="pca")) == ["shared", "private rna"]


# ------------------------------------------------------------------------ r2


def test_dots_are_the_features_in_both_views(scores):
    axes = pl.r2(scores)
    assert titles(axes) == ["rna", "meth", "peaks"]
    assert legend(axes) == ["from rna", "from meth", "from peaks"]
    r2 = scores[scores["metric"] == "r2"]
    cross, same = (
        r2[r2["view"] == view].set_index(["target", "feature"]) for view in ("cross", "same")
    )
    for ax, target in zip(axes, ("rna", "meth", "peaks"), strict=True):
        of_target = cross.loc[target]
        expected = np.column_stack(
            [same["value"].loc[target].reindex(of_target.index), of_target["value"]]
        )
        expected = expected[np.isfinite(expected).all(1)].clip(min=-0.5)
        drawn = dots(ax)
        assert len(drawn) == len(expected) > 20
        # pairs in any order
        np.testing.assert_allclose(drawn[np.lexsort(drawn.T)], expected[np.lexsort(expected.T)])


def r2_table(cross, same):
    """Scores of features of b, from a and from b itself."""
    rows = [("r2", "cross", "a", "b", f"f{i}", value) for i, value in enumerate(cross)]
    rows += [("r2", "same", "b", "b", f"f{i}", value) for i, value in enumerate(same)]
    return pd.DataFrame(rows, columns=scvenn.metrics.EVALUATION_COLUMNS)


def test_a_feature_without_a_score_is_left_out():
    (ax,) = pl.r2(r2_table([0.1, np.nan, 0.3], [0.2, 0.4, 0.5]))
    assert len(dots(ax)) == 2


def test_low_r2_are_drawn_at_their_limit_which_the_axis_names():
    (ax,) = pl.r2(r2_table([0.1, -40.0], [0.2, 0.4]))
    assert dots(ax)[:, 1].min() == -0.5
    assert ax.get_yticklabels()[0].get_text() == "≤−0.5"
    assert ax.get_ylim()[0] < -0.5


def test_r2_needs_two_views(scores):
    joint = scores[scores["view"] == "joint"]
    with pytest.raises(ValueError, match=r"the table's R² are of \['joint'\]"):
        pl.r2(joint)


@pytest.mark.parametrize("function", [pl.r2, pl.leakage])
def test_scores_of_several_models_are_refused(function, compared):
    with pytest.raises(ValueError, match=r"found those of \['one', 'other'\].*pl\.compare"):
        function(compared)


@pytest.mark.parametrize("function", [pl.r2, pl.leakage])
def test_scores_of_one_model_of_a_comparison_can_be_drawn(function, compared):
    assert function(compared[compared["model"] == "one"]) is not None


# ------------------------------------------------------------------------ leakage


def cells(ax):
    """Texts of a heat map, by column and row."""
    columns = [text.get_text() for text in ax.get_xticklabels()]
    rows = labels(ax)
    found = {}
    for text in ax.texts:
        x, y = text.get_position()
        found[columns[int(x)], rows[int(y)]] = text.get_text()
    return found


def test_cells_of_leakage_are_medians_of_the_table(scores):
    ax = pl.leakage(scores)
    assert labels(ax) == LATENTS
    shown = cells(ax)
    for source, target in (("shared", "private_rna"), ("private_meth", "rna")):
        rows = scores[(scores["source"] == source) & (scores["target"] == target)]
        median = rows.loc[rows["metric"] == "leakage_r2", "value"].median()
        name = "R² of\n" + target.replace("_", "\n")
        assert shown[name, source.replace("_", " ")] == f"{median:z.2f}".replace("-", "−")
    auc = scores[(scores["metric"] == "auc") & (scores["source"] == "shared")]["value"].item()
    assert shown["AUC of\ncell_type", "shared"] == f"{auc:.2f}"
    assert ("R² of\nrna", "private rna") not in shown  # of its own modality, a latent may know


def test_columns_of_leakage_are_in_the_order_of_the_modalities(scores):
    columns = [
        text.get_text().removeprefix("R² of\n") for text in pl.leakage(scores).get_xticklabels()
    ]
    privates = ["private\nrna", "private\nmeth", "private\npeaks"]
    assert columns == ["AUC of\ncell_type", "shared", *privates, "rna", "meth", "peaks"]


def test_leakage_without_labels_has_no_column_for_them(scores):
    ax = pl.leakage(scores[scores["metric"] == "leakage_r2"])
    assert not any("AUC" in text.get_text() for text in ax.get_xticklabels())


# ------------------------------------------------------------------------ compare


def test_a_black_line_is_the_median_of_a_view(compared):
    ax = pl.compare(compared)
    assert labels(ax) == ["one", "other"]
    assert legend([ax]) == ["cross-view", "same-view", "joint"]
    r2 = compared[(compared["metric"] == "r2") & (compared["model"] == "one")]
    medians = r2.assign(value=r2["value"].clip(lower=-0.5)).groupby("view")["value"].median()
    drawn = [line.get_xdata()[0] for line in ax.get_lines()]
    assert drawn[:3] == pytest.approx(medians[["cross", "same", "joint"]].tolist())
    assert len(drawn) == 6


def test_scores_of_latents_are_compared_latent_by_latent(compared):
    ax = pl.compare(compared, "auc")
    assert legend([ax]) == ["shared", "private rna", "private atac"]
    auc = compared[(compared["metric"] == "auc") & (compared["model"] == "one")]
    assert [line.get_xdata()[0] for line in ax.get_lines()][:3] == auc["value"].tolist()
    assert ax.get_xlabel() == "AUC"


def test_a_metric_that_is_not_there_is_refused_by_what_there_is(compared):
    with pytest.raises(ValueError, match=r"no values of the metric 'f1'; it has \['r2', 'pearson'"):
        pl.compare(compared, "f1")


# ------------------------------------------------------------------------ variance explained


def test_bars_are_the_values_of_the_table(three):
    table = three.variance_explained()
    ax = pl.variance_explained(table)
    assert [text.get_text() for text in ax.get_xticklabels()] == three.modalities
    assert legend([ax]) == ["shared", "private", "both"]
    r2 = table.set_index(["latent", "modality"])["r2"]
    for bars, latent in zip(ax.containers, ("shared", "private", "both"), strict=True):
        assert [bar.get_height() for bar in bars] == r2[latent][three.modalities].tolist()


def test_one_bad_latent_does_not_squeeze_the_others():
    table = pd.DataFrame(
        {"modality": ["a", "a"], "latent": ["shared", "private"], "r2": [0.4, -30.0]}
    )
    ax = pl.variance_explained(table)
    assert [bar.get_height() for bar in ax.patches] == [0.4, -30.0]
    assert ax.get_ylim()[0] == -0.5


def test_a_modality_of_which_nothing_is_known_has_no_bars():
    table = pd.DataFrame({"modality": ["a", "b"], "latent": "shared", "r2": [0.4, np.nan]})
    ax = pl.variance_explained(table)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["a"]


def test_variance_of_single_dimensions_alone_is_refused(three):
    table = three.variance_explained()
    with pytest.raises(ValueError, match="draws the latents .*'both'.*the table has"):
        pl.variance_explained(table[table["latent"] == "shared_0"])


def test_each_axis_of_a_modality_is_a_cell(three):
    table = three.variance_explained()
    for ax, kind in zip(pl.variance_by_axis(table), ("shared", "private"), strict=True):
        assert labels(ax) == three.modalities
        drawn = ax.images[0].get_array()
        for i, m in enumerate(three.modalities):
            for k in range(drawn.shape[1]):
                row = table[(table["modality"] == m) & (table["latent"] == f"{kind}_{k}")]
                assert drawn[i, k] == max(0, row["r2"].item())


def test_private_latents_of_two_sizes_are_drawn():
    sizes = {"a": 2, "b": 1}
    rows = [(m, f"private_{k}", 0.1) for m, size in sizes.items() for k in range(size)]
    table = pd.DataFrame(rows, columns=["modality", "latent", "r2"])
    (ax,) = pl.variance_by_axis(table)
    np.testing.assert_array_equal(
        np.isnan(ax.images[0].get_array().filled(np.nan)), [[0, 0], [0, 1]]
    )


def test_a_table_without_single_axes_is_refused(three):
    table = three.variance_explained()
    with pytest.raises(ValueError, match="draws single axes, such as 'shared_0'; the table has"):
        pl.variance_by_axis(table[table["latent"] == "shared"])


# ------------------------------------------------------------------------ loadings


def test_columns_are_the_features_with_the_largest_loadings(three):
    table = three.loadings("rna")
    ax = pl.loadings(table, n=4)
    assert [text.get_text() for text in ax.get_xticklabels()] == [
        "shared_0",
        "shared_1",
        "shared_2",
    ]
    for k in range(3):
        rows = table[table["dimension"] == f"shared_{k}"]
        top = rows.loc[rows["loading"].abs().nlargest(4).index, "feature"].tolist()
        drawn = sorted(
            (t for t in ax.texts if t.get_position()[0] == k), key=lambda t: t.get_position()[1]
        )
        assert [text.get_text() for text in drawn] == top


def test_red_is_positive_and_blue_negative():
    table = pd.DataFrame(
        {"feature": ["up", "down"], "dimension": "shared_0", "loading": [2.0, -1.0]}
    )
    image = pl.loadings(table).images[0]
    red, _, blue, _ = image.to_rgba(image.get_array())[0, 0]
    assert red > blue
    red, _, blue, _ = image.to_rgba(image.get_array())[1, 0]
    assert red < blue


def test_a_loading_that_is_not_known_is_left_out():
    table = pd.DataFrame(
        {
            "feature": ["a", "b", "a", "b"],
            "dimension": ["shared_0", "shared_0", "shared_1", "shared_1"],
            "loading": [0.1, 0.2, 0.3, np.nan],
        }
    )
    assert [text.get_text() for text in pl.loadings(table).texts] == ["b", "a", "a"]
    with pytest.raises(ValueError, match="found no loading"):
        pl.loadings(table.assign(loading=np.nan))


# ------------------------------------------------------------------------ shared scores


def test_bars_of_shared_scores_count_features(two):
    table = two.get_shared_scores()
    axes = pl.shared_scores(table)
    assert legend(axes) == ["shared", "not shared"]
    for ax, m in zip(axes, ("rna", "atac"), strict=True):
        shared = table.loc[table["modality"] == m, "shared"]
        assert ax.get_title() == f"{m}\n{shared.sum()} of {len(shared)} shared"
        blue = [
            bar.get_height()
            for bar in ax.patches
            if bar.get_facecolor()[:3] == to_rgba(_drawing.BLUE)[:3]
        ]
        assert sum(blue) == shared.sum()
        known = table.loc[table["modality"] == m, "score"].notna()  # NaN: a constant feature
        assert sum(bar.get_height() for bar in ax.patches) == known.sum()


def test_shared_scores_within_groups_are_not_mixed(two):
    table = two.get_shared_scores(given="cell_type")
    one = table[table["group"] == "all"]
    groups = pd.concat([one, one.assign(group="type0", shared=True)])
    titles = [[ax.get_title() for ax in pl.shared_scores(of)] for of in (groups, one)]
    assert titles[0] == titles[1]


def test_a_model_gives_the_same_figure_as_its_table(two):
    heights = [
        [bar.get_height() for ax in pl.shared_scores(of) for bar in ax.patches]
        for of in (two, two.get_shared_scores())
    ]
    assert heights[0] == heights[1]


def test_a_model_that_does_not_screen_has_no_shared_scores(three):
    with pytest.raises(ValueError, match="screen=True"):
        pl.shared_scores(three)


@pytest.mark.parametrize("kind", ["object", "category"])
def test_a_number_and_the_same_as_text_are_one_category(two, kind):
    mdata = two.adata.copy()
    mdata.obs["mix"] = pd.Series([1, "1", "a", "b"] * 30, index=mdata.obs_names, dtype="object")
    mdata.obs["mix"] = mdata.obs["mix"].astype(kind)
    axes = pl.embeddings(mdata, "mix", basis="pca")
    legend = axes[-1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["1", "a", "b"]
    colours = {tuple(c) for c in axes[0].collections[0].get_facecolors()}
    assert len(colours) == 3


@pytest.mark.parametrize("n", [0, 2.5, True])
def test_the_number_of_loadings_is_checked(two, n):
    with pytest.raises(ValueError, match="n=.*expected an integer of at least 1"):
        pl.loadings(two.loadings("rna"), n)


@pytest.mark.parametrize(
    ("groups", "message"), [(["a", "b"], "several groups, and none is 'all'"), ([], "found no row")]
)
def test_shared_scores_of_no_group_are_refused(two, groups, message):
    table = two.get_shared_scores()
    parts = [table.assign(group=group) for group in groups] or [table.iloc[:0]]
    with pytest.raises(ValueError, match=message):
        pl.shared_scores(pd.concat(parts))


@pytest.mark.parametrize("form", [np.float16, np.float64, sp.csr_matrix, pd.DataFrame])
def test_embeddings_are_drawn_however_they_are_stored(mdata, form):
    mdata = mdata.copy()

    def places(mdata):
        axes = scvenn.pl.embeddings(mdata, basis="pca")
        return [np.abs(ax.collections[0].get_offsets()) for ax in np.ravel(axes)]

    expected = places(mdata)
    z = mdata.obsm["X_shared"]
    mdata.obsm["X_shared"] = (
        pd.DataFrame(z, index=mdata.obs_names)
        if form is pd.DataFrame
        else form(z)
        if form is sp.csr_matrix
        else z.astype(form)
    )
    for found, before in zip(places(mdata), expected, strict=True):
        np.testing.assert_allclose(found, before, atol=0.05)


def test_infinite_numbers_have_no_colour_and_others_keep_theirs(mdata):
    mdata.obs["number"] = np.linspace(0, 1, mdata.n_obs)
    mdata.obs.loc[mdata.obs_names[0], "number"] = np.inf
    ax, *_ = scvenn.pl.embeddings(mdata, "number", basis="pca")
    colours = ax.collections[0].get_facecolors()
    assert len(np.unique(colours, axis=0)) > 50
    mdata.obs["number"] = np.inf
    scvenn.pl.embeddings(mdata, "number", basis="pca")


def test_a_category_called_no_value_is_not_that_of_missing_cells(mdata):
    mdata.obs["group"] = np.resize(["no value", "b", None], mdata.n_obs).astype(object)
    ax, *rest = scvenn.pl.embeddings(mdata, "group", basis="pca")
    legends = [panel.get_legend() for panel in (ax, *rest) if panel.get_legend()]
    names = [text.get_text() for legend in legends for text in legend.get_texts()]
    assert sorted(names) == ["(no value)", "b", "no value"]


@pytest.mark.parametrize("values", [["b$^_$", "$x$"], [0.5, 1.5]], ids=["categories", "numbers"])
def test_names_are_no_formulas(mdata, values):
    mdata.obs["q$\\frac$"] = np.resize(values, mdata.n_obs)
    scvenn.pl.embeddings(mdata, "q$\\frac$", basis="pca")[0].figure.canvas.draw()


def test_what_the_backend_of_notebooks_sets_with_the_first_figure_stays(mdata, monkeypatch):
    """It becomes interactive then; else no further figure of the notebook is shown."""
    make_figure = plt.figure

    def as_in_a_notebook(*args, **kwargs):
        mpl.interactive(True)
        return make_figure(*args, **kwargs)

    monkeypatch.setitem(plt.rcParams, "interactive", False)
    monkeypatch.setattr(plt, "figure", as_in_a_notebook)
    scvenn.pl.embeddings(mdata, "cell_type")
    assert mpl.is_interactive()
    assert plt.rcParams["text.parse_math"]


def test_names_in_tables_are_no_formulas(two, compared):
    table = two.loadings("rna").assign(feature=lambda of: of["feature"] + "$\\frac$")
    _, ax = plt.subplots()
    for drawn in (pl.loadings(table), pl.loadings(table, ax=ax)):
        drawn.figure.canvas.draw()
    pl.compare(compared.replace({"model": {"one": "a$\\x$"}})).figure.canvas.draw()


def test_a_table_of_two_models_is_no_figure_of_their_mean(two, scores):
    twice = [two.variance_explained().assign(model=name) for name in "ab"]
    for draw in (pl.variance_explained, pl.variance_by_axis):
        with pytest.raises(ValueError, match=r"one row for each of \['modality', 'latent'\]"):
            draw(pd.concat(twice))
    with pytest.raises(ValueError, match="one row for each of"):
        pl.loadings(pd.concat([two.loadings("rna")] * 2))
    with pytest.raises(ValueError, match="one row for each of"):
        pl.leakage(pd.concat([scores] * 2))


def test_the_median_of_low_values_is_drawn_where_they_are():
    row = {"model": "a", "metric": "leakage_r2_within", "view": "latent", "source": "shared"}
    table = pd.DataFrame({"feature": ["x", "y"], "value": [-3.0, 0.4]}).assign(**row, target="t")
    ax = pl.compare(table, "leakage_r2_within")
    assert ax.get_lines()[0].get_xdata()[0] == -0.5
    assert ax.get_xlabel() == "leakage R² within groups"


def test_the_shared_latent_is_the_first_row_of_leakage(scores):
    assert labels(pl.leakage(scores[::-1]))[0] == "shared"


def test_scores_that_are_all_missing_are_named_as_the_reason(scores, two):
    with pytest.raises(ValueError, match="All values of the metric 'r2' are NaN"):
        pl.r2(scores.assign(value=np.nan))
    same = scores.assign(value=scores["value"].mask(scores["view"] == "cross"))
    with pytest.raises(ValueError, match="no feature with an R² in both views"):
        pl.r2(same)
    with pytest.raises(ValueError, match="no R² that is a number"):
        pl.variance_explained(two.variance_explained().assign(r2=np.nan))


@pytest.mark.parametrize("values", [["True", "False"], [True, None]])
def test_features_are_shared_or_not(values):
    table = pd.DataFrame({"modality": "rna", "feature": ["a", "b"], "score": 0.1, "shared": values})
    with pytest.raises(ValueError, match="expected True or False in the column 'shared'"):
        pl.shared_scores(table)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda m: pl.training(m.history["train_loss"]),
            "which are tables by name; found DataFrame",
        ),
        (lambda m: pl.training({"train_loss": [1, 2]}), "which are tables by name; found dict"),
        (lambda m: pl.shared_scores("a"), "found str"),
        (lambda m: pl.shared_scores(None), "found NoneType"),
    ],
)
def test_what_is_no_model_and_no_table_is_named(two, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(two)


@pytest.mark.parametrize("n_neighbors", [0, 1, 2.5, True, "a"])
def test_numbers_of_neighbours_are_checked(mdata, n_neighbors):
    with pytest.raises(ValueError, match="n_neighbors="):
        scvenn.pl.embeddings(mdata, n_neighbors=n_neighbors)


def test_tables_of_loadings_may_have_categories_and_numbers_as_names(two):
    table = two.loadings("rna")
    columns = {"feature": "category", "dimension": "category"}
    scvenn.pl.loadings(table.astype(columns))
    scvenn.pl.loadings(table.assign(feature=range(len(table))))


def test_figures_say_what_they_expect(two, scores):
    with pytest.raises(ValueError, match="found NoneType"):
        scvenn.pl.loadings(None)
    with pytest.raises(ValueError, match="the name of one metric"):
        scvenn.pl.compare(scores.assign(model="a"), ["r2"])
    table = two.variance_explained().assign(r2=np.nan)
    with pytest.raises(ValueError, match="none has an R²"):
        scvenn.pl.variance_by_axis(table)
