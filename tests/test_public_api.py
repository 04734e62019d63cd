"""What users may rely on: names, signatures, documentation."""

import copy
import inspect
import subprocess
import sys

import numpy as np
import pytest
import scvi

import scvenn
from scvenn.models.refused import _INSTEAD, REFUSED
from tests.conftest import QUIET, three_modalities

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
    "convert_legacy",
    "datasets",
    "metrics",
    "paper_setting",
    "pl",
    "pp",
    "read_lazy",
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
    "map_query": ["mdata"],
    "minify_mudata": [],
    "get_novelty": ["mdata"],
    "evaluate": ["mdata"],
    "get_shared_scores": [],
    "get_normalized_expression": ["modality", "mdata"],
    "sample_posterior": ["source", "target", "mdata"],
    "sample_prior": ["n_obs"],
    "predict_labels": ["mdata"],
    "variance_explained": ["mdata"],
    "loadings": ["modality", "latent"],
    "enrichment": ["modality", "sets", "latent"],
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
    for name in sorted(PUBLIC - {"datasets", "metrics", "pl", "pp", "testing"}):
        yield f"scvenn.{name}", getattr(scvenn, name)
    for module in (scvenn.datasets, scvenn.metrics, scvenn.pl, scvenn.pp, scvenn.testing):
        for name in module.__all__:
            yield f"{module.__name__}.{name}", getattr(module, name)
    for method in METHODS:
        yield f"scvenn.MMVAEpp.{method}", getattr(scvenn.MMVAEpp, method)


@pytest.mark.parametrize(("name", "thing"), list(public_objects()))
def test_every_parameter_is_documented(name, thing):
    text = " ".join((inspect.getdoc(thing) or "").split())
    assert text
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


# ------------------------------------------------------------------------------- every public name

# Arguments of every public method, of our own and of scvi-tools' base classes, for a MuData.
ARGUMENTS = {
    "differential": lambda d: {"groupby": "cell_type", "modality": "rna", "n_samples": 3},
    "embed": lambda d: {"mdata": d.copy()},
    "enrichment": lambda d: {"modality": "rna", "sets": {"a": list(d["rna"].var_names[:5])}},
    "evaluate": lambda d: {},
    "get_anndata_manager": lambda d: {"adata": d},
    "get_elbo": lambda d: {"adata": d},
    "get_latent_representation": lambda d: {"mdata": d},
    "get_normalized_expression": lambda d: {"modality": "rna", "mdata": d},
    "get_novelty": lambda d: {"mdata": d},
    "get_private_representation": lambda d: {"modality": "rna", "mdata": d},
    "get_reconstruction_error": lambda d: {"adata": d},
    "get_shared_representation": lambda d: {"mdata": d},
    "get_shared_scores": lambda d: {},
    "get_var_names": lambda d: {},
    "load": lambda d: {"dir_path": "model", "adata": d},
    "load_registry": lambda d: {"dir_path": "model"},
    "loadings": lambda d: {"modality": "rna"},
    "map_query": lambda d: {"mdata": d, "max_epochs": 1, **QUIET},
    "minify_mudata": lambda d: {},
    "predict": lambda d: {"source": "rna", "target": "meth", "mdata": d},
    "predict_labels": lambda d: {"mdata": d},
    "private_features": lambda d: {"modality": "rna"},
    "report": lambda d: {"path": "report.html"},
    "sample_posterior": lambda d: {"source": "rna", "target": "meth", "n_samples": 2, "mdata": d},
    "sample_prior": lambda d: {"n_obs": 2},
    "save": lambda d: {"dir_path": "another"},
    "setup_mudata": lambda d: {"mdata": d},
    "shared_features": lambda d: {"modality": "rna"},
    "to_device": lambda d: {"device": "cpu"},
    "train": lambda d: {"max_epochs": 1, **QUIET},
    "variance_explained": lambda d: {},
    "write_contributions": lambda d: {"mdata": d.copy()},
    "write_predictions": lambda d: {"path": "a.zarr", "source": "rna", "target": "meth"},
}
# Those that read the model's own data, and say so where there is none.
OWN_DATA = {
    "differential",
    "enrichment",
    "evaluate",
    "loadings",
    "minify_mudata",
    "private_features",
    "report",
    "shared_features",
    "train",
    "variance_explained",
    "write_predictions",
}


