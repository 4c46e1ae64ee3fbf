"""What `convert` refuses, says and leaves out."""

import gzip
import json
import shutil

import h5py
import nibabel
import numpy as np
import official_folders as official
import pytest
import SimpleITK as sitk
import tifffile
from official_folders import WRITERS, snapshot, write_nifti
from PIL import Image

from nnunetv2_salstm import cli
from nnunetv2_salstm.converters import conversion, synapse

PATIENT = "training/patient003"
IMAGE = f"{PATIENT}/patient003_frame01.nii.gz"
LABEL = f"{PATIENT}/patient003_frame01_gt.nii.gz"
FRAME, LESION = "patient003_frame01", "ISIC_0000003"
ISIC_IMAGES, ISIC_MASKS = "ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"
ISIC_MASK = f"{ISIC_MASKS}/ISIC_0000003_segmentation.png"
BTCV_IMAGE, BTCV_LABEL = "RawData/Training/img/img0005.nii.gz", "RawData/Training/label/label0005.nii.gz"
SLICE, VOLUME = "train_npz/case0006_slice002.npz", "test_vol_h5/case0001.npy.h5"


def convert(data, folder, *arguments):
    data = "synapse" if data == "transunet" else data
    return cli.main(["convert", data, "-i", str(folder), "-np", "1", *map(str, arguments)])


def remove(file):
    return lambda root: (root / file).unlink()


def truncate(file, keep=0.5):
    def change(root):
        content = (root / file).read_bytes()
        (root / file).write_bytes(content[: int(len(content) * keep)])

    return change


def corrupt(file):
    """Changes a byte of the compressed data: the check sum is wrong, and nothing else."""

    def change(root):
        content = bytearray((root / file).read_bytes())
        content[-8] ^= 1
        (root / file).write_bytes(bytes(content))

    return change


def copy(file, to):
    def change(root):
        (root / to).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (root / file).is_dir() else shutil.copyfile)(root / file, root / to)

    return change


def write(file, text):
    return lambda root: (root / file).write_text(text)


def nifti(file, **changes):
    """Writes a volume again, with another array or geometry."""

    def change(root):
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(root / file)))
        changed = changes.get("array", lambda values: values)(array)
        write_nifti(root / file, changed, **{name: value for name, value in changes.items() if name != "array"})

    return change


def header(file, position, value):
    """Writes a number over the header of a compressed NIfTI file."""

    def change(root):
        content = bytearray(gzip.decompress((root / file).read_bytes()))
        content[position : position + value.nbytes] = value.tobytes()
        (root / file).write_bytes(gzip.compress(bytes(content)))

    return change


def rename(file, to):
    return lambda root: (root / file).rename(root / to)


def put(value):
    """Returns a function that sets the first element of an array."""

    def change(array):
        array = array.astype(np.result_type(array, type(value)) if isinstance(value, float) else array.dtype)
        array.flat[0] = value
        return array

    return change


def png(file, array):
    return lambda root: Image.fromarray(array).save(root / file)


def tif(file, array):
    return lambda root: tifffile.imwrite(root / file, array, photometric="rgb" if array.shape[-1] in (3, 4) else None)


def npz(file, **changes):
    def change(root):
        with np.load(root / file) as arrays:
            values = dict(arrays)
        np.savez(root / file, **{name: changes.get(name, lambda array: array)(values[name]) for name in values})

    return change


def h5(file, **arrays):
    def change(root):
        with h5py.File(root / file, "w") as content:
            content.update(arrays)

    return change


