from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastmunit.errors import DataError
from fastmunit.image_files.open import is_image_file, open_image, writer_like
from tests.image_files.images import WIDTH, check_reading, copied, pixels, whole

pydicom = pytest.importorskip("pydicom", minversion="3")

COUNT = 5


def dataset(image: np.ndarray, **values: Any) -> Any:
    """Return a CT slice with 12 of 16 bits and Hounsfield units."""
    found = pydicom.Dataset()
    found.file_meta = pydicom.dataset.FileMetaDataset()
    found.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    found.StudyInstanceUID, found.SeriesInstanceUID, found.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.5"
    found.PatientName, found.PatientID, found.StudyDate, found.Modality = "Doe^Jane", "P1", "20200102", "CT"
    found.ImageType, found.SeriesDescription = ["ORIGINAL", "PRIMARY", "AXIAL"], "Thorax"
    found.PixelSpacing, found.SliceThickness, found.ImageOrientationPatient = [0.7, 0.8], 5, [1, 0, 0, 0, 1, 0]
    found.Rows, found.Columns = image.shape[:2]
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 16, 12, 11, 0
    found.RescaleSlope, found.RescaleIntercept, found.PixelPaddingValue = 1, -1024, 0
    found.WindowCenter, found.WindowWidth = [40, 600], [400, 1600]
    found.PixelData = image.tobytes()
    for name, value in values.items():
        setattr(found, name, value)
    return found


def series(folder: Path, change: Callable[[int, Any], object] = lambda index, slice_: None) -> np.ndarray:
    """Write a series whose file names and numbers are not in the order of the positions. Return its stored values.

    Args:
        folder: Folder to create.
        change: Function that changes a slice. If it returns False, the slice is left out.
    """
    folder.mkdir()
    stored = pixels(COUNT, 1) + np.arange(COUNT, dtype=np.uint16)[:, None, None, None]
    for index in range(COUNT):
        position = [-100.0, -90.0, 12.5 + 5 * index]
        slice_ = dataset(stored[index, 0], ImagePositionPatient=position, InstanceNumber=COUNT - index)
        if change(index, slice_) is not False:
            slice_.save_as(folder / f"im{index * 3 % COUNT}", enforce_file_format=True)
    return stored


def test_series(tmp_path: Path) -> None:
    stored = series(tmp_path / "ct")
    (tmp_path / "ct" / "notes.txt").write_text("not an image")
    assert is_image_file(tmp_path / "ct")
    check_reading(tmp_path / "ct", stored.astype(np.int16) - 1024)
    with open_image(tmp_path / "ct") as reader:
        assert (reader.bits, reader.value_range, reader.window) == (12, (-1024.0, 3071.0), (-160.0, 240.0))
        assert (reader.dtype, reader.stored_dtype, reader.nodata) == (np.int16, np.uint16, -1024.0)


