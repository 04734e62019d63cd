"""Bad inputs and the message of each: the table of docs/reliability.md.

python -m tests.bad_inputs   writes the table into the page
"""

import contextlib
import logging
import re
import tempfile
import warnings
from functools import cache
from pathlib import Path

import mudata
import numpy as np
import scvi
from click.testing import CliRunner

import scvenn
from scvenn.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- begin bad inputs -->", "<!-- end bad inputs -->"


def data():
    """Counts of RNA and ATAC of 60 cells in two batches."""
    return scvenn.datasets.simulate_counts(
        60, n_features=12, n_shared_features=6, n_types=2, n_batches=2
    )


@cache
def trained():
    mdata = data()
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key="batch")
    model = scvenn.MMVAEpp(mdata, n_shared=2, n_private=2, n_hidden=8)
    model.train(1, enable_progress_bar=False, write_obsm=False)
    return model


def model_of(change):
    """A model of data that was changed."""

    def act():
        mdata = data()
        changed = change(mdata)
        scvenn.MMVAEpp(mdata if changed is None else changed)

    return act


def put(value):
    def change(mdata):
        x = mdata["rna"].X.toarray()
        x[3, 5] = value
        mdata["rna"].X = x

    return change


def nan_in_counts():
    mdata = data()
    put(np.nan)(mdata)
    scvenn.MMVAEpp.setup_mudata(mdata, likelihoods={"rna": "nb"})


def text(mdata):
    mdata["rna"].X = mdata["rna"].X.toarray().astype(str).astype(object)


def cell_twice(mdata):
    names = list(mdata["rna"].obs_names)
    mdata["rna"].obs_names = [names[0], *names[:-1]]


def other_cells(mdata):
    """Both modalities have cells; none has both."""
    new = {m: mdata[m].copy() for m in mdata.mod}
    new["atac"].obs_names = [f"{name}-1" for name in new["atac"].obs_names]
    return mudata.MuData(new)


def set_up(**arguments):
    return lambda: scvenn.MMVAEpp.setup_mudata(data(), **arguments)


def new_cells(change):
    def act():
        mdata = data()
        changed = change(mdata)
        trained().predict("rna", "atac", mdata if changed is None else changed)

    return act


def without_features(mdata):
    return mudata.MuData({"rna": mdata["rna"][:, 2:].copy(), "atac": mdata["atac"]})


def unknown_batch(mdata):
    mdata.obs["batch"] = "donor7"


def save_twice():
    trained().save("model", overwrite=True)
    trained().save("model")


def load_changed(change, cls=scvenn.MMVAEpp):
    def act():
        trained().save("model", overwrite=True)
        path = Path("model/model.safetensors")
        path.write_bytes(change(path.read_bytes()))
        cls.load("model", trained().adata)

    return act


def flipped(content):
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


def pickled():
    folder = Path("old")
    folder.mkdir(exist_ok=True)
    (folder / "model.pt").write_bytes(b"\x80\x04N.")
    scvenn.MMVAEpp.load("old", trained().adata)


def other_training():
    for n_epochs in (1, 2):
        model = scvenn.MMVAEpp(data(), n_shared=2, n_private=2, n_hidden=8)
        model.train(n_epochs, checkpoint="checkpoints", enable_progress_bar=False)


def command(*arguments):
    def act():
        data().write("in.h5mu")
        Path("cut.h5mu").write_bytes(Path("in.h5mu").read_bytes()[:30000])
        done = CliRunner().invoke(main, list(arguments))
        assert done.exit_code, "it worked"
        raise SystemExit(re.search(r"Error: (.*)", done.output, re.DOTALL)[1].strip())

    return act


BAD_INPUTS = {
    "an infinite value": model_of(put(np.inf)),
    "NaN in counts (`nb`)": nan_in_counts,
    "text instead of numbers": model_of(text),
    "a cell name twice": model_of(cell_twice),
    "no cell with two modalities": model_of(other_cells),
    "an AnnData": model_of(lambda mdata: mdata["rna"]),
    "one modality": model_of(lambda mdata: mudata.MuData({"rna": mdata["rna"]})),
    "a view, to train on": model_of(lambda mdata: mdata[:30]),
    "a likelihood that does not exist": set_up(likelihoods={"rna": "gamma"}),
    "a column that does not exist": set_up(batch_key="donor"),
    "a layer that does not exist": set_up(layers={"rna": "raw"}),
    "new cells without some features": new_cells(without_features),
    "new cells of an unknown batch": new_cells(unknown_batch),
    "a modality that does not exist": lambda: trained().predict("rna", "protein"),
    "a folder that exists": save_twice,
    "a model file with one bit changed": load_changed(flipped),
    "a model file that was cut off": load_changed(lambda content: content[:1000]),
    "a model of another class": load_changed(lambda content: content, scvenn.MVAE),
    "a pickled model": pickled,
    "a checkpoint of another training": other_training,
    "`scvenn train cut.h5mu --out out.h5mu`, cut off": command(
        "train", "cut.h5mu", "--out", "out.h5mu"
    ),
    "`scvenn train in.h5mu --out in.h5mu`": command("train", "in.h5mu", "--out", "in.h5mu"),
    "`scvenn train in.h5mu --out o.h5mu --save o.h5mu`": command(
        "train", "in.h5mu", "--out", "o.h5mu", "--save", "o.h5mu"
    ),
    "`scvenn train in.h5mu --out no/out.h5mu`": command("train", "in.h5mu", "--out", "no/out.h5mu"),
    "`scvenn train in.h5mu --out o.h5mu --lr nan`": command(
        "train", "in.h5mu", "--out", "o.h5mu", "--lr", "nan"
    ),
}


def message(act):
    """What is said to who does it, without the sizes of files, which differ between versions."""
    scvi.settings.seed = 0
    try:
        with warnings.catch_warnings(action="ignore"):
            act()
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())
        return re.sub(r"(?<== )\d+|(?<=\()[\d,]+(?= bytes)", "…", said)
    raise AssertionError("it worked")


def row(what):
    """A line of the table, in Markdown."""
    said = message(BAD_INPUTS[what])
    for character in "\\<>_*[]|`":
        said = said.replace(character, f"\\{character}")
    return f"| {what} | {said} |"


def write() -> None:
    logging.getLogger("scvi").setLevel(logging.ERROR)
    before, rest = PAGE.read_text().split(BEGIN)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        lines = ["| input | message |", "| --- | --- |", *map(row, BAD_INPUTS)]
    PAGE.write_text("\n".join([f"{before}{BEGIN}", "", *lines, "", f"{END}{rest.split(END)[1]}"]))


if __name__ == "__main__":
    write()
