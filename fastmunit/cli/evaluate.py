"""The command `fastmunit evaluate`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from fastmunit.cli import inspection
from fastmunit.cli.launch import as_one_command, start_processes
from fastmunit.cli.options import ConfigName, Device, Devices, MaxPixels, Timeout, Which, WhichCheckpoint
from fastmunit.cli.output import echo
from fastmunit.cli.style_options import StyleDistributionOption, use_style_distribution
from fastmunit.metrics.measure import check_names, name_pattern, names, registered, variants

if TYPE_CHECKING:
    from fastmunit.metrics.results import Evaluation


_SCORES, _PAGE = "evaluation.json", "evaluation.html"


class Directions(str, Enum):
    """Directions to measure."""

    a2b = "a2b"
    b2a = "b2a"
    both = "both"


def evaluate(
    checkpoint: Annotated[
        Path,
        typer.Option(
            help="A run folder, a gen_*.pt of fastmunit or the public trainer, or the folder or name of a model.",
            metavar="FILE|FOLDER|NAME",
        ),
    ],
    which: Which = WhichCheckpoint.newest,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder with testA and testB (default: the data of the run).", metavar="FOLDER"),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Folder to write into (default: RUN/evaluation).", metavar="FOLDER"),
    ] = None,
    direction: Annotated[Directions, typer.Option(help="Direction to measure.")] = Directions.a2b,
    config: ConfigName = None,
    metrics: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help=f"Measures, separated by commas: {', '.join(map(name_pattern, registered()))}; or all.",
            metavar="NAMES",
        ),
    ] = None,
    weights: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder with alexnet_features.pth and vgg16_features.pth [FASTMUNIT_WEIGHTS, else downloaded].",
            metavar="FOLDER",
        ),
    ] = None,
    classifier: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Classifier for IS and CIS, written by `fastmunit train-classifier`.", metavar="FILE"),
    ] = None,
    inspect: Annotated[
        bool,
        typer.Option(
            "--inspect",
            help="Instead of measuring, show per image what may be invented: maps of cycle error, edge disagreement "
            "and variation over styles. Needs no weights.",
        ),
    ] = False,
    inputs: Annotated[int, typer.Option(min=2, help="Number of test images.", metavar="N")] = 100,
    samples: Annotated[int, typer.Option(min=2, help="Outputs per input; diversity compares pairs.", metavar="N")] = 38,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the random styles.", metavar="N")] = 0,
    styles_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Draw the styles of outputs from those of this file, as `fastmunit styles` writes it: at least as "
            "many as there are samples.",
            metavar="FILE",
            rich_help_panel="Style",
        ),
    ] = None,
    style_distribution: StyleDistributionOption = "normal",
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

    fastmunit evaluate --checkpoint runs/shoes --inspect

    Writes evaluation.json and evaluation.html: values with confidence intervals, the most and least diverse inputs, the
    nearest real images. The defaults are the protocol of the papers: 19 pairs of outputs for each of 100 test images.
    Images that cannot be read are left out and listed at the end. With --inspect, it writes inspection.json and
    inspection.html instead: all inputs, the worst first.
    """
    from fastmunit import distributed
    from fastmunit.data.failures import raise_failures, unreadable
    from fastmunit.data.sources import given_images
    from fastmunit.data.validate import left_out
    from fastmunit.errors import FastmunitError
    from fastmunit.files import printable, require_writable
    from fastmunit.metrics.evaluate import evaluate as run_evaluation
    from fastmunit.metrics.evaluate import require_possible
    from fastmunit.metrics.inspection import inspect as run_inspection
    from fastmunit.metrics.load import load_measures
    from fastmunit.runs import RunFolder, resolve_device
    from fastmunit.styles.sampling import draw_from_file
    from fastmunit.systems import registry
    from fastmunit.translation.translate import find_checkpoint, load_translator, own_direction

    if devices is not None and not distributed.launched():
        start_processes(devices)
        return
    if styles_file is not None and style_distribution != "normal":
        raise FastmunitError("give either --styles-file or --style-distribution: both decide the styles.")
    place = distributed.setup(timeout, device) if distributed.launched() else resolve_device(device)
    main = distributed.rank() == 0
    with as_one_command():
        file, settings = find_checkpoint(checkpoint, config, exports=True, which=which.value)
        if data is not None:
            settings.data_root, settings.data_module = str(data), None
        if max_pixels is not None:
            settings.max_pixels = max_pixels
        if inspect:
            _refuse_measures({"--metrics": metrics, "--weights": weights, "--classifier": classifier})
        chosen = _measure_names(metrics, classifier)
        run = checkpoint.parent if checkpoint.name == "checkpoints" else checkpoint
        scores, page = (inspection.SCORES, inspection.PAGE) if inspect else (_SCORES, _PAGE)
        if output is None:
            if not checkpoint.is_dir():
                raise FastmunitError(f"give --output: the folder to write {scores} and {page} into.")
            output = RunFolder(run).evaluation
        if main:
            require_writable(output / scores, output / page)
        images = given_images(settings)
        if main:
            for note in left_out(settings, ("test",)):
                typer.echo(note, err=True)

        own = own_direction(file)
        possible = registry.system_of(settings).directions if own is None else (own,)
        directions = list(possible) if direction is Directions.both else [direction.value]
        if classifier is not None and len(directions) > 1:
            raise FastmunitError("a classifier knows the classes of one domain: measure one --direction at a time.")
        translators = {
            name: load_translator(file, settings, direction=name, device=place)
            for name in dict.fromkeys([*directions, *possible])
        }
        measures = (
            []
            if inspect
            else distributed.first_per_machine(
                lambda: load_measures(chosen, weights=weights, classifier=classifier, device=place)
            )
        )
        for name in directions:
            if styles_file is not None:
                draw_from_file(translators[name], styles_file, samples)
            else:
                use_style_distribution(translators[name], style_distribution, settings)
        tasks: dict[str, dict[str, Any]] = {
            name: {"direction": name, "backward": translators.get("b2a" if name == "a2b" else "a2b"), "images": images}
            for name in directions
        }
        if len(directions) > 1:
            for name, options in tasks.items():
                require_possible(translators[name], settings, measures, **options)
        results: list[Any] = []
        for name, options in tasks.items():
            options |= {"inputs": inputs, "samples": samples, "seed": seed}
            with _progress_bar(name, main) as progress:
                if inspect:
                    results.append(run_inspection(translators[name], settings, progress=progress, **options))
                else:
                    results.append(run_evaluation(translators[name], settings, measures, progress=progress, **options))
        if main:
            facts: dict[str, str | int] = {
                "checkpoint": printable(file if checkpoint.exists() else checkpoint),  # or the name of a model
                "system": settings.system,
                "inputs": max(len(result.inputs if inspect else result.per_input) for result in results),
                "outputs of each": samples,
                "seed": seed,
            }
            if styles_file is not None or style_distribution != "normal":
                facts["styles"] = f"from {printable(styles_file or style_distribution)}"
            if inspect:
                inspection.write(output, f"Inspection of {printable(run.name)}", facts, results)
                inspection.show(results)
            else:
                _write(output, f"Evaluation of {printable(run.name)}", facts, results)
                _print(results)
                if metrics is not None and metrics.strip() == "all" and classifier is None:
                    for name in names(with_classifier=True):
                        if variants()[name][0].needs_classifier:
                            echo(f"{name}: not measured, it needs --classifier.")
            echo(f"Look at {output / page}; all scores are in {output / scores}.")
        failures = list(dict.fromkeys(failure for result in results for failure in result.failures))
        raise_failures(failures, f"{unreadable(len(failures))}; the scores use the others")