def test_written_series_is_derived(tmp_path: Path) -> None:
    stored = series(tmp_path / "ct")
    copied(tmp_path / "ct", tmp_path / "copy")
    before, after = (
        {path.name: pydicom.dcmread(path) for path in (tmp_path / name).iterdir()} for name in ("ct", "copy")
    )
    assert before.keys() == after.keys()
    assert len({found.SOPInstanceUID for found in after.values()}) == COUNT
    assert len({found.SeriesInstanceUID for found in after.values()} | {"1.2.3.4"}) == 2
    for name, found in after.items():
        source = before[name]
        kept = ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "FrameOfReferenceUID", "PixelSpacing")
        geometry = ("ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "InstanceNumber")
        values = ("RescaleSlope", "RescaleIntercept", "BitsStored", "PixelRepresentation", "WindowCenter")
        for element in (*kept, *geometry, *values):
            assert found[element].value == source[element].value, element
        assert list(found.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
        assert found.SeriesDescription == "Thorax (translated)"
        (reference,) = found.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID != found.SOPInstanceUID
        assert found.file_meta.MediaStorageSOPInstanceUID == found.SOPInstanceUID
        np.testing.assert_array_equal(found.pixel_array, source.pixel_array)
    assert whole(open_image(tmp_path / "copy")).shape == stored.shape


def test_values_that_need_another_rescaling(tmp_path: Path) -> None:
    series(tmp_path / "ct")
    with open_image(tmp_path / "ct") as reader:
        values = whole(reader).astype(np.float32) * 7.3
        with writer_like(reader, tmp_path / "copy", 1, "float32") as writer:
            for plane, value in enumerate(values):
                writer.write(value, plane=plane)
    found = pydicom.dcmread(tmp_path / "copy" / "im0")
    assert (found.BitsAllocated, found.BitsStored, found.PixelRepresentation) == (16, 16, 0)
    assert float(found.WindowCenter) == pytest.approx((values.min() + values.max()) / 2)
    with open_image(tmp_path / "copy") as reader:
        np.testing.assert_allclose(whole(reader), values, atol=0.51 * float(found.RescaleSlope))
        assert float(found.RescaleSlope) < 0.04


def test_gray_to_color(tmp_path: Path) -> None:
    series(tmp_path / "ct")
    values = copied(tmp_path / "ct", tmp_path / "copy", channels=3, dtype="uint8")
    check_reading(tmp_path / "copy", values)
    found = pydicom.dcmread(tmp_path / "copy" / "im0")
    assert (found.PhotometricInterpretation, found.SamplesPerPixel, found.BitsStored) == ("RGB", 3, 8)
    assert "RescaleSlope" not in found and "WindowCenter" not in found
    np.testing.assert_array_equal(found.pixel_array.transpose(2, 0, 1), values[0])
    with (
        open_image(tmp_path / "ct") as reader,
        pytest.raises(DataError, match=r"DICOM stores 1 channel, or 3 of uint8"),
    ):
        writer_like(reader, tmp_path / "other", 2, "uint8")


def move(index: int, slice_: Any) -> None:
    slice_.ImagePositionPatient = [0, 0, 5.0 * index + 2 * (index == 2)]


def tilt(index: int, slice_: Any) -> None:
    slice_.ImageOrientationPatient = [1, 0, 0, 0, 0.9, 0.1] if index == 2 else [1, 0, 0, 0, 1, 0]


def shrink(index: int, slice_: Any) -> None:
    if index == 3:
        slice_.Rows, slice_.PixelData = 5, slice_.PixelData[: 5 * WIDTH * 2]


def unplace(index: int, slice_: Any) -> None:
    del slice_.ImagePositionPatient, slice_.InstanceNumber


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index, slice_: index != 3, r"slices are missing: .* are 10 mm apart, others 5 mm"),
        (move, r"the spacings are mixed: .* 7 mm apart, others 5 mm"),
        (tilt, r"has ImageOrientationPatient"),
        (shrink, r"has Rows 5, and im\d has 37|has Rows 37, and im\d has 5"),
        (lambda index, slice_: setattr(slice_, "PixelSpacing", [0.7, 0.8 + (index == 1)]), r"has PixelSpacing"),
        (lambda index, slice_: setattr(slice_, "BitsStored", 12 + (index == 1)), r"has BitsStored|lowest bit"),
        (lambda index, slice_: setattr(slice_, "SeriesInstanceUID", f"1.{index % 2 + 1}"), r"has SeriesInstanceUID"),
        (lambda index, slice_: setattr(slice_, "ImagePositionPatient", [0, 0, index % 3]), r"have the same position"),
        (unplace, r"an ImagePositionPatient or an InstanceNumber, which some lack"),
        (lambda index, slice_: setattr(slice_, "RescaleSlope", 0), r"expected a rescale slope other than 0"),
    ],
)
def test_series_that_is_no_volume(tmp_path: Path, change: Callable[[int, Any], object], message: str) -> None:
    series(tmp_path / "ct", change)
    with pytest.raises(DataError, match=message):
        open_image(tmp_path / "ct")


def test_rescaling_of_each_slice(tmp_path: Path) -> None:
    def change(index: int, slice_: Any) -> None:
        slice_.RescaleSlope = 0.5 + index

    stored = series(tmp_path / "pet", change)
    slopes = np.arange(COUNT)[:, None, None, None] + 0.5
    check_reading(tmp_path / "pet", (stored * slopes - 1024).astype(np.float32))


