"""Writing of DICOM files and series as images derived from another one."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np

from fastmunit.errors import DataError
from fastmunit.files import atomic_write, printable
from fastmunit.image_files.dicom_reader import DicomReader
from fastmunit.image_files.dicom_slices import DicomFile
from fastmunit.image_files.folders import require_free, staged_folder
from fastmunit.image_files.packages import needed
from fastmunit.image_files.rescale import Rescale, limits
from fastmunit.image_files.staging import Staging
from fastmunit.image_files.writer import ImageWriter

_MAX_PIXEL_BYTES = 0xFFFFFFFE
# Elements that describe the pixels of the other image: extremes, icon, signatures.
_STALE = (
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "IconImageSequence",
    "MACParametersSequence",
    "DigitalSignaturesSequence",
)
_WINDOW = ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTSequence", "VOILUTFunction")
_GRAY = ("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "RescaleType", *_WINDOW)


class DicomWriter(ImageWriter):
    """A DICOM file, or a folder with a series, derived from another one.

    Data of patient, study, equipment and geometry are kept. Series and instances get new UIDs, the image type is
    DERIVED and SECONDARY, and each instance refers to the one that it was derived from. Gray values are stored with the
    type and rescaling of the other image if they fit, otherwise with one that fits. Pixels are not compressed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        like: DicomReader,
        channels: int,
        dtype: np.dtype,
        channel_names: tuple[str, ...],
    ) -> None:
        self._like = like
        self._stored = like.stored_dtype if channels == 1 and like.channels == 1 else np.dtype(dtype)
        if channels == 1 and like.channels > 1 and self._stored.kind == "f":
            self._stored = np.dtype(np.uint16)
        same = self._stored == like.stored_dtype and channels == like.channels
        self._bits = like.stored_bits if same else self._stored.itemsize * 8
        super().__init__(path, like, channels, dtype, channel_names)

    def _prepare(self) -> None:
        if self.channels not in (1, 3) or (self.channels == 3 and self.dtype not in (np.uint8, np.uint16)):
            raise DataError(
                f"{printable(self.path)}: DICOM stores 1 channel, or 3 of uint8 or uint16, got {self.channels} of "
                f"{self.dtype.name}: write NIfTI or TIFF instead."
            )
        frames = max(len(file.rescales) for file in self._like.files)
        if frames * self.height * self.width * self.channels * self._stored.itemsize > _MAX_PIXEL_BYTES:
            raise DataError(f"{printable(self.path)}: a DICOM file holds at most {_MAX_PIXEL_BYTES:,} bytes of pixels.")
        if self._like.is_series:
            require_free(self.path)

    def _encode(self, pixels: Staging) -> None:
        self._pydicom = pydicom = needed("pydicom", "dicom", "a DICOM file")
        series = pydicom.uid.generate_uid()
        bounds = limits(self._stored, self._bits)
        rescales = {self._like.rescale(plane) for plane in range(self.planes)}
        if any(rescale.fitted(self.low, self.high, *bounds) != rescale for rescale in rescales):
            self._bits = self._stored.itemsize * 8  # other values need another rescaling, as fine as there is
        if not self._like.is_series:
            self._write_file(self._like.files[0], self.path, 0, pixels, series)
            return
        with staged_folder(self.path) as folder:
            for plane, file in enumerate(self._like.files):
                self._write_file(file, folder / file.path.name, plane, pixels, series)

    def _write_file(self, source: DicomFile, path: Path, first: int, pixels: Staging, series: str) -> None:
        pydicom = self._pydicom
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(source.path, stop_before_pixels=True)
            dataset.decode()  # elements of other encodings
            self._derive(dataset, series)
            frames = range(first, first + len(source.rescales))
            rescales = [self._set_rescale(dataset, self._like.rescale(plane)) for plane in frames]
            self._set_format(dataset)
            with tempfile.TemporaryFile(dir=self.path.parent) as file:
                for plane, rescale in zip(frames, rescales, strict=True):
                    self._write_frame(file, plane, rescale, pixels)
                if file.tell() % 2:
                    file.write(b"\0")
                file.seek(0)
                dataset.add_new(0x7FE00010, "OB" if self._stored.itemsize == 1 else "OW", file)
                with atomic_write(path) as target:
                    pydicom.dcmwrite(target, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)

    def _write_frame(self, file: IO[bytes], plane: int, rescale: Rescale | None, pixels: Staging) -> None:
        low, high = limits(self._stored, self._bits)
        for band in pixels.bands(plane):
            stored = band if rescale is None else rescale.encode(band, self._stored, low, high)
            file.write(np.ascontiguousarray(stored.transpose(1, 2, 0), self._stored.newbyteorder("<")).data)

    def _derive(self, dataset: Any, series: str) -> None:
        """Make a dataset one of a derived image in a new series."""
        pydicom = self._pydicom
        reference = pydicom.Dataset()
        reference.ReferencedSOPClassUID = dataset.SOPClassUID
        reference.ReferencedSOPInstanceUID = dataset.get("SOPInstanceUID", pydicom.uid.generate_uid())
        dataset.SourceImageSequence = [reference]
        kind = list(dataset.get("ImageType") or [])
        dataset.ImageType = ["DERIVED", "SECONDARY", *kind[2:]]
        dataset.DerivationDescription = "Translated with fastmunit"
        description = str(dataset.get("SeriesDescription") or "").strip()
        dataset.SeriesDescription = f"{description[:51]} (translated)".strip()
        dataset.SeriesInstanceUID = series
        dataset.SOPInstanceUID = pydicom.uid.generate_uid()
        for name in _STALE:
            if name in dataset:
                delattr(dataset, name)
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.file_meta = meta

    def _set_rescale(self, dataset: Any, like: Rescale) -> Rescale | None:
        """Set slope, intercept and window. Return the rescaling, or None for colors, which have none."""
        if self.channels > 1:
            for name in _GRAY:
                if name in dataset:
                    delattr(dataset, name)
            return None
        low, high = limits(self._stored, self._bits)
        fitted = like.fitted(self.low, self.high, low, high)
        if fitted == like:
            return like
        valuerep = self._pydicom.valuerep
        slope, intercept = (valuerep.DSfloat(value, auto_format=True) for value in fitted)
        for group in self._rescale_groups(dataset):
            group.RescaleSlope, group.RescaleIntercept = slope, intercept
        for name in ("PixelPaddingValue", "PixelPaddingRangeLimit", *_WINDOW):
            if name in dataset:
                delattr(dataset, name)
        dataset.WindowCenter = valuerep.DSfloat((self.low + self.high) / 2, auto_format=True)
        dataset.WindowWidth = valuerep.DSfloat(max(self.high - self.low, 1), auto_format=True)
        return Rescale(float(slope), float(intercept))

    def _rescale_groups(self, dataset: Any) -> list[Any]:
        """Return the datasets that hold the slope: functional groups of enhanced files, or the dataset itself."""
        groups = [
            group.PixelValueTransformationSequence[0]
            for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
            for group in dataset.get(name) or ()
            if group.get("PixelValueTransformationSequence")
        ]
        return groups or [dataset]

    def _set_format(self, dataset: Any) -> None:
        """Describe how the pixels are stored."""
        dataset.SamplesPerPixel = self.channels
        kind = str(dataset.get("PhotometricInterpretation", ""))
        if self.channels == 3:
            dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
        else:
            dataset.PhotometricInterpretation = kind if kind.startswith("MONOCHROME") else "MONOCHROME2"
            if "PlanarConfiguration" in dataset:
                del dataset.PlanarConfiguration
        dataset.BitsAllocated = self._stored.itemsize * 8
        dataset.BitsStored, dataset.HighBit = self._bits, self._bits - 1
        dataset.PixelRepresentation = int(self._stored.kind == "i")
