"""`fastmunit evaluate`."""

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from fastmunit.cli.launch import as_one_command, start_processes
from fastmunit.cli.options import ConfigName, Device, Devices, MaxPixels, Timeout
from fastmunit.cli.output import echo

if TYPE_CHECKING:
    from fastmunit.metrics.results import Evaluation


_FIGURES, _PAGE = "evaluation.json", "evaluation.html"


class Directions(str, Enum):
    """Which directions are measured."""

    a2b = "a2b"
    b2a = "b2a"
    both = "both"


def evaluate(
    checkpoint: Annotated[
        Path, typer.Option(help="A run folder, or a gen_*.pt (ours or the public trainer's).", metavar="FILE|FOLDER")
    ],
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder with testA, testB (by default that of the run).", metavar="FOLDER"),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Where to write (by default RUN/evaluation).", metavar="FOLDER"),
    ] = None,
    direction: Annotated[Directions, typer.Option(help="What to measure.")] = Directions.a2b,
    config: ConfigName = None,
    metrics: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Measures, with commas between: lpips-{alex,vgg}-v0.{0,1}, {fd,kid}-{alexnet,vgg16}, is-cis, "
            "edge-agreement, content-code, reconstruction; or all.",
            metavar="NAMES",
        ),
    ] = None,
    weights: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder with alexnet_features.pth, vgg16_features.pth [FASTMUNIT_WEIGHTS, else downloaded].",
            metavar="FOLDER",
        ),
    ] = None,
    classifier: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="For IS and CIS: a file of `fastmunit train-classifier`.", metavar="FILE"),
    ] = None,
    inputs: Annotated[int, typer.Option(min=2, help="How many test images.", metavar="N")] = 100,
    samples: Annotated[int, typer.Option(min=2, help="Outputs of each, in pairs for diversity.", metavar="N")] = 38,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the random styles.", metavar="N")] = 0,
    device: Device = "auto",
    max_pixels: MaxPixels = None,
    devices: Devices = None,
    timeout: Timeout = None,
) -> None:
    """Measure a trained model: diversity, distance to real images, content, reconstruction, IS and CIS.

    [bold]Examples[/bold]

    fastmunit evaluate --checkpoint runs/demo

    fastmunit evaluate --checkpoint runs/shoes --metrics lpips-alex-v0.1,kid-vgg16 --direction both

    fastmunit evaluate --checkpoint gen_01000000.pt --config edges2shoes --data datasets/edges2shoes --output out

    fastmunit evaluate --checkpoint runs/shoes --devices 4

    Writes evaluation.json and evaluation.html (figures with intervals, the most and least diverse inputs, the nearest
    real images). The defaults are the papers' protocol: 19 pairs of outputs for each of 100 test images. Images that
    cannot be read are left out and named at the end.
    """
    from tqdm import tqdm

    from fastmunit import distributed
    from fastmunit.data.failures import raise_failures, unreadable
    from fastmunit.data.sources import given_images
    from fastmunit.data.validate import left_out
    from fastmunit.errors import FastmunitError
    from fastmunit.files import require_writable
    from fastmunit.metrics.evaluation import evaluate as run_evaluation
    from fastmunit.metrics.evaluation import require_possible
    from fastmunit.metrics.measures import load_measures
    from fastmunit.runs import resolve_device
    from fastmunit.systems import registry
    from fastmunit.systems.translator import Translator
    from fastmunit.translation.translate import find_checkpoint, load_translator

    if devices is not None and not distributed.launched():
        start_processes(devices)
        return
    place = distributed.setup(timeout, device) if distributed.launched() else resolve_device(device)
    main = distributed.rank() == 0
    with as_one_command():
        file, settings = find_checkpoint(checkpoint, config)
        if data is not None:
            settings.data_root, settings.data_module = str(data), None
        if max_pixels is not None:
            settings.max_pixels = max_pixels
        names = _measure_names(metrics, classifier)
        run = checkpoint.parent if checkpoint.name == "checkpoints" else checkpoint
        if output is None:
            if not checkpoint.is_dir():
                raise FastmunitError("give --output: the folder to write evaluation.json and evaluation.html into.")
            output = run / "evaluation"
        if main:
            require_writable(output / _FIGURES, output / _PAGE)
        images = given_images(settings)
        if main:
            for note in left_out(settings, ("test",)):
                typer.echo(note, err=True)

        possible = registry.system_of(settings).directions
        wanted = list(possible) if direction is Directions.both else [direction.value]
        if classifier is not None and len(wanted) > 1:
            raise FastmunitError("IS and CIS are of one target domain's classes: measure one --direction at a time.")
        translators: dict[str, Translator] = {
            name: load_translator(file, settings, direction=name, device=place)
            for name in dict.fromkeys([*wanted, *possible])
        }
        measures = distributed.first_per_machine(
            lambda: load_measures(names, weights=weights, classifier=classifier, device=place)
        )
        backward = {name: translators.get("b2a" if name == "a2b" else "a2b") for name in wanted}
        if len(wanted) > 1:
            for name in wanted:
                require_possible(
                    translators[name], settings, measures, direction=name, backward=backward[name], images=images
                )

        found: list[Evaluation] = []
        for name in wanted:
            layout = "{desc} {percentage:3.0f}%|{bar}|{postfix}"
            with tqdm(total=1.0, bar_format=layout, disable=None if main else True) as bar:
                bar.set_description_str(name)

                def show(fraction: float, text: str, bar: tqdm = bar) -> None:
                    bar.n = fraction
                    bar.set_postfix_str(text)

                found.append(
                    run_evaluation(
                        translators[name],
                        settings,
                        measures,
                        direction=name,
                        backward=backward[name],
                        inputs=inputs,
                        samples=samples,
                        seed=seed,
                        progress=show,
                        images=images,
                    )
                )
        if main:
            measured = max(len(evaluation.per_input) for evaluation in found)  # fewer where there are fewer images
            facts: dict[str, str | int] = {
                "checkpoint": str(file),
                "system": settings.system,
                "inputs": measured,
                "outputs of each": samples,
                "seed": seed,
            }
            _write(output, f"Evaluation of {run.name}", facts, found)
            _print(found)
            if metrics is not None and metrics.strip() == "all" and classifier is None:
                echo("is-cis: not measured, it needs --classifier.")
            echo(f"Look at {output / _PAGE}; all figures are in {output / _FIGURES}.")
        failures = list(dict.fromkeys(failure for evaluation in found for failure in evaluation.failures))
        raise_failures(failures, f"{unreadable(len(failures))}, and the figures are of the others")


