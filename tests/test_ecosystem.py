"""What registries, package indexes and other tools read of this repository."""

import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCS = "https://scvenn.readthedocs.io/en/latest/"
FILES = "https://github.com/scvenn/scvenn/blob/main/"
RAW = "https://raw.githubusercontent.com/scvenn/scvenn/main/"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1, "uniqueItems": True}
_URL = {"type": "string", "pattern": "^https://"}
# What version 2.0 of the registry of scverse ecosystem packages asks of an entry
# (scverse/ecosystem-packages, schema.json). Unlike there, other fields are refused: they would be
# misspelt. The registry also visits the addresses and looks up the contacts on GitHub.
ENTRY = {
    "type": "object",
    "additionalProperties": False,
    "required": [
        *("name", "description", "project_home", "documentation_home", "install", "license"),
        *("tags", "version", "contact", "category"),
    ],
    "properties": {
        "name": _TEXT,
        "description": _TEXT,
        "project_home": _URL,
        "documentation_home": _URL,
        "tutorials_home": _URL,
        "install": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": False,
            "properties": {"pypi": _TEXT, "conda": {"type": "string", "pattern": "^[^:]+::[^:]+$"}},
        },
        "license": {"const": PROJECT["license"]},  # an identifier of SPDX that the OSI approved
        "tags": _TEXTS,
        "publications": {
            "type": "array",
            "items": {"type": "string", "pattern": r"^10\.\d{4,9}/[-._;()/:A-Za-z0-9]+$"},
        },
        "version": _TEXT,
        "contact": _TEXTS,
        "logo": {"type": "string", "pattern": r"logo\.(svg|png|webp)"},
        "test_command": {"type": ["string", "null"]},
        "category": {
            "enum": ["core-framework", "core-datastructure", "core-infrastructure", "ecosystem"]
        },
    },
}


def read_yaml(path):
    return yaml.safe_load((ROOT / path).read_text())


def files_of(url):
    """The files that an address of the documentation or of the repository may be made from."""
    for base in (FILES, RAW):
        if url.startswith(base):
            return [ROOT / url.removeprefix(base)]
    page = url.removeprefix(DOCS).partition(".html")[0]
    folder = ROOT if page.startswith("tutorials/") else ROOT / "docs"
    return [folder / f"{page}.md", folder / f"{page}.ipynb"]


def test_the_registry_of_scverse_takes_the_entry():
    jsonschema.validate(read_yaml(".scverse/meta.yaml"), ENTRY)


@pytest.mark.parametrize("document", ["README.md", "docs/llms.txt"])
def test_addresses_of_our_pages_lead_to_files(document):
    urls = re.findall(rf"(?:{DOCS}|{FILES}|{RAW})[^\s)]+", (ROOT / document).read_text())
    assert urls
    missing = [url for url in urls if not any(path.is_file() for path in files_of(url))]
    assert missing == []


def test_the_readme_reads_where_the_repository_is_not():
    """Package indexes show it without the files beside it."""
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r"^\[\w+\]: (\S+)", text, re.MULTILINE)
    assert [link for link in links if not link.startswith("https://")] == []


def test_the_list_of_pages_for_language_models_has_every_page():
    text = (ROOT / "docs" / "llms.txt").read_text()
    indexed = re.findall(r"^([a-z_/]+)$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    missing = [page for page in indexed if f"{DOCS}{page}.html" not in text]
    assert indexed
    assert missing == []


def test_actions_are_pinned_by_commit():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for used in re.findall(r"uses: (.*)", path.read_text()):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), (path.name, used)


def test_jobs_have_no_permission_that_they_do_not_name():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {}, path.name
        writes = {
            name: job["permissions"]
            for name, job in workflow["jobs"].items()
            if "write" in job["permissions"].values()
        }
        of_release = {"publish": {"id-token": "write"}, "sbom": {"contents": "write"}}
        assert writes == (of_release if path.name == "release.yml" else {})


# Names that differ between PyPI and conda-forge.
CONDA = {"torch": "pytorch", "igraph": "python-igraph", "matplotlib": "matplotlib-base"}


def test_the_conda_recipe_asks_for_what_the_package_asks_for():
    recipe = read_yaml("conda/recipe.yaml")
    run = dict(line.partition(" ")[::2] for line in recipe["requirements"]["run"])
    run.pop("python")
    needed = {}
    for requirement in PROJECT["dependencies"]:
        name, bounds = re.fullmatch(r"([\w-]+)(.*)", requirement).groups()
        needed[CONDA.get(name, name)] = bounds
    assert run == needed
    assert PROJECT["requires-python"] == f">={recipe['context']['python_min']}"


def test_the_conda_environment_installs_a_tested_set():
    environment = read_yaml("environment.yml")
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    python = next(e for e in environment["dependencies"] if str(e).startswith("python="))
    constraints = f"constraints/py{python.removeprefix('python=').replace('.', '')}.txt"
    assert (ROOT / constraints).is_file()
    assert pip == [f"-c {constraints}", ".[all]"]


def test_the_image_installs_a_tested_set():
    image = (ROOT / "Dockerfile").read_text()
    python = re.search(r"^FROM python:(3\.\d+)-", image, re.MULTILINE)[1]
    constraints = f"constraints/py{python.replace('.', '')}.txt"
    assert constraints in image
    assert (ROOT / constraints).is_file()
