"""Images, masks and label maps: what a file says is read, or the reason why not is said."""

import gzip
import re
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from nnunetv2_salstm.host.errors import BadFile
from nnunetv2_salstm.host.geometry import Geometry, Volume, in_place
from nnunetv2_salstm.host.label_maps import whole_numbers
from nnunetv2_salstm.host.pictures import read_picture
from nnunetv2_salstm.host.volumes import read_volume

AFFINE = np.diag([-1.25, -1.5, 8.0, 1.0])
AFFINE[:3, 3] = 10.0, -20.5, 3.0
VOXELS = np.random.default_rng(0).integers(0, 4, (4, 12, 10)).astype(np.int16)


def write_nifti(file, voxels=VOXELS, affine=AFFINE, edits=None, opener=gzip.compress):
    """Writes (D, H, W) voxels, and then numbers over the header at byte positions."""
    content = bytearray(nibabel.Nifti1Image(voxels.T, affine).to_bytes())
    for position, value in (edits or {}).items():
        content[position : position + value.nbytes] = value.tobytes()
    file.write_bytes(opener(bytes(content)))
    return file


def with_value(value, dtype=np.float32):
    voxels = VOXELS.astype(dtype)
    voxels[1, 2, 3] = value
    return voxels


# Volumes


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha"])
def test_volumes_are_read_as_simpleitk_does(name, tmp_path):
    image = sitk.GetImageFromArray(VOXELS)
    image.SetSpacing((1.25, 1.5, 8.0))
    image.SetOrigin((-10.0, 20.5, 3.0))
    image.SetDirection((0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    sitk.WriteImage(image, str(tmp_path / name))
    found = read_volume(tmp_path / name)
    np.testing.assert_array_equal(found.values, VOXELS)
    assert found.values.dtype == np.int16
    for value, expected in zip(
        (found.geometry.spacing, found.geometry.origin, found.geometry.direction),
        (image.GetSpacing(), image.GetOrigin(), image.GetDirection()),
        strict=True,
    ):
        assert value == pytest.approx(expected)
    assert not found.sheared


def test_volumes_in_other_wrappings_are_read(tmp_path):
    """NIfTI 2, an uncompressed file named .nii.gz, a fourth axis of one, voxels with a slope."""
    uncompressed = write_nifti(tmp_path / "plain.nii.gz", opener=bytes)
    second = tmp_path / "second.nii.gz"
    nibabel.save(nibabel.Nifti2Image(VOXELS.T, AFFINE), second)
    fourth = write_nifti(tmp_path / "fourth.nii.gz", VOXELS[None])
    for file in (uncompressed, second, fourth):
        found = read_volume(file)
        np.testing.assert_array_equal(found.values, VOXELS)
        assert (found.geometry.spacing, found.geometry.origin) == ((1.25, 1.5, 8.0), (-10.0, 20.5, 3.0))
        assert not found.sheared
    scaled = write_nifti(tmp_path / "scaled.nii.gz", edits={112: np.float32(0.5), 116: np.float32(1)})
    np.testing.assert_array_equal(read_volume(scaled).values, VOXELS * 0.5 + 1)


NAN, ZERO = np.float32("nan"), np.float32(0)
BAD_VOLUMES = {
    "nan voxel": ({"voxels": with_value(NAN)}, "all voxels must be numbers, 1 are not-a-number or infinite"),
    "infinite voxel": ({"voxels": with_value(np.inf, np.float64)}, "all voxels must be numbers, 1 are"),
    "nan spacing": ({"edits": {80: NAN}}, "the spacing must be positive numbers of mm, got nan x 1.5 x 8.0"),
    "zero spacing": ({"edits": {84: ZERO}}, "got 1.25 x 0.0 x 8.0"),
    "negative spacing": ({"edits": {80: np.float32(-2)}}, "got -2.0 x 1.5 x 8.0"),
    "nan origin": ({"edits": {280 + 12: NAN}}, "origin and directions in its header must be numbers"),
    "nan offset of the quaternion": (
        {"edits": {254: np.int16(0), 252: np.int16(1), 268: NAN}},
        "origin and directions in its header must be numbers",
    ),
    "axis without length": ({"edits": {280: ZERO}}, "the axes in its header must have lengths, got [0.0, 1.5, 8.0]"),
    "no size": ({"edits": {42: np.int16(0)}}, "its header has no size"),
    "four axes": ({"voxels": np.stack([VOXELS] * 2)}, "must be a volume of three axes, got 4"),
    "two axes": ({"voxels": VOXELS[0]}, "must be a volume of three axes, got 2"),
    "complex": ({"voxels": VOXELS.astype(np.complex64)}, "must have real numbers"),
    "colours": (
        {"voxels": np.zeros(VOXELS.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])},
        "must have one number a voxel, got 3",
    ),
    "cut": ({"opener": lambda content: content[:700]}, "could the file be damaged?"),
    "cut header": ({"opener": lambda content: content[:300]}, "ends within its header"),
    "cut gzip": ({"opener": lambda content: gzip.compress(content)[:-20]}, "cannot be read, is it complete?"),
    "check sum": ({"opener": lambda content: gzip.compress(content)[:-8] + bytes(8)}, "CRC check failed"),
    "text": ({"opener": lambda content: b"no volume" * 99}, "cannot be read"),
    "shear": ({"affine": AFFINE + np.eye(4, k=1) * [0, 0.3, 0, 0]}, "those in its header are 11 degrees off (sheared)"),
}


@pytest.mark.parametrize(("changes", "reason"), BAD_VOLUMES.values(), ids=BAD_VOLUMES)
def test_what_simpleitk_would_read_otherwise_is_refused(changes, reason, tmp_path, capfd):
    file = write_nifti(tmp_path / "volume.nii.gz", **changes)
    with pytest.raises(BadFile, match=re.escape(str(file)) + ".*" + re.escape(reason)) as raised:
        read_volume(file)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_a_nan_in_another_format_is_refused(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(with_value(NAN)), str(tmp_path / "volume.mha"))
    with pytest.raises(BadFile, match="1 are not-a-number"):
        read_volume(tmp_path / "volume.mha")


@pytest.mark.parametrize("format_", ["mha", "nrrd"])
def test_other_formats_cut_short_are_refused(format_, tmp_path, capfd):
    file = tmp_path / f"volume.{format_}"
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(file))
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(BadFile, match="cannot be read, is it complete"):
        read_volume(file)


