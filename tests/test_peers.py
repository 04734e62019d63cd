"""The comparison with peers runs, is fair, goes on where it was stopped, and is what is shown."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

import scvenn
from tests.conftest import data_file

PEERS = Path(__file__).parent.parent / "benchmarks" / "peers"
APPLICABLE = {
    "snareseq": ["scvenn", "MULTIVI", "MOFA+", "PCA", "CCA", "ridge", "kNN"],
    "citeseq": ["scvenn", "totalVI", "MOFA+", "PCA", "CCA", "ridge", "kNN"],
    "pbmc": ["scvenn", "MOFA+", "PCA", "CCA", "ridge", "kNN"],
}
RIVALS = {
    "snareseq": ["multihive", "multigrate", "scmidas", "univi"],
    "citeseq": ["multihive", "multigrate", "scmidas", "univi", "mofaflex", "muvi"],
    "pbmc": ["multigrate", "univi", "mofaflex", "muvi"],
}
MODALITIES = {"snareseq": ["rna", "atac"], "citeseq": ["rna", "adt"], "pbmc": ["rna", "atac"]}


def script(name):
    """A script whose bare name another folder of benchmarks/ has as well."""
    spec = importlib.util.spec_from_file_location(f"peers_{name}", PEERS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def peers():
    """The files of benchmarks/peers, which import each other by bare names."""
    sys.path.insert(0, str(PEERS))
    try:
        names = ("jobs", "problems", "methods", "exchange", "rivals", "scores")
        modules = {name: importlib.import_module(name) for name in names}
        yield modules | {name: script(name) for name in ("run", "render")}
    finally:
        sys.path.remove(str(PEERS))


@pytest.fixture
def _no_scib(monkeypatch):
    """Without scib-metrics, which takes a minute for its first scores."""
    monkeypatch.setitem(sys.modules, "scib_metrics", None)


def smoke(peers, dataset, method):
    """A job of few cells, one epoch; skipped where what it needs is not there."""
    data_file(peers["problems"].FILES[dataset])
    if method == "MOFA+":
        pytest.importorskip("mofapy2", reason="MOFA+ needs pip install scvenn[peers]")
    (job,) = (
        job
        for job in peers["jobs"].all_jobs(1, smoke=True)
        if (job.dataset, job.method) == (dataset, method)
    )
    return job


# ------------------------------------------------------------------------------------- methods


def test_methods_and_data_sets(peers):
    known = peers["jobs"].DATASETS
    assert known.keys() == APPLICABLE.keys() == RIVALS.keys()
    for dataset, methods in known.items():
        assert [m for m in methods if m not in peers["jobs"].RIVALS] == APPLICABLE[dataset]
        assert [m for m in methods if m in peers["jobs"].RIVALS] == RIVALS[dataset]
    functions = peers["methods"].FUNCTIONS | peers["rivals"].FUNCTIONS
    assert set(functions) == set(peers["jobs"].METHODS)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_scib")
@pytest.mark.parametrize(
    ("dataset", "method"),
    [(dataset, method) for dataset, methods in APPLICABLE.items() for method in methods],
)
def test_every_method_runs(peers, dataset, method):
    rows = pd.DataFrame(peers["scores"].perform(smoke(peers, dataset, method)))
    assert np.isfinite(rows["value"]).all()
    assert rows["metric"].iloc[-1] == "seconds"
    assert {"fit_seconds", "memory_gib"} <= set(rows["metric"])

    accuracy = rows[rows["metric"] == "balanced_accuracy"]
    alone = [f"{m} alone" for m in MODALITIES[dataset]]
    embeddings = {
        "scvenn": ["shared", "shared + private", *(f"shared from {name}" for name in alone)],
        "PCA": ["15 + 15", "5 + 5", *alone],
        "CCA": ["joint", "that reproduce"],
        "ridge": [],
        "kNN": [],
    }
    assert list(accuracy["embedding"]) == embeddings.get(method, ["joint"])
    assert accuracy["value"].between(0, 1).all()

    pearson = rows[rows["metric"] == "pearson"]
    directions = {"MOFA+": 0, "PCA": 0, "CCA": 0, "totalVI": 1}.get(method, 2)
    assert len(pearson) == directions
    assert pearson["value"].between(-1, 1).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "method"),
    [
        ("citeseq", "scvenn"),
        ("snareseq", "MULTIVI"),
        ("citeseq", "totalVI"),
        ("snareseq", "PCA"),
        ("snareseq", "ridge"),
    ],
)
def test_test_cells_are_not_trained_on_and_their_target_is_not_known(peers, dataset, method):
    """Other values of a modality in the test cells change neither the fit nor its prediction."""
    import scvi

    smoke(peers, dataset, method)
    problem, changed = (peers["problems"].load(dataset, 0, smoke=True) for _ in range(2))

    def fit(problem):
        scvi.settings.seed = 0
        fitted = peers["methods"].FUNCTIONS[method](problem, 0, 1)
        return fitted.embeddings, {k: predict() for k, predict in fitted.predictions.items()}

    embeddings, predictions = fit(problem)
    for target in problem.mdata.mod:
        x = problem.mdata[target].X.toarray()
        x[problem.test] = x[problem.test, ::-1] + 1
        changed.mdata[target].X = sp.csr_matrix(x)
        embeddings_again, predictions_again = fit(changed)
        changed.mdata[target].X = problem.mdata[target].X
        for name, embedding in embeddings.items():
            of_training = embeddings_again[name][problem.train]
            np.testing.assert_array_equal(of_training, embedding[problem.train])
        for pair, predicted in predictions.items():
            if pair[1] == target:
                np.testing.assert_array_equal(predictions_again[pair], predicted)


@pytest.mark.slow
def test_embeddings_are_scored_by_scib_metrics(peers):
    pytest.importorskip("scib_metrics", reason="needs pip install scvenn[peers]")
    data_file(peers["problems"].FILES["citeseq"])
    problem = peers["problems"].load("citeseq", 0, smoke=True)
    embedding = peers["methods"].pca(problem, 0, None).embeddings["15 + 15"]
    found = peers["scores"]._of_embedding(problem, embedding)
    assert {"scib: Bio conservation", "scib: Batch correction"} <= set(found)
    assert found["scib: Bio conservation"] > 0.5


# -------------------------------------------------------------------------------------- rivals


@pytest.mark.parametrize("name", sorted({name for names in RIVALS.values() for name in names}))
def test_every_rival_has_a_script_and_pinned_packages(peers, name):
    folder = peers["rivals"].SCRIPTS
    assert (folder / f"run_{name}.py").is_file()
    packages = (folder / f"{name}.txt").read_text().split()
    assert all("==" in package for package in packages)
    assert any(package.lower().startswith(f"{name}==") for package in packages)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_scib")
@pytest.mark.parametrize(
    ("dataset", "name"), [(dataset, name) for dataset, names in RIVALS.items() for name in names]
)
def test_every_installed_rival_runs(peers, dataset, name):
    if not peers["rivals"].is_installed(name):
        pytest.skip(f"needs python benchmarks/peers/rivals.py --install {name}")
    rows = pd.DataFrame(peers["scores"].perform(smoke(peers, dataset, name)))
    assert np.isfinite(rows["value"]).all()
    assert rows.loc[rows["metric"] == "balanced_accuracy", "value"].between(0, 1).all()


@pytest.mark.usefixtures("_no_scib")
def test_what_a_rival_wrote_is_scored_as_any_method(peers, tmp_path, monkeypatch):
    """It reads what we write; its counts are scaled as others' are, its logarithms are not."""
    exchange, job = peers["exchange"], smoke(peers, "citeseq", "muvi")
    problem = peers["problems"].load("citeseq", job.seed, smoke=True)
    exchange.write_given(peers["rivals"].given_of(problem), tmp_path / "given.npz")
    given = exchange.read_given(tmp_path / "given.npz")
    assert given.counts == ["rna", "adt"]
    assert np.isnan(given.without("adt")["adt"][given.test]).all()
    np.testing.assert_array_equal(given.batch, problem.mdata.obs["batch"])

    rna = given.measured["rna"].toarray()
    found = exchange.Found(
        {"joint": rna},
        counts={("adt", "rna"): lambda: 3 * rna[given.test]},
        logs={("rna", "adt"): lambda: given.scaled["adt"].toarray()[given.test]},
    )
    costs = {"fit_seconds": 7.0, "memory_gib": 0.5}
    exchange.write_found(found, costs, tmp_path / "found.npz")
    fitted = peers["rivals"].fitted_of(problem, tmp_path / "found.npz")
    monkeypatch.setitem(peers["scores"].RIVAL_FUNCTIONS, "muvi", lambda *problem: fitted)
    rows = pd.DataFrame(peers["scores"].perform(job)).set_index("metric")["value"]
    np.testing.assert_allclose(rows["pearson"], 1, atol=1e-5)  # both directions
    assert rows["dimensions"] == rna.shape[1]
    assert rows[list(costs)].to_dict() == costs


