"""Requests and answers of the server, as its OpenAPI description has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import UploadFile
from pydantic import BaseModel, Field

Direction = Literal["a2b", "b2a"]
StyleValue = float | str
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def _without_null(schema: dict[str, Any]) -> None:
    """Remove null, which no form can contain, from the schemas of optional fields."""
    for field in schema["properties"].values():
        if "anyOf" in field:
            field.update(next(option for option in field.pop("anyOf") if option != {"type": "null"}))


class TranslateForm(BaseModel, extra="forbid", json_schema_extra=_without_null):
    """The fields of a request for translations.

    Styles are random (`styles` and `seed`), given (`codes`), or that of a picture (`reference`).
    """

    image: Annotated[UploadFile, Field(description="Picture to translate: PNG, JPEG, WebP, GIF or BMP.")]
    direction: Annotated[Direction | None, Field(description="From domain A to B (a2b, the default) or back.")] = None
    styles: Annotated[int | None, Field(ge=1, le=2**31, description="Number of random styles (1 by default).")] = None
    seed: Annotated[Seed | None, Field(description="Seed of the random styles (0 by default).")] = None
    codes: Annotated[
        str | None,
        Field(
            description="Style values, as `/styles` returns them: a JSON list of styles, each of `style_dim` numbers.",
            examples=["[[0.5, -1, 0, 0, 1, 0, 0, 2]]"],
        ),
    ] = None
    reference: Annotated[UploadFile | None, Field(description="Picture of the target domain whose style is used.")] = (
        None
    )
    size: Annotated[
        int | None, Field(ge=1, le=2**16, description="Resize the shortest side to this many pixels first.")
    ] = None
    output: Annotated[
        Literal["png", "json"] | None,
        Field(description="A PNG (the default for one style), or JSON with a PNG per style (for several)."),
    ] = None


class Translation(BaseModel):
    """A translation in one style."""

    png: Annotated[str, Field(description="The image as a PNG, in base64.")]
    style: Annotated[list[StyleValue], Field(description="Values of the style, for `codes`.")]


class Translations(BaseModel):
    """The translations of an image."""

    direction: Direction
    height: int
    width: int
    images: list[Translation]


class Styles(BaseModel):
    """Random styles."""

    direction: Direction
    seed: int
    styles: Annotated[list[list[StyleValue]], Field(description="Values of each style, for `codes`.")]


class NamedStyles(BaseModel):
    """Styles of a file."""

    direction: Direction
    names: Annotated[list[str], Field(description="Name of each style, or its number.")]
    styles: Annotated[list[list[StyleValue]], Field(description="Values of each style, for `codes`.")]


class DirectionInfo(BaseModel):
    """One direction of the model."""

    channels: Annotated[
        int, Field(description="Channels of images to translate; uploads are converted to gray or RGB.")
    ]
    target_channels: Annotated[int, Field(description="Channels of translations.")]
    style_dim: Annotated[int, Field(description="Values per style; 0 if there is one translation per image.")]
    style_values: Annotated[
        Literal["numbers", "integers"], Field(description="Integers are seeds of noise, as strings of digits.")
    ]
    takes_references: bool


class SizeRules(BaseModel):
    """The sizes of images that are translated: any, up to a number of pixels."""

    trained: Annotated[tuple[int, int], Field(description="Height and width that the model was trained on.")]
    max_pixels: Annotated[int, Field(description="Pixels of an image, after the resize to `size`.")]
    max_upload_pixels: Annotated[int, Field(description="Pixels of a picture before it.")]
    max_upload_bytes: Annotated[int, Field(description="Bytes of a request.")]


class QueueInfo(BaseModel):
    """The queue of the model."""

    length: Annotated[int, Field(description="Requests that wait or are computed.")]
    limit: int


class Health(BaseModel):
    """The state of the server."""

    ready: bool
    version: str
    model: str
    system: str
    directions: dict[str, DirectionInfo]
    size: SizeRules
    max_styles: Annotated[int, Field(description="Styles per request.")]
    queue: QueueInfo
    token_required: bool


class Problem(BaseModel):
    """A reason why a request was refused or failed."""

    detail: str
