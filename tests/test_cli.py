"""The command line: what it writes, what it prints where, and what it refuses."""

import inspect
import json
import logging
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import anndata
import click
import mudata
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from lightning.pytorch.callbacks import Callback

import scvenn
from scvenn._mudata import pull_on_update
from scvenn.cli import main
from scvenn.cli.files import MODELS
from scvenn.cli.options import likelihoods, options
from scvenn.likelihoods import LIKELIHOODS
from tests.conftest import under_other_names

ROOT = Path(__file__).parent.parent
QUICK = ["--max-epochs", "2", "--train-size", "0.7"]


@contextmanager
def levels_of_loggers():
    """The command line chooses what libraries log; other tests have their own wishes."""
    loggers = [
        logging.getLogger(name)
        for name in ("scvi", "scvi.scvenn", "lightning.pytorch", "lightning.fabric")
    ]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(autouse=True)
def _levels_of_loggers():
    with levels_of_loggers():
        yield


@pytest.fixture(autouse=True, scope="module")
def _files_are_not_read_first():
    """In another process, which takes a while and has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scvenn.cli.files, "_probe", lambda path: None)
        yield


def run(*arguments, code=0):
    """Run a command in this process; its result, after checking the exit code."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """A folder with in.h5mu, and what was trained on it: out.h5mu and ``model``.

    The file has two modalities of 60 cells, and raw counts in a layer as well.
    """
    folder = tmp_path_factory.mktemp("trained")
    mdata = scvenn.datasets.simulate_counts(60, n_features=12, n_shared_features=6, n_types=2)
    mdata["rna"].layers["counts"] = mdata["rna"].X.copy()
    mdata["rna"].obs["quality"] = np.linspace(0, 1, mdata.n_obs)
    with pull_on_update(False):
        mdata.write(folder / "in.h5mu")
    outputs = ["--out", folder / "out.h5mu", "--save", folder / "model"]
    with levels_of_loggers():
        run("train", folder / "in.h5mu", *outputs, "--labels", "cell_type", *QUICK)
    return folder


@pytest.fixture
def data(trained_once):
    """The file, in the working directory."""
    return shutil.copy(trained_once / "in.h5mu", "in.h5mu")


@pytest.fixture
def trained(trained_once):
    """The same, and a model in the folder ``model``."""
    shutil.copytree(trained_once, ".", dirs_exist_ok=True)
    return "in.h5mu"


# ------------------------------------------------------------------------------- help


def commands():
    return {
        "train": main.commands["train"],
        "embed": main.commands["embed"],
        "predict": main.commands["predict"],
        "evaluate": main.commands["evaluate"],
        "report": main.commands["report"],
        "datasets get": main.commands["datasets"].commands["get"],
    }


@pytest.mark.parametrize("name", commands())
def test_every_option_is_explained(name):
    for option in commands()[name].params:
        if isinstance(option, click.Option):
            assert option.help, option.name


def of_the_library():
    """Options of ``train`` that stand for arguments of the library, with their defaults there."""
    defaults = {}
    owners = (scvenn.paper_setting, scvenn.MMVAEpp.setup_mudata, scvenn.MMVAEpp.train)
    for function in (*owners, scvenn.MMVAEpp.__init__):
        defaults |= {k: p.default for k, p in inspect.signature(function).parameters.items()}
    sections = main.commands["train"].sections
    for title in ("Data", "Model", "Training"):
        for option in sections[title]:
            if option.name not in ("model_class", "paper_setting", "seed"):
                yield option, defaults[option.name]


@pytest.mark.parametrize(("option", "default"), [*of_the_library()], ids=str)
def test_the_help_of_an_option_ends_with_the_default_of_the_library(option, default):
    _, _, shown = option.help.rpartition(" Default: ")
    if option.is_flag:
        assert default in (None, False) or shown == f"{option.opts[0]}."
    elif default is not None:
        assert shown == f"{default}."


def test_defaults_of_options_that_the_library_has_no_argument_for(data):
    training = {option.name: option for option in main.commands["train"].sections["Training"]}
    assert training["seed"].help.endswith(" Default: 0.")
    result = json.loads(run("train", data, "--out", "out.h5mu", "--json", *QUICK).stdout)
    assert (result["model"], result["seed"]) == (MODELS[0], 0)


def test_likelihoods_are_listed_in_the_order_of_their_table_with_what_they_are_for():
    expected = []
    for name, cls in LIKELIHOODS.items():
        summary = getattr(cls, "summary", None)
        expected.append(f"{name}: {summary}" if summary else name)
    assert likelihoods() == "; ".join(expected)
    (option,) = (o for o in main.commands["train"].params if o.name == "likelihoods")
    assert "; ".join(expected) in option.help


TABLE = """
--flag: A flag.
--on/--off: On or off.
--size INTEGER (n_size): A number,
    described in two lines.