# Data set, what is done to its folder, what must be said, and the case that --skip-bad leaves out.
STRUCTURAL = [
    ("acdc", remove(f"{PATIENT}/Info.cfg"), f"{PATIENT}/Info.cfg: missing", FRAME),
    ("acdc", write(f"{PATIENT}/Info.cfg", "ED: 1\nES: x\n"), "two frame numbers, got 1 and x", "patient003_frame12"),
    ("acdc", write(f"{PATIENT}/Info.cfg", "ED: 1\nGroup: NOR\n"), "got 1 and nothing", "patient003_frame12"),
    ("acdc", write(f"{PATIENT}/Info.cfg", "ED: 1\nES: 1\nGroup: NOR\n"), "got 1 and 1", FRAME),
    (
        "acdc",
        write(f"{PATIENT}/Info.cfg", "ED: 1\nES: 12\nGroup: XYZ\n"),
        "Group must be one of DCM, HCM, MINF, NOR, RV, got XYZ",
        FRAME,
    ),
    ("acdc", lambda root: (root / PATIENT / "Info.cfg").write_bytes(b"\xff\xfe\x00"), "Info.cfg: ", FRAME),
    ("acdc", remove(IMAGE), f"{IMAGE}: missing, but Info.cfg names frame 1", FRAME),
    ("acdc", remove(LABEL), f"{LABEL}: missing, but Info.cfg names frame 1", FRAME),
    (
        "acdc",
        copy(PATIENT, "testing/patient003"),
        "patient003_frame01 must be there once, got 2; remove all but one",
        FRAME,
    ),
    ("isic2018", remove(ISIC_MASK), f"{ISIC_MASK}: missing, the mask of ISIC_0000003.jpg", LESION),
    (
        "isic2018",
        remove(f"{ISIC_IMAGES}/ISIC_0000003.jpg"),
        "a mask must have an image, ISIC_0000003.jpg is missing",
        LESION,
    ),
    (
        "isic2018",
        copy(f"{ISIC_IMAGES}/ISIC_0000003.jpg", f"{ISIC_IMAGES}/lesion.jpg"),
        "lesion.jpg: an image's name must be ISIC_ and seven digits",
        "lesion",
    ),
    (
        "isic2018",
        copy(f"{ISIC_IMAGES}/ISIC_0000003.jpg", "ISIC2018_Task1-2_Test_Input/ISIC_0000003.jpg"),
        "ISIC_0000003 must be there once, got 2",
        LESION,
    ),
    ("cvc-clinicdb", remove("Ground Truth/24.tif"), "Ground Truth/24.tif: missing, the mask of", "frame024"),
    ("cvc-clinicdb", remove("Original/24.tif"), "Ground Truth/24.tif: a mask must have an image", "frame024"),
    ("cvc-clinicdb", copy("Original/24.tif", "Original/24.png"), "frame024 must be there once, got 2", "frame024"),
    (
        "cvc-clinicdb",
        copy("Ground Truth/24.tif", "Ground Truth/024.tif"),
        "there must be one mask of frame 24; remove all but one",
        "frame024",
    ),
    (
        "cvc-clinicdb",
        copy("Original/24.tif", "Original/24b.tif"),
        "24b.tif: the name must be a frame number, got 24b",
        "frame024b",
    ),
    (
        "cvc-clinicdb",
        copy("Original/24.tif", "Original/613.tif"),
        "613.tif: a frame must be in a sequence, 613 is not from 1 to 612",
        "frame613",
    ),
    ("synapse", remove(BTCV_LABEL), "label0005.nii.gz: missing, the mask of", "case0005"),
    ("synapse", remove(BTCV_IMAGE), "label0005.nii.gz: a mask must have an image", "case0005"),
    (
        "synapse",
        copy(BTCV_IMAGE, "RawData/Training/img/5.nii.gz"),
        "5.nii.gz: the name must be img, four digits and .nii.gz or .nii, got 5.nii.gz",
        "case5",
    ),
    (
        "transunet",
        remove(SLICE),
        f"{SLICE}: missing; the slices of a case must be numbered without a gap, 1 of 4 are not there",
        "case0006",
    ),
    ("transunet", copy(SLICE, "train_npz/case6.npz"), "the name must be caseNNNN_sliceMMM.npz", "case6"),
    ("transunet", copy(VOLUME, "test_vol_h5/6.h5"), "6.h5: the name must be caseNNNN.npy.h5", "6"),
    ("transunet", copy(VOLUME, "test_vol_h5/case0006.npy.h5"), "case0006 must be there once, got 2", "case0006"),
    (
        "acdc",
        rename(PATIENT, "training/Patient003"),
        "training/Patient003: a patient's folder must be patient and three digits, got Patient003/",
        FRAME,
    ),
    (
        "acdc",
        copy(PATIENT, "training/patient003 (1)"),
        "training/patient003 (1): a patient's folder must be patient and three digits, got patient003 (1)/",
        "patient003 (1)_frame01",
    ),
    (
        "acdc",
        lambda root: (root / IMAGE.removesuffix(".gz")).write_bytes(gzip.decompress((root / IMAGE).read_bytes())),
        "patient003_frame01 must be there once, got 2; remove all but one",
        FRAME,
    ),
    (
        "synapse",
        lambda root: (root / BTCV_LABEL.removesuffix(".gz")).write_bytes(b"another"),
        "label0005.nii.gz: case0005 must be there once, got 2; remove all but one",
        "case0005",
    ),
    (
        "isic2018",
        lambda root: Image.new("RGB", (30, 20)).save(root / ISIC_IMAGES / "ISIC_0000009.bmp"),
        "ISIC_0000009.bmp: an image must be one of .jpg, .jpeg, .png, got ISIC_0000009.bmp",
        "ISIC_0000009",
    ),
    (
        "isic2018",
        copy(ISIC_MASK, f"{ISIC_MASKS}/ISIC_0000003_Segmentation.png"),
        "there must be one mask of ISIC_0000003.jpg; remove all but one",
        LESION,
    ),
    (
        "isic2018",
        copy(ISIC_MASK, f"{ISIC_MASKS}/lesion.png"),
        "lesion.png: a mask's name must be ISIC_, seven digits and _segmentation.png, got lesion.png",
        "lesion",
    ),
    (
        "cvc-clinicdb",
        lambda root: Image.new("RGB", (20, 16)).save(root / "Original" / "28.bmp"),
        "28.bmp: a frame must be one of .tif, .tiff, .png, got 28.bmp",
        "frame028",
    ),
    (
        "cvc-clinicdb",
        copy("Original", "Original/copy"),
        "Original/copy: a frame must be one of .tif, .tiff, .png, got copy/",
        "copy",
    ),
    (
        "synapse",
        copy(BTCV_IMAGE, "RawData/Training/img/img0077.mha"),
        "img0077.mha: the name must be img, four digits and .nii.gz or .nii",
        "img0077",
    ),
]
CONTENT = [
    ("acdc", truncate(IMAGE), f"{IMAGE}: cannot be read, is it complete?", FRAME),
    ("acdc", truncate(LABEL, 0.99), f"{LABEL}: cannot be read, is it complete?", FRAME),
    ("acdc", corrupt(IMAGE), f"{IMAGE}: cannot be read, is it complete? (CRC check failed", FRAME),
    (
        "acdc",
        write(IMAGE, "no volume"),
        f"{IMAGE}: cannot be read, is it complete? (the file ends within its header",
        FRAME,
    ),
    ("acdc", lambda root: (root / IMAGE).write_bytes(gzip.compress(b"no volume")), f"{IMAGE}: cannot be read", FRAME),
    ("acdc", nifti(LABEL, array=lambda a: a[1:]), f"{LABEL}: the mask must have its image's size, 3 x", FRAME),
    (
        "acdc",
        nifti(LABEL, spacing=(1.25, 1.5, 9.0)),
        f"{LABEL}: the mask must have its image's spacing, (1.25, 1.5, 8.0) mm, got (1.25, 1.5, 9.0)",
        FRAME,
    ),
    ("acdc", nifti(LABEL, array=put(4)), f"{LABEL}: label values must be among 0 to 3, got 4", FRAME),
    ("acdc", nifti(LABEL, array=put(0.5)), f"{LABEL}: label values must be whole numbers, got 0.5", FRAME),
    ("acdc", nifti(LABEL, array=put(-1.0)), f"{LABEL}: label values must be among 0 to 3, got -1", FRAME),
    ("acdc", nifti(IMAGE, array=lambda a: a[0]), f"{IMAGE}: must be a volume of three axes, got 2", FRAME),
    ("isic2018", truncate(f"{ISIC_IMAGES}/ISIC_0000003.jpg"), "ISIC_0000003.jpg: cannot be read", LESION),
    ("isic2018", truncate(ISIC_MASK), f"{ISIC_MASK}: cannot be read", LESION),
    (
        "isic2018",
        png(ISIC_MASK, np.full((20, 31), 255, np.uint8)),
        f"{ISIC_MASK}: the mask must have its image's size, 20 x 30 pixels, got 20 x 31",
        LESION,
    ),
    (
        "isic2018",
        png(ISIC_MASK, np.ones((20, 30), np.uint8)),
        f"{ISIC_MASK}: a mask must be 255 where the structure is, got values up to 1",
        LESION,
    ),
    ("isic2018", png(ISIC_MASK, np.ones((20, 30), np.uint16)), f"{ISIC_MASK}: must have 8 bits", LESION),
    (
        "isic2018",
        lambda root: Image.new("L", (30, 20)).save(root / ISIC_IMAGES / "ISIC_0000003.jpg"),
        "ISIC_0000003.jpg: must be a colour picture of three channels, got a grey one of 20 x 30 pixels",
        LESION,
    ),
    ("cvc-clinicdb", truncate("Original/26.tif"), "Original/26.tif: cannot be read, is it complete?", "frame026"),
    ("cvc-clinicdb", truncate("Original/26.tif", 0), "Original/26.tif: cannot be read, is it complete?", "frame026"),
    (
        "cvc-clinicdb",
        tif("Ground Truth/26.tif", np.zeros((16, 20, 4), np.uint8)),
        "must not be transparent",
        "frame026",
    ),
    (
        "cvc-clinicdb",
        tif("Original/26.tif", np.zeros((16, 20, 3), np.uint16)),
        "must have 8 bits a channel, got uint16",
        "frame026",
    ),
    ("synapse", truncate(BTCV_IMAGE), "img0005.nii.gz: cannot be read", "case0005"),
    ("synapse", nifti(BTCV_LABEL, array=put(14)), "label values must be among 0 to 13, got 14", "case0005"),
    ("acdc", nifti(LABEL, array=put(2.4)), f"{LABEL}: label values must be whole numbers, got 2.4", FRAME),
    (
        "acdc",
        nifti(LABEL, origin=(-10.0, 20.5, 11.0)),
        f"{LABEL}: the mask must lie where its image lies; origin (-10, 20.5, 3) of the image, (-10, 20.5, 11) of the "
        "mask; if the voxels belong together all the same, give the mask its image's header",
        FRAME,
    ),
    (
        "acdc",
        nifti(LABEL, direction=(1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)),
        "direction (-1, 0, 0, 0, -1, 0, 0, 0, 1) of the image, (1, 0, 0, 0, -1, 0, 0, 0, 1) of the mask",
        FRAME,
    ),
    ("acdc", nifti(IMAGE, array=put(np.nan)), f"{IMAGE}: all voxels must be numbers, 1 are not-a", FRAME),
    ("acdc", nifti(LABEL, array=put(np.nan)), f"{LABEL}: all voxels must be numbers, 1 are not-a", FRAME),
    (
        "acdc",
        header(IMAGE, 80, np.float32(np.nan)),
        f"{IMAGE}: the spacing must be positive numbers of mm, got nan x 1.5 x 8.0",
        FRAME,
    ),
    ("acdc", header(LABEL, 84, np.float32(0)), f"{LABEL}: the spacing must be positive", FRAME),
    ("acdc", header(IMAGE, 292, np.float32(np.nan)), f"{IMAGE}: origin and directions in its", FRAME),
    (
        "acdc",
        lambda root: write_nifti(root / IMAGE, np.zeros((4, 12, 10, 3), np.uint8), is_vector=True),
        f"{IMAGE}: must have one number a voxel, got 3",
        FRAME,
    ),
    (
        "isic2018",
        png(ISIC_MASK, np.dstack([np.full((20, 30, 3), 255, np.uint8), np.eye(20, 30, dtype=np.uint8) * 255])),
        f"{ISIC_MASK}: must not be transparent, as what is seen depends on what is behind",
        LESION,
    ),
    (
        "isic2018",
        png(ISIC_MASK, np.full((20, 30, 3), (0, 0, 255), np.uint8)),
        f"{ISIC_MASK}: a mask must be black and white, got colours (channels differ by 255 of 255)",
        LESION,
    ),
    (
        "cvc-clinicdb",
        lambda root: tifffile.imwrite(
            root / "Ground Truth/26.tif", np.zeros((3, 16, 20), "u1"), photometric="minisblack"
        ),
        "Ground Truth/26.tif: must be one picture, got 3 pages",
        "frame026",
    ),
    ("transunet", truncate(SLICE), f"{SLICE}: cannot be read", "case0006"),
    ("transunet", truncate(VOLUME), f"{VOLUME}: cannot be read", "case0001"),
    ("transunet", npz(SLICE, label=lambda a: a + 8), f"{SLICE}: label values must be among 0 to 8, got", "case0006"),
    ("transunet", npz(SLICE, label=put(float("nan"))), f"{SLICE}: all voxels must be numbers, 1 are not", "case0006"),
    ("transunet", npz(SLICE, image=put(float("nan"))), f"{SLICE}: intensities must be from 0 to 1", "case0006"),
    ("transunet", npz(SLICE, image=lambda a: a - 1), f"{SLICE}: intensities must be from 0 to 1", "case0006"),
    (
        "transunet",
        npz(SLICE, label=lambda a: a[1:]),
        f"{SLICE}: the mask must have its image's size, (12, 10)",
        "case0006",
    ),
    (
        "transunet",
        npz(SLICE, image=lambda a: a[1:], label=lambda a: a[1:]),
        f"{SLICE}: slices of a case must be of one size, (12, 10), got (11, 10)",
        "case0006",
    ),
    ("transunet", h5(VOLUME, image=np.zeros((2, 3, 4))), f"{VOLUME}: cannot be read", "case0001"),
    (
        "transunet",
        h5(VOLUME, image=np.zeros((3, 4)), label=np.zeros((3, 4))),
        f"{VOLUME}: image must have 3 axes, got an array of (3, 4)",
        "case0001",
    ),
]


