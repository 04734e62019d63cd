"""The tutorials were executed as they are shown, and their code still runs."""

import re
from pathlib import Path

import anndata
import matplotlib
import matplotlib.pyplot as plt
import mudata
import nbformat
import numpy as np
import pytest
import scvi
from scipy.sparse import csr_matrix

import scvenn
from tests.conftest import data_file, write_10x

matplotlib.use("Agg")
TUTORIALS = Path(__file__).parent.parent / "tutorials"

# on how much is measured of a nucleus
NO_LIMITS = {"MIN_GENES": 1, "MIN_PEAKS": 1}

# parameters with which each notebook takes seconds
SMALL = {
    "quickstart": {"N_GENES": 200, "MAX_EPOCHS": 2},
    "private_variation": {"N_CELLS": 150, "MAX_EPOCHS": 2},
    "pbmc_multiome": {"N_CELLS": 600, "MAX_EPOCHS": 2},
    "multiome_full": {"N_CELLS": 300, "N_PEAKS": 900, **NO_LIMITS, "MAX_EPOCHS": 2},
    "citeseq_mosaic": {"N_CELLS": 600, "MAX_EPOCHS": 2},
    "cll": {"N_FEATURES": 50, "MAX_EPOCHS": 2},
    "interpretation": {"N_FEATURES": 50, "MAX_EPOCHS": 2},
    "own_objective": {"N_CELLS": 200, "MAX_EPOCHS": 2},
    "mapping": {"N_GENES": 200, "MAX_EPOCHS": 2},
    "large_data": {"N_CELLS": 300, "MAX_EPOCHS": 2},
}


def code_cells(name):
    notebook = nbformat.read(TUTORIALS / f"{name}.ipynb", as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    """What a cell printed or returned, without pictures."""
    for output in cell.outputs:
        yield output.get("text", "")
        yield output.get("data", {}).get("text/plain", "")


def run(name, **parameters):
    """Execute the code of a notebook, with other parameters; what it defined."""
    level = scvi.settings.verbosity
    defined = {}
    with matplotlib.rc_context():
        for i, cell in enumerate(code_cells(name)):
            exec(compile(cell.source, f"{name}.ipynb, code cell {i}", "exec"), defined)
            if "parameters" in cell.metadata.get("tags", []):
                assert set(parameters) <= set(defined)
                defined.update(parameters)
    scvi.settings.verbosity = level
    plt.close("all")
    return defined


def test_every_notebook_is_tested():
    assert {path.stem for path in TUTORIALS.glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_it_is_stored_as_it_ran_from_top_to_bottom(name):
    cells = code_cells(name)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert (TUTORIALS / f"{name}.ipynb").stat().st_size < 1_500_000


@pytest.mark.parametrize("name", SMALL)
def test_every_cell_that_draws_shows_its_figure(name):
    for cell in code_cells(name):
        if re.search(r"\b(sc|scvenn)\.pl\.|plt\.subplots", cell["source"]):
            shown = [output for output in cell["outputs"] if "image/png" in output.get("data", {})]
            assert shown, cell["source"]


@pytest.mark.parametrize("name", SMALL)
def test_it_says_nothing_of_the_machine_it_ran_on(name):
    printed = "\n".join(text for cell in code_cells(name) for text in texts(cell))
    assert not re.findall(r"(?<![\w.])/(?:[\w.-]+/)+\S*", printed)
    assert "Warning" not in printed


@pytest.mark.parametrize("name", SMALL)
def test_it_starts_with_versions_and_a_seed_and_ends_with_a_summary(name):
    notebook = nbformat.read(TUTORIALS / f"{name}.ipynb", as_version=4)
    seeded = next(cell for cell in code_cells(name) if "scvi.settings.seed = 0" in cell.source)
    assert seeded.execution_count <= 2
    assert f"scvenn {scvenn.__version__}\n" in "".join(texts(seeded))
    headings = re.findall(r"^#+ (.*)$", "\n".join(c.source for c in notebook.cells), re.MULTILINE)
    assert headings[-1] == "Summary"


@pytest.mark.slow
@pytest.mark.usefixtures("_in_moments")
@pytest.mark.parametrize("name", SMALL)
def test_its_code_runs(name):
    if name == "pbmc_multiome":
        data_file("pbmc10k_multiome_small.h5mu")  # else the whole set would be downloaded
    try:
        run(name, **SMALL[name])
    except ConnectionError as error:
        pytest.skip(f"{name}: {error}")


@pytest.mark.slow
@pytest.mark.usefixtures("_in_moments")
def test_the_pbmc_notebook_names_the_cells_of_the_whole_set(monkeypatch):
    """The whole set is too large to download; a simulation with three marked types has its form."""
    simulated = scvenn.datasets.simulate_counts(300, n_features=100)
    truth = np.repeat(["CD14+ Monocytes", "CD4 naive T", "CD8 naive T"], 100)
    markers = ["CD14", "CD4", "CD8A", "IL7R", "SLC4A10", "GNLY", "MS4A1", "MZB1"]
    markers += ["FCGR3A", "FCER1A", "LILRA4"]  # at least one of each type that the notebook names
    counts = simulated["rna"].X.toarray()
    counts[:, : len(markers)] = 0
    counts[np.arange(300), np.repeat([0, 1, 2], 100)] = 200
    rna = anndata.AnnData(csr_matrix(counts), obs=simulated.obs[[]])
    rna.var_names = [*markers, *(f"gene{j}" for j in range(100 - len(markers)))]
    atac = anndata.AnnData(simulated["atac"].X, obs=simulated.obs[[]])
    whole = mudata.MuData({"rna": rna, "atac": atac})
    monkeypatch.setattr(scvenn.datasets, "pbmc_multiome", lambda: whole)
    defined = run("pbmc_multiome", N_CELLS=None, MAX_EPOCHS=2)
    named = defined["mdata"].obs["celltype"].reindex(simulated.obs_names)
    assert (named == truth).mean() > 0.9


@pytest.mark.slow
@pytest.mark.usefixtures("_in_moments")
def test_the_notebook_of_a_whole_multiome_reads_a_file_of_cell_ranger(tmp_path):
    """Unchanged but for the path; files of Cell Ranger come without cell types."""
    simulated = scvenn.datasets.simulate_counts(300, n_features=100)
    counts = {
        "Gene Expression": (simulated["rna"].X, [f"GENE{j}" for j in range(100)]),
        "Peaks": (simulated["atac"].X, [f"chr1:{j}00-{j}50" for j in range(1, 101)]),
    }
    path = tmp_path / "filtered_feature_bc_matrix.h5"
    write_10x(path, counts, simulated.obs_names)
    defined = run("multiome_full", FILE=str(path), **NO_LIMITS, MAX_EPOCHS=2)
    assert defined["mdata"].shape == (300, 150)  # half of the genes, all peaks
    assert defined["mdata"].obsm["X_shared"].shape == (300, 10)