--column COLUMN...: Texts.
--weight auto|MODALITY=NUMBER: Numbers.
"""
NEEDED = "--size INTEGER: A number. Required."


def parsed(*arguments):
    """Values of the options of ``TABLE``."""
    command = click.Command("parse", params=options(TABLE), callback=lambda **values: values)
    return command.main(list(arguments), standalone_mode=False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--flag"], {"flag": True}),
        (["--on"], {"on": True}),
        (["--off"], {"on": False}),
        (["--size", "3"], {"n_size": 3}),
        (["--column", "a", "--column", "b=1"], {"column": ["a", "b=1"]}),
        (["--weight", "AUTO"], {"weight": "auto"}),
        (["--weight", "rna=2", "--weight", "a=0.5"], {"weight": {"rna": 2.0, "a": 0.5}}),
    ],
)
def test_values_are_what_the_placeholder_describes_and_none_if_not_given(arguments, expected):
    nothing = dict.fromkeys(["flag", "on", "n_size", "column", "weight"])
    assert parsed(*arguments) == nothing | expected


@pytest.mark.parametrize(
    "arguments",
    [
        ["--size", "x"],
        ["--weight", "2"],
        ["--weight", "rna=x"],
        ["--weight", "=2"],
        ["--weight", "auto", "--weight", "rna=2"],
        ["--weight", "rna=1", "--weight", "rna=2"],
    ],
)
def test_values_that_no_placeholder_describes_are_refused(arguments):
    with pytest.raises(click.BadParameter):
        parsed(*arguments)


def test_descriptions_of_two_lines_become_one():
    described = {option.name: option.help for option in options(TABLE)}
    assert described["n_size"] == "A number, described in two lines."


def test_an_option_whose_description_says_so_is_required():
    (option,) = options(NEEDED)
    with pytest.raises(click.MissingParameter):
        click.Command("parse", params=[option]).main([], standalone_mode=False)


def test_models_can_be_chosen_by_name():
    assert set(MODELS) | {"SharedPrivateModel"} == {
        name for name in scvenn.__all__ if isinstance(getattr(scvenn, name), type)
    } - {"Objective", "Penalty", "Term"}


def test_python_m_scvenn_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scvenn", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("scvenn", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"scvenn {scvenn.__version__}")


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys; from scvenn.cli import main\n"
        "for arguments in (['train', '--help'], ['--version'], ['datasets', '--help']):\n"
        "    main(arguments, standalone_mode=False)\n"
        "heavy = {'torch', 'scvi', 'scanpy', 'anndata', 'numpy', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ
    )
    versions = f"scvenn {scvenn.__version__}, scvi-tools "
    assert versions in done.stdout
    assert f"torch {version('torch')}" in done.stdout


# ------------------------------------------------------------------------------- results


def test_train_writes_what_the_library_writes(data):
    import scvi

    run("train", data, "--out", "out.h5mu", "--seed", 3, "--n-shared", 4, *QUICK)
    mdata = mudata.read_h5mu(data)
    scvi.settings.seed = 3
    model = scvenn.MMVAEpp(mdata, n_shared=4)
    model.train(2, train_size=0.7, enable_progress_bar=False)
    written = mudata.read_h5mu("out.h5mu")
    for key in ("X_shared", "X_private_rna", "X_private_atac"):
        np.testing.assert_array_equal(written.obsm[key], mdata.obsm[key])


def test_train_leaves_the_rest_of_the_file_as_it_was(data):
    run("train", data, "--out", "out.h5mu", *QUICK)
    before, after = mudata.read_h5mu(data), mudata.read_h5mu("out.h5mu")
    assert list(after.obs) == list(before.obs)
    assert list(after.mod) == list(before.mod)
    assert list(after["rna"].obs) == ["quality"]
    np.testing.assert_array_equal(
        after["rna"].layers["counts"].toarray(), before["rna"].layers["counts"].toarray()
    )


def test_options_reach_set_up_constructor_and_training(data):
    result = run(
        *("train", data, "--out", "out.h5mu", "--save", "model", "--model", "mopoevae", "--json"),
        *("--modality", "atac", "--modality", "rna", "--layer", "rna=counts"),
        *("--likelihood", "atac=poisson", "--batch", "batch", "--labels", "cell_type"),
        *("--continuous-covariate", "quality", "--n-private", "rna=3", "--n-private", "atac=2"),
        *("--label-weight", "7", "--screen", "--lr", "0.01", "--no-early-stopping", *QUICK),
    )
    assert json.loads(result.stdout)["best_epoch"] == 1
    model = scvenn.MoPoEVAE.load("model")
    assert model.registry_["setup_args"] == {
        "modalities": ["atac", "rna"],
        "layers": {"rna": "counts"},
        "likelihoods": {"atac": "poisson"},
        "labels_key": "cell_type",
        "unlabeled_category": None,
        "batch_key": "batch",
        "categorical_covariate_keys": None,
        "continuous_covariate_keys": ["quality"],
    }
    assert model.module.n_private == {"atac": 2, "rna": 3}
    assert model.module.label_weight == 7
    assert model.module.screened
    assert len(model.train_indices) == 42


def test_the_paper_setting_holds_where_no_option_is_given(data, monkeypatch):
    seen = {}

    def train(self, **arguments):
        seen.update(arguments, n_shared=self.module.n_shared, n_private=self.module.n_private)
        raise ValueError("enough")

    monkeypatch.setattr(scvenn.SharedPrivateModel, "train", train)
    arguments = ["--paper-setting", "--max-epochs", "7", "--lr", "0.5", "--n-private", "3"]
    run("train", data, "--out", "out.h5mu", *arguments, code=1)
    assert (seen["n_shared"], seen["n_private"]) == (2, {"rna": 3, "atac": 3})
    assert (seen["max_epochs"], seen["train_size"]) == (7, 0.8)
    assert seen["plan_kwargs"]["lr"] == 0.5
    assert seen["plan_kwargs"]["n_epochs_kl_warmup"] == 7


def test_the_json_of_train_names_files_versions_and_log_likelihoods(data):
    result = run(
        "train", data, "--out", "out.h5mu", "--save", "model", "--json", "--max-epochs", 12
    )
    reported = json.loads(result.stdout)
    assert (reported["out"], reported["save"], reported["report"]) == ("out.h5mu", "model", None)
    assert reported["versions"]["torch"] == version("torch")
    assert reported["obsm"] == {
        "X_shared": [60, 10],
        "X_private_rna": [60, 10],
        "X_private_atac": [60, 10],
    }
    model = scvenn.MMVAEpp.load("model")
    history = model.history["log_likelihood_rna->atac_validation"]
    kept = history.iloc[reported["best_epoch"]].item()
    assert reported["log_likelihood"]["rna->atac"]["validation"] == pytest.approx(kept)


def test_the_epoch_in_the_result_is_the_one_whose_weights_are_kept(data):
    reported = json.loads(
        run(
            "train", data, "--out", "o.h5mu", "--save", "model", "--json", "--max-epochs", 30
        ).stdout
    )
    losses = scvenn.MMVAEpp.load("model").history["validation_loss"].iloc[:, 0]
    assert losses.iloc[3:].astype(float).argmin() + 3 == reported["best_epoch"]


def test_all_cells_may_be_trained_on(data):
    result = run("train", data, "--out", "o.h5mu", "--max-epochs", 1, "--train-size", 1)
    assert re.search(r"rna->atac .* -\n", result.stdout)


@pytest.fixture
def reported(monkeypatch):
    """A report is a text with its arguments: the page has tests of its own."""

    def report(self, path, *, mdata=None, labels_key=None, color=None):
        held_out = None if self.validation_indices is None else len(self.validation_indices)
        Path(path).write_text(json.dumps([labels_key, color, held_out]))

    monkeypatch.setattr(scvenn.SharedPrivateModel, "report", report, raising=False)
    return lambda: json.loads(Path("r.html").read_text())


def test_train_writes_a_report_with_its_labels_and_colours(data, reported):
    arguments = ["--labels", "cell_type", "--color", "quality", "--color", "batch", *QUICK]
    run("train", data, "--out", "o.h5mu", "--report", "r.html", *arguments)
    assert reported() == ["cell_type", ["quality", "batch"], 18]


def test_a_report_on_the_training_data_finds_the_cells_that_were_held_out(trained, reported):
    arguments = ["--out", "r.html", "--labels", "batch", "--color", "quality"]
    result = json.loads(run("report", "model", trained, *arguments, "--json").stdout)
    assert reported() == ["batch", ["quality"], 18]
    assert (result["new_cells"], result["out"], result["color"]) == (False, "r.html", ["quality"])


def test_a_report_on_new_cells_says_that_they_are(trained, reported):
    under_other_names(mudata.read_h5mu(trained)).write("new.h5mu")
    assert (
        "reported on 60 new cells" in run("report", "model", "new.h5mu", "--out", "r.html").stdout
    )
    assert reported() == [None, None, None]


def test_the_report_is_a_page(trained):
    run("report", "model", trained, "--out", "r.html", "--color", "quality")
    page = Path("r.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "coloured by quality" in page


def test_predictions_are_those_of_the_library(trained):
    arguments = ["--from", "rna", "--to", "atac", "--out", "atac.h5ad"]
    result = run("predict", "model", trained, *arguments)
    assert "predicted atac of 60 of 60 cells from rna" in result.stdout
    written, mdata = anndata.read_h5ad("atac.h5ad"), mudata.read_h5mu(trained)
    expected = scvenn.MMVAEpp.load("model").predict("rna", "atac", mdata)
    pd.testing.assert_frame_equal(written.to_df(), expected, check_names=False, rtol=1e-5)
    assert list(written.obs["cell_type"]) == list(mdata.obs["cell_type"])


def test_options_of_predict_are_arguments_of_the_library(trained):
    features = ["--feature", "rna_3", "--feature", "rna_1", "--library-size", "100"]
    arguments = ["--from", "rna", "--from", "atac", "--to", "rna", "--out", "rna.h5ad", *features]
    result = json.loads(run("predict", "model", trained, *arguments, "--json").stdout)
    assert (result["source"], result["target"]) == (["rna", "atac"], "rna")
    assert (result["X"], result["predicted_cells"]) == ([60, 2], 60)
    expected = scvenn.MMVAEpp.load("model").predict(
        ["rna", "atac"],
        "rna",
        mudata.read_h5mu(trained),
        features=["rna_3", "rna_1"],
        library_size=100,
    )
    written = anndata.read_h5ad("rna.h5ad").to_df()
    pd.testing.assert_frame_equal(written, expected, check_names=False, rtol=1e-5)


def test_cells_without_a_source_are_not_predicted_and_counted(trained):
    mdata = mudata.read_h5mu(trained)
    partly = {"rna": mdata["rna"][:20].copy(), "atac": mdata["atac"].copy()}
    mudata.MuData(partly).write("new.h5mu")
    result = run("predict", "model", "new.h5mu", "--from", "rna", "--to", "atac", "--out", "a.h5ad")
    assert "predicted atac of 20 of 60 cells from rna" in result.stdout
    assert np.isfinite(anndata.read_h5ad("a.h5ad").X).all(1).sum() == 20


def test_a_file_without_cells_is_not_predicted(trained):
    mudata.read_h5mu(trained)[:0].copy().write("empty.h5mu")
    arguments = ["--from", "rna", "--to", "atac", "--out", "a.h5ad"]
    result = run("predict", "model", "empty.h5mu", *arguments, code=1)
    assert "empty.h5mu has no cells" in result.stderr


def test_files_whose_tables_of_cells_have_a_named_index_are_read(small):
    """Mudata 0.3 cannot read these while it is told to keep columns as they are."""
    for adata in small.mod.values():
        adata.obs.index.name = "cell"
    small.write("named.h5mu")
    run("train", "named.h5mu", "--out", "out.h5mu", *QUICK)
    assert mudata.read_h5mu("out.h5mu").obsm["X_shared"].shape == (60, 10)


def test_embedding_the_training_cells_again_gives_the_same(trained):
    result = run("embed", "model", trained, "--out", "again.h5mu", "--json")
    assert json.loads(result.stdout)["obsm"]["X_shared"] == [60, 10]
    first, again = mudata.read_h5mu("out.h5mu"), mudata.read_h5mu("again.h5mu")
    for key in ("X_shared", "X_private_rna", "X_private_atac"):
        np.testing.assert_allclose(again.obsm[key], first.obsm[key], rtol=1e-5, atol=1e-6)


def test_cells_with_one_modality_are_embedded(trained):
    rna = mudata.MuData({"rna": mudata.read_h5mu(trained)["rna"][:20].copy()})
    rna.write("rna.h5mu")
    run("embed", "model", "rna.h5mu", "--out", "new.h5mu")
    new = mudata.read_h5mu("new.h5mu")
    assert np.isfinite(new.obsm["X_shared"]).all()
    assert "X_private_atac" not in new.obsm


def test_evaluate_writes_the_table_of_the_library_and_prints_its_medians(trained):
    result = run("evaluate", "model", trained, "--labels", "cell_type", "--out", "s.csv", "--json")
    written = pd.read_csv("s.csv", keep_default_na=True)
    model = scvenn.MMVAEpp.load("model", mudata.read_h5mu(trained))
    table = model.evaluate(labels_key="cell_type")
    np.testing.assert_allclose(written["value"], table["value"], rtol=1e-6)
    (median,) = (
        row["median"]
        for row in json.loads(result.stdout)["scores"]
        if (row["metric"], row["source"], row["target"]) == ("pearson", "rna", "atac")
    )
    rows = table.query("metric == 'pearson' and source == 'rna' and target == 'atac'")
    assert median == pytest.approx(rows["value"].median(), nan_ok=True)


def test_the_file_that_train_wrote_can_be_evaluated(trained):
    assert run("evaluate", "model", "out.h5mu").stdout == run("evaluate", "model", trained).stdout


def test_data_sets_are_listed_with_the_files_they_are_read_from(monkeypatch, tmp_path):
    monkeypatch.setenv("SCVENN_DATA", str(tmp_path))
    (tmp_path / "cll.h5mu").touch()
    listing = run("datasets").stdout
    assert all(name in listing for name in scvenn.datasets.__all__)
    assert str(tmp_path / "cll.h5mu") in listing
    rows = json.loads(run("datasets", "list", "--json").stdout)["datasets"]
    assert {"cll": str(tmp_path / "cll.h5mu")}.items() <= {
        r["name"]: r["where"] for r in rows
    }.items()


def test_a_data_set_is_written_to_a_file(monkeypatch):
    simulate = partial(scvenn.datasets.simulate_counts, 30, n_features=5)
    monkeypatch.setattr(scvenn.datasets, "simulate_counts", simulate)
    result = run("datasets", "get", "simulate_counts", "--out", "sim.h5mu", "--json")
    assert json.loads(result.stdout)["modalities"] == {"rna": [30, 5], "atac": [30, 5]}
    assert mudata.read_h5mu("sim.h5mu").shape == (30, 10)


@pytest.mark.slow
def test_a_process_keeps_results_and_messages_apart(data):
    command = [sys.executable, "-c", "from scvenn.cli import main; main()"]
    done = subprocess.run(
        [*command, "train", data, "--out", "out.h5mu", "--json", *QUICK],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["out"] == "out.h5mu"
    assert "rna: 12 features, 60 of 60 cells, likelihood nb (inferred)" in done.stderr
    assert "epoch 2 of at most 2" in done.stderr
    assert "\x1b" not in done.stderr


# ------------------------------------------------------------------------------- refusals


def refused(*arguments, code=1):
    """What a command says on stderr when it refuses; nothing may be left behind."""
    before = sorted(os.listdir())
    result = run(*arguments, code=code)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert sorted(os.listdir()) == before
    return " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "celltype"], "On the command line, labels_key is --labels COLUMN."),
        (["--labels", "celltype"], "Searched mdata.obs ('cell_type', 'batch')"),
        (["--modality", "rna", "--modality", "adt"], "mdata.mod has ['rna', 'atac']"),
        (["--layer", "atac=counts"], "layer 'counts' not found"),
        (["--likelihood", "rna=negbin"], "likelihoods is --likelihood auto|MODALITY=NAME"),
        (["--likelihood", "rna=beta"], "layers is --layer MODALITY=LAYER, likelihoods is"),
        (["--n-shared", "0"], "n_shared is --n-shared INTEGER"),
        (["--accelerator", "abacus"], "accelerator is --accelerator NAME"),
        (
            ["--report", "r.html", "--color", "nope"],
            "color='nope' not found. Searched mdata.obs ('cell_type', 'batch') and the obs of "
            "{'rna': ['quality'], 'atac': []}. On the command line, color is --color COLUMN...",
        ),
    ],
)
def test_data_that_does_not_fit_is_refused_in_the_words_of_the_command_line(
    data, arguments, message
):
    assert message in refused("train", data, "--out", "out.h5mu", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing option '--out'"),
        (["--out", "nowhere/out.h5mu"], "the folder nowhere does not exist"),
        (["--out", "out.h5ad"], "does not end with .h5mu"),
        (["--out", "in.h5mu"], "in.h5mu already exists. Pass --overwrite"),
        (["--out", "out.h5mu", "--save", "folder"], "folder already exists"),
        (["--out", "out.h5mu", "--report", "x.pdf"], "does not end with .html"),
        (["--out", "out.h5mu", "--color", "batch"], "Name its file: --report FILE"),
        (["--out", "x.h5mu", "--save", "x.h5mu"], "x.h5mu is the path of --out, too"),
        (["--out", "x.h5mu", "--save", "folder/../x.h5mu"], "is the path of --out, too"),
        (["--out", "out.h5mu", "--layer", "counts"], "expected MODALITY=LAYER"),
        (["--out", "out.h5mu", "--layer", "rna=a", "--layer", "rna=b"], "once for each modality"),
        (
            ["--out", "out.h5mu", "--n-private", "3", "--n-private", "rna=b"],
            "expected INTEGER or MODALITY=INTEGER",
        ),
        (["--out", "out.h5mu", "--modality-weights", "3"], "expected auto or MODALITY=NUMBER"),
        (["--out", "out.h5mu", "--label-weight", "much"], "expected auto or NUMBER"),
        (
            ["--out", "out.h5mu", "--model", "totalvi"],
            "expected MMVAEpp or MMVAE or MVAE or MoPoEVAE",
        ),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_done(data, arguments, message):
    Path("folder").mkdir()
    assert message in refused("train", data, *arguments, code=2)


def test_a_file_that_does_not_exist_is_a_wrong_command_line():
    assert "does not exist" in refused("train", "no.h5mu", "--out", "out.h5mu", code=2)


def test_an_anndata_is_refused_with_the_way_to_a_mudata(small):
    small["rna"].write("rna.h5ad")
    message = refused("train", "rna.h5ad", "--out", "out.h5mu")
    assert "holds an AnnData of one modality" in message
    assert "mudata.MuData({'rna':" in message


def test_a_folder_without_a_model_is_refused(data):
    Path("model").mkdir()
    message = refused("embed", "model", data, "--out", "out.h5mu")
    assert "No model found: model/model.safetensors does not exist" in message


def test_evaluate_needs_cells_that_the_model_was_trained_on(trained):
    under_other_names(mudata.read_h5mu(trained)).write("others.h5mu")
    message = refused("evaluate", "model", "others.h5mu")
    assert "Load it with the data it was trained on" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "adt", "--to", "atac"], "source is --from MODALITY..."),
        (["--from", "rna", "--to", "adt"], "target is --to MODALITY."),
        (["--from", "rna", "--to", "atac", "--feature", "CD4"], "features is --feature NAME..."),
        (
            ["--from", "rna", "--to", "atac", "--library-size", "0"],
            "library_size is --library-size",
        ),
    ],
)
def test_a_prediction_that_cannot_be_made_is_refused(trained, arguments, message):
    assert message in refused("predict", "model", trained, "--out", "out.h5ad", *arguments)


def test_data_without_the_modality_to_predict_from_is_refused(trained):
    mudata.MuData({"atac": mudata.read_h5mu(trained)["atac"]}).write("atac.h5mu")
    arguments = ["--from", "rna", "--to", "atac", "--out", "out.h5ad"]
    message = refused("predict", "model", "atac.h5mu", *arguments)
    assert "source=['rna']: no cell of atac.h5mu has any of these" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "--to", "atac", "--out", "out.h5ad"], "Missing option '--from'"),
        (
            ["predict", "--from", "rna", "--to", "atac", "--out", "in.h5mu"],
            "does not end with .h5ad",
        ),
        (["report"], "Missing option '--out'"),
        (["report", "--out", "in.h5mu"], "does not end with .html"),
    ],
)
def test_a_wrong_command_line_for_a_trained_model_is_refused(data, arguments, message):
    Path("folder").mkdir()
    command, *others = arguments
    assert message in refused(command, "folder", data, *others, code=2)


@pytest.mark.parametrize("option", ["--labels", "--color"])
def test_a_report_on_a_column_that_is_not_there_is_refused(trained, option):
    message = refused("report", "model", trained, "--out", "r.html", option, "nope")
    assert "='nope' not found" in message
    assert f"{option} COLUMN" in message


def test_nothing_is_left_of_a_result_that_could_not_be_written(data, monkeypatch):
    def write(self, path):
        Path(path).write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr(mudata.MuData, "write", write)
    message = refused("train", data, "--out", "out.h5mu", *QUICK)
    assert "No space left on device" in message


def test_what_is_there_is_replaced_when_asked_for(trained):
    run("train", trained, "--out", trained, "--save", "model", "--overwrite", *QUICK)
    assert "X_shared" in mudata.read_h5mu(trained).obsm


# ------------------------------------------------------------------------------- Ctrl-C


def interrupt(self, *_, **__):
    """Press Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