def ids(table):
    return [f"{data}-{message[-40:]}" for data, _, message, _ in table]


@pytest.mark.parametrize(("data", "break_", "message", "case"), STRUCTURAL, ids=ids(STRUCTURAL))
def test_structural_problems_are_found_before_anything_is_written(
    data, break_, message, case, nnunet_folders, tmp_path, capsys
):
    source = WRITERS[data](tmp_path / "source")
    break_(source)
    before = snapshot(source)
    assert convert(data, source) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "--skip-bad" in error
    assert "Traceback" not in error
    assert snapshot(nnunet_folders) == {"preprocessed": None, "raw": None}

    assert convert(data, source, "--skip-bad") == 0
    assert message in capsys.readouterr().out
    left = {
        file.name.removesuffix("_0000.nii.gz").removesuffix("_0000.png")
        for file in nnunet_folders.glob("raw/*/images*/*")
    }
    assert left
    assert case not in left
    assert snapshot(source) == before


@pytest.mark.parametrize(("data", "break_", "message", "case"), CONTENT, ids=ids(CONTENT))
def test_bad_content_stops_and_is_left_out_with_skip_bad(data, break_, message, case, nnunet_folders, tmp_path, capsys):
    source = WRITERS[data](tmp_path / "source")
    break_(source)
    before = snapshot(source)
    assert convert(data, source) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    (dataset,) = (nnunet_folders / "raw").iterdir()
    assert not (dataset / "dataset.json").exists()
    written = [file for file in dataset.rglob("*") if case in file.name or file.name.startswith("unfinished")]
    assert written == [], "half-written"
    assert list((nnunet_folders / "preprocessed").iterdir()) == []

    assert convert(data, source, "--skip-bad") == 0
    assert message in capsys.readouterr().out
    description = json.loads((dataset / "dataset.json").read_text())
    training = [file.name.partition(".")[0] for file in (dataset / "labelsTr").iterdir()]
    assert len(training) == description["numTraining"] > 0
    assert case not in training
    if (dataset / "splits_final.json").exists():
        (fold, *_) = json.loads((dataset / "splits_final.json").read_text())
        assert sorted(fold["train"] + fold["val"]) == sorted(training)
    assert snapshot(source) == before


