"""The `fastmunit` command. `main` is its entry point; each subcommand has its own file."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 on success, 1 on an error that users can fix, 2 on wrong usage, 130 on Ctrl-C.

    Args:
        arguments: Arguments without the program's name. None uses those of the process.
    """
    from fastmunit.cli import interrupt

    installed = interrupt.install()
    try:
        from fastmunit.cli.app import app
        from fastmunit.cli.output import prepare_streams

        prepare_streams()
        app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="fastmunit")
    finally:
        if installed and arguments is not None:  # otherwise the process ends here, and Ctrl-C may still arrive
            interrupt.uninstall()
