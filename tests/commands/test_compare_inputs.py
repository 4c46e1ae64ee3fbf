"""`compare` on files as they come from the wild: the right score, or the reason why there is none."""

import gzip
import json
import os
import shutil

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from nnunetv2_salstm.cli import main

LABELS = {"background": 0, "ring": 1, "core": 2}
# A core of 3 x 6 x 6 in a ring of 5 x 14 x 14.
REFERENCE = np.zeros((8, 20, 24), np.uint8)
REFERENCE[1:6, 3:17, 3:17] = 1
REFERENCE[2:5, 7:13, 7:13] = 2
# The core misses a slice, which the ring has.
PREDICTION = REFERENCE.copy()
PREDICTION[4, 7:13, 7:13] = 1
DICE = {"ring": 2 * 872 / (872 + 872 + 36), "core": 2 * 72 / (108 + 72)}
CASES = ("a", "b")


def write(array, file, origin=(0.0, 0.0, 0.0)):
    file.parent.mkdir(parents=True, exist_ok=True)
    volume = sitk.GetImageFromArray(array)
    volume.SetSpacing((1.0, 1.0, 3.0))
    volume.SetOrigin(origin)
    sitk.WriteImage(volume, str(file))


def write_dataset(folder, ending, labels=LABELS):
    folder.mkdir(parents=True, exist_ok=True)
    description = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 2, "file_ending": ending}
    (folder / "dataset.json").write_text(json.dumps(description))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """References, predictions that equal them (perfect), and predictions with an error (ours)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_dataset(tmp_path / "data", ".nii.gz")
    for case in CASES:
        write(REFERENCE, tmp_path / "data" / "labelsTr" / f"{case}.nii.gz")
        write(REFERENCE, tmp_path / "perfect" / f"{case}.nii.gz")
        write(PREDICTION, tmp_path / "ours" / f"{case}.nii.gz")
    return tmp_path


def compare(root, *options):
    """Returns the status and the Dice of ours by case and label."""
    file = root / "report.json"
    file.unlink(missing_ok=True)
    folders = [f"perfect={root / 'perfect'}", f"ours={root / 'ours'}"]
    words = ["--reference", root / "data" / "labelsTr", "-i", *folders, "--metrics", "dice", "-np", "1", *options]
    status = main(["compare", *map(str, words), "--json", str(file)])
    if not file.exists():
        return status, {}
    table = json.loads(file.read_text())["scores"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    return status, {(row["case"], row["label"]): row["dice"] for row in rows if row["method"] == "ours"}


def expected(*cases):
    return pytest.approx({(case, label): value for case in cases for label, value in DICE.items()})


def change(file, convert):
    """Writes a volume again with other values."""
    write(convert(sitk.GetArrayFromImage(sitk.ReadImage(str(file)))), file)


def flip(file):
    """The same labels at the same places in the world, with the voxels in another order."""
    sitk.WriteImage(sitk.Flip(sitk.ReadImage(str(file)), (True, False, True)), str(file))


def shear(file):
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    affine[0, 1] = 1e-3
    nibabel.save(nibabel.Nifti1Image(sitk.GetArrayFromImage(sitk.ReadImage(str(file))).T, affine), file)


def move(file):
    write(PREDICTION, file, origin=(2e-6, 0.0, 0.0))


HEALTHY = {
    "floats just below": lambda file: change(file, lambda array: array.astype(np.float32) * np.float32(0.99995)),
    "other order": flip,
    "sheared by a thousandth": shear,
    "two micrometres off": move,
    "whole floats": lambda file: change(file, lambda array: array.astype(np.float64)),
}


@pytest.mark.parametrize("spoil", HEALTHY.values(), ids=HEALTHY)
@pytest.mark.parametrize("side", ["ours", "data/labelsTr"])
def test_what_means_the_same_scores_the_same(side, spoil, root):
    if side == "data/labelsTr" and spoil is move:
        write(REFERENCE, root / side / "a.nii.gz", origin=(2e-6, 0.0, 0.0))
    else:
        spoil(root / side / "a.nii.gz")
    assert compare(root) == (0, expected(*CASES))


def cut(file):
    content = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(content)[:-30])


def edit_header(position, value):
    def edit(file):
        content = bytearray(gzip.decompress(file.read_bytes()))
        content[position : position + value.nbytes] = value.tobytes()
        file.write_bytes(gzip.compress(bytes(content)))

    return edit


def with_nan(array):
    array = array.astype(np.float32)
    array[array == 2] = np.nan
    return array


WRONG = {
    "probabilities": (
        lambda file: change(file, lambda array: array * np.float32(0.47)),
        "label values must be whole numbers, got 0.47",
    ),
    "0 and 255": (
        lambda file: change(file, lambda array: np.where(array, 255, 0).astype(np.uint8)),
        "label values must be among 0 to 2, got 255",
    ),
    "negative": (lambda file: change(file, lambda array: array.astype(np.int16) - 1), "among 0 to 2, got -1"),
    "not a number": (lambda file: change(file, with_nan), "are not-a-number or infinite"),
    "cut": (cut, "cannot be read, is it complete?"),
    "no spacing": (edit_header(80, np.float32(0)), "the spacing must be positive numbers of mm, got 0.0 x 1.0 x 3.0"),
    "colours": (
        lambda file: sitk.WriteImage(
            sitk.GetImageFromArray(np.zeros((*REFERENCE.shape, 3), np.uint8), isVector=True), str(file)
        ),
        "must have one number a voxel, got 3",
    ),
    "elsewhere": (lambda file: write(REFERENCE, file, origin=(0.0, 0.0, 3.0)), "must lie where its reference lies"),
}


@pytest.mark.parametrize(("spoil", "reason"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("side", ["ours", "data/labelsTr"])
def test_what_cannot_be_scored_is_named_and_left_out(side, spoil, reason, root, capsys):
    file = root / side / "a.nii.gz"
    spoil(file)
    assert compare(root) == (1, expected("b"))
    error = capsys.readouterr().err.splitlines()[-1]
    assert reason in error
    # A place is wrong between two files; the prediction is named.
    assert ("perfect/a.nii.gz" if reason.startswith("must lie") and side != "ours" else str(file)) in error


def test_scores_are_not_remembered_of_other_contents(root):
    """Even if size and time of the file are as they were."""
    for case in CASES:
        write(PREDICTION, root / "ours" / f"{case}.nii.gz")
        (root / "ours" / f"{case}.nii.gz").rename(root / "ours" / f"{case}.nii")
        file = root / "ours" / f"{case}.nii"
        file.write_bytes(gzip.decompress(file.read_bytes()))
    assert compare(root) == (0, expected(*CASES))
    file = root / "ours" / "a.nii"
    before = file.stat()
    file.write_bytes(gzip.decompress((root / "perfect" / "a.nii.gz").read_bytes()))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    status, scores = compare(root)
    assert status == 0
    assert (scores["a", "core"], scores["b", "core"]) == (1.0, pytest.approx(DICE["core"]))


def test_other_names_of_the_same_files(root, capsys):
    """Uncompressed beside compressed, capitals, and what macOS leaves beside files."""
    for folder, case in (("ours", "a"), ("data/labelsTr", "b")):
        file = root / folder / f"{case}.nii.gz"
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    for folder in ("ours", "perfect", "data/labelsTr"):
        (root / folder / "._a.nii.gz").write_bytes(b"of a Mac")
    assert compare(root) == (0, expected(*CASES))
    shutil.copy(root / "perfect" / "a.nii.gz", root / "ours" / "a.nii.gz")
    assert compare(root)[0] == 1
    assert "ours/a.nii.gz: a must be there once; remove one" in capsys.readouterr().err.replace("a.nii and ", "")


def test_predictions_in_another_format_are_named(root, capsys):
    for case in CASES:
        (root / "ours" / f"{case}.nii.gz").unlink()
        write(PREDICTION, root / "ours" / f"{case}.mha")
    assert compare(root)[0] == 1
    assert "ours has no predictions (*.nii.gz, file_ending of dataset.json) in" in (error := capsys.readouterr().err)
    assert "which have *.mha\n" in error


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_groups_from_a_spreadsheet(encoding, root):
    (root / "groups.csv").write_bytes("case;group\r\na;Köln\r\nb;Bonn\r\n".encode(encoding))
    assert compare(root, "--groups", root / "groups.csv") == (0, expected(*CASES))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "ring"}},
            "is of nnU-Net v1, with modality and labels {number: name}; convert the data set with "
            "nnUNetv2_convert_old_nnUNet_dataset",
        ),
        ({"labels": {"0": "background", "1": "ring"}}, "is of nnU-Net v1"),
        ({"labels": {"background": 0, "ring": 1.5}}, "labels must be {name: number}, or lists of numbers for regions"),
        ({"labels": ["background"]}, "labels must be {name: number}"),
        ({"file_ending": None}, "is no dataset.json of nnU-Net: it lacks file_ending"),
    ],
)
def test_other_descriptions_of_a_data_set(changes, message, root, capsys):
    file = root / "data" / "dataset.json"
    values = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    assert compare(root)[0] == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_description_with_a_byte_order_mark(root):
    file = root / "data" / "dataset.json"
    file.write_text(file.read_text(), encoding="utf-8-sig")
    assert compare(root) == (0, expected(*CASES))


# Pictures


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """As `root`, with a slice as a PNG."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_dataset(tmp_path / "data", ".png", {"background": 0, "core": 1})
    for folder in ("data/labelsTr", "perfect", "ours"):
        (tmp_path / folder).mkdir(exist_ok=True, parents=True)
        for case in CASES:
            Image.fromarray(of_slice(folder)).save(tmp_path / folder / f"{case}.png")
    return tmp_path


