"""How commands look and behave: options that mirror the library, one clear message for an error."""

from __future__ import annotations

import ast
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.core import ParameterSource


class Result(NamedTuple):
    """What a command has to say on stdout: to people, and to a machine that asks for JSON."""

    text: str
    data: dict[str, Any]


# --------------------------------------------------------------------------------------------
# Options
# --------------------------------------------------------------------------------------------


class Option(click.Option):
    """An option that has its place in the help, and may mirror an argument of the library."""

    def __init__(
        self,
        *args: Any,
        section: str = "Output",
        argument: str | None = None,
        default_text: str | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self.section = section
        self.argument = argument
        self.default_text = default_text

    def get_help_extra(self, ctx: click.Context) -> Any:
        """What stands in brackets: the default, also of an option that may be repeated."""
        extra = super().get_help_extra(ctx)
        return extra | {"default": self.default_text} if self.default_text else extra


def option(*names: str, section: str = "Output", **attributes: Any) -> Callable[..., Any]:
    """An option that the library has no argument for."""
    return click.option(*names, cls=Option, section=section, **attributes)


def mirror(file: str, function: str, section: str) -> Callable[..., Any]:
    """Options for the arguments of a function of the library, with its defaults."""
    defaults = signature_defaults(file, function)

    def mirrored(argument: str, *names: str, **attributes: Any) -> Callable[..., Any]:
        default = defaults[argument]
        if attributes.get("multiple"):
            attributes |= {"callback": _merge, "default_text": default and str(default)}
        else:
            attributes |= {"default": default, "show_default": default is not None}
        return click.option(
            *(names or ["--" + argument.replace("_", "-")]),
            argument,
            cls=Option,
            section=section,
            argument=argument,
            **attributes,
        )

    return mirrored


def signature_defaults(file: str, function: str) -> dict[str, Any]:
    """Defaults of a function's arguments, read from its source: importing it takes seconds."""
    tree = ast.parse(files("scvenn").joinpath(file).read_text(encoding="utf-8"))
    (found,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function)
    positional, by_name = found.args.args, found.args.kwonlyargs
    pairs = [
        *zip(reversed(positional), reversed(found.args.defaults), strict=False),
        *zip(by_name, found.args.kw_defaults, strict=True),
    ]
    return {
        argument.arg: value.value for argument, value in pairs if isinstance(value, ast.Constant)
    }


def given(section: str) -> dict[str, Any]:
    """Arguments of the library that the user gave; of all others the library has the default."""
    context = click.get_current_context()
    return {
        p.argument: context.params[p.name]
        for p in context.command.params
        if isinstance(p, Option) and p.section == section and p.argument and p.name
        if context.get_parameter_source(p.name) is not ParameterSource.DEFAULT
    }


class ByModality(click.ParamType):
    """``MODALITY=VALUE``, or, where that makes sense, ``VALUE`` for all modalities.

    Parameters
    ----------
    value
        Type of the value.
    for_all
        Values that may stand alone: ``"any"`` or ``"auto"``; None for none.
    """

    name = "MODALITY=VALUE"

    def __init__(self, value: click.ParamType, for_all: str | None = None) -> None:
        self.value = value
        self.for_all = for_all

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str | None, Any]:
        """Name of the modality (None for all) and the value."""
        modality, equals, text = value.partition("=")
        if equals and modality and text:
            return modality, self.value.convert(text, param, ctx)
        if not equals and self.for_all == "any":
            return None, self.value.convert(value, param, ctx)
        if value == self.for_all:
            return None, value
        alone = {None: "", "any": " or VALUE for all of them", "auto": " or 'auto'"}[self.for_all]
        self.fail(f"{value!r}: expected MODALITY=VALUE, such as rna=...{alone}.", param, ctx)


class NumberOrAuto(click.ParamType):
    """A number, or the word ``auto``."""

    name = "NUMBER|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | str:
        """The number, or the word."""
        return value if value == "auto" else click.FLOAT.convert(value, param, ctx)


def _merge(ctx: click.Context, param: click.Parameter, values: tuple[Any, ...]) -> Any:
    """What an option was given several times: a list; by modality, a dictionary; for all, one."""
    if not isinstance(param.type, ByModality):
        return list(values) or None
    names = [modality for modality, _ in values]
    if names == [None]:
        return values[0][1]
    if None in names or len(set(names)) < len(names):
        raise click.BadParameter("give MODALITY=VALUE once for each modality, or one VALUE for all")
    return dict(values) or None