def test_a_rival_without_an_environment_says_how_to_make_one(peers, tmp_path, monkeypatch):
    monkeypatch.setenv("SCVENN_RIVALS", str(tmp_path))
    rna = np.ones((8, 2), np.float32)
    with pytest.raises(FileNotFoundError, match=r"rivals.py --install muvi"):
        peers["rivals"].fit("muvi", problem_of(peers, rna), 0, None)
    jobs = {job.method: job for job in peers["jobs"].all_jobs(None, smoke=True)}
    can_run = peers["run"].can_run
    assert [can_run(jobs[m], []) for m in ("scvenn", "muvi")] == [True, False]
    assert can_run(jobs["muvi"], [f"{jobs['muvi'].dataset}/muvi"])


# -------------------------------------------------------------------------------- scMultiBench


def write_matrix(path, adata):
    """A file of scMultiBench: dense, with features in rows."""
    with h5py.File(path, "w") as file:
        file["matrix/data"] = adata.X.toarray().T.astype(float)
        file["matrix/features"] = np.array(adata.var_names, "S")
        file["matrix/barcodes"] = np.array(adata.obs_names, "S")


def test_data_of_scmultibench_are_read_in_its_order_of_cells_and_paired_by_name(tmp_path):
    """Batch by batch in the order of the first file, whatever the order of the second."""
    whole = scvenn.datasets.simulate_counts(40, seed=0)
    rna, atac = whole["rna"], whole["atac"]
    write_matrix(tmp_path / "rna1.h5", rna[:20])
    write_matrix(tmp_path / "atac1.h5", atac[:20][::-1])
    write_matrix(tmp_path / "atac2.h5", atac[20:])
    found = script("inside_scmultibench").read_dataset(tmp_path)
    assert list(found.obs_names.str.split(":").str[1]) == list(rna.obs_names)
    assert list(found.obs["batch"]) == ["1"] * 20 + ["2"] * 20
    np.testing.assert_array_equal(found["rna"].X.toarray(), rna[:20].X.toarray())
    np.testing.assert_array_equal(found["atac"][found.obs_names].X.toarray(), atac.X.toarray())