def of_slice(folder):
    """An area of 36 pixels, of which ours misses a row of 6."""
    mask = (REFERENCE[3] == 2).astype(np.uint8)
    if folder == "ours":
        mask[12] = 0
    return mask


PICTURE_DICE = 2 * 30 / 66


def as_grey_rgb(mask, file):
    Image.fromarray(np.repeat(mask[..., None], 3, -1)).save(file)


def turned(mask, file):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(mask)).save(file, exif=exif)


def grey_palette(mask, file):
    """The index 7 stands for a grey value of 0, 3 for one of 1."""
    image = Image.fromarray(np.where(mask, 3, 7).astype(np.uint8))
    image.putpalette([grey for index in range(8) for grey in [int(index == 3)] * 3])
    image.save(file)


@pytest.mark.parametrize("save", [as_grey_rgb, turned, grey_palette], ids=lambda save: save.__name__)
def test_pictures_are_read_as_a_viewer_shows_them(save, pictures):
    save(of_slice("ours"), pictures / "ours" / "a.png")
    status, scores = compare(pictures)
    assert status == 0
    assert scores == pytest.approx({(case, "core"): PICTURE_DICE for case in CASES})


def coloured(mask, file):
    Image.fromarray(np.stack([mask, 0 * mask, 0 * mask], -1)).save(file)


