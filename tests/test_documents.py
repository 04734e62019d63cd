"""What the documents show runs, and what they name exists."""

import re
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.io import mmwrite

import scvenn
from tests.conftest import write_10x
from tests.test_public_api import METHODS

ROOT = Path(__file__).parent.parent
PAGES = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *PAGES]


def code(document):
    """The Python code of a document, all blocks in their order."""
    return "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL))


@pytest.fixture
def _trained_briefly(monkeypatch):
    """However long a document trains, it is two epochs, and of few cells if it does not say."""
    train = scvenn.SharedPrivateModel.train

    simulate = scvenn.datasets.simulate_counts

    def briefly(self, max_epochs=None, **kwargs):
        train(self, 2, **{**kwargs, "enable_progress_bar": False})

    def of_few(n_obs=300, **kwargs):
        return simulate(n_obs, **{"n_features": 60, **kwargs})

    monkeypatch.setattr(scvenn.SharedPrivateModel, "train", briefly)
    monkeypatch.setattr(scvenn.datasets, "simulate_counts", of_few)


@pytest.fixture
def _a_file_to_read():
    """Files that the README and the page on the command line read, with the columns they name."""
    mdata = scvenn.datasets.simulate_counts(400, n_features=20)
    mdata.write("sim.h5mu")
    mdata["rna"].layers["counts"] = mdata["rna"].X
    mdata.obs["donor"] = np.resize(["a", "b", "c"], mdata.n_obs)
    mdata.obs["pct_mito"] = np.linspace(0, 20, mdata.n_obs)
    mdata.write("pbmc.h5mu")


@pytest.fixture
def _exports_of_other_tools():
    """A file as Cell Ranger writes it, and folders as those that the lines of R write."""
    mdata = scvenn.datasets.simulate_counts(300, n_features=60)
    rna, atac = (sp.csc_matrix(mdata[m].X.T) for m in ("rna", "atac"))  # features by cells
    genes = [f"MT-{j}" if j < 3 else f"GENE{j}" for j in range(60)]
    peaks = [f"chr1:{1000 * j}-{1000 * j + 500}" for j in range(60)]
    cells = [f"CELL{i}-1" for i in range(300)]
    counts = {"Gene Expression": (mdata["rna"].X, genes), "Peaks": (mdata["atac"].X, peaks)}
    write_10x("filtered_feature_bc_matrix.h5", counts, cells)
    of_archr = [f"sample#{cell}" for cell in cells]
    folders = {
        "seurat/RNA": (rna, genes, cells),
        "seurat/peaks": (atac, peaks, cells),
        "archr": (atac, peaks, of_archr),
    }
    for folder, (counts, features, barcodes) in folders.items():
        Path(folder).mkdir(parents=True)
        mmwrite(f"{folder}/matrix.mtx", counts.astype(int))
        Path(folder, "features.tsv").write_text("\n".join(features) + "\n")
        Path(folder, "barcodes.tsv").write_text("\n".join(barcodes) + "\n")
    mdata.obs[["cell_type"]].set_axis(cells).to_csv("seurat/cells.csv")


@pytest.mark.slow
@pytest.mark.usefixtures(
    "_in_moments", "_trained_briefly", "_a_file_to_read", "_exports_of_other_tools"
)
@pytest.mark.parametrize("document", [document for document in DOCUMENTS if code(document)])
def test_the_code_of_a_document_runs(document):
    exec(compile(code(document), document, "exec"), {})


@pytest.mark.usefixtures("_exports_of_other_tools")
def test_recipes_read_the_counts_of_other_tools():
    """The same counts come back from each kind of file."""
    recipes = code("docs/before_you_train.md").split("import scanpy")[0]
    expected = scvenn.datasets.simulate_counts(300, n_features=60)
    found: dict = {}
    blocks = re.split(r"(?m)^(?=mdata = )", recipes)
    for block in blocks:  # each makes a MuData from files of another kind
        exec(block, found)
        if "mdata" in found:
            for m in ("rna", "atac"):
                counts = found["mdata"][m].X.toarray()
                np.testing.assert_array_equal(counts, np.asarray(expected[m].X.todense()))
    assert len(blocks) == 4
    assert found["mdata"].n_obs == 300


