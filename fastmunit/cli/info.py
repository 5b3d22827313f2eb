"""`fastmunit info`."""

from fastmunit.cli.output import echo


def info() -> None:
    """Show what this installation can run: torch, devices, native kernels, and what is used by default."""
    from fastmunit.info import report

    echo(report())
