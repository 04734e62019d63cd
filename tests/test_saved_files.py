"""Files of models: no code in them, nothing read that is not whole, nothing lost by a kill."""

import copy
import errno
import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

import scvenn
from scvenn import _whole_files
from scvenn._whole_files import draft
from scvenn.models import class_of
from scvenn.models.encoding import decode, encode
from scvenn.models.model_file import read_model_file
from scvenn.models.saving import _read_data
from scvenn.models.value_file import _digest, read_values, write_values
from scvenn.objective import Objective, Term
from tests.archives import ARCHIVES
from tests.conftest import QUIET
from tests.files import forks, header_of, in_child

OLD = ARCHIVES / "0.1.0" / "MMVAEpp"


def train(seed):
    scvi.settings.seed = seed
    mdata = scvenn.datasets.simulate_counts(60, n_features=12, seed=seed)
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key="batch", labels_key="cell_type")
    model = scvenn.MMVAEpp(mdata, n_shared=3, n_private=2, n_hidden=8)
    model.train(1, **QUIET)
    return model


@pytest.fixture(scope="module")
def models():
    return train(0), train(1)


@pytest.fixture(scope="module")
def folder(models, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    models[0].save(path, save_anndata=True)
    return path


@pytest.fixture
def copied(folder, tmp_path):
    """A folder to damage."""
    return shutil.copytree(folder, tmp_path / "model")


def weights(model):
    return {name: value.numpy() for name, value in model.module.state_dict().items()}


def same_weights(first, second):
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n], equal_nan=True) for n in a)


def rewritten(folder, change):
    """Change the content and the arrays of a model, with a digest that fits."""
    path = folder / "model.safetensors"
    arrays = load_file(path)
    content = json.loads(header_of(path)["content"])
    content = change(content, arrays) or content
    text = content if isinstance(content, str) else json.dumps(content)
    header = {"format": "scvenn model", "protocol": "1", "content": text}
    save_file(arrays, path, header | {"sha256": _digest(text, arrays)})


# ------------------------------------------------------------------------------- no code


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "prefix_model.pt"])
@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_no_code_in_a_file_is_run(name, write, tmp_path):
    marker = tmp_path / "marker"
    with (tmp_path / name).open("wb") as file:
        {"torch": torch.save, "pickle": pickle.dump}[write](Trap(marker), file)
    prefix = name.partition("model")[0] or None
    for read in (scvenn.MMVAEpp.load, scvenn.MMVAEpp.load_registry):
        with pytest.raises(ValueError, match=name):
            read(tmp_path, prefix=prefix)
    with pytest.raises(ValueError, match=name):
        class_of(tmp_path, prefix)
    assert not marker.exists()


def test_a_file_of_the_first_release_says_how_it_is_read():
    with pytest.raises(ValueError, match=r"scvenn.convert_legacy\('.*MMVAEpp', trust=True\)"):
        scvenn.MMVAEpp.load(OLD)


def test_a_file_of_the_first_release_is_converted_only_if_it_is_trusted(tmp_path):
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ValueError, match="can run any code"):
        scvenn.convert_legacy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt"}
    scvenn.convert_legacy(tmp_path, trust=True)
    assert scvenn.MMVAEpp.load(tmp_path).is_trained_
    with pytest.raises(FileExistsError, match="already exists"):
        scvenn.convert_legacy(tmp_path, trust=True)