def test_all_problems_are_listed_together(nnunet_folders, tmp_path, capsys):
    source = WRITERS["acdc"](tmp_path / "source", patients=9)
    remove(LABEL)(source)
    write("training/patient005/Info.cfg", "")(source)
    copy("training/patient007", "testing/patient007")(source)
    truncate("training/patient008/patient008_frame01.nii.gz")(source)
    for arguments, count in (((), 4), (("--dry-run",), 5)):
        assert convert("acdc", source, *arguments) == 1
        error = capsys.readouterr().err
        assert f"{count} problems; mend it, or leave such cases out with --skip-bad:\n" in error
        for part in (LABEL, "patient005/Info.cfg", "patient007_frame01", "patient007_frame12"):
            assert part in error
    assert "patient008_frame01.nii.gz" in error
    assert snapshot(nnunet_folders) == {"preprocessed": None, "raw": None}


def test_a_bad_frame_is_no_neighbour_but_one_without_mask_is(nnunet_folders, tmp_path, capsys):
    source = WRITERS["cvc-clinicdb"](tmp_path / "source")
    truncate("Original/26.tif")(source)
    remove("Ground Truth/2.tif")(source)
    assert convert("cvc-clinicdb", source, "--neighbours", 1, "--skip-bad") == 0
    (dataset,) = (nnunet_folders / "raw").iterdir()
    # 27 cannot have its neighbour, and a repeated frame in its place would be wrong unnoticed.
    assert {file.name for file in (dataset / "labelsTr").iterdir()} == {
        f"frame{number:03d}.png" for number in (1, 3, 24, 25, 51)
    }
    with Image.open(dataset / "imagesTr" / "frame003_0001.png") as previous:
        np.testing.assert_array_equal(np.asarray(previous), tifffile.imread(source / "Original" / "2.tif"))


