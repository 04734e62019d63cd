"""The paper's experiments run, go on where they were stopped, and are what the page shows."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

import scvenn
from tests.conftest import data_file

PAPER = Path(__file__).parent.parent / "benchmarks" / "paper"
FILES = {"cll": "cll.h5mu", "brca": "brca.h5mu", "pbmc": "pbmc10k_multiome_small.h5mu"}
EXPERIMENTS = sorted(path.stem for path in (PAPER / "configs").glob("*.toml"))


@pytest.fixture(scope="module")
def paper():
    """The scripts of benchmarks/paper, which import each other by bare names."""
    sys.path.insert(0, str(PAPER))
    try:
        names = ("data", "baselines", "run", "render")
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(PAPER))


def run(paper, name, out):
    paper["run"].run(PAPER / "configs" / f"{name}.toml", out, jobs=1, smoke=True)
    return paper["run"].read_results(out / f"{name}.csv")


@pytest.mark.slow
@pytest.mark.parametrize("name", [e for e in EXPERIMENTS if e != "pbmc_full"])
def test_every_experiment_runs(paper, name, tmp_path):
    config = paper["run"].read_config(PAPER / "configs" / f"{name}.toml", smoke=True)
    if config["data"] in FILES:
        data_file(FILES[config["data"]])
    table = run(paper, name, tmp_path)
    models = table[table["supervised"] != ""]
    assert set(models["method"]) == set(config["models"])
    assert {"r2", "seconds"} <= set(models["metric"])
    baselines = {"mean", "ridge", "PLS", "kNN", "extra-trees"}
    with_baselines = config.get("baselines", True)
    assert (baselines <= set(table["method"])) == with_baselines
    if config["data"] in FILES:
        auc = models[models["metric"] == "auc"]
        assert {"shared", "private_rna"} <= set(auc["source"])
        assert auc["value"].between(0, 1).all()
        assert ("PCA + logistic" in set(table["method"])) == with_baselines


@pytest.mark.parametrize(
    ("method", "sizes"),
    [
        ("MMVAEpp", (4, 3, 5)),
        ("MMVAEpp-default", (4, 3, 5)),
        ("MMVAEpp-default: n_shared = 2", (2, 3, 5)),
    ],
)
def test_latents_have_the_sizes_of_the_job(paper, method, sizes, monkeypatch):
    models = []
    train = scvenn.MMVAEpp.train
    monkeypatch.setattr(
        scvenn.MMVAEpp, "train", lambda m, *a, **k: models.append(m) or train(m, *a, **k)
    )
    config = str(PAPER / "configs" / "synthetic_ablation.toml")
    config = config if "default" in method else config.replace("_ablation", "")
    setting = paper["run"].read_config(config, smoke=True)["settings"][0]["name"]
    paper["run"].perform(
        paper["run"].Job("synthetic", config, setting, 0, method, "no", "3+4+5", smoke=True)
    )
    (module,) = (model.module for model in models)
    assert (module.n_shared, *module.n_private.values()) == sizes


@pytest.mark.slow
def test_an_interrupted_experiment_goes_on_and_a_finished_one_rests(paper, tmp_path, capsys):
    whole = run(paper, "synthetic", tmp_path)
    file = tmp_path / "synthetic.csv"
    text = file.read_text()
    lines = text.splitlines(keepends=True)
    file.write_text("".join(lines[:-30]) + lines[-30][:20])  # killed while it was written
    performed = []
    perform = paper["run"].perform
    paper["run"].perform = lambda job: performed.append(job.key) or perform(job)
    try:
        again = run(paper, "synthetic", tmp_path)
        assert len(performed) == 1
        run(paper, "synthetic", tmp_path)
        assert len(performed) == 1
    finally:
        paper["run"].perform = perform
    assert "all 5 runs are finished" in capsys.readouterr().out
    timeless = [t[t["metric"] != "seconds"].reset_index(drop=True) for t in (whole, again)]
    pd.testing.assert_frame_equal(*timeless)


def test_data_that_cannot_be_had_is_left_out(paper, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SCVENN_DATA", raising=False)
    run(paper, "brca", tmp_path)
    assert "brca is left out: brca.h5mu is not in the folder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "arguments", "n_obs", "features"),
    [
        ("cll", {"n_other": 50}, 126, {"rna": 60, "meth": 110}),
        ("brca", {"rna": (10, 20), "meth": (5, 30)}, 330, {"rna": 30, "meth": 35}),
        ("pbmc", {"n_other": 41}, 10_291, {"rna": 51, "atac": 1263}),
    ],
)
def test_data_sets_are_those_of_the_paper_or_as_stated(paper, name, arguments, n_obs, features):
    data_file(FILES[name])
    mdata = getattr(paper["data"], name)(**arguments, seed=0)
    assert mdata.n_obs == n_obs
    assert {m: mdata[m].n_vars for m in mdata.mod} == features
    for m in mdata.mod:
        strength = paper["data"]._correlation(mdata[m].X, mdata.obs["label"].to_numpy())
        shared = mdata[m].var["shared"].to_numpy()
        assert strength[shared].min() > strength[~shared].max()


def test_the_whole_multiome_set_is_prepared(paper):
    """On a small stand-in: counts of 300 cells, of which some are naive CD8 T cells."""
    rng = np.random.default_rng(0)
    names = [f"cell{i}" for i in range(300)]
    naive = rng.random(300) < 0.3
    counts = {"rna": rng.poisson(1, (300, 80)), "atac": rng.poisson(0.3, (300, 150))}
    counts["rna"][:, :5] += rng.poisson(4 * naive[:, None], (300, 5))
    mdata = MuData(
        {
            m: AnnData(
                sp.csr_matrix(x.astype(np.float32)),
                obs=pd.DataFrame(index=names),
                var=pd.DataFrame(index=[f"{m}{j}" for j in range(x.shape[1])]),
            )
            for m, x in counts.items()
        }
    )
    celltype = pd.Series(np.where(naive, "CD8 naive T", "other"), index=names)[:250]
    ranked = paper["data"].prepare_multiome(mdata, celltype, 20, n_genes=80, n_peaks=100)
    assert ranked.n_obs == 250
    assert ranked["rna"].n_vars == 30
    assert ranked["atac"].n_vars == 110
    assert {"rna0", "rna1", "rna2", "rna3", "rna4"} <= set(
        ranked["rna"].var_names[ranked["rna"].var["shared"]]
    )
    np.testing.assert_array_equal(ranked.obs["label"] == 1, naive[:250])


def test_correlation_is_pearsons(paper):
    rng = np.random.default_rng(0)
    x, label = rng.normal(size=(40, 3)), rng.integers(2, size=40).astype(float)
    x[:, 2] = 5
    expected = [abs(np.corrcoef(x[:, j], label)[0, 1]) for j in range(2)]
    for matrix in (x, sp.csr_matrix(x)):
        found = paper["data"]._correlation(matrix, label)
        np.testing.assert_allclose(found, [*expected, 0], atol=1e-6)


@pytest.mark.parametrize("name", ["paper", "beyond"])
def test_the_page_shows_what_the_results_say(paper, name):
    """Each table of docs/paper.md and docs/beyond.md is what `make paper` writes."""
    page = (PAPER.parent.parent / "docs" / f"{name}.md").read_text()
    for block, table in paper["render"].PAGES[name].items():
        begin, end = f"<!-- begin {block} -->\n", f"<!-- end {block} -->"
        assert page.split(begin)[1].split(end)[0].strip() == table().strip(), block
