"""Adapters that make datasets of other libraries image sources."""

from __future__ import annotations

from typing import Any

from fastmunit.data.values import ImageLike
from fastmunit.errors import DataError
from fastmunit.section import brief


def huggingface(dataset: Any, column: str = "image") -> HuggingFaceImages:
    """Return a column of a Hugging Face dataset as images to train on.

    Args:
        dataset: A `datasets.Dataset`: one split, not streamed. `load_dataset` also reads local files:
            `load_dataset("parquet", data_files="cats.parquet", split="train")`, or "imagefolder".
        column: Name of a column of images or paths.

    Raises:
        DataError: If `dataset` has no index or no such column.
    """
    return HuggingFaceImages(dataset, column)


class HuggingFaceImages:
    """An `ImageSource` of one column; see `huggingface`. Other columns are not decoded.

    Attributes:
        fingerprint: Fingerprint of the dataset, which depends on its files, their paths, and its transforms.
    """

    def __init__(self, dataset: Any, column: str) -> None:
        columns = getattr(dataset, "column_names", None)
        if isinstance(columns, dict):
            raise DataError(f"the dataset has the splits {', '.join(columns)}: give one, such as dataset['train'].")
        if not hasattr(dataset, "__len__") or not isinstance(columns, list):
            raise DataError(
                f"a {type(dataset).__name__} has no index: give a datasets.Dataset, loaded without streaming=True."
            )
        if column not in columns:
            raise DataError(f"the dataset has no column {brief(column)}: give one of {', '.join(columns)}.")
        self._column = column
        self._dataset = dataset.select_columns([column])
        # The library has no public name for it.
        self.fingerprint: str | None = getattr(self._dataset, "_fingerprint", None)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int, /) -> ImageLike:
        return self._dataset[index][self._column]
