"""Options about style codes that several commands share."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fastmunit.config import Config
    from fastmunit.systems.translators import Translator


class Interpolation(str, Enum):
    """The way from one style to another."""

    linear = "linear"
    spherical = "spherical"


StyleDistributionOption = Annotated[
    str,
    typer.Option(
        "--style-distribution",
        help="Draw random styles from N(0, I); from the normal distribution fitted to the styles of the training "
        "images (encoded); or from the one fitted to the codes of this styles file.",
        metavar="normal|encoded|FILE",
        rich_help_panel="Style",
    ),
]


def use_style_distribution(translator: "Translator", choice: str, settings: "Config") -> None:
    """Let a translator draw styles as the option says. Raises FastmunitError if it cannot."""
    if choice != "normal":
        from fastmunit.styles.sampling import set_style_distribution

        with encoding_bar() as advance:
            set_style_distribution(translator, choice, settings, advance)


def use_style_distributions(translators: "Mapping[str, Translator]", choice: str) -> None:
    """Let the translators of a model, by direction, draw styles as the option says; with a file, that of its direction.

    Raises FastmunitError if they cannot.
    """
    if choice in ("normal", "encoded"):
        chosen = list(translators)
    else:
        from fastmunit.files import expand
        from fastmunit.translation.styles import styles_by_direction

        chosen = list(styles_by_direction(expand(choice), translators))
    for direction in chosen:
        settings = translators[direction].config
        assert settings is not None
        use_style_distribution(translators[direction], choice, settings)


@contextmanager
def encoding_bar(text: str = "encoding styles") -> Iterator[Callable[[float], object]]:
    """Show a progress bar of images that are encoded, and yield a function that sets the part that is done."""
    from tqdm import tqdm

    layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}"
    with tqdm(total=1.0, bar_format=layout, disable=None, leave=False, delay=1) as bar:
        bar.set_description_str(text)

        def advance(done: float) -> None:
            bar.update(done - bar.n)

        yield advance