# --------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------


class Output(click.Path):
    """Where a result goes; that it can go there is checked before any work is done.

    Parameters
    ----------
    suffixes
        What the name may end with; nothing for a folder.
    """

    def __init__(self, *suffixes: str) -> None:
        super().__init__(file_okay=bool(suffixes), dir_okay=not suffixes, path_type=Path)
        self.suffixes = suffixes
        self.name = "file" if suffixes else "folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, in a folder that exists and can be written to."""
        path = Path(str(super().convert(value, param, ctx)))
        if self.suffixes and not path.name.endswith(self.suffixes):
            self.fail(f"{path} does not end with {' or '.join(self.suffixes)}.", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"the folder {path.parent} does not exist. Create it first.", param, ctx)
        if not os.access(path.parent, os.W_OK):
            self.fail(f"no permission to write to the folder {path.parent}.", param, ctx)
        return path


# --------------------------------------------------------------------------------------------
# Commands
# --------------------------------------------------------------------------------------------


class Command(click.Command):
    """A command that returns a :class:`Result`.

    Only the result goes to stdout; what libraries print on the way goes to stderr. What they
    refuse becomes one message, without a traceback, and the exit code 1.
    """

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        if any(isinstance(p.type, Output) for p in self.params):
            self.params.append(
                Option(["--overwrite"], is_flag=True, help="Replace results that exist already.")
            )
        self.params += [
            Option(["--json"], is_flag=True, help="Print the result as JSON."),
            Option(
                ["--debug"],
                is_flag=True,
                help="On an error show where it happened, and all warnings.",
            ),
        ]

    def invoke(self, ctx: click.Context) -> None:
        """Run the command and print its result."""
        debug, as_json = ctx.params.pop("debug"), ctx.params.pop("json")
        if not ctx.params.pop("overwrite", True):
            self._refuse_to_overwrite(ctx)
        try:
            with redirect_stdout(sys.stderr), _plain_messages(debug):
                result = super().invoke(ctx)
        except Exception as error:
            if debug or not _is_refusal(error):
                raise
            raise click.ClickException(f"{error}{self._translated(str(error))}") from error
        click.echo(_json(result.data) if as_json else result.text)

    def _refuse_to_overwrite(self, ctx: click.Context) -> None:
        for param in self.params:
            path = ctx.params.get(param.name or "")
            if isinstance(param.type, Output) and path is not None and path.exists():
                raise click.BadParameter(
                    f"{path} already exists. Pass --overwrite to replace it.", ctx, param
                )

    def _translated(self, message: str) -> str:
        """How arguments that a message of the library names are given on the command line."""
        context = click.get_current_context()
        named = [
            f"{p.argument} is {p.opts[0]}{'' if p.is_flag else ' ' + p.make_metavar(context)}"
            for p in self.params
            if isinstance(p, Option) and p.argument and re.search(rf"\b{p.argument}=", message)
        ]
        return f"\nOn the command line, {', '.join(named)}." if named else ""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if isinstance(param, click.Option) and record:
                sections.setdefault(getattr(param, "section", "Output"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _is_refusal(error: Exception) -> bool:
    """Whether an error says that a user's data, model or machine will not do."""
    return isinstance(error, ValueError | TypeError | OSError) or (
        # Lightning's, of an accelerator that is not there; not imported for its name
        type(error).__name__ == "MisconfigurationException"
    )


@contextmanager
def _plain_messages(debug: bool) -> Iterator[None]:
    """Plain messages on stderr: scvenn's own, and the rest only where one looks for an error."""
    logger = logging.getLogger("scvi")
    if not logger.handlers:  # else scvi-tools adds a coloured one, which a log file cannot show
        logger.addHandler(logging.StreamHandler(sys.stderr))
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", category=UserWarning, module=r"scvenn\b")
            warnings.showwarning = lambda message, *_: click.echo(f"Warning: {message}", err=True)
        yield


def _json(data: dict[str, Any]) -> str:
    import json

    return json.dumps(data, indent=2, default=str, allow_nan=False)
