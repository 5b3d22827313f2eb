"""Style codes of images: extraction, banks, neighbors, directions, inversion, and how Gaussian they are."""

from fastmunit.styles.bank import Bank, make_bank
from fastmunit.styles.directions import Directions, principal_directions
from fastmunit.styles.distribution import DistributionCheck, check_distribution
from fastmunit.styles.extract import ExtractedStyles, extract, training_styles
from fastmunit.styles.inversion import Inversion, invert
from fastmunit.styles.nearest import Neighbor, nearest
from fastmunit.styles.sampling import draw_from_file, set_style_distribution
from fastmunit.systems.style_distributions import FittedNormal, GivenStyles
from fastmunit.translation.interpolation import interpolate
from fastmunit.translation.style_file import StyleModel, Styles, read_styles, write_styles

__all__ = [
    "Bank",
    "Directions",
    "DistributionCheck",
    "ExtractedStyles",
    "FittedNormal",
    "GivenStyles",
    "Inversion",
    "Neighbor",
    "StyleModel",
    "Styles",
    "check_distribution",
    "draw_from_file",
    "extract",
    "interpolate",
    "invert",
    "make_bank",
    "nearest",
    "principal_directions",
    "read_styles",
    "set_style_distribution",
    "training_styles",
    "write_styles",
]