def test_answers_of_the_cookbook_are_short():
    page = (ROOT / "docs" / "cookbook.md").read_text()
    answers = page.split("\n## ")[1:]
    assert len(answers) == 10
    for answer in answers:
        lines = re.findall(r"```python\n(.*?)```", answer, re.DOTALL)
        assert 0 < "".join(lines).count("\n") <= 10, answer


def test_a_picture_shows_numbers_of_its_table():
    pictures = runpy.run_path(str(ROOT / "benchmarks" / "pictures.py"))["PICTURES"]
    for name, picture in pictures.items():
        numbers = picture.numbers()
        assert numbers.groupby("panel")["value"].count().min() > 1, name
        assert f"_static/tables/{name}.png" in picture.page.read_text()
        assert (ROOT / "docs" / "_static" / "tables" / f"{name}.png").exists()


def test_guides_have_code_to_run():
    guides = {"before_you_train", "data", "latent_sizes", "models", "reading"}
    assert all("model.train(" in code(f"docs/{name}.md") for name in guides)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_documents_name_exist(document):
    text = (ROOT / document).read_text()
    named = set(re.findall(r"`((?:src|tests|docs|benchmarks|tutorials)/[\w/.]+)`", text))
    for path in named:
        # what a make target writes does not count
        assert (ROOT / path).exists() or "_build" in path, path
    for link in re.findall(r"\]\(((?!http)[\w/.]+)[#\w-]*\)", text):
        # the documentation has the tutorials beside its pages
        assert (ROOT / document).parent.joinpath(link).exists() or (ROOT / link).exists(), link


def test_the_gallery_has_a_picture_of_every_figure():
    blocks = (ROOT / "docs" / "gallery.md").read_text().split("```python\n")[1:]
    drawn = [block.partition("```")[0] for block in blocks if "](_static/gallery/" in block]
    for name in scvenn.pl.__all__:
        assert any(f"scvenn.pl.{name}(" in code for code in drawn), name


def test_the_api_page_lists_everything_public():
    entries = re.findall(r"^   (\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(entries) == sorted(scvenn.__all__)


def test_the_page_of_a_model_lists_its_methods():
    configuration = runpy.run_path(str(ROOT / "docs" / "conf.py"))
    listed = set(configuration["autosummary_context"]["members_of_a_model"])
    assert set(METHODS) <= listed
    page = (ROOT / "docs" / "api.md").read_text()
    assert set(re.findall(r"^   ~SharedPrivateModel\.(\w+)$", page, re.MULTILINE)) == listed


@pytest.mark.parametrize("module", ["datasets", "metrics", "pl", "pp", "testing"])
def test_the_api_page_lists_the_functions_of_a_module(module):
    page = (ROOT / "docs" / "api.md").read_text()
    listed = re.findall(rf"^   {module}\.(\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(getattr(scvenn, module).__all__)


def test_the_version_is_the_same_everywhere():
    version = scvenn.__version__
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"version: {version}\n" in (ROOT / ".scverse" / "meta.yaml").read_text()
    assert f'version: "{version}"\n' in (ROOT / "conda" / "recipe.yaml").read_text()
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_supported_python_is_tested():
    classifiers = set(re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text()))
    constraints = {f"3.{path.stem[3:]}" for path in (ROOT / "constraints").glob("py3*.txt")}
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    matrix = set(re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.*)\]", workflow)[1]))
    assert classifiers == constraints == matrix


def test_the_table_of_large_data_is_that_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "scale.py"))
    table = benchmark["table"](pd.read_csv(benchmark["RESULTS"]))
    assert table in (ROOT / "docs" / "large_data.md").read_text()


@pytest.mark.parametrize("name", ["speed", "scaling"])
def test_the_tables_of_performance_are_those_of_the_results(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"))
    page = (ROOT / "docs" / "performance.md").read_text()
    results = pd.read_csv(benchmark["RESULTS"])
    assert benchmark["table"](results) in page
    assert name != "speed" or benchmark["beside_the_first"](results) in page
    assert "## What makes it fast" in page.partition("<!-- end speed -->")[2]
