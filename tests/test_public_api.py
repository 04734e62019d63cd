"""What users may rely on: names, signatures, documentation."""

import inspect
import subprocess
import sys

import pytest

import scvenn

PUBLIC = {
    "MVAE",
    "MMVAE",
    "MoPoEVAE",
    "MMVAEpp",
    "SharedPrivateModel",
    "Objective",
    "Penalty",
    "Term",
    "choose_latent_sizes",
    "datasets",
    "metrics",
    "paper_setting",
    "pl",
    "testing",
}
CLASSES = ["MVAE", "MMVAE", "MoPoEVAE", "MMVAEpp", "SharedPrivateModel"]
METHODS = {
    "setup_mudata": ["mdata"],
    "train": ["max_epochs"],
    "get_shared_representation": ["mdata"],
    "get_private_representation": ["modality", "mdata"],
    "get_latent_representation": ["mdata"],
    "predict": ["source", "target", "mdata"],
    "embed": ["mdata"],
    "evaluate": ["mdata"],
    "get_shared_scores": [],
    "get_normalized_expression": ["modality", "mdata"],
    "sample_posterior": ["source", "target", "mdata"],
    "sample_prior": ["n_obs"],
    "predict_labels": ["mdata"],
    "variance_explained": ["mdata"],
    "loadings": ["modality", "latent"],
    "shared_features": ["modality"],
    "private_features": ["modality"],
    "write_contributions": ["mdata"],
    "report": ["path"],
    "differential": ["groupby"],
    "write_predictions": ["path", "source", "target", "mdata"],
}


def test_the_public_list_is_complete():
    assert set(scvenn.__all__) == PUBLIC
    assert all(hasattr(scvenn, name) for name in PUBLIC)


@pytest.mark.parametrize("method", METHODS)
def test_all_but_the_first_arguments_are_by_name(method):
    signature = inspect.signature(getattr(scvenn.MMVAEpp, method))
    positional = [
        name
        for name, p in signature.parameters.items()
        if p.kind is p.POSITIONAL_OR_KEYWORD and name != "self"
    ]
    assert positional == METHODS[method]


@pytest.mark.parametrize("name", CLASSES)
def test_the_constructor_is_one_scvi_tools_can_call_when_loading(name):
    parameters = list(inspect.signature(getattr(scvenn, name)).parameters)
    assert parameters[:2] == ["adata", "registry"]


def public_objects():
    for name in sorted(PUBLIC - {"datasets", "metrics", "pl", "testing"}):
        yield f"scvenn.{name}", getattr(scvenn, name)
    for module in (scvenn.datasets, scvenn.metrics, scvenn.pl, scvenn.testing):
        for name in module.__all__:
            yield f"{module.__name__}.{name}", getattr(module, name)
    for method in METHODS:
        yield f"scvenn.MMVAEpp.{method}", getattr(scvenn.MMVAEpp, method)


@pytest.mark.parametrize(("name", "thing"), list(public_objects()))
def test_every_parameter_is_documented(name, thing):
    text = " ".join((inspect.getdoc(thing) or "").split())
    assert text
    if isinstance(thing, type) and "See :class:`~scvenn.SharedPrivateModel`" in text:
        return  # the four models send readers to the class they share
    for parameter in inspect.signature(thing).parameters:
        if parameter not in ("self", "cls"):
            assert parameter in text, f"{name}: {parameter}"


@pytest.mark.parametrize("name", CLASSES[:4])
def test_a_model_is_a_docstring_and_an_objective(name):
    own = {key for key in vars(getattr(scvenn, name)) if not key.startswith("__")}
    scvi_tools_own = {"_setup_adata_manager_store", "_per_instance_manager_store"}
    assert own - scvi_tools_own - {"_abc_impl", "_screens"} == {"_recipe"}


def test_importing_installs_no_logging_handler():
    code = (
        "import logging; import scvi; before = len(logging.root.handlers);"
        "import scvenn; scvenn.MMVAEpp;"
        "assert not logging.getLogger('scvi.scvenn').handlers;"
        "assert len(logging.root.handlers) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
