"""Commands: they return a result, which is written and printed here; errors become one message."""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import click

from scvenn._mudata import pull_on_update
from scvenn._warnings import ScvennWarning
from scvenn._whole_files import draft
from scvenn.cli.files import Output, check_outputs, version_of
from scvenn.cli.options import options

OVERWRITE = "--overwrite: Replace results that already exist."
FLAGS = """
--threads INTEGER: Threads to compute with. Default: as many as there are cores that may be used.
--json: Print the result as JSON.
--debug: Show the traceback of an error, and all warnings.
"""


# More than any machine has cores; each takes memory.
MOST_THREADS = 4096

# What ends a command from outside, by the exit code that shells give it.
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
ENDED = {INTERRUPTED: "Interrupted", TERMINATED: "Terminated"}


class Result(NamedTuple):
    """What a command returns: text for people, data for programs, and how to write its outputs."""

    text: str
    data: dict[str, Any]
    write: Mapping[str, Callable[[Path], None]] = {}  # by name of the output


class Command(click.Command):
    """A command whose function returns a :class:`Result`.

    Only the result goes to stdout; what libraries print goes to stderr. Errors about the data, the
    model or the machine become one message and the exit code 1, Ctrl-C one line and the code 130,
    SIGTERM one line and the code 143.

    ``outputs`` are written in their order. ``sections`` are tables of further options by heading in
    the help; the function gets those given, a dictionary for each table by heading in lower case.
    """

    def __init__(
        self, *, outputs: Sequence[Output] = (), sections: Mapping[str, str] = {}, **attributes: Any
    ) -> None:
        super().__init__(**attributes)
        self.outputs = outputs
        self.sections = {"Output": [*outputs, *options(OVERWRITE + FLAGS if outputs else FLAGS)]}
        self.sections |= {title: options(table) for title, table in sections.items()}
        self.options = [option for group in self.sections.values() for option in group]
        self.params += self.options

    def invoke(self, ctx: click.Context) -> None:
        """Run the command, then write and print its result."""
        given = {
            title: {o.name: value for o in group if (value := ctx.params.pop(o.name)) is not None}
            for title, group in self.sections.items()
        }
        output = given.pop("Output")
        paths = {option: output[option.name] for option in self.outputs if option.name in output}
        ctx.params |= {title.lower(): arguments for title, arguments in given.items()}
        ctx.obj = list(paths.values())
        debug = "debug" in output
        before = {path: version_of(path) for path in ctx.obj}
        try:
            with terminable():
                result = self._run(ctx, output, paths)
                self._print(result, paths, as_json="json" in output)
        except (KeyboardInterrupt, SystemExit) as stop:
            code = stop.code if isinstance(stop, SystemExit) else INTERRUPTED
            if code not in ENDED:
                raise
            # not noted as they are written: a signal may come between the file and the note
            written = [str(path) for path in ctx.obj if version_of(path) != before[path]]
            kept = f"Only {', '.join(written)} was written." if written else "Nothing was written."
            click.echo(f"{traceback.format_exc() if debug else ''}{ENDED[code]}. {kept}", err=True)
            ctx.exit(code)

    def _run(
        self, ctx: click.Context, output: Mapping[str, Any], paths: Mapping[Output, Path]
    ) -> Result:
        """Run the command and write its outputs."""
        debug = "debug" in output
        try:
            check_outputs(paths, overwrite="overwrite" in output)
            with redirect_stdout(sys.stderr), warnings.catch_warnings(), pull_on_update(False):
                show_messages(debug)
                if "threads" in output:
                    use_threads(output["threads"])
                result: Result = super().invoke(ctx)
                for option, path in paths.items():
                    # a model writes its folder file by file, each of them whole
                    with draft(path) if option.suffixes else nullcontext(path) as unfinished:
                        result.write[option.name](unfinished)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:  # whatever it is, users get one message
            if debug:
                raise
            raise click.ClickException(self._explained(error)) from error
        return result

    def _print(self, result: Result, paths: Mapping[Output, Path], *, as_json: bool) -> None:
        """Print a result, with the paths of its outputs."""
        if as_json:
            data = result.data | {option.name: paths.get(option) for option in self.outputs}
            click.echo(json.dumps(data, indent=2, default=str, allow_nan=False))
        else:
            files = [f"{option.name:6} {path}" for option, path in paths.items()]
            click.echo("\n".join([result.text, *([""] if files else []), *files]))

    def _explained(self, error: Exception) -> str:
        """What went wrong, and what to do where scvenn does not say it already."""
        message = str(error) or type(error).__name__
        # PyTorch's errors of too little memory are of no type of their own
        if isinstance(error, MemoryError) or re.search("(allocate|out of) memory", message):
            return f"There is not enough memory for this data and model: {message}"
        # Lightning's, of an accelerator that the machine lacks; importing it takes seconds
        of_lightning = type(error).__name__ == "MisconfigurationException"
        if of_lightning or isinstance(error, ValueError | TypeError | OSError | ImportError):
            return f"{message}{self._named_options(message)}"
        return (
            f"{type(error).__name__}: {message}\nThis error was not expected. --debug shows "
            "where it happened; please report that at https://github.com/scvenn/scvenn/issues."
        )

    def _named_options(self, message: str) -> str:
        """What an error message of the library names in Python, as the command line has it."""
        named = [
            f"{option.name} is {option.opts[0]} {option.metavar or ''}".rstrip()
            for option in self.options
            if re.search(rf"\b{option.name}(=|: )", message)
        ]
        if "map_query(mdata)" in message:
            named.append("map_query(mdata) is scvenn map MODEL INPUT")
        return f"\nOn the command line, {', '.join(named)}." if named else ""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options to the help, section by section."""
        last = {"Output": [*self.sections["Output"], self.get_help_option(ctx)]}
        for title, group in (self.sections | last).items():
            with formatter.section(title):
                formatter.write_dl([r for o in group if o and (r := o.get_help_record(ctx))])


@contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM end the command with the code of shells; training would end with 0."""

    def stop(*_: Any) -> None:
        raise SystemExit(TERMINATED)

    if threading.current_thread() is not threading.main_thread():  # where signals cannot be set
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def use_threads(number: int) -> None:
    """Compute with so many threads."""
    if not 1 <= number <= MOST_THREADS:
        raise click.BadParameter(
            f"expected a number from 1 to {MOST_THREADS}, found {number}.", param_hint="'--threads'"
        )
    import torch

    torch.set_num_threads(number)


def show_messages(debug: bool) -> None:
    """Show messages of scvenn on stderr, without colours, and others only with ``debug``."""
    logger = logging.getLogger("scvi")
    if not logger.handlers:  # else scvi-tools adds a coloured one, unreadable in a log file
        logger.addHandler(logging.StreamHandler(sys.stderr))
    if not debug:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ScvennWarning)
        warnings.showwarning = lambda message, *_: click.echo(f"Warning: {message}", err=True)