def test_a_damaged_file_of_the_first_release_is_not_converted(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model.pt does not exist"):
        scvenn.convert_legacy(tmp_path, trust=True)
    (tmp_path / "model.pt").write_bytes((OLD / "model.pt").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"model.pt \(5,000 bytes\) is damaged"):
        scvenn.convert_legacy(tmp_path, trust=True)
    torch.save({"attr_dict": {"registry_": {"model_name": "SCVI"}}}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="class 'SCVI'; expected one of .*'MMVAEpp'"):
        scvenn.convert_legacy(tmp_path, trust=True)
    whole = torch.load(OLD / "model.pt", weights_only=False)
    name = next(iter(whole["model_state_dict"]))
    fewer = {k: v for k, v in whole["model_state_dict"].items() if k != name}
    for other in ([1], {"attr_dict": whole["attr_dict"]}, {**whole, "model_state_dict": fewer}):
        torch.save(other, tmp_path / "model.pt")
        with pytest.raises(ValueError, match="no file of a model of scvenn 0.1, or is damaged"):
            scvenn.convert_legacy(tmp_path, trust=True)


# ------------------------------------------------------------------------------- values

NAMES = st.text(max_size=5)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint64, np.bool_]),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=3),
    )
    | st.lists(st.text(max_size=3), max_size=3).map(lambda texts: np.array(texts, dtype=object))
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(NAMES | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def equal(a, b):
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        np.testing.assert_array_equal(a, b, strict=True)
    elif isinstance(a, dict):
        assert isinstance(b, dict)
        assert list(a) == list(b)
        for key in a:
            equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert type(a) is type(b)
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            equal(x, y)
    else:
        assert type(a) is type(b)
        assert a == b or (a != a and b != b)


@settings(max_examples=100, deadline=None)
@given(value=VALUES)
def test_every_value_comes_back_as_it_was(value):
    arrays = {}
    text = json.dumps(encode(value, arrays, "value"), allow_nan=False)
    equal(value, decode(json.loads(text), arrays))


def test_arrays_whose_names_are_alike_are_both_kept():
    value = {"a.b": np.arange(2), "a": {"b": np.arange(3)}}
    arrays = {}
    equal(value, decode(encode(value, arrays, "value"), arrays))


def test_the_order_of_bytes_changes_nothing(tmp_path):
    path = tmp_path / "values"
    for order in "<>":
        values = np.array([1.5, 2], f"{order}f4")
        write_values(path, {"x": values}, format="test", protocol=1)
        found = read_values(path, format="test", protocols={1: {"x": np.ndarray}})
        np.testing.assert_array_equal(found["x"], values)


def test_tables_and_objectives_come_back_as_they_were():
    table = pd.DataFrame({"loss": [1.0, np.nan]}, index=pd.Index([0, 5], name="epoch"))
    objective = Objective((Term(("a",), ("a", "b")), Term(("b",), ("a", "b"), ("a",))))
    arrays = {}
    found = decode(json.loads(json.dumps(encode([table, objective], arrays, "x"))), arrays)
    pd.testing.assert_frame_equal(found[0], table)
    assert found[1] == objective


@pytest.mark.parametrize("value", [print, object(), {"a": [lambda: 1]}, np.array([object()]), 1j])
def test_code_and_objects_are_not_written(value):
    with pytest.raises(TypeError, match=r"numbers, texts, arrays and tables, and no code; value"):
        encode(value, {}, "value")


@pytest.mark.parametrize(
    "value",
    [{"$array": "none"}, {"$float": "1"}, {"$call": "os.system"}, {"$texts": [1]}, {"$Term": {}}],
)
def test_what_was_never_encoded_is_refused(value):
    with pytest.raises((ValueError, LookupError, TypeError)):
        decode(value, {})


def test_an_attribute_of_ones_own_is_saved_if_it_is_data(models, tmp_path):
    class Own(scvenn.MMVAEpp):
        pass

    model = Own(models[0].adata, n_shared=2, n_private=1, n_hidden=4)
    model.note_ = {"kind": ("a", 1)}
    model.save(tmp_path / "own")
    assert Own.load(tmp_path / "own", False).note_ == {"kind": ("a", 1)}
    model.note_ = [object()]
    with pytest.raises(TypeError, match=r"attributes\.note_\.0 is <object object"):
        model.save(tmp_path / "own", overwrite=True)
    assert Own.load(tmp_path / "own", False).note_ == {"kind": ("a", 1)}


# ------------------------------------------------------------------------------- damage


def test_a_flipped_bit_is_refused_or_changes_nothing(models, copied):
    rng = random.Random(0)
    for path in sorted(copied.iterdir()):
        whole = path.read_bytes()
        # the header of a model, its weights, and anything
        places = [rng.randrange(n) for n in (16, 2000, len(whole)) for _ in range(20)]
        for place in places:
            changed = bytearray(whole)
            changed[place] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
            with suppress(ValueError):
                assert same_weights(scvenn.MMVAEpp.load(copied), models[0])
        path.write_bytes(whole)
    assert same_weights(scvenn.MMVAEpp.load(copied), models[0])


def set_argument(name, value):
    def change(content, arrays):
        content["attributes"]["init_params_"]["non_kwargs"][name] = value

    return change


def rename_weights(content, arrays):
    content["weights"]["other"] = content["weights"].pop("shared_axes")


def change_type(content, arrays):
    arrays["weights.shared_axes"] = arrays["weights.shared_axes"].astype(np.float64)


def change_shape(content, arrays):
    arrays["weights.shared_axes"] = arrays["weights.shared_axes"][:2].copy()


def shadow_a_method(content, arrays):
    content["attributes"]["save"] = 1


def set_attribute(name, value):
    def change(content, arrays):
        content["attributes"][name] = value

    return change


def set_setup(name, value):
    def change(content, arrays):
        content["attributes"]["registry_"][name] = value

    return change


def other_state(key, state):
    def change(content, arrays):
        content["attributes"]["registry_"]["field_registries"][key]["state_registry"] = state

    return change


def positions_beyond_the_cells(content, arrays):
    arrays["attributes.train_indices_"] = np.array([10**6])


def columns_of_a_list(content, arrays):
    content["attributes"]["registry_"]["setup_args"]["layers"] = {"rna": [1]}


def repeated_array(content, arrays):
    content["attributes"]["again_"] = [{"$array": "weights.shared_axes"}] * 2


def table_of_one_value(content, arrays):
    arrays["index"] = np.arange(1000)
    table = {"index": {"$array": "index"}, "of": None, "columns": [["a", 1]]}
    content["attributes"]["table_"] = {"$table": table}


def data_without_a_name(content, arrays):
    del content["data"]["name"]


def forget(part):
    def change(content, arrays):
        del content[part]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_argument("n_hidden", 10**12), f"n_hidden={10**12}"),
        (set_argument("n_layers", 10**7), f"n_layers={10**7}"),
        (set_argument("n_shared", 12), "size mismatch"),
        (set_argument("n_hidden", "8"), "fit together"),
        (set_argument("unknown", 1), "unknown"),
        (rename_weights, "shared_axes"),
        (change_type, "expected torch.float32, found torch.float64"),
        (change_shape, "shared_axes"),
        (shadow_a_method, "attribute 'save'"),
        (set_argument("n_layers", 60), "n_layers=60, but the weights are of at most"),
        (set_attribute("registry_", 1), "its attributes are not those of a model: registry_"),
        (set_attribute("train_indices_", "a"), "'train_indices_' has no positions"),
        (set_attribute("history_", [1]), r"the attribute 'history_' is [1]"),
        (set_setup("setup_args", 0.5), "fit together"),
        (set_setup("field_registries", {}), "observed"),
        (positions_beyond_the_cells, "'train_indices_' has no positions"),
        (columns_of_a_list, "a layer or column is named"),
        (other_state("labels", {"categories": 1}), "fit together"),
        (other_state("X_rna", {"likelihood": "nb", "column_names": []}), "fit together"),
        (repeated_array, "found no array 'weights.shared_axes', or found it twice"),
        (table_of_one_value, "found a table of int"),
        (data_without_a_name, "its data are not those of a model: name"),
        *((forget(part), part) for part in ("class_name", "attributes", "weights", "versions")),
        (lambda content, arrays: "[]", "cannot be read"),
        (lambda content, arrays: "{", "cannot be read"),
        (lambda content, arrays: "[" * 100_000, "cannot be read"),
        (lambda content, arrays: json.dumps({**content, "weights": 3}), "weights"),
        (lambda content, arrays: json.dumps({**content, "more": 3}), "more"),
    ],
)
def test_a_file_that_was_made_up_is_refused(copied, change, message):
    rewritten(copied, change)
    with pytest.raises(
        ValueError, match=r"model\.safetensors \([\d,]+ bytes\) is damaged"
    ) as error:
        scvenn.MMVAEpp.load(copied)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"protocol": "2"}, "protocol '2'; this version of scvenn reads 1. Update scvenn"),
        ({"format": "other"}, "but no scvenn model"),
        ({"more": ""}, "its header has"),
        ({"sha256": "0"}, "SHA-256"),
    ],
)
def test_another_header_is_refused(copied, header, message):
    path = copied / "model.safetensors"
    save_file(load_file(path), path, header_of(path) | header)
    with pytest.raises(ValueError, match="model.safetensors") as error:
        scvenn.MMVAEpp.load(copied)
    assert message in str(error.value)