def test_neighbours_of_another_size(nnunet_folders, tmp_path, capsys):
    source = WRITERS["cvc-clinicdb"](tmp_path / "source")
    tif("Original/26.tif", np.zeros((18, 20, 3), np.uint8))(source)
    tif("Ground Truth/26.tif", np.zeros((18, 20), np.uint8))(source)
    assert convert("cvc-clinicdb", source, "-d", 720) == 0
    assert convert("cvc-clinicdb", source, "--neighbours", 1) == 1
    assert (
        "neighbouring frames must be of one size, 16 x 20 pixels is not that of 26.tif, 18 x 20"
        in capsys.readouterr().err
    )


def test_masks_whose_axes_run_otherwise_are_put_in_order(nnunet_folders, tmp_path, capsys):
    source = WRITERS["acdc"](tmp_path / "source")
    mask = sitk.ReadImage(str(source / LABEL))
    sitk.WriteImage(sitk.Flip(mask, (True, False, True)), str(source / LABEL))
    assert convert("acdc", source) == 0
    remark = (
        "1 case: the mask's axes run otherwise than its image's, its voxels were put into the image's order, place by "
    )
    assert f"{remark}place in the world: patient003_frame01\n" in capsys.readouterr().out
    written = sitk.ReadImage(str(nnunet_folders / "raw" / "Dataset027_ACDC" / "labelsTr" / "patient003_frame01.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(mask))
    assert written.GetOrigin() == official.ORIGIN
    assert written.GetDirection() == official.DIRECTION


def test_axes_that_are_not_quite_at_right_angles_are_mended_and_named(nnunet_folders, tmp_path, capfd):
    source = WRITERS["acdc"](tmp_path / "source", patients=2)
    files = sorted((source / "training").glob("*/*frame*"))
    for file in files:
        affine = np.diag([1.25, 1.5, 8.0, 1.0])
        affine[0, 1] = 1e-3 * 1.5
        nibabel.save(nibabel.Nifti1Image(sitk.GetArrayFromImage(sitk.ReadImage(str(file))).T, affine), file)
    capfd.readouterr()
    assert convert("acdc", source) == 0
    captured = capfd.readouterr()
    remark = "4 cases: the axes in a header are not quite at right angles, the nearest right angles were written: "
    assert f"{remark}patient001_frame01, patient001_frame12, patient002_frame01, patient002_frame12\n" in captured.out
    assert "WARNING" not in captured.err
    for file in (nnunet_folders / "raw" / "Dataset027_ACDC" / "labelsTr").iterdir():
        original = source / "training" / file.name[:10] / f"{file.name[:18]}_gt.nii.gz"
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(sitk.ReadImage(str(file))), np.asarray(nibabel.load(original).dataobj).T
        )


def test_labels_stored_as_floats_just_below_are_the_labels(nnunet_folders, tmp_path):
    source = WRITERS["acdc"](tmp_path / "source")
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(source / LABEL)))
    nifti(LABEL, array=lambda array: array.astype(np.float32) * np.float32(0.99995))(source)
    assert convert("acdc", source) == 0
    written = nnunet_folders / "raw" / "Dataset027_ACDC" / "labelsTr" / "patient003_frame01.nii.gz"
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(written))), expected)


