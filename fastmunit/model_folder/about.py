"""Facts about a trained model, for its model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fastmunit.section import Section

_Line = Annotated[str, Field(max_length=1000)]
_Text = Annotated[str, Field(max_length=20_000)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_LocalFile = Annotated[Path | None, Field(exclude=True)]


class Metric(Section):
    """A score of an evaluation. `low` and `high` are the ends of its confidence interval, or None."""

    direction: Literal["a2b", "b2a"]
    name: _Line
    value: _Number
    low: _Number | None = None
    high: _Number | None = None
    better: Literal["higher", "lower", ""] = ""


class About(Section):
    """Facts about a trained model. Assigning a wrong value raises ConfigError.

    Attributes:
        title: Heading of the card. Empty for the name of the folder.
        description: Text below the heading, in Markdown.
        data: Images that the model was trained on, and where they come from.
        license: License of the weights, such as "cc-by-sa-4.0".
        iterations: Iterations of the training.
        metrics: Scores.
        public_weights: The weights come from a file of the public trainer, whose license is non-commercial.
        picture: A PNG or JPEG file with samples, which is copied into the folder.
        data_license: A text file with the license of the data, which is copied into the folder.
    """

    title: _Line = ""
    description: _Text = ""
    data: _Line = ""
    license: _Line = ""
    iterations: Annotated[int, Field(ge=0)] | None = None
    metrics: Annotated[tuple[Metric, ...], Field(max_length=1000)] = ()
    public_weights: bool = False
    picture: _LocalFile = None
    data_license: _LocalFile = None

    def with_changes(self, changes: About | None) -> About:
        """Return a copy with the values that were given to `changes`."""
        given = {} if changes is None else {key: getattr(changes, key) for key in changes.model_fields_set}
        return self.model_copy(update=given)
