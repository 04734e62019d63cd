"""What users download: everything that is needed, and nothing else."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import scvenn

ROOT = Path(__file__).parent.parent
TESTED = sorted((ROOT / "constraints").glob("py*.txt"))
# Words of the licences that let anyone use and pass on a package, also in closed software. MPL asks
# for changes of its own files alone.
PERMISSIVE = ("Apache", "BSD", "MIT", "MPL", "Mozilla", "PSF", "Python Software Foundation")
# The others, which docs/installation.md names: what Leiden clustering needs.
COPYLEFT = {"igraph": "GPL", "leidenalg": "GPL"}
# Its metadata say "OSI Approved" only; the file LICENSE.txt has three clauses of BSD.
NOT_SAID = {"umap-learn"}


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
        "constraints/py311.lock",
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


@pytest.fixture(params=TESTED, ids=lambda path: path.stem)
def tested(request):
    """Versions of a tested set by name, and versions and files of its lock by name."""
    path = request.param
    versions = dict(line.split("==") for line in _lines(path))
    locked: dict[str, list[tuple[str, int]]] = {}
    for entry in re.split(r"\n(?=\w)", "\n".join(_lines(path.with_suffix(".lock")))):
        name, version = re.match(r"(\S+)==([^\s;]+)", entry).groups()
        locked.setdefault(canonicalize_name(name), []).append((version, entry.count("sha256:")))
    return {canonicalize_name(name): version for name, version in versions.items()}, locked


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def test_locks_hold_the_versions_that_are_tested(tested):
    versions, locked = tested
    both = versions.keys() & locked.keys()
    assert len(both) > 150
    other = {n: locked[n] for n in both if versions[n] not in [v for v, _ in locked[n]]}
    assert not other


def test_locks_hold_a_hash_of_every_package(tested):
    _, locked = tested
    assert not {n for n, found in locked.items() for _, hashes in found if not hashes}


def test_locks_hold_every_dependency(tested):
    _, locked = tested
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["dev"], *extras["docs"], *extras["scib"]]
    names = {canonicalize_name(Requirement(text).name) for text in needed}
    assert not names - locked.keys()


def test_dependencies_have_permissive_licences_but_for_those_the_documentation_names():
    licences = {name: _licence(found) for name, found in _installed("scvenn", "all").items()}
    assert len(licences) > 50
    others = {n: text for n, text in licences.items() if not any(w in text for w in PERMISSIVE)}
    assert others.keys() - NOT_SAID == COPYLEFT.keys()
    assert all(COPYLEFT[name] in others[name] for name in COPYLEFT)
    page = (ROOT / "docs/installation.md").read_text()
    assert all(f"`{name}`" in page for name in COPYLEFT)


def _installed(name: str, extra: str) -> dict[str, Distribution]:
    """A package and all that it needs, as far as installed, by name."""
    found: dict[str, Distribution] = {}
    todo = [(name, {"", extra})]
    while todo:
        name, extras = todo.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:  # of another platform
            continue
        found[canonicalize_name(name)] = package
        for needed in map(Requirement, package.requires or []):
            marker = needed.marker
            asked_for = marker is None or any(marker.evaluate({"extra": e}) for e in extras)
            if asked_for and canonicalize_name(needed.name) not in found:
                todo.append((needed.name, {"", *needed.extras}))
    return found


def _licence(package: Distribution) -> str:
    """Every way in which metadata say it: an expression, classifiers, free text."""
    said = package.metadata
    classifiers = [text for text in said.get_all("Classifier", []) if text.startswith("License")]
    text = (said.get("License") or "").split("\n")[0]
    return "; ".join([said.get("License-Expression") or "", *classifiers, text])