@pytest.mark.parametrize("how", ["white is zero", "palette", "turned", "black and white"])
def test_masks_are_what_a_viewer_shows(how, nnunet_folders, tmp_path):
    source = WRITERS["cvc-clinicdb"](tmp_path / "source")
    mask = np.zeros((16, 20), np.uint8)
    mask[3:7, 2:13] = 255
    file = source / "Ground Truth" / "26.tif"
    if how == "white is zero":
        tifffile.imwrite(file, 255 - mask, photometric="miniswhite")
    elif how == "palette":
        colours = np.full((3, 256), 65535, np.uint16)
        colours[:, 7] = 0
        tifffile.imwrite(file, np.where(mask > 0, 3, 7).astype(np.uint8), photometric="palette", colormap=colours)
    elif how == "turned":
        Image.fromarray(np.rot90(mask)).save(file, tiffinfo={274: 6})
    else:
        Image.fromarray(mask).convert("1").save(file)
    assert convert("cvc-clinicdb", source) == 0
    with Image.open(next(nnunet_folders.glob("raw/*/labelsTr/frame026.png"))) as label:
        np.testing.assert_array_equal(np.asarray(label), mask > 0)


def test_healthy_files_under_other_names_are_taken(nnunet_folders, tmp_path, capsys):
    """Uncompressed volumes, masks as older challenges name them, and a mark before the text of Info.cfg."""
    acdc, isic, synapse = (WRITERS[data](tmp_path / data) for data in ("acdc", "isic2018", "synapse"))
    results = []
    for number in (900, 910):
        for shift, (data, source) in enumerate((("acdc", acdc), ("isic2018", isic), ("synapse", synapse))):
            assert convert(data, source, "-d", number + shift) == 0, capsys.readouterr()
            (dataset,) = (nnunet_folders / "raw").glob(f"Dataset{number + shift}_*")
            results.append({name: content for name, content in snapshot(dataset).items() if "dataset.json" not in name})
        for file in [*acdc.rglob("*frame*.nii.gz"), *synapse.rglob("*.nii.gz")]:
            file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
            file.unlink()
        for file in isic.rglob("*_segmentation.png"):
            file.rename(file.with_name(file.name.replace("_segmentation.png", "_Segmentation.PNG")))
        for file in acdc.rglob("Info.cfg"):
            file.write_text(file.read_text(), encoding="utf-8-sig")
    assert results[:3] == results[3:]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("acdc", "folder of ACDC, with training/patient001/"),
        ("isic2018", "with ISIC2018_Task1-2_Training_Input/ and ISIC2018_Task1_Training_GroundTruth/"),
        ("cvc-clinicdb", "folder of CVC-ClinicDB, with Original/1.tif, ... and Ground Truth/1.tif"),
        ("synapse", "folder of Synapse (BTCV), with RawData/Training/img/img0001.nii.gz"),
    ],
)
def test_a_folder_that_is_not_the_dataset(data, what, nnunet_folders, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    for found in ("nothing", "holiday/, readme.txt"):
        assert convert(data, tmp_path / "other") == 1
        error = capsys.readouterr().err
        assert what in error
        assert f"found {found}\n" in error
        (tmp_path / "other" / "holiday").mkdir(exist_ok=True)
        (tmp_path / "other" / "readme.txt").touch()
    assert convert(data, tmp_path / "absent") == 1
    assert "absent must be the data set's folder, and there is no such folder" in capsys.readouterr().err
    assert snapshot(nnunet_folders) == {"preprocessed": None, "raw": None}


def test_test_patients_are_not_trained_on_by_mistake(nnunet_folders, tmp_path, capsys):
    assert convert("acdc", WRITERS["acdc"](tmp_path / "source") / "testing") == 1
    assert "must be the folder of ACDC" in capsys.readouterr().err


def test_no_case_left(nnunet_folders, tmp_path, capsys):
    source = official.write_cvc(tmp_path / "source", frames=(1, 2))
    for frame in (1, 2):
        truncate(f"Original/{frame}.tif")(source)
    assert convert("cvc-clinicdb", source, "--skip-bad") == 1
    error = capsys.readouterr().err
    assert f"-i {source} has no training case that can be converted:\n  " in error
    assert "Original/2.tif: cannot be read" in error
    assert "--skip-bad" not in error
    assert not list(nnunet_folders.rglob("dataset.json"))


def test_nothing_recognised(nnunet_folders, tmp_path, capsys):
    for kind in ("Original", "Ground Truth"):
        (tmp_path / "source" / kind).mkdir(parents=True)
        (tmp_path / "source" / kind / "frames.zip").touch()
    assert convert("cvc-clinicdb", tmp_path / "source") == 1
    error = capsys.readouterr().err
    assert error.endswith("source has no training case that can be converted: nothing in it was recognised\n")
    assert snapshot(nnunet_folders) == {"preprocessed": None, "raw": None}


def test_layouts_that_are_there_twice(nnunet_folders, tmp_path, capsys):
    source = official.write_cvc(tmp_path / "cvc")
    official.write_cvc(source, layout="png")
    assert convert("cvc-clinicdb", source) == 1
    assert f"has the frames twice; give one of {source}, {source / 'PNG'}" in capsys.readouterr().err
    both = official.write_transunet(official.write_btcv(tmp_path / "btcv"))
    assert convert("synapse", both) == 1
    assert "has both the official volumes and train_npz/" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frame,video\n1,a\n", "must have the columns frame and sequence, got frame, video"),
        ("", "must have the columns frame and sequence, got nothing"),
        ("frame,sequence\none,a\n", "each frame number once with its sequence, got 'one', 'a' in row 1"),
        ("frame,sequence\n1,a\n1,b\n", "got '1', 'b' in row 2"),
        ("frame,sequence\n1\n", "got '1', '' in row 1"),
        ("frame,sequence\n1,a\n", "2 is not in"),
        (None, "cannot be read: [Errno 2]"),
    ],
)
def test_sequences_of_a_wrong_file(text, message, nnunet_folders, tmp_path, capsys):
    file = tmp_path / "sequences.csv"
    if text is not None:
        file.write_text(text)
    assert convert("cvc-clinicdb", WRITERS["cvc-clinicdb"](tmp_path / "source"), "--sequences", file) == 1
    assert message in capsys.readouterr().err
    assert snapshot(nnunet_folders) == {"preprocessed": None, "raw": None}


