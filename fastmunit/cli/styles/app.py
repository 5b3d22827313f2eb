"""The group of commands `fastmunit styles`."""

import typer

from fastmunit.cli.command import Command, with_usable_values
from fastmunit.cli.errors import reported
from fastmunit.cli.styles.bank import bank
from fastmunit.cli.styles.directions import directions
from fastmunit.cli.styles.distribution import distribution
from fastmunit.cli.styles.extract import extract
from fastmunit.cli.styles.interpolate import interpolate
from fastmunit.cli.styles.invert import invert
from fastmunit.cli.styles.mean import mean
from fastmunit.cli.styles.nearest import nearest

styles = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Compute the style codes of images, and use them: banks, neighbors, directions, inversion, distribution.",
    epilog="Start with [bold]fastmunit styles extract[/bold]; docs/how_to/styles.md shows what each command writes.",
)

for _command in (extract, mean, bank, nearest, interpolate, directions, invert, distribution):
    styles.command(cls=Command)(reported(with_usable_values(_command)))
