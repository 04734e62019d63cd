"""What the documents show runs, and what they name exists."""

import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest

import scvenn

matplotlib.use("Agg")
ROOT = Path(__file__).parent.parent


def blocks(document):
    """The Python code of a document."""
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)


@pytest.mark.slow
def test_the_code_of_the_readme_runs(small):
    mdata = scvenn.datasets.simulate_counts(400, n_features=20)
    mdata["rna"].layers["counts"] = mdata["rna"].X
    mdata.obs["donor"] = np.resize(["a", "b", "c"], mdata.n_obs)
    mdata.obs["pct_mito"] = np.linspace(0, 20, mdata.n_obs)
    mdata.write("pbmc.h5mu")
    code = "\n".join(blocks("README.md"))
    assert "model.train()" in code
    code = code.replace(".train()", ".train(2, enable_progress_bar=False)")
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.slow
def test_the_code_of_the_quickstart_runs():
    code = "\n".join(blocks("tutorials/quickstart.md"))
    assert "max_epochs=60" in code
    exec(compile(code.replace("max_epochs=60", "max_epochs=2"), "quickstart.md", "exec"), {})


@pytest.mark.slow
def test_the_code_of_latent_sizes_runs():
    """The first block; the second needs Ray."""
    code = blocks("docs/latent_sizes.md")[0]
    assert "max_epochs=40" in code
    exec(compile(code.replace("max_epochs=40", "max_epochs=1"), "latent_sizes.md", "exec"), {})


@pytest.mark.parametrize("document", ["README.md", "docs/design.md", "tutorials/quickstart.md"])
def test_files_that_documents_name_exist(document):
    text = (ROOT / document).read_text()
    named = set(re.findall(r"`((?:src|tests|docs|benchmarks|tutorials)/[\w/.]+)`", text))
    named |= set(re.findall(r"\]\(((?!http)[\w/.]+)\)", text))
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_version_is_the_same_everywhere():
    version = scvenn.__version__
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
