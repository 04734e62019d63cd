"""Mutated files of models and data, many of them: ``make fuzz``.

    python -m tests.fuzz values [minutes]   a small file of all that models hold, read
    python -m tests.fuzz models [minutes]   models, loaded with data
    python -m tests.fuzz data [cases]       models whose data file was mutated, loaded

The first two run in one process, guided by atheris towards lines that no file reached before. A
file that does anything else than be read, or be refused by a message of scvenn, ends them; so does
one that takes more than 10 seconds or 4 GB. The third has a process for each case, and prints how
those ended: HDF5 reads files in C, and what it does to a process is for that process to bound.
"""

import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random

_SECONDS, _MEGABYTES = 10, 4096


def fuzz(what: str, minutes: float) -> None:
    """Read mutated files of values or of models until the time is over."""
    import atheris

    with atheris.instrument_imports(include=["scvenn.models"]):
        import scvenn.models  # noqa: F401
    from tests import mutated_files as files

    folder, corpus = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    if what == "values":
        path = corpus / "values"
        files.write_values_of_every_kind(path)
        target, read = folder / "values", files.read_values_of_every_kind
    else:
        mdata = files.write_models(folder).adata
        for path in folder.glob("*/model.safetensors"):
            shutil.copy(path, corpus / path.parent.name)
        target = folder / "MMVAEpp" / "model.safetensors"

        def read(path: Path) -> bool:
            return files.read(path.parent, mdata)

    def one(data: bytes) -> None:
        target.write_bytes(data)
        read(target)

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        return files.mutated(data, Random(seed))[:most]

    arguments = [
        sys.argv[0],
        str(corpus),
        f"-max_total_time={60 * minutes:.0f}",
        f"-timeout={_SECONDS}",
        f"-rss_limit_mb={_MEGABYTES}",
        f"-artifact_prefix={os.getcwd()}/",
        "-max_len=100000",
        "-mutate_depth=1",  # the mutator makes several changes by itself
        "-print_final_stats=1",
    ]
    atheris.Setup(arguments, one, custom_mutator=mutator)
    atheris.Fuzz()


def fuzz_data(cases: int) -> None:
    """Load models whose data file was mutated, and print how that ended."""
    from tests.files import in_child
    from tests.mutated_files import mutate_data, read, write_models

    folder = Path(tempfile.mkdtemp())
    write_models(folder / "models", save_anndata=True)
    started, ended = time.monotonic(), Counter()

    def load() -> None:
        limit = _MEGABYTES << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.alarm(_SECONDS)
        try:
            read(folder / "case" / "MMVAEpp", None)
        except BaseException:
            traceback.print_exc()
            raise

    for case in range(cases):
        shutil.copytree(folder / "models" / "MMVAEpp", folder / "case" / "MMVAEpp")
        mutate_data(folder / "case" / "MMVAEpp", Random(case))
        _, status = os.waitpid(in_child(load), 0)
        how = os.waitstatus_to_exitcode(status)
        ended[how] += 1
        if how:
            print(f"case {case} ended with {how}", flush=True)
        shutil.rmtree(folder / "case" / "MMVAEpp")
    seconds = time.monotonic() - started
    print(f"{cases} cases in {seconds:.0f} s: {ended[0]} read or refused, others {dict(ended)}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    what, *amount = sys.argv[1:]
    if what == "data":
        fuzz_data(int(amount[0]) if amount else 500)
    else:
        fuzz(what, float(amount[0]) if amount else 10)