def _refuse_measures(given: Mapping[str, object]) -> None:
    """Raise ConfigError for options that choose measures."""
    from fastmunit.errors import ConfigError

    for option, value in given.items():
        if value is not None:
            raise ConfigError(f"--inspect measures nothing: remove {option}, or evaluate in another call.")


def _measure_names(metrics: str | None, classifier: Path | None) -> list[str] | None:
    """Return the measures that --metrics names, or None if it is not given."""
    from fastmunit.errors import ConfigError

    if metrics is None:
        return None
    chosen = [name.strip() for name in metrics.split(",") if name.strip()]
    if chosen == ["all"]:
        chosen = names(with_classifier=classifier is not None)
    if not chosen:
        raise ConfigError(f"--metrics names none: give some of {', '.join(names(with_classifier=True))}.")
    check_names(chosen)
    known = variants()
    if classifier is not None and not any(known[name][0].needs_classifier for name in chosen):
        needed = " or ".join(name for name, (measure, _) in known.items() if measure.needs_classifier)
        raise ConfigError(
            f"--classifier is for {needed}, which --metrics leaves out: add {needed}, or remove --classifier."
        )
    return chosen


@contextmanager
def _progress_bar(direction: str, visible: bool) -> Iterator[Callable[[float, str], None]]:
    """Show a progress bar, and yield a function that sets its fraction and text."""
    from tqdm import tqdm

    layout = "{desc} {percentage:3.0f}%|{bar}|{postfix}"
    with tqdm(total=1.0, bar_format=layout, disable=None if visible else True) as bar:
        bar.set_description_str(direction)

        def show(fraction: float, text: str) -> None:
            bar.n = fraction
            bar.set_postfix_str(text)

        yield show


def _write(output: Path, title: str, facts: Mapping[str, str | int], evaluations: "Sequence[Evaluation]") -> None:
    import json

    from fastmunit.files import write_text
    from fastmunit.runs.reports.evaluation_report import render

    report = {**facts, "evaluations": [evaluation.to_dict() for evaluation in evaluations]}
    write_text(output / _SCORES, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_text(output / _PAGE, render(title, {name: str(value) for name, value in facts.items()}, evaluations))


def _print(evaluations: "Sequence[Evaluation]") -> None:
    for evaluation in evaluations:
        for score in evaluation.scores:
            references = "".join(f" ({name}: {value})" for name, value in score.references.items())
            echo(f"{evaluation.direction}  {score.name}: {score.estimate}{references}")
        for name, reason in evaluation.skipped.items():
            echo(f"{evaluation.direction}  {name}: not measured, {reason}.")