def test_transunets_files_have_8_organs_and_need_h5py(nnunet_folders, tmp_path, capsys, monkeypatch):
    source = WRITERS["transunet"](tmp_path / "source")
    assert convert("transunet", source, "--organs", 13) == 1
    assert "--organs 13 needs the official volumes" in capsys.readouterr().err
    monkeypatch.setattr(synapse.importlib.util, "find_spec", lambda name: None)
    assert convert("transunet", source) == 1
    error = capsys.readouterr().err
    assert 'install it with: pip install "nnunetv2-salstm[convert]"' in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["acdc"], "required: -i"),
        ([], "required: DATA"),
        (["acdc", "-i", ".", "--max-size", "5"], "unrecognized arguments: --max-size 5"),
        (["isic2018", "-i", ".", "--neighbours", "1"], "unrecognized arguments: --neighbours 1"),
        (["acdc", "-i", ".", "--neighbours", "2"], "invalid choice: 2"),
        (["acdc", "-i", ".", "-d", "1000"], "must be from 1 to 999, as nnU-Net's are, got 1000"),
        (["acdc", "-i", ".", "-np", "0"], "must be a whole number of at least 1, got 0"),
        (["synapse", "-i", ".", "--organs", "9"], "invalid choice: 9"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_wrong_usage(argv, message, capsys):
    assert cli.main(["convert", *argv]) == 2
    assert message in capsys.readouterr().err


def test_every_data_set_has_a_finder_a_number_and_help():
    from nnunetv2_salstm.commands import convert as command

    assert list(conversion.FINDERS) == list(command.DATASET_IDS) == list(command._HELP)