def test_an_interrupted_training_writes_nothing_and_exits_with_130(data, monkeypatch):
    monkeypatch.setattr(scvenn.SharedPrivateModel, "train", interrupt)
    outputs = ["--out", "out.h5mu", "--save", "model", "--report", "r.html"]
    message = refused("train", data, *outputs, code=130)
    assert message.endswith("Interrupted. Nothing was written.")


def test_an_interrupted_command_names_the_results_that_are_complete(data, monkeypatch):
    monkeypatch.setattr(scvenn.SharedPrivateModel, "report", interrupt)
    outputs = ["--out", "out.h5mu", "--save", "model", "--report", "r.html"]
    result = run("train", data, *outputs, *QUICK, code=130)
    assert result.stderr.splitlines()[-1] == "Interrupted. Only out.h5mu, model was written."
    assert "X_shared" in mudata.read_h5mu("out.h5mu").obsm
    assert scvenn.MMVAEpp.load("model").is_trained
    assert sorted(os.listdir()) == ["in.h5mu", "model", "out.h5mu"]


def test_an_interrupted_command_leaves_the_file_that_it_was_to_replace(trained, monkeypatch):
    def write(self, path):
        Path(path).write_text("half")
        interrupt(self)

    before = Path("out.h5mu").read_bytes()
    monkeypatch.setattr(mudata.MuData, "write", write)
    refused("embed", "model", trained, "--out", "out.h5mu", "--overwrite", code=130)
    assert Path("out.h5mu").read_bytes() == before


