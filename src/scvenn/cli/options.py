"""Options, declared in tables that read as the help does."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from typing import Any

import click

ROW = re.compile(r"(--\S+)(?: ([^(]\S*))?(?: \((\w+)\))?: (.+)", flags=re.DOTALL)


def integer(text: str) -> int:
    """A number that libraries can hold."""
    if not -(2**63) <= (number := int(text)) < 2**63:
        raise ValueError
    return number


def number(text: str) -> float:
    """A number that is one."""
    if not math.isfinite(number := float(text)):
        raise ValueError
    return number


def word(text: str) -> str:
    """A text that is not empty."""
    if not text:
        raise ValueError
    return text


# What a placeholder stands for, where it is not a word; a VALUE of a column may be empty.
KINDS: dict[str, Callable[[str], Any]] = {"INTEGER": integer, "NUMBER": number, "VALUE": str}
Arguments = dict[str, Any]  # of a function of the library, by name


def options(table: str) -> list[click.Option]:
    """Options of a table; None is the value of one that is not given.

    A row is ``--option PLACEHOLDER (argument): description``, its further lines are indented. A
    flag has no placeholder (see :class:`Value`). The argument is left out where the option has its
    name. The description of an option that must be given ends with "Required."
    """
    found = []
    for row in re.split(r"\n(?=-)", table.strip()):
        ((name, placeholder, argument, description),) = ROW.findall(row)
        kind: dict[str, Any] = {"is_flag": True}
        if placeholder:
            kind = {"type": Value(placeholder), "metavar": placeholder}
            if "=" in placeholder or placeholder.endswith("..."):
                kind |= {"multiple": True, "callback": _merge}
        names = [name, argument] if argument else [name]
        help = " ".join(description.split())
        # a default, even None, counts as a value for click, which says itself what is required
        kind |= {"required": True} if help.endswith(" Required.") else {"default": None}
        found.append(click.Option(names, help=help.removesuffix(" Required."), **kind))
    return found


class Value(click.ParamType):
    """A value of an option, as its placeholder describes it.

    INTEGER and NUMBER stand for a number, MODALITY=... for the value of one modality, any other
    name for a text; of several alternatives, separated by ``|``, other names stand for themselves.
    An option by modality, or with ``...`` at the end, may be repeated.
    """

    def __init__(self, placeholder: str) -> None:
        self.name = placeholder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value by the first alternative that fits; of one modality, a pair with its name."""
        alternatives = self.name.split("|")
        for alternative in alternatives:
            with suppress(ValueError):
                if alternative.startswith("MODALITY="):
                    modality, _, text = value.partition("=")
                    if modality and text:
                        return modality, KINDS.get(alternative.partition("=")[2], word)(text)
                elif alternative in KINDS or len(alternatives) == 1:
                    return KINDS.get(alternative, word)(value)
                elif alternative.lower() == value.lower():
                    return alternative
        self.fail(f"{value!r}: expected {self.name.replace('|', ' or ')}.", param, ctx)


def _merge(ctx: click.Context, param: click.Parameter, values: tuple[Any, ...]) -> Any:
    """Values of a repeated option: a dictionary by modality, one value for all, or a list."""
    if "=" not in param.type.name:
        return list(values) or None
    by_modality: dict[str, Any] = dict(value for value in values if isinstance(value, tuple))
    if len(by_modality) == len(values):
        return by_modality or None
    if len(values) > 1:
        raise click.BadParameter("give it once for each modality, or once for all of them.")
    return values[0]


def likelihoods() -> str:
    """Names and summaries of the likelihoods, from their source: importing them takes seconds."""
    folder = files("scvenn") / "likelihoods"
    sources = [file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith(".py")]
    nodes = [node for source in sources for node in ast.parse(source).body]
    classes = {node.name: node.body for node in nodes if isinstance(node, ast.ClassDef)}
    annotated = [node for node in nodes if isinstance(node, ast.AnnAssign)]
    (table,) = (node for node in annotated if ast.unparse(node.target) == "LIKELIHOODS")
    texts = []
    for name in [node.id for node in ast.walk(table) if isinstance(node, ast.Name)]:
        constants = {
            ast.unparse(node.targets[0]): ast.literal_eval(node.value)
            for node in classes.get(name, [])
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        }
        if "name" in constants:
            summary = constants.get("summary")  # None until each class has one
            texts.append(f"{constants['name']}: {summary}" if summary else constants["name"])
    return "; ".join(texts)
