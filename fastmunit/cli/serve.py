"""The command `fastmunit serve`."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fastmunit.cli.options import ConfigName, Device, Which, WhichCheckpoint
from fastmunit.cli.output import echo
from fastmunit.cli.style_options import StyleDistributionOption, use_style_distributions
from fastmunit.cli.translate import Precision

_TOKEN = "FASTMUNIT_TOKEN"

_limit = partial(typer.Option, rich_help_panel="Limits", metavar="N")


def serve(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="Serve this gen_*.pt, one of a run folder, or a model.", metavar="RUN", show_default=False),
    ],
    which: Which = WhichCheckpoint.newest,
    config: ConfigName = None,
    host: Annotated[
        str, typer.Option(help="Listen on this address; 0.0.0.0 is reachable from other machines.", metavar="ADDRESS")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Listen on this port; 0 chooses a free one.", metavar="N")
    ] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar=_TOKEN,
            help="Answer only requests with the header `Authorization: Bearer TOKEN`. Other users of this machine see "
            "options; the variable is safer.",
            metavar="TOKEN",
        ),
    ] = None,
    samples: Annotated[
        bool, typer.Option(help="Show pictures of the run's test set on the page, or fruits if it is gone.")
    ] = True,
    styles_file: Annotated[
        Path | None,
        typer.Option(
            help="Begin the page with the styles of this file, as `fastmunit styles` writes it, and answer "
            "/styles/named with them.",
            metavar="FILE",
        ),
    ] = None,
    style_distribution: StyleDistributionOption = "normal",
    device: Device = "auto",
    precision: Annotated[
        Precision, typer.Option(help="Compute convolutions and matrix products in this precision.")
    ] = Precision.float32,
    queue: Annotated[int, _limit(min=1, max=4096, help="Refuse requests with 429 while this many wait.")] = 32,
    max_styles: Annotated[int, _limit(min=1, max=1024, help="Refuse requests for more styles.")] = 32,
    max_pixels: Annotated[
        int, _limit(min=1, help="Refuse to translate larger images, after the resize to `size` [1024x1024].")
    ] = 1024 * 1024,
    max_upload_pixels: Annotated[int, _limit(min=1, help="Refuse larger pictures before the resize.")] = 4096 * 4096,
    max_upload_mb: Annotated[int, _limit(min=1, max=1024, help="Refuse requests of more megabytes (2^20 bytes).")] = 16,
    timeout: Annotated[
        float,
        _limit(min=0.1, max=3600, help="Give up requests that take longer.", metavar="SECONDS"),
    ] = 60.0,
) -> None:
    """Serve a trained model over HTTP: upload a picture, get translations.

    [bold]Examples[/bold]

    fastmunit serve runs/shoes

    curl -F image=@drawing.png -F seed=3 http://127.0.0.1:8000/translate -o out.png

    FASTMUNIT_TOKEN=secret fastmunit serve runs/shoes --host 0.0.0.0 --port 80

    Ctrl-C, or SIGTERM, ends the server after the requests that have arrived. docs/how_to/serving.md describes all
    requests, and so does /openapi.json.
    """
    from fastmunit.errors import FastmunitError
    from fastmunit.serving.limits import Limits
    from fastmunit.serving.model import load_model
    from fastmunit.serving.server import is_local, require_packages
    from fastmunit.serving.server import serve as run

    require_packages()
    if not (os.environ.get(_TOKEN, "unset") if token is None else token).strip():
        raise FastmunitError(f"the token is empty: set {_TOKEN} to a secret, or unset it.")
    limits = Limits(max_upload_mb * 2**20, max_upload_pixels, max_pixels, max_styles, queue, timeout)
    model = load_model(
        checkpoint,
        config,
        device=device,
        precision=precision.value,
        samples=samples,
        which=which.value,
        styles_file=styles_file,
    )
    use_style_distributions(model.translators, style_distribution)
    if token is None and not is_local(host):
        echo("Everybody who can reach this address may use the model; --token restricts it.", err=True)
    run(model, limits, host, port, token, lambda address: echo(f"Serving {model.name} at {address}; Ctrl-C stops."))
    echo("Stopped.")