def test_weights_of_another_program_are_refused(tmp_path):
    save_file({"a": np.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="but no scvenn model"):
        scvenn.MMVAEpp.load(tmp_path)


# ------------------------------------------------------------------------------- data


def test_data_of_another_model_is_refused(models, copied, tmp_path):
    models[1].save(tmp_path / "other", save_anndata=True)
    (own,) = copied.glob("*.h5mu")
    (other,) = (tmp_path / "other").glob("*.h5mu")
    shutil.copy(other, own)
    with pytest.raises(ValueError, match=r"not the file that was saved with the model"):
        scvenn.MMVAEpp.load(copied)
    shutil.copy(tmp_path / "other" / "model.safetensors", copied)
    with pytest.raises(FileNotFoundError, match=f"{other.name} does not exist. Pass the data"):
        scvenn.MMVAEpp.load(copied)
    assert same_weights(scvenn.MMVAEpp.load(copied, False), models[1])


def test_data_that_is_no_mudata_is_named_with_the_reason(copied):
    (path,) = copied.glob("*.h5mu")
    path.write_bytes(b"no HDF5")

    def change(content, arrays):
        content["data"]["sha256"] = hashlib.sha256(b"no HDF5").hexdigest()

    rewritten(copied, change)
    with pytest.raises(ValueError, match=rf"{path.name} \(7 bytes\) .* cannot be read as a MuData"):
        scvenn.MMVAEpp.load(copied)


@pytest.mark.parametrize("name", ["", "..", "a\x00", "x" * 5000, "\ud800"])
def test_data_of_a_name_that_no_file_has_does_not_exist(copied, name):
    def change(content, arrays):
        content["data"]["name"] = name

    rewritten(copied, change)
    with pytest.raises(FileNotFoundError, match="does not exist. Pass the data"):
        scvenn.MMVAEpp.load(copied)


def test_a_registry_that_is_missing_is_damage(copied):
    rewritten(copied, set_attribute("registry_", None))
    with pytest.raises(ValueError, match="its attributes are not those of a model: registry_"):
        scvenn.MMVAEpp.load_registry(copied)


def test_numbers_of_a_type_that_numpy_does_not_have_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    header = {"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}
    header["__metadata__"] = {
        "format": "scvenn model",
        "protocol": "1",
        "content": "",
        "sha256": "",
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"0")
    with pytest.raises(ValueError, match="no complete safetensors file"):
        scvenn.MMVAEpp.load(tmp_path)


def test_a_model_that_is_replaced_leaves_no_data_behind(models, copied):
    models[1].save(copied, overwrite=True, save_anndata=True)
    assert len(list(copied.iterdir())) == 2
    assert same_weights(scvenn.MMVAEpp.load(copied), models[1])
    models[0].save(copied, overwrite=True)
    assert [path.name for path in copied.iterdir()] == ["model.safetensors"]


def test_data_of_a_user_stays_whatever_its_name(models, copied):
    own = copied / "mdata-preprocessed_all.h5mu"  # as long as the names of ours
    own.write_text("own")
    models[1].save(copied, overwrite=True, save_anndata=True)
    assert own.read_text() == "own"


def test_models_of_two_prefixes_share_a_folder(models, tmp_path):
    for prefix, model in zip(("a_", "?_", "?_"), (models[1], *models), strict=True):
        model.save(tmp_path, prefix, overwrite=True, save_anndata=True)
    assert len(list(tmp_path.iterdir())) == 4
    for prefix in ("a_", "?_"):
        assert same_weights(scvenn.MMVAEpp.load(tmp_path, prefix=prefix), models[1])


# ------------------------------------------------------------------------------- whole files


@forks
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("with_data", "kills", "longest"),
    [
        (False, 88, 0.03),
        (True, 12, 0.4),
        pytest.param(False, 2000, 0.03, marks=pytest.mark.soak),
        pytest.param(True, 200, 0.4, marks=pytest.mark.soak),
    ],
)
def test_a_killed_save_leaves_a_whole_model_with_its_own_data(
    models, tmp_path, with_data, kills, longest
):
    folder, rng = tmp_path / "model", random.Random(0)
    models[0].save(folder, save_anndata=with_data)
    expected = [weights(model) for model in models]
    of_data = {}

    def save_for_ever():
        while True:
            for model in models:
                model.save(folder, overwrite=True, save_anndata=with_data)

    for _ in range(kills):
        child = in_child(save_for_ever)
        time.sleep(rng.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = read_model_file(folder / "model.safetensors")
        (which,) = (
            i
            for i, own in enumerate(expected)
            if all(np.array_equal(own[name], found.weights[name]) for name in own)
        )
        if with_data:
            mdata = _read_data(folder, found.data)  # checks that it is whole and the model's
            assert of_data.setdefault(which, mdata["rna"].X.sum()) == mdata["rna"].X.sum()
    models[1].save(folder, overwrite=True, save_anndata=with_data)  # and removes what was left
    assert len(list(folder.iterdir())) == 1 + with_data
    assert same_weights(scvenn.MMVAEpp.load(folder), models[1])


@forks
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("limit", [0, 1000, 20_000])
def test_a_full_disk_leaves_the_model_that_was_there(models, copied, limit):
    def save():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(
            OSError, match=r"could not be written: File too large; nothing was left"
        ):
            models[1].save(copied, overwrite=True, save_anndata=True)

    _, status = os.waitpid(in_child(save), 0)
    assert status == 0
    assert same_weights(scvenn.MMVAEpp.load(copied), models[0])
    assert len(list(copied.iterdir())) == 2


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 600 kB, where this process may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        make = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
        subprocess.run(make, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a disk of 600 kB cannot be made: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("left", [0, 4096, 32_768])
def test_a_disk_that_is_full_leaves_the_model_that_was_there(models, small_disk, left):
    model = small_disk / "model"
    models[0].save(model, save_anndata=True)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "others").write_bytes(bytes(max(0, free - left)))
    with pytest.raises(OSError, match="could not be written: No space left on device; nothing"):
        models[1].save(model, overwrite=True, save_anndata=True)
    assert same_weights(scvenn.MMVAEpp.load(model), models[0])
    assert len(list(model.iterdir())) == 2
    for i in range(20):  # HDF5 that met a full disk ends the process at one of the next files
        with h5py.File(f"another{i % 5}.h5", "w") as file:
            file["a"] = np.arange(1000)
        with h5py.File(f"another{i % 5}.h5", "r+") as file:
            del file["a"]


@pytest.mark.parametrize("when", ["made", "locked", "removed"])
def test_a_signal_at_any_step_of_a_draft_leaves_nothing_behind(tmp_path, monkeypatch, when):
    """Ctrl-C right after the folder was made, when it is locked, or while it is removed."""
    owner, name = {
        "made": (Path, "mkdir"),
        "locked": (_whole_files, "_lock"),
        "removed": (_whole_files.shutil, "rmtree"),
    }[when]
    done = getattr(owner, name)

    def interrupted(*args, **kwargs):
        if when != "removed":
            done(*args, **kwargs)
        monkeypatch.setattr(owner, name, done)  # one signal
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(KeyboardInterrupt), draft(tmp_path / "file") as unfinished:
        unfinished.write_text("whole")
    assert not list(tmp_path.glob(".scvenn-draft-*"))


def test_an_interrupted_save_leaves_no_empty_folder(models, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("scvenn.models.saving.write_model_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        models[0].save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_draft_of_a_running_process_is_left_alone(tmp_path):
    abandoned = tmp_path / ".scvenn-draft-abandoned"
    abandoned.mkdir()
    with draft(tmp_path / "first") as first, draft(tmp_path / "second") as second:
        assert not abandoned.exists()
        first.write_text("1")
        second.write_text("2")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "first": "1",
        "second": "2",
    }


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "x"), "No space left on device; the one that was there is"),
        (RuntimeError("HDF5: No space left on device (28)"), "No space left on device"),
    ],
)
def test_a_failed_write_names_the_file_and_the_reason(tmp_path, error, message):
    path = tmp_path / "file"
    path.write_text("old")

    def write():
        with draft(path) as unfinished:
            unfinished.write_text("new")
            raise error

    with pytest.raises(OSError, match=message):
        write()
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "values",
    [pd.cut(np.arange(60.0), 4), pd.to_datetime(["2020-01-01"] * 60)],
    ids=["intervals", "dates"],
)
def test_a_column_that_cannot_be_written_is_named_and_nothing_is_left(small, tmp_path, values):
    small.obs["depth"] = values
    model = scvenn.MMVAE(small)
    message = "/obs/depth cannot be written to a file: .*astype"
    with pytest.raises(ValueError, match=message):
        model.save(tmp_path / "model", save_anndata=True)
    with pytest.raises(ValueError, match=message), pytest.warns(UserWarning, match="train"):
        model.write_predictions(tmp_path / "p.h5ad", "rna", "atac")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["overwrite", "save_anndata"])
