"""Compressed frames of DICOM files that decode to more than the file declares."""

import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from fastmunit.errors import DataError
from fastmunit.image_files.open import open_image
from tests.image_files.encoded_tiffs import read_measured

pydicom = pytest.importorskip("pydicom")
imagecodecs = pytest.importorskip("imagecodecs")
pytest.importorskip("tifffile")

from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

SIDE, LARGE = 16, 20_000
ALLOWED = 20 << 20
"""Bytes that a refused image may take. It would be 380 MiB or more when decoded."""
VALUES = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE)


def write(path: Path, syntax: str, frames: list[bytes], extended: bool = False) -> Path:
    """Write frames of `SIDE` x `SIDE` bytes."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = pydicom.uid.generate_uid()
    dataset.Rows = dataset.Columns = SIDE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.NumberOfFrames = len(frames)
    if extended:
        encoded = pydicom.encaps.encapsulate_extended(frames)
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encoded
    else:
        dataset.PixelData = pydicom.encaps.encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def jpeg2000(side: int = SIDE) -> bytes:
    """Encode an image, and replace the size in its header."""
    data = bytearray(imagecodecs.jpeg2k_encode(VALUES, level=0, codecformat="J2K"))
    for position in (8, 24):
        struct.pack_into(">II", data, position, side, side)
    return bytes(data)


def jpeg(side: int = SIDE) -> bytes:
    """Encode an image, and replace the size in its header."""
    data = bytearray(imagecodecs.jpeg8_encode(VALUES))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, side, side)
    return bytes(data)


def run_length(runs: int) -> bytes:
    """Encode runs of 128 zeros."""
    return struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * runs


@pytest.mark.parametrize("extended", [False, True], ids=["basic offsets", "extended offsets"])
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGBaseline8Bit, RLELossless], ids=lambda uid: uid.keyword)
def test_frames_are_read(tmp_path: Path, syntax: str, extended: bool) -> None:
    encoded = {JPEG2000Lossless: jpeg2000(), JPEGBaseline8Bit: jpeg(), RLELossless: run_length(2)}[syntax]
    expected = np.zeros_like(VALUES) if syntax == RLELossless else VALUES
    with open_image(write(tmp_path / "image.dcm", syntax, [encoded] * 3, extended)) as reader:
        assert reader.planes == 3
        for plane in range(3):
            np.testing.assert_allclose(reader.read(plane=plane)[0].astype(int), expected, atol=20)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of memory is read from /proc")
def test_frames_larger_than_the_file_declares(tmp_path: Path) -> None:
    (warm := tmp_path / "warm").mkdir()
    write(warm / "jpeg.dcm", JPEGBaseline8Bit, [jpeg()])
    write(warm / "jpeg2000.dcm", JPEG2000Lossless, [jpeg2000()])
    write(warm / "rle.dcm", RLELossless, [run_length(2)])
    paths = [
        write(tmp_path / "jpeg.dcm", JPEGBaseline8Bit, [jpeg(LARGE)]),
        write(tmp_path / "jpeg2000.dcm", JPEG2000Lossless, [jpeg2000(LARGE)]),
        # Of this size, Pillow would decode it.
        write(tmp_path / "smaller.dcm", JPEG2000Lossless, [jpeg2000(12_000)]),
        write(tmp_path / "extended.dcm", JPEGBaseline8Bit, [jpeg(LARGE)], extended=True),
        write(tmp_path / "rle.dcm", RLELossless, [run_length(3 << 20)]),
    ]
    for path, (text, grown) in zip(paths, read_measured(warm, paths), strict=True):
        assert re.search(rf"{path.name}: a frame decodes to .* that the file|where the file declares 16 x 16", text)
        assert grown < ALLOWED, path.name


def test_any_frame_is_checked(tmp_path: Path) -> None:
    path = write(tmp_path / "image.dcm", JPEGBaseline8Bit, [jpeg(), jpeg(LARGE)])
    with open_image(path) as reader:
        assert reader.read().shape == (1, SIDE, SIDE)
        with pytest.raises(DataError, match=r"image\.dcm: a frame decodes to 20,000 x 20,000 pixels of 1 samples"):
            reader.read(plane=1)


def test_frames_with_a_length(tmp_path: Path) -> None:
    """Compressed pixels have none. With one, those of colors that are not read as they are were not checked."""
    path = write(tmp_path / "image.dcm", JPEGBaseline8Bit, [jpeg(LARGE)])
    data = path.read_bytes().replace(b"MONOCHROME2 ", b"YBR_FULL    ")
    at = data.index(b"\xe0\x7f\x10\x00OB\0\0") + 8
    content = data[at + 4 : -8]
    path.write_bytes(data[:at] + struct.pack("<I", len(content)) + content)
    with open_image(path) as reader, pytest.raises(DataError, match=r"image\.dcm: a frame decodes to 20,000"):
        reader.read()


def test_damaged_run_lengths(tmp_path: Path) -> None:
    path, good = tmp_path / "image.dcm", run_length(2)
    with open_image(write(path, RLELossless, [good + b"\x80" * 100])) as reader:  # they mean nothing
        assert not reader.read().any()
    for frame in (good[:40], struct.pack("<I", 99) + good[4:], good[:66], good[:4] + b"\xff" * 4 + good[8:]):
        with open_image(write(path, RLELossless, [frame])) as reader, pytest.raises(DataError, match=r"image\.dcm"):
            reader.read()


def test_deflated_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "image.dcm", JPEGBaseline8Bit, [jpeg()])
    dataset = pydicom.dcmread(path)
    dataset.decompress()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    with pytest.raises(DataError, match=r"image\.dcm: it is deflated as a whole"):
        open_image(path)
