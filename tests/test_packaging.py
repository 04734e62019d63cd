"""What users download: everything that is needed, and nothing else."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import scvenn

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = (ROOT / "src").rglob("*")
    ours = {p.relative_to(ROOT / "src").as_posix() for p in files if p.is_file()}
    ours = {name for name in ours if name.startswith("scvenn/") and "__pycache__" not in name}
    assert names == ours
    assert "scvenn/py.typed" in names


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel):
    info = f"scvenn-{scvenn.__version__}.dist-info"
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "Classifier: Typing :: Typed\n" in metadata
    for name in ("Documentation", "Source", "Changelog"):
        assert f"Project-URL: {name}, https://" in metadata


@pytest.mark.slow
def test_the_sdist_holds_what_tests_and_documentation_need(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    needed = {
        ".github/workflows/test.yml",
        ".scverse/meta.yaml",
        "CITATION.cff",
        "CONTRIBUTING.md",
        "Dockerfile",
        "LICENSE",
        "Makefile",
        "SECURITY.md",
        "benchmarks/paper/run.py",
        "benchmarks/peers/README.md",
        "conda/recipe.yaml",
        "conftest.py",
        "constraints/py311.txt",
        "docs/_static/demo.png",
        "docs/_templates/autosummary/class.rst",
        "docs/conf.py",
        "environment.yml",
        "src/scvenn/py.typed",
        "tests/conftest.py",
        "tests/data/paper_losses.npz",
        "tutorials/quickstart.ipynb",
    }
    assert needed <= names
    left_out = ("docs/generated/", "docs/_build/", "docs/tutorials/", ".venv/", "shared/")
    archives = "tests/data/archives/"
    data = {n for n in names if n.endswith(".h5mu") and not n.startswith(archives)}
    assert not data | {name for name in names if name.startswith(left_out)}
    assert f"{archives}0.1.0/data.h5mu" in names