def _measure_names(metrics: str | None, classifier: Path | None) -> list[str] | None:
    """The measures that --metrics names; None where it is not given."""
    from fastmunit.errors import ConfigError
    from fastmunit.metrics.measures import NAMES, check_names

    if metrics is None:
        return None
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    if names == ["all"]:
        names = [name for name in NAMES if name != "is-cis" or classifier is not None]
    if not names:
        raise ConfigError(f"--metrics names none: give some of {', '.join(NAMES)}.")
    check_names(names)
    if classifier is not None and "is-cis" not in names:
        raise ConfigError("--classifier is for is-cis, which --metrics leaves out: add is-cis, or no --classifier.")
    return names


def _write(output: Path, title: str, facts: Mapping[str, str | int], found: "Sequence[Evaluation]") -> None:
    import json

    from fastmunit.files import write_text
    from fastmunit.runs.reports.evaluation_report import render

    report = {**facts, "evaluations": [evaluation.to_dict() for evaluation in found]}
    write_text(output / _FIGURES, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_text(output / _PAGE, render(title, {name: str(value) for name, value in facts.items()}, found))


def _print(found: "Sequence[Evaluation]") -> None:
    for evaluation in found:
        for figure in evaluation.figures:
            echo(f"{evaluation.direction}  {figure.name}: {figure.estimate}" + _references(figure.references))
        for name, reason in evaluation.skipped.items():
            echo(f"{evaluation.direction}  {name}: not measured, {reason}.")


def _references(references: Mapping[str, object]) -> str:
    return "".join(f" ({name}: {value})" for name, value in references.items())