@pytest.mark.parametrize("shear", [1e-5, 1e-4, 1e-3, 5e-3])
def test_axes_that_are_almost_at_right_angles_are_taken_for_it(shear, tmp_path):
    affine = AFFINE.copy()
    affine[0, 1] = shear * 1.5
    found = read_volume(write_nifti(tmp_path / "volume.nii.gz", affine=affine))
    np.testing.assert_array_equal(found.values, VOXELS)
    assert found.values.dtype == np.int16
    assert found.sheared == (shear > 5e-5)  # less SimpleITK bears
    assert found.geometry.spacing == pytest.approx((1.25, 1.5, 8.0), rel=1e-4)
    assert found.geometry.origin == pytest.approx((-10.0, 20.5, 3.0))
    direction = np.reshape(found.geometry.direction, (3, 3))
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=2e-5)
    np.testing.assert_allclose(direction, np.eye(3), atol=shear)


def test_warnings_of_itk_are_not_repeated_for_each_file(tmp_path, capfd):
    file = write_nifti(tmp_path / "volume.nii.gz", edits={80: np.float32(1.3)})  # not what the axes say
    sitk.ReadImage(str(file))
    assert "unexpected scales" in capfd.readouterr().err
    assert read_volume(file).geometry.spacing == pytest.approx((1.3, 1.5, 8.0))  # as nnU-Net reads it
    assert capfd.readouterr().err == ""
    sitk.ReadImage(str(file))
    assert "unexpected scales" in capfd.readouterr().err, "others still hear of it"


# Labels


def test_floats_beside_whole_numbers_are_labels(tmp_path):
    labels = whole_numbers(VOXELS.astype(np.float32) - 1e-4, tmp_path)
    np.testing.assert_array_equal(labels, VOXELS)
    assert labels.dtype.kind == "i"
    assert whole_numbers(VOXELS, tmp_path) is VOXELS


