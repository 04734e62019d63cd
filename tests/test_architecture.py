"""The house: rooms on floors; imports point down, and scvi-tools is known to few rooms."""

import ast
import sys
from pathlib import Path

import pytest

import scvenn

SOURCE = Path(scvenn.__file__).parent

# A room is a folder or a single file. It imports from rooms on lower floors only.
FLOORS = [
    {"_warnings", "_processes"},
    {"_arguments", "_progress", "_threads", "_mudata", "_whole_files"},
    {"_downloads", "objective", "metrics", "likelihoods", "screening", "batches", "novelty"},
    {"data"},
    {"network", "plotting"},
    {"readouts"},
    {"models"},
    {"testing", "preprocessing"},
    {"cli"},
]
FLOOR_OF = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
KNOWS_SCVI = {"data", "network", "readouts", "models", "cli"}
# public names, imported when first used; `python -m scvenn`; simulations and downloads; a name of
# old files
FREE = {"__init__", "__main__", "datasets", "_screening"}

FILES = {
    path: path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in SOURCE.rglob("*.py")
}


def imports(path):
    """Modules that a file imports from, and full names of everything it imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                yield node.module, f"{node.module}.{alias.name}"


def rooms_imported(path):
    """Rooms of the package that a file imports from, and the modules it names for that."""
    for module, name in imports(path):
        parts = name.split(".")
        if parts[0] == "scvenn" and len(parts) > 1 and parts[1] in (set(FLOOR_OF) | FREE):
            yield parts[1], module


def test_every_room_has_its_floor():
    assert set(FILES.values()) <= set(FLOOR_OF) | FREE


def test_a_room_names_all_of_its_files():
    for door in SOURCE.glob("*/__init__.py"):
        text = ast.get_docstring(ast.parse(door.read_text()))
        for path in door.parent.glob("*.py"):
            assert path == door or f"``{path.stem}``" in text, path


@pytest.mark.parametrize("room", sorted(FLOOR_OF))
def test_a_room_imports_from_lower_floors_only(room):
    for path in (path for path, own in FILES.items() if own == room):
        for other, _ in rooms_imported(path):
            if other in FREE:
                assert room == "cli", f"{path} imports {other}"
            elif other != room:
                assert FLOOR_OF[other] < FLOOR_OF[room], f"{path} imports {other}"


@pytest.mark.parametrize("room", sorted(FLOOR_OF))
def test_a_room_takes_the_names_of_another_from_its_door(room):
    for path in (path for path, own in FILES.items() if own == room):
        for other, module in rooms_imported(path):
            if other not in (room, "cli"):
                assert module in ("scvenn", f"scvenn.{other}"), f"{path} imports from {module}"


def test_inside_a_room_no_import_is_circular():
    for room in FLOOR_OF:
        files = {path.stem: path for path, own in FILES.items() if own == room}
        needs = {
            name: {
                module.rsplit(".", 1)[-1]
                for other, module in rooms_imported(path)
                if other == room and module != f"scvenn.{room}"
            }
            for name, path in files.items()
            if name != "__init__"
        }
        while free := [name for name, needed in needs.items() if not needed & set(needs)]:
            for name in free:
                del needs[name]
        assert not needs, f"{room}: {needs} import each other"


def test_datasets_import_no_model():
    assert {room for room, _ in rooms_imported(SOURCE / "datasets.py")} == {
        "_arguments",
        "_mudata",
        "_downloads",
    }


@pytest.mark.parametrize("path", FILES, ids=str)
def test_scvi_is_named_in_few_rooms(path):
    if any(name.split(".")[0] == "scvi" for _, name in imports(path)):
        assert FILES[path] in KNOWS_SCVI


def test_objectives_need_the_standard_library_only():
    found = {name.split(".")[0] for _, name in imports(SOURCE / "objective.py")}
    assert found <= sys.stdlib_module_names


def test_nothing_is_printed():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            assert not (called and node.func.id == "print"), f"{path} line {node.lineno}"


def test_only_files_of_the_first_release_are_read_as_pickles():
    """Reading a pickle runs the code in it. The checks for users pickle what they just made."""
    pickling = {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal", "read_pickle"}
    pickling |= {"torch.load", "torch.save", "allow_pickle", "_load_saved_files", "eval", "exec"}
    for path in (path for path, room in FILES.items() if room != "testing"):
        tree = ast.parse(path.read_text())
        names = {part for _, name in imports(path) for part in name.split(".")}
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
        names |= {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        allowed = {"torch.load"} if path.name == "legacy.py" else set()
        assert not names & pickling - allowed, path
