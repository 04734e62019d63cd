"""The report: one page with all that a model tells, that loads nothing and hides nothing."""

import base64
import io
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scvi
from mudata import MuData

import scvenn
from scvenn.likelihoods import LIKELIHOODS
from scvenn.readouts import page as _page
from scvenn.readouts import report as _report
from tests.conftest import QUIET, three_modalities, under_other_names

SECTIONS = [
    "In short",
    "Data",
    "Model",
    "Training",
    "Embeddings",
    "Variance explained",
    "Scores",
    "Features",
    "Settings",
]
# without a slash, which anndata 0.13 no longer writes in the name of a column
EVIL = "<script src='x'>alert('T & B')<script>"


class Page(HTMLParser):
    """What is on a page; complains about tags that are not closed in their order."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.open, self.text, self.rows = [], [], [], []
        self.source = Path(path).read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.text.append((self.open[-1], data.strip()))
            if self.open[-1] in ("td", "th"):
                self.rows[-1].append(data.strip())

    def texts(self, tag):
        return [text for of, text in self.text if of == tag]

    @property
    def notes(self):
        return [text for text in self.texts("p") if text.startswith("Not shown.")]

    @property
    def images(self):
        return [attributes["src"] for tag, attributes in self.tags if tag == "img"]


@pytest.fixture(scope="module")
def screened():
    """MMVAE++ on two modalities; names of a cell type, a column and features are HTML."""
    scvi.settings.seed = 3
    mdata = scvenn.datasets.simulate_counts(120, n_features=20, n_shared_features=10, n_types=3)
    mdata.obs[EVIL] = mdata.obs["cell_type"].cat.rename_categories({"type0": EVIL})
    mdata["rna"].var_names = [f"<b>{name}</b>" for name in mdata["rna"].var_names]
    model = scvenn.MMVAEpp(mdata, n_shared=3, n_private=2, n_hidden=16)
    model.train(3, train_size=0.5, batch_size=32, **QUIET)
    return model


@pytest.fixture(scope="module")
def mosaic():
    """MMVAE on three modalities with missing cells and covariates, trained with labels."""
    scvi.settings.seed = 0
    mdata = three_modalities(missing=0.3)
    mdata.obs["age"] = np.linspace(20, 80, mdata.n_obs)
    scvenn.MMVAE.setup_mudata(
        mdata, labels_key="cell_type", batch_key="batch", continuous_covariate_keys=["age"]
    )
    model = scvenn.MMVAE(
        mdata, n_shared=3, n_private={"rna": 4, "meth": 2, "peaks": 2}, n_hidden=16
    )
    model.train(3, train_size=0.5, **QUIET)
    return model


@pytest.fixture(scope="module")
def page_of_mosaic(mosaic, tmp_path_factory):
    return Page(mosaic.report(tmp_path_factory.mktemp("mosaic") / "report.html"))


@pytest.fixture(scope="module")
def page_of_screened(screened, tmp_path_factory):
    return Page(screened.report(tmp_path_factory.mktemp("two") / "report.html", labels_key=EVIL))


@pytest.fixture(params=["page_of_mosaic", "page_of_screened"])
def page(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def empty_sections(monkeypatch):
    """Only a quick section is made: for tests of what happens to the file."""
    others = ("results", "training", "embeddings", "variance", "scores", "features", "settings")
    for name in others:
        nothing = _page.Section(name, "", [])
        monkeypatch.setattr(
            _report._Report, f"_about_{name}", lambda *args, nothing=nothing: nothing
        )


def new_cells(mdata, *modalities):
    """The same values, of cells with other names, in some modalities only."""
    new = MuData({m: mdata[m].copy() for m in modalities})
    for column in ("cell_type", "batch", "age"):
        new.obs[column] = mdata.obs[column]
    return under_other_names(new)


# ------------------------------------------------------------------------ the page


def test_all_sections_are_there_and_linked(page):
    assert page.texts("h2") == SECTIONS
    linked = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert linked == [f"#{name}" for name in ids]
    assert not page.notes


def test_nothing_is_loaded_when_the_page_is_opened(page):
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {t for t, _ in page.tags}
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "background"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/png;base64,")), (tag, value[:50])
        assert not any(name.startswith("on") for name in attributes)
    (style,) = page.texts("style")
    assert "url(" not in style
    assert "@import" not in style
    policy = [
        a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_pictures_are_complete_and_described(page):
    for source in page.images:
        pixels = plt.imread(io.BytesIO(base64.b64decode(source.partition(",")[2], validate=True)))
        assert pixels.std() > 0
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")


def test_a_model_that_screens_has_one_picture_more(page_of_mosaic, page_of_screened):
    assert (len(page_of_mosaic.images), len(page_of_screened.images)) == (5, 6)
    assert any("Screening" in text for text in page_of_screened.texts("figcaption"))
    assert not any("Screening" in text for text in page_of_mosaic.texts("figcaption"))


def test_names_are_shown_and_never_run(page_of_screened):
    assert "<script" not in page_of_screened.source
    assert "<b>" not in page_of_screened.source
    shown = [text for _, text in page_of_screened.text]
    assert any(EVIL in text for text in page_of_screened.texts("p"))  # the class, in a sentence
    assert EVIL in shown  # the column, as a target of scores
    assert any(re.fullmatch(r"<b>rna_\d+</b>", text) for text in shown)


# ------------------------------------------------------------------------ what it says


def test_the_data_is_described(mosaic, page_of_mosaic):
    mdata = mosaic.adata
    for m, likelihood in (("rna", "nb"), ("meth", "normal"), ("peaks", "bernoulli")):
        n, values = mdata[m].n_obs, LIKELIHOODS[likelihood].summary
        assert [m, str(n), str(mdata.n_obs - n), "20", values, likelihood] in page_of_mosaic.rows
    lacking = sum(
        not all(name in mdata[m].obs_names for m in mdata.mod) for name in mdata.obs_names
    )
    sentences = " ".join(page_of_mosaic.texts("p"))
    assert f"150 cells, {lacking} of which lack at least one modality." in sentences
    assert "75 were trained on; 75 were held out" in sentences
    classes = "'type0', 'type1', 'type2'"
    assert f"Labels: cell_type, known of 150 cells; classes: {classes}." in sentences
    assert page_of_mosaic.texts("h1") == ["MMVAE of rna, meth and peaks"]


def test_the_model_is_described(page_of_mosaic, page_of_screened, screened):
    for row in (
        ["class", "MMVAE"],
        ["trained on", "75 cells"],
        ["dimensions of shared", "3"],
        ["dimensions of private", "4 of rna, 2 of meth and 2 of peaks"],
        ["decoders account for", "batch ('batch0', 'batch1') and age"],
        ["embeddings", "corrected for the batch"],
        ["labels in training", "cell_type"],
    ):
        assert row in page_of_mosaic.rows
    n_shared = screened.get_shared_scores().groupby("modality")["shared"].sum()
    found = f"{n_shared['rna']} of 20 of rna and {n_shared['atac']} of 20 of atac"
    assert ["features that screening calls shared", found] in page_of_screened.rows
    assert ["labels in training", "none"] in page_of_screened.rows


def test_the_main_results_are_beside_what_is_found_by_chance(screened, page_of_screened):
    table = screened.evaluate(labels_key=EVIL)
    cross = scvenn.metrics.medians(table[table["screened"].fillna(False)])
    of_screened = cross.query("metric == 'r2' and view == 'cross' and target == 'rna'").iloc[0]
    predicted = f"rna predicted from atac, median R² of its {of_screened['n']} shared features"
    medians = scvenn.metrics.medians(table)
    auc = medians.query("metric == 'auc' and source == 'shared'").iloc[0]
    leaks = medians.query("metric == 'leakage_r2' and source != 'shared'")
    leak = leaks.loc[leaks["median"].idxmax()]
    numbers = {row[0]: row[1:] for row in page_of_screened.rows if row}
    assert numbers[predicted] == [text_of(of_screened[k]) for k in ("median", "by_chance")]
    assert numbers[f"{EVIL} predicted from shared, AUC"] == [text_of(auc["median"]), "0.50"]
    (largest,) = (values for name, values in numbers.items() if "largest leakage" in name)
    assert largest == [text_of(leak[k]) for k in ("median", "by_chance")]


def test_every_section_of_results_has_a_guide(page):
    n_with_guide = len(SECTIONS) - len(["Data", "Model", "Settings"])
    assert page.texts("h3") == ["How to read this"] * n_with_guide


def test_embeddings_are_coloured_by_any_column_a_figure_each(mosaic, tmp_path, monkeypatch):
    drawn = []

    def draw(places, column):
        drawn.append(column)
        return plotted(places, column)

    plotted = _report.draw_embeddings
    monkeypatch.setattr(_report, "draw_embeddings", draw)
    mdata = mosaic.adata
    mdata["rna"].obs["depth"] = np.arange(mdata["rna"].n_obs, dtype=float)
    page = Page(mosaic.report(tmp_path / "report.html", color=["depth", "batch"]))
    depth, batch = drawn
    assert depth.notna().sum() == mdata["rna"].n_obs < mdata.n_obs
    assert sorted(batch) == sorted(mdata.obs["batch"])
    captions = page.texts("figcaption")
    assert "UMAP of each latent, coloured by depth." in captions
    assert "UMAP of each latent, coloured by batch." in captions
    # scores are of the labels all the same
    assert any(row[0] == "cell_type predicted from shared, AUC" for row in page.rows if row)


def test_labels_colour_embeddings_unless_another_column_does(page_of_mosaic):
    assert "UMAP of each latent, coloured by cell_type." in page_of_mosaic.texts("figcaption")


def text_of(value):
    return f"{value:z.2f}".replace("-", "−")


def test_scores_are_the_medians_of_evaluate(mosaic, page_of_mosaic):
    medians = scvenn.metrics.medians(mosaic.evaluate(labels_key="cell_type"))
    shown = {
        ("r2", "cross", "meth", "rna"): ["rna", "meth", "cross", "R²"],
        ("auroc", "joint", "all", "peaks"): ["peaks", "all", "joint", "AUROC"],
        ("leakage_r2", "latent", "private_meth", "rna"): [
            "rna", "private meth", "latent", "leakage R²"
        ],
        ("auc", "latent", "shared", "cell_type"): ["cell_type", "shared", "latent", "AUC"],
    }  # fmt: skip
    rows = medians.set_index(["metric", "view", "source", "target"])
    for key, names in shown.items():
        of_key = rows.loc[key]
        row = [
            *names,
            f"{of_key['n']:.0f}",
            text_of(of_key["median"]),
            text_of(of_key["by_chance"]),
        ]
        assert row in page_of_mosaic.rows


def test_the_page_says_how_long_was_trained_and_what_was_kept(screened, page_of_screened):
    n_epochs, best = len(screened.history["train_loss"]), screened.best_epoch_
    kept = best if best >= 0 else n_epochs - 1
    text = f"trained for {n_epochs} epochs and has the weights of epoch {kept} (the first is 0)"
    assert any(text in paragraph for paragraph in page_of_screened.texts("p"))


def test_scores_of_screened_features_are_beside_those_of_all(screened, page_of_screened):
    medians = scvenn.metrics.medians(screened.evaluate())
    (row,) = medians.query("metric == 'r2' and view == 'cross' and target == 'rna'").to_dict(
        "records"
    )
    columns = ["median_screened", "by_chance_screened"]
    end = [str(row["n_screened"]), *(text_of(row[column]) for column in columns)]
    shown = [r for r in page_of_screened.rows if r[:4] == ["rna", row["source"], "cross", "R²"]]
    assert [r[-3:] for r in shown] == [end]


def test_features_are_those_of_the_rankings(mosaic, page_of_mosaic):
    for m in mosaic.modalities:
        lists = [mosaic.shared_features(m, n=8), mosaic.private_features(m, n=8)]
        for i in range(max(map(len, lists))):
            row = []
            for table in lists:
                of_table = table.iloc[i] if i < len(table) else None
                row += (
                    ["–", "–"] if of_table is None else [of_table.feature, text_of(of_table.score)]
                )
            assert row in page_of_mosaic.rows


def test_settings_are_those_that_were_used(page_of_screened, page_of_mosaic):
    for row in (
        ["n_shared", "3"],
        ["screen", "True"],
        ["kl_weight_shared", "0.1"],
        ["max_epochs", "3"],
        ["batch_size", "32"],
        ["lr", "0.001"],
        ["enable_progress_bar", "False"],
        ["scvenn", scvenn.__version__],
        ["seed", "3"],
    ):
        assert row in page_of_screened.rows
    assert ["batch_key", "'batch'"] in page_of_mosaic.rows


def test_a_saved_model_reports_the_same_settings(screened, tmp_path, page_of_screened):
    screened.save(tmp_path / "model", save_anndata=True)
    loaded = scvenn.MMVAEpp.load(tmp_path / "model")
    scvi.settings.seed = 5
    page = Page(loaded.report(tmp_path / "report.html", labels_key=EVIL))
    assert page.rows == page_of_screened.rows


def test_a_model_whose_training_was_not_recorded_says_so(screened, monkeypatch):
    monkeypatch.setattr(screened, "train_params_", None)
    monkeypatch.setattr(screened, "seed_", None)
    report = _report._Report(screened, screened._cells(None, None, None), None)
    rows = [row for table in report._about_settings().parts for row in table.rows]
    assert ("", "not recorded") in rows
    assert ("seed", "not set") in rows


def test_of_many_cells_some_are_drawn(screened, tmp_path, monkeypatch):
    monkeypatch.setattr(_report, "MOST_DOTS", 50)
    page = Page(screened.report(tmp_path / "report.html"))
    assert "UMAP of each latent of 50 of the 120 cells." in page.texts("figcaption")


# ------------------------------------------------------------------------ what is missing


def test_without_held_out_cells_it_says_what_is_missing_and_how_to_get_it(small, tmp_path):
    model = scvenn.MMVAEpp(small, n_hidden=8)
    model.train(1, train_size=1.0, **QUIET)
    page = Page(model.report(tmp_path / "report.html", labels_key="cell_type"))
    assert page.texts("h2") == SECTIONS
    assert len(page.images) == 3  # training, embeddings, screening
    callers = ("evaluate", "variance_explained", "evaluate", "shared_features")
    for note, caller in zip(page.notes, callers, strict=True):
        assert note.startswith(f"Not shown. {caller}() needs two or more cells that were not")
        assert "Train with train_size below 1" in note


def test_new_data_with_one_modality_has_what_can_be_had(mosaic, tmp_path):
    new = new_cells(mosaic.adata, "rna")
    page = Page(mosaic.report(tmp_path / "report.html", mdata=new, labels_key="cell_type"))
    assert page.texts("h2") == SECTIONS
    counts = LIKELIHOODS["nb"].summary
    assert ["rna", str(new.n_obs), "0", "20", counts, "nb"] in page.rows
    assert any(row[:3] == ["meth", "0", str(new.n_obs)] for row in page.rows)
    assert any("0 of them were trained on." in text for text in page.texts("p"))
    assert any(row[:3] == ["rna", "rna", "same"] for row in page.rows)
    assert len(page.images) == 4  # no R² of features across views
    assert any("'rna' and another modality were measured" in note for note in page.notes)


def test_a_model_without_data_reports_on_new_data(mosaic, tmp_path):
    mosaic.save(tmp_path / "model")
    model = scvenn.MMVAE.load(tmp_path / "model", adata=False)
    new = new_cells(mosaic.adata, "rna", "meth", "peaks")
    page = Page(model.report(tmp_path / "report.html", mdata=new, labels_key="cell_type"))
    assert len(page.images) == 3  # training, embeddings, variance explained
    note, again = page.notes
    assert note == again
    assert "reads the training cells, and this model was loaded without data" in note
    with pytest.raises(ValueError, match="loaded without data"):
        model.report(tmp_path / "other.html")


def test_new_data_needs_no_column_of_labels(mosaic, tmp_path, empty_sections):
    mosaic.save(tmp_path / "model")
    new = new_cells(mosaic.adata, "rna", "meth", "peaks")
    del new.obs["cell_type"]
    model = scvenn.MMVAE.load(tmp_path / "model", new)
    page = Page(model.report(tmp_path / "report.html"))
    assert not any("Labels:" in text for text in page.texts("p"))


def test_the_data_is_left_as_it_was(mosaic, tmp_path):
    def state(mdata):
        slots = [
            (list(d.obs), list(d.var), list(d.obsm), list(d.uns))
            for d in (mdata, *mdata.mod.values())
        ]
        return slots, np.asarray(mdata.obsm["X_shared"]).tobytes()

    new = new_cells(mosaic.adata, "rna", "meth", "peaks")
    for mdata in (mosaic.adata, new):
        mdata.obsm["X_shared"] = np.ones((mdata.n_obs, 3))
        before = state(mdata)
        mosaic.report(tmp_path / "report.html", mdata=mdata, labels_key="cell_type")
        assert state(mdata) == before


# ------------------------------------------------------------------------ the file


def test_the_path_of_a_whole_file_is_returned(screened, tmp_path, empty_sections):
    written = screened.report(str(tmp_path / "new" / "report.html"))
    assert written == tmp_path / "new" / "report.html"
    assert [file.name for file in written.parent.iterdir()] == ["report.html"]
    plain = tmp_path / "plain"
    plain.touch()
    assert written.stat().st_mode == plain.stat().st_mode  # others may read it, too


def test_an_older_report_is_replaced(screened, tmp_path, empty_sections):
    file = tmp_path / "report.html"
    file.write_text("old")
    screened.report(file)
    assert file.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("older", [True, False])
def test_a_report_that_fails_leaves_nothing_behind(
    older, screened, tmp_path, empty_sections, monkeypatch
):
    file = tmp_path / "report.html"
    if older:
        file.write_text("old")

    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        screened.report(file)
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == older * [("report.html", "old")]


def test_a_rare_label_is_said_on_the_page_and_hides_nothing(mosaic, tmp_path):
    mdata = mosaic.adata
    mdata.obs["rare"] = mdata.obs["cell_type"].astype(str)
    mdata.obs.loc[mdata.obs_names[mosaic.validation_indices[0]], "rare"] = "once"
    page = Page(mosaic.report(tmp_path / "report.html", labels_key="rare"))
    (note,) = page.notes
    assert "no training cell has their labels 'once'" in note
    assert any(row[:2] == ["rare", "shared"] for row in page.rows)


def test_each_matrix_is_read_once(mosaic, tmp_path, reads):
    mosaic.report(tmp_path / "report.html")
    assert reads == dict.fromkeys(mosaic.modalities, 1)
    reads.clear()
    new = new_cells(mosaic.adata, *mosaic.modalities)
    mosaic.report(tmp_path / "report.html", mdata=new)
    assert reads == dict.fromkeys(mosaic.modalities, 2)  # and those of the training cells


def test_an_unknown_column_is_refused_before_anything_is_made(screened, tmp_path):
    for argument in ("labels_key", "color"):
        with pytest.raises(ValueError, match=f"{argument}='nope' not found. Searched"):
            screened.report(tmp_path / "new" / "report.html", **{argument: "nope"})
    assert not list(tmp_path.iterdir())


def test_data_that_does_not_fit_is_refused_before_anything_is_made(screened, mosaic, tmp_path):
    with pytest.raises(ValueError, match="features that the model was trained on are missing"):
        screened.report(tmp_path / "report.html", mdata=mosaic.adata)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_refused(screened, tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a folder\. Name a file in it.*report\.html"):
        screened.report(tmp_path)


def test_figures_of_the_user_stay_and_no_other_does(screened, tmp_path):
    own = plt.figure()
    screened.report(tmp_path / "report.html")
    assert plt.get_fignums() == [own.number]


# ------------------------------------------------------------------------ in a browser

BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]


@pytest.mark.slow
def test_a_browser_shows_it(screened, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {BROWSERS} is on PATH")
    file = screened.report(tmp_path / "report.html", labels_key=EVIL)
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,3000"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()]
    command += [f"--screenshot={tmp_path / 'page.png'}"]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    pixels = plt.imread(tmp_path / "page.png")[..., :3]
    assert pixels.shape == (3000, 1000, 3)
    is_white = (pixels == 1).all(2)
    assert 0.5 < is_white.mean() < 0.99
    blue = np.abs(pixels - np.array([0, 0x72, 0xB2]) / 255).max(2) < 0.02
    # the rules above the sections are as wide as the page: its style is heeded
    assert (blue[:, 50:950].mean(1) > 0.9).sum() >= 2 * 2


def test_a_report_does_without_labels_that_the_data_lost(small, tmp_path):
    small.obs["kind"] = ["a", "b"] * 30
    scvenn.MMVAE.setup_mudata(small, labels_key="kind")
    model = scvenn.MMVAE(small, n_hidden=8)
    model.train(1, train_size=0.5, **QUIET)
    del small.obs["kind"]
    assert model.report(tmp_path / "report.html").is_file()


def test_a_model_that_was_not_trained_has_no_report(small):
    with pytest.raises(ValueError, match="about a trained model"):
        scvenn.MMVAEpp(small, n_hidden=8).report("report.html")
    assert not os.path.exists("report.html")