@pytest.mark.parametrize("planar", [0, 1])
def test_one_file_of_color_frames(tmp_path: Path, planar: int) -> None:
    frames = pixels(2, 3, dtype="uint8")
    stored = frames if planar else frames.transpose(0, 2, 3, 1)
    found = dataset(frames[0, 0], NumberOfFrames=2, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    found.PlanarConfiguration, found.PixelRepresentation = planar, 0
    found.BitsAllocated, found.BitsStored, found.HighBit = 8, 8, 7
    found.PixelData = stored.tobytes()
    found.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    check_reading(tmp_path / "image.dcm", frames)
    copied(tmp_path / "image.dcm", tmp_path / "copy.dcm")
    after = pydicom.dcmread(tmp_path / "copy.dcm")
    np.testing.assert_array_equal(after.pixel_array, frames.transpose(0, 2, 3, 1))


def test_bits_above_the_value_are_ignored(tmp_path: Path) -> None:
    stored = pixels()
    overlay = dataset(stored | 0xF000)
    overlay.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    check_reading(tmp_path / "image.dcm", (stored.astype(np.int16) - 1024)[None, None])
    signed = dataset((pixels().astype(np.int16) - 100) & 0x0FFF, PixelRepresentation=1)
    signed.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    check_reading(tmp_path / "image.dcm", (pixels().astype(np.int16) - 100 - 1024)[None, None])


@pytest.mark.parametrize(
    "name",
    [
        *("CT_small", "MR_small", "MR_small_RLE", "MR_small_bigendian", "MR_small_implicit", "SC_rgb_rle_2frame"),
        *("SC_rgb_small_odd_big_endian", "SC_ybr_full_422_uncompressed", "JPEG2000", "examples_overlay", "rtdose"),
    ],
)
def test_files_of_other_tools(tmp_path: Path, name: str) -> None:
    path = Path(pydicom.data.get_testdata_file(f"{name}.dcm"))
    source = pydicom.dcmread(path)
    expected = source.pixel_array
    with open_image(path) as reader:
        values = whole(reader)
        order = (0, 3, 1, 2) if reader.channels == 3 else (0, 1, 2, 3)
        shaped = expected.reshape(reader.planes, reader.height, reader.width, reader.channels)
        expected = shaped.transpose(order).reshape(values.shape)
        assert reader.height == source.Rows
    slope, intercept = float(source.get("RescaleSlope", 1)), float(source.get("RescaleIntercept", 0))
    np.testing.assert_array_equal(values, expected * slope + intercept)
    copied(path, tmp_path / "copy.dcm")
    after = pydicom.dcmread(tmp_path / "copy.dcm")
    np.testing.assert_array_equal(after.pixel_array.reshape(-1), source.pixel_array.reshape(-1))
    assert after.get("PatientID") == source.get("PatientID")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MR_small_jpeg_ls_lossless", r"compressed as JPEG-LS Lossless .* which needs a decoder that is not installed"),
        ("image_dfl", "deflated as a whole"),
        ("examples_palette", "expected gray or RGB values, got PALETTE COLOR"),
        ("liver_1frame", "expected 8, 16 or 32 bits per value, got 1"),
        ("MR_truncated", "is truncated: expected at least 9,692 bytes"),
        ("rtplan", "without an image"),
    ],
)
def test_files_that_are_not_read(name: str, message: str) -> None:
    path = Path(pydicom.data.get_testdata_file(f"{name}.dcm"))
    if "JPEG-LS" in message and pydicom.pixels.get_decoder(pydicom.uid.JPEGLSLossless).is_available:
        pytest.skip("a decoder is installed")
    with pytest.raises(DataError, match=message), open_image(path) as reader:
        reader.read()


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("x")
    assert not is_image_file(tmp_path / "folder")
    with pytest.raises(DataError, match=r"is a folder, not a regular file"):
        open_image(tmp_path / "folder")