@pytest.mark.parametrize(("value", "shown"), [(0.5, "0.5"), (1.997, "1.997"), (-0.25, "-0.25"), (2.0011, "2.0011")])
def test_other_floats_are_no_labels(value, shown, tmp_path):
    with pytest.raises(BadFile, match=rf"label values must be whole numbers, got {shown}$"):
        whole_numbers(with_value(value), tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_no_label(value, tmp_path):
    with pytest.raises(BadFile, match="must be numbers, 1 are not-a-number or infinite"):
        whole_numbers(with_value(value), tmp_path)


# Masks beside images

GEOMETRY = Geometry((1.25, 1.5, 8.0), (-10.0, 20.5, 3.0), (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))


def as_image(volume):
    image = sitk.GetImageFromArray(volume.values)
    image.SetSpacing(volume.geometry.spacing)
    image.SetOrigin(volume.geometry.origin)
    image.SetDirection(volume.geometry.direction)
    return image


def as_volume(image):
    geometry = Geometry(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return Volume(sitk.GetArrayFromImage(image), geometry)


REORDERED = {
    "same": lambda image: image,
    "flipped": lambda image: sitk.Flip(image, (True, False, False)),
    "flipped twice": lambda image: sitk.Flip(image, (False, True, True)),
    "exchanged": lambda image: sitk.PermuteAxes(image, (1, 2, 0)),
    "exchanged and flipped": lambda image: sitk.Flip(sitk.PermuteAxes(image, (2, 1, 0)), (True, False, True)),
}


@pytest.mark.parametrize("reorder", REORDERED.values(), ids=REORDERED)
def test_a_mask_with_other_axes_is_put_in_order(reorder):
    """Compared with resampling, in the world, to the nearest voxel."""
    image = Volume(np.zeros_like(VOXELS), GEOMETRY)
    mask = reorder(as_image(Volume(VOXELS, GEOMETRY)))
    expected = sitk.Resample(mask, as_image(image), sitk.Transform(), sitk.sitkNearestNeighbor)
    found = in_place(as_volume(mask), image, Path("mask.nii"))
    np.testing.assert_array_equal(found, sitk.GetArrayFromImage(expected))
    np.testing.assert_array_equal(found, VOXELS)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"origin": (-10.0 + 2e-6, 20.5, 3.0)}, True),
        ({"origin": (-10.0 + 1e-2, 20.5, 3.0)}, True),
        ({"origin": (-9.0, 20.5, 3.0)}, False),
        ({"origin": (-10.0, 20.5, -61.0)}, False),
        ({"spacing": (1.25, 1.5, 8.0001)}, True),
        ({"spacing": (1.25, 1.5, 9.0)}, False),
        ({"direction": (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)}, False),  # mirrored about the origin
        ({"direction": (0.6, -0.8, 0.0, 0.8, 0.6, 0.0, 0.0, 0.0, 1.0)}, False),
    ],
)
def test_a_mask_elsewhere_is_not_placed(change, same):
    mask = Volume(VOXELS, Geometry(**{**vars(GEOMETRY), **change}))
    image = Volume(VOXELS, GEOMETRY)
    if same:
        np.testing.assert_array_equal(in_place(mask, image, Path("mask.nii")), VOXELS)
        return
    with pytest.raises(BadFile, match=r"^mask.nii: the mask must (lie where its image lies|have its image's spacing)"):
        in_place(mask, image, Path("mask.nii"))


# Pictures

GREY = np.zeros((10, 16), np.uint8)
GREY[2:5, 3:9] = 255
GREY[7, 1] = 40
COLOUR = np.stack([GREY, GREY // 2, 255 - GREY], -1)
PALETTE = np.zeros((3, 256), np.uint16)
PALETTE[:, 1] = 255 * 257
PALETTE[:, 2] = 40 * 257


def indices():
    return (GREY == 255) + 2 * (GREY == 40).astype(np.uint8)


def indexed(colours):
    image = Image.fromarray(indices().astype(np.uint8), "L").convert("L")
    image.putpalette(colours)
    return image


def orientation(number):
    exif = Image.Exif()
    exif[274] = number
    return exif


# The eight orientations of TIFF and EXIF: what is done to the stored array to see it upright.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
GREY_PICTURES = {
    "grey.png": lambda file: Image.fromarray(GREY).save(file),
    "grey.tif": lambda file: tifffile.imwrite(file, GREY),
    "grey.bmp": lambda file: Image.fromarray(GREY).save(file),
    "white is zero.tif": lambda file: tifffile.imwrite(file, 255 - GREY, photometric="miniswhite"),
    "white is zero, lzw.tif": lambda file: tifffile.imwrite(
        file, 255 - GREY, photometric="miniswhite", compression="lzw"
    ),
    "opaque.png": lambda file: Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (16, 10), 255)]).save(file),
}
COLOUR_PICTURES = {
    "colour.png": lambda file: Image.fromarray(COLOUR).save(file),
    "colour.tif": lambda file: tifffile.imwrite(file, COLOUR, photometric="rgb"),
    "declared grey.tif": lambda file: tifffile.imwrite(
        file, COLOUR, photometric="minisblack", planarconfig="contig", metadata=None
    ),
    "planes.tif": lambda file: tifffile.imwrite(
        file, np.moveaxis(COLOUR, -1, 0), photometric="rgb", planarconfig="separate"
    ),
    "opaque.png": lambda file: Image.fromarray(np.dstack([COLOUR, np.full_like(GREY, 255)])).save(file),
}


@pytest.mark.parametrize("name", GREY_PICTURES)
def test_grey_pictures(name, tmp_path):
    GREY_PICTURES[name](tmp_path / name)
    np.testing.assert_array_equal(read_picture(tmp_path / name), GREY)


@pytest.mark.parametrize("name", COLOUR_PICTURES)
def test_colour_pictures(name, tmp_path):
    COLOUR_PICTURES[name](tmp_path / name)
    np.testing.assert_array_equal(read_picture(tmp_path / name), COLOUR)


