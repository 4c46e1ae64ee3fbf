"""What `convert` writes, for each data set and layout."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import official_folders as official
import pytest
import SimpleITK as sitk
import tifffile
from official_folders import snapshot, write_acdc, write_btcv, write_cvc, write_isic, write_transunet
from PIL import Image

from nnunetv2_salstm import cli
from nnunetv2_salstm.converters import splits as splits_module
from nnunetv2_salstm.converters.splits import split
from nnunetv2_salstm.converters.synapse import EIGHT_ORGANS, ORGANS, TRANSUNET_TEST_CASES
from nnunetv2_salstm.converters.volumes import with_neighbours
from nnunetv2_salstm.host.frames import channels_of_a_frame


@pytest.fixture
def convert(nnunet_folders, capsys):
    """Converts in this process and returns the raw dataset's folder."""

    def run(data, folder, *arguments):
        raw = nnunet_folders / "raw"
        before = set(raw.iterdir())
        assert cli.main(["convert", data, "-i", str(folder), "-np", "1", *map(str, arguments)]) == 0, (
            capsys.readouterr()
        )
        (new,) = set(raw.iterdir()) - before
        return new

    return run


def description_of(dataset):
    return json.loads((dataset / "dataset.json").read_text())


def splits_of(dataset):
    """Returns the folds, which must be the same where nnU-Net reads them."""
    splits = json.loads((dataset / "splits_final.json").read_text())
    read = dataset.parents[1] / "preprocessed" / dataset.name / "splits_final.json"
    assert json.loads(read.read_text()) == splits
    return splits


def volume(file):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def picture(file):
    with Image.open(file) as image:
        return np.asarray(image)


def names(folder):
    return sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []


# ACDC


