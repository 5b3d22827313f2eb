import gzip
from pathlib import Path

import numpy as np
import pytest

from fastmunit.errors import DataError
from fastmunit.image_files.open import is_image_file, open_image, output_suffix, writer_like
from tests.image_files.images import HEIGHT, WIDTH, check_reading, copied, pixels, whole

nibabel = pytest.importorskip("nibabel")

AFFINE = np.array([[-0.9, 0.1, 0, 3], [0, 1.1, 0.2, 4], [0, 0, 2.5, 5], [0, 0, 0, 1]])
SUFFIXES = (".nii", ".nii.gz")


def volume(*shape: int, dtype: str = "int16") -> np.ndarray:
    """Return values in the order of nibabel: x, y, and the other dimensions reversed."""
    return pixels(*shape, dtype=dtype).T


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["Nifti1Image", "Nifti2Image"])
def test_metadata_are_kept(tmp_path: Path, suffix: str, kind: str) -> None:
    image = getattr(nibabel, kind)(volume(5), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"a scan"
    image.header["cal_min"], image.header["cal_max"] = 5, 150
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"a note"))
    source, target = tmp_path / f"t1{suffix}", tmp_path / f"copy{suffix}"
    nibabel.save(image, source)
    check_reading(source, pixels(5, 1, dtype="int16"))
    with open_image(source) as reader:
        assert is_image_file(source) and output_suffix(reader) == suffix and reader.window == (5, 150)
    copied(source, target)
    after = nibabel.load(target)
    assert type(after).__name__ == kind and after.get_data_dtype() == np.int16
    np.testing.assert_array_equal(after.affine, nibabel.load(source).affine)
    np.testing.assert_array_equal(np.asarray(after.dataobj), volume(5))
    for name in ("pixdim", "xyzt_units", "qform_code", "sform_code", "descrip", "cal_max"):
        np.testing.assert_array_equal(after.header[name], nibabel.load(source).header[name])
    assert [extension.get_content() for extension in after.header.extensions] == [b"a note"]


def test_big_endian(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    image = nibabel.Nifti1Image(volume(2).astype(">i2"), AFFINE, header)
    nibabel.save(image, tmp_path / "image.nii")
    check_reading(tmp_path / "image.nii", pixels(2, 1, dtype="int16"))
    copied(tmp_path / "image.nii", tmp_path / "copy.nii")
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "copy.nii").dataobj), volume(2))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rescaled_integers(tmp_path: Path, suffix: str) -> None:
    source, target = tmp_path / f"image{suffix}", tmp_path / f"copy{suffix}"
    image = nibabel.Nifti1Image(volume(3).astype(float) * 0.37 - 11, AFFINE)
    image.set_data_dtype(np.int16)
    nibabel.save(image, source)
    expected = nibabel.load(source).get_fdata().T[:, None].astype(np.float32)
    check_reading(source, expected)
    copied(source, target)
    before, after = nibabel.load(source), nibabel.load(target)
    np.testing.assert_array_equal(after.dataobj.get_unscaled(), before.dataobj.get_unscaled())
    assert (after.dataobj.slope, after.dataobj.inter) == (before.dataobj.slope, before.dataobj.inter)
    with open_image(source) as reader, writer_like(reader, target, 1, "float32") as writer:
        values = whole(reader) * 50  # these need another slope
        for plane, value in enumerate(values):
            writer.write(value, plane=plane)
    after = nibabel.load(target)
    assert after.get_data_dtype() == np.int16
    np.testing.assert_allclose(after.get_fdata().T[:, None], values, atol=0.51 * after.dataobj.slope)


def test_fourth_dimension(tmp_path: Path) -> None:
    values = pixels(4, 3, dtype="float32")
    source, target = tmp_path / "image.nii", tmp_path / "copy.nii"
    channels_last = values.swapaxes(0, 1)
    image = nibabel.Nifti1Image(values.T, AFFINE)
    nibabel.save(image, source)
    check_reading(source, channels_last)
    check_reading(source, values.reshape(12, 1, HEIGHT, WIDTH), pages="planes")
    copied(source, target)
    np.testing.assert_array_equal(nibabel.load(target).get_fdata(), values.T)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, source)
    check_reading(source, values.reshape(12, 1, HEIGHT, WIDTH))
    check_reading(source, channels_last, pages="channels")
    written = copied(source, target, channels=2)
    np.testing.assert_array_equal(
        nibabel.load(target).get_fdata(), written.reshape(4, 3, 2, HEIGHT, WIDTH).transpose(4, 3, 1, 0, 2)
    )
    check_reading(target, written)


def test_channels_are_added_to_a_volume(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(volume(3), AFFINE), tmp_path / "image.nii")
    written = copied(tmp_path / "image.nii", tmp_path / "copy.nii", channels=2, dtype="float32")
    assert nibabel.load(tmp_path / "copy.nii").shape == (WIDTH, HEIGHT, 3, 2)
    check_reading(tmp_path / "copy.nii", written)


def test_colors(tmp_path: Path) -> None:
    colors = np.zeros((WIDTH, HEIGHT, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for index, name in enumerate("RGB"):
        colors[name] = volume(2, dtype="uint8") + index
    nibabel.save(nibabel.Nifti1Image(colors, AFFINE), tmp_path / "image.nii")
    copied(tmp_path / "image.nii", tmp_path / "copy.nii")
    np.testing.assert_array_equal(nibabel.load(tmp_path / "copy.nii").dataobj.get_unscaled(), colors)


def test_two_dimensions(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(volume(), AFFINE), tmp_path / "image.nii")
    check_reading(tmp_path / "image.nii", pixels(dtype="int16")[None, None])
    copied(tmp_path / "image.nii", tmp_path / "copy.nii")
    assert nibabel.load(tmp_path / "copy.nii").shape == (WIDTH, HEIGHT)


def test_damage(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(volume(3), AFFINE), tmp_path / "image.nii")
    data = (tmp_path / "image.nii").read_bytes()
    path = tmp_path / "bad.nii"
    path.write_bytes(data[:-1])
    with pytest.raises(DataError, match=r"expected at least 12,118 bytes for the shape \(53, 37, 3\), got 12,117"):
        open_image(path)
    for content in (
        data[:100],
        data[:344] + b"ni1\0" + data[348:],
        b"x" * 400,
        data[:42] + b"\xff\x7f" * 3 + data[48:],
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"bad.nii"):
            open_image(path)
    compressed = gzip.compress(data)
    path = tmp_path / "bad.nii.gz"
    for content in (compressed[:-200], compressed[:-6] + b"\0" + compressed[-5:], compressed[:200]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"bad.nii.gz"), open_image(path) as reader:
            reader.read()


def test_types_that_nifti_does_not_have(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(volume(3), AFFINE), tmp_path / "image.nii")
    with open_image(tmp_path / "image.nii") as reader, pytest.raises(DataError, match=r"NIfTI cannot store float16"):
        writer_like(reader, tmp_path / "copy.nii", 1, "float16")
    nibabel.save(nibabel.Nifti1Image(volume(3, dtype="complex64"), AFFINE), tmp_path / "image.nii")
    with pytest.raises(DataError, match=r"type complex64"):
        open_image(tmp_path / "image.nii")
