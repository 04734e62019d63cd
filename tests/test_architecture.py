"""The house: imports point down, and scvi-tools is known to few rooms."""

import ast
from pathlib import Path

import pytest

import scvenn

SOURCE = Path(scvenn.__file__).parent

# a file may import from lower floors only
FLOORS = [
    {
        "objective",
        "_densities",
        "_drafts",
        "_faint",
        "_gaussians",
        "_keys",
        "_likelihood",
        "_screening",
        "_trust",
        "_feature_metrics",
        "_drawing",
        "_cli_options",
    },
    {"_page", "_counts"},
    {"likelihoods"},
    {"_networks", "_checks", "_views", "metrics"},
    {"_coding", "_registration", "_saving", "_training", "_table_figures"},
    {"_embedding_figure", "_reading", "_readouts", "_setup"},
    {
        "_differential",
        "_evaluation",
        "_interpretation",
        "_labels",
        "_module",
        "_sampling",
        "_shared_features",
        "_writing",
        "plotting",
    },
    {"_report"},
    {"_model"},
    {"models"},
    {"_cli_files", "_latent_sizes"},
    {"_cli_train"},
    {"_cli"},
]
FLOOR_OF = {name: i for i, names in enumerate(FLOORS) for name in names}
KNOWS_SCVI = {
    "_cli_files",
    "_cli_train",
    "_coding",
    "_differential",
    "_latent_sizes",
    "_model",
    "_module",
    "_networks",
    "_reading",
    "_registration",
    "_saving",
    "_shared_features",
    "_training",
    "_writing",
    "likelihoods",
}
FREE = {"__init__", "datasets"}


def imports(name):
    """Full names of everything a file imports."""
    found = set()
    for node in ast.walk(ast.parse((SOURCE / f"{name}.py").read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(name):
    """Files of the package that a file imports."""
    parts = [full.split(".") for full in imports(name)]
    return {p[1] for p in parts if p[0] == "scvenn" and len(p) > 1} & (set(FLOOR_OF) | FREE)


FILES = sorted(path.stem for path in SOURCE.glob("*.py"))


def test_every_file_has_its_floor():
    assert set(FILES) == set(FLOOR_OF) | FREE


@pytest.mark.parametrize("name", sorted(FLOOR_OF))
def test_imports_point_to_lower_floors(name):
    for other in rooms(name) - ({"datasets"} if name == "_cli" else set()):
        assert other in FLOOR_OF, f"{name} imports {other}"
        assert FLOOR_OF[other] < FLOOR_OF[name], f"{name} imports {other}"


def test_datasets_import_no_model():
    assert not rooms("datasets")


@pytest.mark.parametrize("name", FILES)
def test_scvi_is_named_in_few_rooms(name):
    if any(full.split(".")[0] == "scvi" for full in imports(name)):
        assert name in KNOWS_SCVI


def test_objectives_need_the_standard_library_only():
    import sys

    assert {full.split(".")[0] for full in imports("objective")} <= sys.stdlib_module_names


def test_nothing_is_printed():
    for name in FILES:
        for node in ast.walk(ast.parse((SOURCE / f"{name}.py").read_text())):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            assert not (called and node.func.id == "print"), f"{name} line {node.lineno}"


@pytest.mark.parametrize("name", FILES)
def test_no_file_is_too_long(name):
    assert len((SOURCE / f"{name}.py").read_text().splitlines()) <= 500