def test_acdc(convert, tmp_path):
    source = write_acdc(tmp_path / "ACDC", patients=5, test=2)
    dataset = convert("acdc", source)
    assert dataset.name == "Dataset027_ACDC"
    assert names(dataset) == sorted(
        ["imagesTr", "labelsTr", "imagesTs", "labelsTs", "dataset.json", "splits_final.json"]
    )
    patient = source / "training" / "patient003"
    for theirs, ours in (
        ("patient003_frame12.nii.gz", "imagesTr/patient003_frame12_0000.nii.gz"),
        ("patient003_frame12_gt.nii.gz", "labelsTr/patient003_frame12.nii.gz"),
    ):
        expected, found = sitk.ReadImage(str(patient / theirs)), sitk.ReadImage(str(dataset / ours))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
        assert found.GetPixelID() == expected.GetPixelID()
        for of_image in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(found, of_image)() == pytest.approx(getattr(expected, of_image)())
    assert len(names(dataset / "imagesTr")) == len(names(dataset / "labelsTr")) == 10
    assert names(dataset / "labelsTs") == [
        f"patient10{n}_frame{frame}.nii.gz" for n in (1, 2) for frame in ("01", "12")
    ]
    description = description_of(dataset)
    assert description["labels"] == {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
    assert description["channel_names"] == {"0": "cineMRI"}
    assert (description["numTraining"], description["file_ending"]) == (10, ".nii.gz")
    assert (description["name"], description["licence"]) == ("Dataset027_ACDC", "CC BY-NC-SA 4.0")
    assert "salstm_neighbours" not in description
    for fold in splits_of(dataset):
        (patient,) = {name[:10] for name in fold["val"]}
        assert len(fold["val"]) == 2
        assert patient not in {name[:10] for name in fold["train"]}


def test_acdc_without_test_labels_and_from_the_training_folder_alone(convert, tmp_path):
    source = write_acdc(tmp_path / "ACDC", patients=2, test=0)
    official.write_patient(source / "testing" / "patient101", group="", label=False)
    both = convert("acdc", source)
    assert names(both / "imagesTs") == ["patient101_frame01_0000.nii.gz", "patient101_frame12_0000.nii.gz"]
    assert not (both / "labelsTs").exists()
    alone = convert("acdc", source / "training", "-d", 28)
    assert names(alone / "imagesTr") == names(both / "imagesTr")
    assert not (alone / "imagesTs").exists()


def test_acdc_test_patients_are_no_training_data_from_their_own_folder_either(
    nnunet_folders, tmp_path, monkeypatch, capsys
):
    source = write_acdc(tmp_path / "ACDC", patients=1, test=2)
    monkeypatch.chdir(source / "testing")
    assert cli.main(["convert", "acdc", "-i", ".", "--dry-run"]) == 1
    assert "must be" in capsys.readouterr().err


def test_acdc_neighbours(convert, tmp_path):
    source = write_acdc(tmp_path / "ACDC", patients=2, test=1)
    dataset = convert("acdc", source, "--neighbours", 1)
    assert dataset.name == "Dataset127_ACDC_25d"
    for part, test in (("training/patient002", "Tr"), ("testing/patient101", "Ts")):
        name = f"{part[-10:]}_frame01"
        original = volume(source / part / f"{name}.nii.gz")
        current, previous, following = (volume(dataset / f"images{test}" / f"{name}_000{i}.nii.gz") for i in range(3))
        np.testing.assert_array_equal(current, original)
        for index in range(len(original)):
            np.testing.assert_array_equal(previous[index], original[max(index - 1, 0)])
            np.testing.assert_array_equal(following[index], original[min(index + 1, len(original) - 1)])
    assert description_of(dataset)["channel_names"] == dict.fromkeys("012", "cineMRI")
    assert channels_of_a_frame(description_of(dataset)) == 1


# ISIC 2018


def test_isic2018(convert, tmp_path):
    source = write_isic(tmp_path / "ISIC", (6, 2, 1))
    dataset = convert("isic2018", source)
    assert dataset.name == "Dataset701_ISIC2018"
    assert names(dataset / "imagesTr") == [f"ISIC_{n:07d}_0000.png" for n in range(1, 7)]
    assert names(dataset / "imagesTs") == [f"ISIC_{n:07d}_0000.png" for n in range(7, 10)]
    assert names(dataset / "labelsTs") == [f"ISIC_{n:07d}.png" for n in range(7, 10)]
    original = picture(source / "ISIC2018_Task1-2_Training_Input" / "ISIC_0000002.jpg")
    np.testing.assert_array_equal(picture(dataset / "imagesTr" / "ISIC_0000002_0000.png"), original)
    grey = picture(source / "ISIC2018_Task1_Training_GroundTruth" / "ISIC_0000002_segmentation.png")
    label = picture(dataset / "labelsTr" / "ISIC_0000002.png")
    assert {90, 127, 128} <= set(np.unique(grey))
    np.testing.assert_array_equal(label, grey >= 128)
    assert description_of(dataset)["channel_names"] == dict.fromkeys("012", "rgb_to_0_1")
    assert description_of(dataset)["labels"] == {"background": 0, "lesion": 1}
    folds = splits_of(dataset)
    assert Counter(name for fold in folds for name in fold["val"]) == {f"ISIC_{n:07d}": 1 for n in range(1, 7)}


def test_isic2018_smaller(convert, tmp_path):
    source = write_isic(tmp_path / "ISIC", (2, 0, 0), size=(40, 60))
    images, masks = (source / f"ISIC2018_Task1{part}" for part in ("-2_Training_Input", "_Training_GroundTruth"))
    # A checkerboard of single pixels is grey when antialiased, and a small one is not enlarged.
    board = (np.indices((40, 60)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(np.repeat(board[..., None], 3, -1)).save(images / "ISIC_0000001.jpg", quality=100)
    Image.new("RGB", (12, 10)).save(images / "ISIC_0000002.jpg")
    left = np.zeros((40, 60), np.uint8)
    left[:, :30] = 255
    Image.fromarray(left).save(masks / "ISIC_0000001_segmentation.png")
    Image.new("L", (12, 10)).save(masks / "ISIC_0000002_segmentation.png")
    dataset = convert("isic2018", source, "--max-size", 30)
    image = picture(dataset / "imagesTr" / "ISIC_0000001_0000.png")
    assert image.shape == (20, 30, 3)
    assert np.abs(image[2:-2, 2:-2].astype(int) - 127).max() < 10
    np.testing.assert_array_equal(picture(dataset / "labelsTr" / "ISIC_0000001.png"), left[::2, ::2] > 0)
    assert picture(dataset / "imagesTr" / "ISIC_0000002_0000.png").shape == (10, 12, 3)


# CVC-ClinicDB


@pytest.mark.parametrize("neighbours", [0, 1])
def test_cvc_layouts_give_the_same(neighbours, convert, tmp_path):
    tif = convert("cvc-clinicdb", write_cvc(tmp_path / "tif"), "--neighbours", neighbours)
    png = write_cvc(tmp_path / "png", layout="png")
    results = [snapshot(tif)]
    for number, folder in ((710, png), (711, png / "PNG")):
        results.append(snapshot(convert("cvc-clinicdb", folder, "-d", number, "--neighbours", neighbours)))
    for result in results:
        assert f'"numTraining": {8}'.encode() in result.pop("dataset.json")
    assert results[0] == results[1] == results[2]


def test_cvc(convert, tmp_path):
    source = write_cvc(tmp_path / "CVC")
    dataset = convert("cvc-clinicdb", source)
    assert dataset.name == "Dataset702_CVC-ClinicDB"
    assert names(dataset / "imagesTr") == [f"frame{n:03d}_0000.png" for n in (1, 2, 3, 24, 25, 26, 27, 51)]
    for frame in (1, 2):  # the mask of the first has three channels
        grey = tifffile.imread(source / "Ground Truth" / f"{frame}.tif")
        label = picture(dataset / "labelsTr" / f"frame{frame:03d}.png")
        np.testing.assert_array_equal(label, (grey if frame == 2 else grey[..., 0]) > 127)
        image = picture(dataset / "imagesTr" / f"frame{frame:03d}_0000.png")
        np.testing.assert_array_equal(image, tifffile.imread(source / "Original" / f"{frame}.tif"))
    assert description_of(dataset)["labels"] == {"background": 0, "polyp": 1}
    sequences = [{1, 2, 3, 24, 25}, {26, 27}, {51}]
    validated = [{int(name[5:]) for name in fold["val"]} for fold in splits_of(dataset)]
    assert sorted(validated, key=min) == sequences


def neighbours_of(dataset, source):
    """Returns the frame numbers of current, previous and next, found by their pixels."""
    frames = {tifffile.imread(file).tobytes(): int(file.stem) for file in (source / "Original").glob("[!.]*")}
    found = {}
    for file in sorted((dataset / "imagesTr").glob("*_0000.png")):
        pictures = [picture(file.with_name(f"{file.name[:-8]}000{i}.png")) for i in range(3)]
        found[int(file.name[5:8])] = tuple(frames[image.tobytes()] for image in pictures)
    return found


def test_cvc_neighbours_stay_in_their_sequence(convert, tmp_path):
    source = write_cvc(tmp_path / "CVC")
    dataset = convert("cvc-clinicdb", source, "--neighbours", 1)
    assert dataset.name == "Dataset802_CVC-ClinicDB_25d"
    assert neighbours_of(dataset, source) == {
        1: (1, 1, 2),
        2: (2, 1, 3),
        3: (3, 2, 3),  # 4 is not there
        24: (24, 24, 25),
        25: (25, 24, 25),  # 26 is the next sequence's
        26: (26, 26, 27),
        27: (27, 26, 27),
        51: (51, 51, 51),
    }
    assert description_of(dataset)["channel_names"] == {str(n): "rgb_to_0_1" for n in range(9)}
    assert channels_of_a_frame(description_of(dataset)) == 3


def test_a_frame_that_is_there_twice_is_no_neighbour(convert, tmp_path):
    source = write_cvc(tmp_path / "CVC")
    (source / "Original" / "024.tif").write_bytes((source / "Original" / "1.tif").read_bytes())
    found = neighbours_of(
        convert("cvc-clinicdb", source, "--neighbours", 1, "--skip-bad"), write_cvc(tmp_path / "whole")
    )
    assert 24 not in found
    assert found[25] == (25, 25, 25)


def test_cvc_sequences_of_a_file(convert, tmp_path):
    source = write_cvc(tmp_path / "CVC", frames=(1, 2, 3, 700, 701))
    table = tmp_path / "sequences.csv"
    table.write_text("sequence,frame\na,1\na,2\nb,3\nb,700\nb,701\n")
    dataset = convert("cvc-clinicdb", source, "--neighbours", 1, "--sequences", table)
    assert neighbours_of(dataset, source) == {
        1: (1, 1, 2),
        2: (2, 1, 2),
        3: (3, 3, 3),
        700: (700, 700, 701),
        701: (701, 700, 701),
    }
    folds = splits_of(dataset)
    assert sorted(sorted(fold["val"]) for fold in folds) == [
        ["frame001", "frame002"],
        ["frame003", "frame700", "frame701"],
    ]


# Synapse


@pytest.mark.parametrize("folder", [".", "RawData", "RawData/Training"])
def test_synapse_with_13_organs(folder, convert, tmp_path):
    source = write_btcv(tmp_path / "BTCV")
    dataset = convert("synapse", source / folder)
    assert dataset.name == "Dataset703_Synapse"
    training = source / "RawData" / "Training"
    np.testing.assert_array_equal(
        volume(dataset / "imagesTr" / "case0002_0000.nii.gz"), volume(training / "img" / "img0002.nii.gz")
    )
    np.testing.assert_array_equal(
        volume(dataset / "labelsTr" / "case0002.nii.gz"), volume(training / "label" / "label0002.nii.gz")
    )
    description = description_of(dataset)
    assert description["numTraining"] == 7
    assert description["channel_names"] == {"0": "CT"}
    assert list(description["labels"]) == ["background", *ORGANS]
    assert description["labels"]["left_adrenal_gland"] == 13
    # The test images, which have no labels, lie next to Training.
    assert names(dataset / "imagesTs") == ([] if folder == "RawData/Training" else ["case0061_0000.nii.gz"])
    assert not (dataset / "labelsTs").exists()


def test_synapse_with_transunets_organs_and_split(convert, tmp_path):
    source = write_btcv(tmp_path / "BTCV")
    dataset = convert("synapse", source, "--organs", 8)
    theirs = volume(source / "RawData" / "Training" / "label" / "label0002.nii.gz")
    # BTCV's numbers of aorta, gallbladder, left kidney, right kidney, liver, pancreas, spleen and stomach.
    expected = np.zeros_like(theirs)
    for ours, btcv in enumerate((8, 4, 3, 2, 6, 11, 1, 7), 1):
        expected[theirs == btcv] = ours
    np.testing.assert_array_equal(volume(dataset / "labelsTs" / "case0002.nii.gz"), expected)
    assert names(dataset / "labelsTr") == [f"case00{n}.nii.gz" for n in ("05", "06", "07", "09", "10")]
    assert names(dataset / "imagesTs") == ["case0001_0000.nii.gz", "case0002_0000.nii.gz"]
    assert list(description_of(dataset)["labels"]) == ["background", *EIGHT_ORGANS]
    assert len(TRANSUNET_TEST_CASES) == 12


def test_synapse_as_transunet_preprocessed_it(convert, tmp_path, capsys):
    source = write_transunet(tmp_path / "Synapse")
    dataset = convert("synapse", source)
    for number, kind in ((6, "Tr"), (1, "Ts")):
        image, label = official.transunet_volume(number)
        written = sitk.ReadImage(str(dataset / f"images{kind}" / f"case{number:04d}_0000.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(written), image)
        assert written.GetSpacing() == (1, 1, 1)
        np.testing.assert_array_equal(volume(dataset / f"labels{kind}" / f"case{number:04d}.nii.gz"), label)
    assert description_of(dataset)["channel_names"] == {"0": "noNorm"}
    assert "1 mm was written" in capsys.readouterr().out


@pytest.mark.parametrize("write", [write_btcv, write_transunet])
def test_synapse_neighbours(write, convert, tmp_path):
    source = write(tmp_path / "source")
    plain, dataset = convert("synapse", source), convert("synapse", source, "--neighbours", 1)
    assert dataset.name == "Dataset803_Synapse_25d"
    for kind in ("Tr", "Ts"):
        for file in (plain / f"images{kind}").iterdir():
            for index, expected in enumerate(with_neighbours(volume(file))):
                ours = dataset / f"images{kind}" / file.name.replace("_0000", f"_000{index}")
                np.testing.assert_array_equal(volume(ours), expected)
    (name,) = set(description_of(dataset)["channel_names"].values())
    assert name == description_of(plain)["channel_names"]["0"]


def test_neighbours_repeat_the_ends():
    slices = np.arange(4)[:, None, None]
    assert [array.ravel().tolist() for array in with_neighbours(slices)] == [[0, 1, 2, 3], [0, 0, 1, 2], [1, 2, 3, 3]]
    assert [array.ravel().tolist() for array in with_neighbours(slices[:1])] == [[0], [0], [0]]


# Splits


def cases_of(patients, frames=2):
    """Returns cases of patients that are given as a text of strata, e.g. AAB."""
    return [
        official.KillsItsProcess(f"p{number:03d}_{frame}", f"p{number:03d}", stratum, False)
        for number, stratum in enumerate(patients)
        for frame in range(frames)
    ]


def test_splits_are_by_patient_and_balanced():
    cases = cases_of("ABCDE" * 20)
    splits = split(cases)
    assert splits.balanced
    stratum = {case.name: case.stratum for case in cases}
    assert Counter(name for fold in splits.folds for name in fold["val"]) == dict.fromkeys(stratum, 1)
    for fold in splits.folds:
        assert sorted(fold["train"] + fold["val"]) == sorted(stratum)
        assert not {name[:4] for name in fold["train"]} & {name[:4] for name in fold["val"]}
        assert Counter(stratum[name] for name in fold["val"]) == dict.fromkeys("ABCDE", 8)


def test_splits_depend_on_the_seed_and_not_on_the_order_of_cases(monkeypatch):
    cases = cases_of("ABCDE" * 8)
    assert split(cases) == split(cases[::-1])
    seeded = split(cases)
    monkeypatch.setattr(splits_module, "SEED", 1)
    assert split(cases) != seeded


@pytest.mark.parametrize(
    ("patients", "folds", "balanced"), [("AAAB", 4, False), ("AB", 2, False), ("A", 0, False), ("A" * 9, 5, False)]
)
def test_fewer_groups_than_folds(patients, folds, balanced):
    splits = split(cases_of(patients))
    assert (len(splits.folds), splits.balanced) == (folds, balanced)
    assert all(fold["train"] and fold["val"] for fold in splits.folds)


def test_without_groups_to_divide_there_is_no_splits_file(convert, tmp_path, capsys):
    dataset = convert("cvc-clinicdb", write_cvc(tmp_path / "CVC", frames=(1, 2)))
    assert "splits_final.json" not in names(dataset)
    assert not (dataset.parents[1] / "preprocessed" / dataset.name).exists()
    assert "there is one sequence only; nnU-Net will split at random" in capsys.readouterr().out


# nnU-Net


@pytest.mark.nightly
def test_nnunet_accepts_the_datasets(convert, tmp_path):
    datasets = [convert(data, official.WRITERS[data](tmp_path / data)) for data in ("acdc", "isic2018", "cvc-clinicdb")]
    datasets += [convert("synapse", write_transunet(tmp_path / "transunet"))]
    datasets += [convert(data, tmp_path / data, "--neighbours", 1) for data in ("acdc", "cvc-clinicdb", "synapse")[:2]]
    datasets += [convert("synapse", write_btcv(tmp_path / "btcv"), "--neighbours", 1)]
    # In this order nnU-Net sees them, and reports what it reads of each.
    script = f"""
import json
from multiprocessing import dummy
from types import SimpleNamespace
from nnunetv2.experiment_planning import verify_dataset_integrity as module
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme

# Threads, as starting processes for each data set would take minutes.
module.multiprocessing = SimpleNamespace(get_context=lambda method: dummy)
for folder in {list(map(str, datasets))!r}:
    module.verify_dataset_integrity(folder, 1)
    description = json.load(open(folder + "/dataset.json"))
    schemes = [get_normalization_scheme(name).__name__ for name in description["channel_names"].values()]
    print("VERIFIED", len(schemes), *set(schemes))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "mismatch" not in result.stdout.lower()
    verified = [line.split()[1:] for line in result.stdout.splitlines() if line.startswith("VERIFIED")]
    assert verified == [
        ["1", "ZScoreNormalization"],
        ["3", "RGBTo01Normalization"],
        ["3", "RGBTo01Normalization"],
        ["1", "NoNormalization"],
        ["3", "ZScoreNormalization"],
        ["9", "RGBTo01Normalization"],
        ["3", "CTNormalization"],
    ]


# Summary


def test_summary(convert, tmp_path, capsys):
    source = write_acdc(tmp_path / "ACDC", patients=4, test=1)
    empty = source / "training" / "patient001" / "patient001_frame01_gt.nii.gz"
    official.write_nifti(empty, np.zeros_like(volume(empty)))
    dataset = convert("acdc", source)
    labels = [volume(file) for part in ("Tr", "Ts") for file in (dataset / f"labels{part}").iterdir()]
    voxels = sum((label == 2).sum() for label in labels)
    share = 100 * voxels / sum(label.size for label in labels)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "Dataset027_ACDC",
        "Cases: 8 training cases of 4 patients, 2 test cases of 1 patient",
        "Folds: 4 (there are only 4 patients) by patient; cases to validate with: 2, 2, 2, 2",
        "Size: 3 to 5 x 12 x 10 voxels",
        "Spacing: 8 x 1.5 x 1.25 mm",
    ]
    (row,) = [line for line in lines if line.startswith("| MYO")]
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["MYO", "2", f"{voxels:,}", f"{share:.2f}%", "9"]
    assert lines[-1] == "Next: nnUNetv2_plan_and_preprocess -d 27 --verify_dataset_integrity"