def test_data_of_scmultibench_without_paired_cells_are_refused(tmp_path):
    whole = scvenn.datasets.simulate_counts(20, seed=0)
    write_matrix(tmp_path / "rna1.h5", whole["rna"][:10])
    write_matrix(tmp_path / "atac2.h5", whole["atac"][10:])
    with pytest.raises(ValueError, match="no batch with two modalities"):
        script("inside_scmultibench").read_dataset(tmp_path)
    write_matrix(tmp_path / "atac1.h5", whole["atac"][:9])
    with pytest.raises(ValueError, match="has other cells than"):
        script("inside_scmultibench").read_dataset(tmp_path)


# ---------------------------------------------------------------------------------------- data


def problem_of(peers, rna):
    names = [f"cell{i}" for i in range(len(rna))]
    other = np.random.default_rng(1).normal(size=(len(rna), 3)).astype(np.float32)
    mdata = MuData(
        {
            m: AnnData(x, obs=pd.DataFrame(index=names))
            for m, x in {"rna": sp.csr_matrix(rna), "meth": other}.items()
        }
    )
    half = len(rna) // 2
    return peers["problems"].Problem(mdata, np.arange(half), np.arange(half, len(rna)))


def test_the_depth_of_a_cell_does_not_count(peers):
    rna = np.random.default_rng(0).poisson(2, (20, 6)).astype(np.float32)
    rna[3] = 0
    problem = problem_of(peers, rna)
    scaled = problem.scaled("rna", rna)
    factors = np.arange(1, 21, dtype=np.float32)[:, None]
    np.testing.assert_allclose(problem.scaled("rna", rna * factors), scaled, rtol=1e-5)
    np.testing.assert_allclose(
        np.expm1(scaled[rna.any(1)]).sum(1), np.median(rna[:10].sum(1)), rtol=1e-5
    )
    assert (scaled[3] == 0).all()


def test_what_is_not_counts_stays_as_it_is(peers):
    problem = problem_of(peers, np.ones((8, 2), np.float32))
    meth = problem.mdata["meth"].X
    np.testing.assert_array_equal(problem.scaled("meth", meth), meth)