def test_palettes_are_looked_up(tmp_path):
    expected = np.repeat(GREY[..., None], 3, -1)
    tifffile.imwrite(tmp_path / "a.tif", indices(), photometric="palette", colormap=PALETTE)
    indexed([0, 0, 0, 255, 255, 255, 40, 40, 40]).save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        np.testing.assert_array_equal(read_picture(tmp_path / name), expected)


def test_other_colour_models_become_rgb(tmp_path):
    """Within the rounding of the model."""
    luma = np.asarray(Image.fromarray(COLOUR).convert("YCbCr"))
    tifffile.imwrite(tmp_path / "a.tif", luma, photometric="ycbcr", subsampling=(1, 1))
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "cmyk.tif")
    for name in ("a.tif", "cmyk.tif"):
        np.testing.assert_allclose(read_picture(tmp_path / name).astype(int), COLOUR, atol=3)


@pytest.mark.parametrize("number", UPRIGHT)
@pytest.mark.parametrize("compression", [None, "tiff_lzw"], ids=["raw", "lzw"])
@pytest.mark.parametrize("stored", [GREY, COLOUR], ids=["grey", "colour"])
def test_tiffs_are_turned_upright(number, compression, stored, tmp_path):
    Image.fromarray(stored).save(tmp_path / "a.tif", tiffinfo={274: number}, compression=compression)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif"), UPRIGHT[number](stored))


@pytest.mark.parametrize("number", UPRIGHT)
def test_photographs_are_turned_upright(number, tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=orientation(number))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), UPRIGHT[number](COLOUR))


def test_grey_of_more_bits_keeps_them(tmp_path):
    deep = GREY.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", deep)
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read_picture(tmp_path / name), deep)


def test_a_photograph_with_a_second_picture_is_the_first(tmp_path):
    first, second = Image.fromarray(COLOUR), Image.new("RGB", (16, 10))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second], quality=95)
    assert read_picture(tmp_path / "a.jpg").shape == COLOUR.shape
    assert read_picture(tmp_path / "a.jpg")[..., 2].mean() > 100


def with_alpha(file):
    """White everywhere, the shape in the alpha channel."""
    Image.fromarray(np.dstack([np.full((10, 16, 3), 255, np.uint8), GREY])).save(file)


BAD_PICTURES = {
    "alpha.png": (with_alpha, "must not be transparent"),
    "alpha.tif": (with_alpha, "must not be transparent"),
    "grey alpha.png": (
        lambda file: Image.merge("LA", [Image.new("L", (16, 10), 255), Image.fromarray(GREY)]).save(file),
        "must not be transparent",
    ),
    "transparent palette.png": (
        lambda file: indexed([255] * 9).save(file, transparency=0),
        "must not be transparent",
    ),
    "cut.tif": (
        lambda file: (tifffile.imwrite(file, GREY), file.write_bytes(file.read_bytes()[:8])),
        "is it complete?",
    ),
    "pages.tif": (
        lambda file: tifffile.imwrite(file, np.stack([GREY] * 3), photometric="minisblack"),
        "must be one picture, got 3 pages",
    ),
    "16 bits.png": (
        lambda file: file.write_bytes(imagecodecs.png_encode(COLOUR.astype(np.uint16) * 257)),
        "must have 8 bits a channel, got uint16",
    ),
    "16 bits.tif": (
        lambda file: tifffile.imwrite(file, COLOUR.astype(np.uint16) * 257, photometric="rgb"),
        "must have 8 bits a channel, got uint16",
    ),
    "empty.png": (lambda file: file.write_bytes(b""), "cannot be read, is it complete?"),
    "empty.tif": (lambda file: file.write_bytes(b""), "cannot be read, is it complete?"),
    "text.tif": (lambda file: file.write_bytes(b"no picture"), "cannot be read, is it complete?"),
    "turned and declared grey.tif": (
        lambda file: tifffile.imwrite(
            file, COLOUR, photometric="minisblack", planarconfig="contig", extratags=[(274, 3, 1, 6, True)]
        ),
        "must be upright, got a TIFF with the orientation 6",
    ),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_what_does_not_say_what_is_seen_is_refused(name, tmp_path):
    write, reason = BAD_PICTURES[name]
    write(tmp_path / name)
    with pytest.raises(BadFile, match=re.escape(reason)):
        read_picture(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "colour.tif", "declared grey.tif"])
def test_pictures_cut_short_are_refused(name, tmp_path):
    file = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    if name == "a.png":
        Image.fromarray(noise).save(file)
    else:
        tifffile.imwrite(
            file, noise, photometric="minisblack" if "grey" in name else "rgb", planarconfig="contig", metadata=None
        )
    content = file.read_bytes()
    file.write_bytes(content[: int(0.8 * len(content))])
    with pytest.raises(BadFile, match="cannot be read, is it complete"):
        read_picture(file)
