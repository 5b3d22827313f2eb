"""`fastmunit info`."""

import typer


def info() -> None:
    """Show what this installation can run: torch, devices, native kernels, and what is used by default."""
    from fastmunit.info import report

    typer.echo(report())
