"""How the documentation is built: `make docs`. Nothing is fetched, no notebook is executed."""

import inspect
import os
import shutil
import warnings
from pathlib import Path

import scvenn
from scvenn.models.refused import REFUSED

HERE = Path(__file__).parent

project = "scvenn"
author = "The scvenn developers"
copyright = author
version = release = scvenn.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
smartquotes = False  # messages and options are shown as they are: --out, "rna"
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
templates_path = ["_templates"]

# ------------------------------------------------------------------------------------ pages

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # they are shown with the results they were saved with
nb_merge_streams = True  # lines of a log in one box
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# ------------------------------------------------------------------------------------ API

autosummary_generate = True
autosummary_ignore_module_all = False  # what a module offers is its __all__,
autosummary_imported_members = True  # wherever it is defined
autodoc_member_order = "bysource"
napoleon_numpy_docstring = True
napoleon_google_docstring = False
napoleon_use_rtype = False
typehints_defaults = "braces"
typehints_document_rtype_none = False
# of the extension itself, with Sphinx 9
warnings.filterwarnings("ignore", message=".*_RstSnippetParser.set_application")


# what scvi-tools calls, and users do not
_NOT_FOR_USERS = {"get_anndata_manager", *REFUSED}


def _members(cls: type) -> list[str]:
    """Public methods and properties of a class that scvenn defines and does not refuse."""
    own = {
        name
        for base in inspect.getmro(cls)
        if base.__module__.startswith("scvenn.")
        for name, member in vars(base).items()
        if callable(member) or isinstance(member, classmethod | property)
    }
    return sorted(name for name in own - _NOT_FOR_USERS if not name.startswith("_"))


# what the templates list, besides what autosummary itself finds
autosummary_context = {"members_of_a_model": _members(scvenn.SharedPrivateModel)}

# Links to other packages' pages need their inventories, and those a network. Only the host of
# the documentation is sure to have one.
intersphinx_mapping = {}
if os.environ.get("READTHEDOCS") == "True":
    intersphinx_mapping = {
        "anndata": ("https://anndata.readthedocs.io/en/stable", None),
        "matplotlib": ("https://matplotlib.org/stable", None),
        "mudata": ("https://mudata.readthedocs.io/stable", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "python": ("https://docs.python.org/3", None),
        "scvi": ("https://docs.scvi-tools.org/en/stable", None),
    }

# ------------------------------------------------------------------------------------ HTML

html_theme = "sphinx_book_theme"
html_title = "scvenn"
html_static_path = ["_static"]
html_css_files = ["scvenn.css"]
html_extra_path = ["llms.txt"]  # the list of pages for language models: https://llmstxt.org
html_theme_options = {
    "navbar_persistent": [],  # the sidebar has a search field
    "repository_url": "https://github.com/scvenn/scvenn",
    "path_to_docs": "docs",
    "use_repository_button": True,
    "use_issues_button": True,
}


def _copy_tutorial(source: str, target: str) -> None:
    """Copy a notebook, whose links to pages of the documentation then start from here."""
    text = Path(source).read_text(encoding="utf-8")
    Path(target).write_text(text.replace("](../docs/", "](../"), encoding="utf-8")
    # its time stays: a page whose original did not change is not built again
    shutil.copystat(source, target)


def setup(app: object) -> None:
    """Bring the tutorials here: Sphinx reads no document outside its own folder."""
    shutil.rmtree(HERE / "tutorials", ignore_errors=True)
    shutil.copytree(
        HERE.parent / "tutorials",
        HERE / "tutorials",
        ignore=shutil.ignore_patterns(".*"),
        copy_function=_copy_tutorial,
    )
