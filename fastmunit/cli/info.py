"""The command `fastmunit info`."""

from fastmunit.cli.output import echo


def info() -> None:
    """Show what this installation can run: torch, devices, native kernels, and the default implementations."""
    from fastmunit.info import report

    echo(report())
