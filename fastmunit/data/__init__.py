"""Image data: folders and lists, decoding, transforms, training batches, checks, and the built-in demo data."""

from fastmunit.data.adapters import huggingface
from fastmunit.data.datasets import ImageDataset, display_images, test_datasets, training_datasets
from fastmunit.data.demo import unpack_demo, unpack_paired_demo
from fastmunit.data.folders import FoundImages, find_images, input_images, list_images
from fastmunit.data.images import read_image, save_image
from fastmunit.data.sampling import TrainingPairs
from fastmunit.data.sources import ImageSource, ImageSources
from fastmunit.data.validate import check
from fastmunit.data.value_range import PixelValues, ValueRange
from fastmunit.data.verification import verify

__all__ = [
    "FoundImages",
    "ImageDataset",
    "ImageSource",
    "ImageSources",
    "PixelValues",
    "TrainingPairs",
    "ValueRange",
    "check",
    "display_images",
    "find_images",
    "huggingface",
    "input_images",
    "list_images",
    "read_image",
    "save_image",
    "test_datasets",
    "training_datasets",
    "unpack_demo",
    "unpack_paired_demo",
    "verify",
]
