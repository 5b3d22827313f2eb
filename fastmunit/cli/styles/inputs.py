"""Models and images of the commands about styles, and the messages that these share."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fastmunit.cli.options import Direction, WhichCheckpoint
from fastmunit.cli.output import echo
from fastmunit.cli.style_options import encoding_bar
from fastmunit.cli.styles.parameters import MAX_CONTENTS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from torch import Tensor

    from fastmunit.config import Config
    from fastmunit.data.failures import Failure
    from fastmunit.styles.extract import ExtractedStyles
    from fastmunit.systems.translators import Translator


class Model(NamedTuple):
    """A model that has a style encoder.

    Attributes:
        translator: Its translator.
        settings: Its configuration.
        files: Its files, which no output may overwrite.
    """

    translator: "Translator"
    settings: "Config"
    files: "list[Path]"


def load(run: Path, config: str | None, which: WhichCheckpoint, direction: Direction | None, device: str) -> Model:
    """Load a model that has a style encoder."""
    from fastmunit.styles.extract import require_style_encoder
    from fastmunit.translation.translate import files_of_model, find_checkpoint, load_translator, own_direction

    file, settings = find_checkpoint(run, config, exports=True, which=which.value)
    way = own_direction(file) or "a2b" if direction is None else direction.value
    translator = load_translator(file, settings, direction=way, device=device)
    require_style_encoder(translator)
    return Model(translator, settings, files_of_model(file))


def require_outputs(outputs: "Iterable[Path]", read: "Sequence[Path]", model: Model) -> None:
    """Check that outputs can be written, and that none is read: a file, an image of a folder, a file of the model.

    Style files may be in a folder that is read, as they are no images.
    """
    from fastmunit.files import require_apart, require_outside, require_writable
    from fastmunit.translation.inputs import list_inputs
    from fastmunit.translation.style_file import SUFFIX

    outputs = list(outputs)
    require_writable(*outputs)
    require_apart(outputs, [*(item.path for item in list_inputs(read)[0]), *model.files])
    for folder in sorted({path.parent for path in outputs if path.suffix.lower() != SUFFIX}):
        require_outside(folder, read)


class Outputs:
    """The files that a command writes into its output folder. Those of an earlier call are removed first.

    Each file is recorded as soon as it is written, so that the next call removes it even if this one is interrupted.

    Args:
        output: The output folder.
        name: What the files belong to, such as the name of an image.
        kind: Kind of the files, which tells commands with the same output folder apart.
        planned: The files, in the folder.
        read: Files and folders that are read, which stay.
    """

    def __init__(self, output: Path, name: str, kind: str, planned: "Collection[Path]", read: "Sequence[Path]") -> None:
        from fastmunit.files import resolved
        from fastmunit.translation.inputs import list_inputs
        from fastmunit.translation.output_record import OutputRecord

        self._key, self._record = (name, kind), OutputRecord(output)
        kept = {resolved(item.path) for item in list_inputs(read)[0]}
        removed = len(self._record.start(*self._key, planned, kept))
        if removed:
            echo(f"Removed {'1 output' if removed == 1 else f'{removed:,} outputs'} of an earlier call.")

    def wrote(self, path: Path) -> None:
        """Record a file that was written."""
        self._record.add(*self._key, path)


def require_suffix(output: Path, suffixes: "Sequence[str]") -> None:
    """Check that the name of an output says what it is: other commands tell styles from images by it."""
    from fastmunit.errors import FastmunitError
    from fastmunit.files import printable

    if output.suffix.lower() not in suffixes:
        raise FastmunitError(
            f"expected a name that ends with {' or '.join(suffixes)} as --output, got {printable(output)}: add "
            f"{suffixes[0]} to it."
        )


def model_name(run: Path) -> str:
    """Return the name of a model for style files."""
    from fastmunit.files import printable

    return printable(run.resolve().name if run.exists() else run)


def encode(
    translator: "Translator", run: Path, inputs: list[Path], size: int | None, max_pixels: int | None
) -> "ExtractedStyles":
    """Return the styles of images, or of a styles file, which has no paths."""
    from fastmunit.errors import FastmunitError
    from fastmunit.styles.extract import ExtractedStyles
    from fastmunit.styles.extract import extract as extract_styles
    from fastmunit.translation.style_file import SUFFIX
    from fastmunit.translation.styles import styles_from_file

    if any(path.suffix.lower() == SUFFIX for path in inputs):
        if len(inputs) > 1:
            raise FastmunitError("--input takes one styles file, or images and folders: give one of the two.")
        return ExtractedStyles(styles_from_file(translator, inputs[0]), [])
    with encoding_bar() as advance:
        found = extract_styles(
            translator, inputs, size=size, max_pixels=max_pixels, name=model_name(run), advance=advance
        )
    for note in found.notes:
        echo(note, err=True)
    return found


def read_contents(
    translator: "Translator", paths: list[Path], size: int | None, max_pixels: int | None
) -> "list[Tensor]":
    """Read images of the source domain; see `named_contents`. Without paths there are none."""
    return [image for _, image in named_contents(translator, paths, size, max_pixels)] if paths else []


def named_contents(
    translator: "Translator", paths: list[Path], size: int | None, max_pixels: int | None
) -> "list[tuple[str, Tensor]]":
    """Read images of the source domain: the first of many, as sheets are small. Say so if others are left out."""
    from fastmunit.styles.extract import read_source
    from fastmunit.translation.inputs import list_inputs

    listed, notes = list_inputs(paths)
    if len(listed) > MAX_CONTENTS:
        notes.append(f"--content: the first {MAX_CONTENTS} of {len(listed):,} images are used.")
    for note in notes:
        echo(note, err=True)
    return [(item.name, read_source(translator, item.path, size, max_pixels)) for item in listed[:MAX_CONTENTS]]


def translations(translator: "Translator", image: "Tensor", codes: "Tensor") -> "list[Tensor]":
    """Translate an image (C, H, W) into styles (S, style_dim, 1, 1)."""
    return list(translator.translate(image, codes.to(translator.device, translator.dtype)))


def lpips(weights: Path | None, translator: "Translator") -> Any:
    """Return LPIPS if its weights are at hand; nothing is downloaded. Say so if it is left out."""
    import os

    from fastmunit.metrics.lpips import LPIPS
    from fastmunit.nn.networks.imagenet import WEIGHTS_VARIABLE

    if translator.target_channels not in (1, 3):
        echo(
            f"LPIPS is left out: it is for gray and RGB images, not for {translator.target_channels} channels.",
            err=True,
        )
        return None
    if weights is None and not os.environ.get(WEIGHTS_VARIABLE):
        echo(f"LPIPS is left out: give its weights with --weights, or set {WEIGHTS_VARIABLE}.", err=True)
        return None
    return LPIPS(weights=weights or os.environ[WEIGHTS_VARIABLE]).to(translator.device)


def counted(number: int) -> str:
    """Return a number of styles in words."""
    return "1 style" if number == 1 else f"{number:,} styles"


def report_failures(failures: "Sequence[Failure]") -> None:
    """Raise an error that names images that were left out, if there are any."""
    from fastmunit.data.failures import raise_failures, unreadable

    raise_failures(failures, f"{unreadable(len(failures))}; the others were used")