@pytest.mark.parametrize("dataset", APPLICABLE)
def test_splits_depend_on_the_seed_and_hold_every_cell_once(peers, dataset):
    data_file(peers["problems"].FILES[dataset])
    splits = [peers["problems"].load(dataset, seed, smoke=True) for seed in (0, 0, 1)]
    for split in splits:
        both = np.concatenate([split.train, split.test])
        np.testing.assert_array_equal(np.sort(both), np.arange(split.mdata.n_obs))
        first, second = split.mdata.mod.values()
        assert list(first.obs_names) == list(second.obs_names) == list(split.mdata.obs_names)
    np.testing.assert_array_equal(splits[0].test, splits[1].test)
    assert (splits[0].test != splits[2].test).any()


# --------------------------------------------------------------------------------------- runner


@pytest.mark.usefixtures("_no_scib")
def test_an_interrupted_run_goes_on_and_a_finished_one_rests(peers, tmp_path, monkeypatch, capsys):
    jobs = [smoke(peers, "citeseq", method) for method in ("PCA", "ridge")]
    performed = []
    monkeypatch.setattr(
        peers["run"],
        "in_own_process",
        lambda job: performed.append(job.method) or peers["scores"].perform(job),
    )
    file = tmp_path / "results.csv"

    def run():
        assert peers["run"].run(jobs, file) == []
        table = peers["jobs"].read_results(file)
        costs = table["metric"].isin(["seconds", "fit_seconds", "memory_gib"])
        return table[~costs].reset_index(drop=True)

    whole = run()
    lines = file.read_text().splitlines(keepends=True)
    cut = lines[-1].index("seconds") + len("seconds")
    file.write_text("".join(lines[:-1]) + lines[-1][:cut])  # killed while it was written
    pd.testing.assert_frame_equal(run(), whole)
    assert performed == ["PCA", "ridge", "ridge"]
    run()
    assert performed == ["PCA", "ridge", "ridge"]
    assert "2 of 2 jobs are finished" in capsys.readouterr().out


def test_a_job_that_fails_does_not_stop_the_others(peers, tmp_path, monkeypatch):
    monkeypatch.delenv("SCVENN_DATA", raising=False)
    monkeypatch.setattr(peers["run"], "in_own_process", peers["scores"].perform)
    jobs = peers["jobs"].all_jobs(None, smoke=True)
    failed = peers["run"].run(jobs[:2], tmp_path / "results.csv")
    assert len(failed) == 2
    assert "snareseq_cortex.h5mu is not in the folder" in failed[0]


