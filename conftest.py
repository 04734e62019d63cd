"""What tests and the examples in docstrings have in common."""

import gc
import importlib
import logging
import signal
import zlib

import matplotlib
import matplotlib.pyplot as plt
import pytest
import scvi
import tests.shapes
import torch
from jaxtyping import config as jaxtyping
from jaxtyping import install_import_hook

# In some of the tests, the shapes in annotations of the networks are checked at every call.
install_import_hook("scvenn.network", f"{tests.shapes.__name__}.check")
# figures are drawn and not shown
matplotlib.use("Agg")
# examples print what they say, and nothing about cells and likelihoods
scvi.settings.verbosity = logging.WARNING


def pytest_configure():
    """Ctrl-C reaches the processes that tests start, also where a job in the background ignores it.

    A process passes on that it ignores a signal.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    """``--soak`` runs what takes minutes to hours, and nothing else: ``make soak``."""
    parser.addoption("--soak", action="store_true", help="run the tests marked soak, and no others")


def pytest_collection_modifyitems(config, items):
    """Either the suite or what is marked ``soak``."""
    kinds: dict[bool, list] = {True: [], False: []}
    for item in items:
        kinds[bool(item.get_closest_marker("soak"))].append(item)
    soak = config.getoption("--soak")
    config.hook.pytest_deselected(items=kinds[not soak])
    items[:] = kinds[soak]


def pytest_collection_finish():
    """What exists before the tests is not looked through for garbage again and again."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item):
    """One thread for each worker: fastest where they share the cores, and repeatable.

    Said before every test, because scanpy's neighbors take torch's limit away. Shapes are checked
    in every fourth test, chosen by its name, and in all of the network's own: in all tests, they
    would take a fifth of the time.
    """
    torch.set_num_threads(1)
    own = item.path.name in ("test_module.py", "test_gaussians.py")
    checked = own or zlib.crc32(item.nodeid.encode()) % 4 == 0
    jaxtyping.update("jaxtyping_disable", not checked)


@pytest.fixture(autouse=True, scope="session")
def _no_umap():
    """Figures of latents show principal components: UMAP takes half a minute to compile."""
    figure = importlib.import_module("scvenn.plotting.embeddings")
    drawn = figure._in_two_dimensions
    figure._in_two_dimensions = lambda latent, basis, n_neighbors: drawn(latent, "pca", n_neighbors)
    return drawn


@pytest.fixture
def _umap(_no_umap, monkeypatch):
    """UMAP, for the test that asks for it."""
    figure = importlib.import_module("scvenn.plotting.embeddings")  # the function hides it
    monkeypatch.setattr(figure, "_in_two_dimensions", _no_umap)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Nothing that a test writes by a relative path stays behind."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _seeded():
    scvi.settings.seed = 0


@pytest.fixture(autouse=True)
def _no_figure_stays_open():
    yield
    plt.close("all")