def test_a_terminated_training_writes_nothing_and_exits_with_143(data, monkeypatch):
    """Lightning ends a training after SIGTERM with the exit code 0."""

    class Terminate(Callback):
        def on_train_batch_end(self, *_):
            signal.raise_signal(signal.SIGTERM)

    train = scvenn.SharedPrivateModel.train

    def terminated(self, *args, callbacks=(), **kwargs):
        train(self, *args, callbacks=[*callbacks, Terminate()], **kwargs)

    monkeypatch.setattr(scvenn.SharedPrivateModel, "train", terminated)
    message = refused("train", data, "--out", "out.h5mu", *QUICK, code=143)
    assert message.endswith("Terminated. Nothing was written.")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_debug_shows_where_a_command_was_interrupted(data, monkeypatch):
    monkeypatch.setattr(scvenn.SharedPrivateModel, "train", interrupt)
    stderr = run("train", data, "--out", "out.h5mu", "--debug", code=130).stderr
    assert "Traceback" in stderr
    assert stderr.endswith("Interrupted. Nothing was written.\n")


# ------------------------------------------------------------------------------- warnings


def test_a_warning_of_scvenn_is_shown_once(small):
    small.obs["kind"] = ["a", "b", "nan"] * 20
    small.write("in.h5mu")
    stderr = run("train", "in.h5mu", "--out", "out.h5mu", "--labels", "kind", *QUICK).stderr
    (line,) = [line for line in stderr.splitlines() if "Warning" in line]
    assert line.startswith("Warning: labels_key='kind': 'nan' is read as a class of its own, with")