def public_names(model):
    """All names, hidden ones as well."""
    return {name for name in object.__dir__(model) if not name.startswith("_")}


def methods(model):
    return {name for name in public_names(model) if inspect.isroutine(getattr(model, name))}


@pytest.fixture(scope="module", params=["MMVAEpp", "MVAE"])
def trained(request):
    scvi.settings.seed = 0
    mdata = three_modalities(missing=0.0, n_obs=60)
    model = getattr(scvenn, request.param)(mdata, n_shared=2, n_private=2, n_hidden=8)
    model.train(1, train_size=0.5, **QUIET)
    return model


@pytest.fixture(params=["trained", "loaded", "without data"])
def any_model(request, trained):
    trained.save("model", overwrite=True)
    if request.param == "trained":
        return trained
    data = trained.adata if request.param == "loaded" else False
    return type(trained).load("model", data)


def works(model, name):
    """Whether a method can do what it is asked."""
    if name in REFUSED or (name in OWN_DATA and model.adata is None):
        return False
    return {
        "get_shared_scores": model.screening_ is not None,
        "predict_labels": False,  # there are no labels
    }.get(name, True)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_method_works_or_says_what_to_use(any_model, trained):
    mdata = trained.adata
    for name in sorted(methods(any_model)):
        # which takes the values away that others need
        model = copy.deepcopy(any_model) if name == "minify_mudata" else any_model
        method = getattr(model, name)
        arguments = {} if name in REFUSED else ARGUMENTS[name](mdata)
        if works(any_model, name):
            method(**arguments)
            continue
        with pytest.raises((TypeError, ValueError)) as refused:
            method(*([mdata] if name == "setup_anndata" else []), **arguments)
        message = str(refused.value)
        assert any(hint in message for hint in ("Use ", "load", "screen=True", "setup_mudata")), (
            name,
            message,
        )


def test_every_attribute_can_be_read(any_model):
    for name in public_names(any_model):
        getattr(any_model, name)
    assert isinstance(any_model.summary_string, str)
    assert any_model.is_trained
    assert str(any_model.device) == "cpu"


def completions(model):
    return {name for name in dir(model) if not name.startswith("_")}


def test_completion_shows_what_works(any_model):
    shown = completions(any_model)
    assert public_names(any_model) >= REFUSED
    assert shown & REFUSED == set()
    in_general = {name for name in methods(any_model) if name in OWN_DATA or works(any_model, name)}
    assert shown & methods(any_model) == in_general


def test_completion_shows_no_part_of_scvi_tools_that_is_of_no_use(any_model):
    assert "get_normalized_function_name" not in completions(any_model)


def test_labels_are_completed_where_there_are_some(small):
    scvenn.MVAE.setup_mudata(small, labels_key="cell_type")
    assert "predict_labels" in completions(scvenn.MVAE(small, n_hidden=4))


@pytest.mark.parametrize("name", sorted(_INSTEAD))
def test_what_is_refused_is_refused_however_it_is_called(trained, name):
    message = rf"{name}\(\) is not offered by scvenn's models\. Use "
    for owner in (trained, type(trained)):
        for arguments in ((), ("model",), (trained.adata, "X")):
            with pytest.raises(TypeError, match=message):
                getattr(owner, name)(*arguments)


def test_what_to_use_instead_is_there(trained):
    """Every method that a refusal names exists, and is not refused itself."""
    import re

    for text in _INSTEAD.values():
        for name in re.findall(r"(\w+)\(", text):
            assert name not in REFUSED
            assert name in PUBLIC | {"print"} or hasattr(trained, name)


def test_the_data_of_a_model_is_not_replaced(trained):
    data = trained.adata
    with pytest.raises(TypeError, match=r"cannot be replaced\. Pass other data to its methods"):
        trained.adata = data.copy()
    assert trained.adata is data
    np.testing.assert_array_equal(trained.get_elbo(data).shape, trained.get_elbo(data.copy()).shape)