def coloured_palette(mask, file):
    image = Image.fromarray(mask)
    image.putpalette([0, 0, 0, 128, 0, 0])
    image.save(file)


def transparent(mask, file):
    Image.merge("LA", [Image.fromarray(np.ones_like(mask)), Image.fromarray(mask * 255)]).save(file)


@pytest.mark.parametrize(
    ("save", "reason"),
    [
        (coloured, "a label map must be grey, its values the labels, got colours"),
        (coloured_palette, "a label map must be grey, its values the labels, got colours"),
        (transparent, "must not be transparent"),
        (lambda mask, file: Image.fromarray(mask * 255).save(file), "label values must be among 0, 1, got 255"),
    ],
    ids=["colours", "palette", "transparent", "0 and 255"],
)
@pytest.mark.parametrize("side", ["ours", "data/labelsTr"])
def test_pictures_that_are_no_label_maps_are_named(side, save, reason, pictures, capsys):
    save(of_slice(side), pictures / side / "a.png")
    status, scores = compare(pictures)
    assert (status, list(scores)) == (1, [("b", "core")])
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{pictures / side / 'a.png'}: {reason}" in error


def test_stacks_of_tiffs_are_read_as_nnunet_does(pictures):
    write_dataset(pictures / "data", ".tif", {"background": 0, "core": 1})
    for folder in ("data/labelsTr", "perfect", "ours"):
        for case in CASES:
            tifffile.imwrite(
                pictures / folder / f"{case}.tif", np.stack([of_slice(folder)] * 5), photometric="minisblack"
            )
    status, scores = compare(pictures)
    assert status == 0
    assert scores == pytest.approx({(case, "core"): PICTURE_DICE for case in CASES})
    # Their spacing is in a file beside them.
    _, before = hd95_of_ours(pictures)
    for case in CASES:
        for folder in ("data/labelsTr", "ours"):
            (pictures / folder / f"{case}.json").write_text(json.dumps({"spacing": [1, 3, 3]}))
    _, after = hd95_of_ours(pictures)
    assert after == pytest.approx(3 * before)


def hd95_of_ours(root):
    """Returns the status, and the distance in a case of ours."""
    file = root / "distance.json"
    words = ["--reference", root / "data" / "labelsTr", "-i", f"ours={root / 'ours'}", f"again={root / 'ours'}"]
    status = main(
        ["compare", *map(str, words), "--metrics", "hd95", "-np", "1", "--primary", "hd95", "--json", str(file)]
    )
    table = json.loads(file.read_text())["scores"]
    return status, dict(zip(table["columns"], table["rows"][0], strict=True))["hd95"]


def test_a_label_may_not_be_called_as_the_mean(root, capsys):
    write_dataset(root / "data", ".nii.gz", {"background": 0, "ring": 1, "mean": 2})
    assert compare(root)[0] == 1
    assert "a label of dataset.json is called mean, which is what compare calls the mean over labels" in (
        capsys.readouterr().err
    )