def test_a_flag_of_save_is_true_or_false(small, tmp_path, flag):
    with pytest.raises(ValueError, match=f"{flag}='no': expected True or False"):
        scvenn.MMVAE(small).save(tmp_path / "model", **{flag: "no"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("prefix", ["../x", "a/b", 1, "a\0"])
def test_a_prefix_is_a_part_of_a_name(small, tmp_path, prefix):
    for call in (scvenn.MMVAE(small).save, scvenn.MMVAE.load):
        with pytest.raises(ValueError, match="prefix=.*expected None or a text without '/'"):
            call(tmp_path / "model", prefix=prefix)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("below", ["", "model"])
def test_a_file_in_place_of_the_folder_is_named(small, tmp_path, below):
    (tmp_path / "afile").touch()
    with pytest.raises(FileExistsError, match="afile is a file; expected a folder"):
        scvenn.MMVAE(small).save(tmp_path / "afile" / below, overwrite=True)


@pytest.mark.skipif(_whole_files.fcntl is None, reason="there are no locks of folders here")
def test_a_save_waits_for_another_one_to_the_same_folder(small, tmp_path):
    model = scvenn.MMVAE(small)
    model.save(tmp_path / "model", save_anndata=True)
    with ThreadPoolExecutor(1) as pool:
        with _whole_files.alone_in(tmp_path / "model"):
            saved = pool.submit(model.save, tmp_path / "model", overwrite=True, save_anndata=True)
            assert not wait([saved], timeout=0.5).done
        saved.result()
    assert scvenn.MMVAE.load(tmp_path / "model").adata is not None


def test_a_modality_whose_name_no_file_can_have_is_named(small, tmp_path):
    small.mod["x/y"] = small.mod.pop("atac")
    model = scvenn.MMVAE(small)
    with pytest.raises(ValueError, match="modality 'x/y' cannot be written to a file"):
        model.save(tmp_path / "model", save_anndata=True)
    assert not list(tmp_path.iterdir())


def test_a_model_with_data_is_saved_and_not_pickled(small, tmp_path):
    """A MuData can be pickled, and is not read again."""
    model = scvenn.MMVAEpp(small, n_hidden=8)
    model.train(1, **QUIET)
    with pytest.raises(TypeError, match=r"cannot be pickled. Save it with model.save\(dir_path\)"):
        pickle.dumps(model)
    model.save(tmp_path / "model")
    alone = pickle.loads(pickle.dumps(scvenn.MMVAEpp.load(tmp_path / "model", False)))
    expected = model.get_shared_representation()
    np.testing.assert_array_equal(alone.get_shared_representation(small), expected)
    np.testing.assert_array_equal(copy.copy(model).get_shared_representation(), expected)


def test_the_file_of_a_model_in_place_of_its_folder_gets_a_remedy(small, tmp_path):
    scvenn.MMVAEpp(small, n_hidden=8).save(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="Pass the folder that holds the file"):
        scvenn.MMVAEpp.load(tmp_path / "model" / "model.safetensors", small)