def test_warnings_of_other_packages_are_shown_only_with_debug(data, monkeypatch):
    def train(self, **arguments):
        warnings.warn("an old function", FutureWarning, stacklevel=1)
        raise ValueError("stop")

    monkeypatch.setattr(scvenn.SharedPrivateModel, "train", train)
    assert "an old function" not in run("train", data, "--out", "out.h5mu", code=1).stderr
    with pytest.warns(FutureWarning, match="an old function"), pytest.raises(ValueError):
        run("train", data, "--out", "out.h5mu", "--debug")


# ------------------------------------------------------------------------------- debugging


def test_debug_shows_where_an_error_happened(data):
    with pytest.raises(ValueError, match="celltype"):
        run("train", data, "--out", "out.h5mu", "--labels", "celltype", "--debug")


def test_an_error_that_is_not_expected_says_how_to_see_where_it_happened(data, monkeypatch):
    def train(self, **arguments):
        raise ZeroDivisionError("1 / 0")

    monkeypatch.setattr(scvenn.SharedPrivateModel, "train", train)
    message = refused("train", data, "--out", "out.h5mu")
    assert "Error: ZeroDivisionError: 1 / 0 This error was not expected. --debug shows" in message
    with pytest.raises(ZeroDivisionError):
        run("train", data, "--out", "out.h5mu", "--debug")