@pytest.mark.slow
def test_jobs_run_in_a_process_of_their_own(peers, tmp_path):
    smoke(peers, "citeseq", "ridge")
    out = tmp_path / "smoke.csv"
    command = [sys.executable, PEERS / "run.py", "--smoke", "--only", "citeseq/ridge", "--out", out]
    subprocess.run(command, check=True, capture_output=True)
    table = peers["jobs"].read_results(out)
    correlations = ["pearson", "pearson_mean"] * 2
    assert list(table["metric"]) == ["fit_seconds", "memory_gib", *correlations, "seconds"]
    assert 0.1 < table.loc[table["metric"] == "memory_gib", "value"].item() < 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "citeseq/MULTIVI"], "expected some of"),
        (["--smoke"], "--smoke needs --out"),
    ],
)
def test_wrong_calls_are_refused(peers, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    with pytest.raises(SystemExit):
        peers["run"].main()
    assert message in capsys.readouterr().err


# ------------------------------------------------------------------------------------- batches


@pytest.mark.slow
@pytest.mark.parametrize("name", ["balanced", "near", "mosaic"])
def test_every_correction_is_scored(peers, monkeypatch, name):
    """Without Harmony and scib-metrics, which only an extra installs."""
    batches = importlib.import_module("batches")
    monkeypatch.setattr(batches, "N_OBS", 300)
    monkeypatch.setattr(batches, "N_FEATURES", 40)
    monkeypatch.setattr(batches, "harmony", lambda latent, batch: latent)
    monkeypatch.setattr(batches, "mixing", lambda latent, batch: {})
    rows = pd.DataFrame(batches.rows(name, 0, epochs=(1, 1)))
    assert {"scvenn", "scvenn, uncorrected", "scvenn, no deviations", "MULTIVI"} <= set(
        rows["method"]
    )
    scores = rows.drop(columns=["problem", "method", "seed"])
    assert ((scores.fillna(0) >= 0) & (scores.fillna(0) <= 1)).all(axis=None)
    assert ("lone" in scores) == (name == "near")
    kept = rows.set_index("method")["kept"]
    assert kept["scvenn, uncorrected"] == 1
    assert kept["scvenn"] > kept["MULTIVI"]


def test_cells_shuffled_within_types_stay_in_their_type(peers):
    within = importlib.import_module("within")
    mdata = scvenn_counts()
    new = within.shuffled(mdata, seed=0)
    types = mdata.obs["celltype"].to_numpy()
    before, after = (of["atac"].X.toarray() for of in (mdata, new))
    assert (before != after).any()
    np.testing.assert_array_equal(mdata["rna"].X.toarray(), new["rna"].X.toarray())
    for t in np.unique(types):
        np.testing.assert_array_equal(before[types == t].sum(0), after[types == t].sum(0))


def scvenn_counts():
    """Counts whose types are where the scripts look for them."""
    import scvenn

    mdata = scvenn.datasets.simulate_counts(120, n_features=20)
    mdata.obs["celltype"] = mdata.obs["cell_type"]
    return mdata


# -------------------------------------------------------------------------------------- tables


def rows_of(method, seed, embedding, values, max_epochs=""):
    for (metric, source, target), value in values.items():
        yield {
            "dataset": "citeseq",
            "seed": seed,
            "method": method,
            "max_epochs": max_epochs,
            "embedding": embedding,
            "metric": metric,
            "source": source,
            "target": target,
            "value": value,
        }


def test_a_table_shows_medians_over_seeds(peers, monkeypatch):
    monkeypatch.setitem(peers["render"].SEEDS, "citeseq", 3)
    rows = []
    for seed, value in enumerate((0.1, 0.3, 0.2)):
        key = ("balanced_accuracy", "", "")
        rows += rows_of("scvenn", seed, "shared", {key: value, ("pearson", "rna", "adt"): -value})
        rows += rows_of("scvenn", seed, "shared + private", {key: value + 0.5})
        rows += rows_of("scvenn", seed, "", {("fit_seconds", "", ""): 100 * value})
    rows += rows_of("PCA", 0, "joint", {("balanced_accuracy", "", ""): 0.4})
    rows += rows_of("scvenn", 0, "shared", {("balanced_accuracy", "", ""): 0.7}, "5")
    assert peers["render"].table(pd.DataFrame(rows), "citeseq").splitlines() == [
        "| method | balanced accuracy | Pearson rna → adt | seconds |",
        "| --- | --- | --- | --- |",
        "| scvenn MMVAE++, shared | 0.20 ± 0.10 | −0.200 ± 0.100 | 20 ± 10 |",
        "| scvenn MMVAE++, shared + private | 0.70 ± 0.10 | – | – |",
        "| scvenn MMVAE++, shared, at most 5 epochs, 1 of 3 seeds | 0.70 | – | – |",
        "| PCA, 1 of 3 seeds | 0.40 | – | – |",
    ]
    assert "No results yet" in peers["render"].table(pd.DataFrame(rows), "pbmc")


def test_scores_of_scmultibench_are_shown_by_embedding_and_beside_its_own(peers):
    rows = [
        {"metric": metric, "value": value, "embedding": e, "dataset": d, "seed": s, "method": m}
        for metric in ("ARI", "iF1")
        for m, e, d, s, value in (
            ("PCA", "joint", "citeseq", 0, 0.5),
            ("scvenn", "shared", "citeseq", 0, 0.6),
            ("scvenn", "shared", "citeseq", 1, 0.8),
            ("Matilda", "", "D11", np.nan, 0.9),
        )
    ]
    shown = peers["render"].scmultibench_table(pd.DataFrame(rows), "citeseq").splitlines()
    assert shown[2:] == [
        "| scvenn MMVAE++, shared, 2 of 5 seeds | 0.70 ± 0.14 | – | – | – | 0.70 ± 0.14 | – |",
        "| PCA, 1 of 5 seeds | 0.50 | – | – | – | 0.50 | – |",
    ]
    own = peers["render"].scmultibench_table(pd.DataFrame(rows), "D11").splitlines()
    assert own[2:] == ["| Matilda | 0.90 | – | – | – | 0.90 | – |"]


def test_the_page_shows_what_the_results_say(peers):
    page = (PEERS / "README.md").read_text()
    assert peers["render"].rendered(page, peers["render"].tables()) == page
