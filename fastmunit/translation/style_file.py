"""Style files: safetensors files with a tensor `styles` (S, style_dim, 1, 1), and names and the model as metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fastmunit.errors import DataError
from fastmunit.files import atomic_write, printable, require_regular_file, unicode_path
from fastmunit.systems.code_checks import require_codes
from fastmunit.systems.translators import Translator

SUFFIX = ".safetensors"
_KEY, _NAMES, _MODEL = "styles", "names", "model"


@dataclass(frozen=True)
class StyleModel:
    """The model whose style encoder has computed style codes.

    Attributes:
        name: Name of the run folder, model or file, for messages.
        direction: "a2b" or "b2a".
        digest: `Translator.digest`.
    """

    name: str
    direction: str
    digest: str

    @classmethod
    def of(cls, translator: Translator, name: str = "") -> StyleModel:
        """Describe a translator. Without a name, it has the title of the model, or the name of its system."""
        title = translator.about.title if translator.about is not None else ""
        system = "a model" if translator.config is None else f"a {translator.config.system} model"
        return cls(name or title or system, translator.direction or "a2b", translator.digest())

    def __str__(self) -> str:
        """Return the name, the direction and the first digits of the digest."""
        return f"{printable(self.name)} ({printable(self.direction)}, weights {printable(self.digest[:8])})"


@dataclass(frozen=True)
class Styles:
    """The content of a style file.

    Attributes:
        codes: Style codes (S, style_dim, 1, 1).
        names: One name per code, or no names.
        model: The model that they belong to. None if the file does not say.
    """

    codes: Tensor
    names: Sequence[str] = ()
    model: StyleModel | None = None

    def label(self, index: int) -> str:
        """Return the name of a style as printable text, or its number."""
        return printable(self.names[index]) if self.names else f"style {index}"


def read_styles(path: str | os.PathLike[str]) -> Styles:
    """Read a style file.

    Raises:
        DataError: If the file is missing or damaged, or is not a style file.
    """
    require_regular_file(path, "styles file", DataError)
    try:
        with unicode_path(path) as readable, safe_open(readable, framework="pt") as file:
            keys, metadata = list(file.keys()), file.metadata() or {}
            codes = file.get_tensor(_KEY) if _KEY in keys else None
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"styles file {printable(path)} is damaged or not a safetensors file ({reason[:200]}): replace it."
        ) from error
    if codes is None:
        held = ", ".join(repr(key) for key in keys[:3]) or "nothing"
        raise DataError(
            f"styles file {printable(path)} has no tensor {_KEY!r} (it holds {held[:200]}): give a file of style codes."
        )
    try:
        require_codes(codes, repr(_KEY), kind="any")
    except DataError as error:
        raise DataError(f"styles file {printable(path)}: {error}.") from error
    return Styles(codes, _names(metadata.get(_NAMES), len(codes), path), _model(metadata.get(_MODEL), path))


def write_styles(
    path: str | os.PathLike[str], codes: Tensor, names: Sequence[str] = (), model: StyleModel | None = None
) -> None:
    """Write a style file atomically.

    Args:
        path: The file, usually with the suffix .safetensors.
        codes: Style codes (S, style_dim, 1, 1).
        names: One name per code, or none.
        model: The model that the codes belong to. Other models refuse the file. None leaves it open.

    Raises:
        DataError: If `read_styles` would refuse the file.
        FastmunitError: If the file cannot be written.
    """
    require_codes(codes, "codes", kind="any")
    if names and (isinstance(names, str) or len(names) != len(codes)):
        raise DataError(f"expected {len(codes)} names, one per code, got {1 if isinstance(names, str) else len(names)}")
    if odd := [name for name in names if not isinstance(name, str)]:
        raise DataError(f"expected strings as names, got {type(odd[0]).__name__}")
    metadata = {_NAMES: json.dumps(list(names))} if names else {}
    if model is not None:
        metadata[_MODEL] = json.dumps(asdict(model))
    with atomic_write(Path(path)) as file:
        file.write(save({_KEY: codes.detach().cpu().contiguous()}, metadata))


def require_same_model(styles: Styles, translator: Translator, path: str | os.PathLike[str]) -> None:
    """Check that a style file does not name another model than a translator.

    A file without a model, and an export of an earlier version, which does not know its model, are not refused.

    Raises:
        DataError: If it does.
    """
    if styles.model is None:
        return
    digest = translator.digest()
    if digest and digest != styles.model.digest:
        here = StyleModel.of(translator)
        other = styles.model.direction
        again = "make the file again with this model (`fastmunit styles`)"
        first = again if translator.takes_references else "give the model that it was made with"
        way = f", or use it for the direction {printable(other)}" if other != here.direction else ""
        raise DataError(
            f"styles file {printable(path)} was made with {styles.model}, and style codes mean something else to "
            f"{here}: {first}{way}."
        )


def _names(text: str | None, count: int, path: str | os.PathLike[str]) -> list[str]:
    if text is None:
        return []
    names = _json(text, _NAMES, "list", path)
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"styles file {printable(path)}: {_NAMES!r} in its metadata must be a JSON list of {count} strings."
        )
    return names


def _model(text: str | None, path: str | os.PathLike[str]) -> StyleModel | None:
    if text is None:
        return None
    content = _json(text, _MODEL, "object", path)
    keys = [field.name for field in fields(StyleModel)]
    if not isinstance(content, dict) or not all(isinstance(content.get(key), str) for key in keys):
        raise DataError(
            f"styles file {printable(path)}: {_MODEL!r} in its metadata must be a JSON object with {', '.join(keys)}."
        )
    return StyleModel(**{key: content[key] for key in keys})


def _json(text: str, key: str, kind: str, path: str | os.PathLike[str]) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"styles file {printable(path)}: {key!r} in its metadata is not a JSON {kind}.") from error


def as_codes(codes: Tensor, style_dim: int, example: Tensor, name: str) -> Tensor:
    """Convert style codes to the device and dtype of `example`, a code that the model has drawn.

    Raises:
        DataError: If the shape is not the model's, only one of codes and example is of integers, or a code is not
            finite in the model's dtype.
    """
    kind = "float" if example.is_floating_point() else "integer"
    require_codes(codes, name, style_dim, kind)
    converted = codes.to(example)
    require_codes(converted, name, style_dim, kind)
    return converted