# ------------------------------------------------------------------------------- documents


@pytest.mark.slow
@pytest.mark.parametrize("document", ["README.md", "docs/cli.md"])
def test_the_commands_of_the_documents_run(document, monkeypatch):
    simulate = partial(scvenn.datasets.simulate_counts, 80, n_features=10)
    monkeypatch.setattr(scvenn.datasets, "simulate_counts", simulate)
    for name in ("pbmc.h5mu", "new.h5mu") if document == "README.md" else ():
        simulate().write(name)
    text = (ROOT / document).read_text()
    kinds = "bash|python" if document == "docs/cli.md" else "bash"
    blocks = re.findall(rf"```({kinds})\n(.*?)```", text, flags=re.DOTALL)
    assert any("scvenn " in block for _, block in blocks)
    for kind, block in blocks:
        if kind == "python":
            exec(compile(block, document, "exec"), {})
            continue
        lines = block.replace("\\\n", "").splitlines()
        commands = [line.partition(" > ")[0].split()[1:] for line in lines if line[:7] == "scvenn "]
        for arguments in commands:
            run(*arguments, *(["--max-epochs", "2"] if arguments[0] == "train" else []))


def test_new_cells_that_lack_features_are_told_the_command_that_maps_them(trained):
    mdata = mudata.read_h5mu(trained)
    mdata.mod["rna"] = mdata["rna"][:, 1:].copy()
    mdata.update()
    mdata.write("fewer.h5mu")
    result = run("embed", "model", "fewer.h5mu", "--out", "new.h5mu", code=1)
    assert "On the command line, map_query(mdata) is scvenn map MODEL INPUT." in result.output
