"""The file export.json of an export: what its graphs read and return, and how they were checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fastmunit.config import Config
from fastmunit.errors import CheckpointError
from fastmunit.files import printable, require_regular_file, write_text

DESCRIPTION_FILE = "export.json"
Precision = Literal["float32", "float16", "int8"]
Format = Literal["onnx", "pt2"]
Count = Literal["1", "N", "S"]
_MAX_BYTES = 1 << 20


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(_Strict):
    """An input of a graph, in float32 and NCHW.

    Attributes:
        name: "images", "content", "styles", "noise", or "mask_0", "mask_1", ...
        count: First size: "1", any number "N" of images, or any number "S" of styles.
        channels: Second size.
        divisor: Height and width are those of the graph's first input divided by this. 0 stands for 1 × 1.
    """

    name: str
    count: Count
    channels: int = Field(gt=0)
    divisor: int = Field(ge=0)

    def shape(self, count: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the shape for this number of images or styles, and this size of the graph's first input."""
        number = 1 if self.count == "1" else count
        size = (height // self.divisor, width // self.divisor) if self.divisor else (1, 1)
        return number, self.channels, *size


class GraphFile(_Strict):
    """A file with a graph.

    Attributes:
        file: Name in the folder.
        inputs: Inputs, in order.
        output: Name of the only output.
        error: Largest difference from PyTorch with float32 weights, divided by the largest value if that exceeds 1.
        blank_error: The same for images of one value. None in exports of earlier versions.
        weights_error: The same as `error` with weights in the `precision` of the export. None for float32.
    """

    file: str
    inputs: tuple[Input, ...]
    output: str
    error: float
    blank_error: float | None = None
    weights_error: float | None = None


class Description(_Strict):
    """The content of export.json.

    Attributes:
        format: Kind of the files.
        fastmunit: Version that has written them.
        system: System of the model.
        direction: "a2b" or "b2a".
        channels: Channels of the images to translate and of the results.
        value_range: Smallest and largest value of images.
        multiple: Height and width of images must be multiples of this.
        min_size: Minimum height and width of images.
        style_dim: Length of a style code; 0 if there is one output per image.
        styles: Style codes are drawn from N(0, 1) ("normal"), are seeds of noise ("seed"), or do not exist ("none").
        dropout_rate: Masks are 0 with this probability, otherwise 1 / (1 - dropout_rate).
        model_digest: `Translator.digest` of the model, which style files name. Empty in exports of earlier versions.
        precision: Type of the stored weights. Graphs compute in float32.
        checked: Sizes (height, width) and numbers of images or styles with which errors were measured.
        graphs: Files by the names of their graphs: "encode_content", "encode_style" and "decode", or "translate".
        config: Configuration of the training, without the keys that name files.
    """

    format: Format
    fastmunit: str
    system: str
    direction: Literal["a2b", "b2a"]
    channels: tuple[int, int]
    value_range: tuple[float, float] = (-1.0, 1.0)
    multiple: int = Field(gt=0)
    min_size: int = Field(gt=0)
    style_dim: int = Field(ge=0)
    styles: Literal["normal", "seed", "none"]
    dropout_rate: float = Field(ge=0, lt=1)
    model_digest: str = ""
    precision: Precision
    checked: tuple[tuple[int, int, int], ...]
    graphs: dict[str, GraphFile]
    config: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write export.json into a folder."""
        write_text(folder / DESCRIPTION_FILE, self.model_dump_json(indent=1) + "\n")

    def settings(self) -> Config:
        """Return the configuration of the training."""
        return Config.from_dict(self.config, source=DESCRIPTION_FILE)


def is_export(folder: Path) -> bool:
    """Return True if a folder has an export.json."""
    return (folder / DESCRIPTION_FILE).is_file()


def read_description(folder: Path) -> Description:
    """Read the export.json of a folder.

    Raises:
        CheckpointError: If it is missing or damaged, or names a file that is not in the folder.
    """
    path = folder / DESCRIPTION_FILE
    require_regular_file(path, "description of an export", CheckpointError)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
        description = Description.model_validate(json.loads(path.read_text("utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(
            f"{printable(path)} is not a description of this version of fastmunit "
            f"({'.'.join(map(str, first['loc']))}: {first['msg']}): export the model again."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{printable(path)} cannot be read ({error}): export the model again.") from error
    for graph in description.graphs.values():
        if Path(graph.file).name != graph.file:
            raise CheckpointError(f"{printable(path)} names the file {graph.file!r} outside its folder.")
        require_regular_file(folder / graph.file, "exported file", CheckpointError)
    return description
