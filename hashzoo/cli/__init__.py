"""The command line: one file a verb group; a command imports what it needs when it runs."""

import atexit
import os
import sys
import threading
import warnings
from typing import Annotated

import typer

from hashzoo.cli import bench, demo, evaluate, models, plugins, publish, search, train
from hashzoo.cli.output import say
from hashzoo.errors import HashzooError

app = typer.Typer(
    name="hashzoo",
    help="A model zoo for deep hashing: binary codes by name, exact Hamming search, numbers you can recompute.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (models, search, train, evaluate, publish, plugins, bench, demo):
    module.add_to(app)


def _version(wanted: bool) -> None:
    if wanted:
        import hashzoo

        say(f"hashzoo {hashzoo.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""
    if debug:
        os.environ["HASHZOO_DEBUG"] = "1"


def main() -> None:
    """Run the command line; an error of the user's is one sentence and exit code 2, a warning is one line."""
    warnings.showwarning = lambda message, *_, **__: say(f"Warning: {message}", fg="yellow", err=True)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # they name no file; what cannot be read is said by hashzoo
    try:
        app()
    except (HashzooError, OSError) as error:
        if os.environ.get("HASHZOO_DEBUG"):
            raise
        said = str(error)
        if isinstance(error, OSError) and error.strerror:
            said = f"{error.strerror}{f' ({error.filename})' if error.filename else ''}."
        say(f"Error: {said}", fg="red", err=True)
        if any(thread.name == "hub" for thread in threading.enumerate()):
            atexit._run_exitfuncs()  # an upload that was given up hangs in the Hub's client, and Python would wait for it
            sys.stdout.flush()
            os._exit(2)
        sys.exit(2)
