"""Every feature of nnU-Net with our networks, through its own commands, on tiny phantoms."""

import json
import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import write_dataset
from nnunet_host import Host
from official_folders import write_acdc
from presets import as_residual_encoder

pytestmark = pytest.mark.nightly

PLAIN, RESENC = "nnUNetPlans", "nnUNetResEncUNetMPlans"
LENGTH = "1epochs_1its"
FOLDS = [{"train": ["case_0", "case_1", "case_2"], "val": ["case_3", "case_4"]},
         {"train": ["case_3", "case_4"], "val": ["case_0", "case_1", "case_2"]}]  # fmt: skip


def small(architecture):
    """Makes a planned network one of few channels."""
    arguments = architecture["arch_kwargs"]
    arguments["features_per_stage"] = [8, 8, 16, 16, 16, 16][: arguments["n_stages"]]


def plan_by_hand(folder):
    """Makes small networks of what was planned, adds a lower resolution with its cascade, and residual encoders."""
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    configurations = plans["configurations"]
    for name in ("2d", "3d_fullres"):
        small(configurations[name]["architecture"])
    full = configurations["3d_fullres"]
    full["batch_size"] = configurations["2d"]["batch_size"] = 2
    low = json.loads(json.dumps(full))
    z, y, x = full["spacing"]
    depth, height, width = full["median_image_size_in_voxels"]
    low |= {
        "data_identifier": "nnUNetPlans_3d_lowres",
        "spacing": [z, 2 * y, 2 * x],
        "median_image_size_in_voxels": [depth, height / 2, width / 2],
        "patch_size": [full["patch_size"][0], *(max(16, edge // 2) for edge in full["patch_size"][1:])],
        "next_stage": "3d_cascade_fullres",
    }
    # Half the size takes one stride less.
    arguments = low["architecture"]["arch_kwargs"]
    arguments["n_stages"] -= 1
    for name in ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage", "n_conv_per_stage_decoder"):
        arguments[name] = arguments[name][:-1]
    configurations["3d_lowres"] = low
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    (folder / f"{PLAIN}.json").write_text(json.dumps(plans))
    for name in ("2d", "3d_fullres", "3d_lowres"):
        configurations[name] = as_residual_encoder(configurations[name])
        arguments = configurations[name]["architecture"]["arch_kwargs"]
        arguments["n_blocks_per_stage"] = 1
        arguments["n_conv_per_stage_decoder"] = 1
    plans["plans_name"] = RESENC
    (folder / f"{RESENC}.json").write_text(json.dumps(plans))


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """The plain phantoms, planned for all configurations and both encoders."""
    host = Host(tmp_path_factory.mktemp("matrix"))
    write_dataset(host.root / "raw" / "Dataset990_Plain")
    host.plan(990)
    folder = host.root / "preprocessed" / "Dataset990_Plain"
    plan_by_hand(folder)
    (folder / "splits_final.json").write_text(json.dumps(FOLDS))
    host.run("nnUNetv2_preprocess -d 990 -c 2d 3d_fullres 3d_lowres -np 1 1 1")
    return host


def check_prediction(host, number, folder, labels):
    """Checks that each test case was predicted on its own grid with known labels."""
    images = sorted((host.dataset(number) / "imagesTs").glob("*_0000.nii.gz"))
    assert images
    for image in images:
        predicted = sitk.ReadImage(str(folder / image.name.replace("_0000", "")))
        reference = sitk.ReadImage(str(image))
        assert predicted.GetSize() == reference.GetSize()
        assert predicted.GetSpacing() == reference.GetSpacing()
        assert set(np.unique(sitk.GetArrayFromImage(predicted))) <= labels


METHODS = [(plans, module) for plans in (PLAIN, RESENC) for module in "AB"]


@pytest.mark.parametrize(("plans", "module"), METHODS)
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_trains_validates_and_predicts(configuration, plans, module, host, tmp_path):
    trainer = f"nnUNetTrainerSALSTM_{module}_{LENGTH}"
    images = host.dataset(990) / "imagesTs"
    model = f"-d 990 -c {configuration} -f 0 -tr {trainer} -p {plans} -device cpu"
    host.run(
        f"nnUNetv2_train 990 {configuration} 0 -tr {trainer} -p {plans} -device cpu",
        f"nnUNetv2_predict -i {images} -o {tmp_path} {model} -npp 1 -nps 1",
    )
    check_prediction(host, 990, tmp_path, {0, 1, 2})
    summary = json.loads(
        (host.model(990, trainer, plans, configuration) / "fold_0" / "validation" / "summary.json").read_text()
    )
    assert len(summary["metric_per_case"]) == len(FOLDS[0]["val"])


@pytest.mark.parametrize(("plans", "module"), METHODS)
def test_the_cascade(plans, module, host, tmp_path):
    trainer = f"nnUNetTrainerSALSTM_{module}_{LENGTH}"
    low, full = tmp_path / "low", tmp_path / "full"
    images = host.dataset(990) / "imagesTs"
    words = f"-tr {trainer} -p {plans} -device cpu"
    host.run(
        # All cases are validated by fold all, so that all have a prediction for the next stage.
        f"nnUNetv2_train 990 3d_lowres all {words}",
        f"nnUNetv2_train 990 3d_cascade_fullres 0 {words}",
        f"nnUNetv2_predict -i {images} -o {low} -d 990 -c 3d_lowres -f all {words} -npp 1 -nps 1",
        f"nnUNetv2_predict -i {images} -o {full} -d 990 -c 3d_cascade_fullres -f 0 {words} "
        f"-prev_stage_predictions {low} -npp 1 -nps 1",
    )
    for folder in (low, full):
        check_prediction(host, 990, folder, {0, 1, 2})
    saved = json.loads((host.model(990, trainer, plans, "3d_cascade_fullres") / "plans.json").read_text())
    assert saved["configurations"]["3d_cascade_fullres"]["architecture"]["arch_kwargs"]["salstm"]["module"] == module


def other_labels(folder, description, relabel=None, channels=1):
    """Turns the plain phantoms into ones with other labels or several channels."""
    write_dataset(folder)
    file = folder / "dataset.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, **description}))
    for label in (folder / "labelsTr").glob("*.nii.gz"):
        if relabel is not None:
            image = sitk.ReadImage(str(label))
            changed = sitk.GetImageFromArray(relabel(sitk.GetArrayFromImage(image)))
            changed.CopyInformation(image)
            sitk.WriteImage(changed, str(label))
    for kind in ("imagesTr", "imagesTs"):
        for image in list((folder / kind).glob("*_0000.nii.gz")):
            for channel in range(1, channels):
                shutil.copy(image, image.with_name(image.name.replace("_0000", f"_{channel:04d}")))


def scribbled(label):
    """Labels in every second slice only, the rest to be ignored."""
    label = label.copy()
    label[1::2] = 3
    return label


VARIANTS = {
    "regions": (991, "A", {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}, {}),
    "ignore": (992, "B", {"labels": {"background": 0, "shell": 1, "core": 2, "ignore": 3}}, {"relabel": scribbled}),
    "channels": (993, "A", {"channel_names": {"0": "T1", "1": "T2", "2": "CT"}}, {"channels": 3}),
}


# Three channels are also what 2.5D has.
@pytest.mark.parametrize("variant", ["regions", "ignore", "channels"])
def test_labels_and_channels(variant, host, tmp_path):
    number, module, description, changes = VARIANTS[variant]
    other_labels(host.root / "raw" / f"Dataset{number}_{variant}", description, **changes)
    host.plan(number)
    plan_by_hand(host.root / "preprocessed" / f"Dataset{number}_{variant}")
    trainer = f"nnUNetTrainerSALSTM_{module}_{LENGTH}"
    images = host.dataset(number) / "imagesTs"
    host.run(
        f"nnUNetv2_preprocess -d {number} -c 3d_fullres -np 1",
        f"nnUNetv2_train {number} 3d_fullres 0 -tr {trainer} -device cpu",
        f"nnUNetv2_predict -i {images} -o {tmp_path} -d {number} -c 3d_fullres -f 0 -tr {trainer} -device cpu "
        "-npp 1 -nps 1",
    )
    check_prediction(host, number, tmp_path, {0, 1, 2})


def test_everything_a_trained_model_is_used_for(host, tmp_path):
    """Several folds, --val, --val_best, --npz, parts, probabilities, model folders, the best of several, archives."""
    stock, ours = "nnUNetTrainerSALSTMOff_1epochs_2its", "nnUNetTrainerSALSTM_B_1epochs_2its"
    vanilla = "nnUNetTrainer_1epoch"
    images = host.dataset(990) / "imagesTs"
    shutil.copy(images / "test_5_0000.nii.gz", images / "test_6_0000.nii.gz")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    train = [f"nnUNetv2_train 990 2d {fold} -tr {name} -device cpu --npz" for name in (stock, ours) for fold in (0, 1)]
    host.run(*train, f"nnUNetv2_train 990 2d 0 -tr {ours} -device cpu --val --npz")
    folder = host.model(990, ours, PLAIN, "2d")
    validated = (folder / "fold_0" / "validation" / "summary.json").read_text()
    assert (folder / "fold_0" / "validation" / "case_3.npz").is_file()

    model = f"-d 990 -c 2d -f 0 1 -tr {ours} -device cpu -npp 1 -nps 1"
    parts, whole, by_folder = (tmp_path / name for name in ("parts", "whole", "by_folder"))
    printed = host.run(
        f"nnUNetv2_train 990 2d 0 -tr {ours} -device cpu --val --val_best",
        f"nnUNetv2_predict -i {images} -o {parts} {model} -num_parts 2 -part_id 0",
        f"nnUNetv2_predict -i {images} -o {parts} {model} -num_parts 2 -part_id 1",
        f"nnUNetv2_predict -i {images} -o {whole} {model} --save_probabilities",
        f"nnUNetv2_predict_from_modelfolder -i {images} -o {by_folder} -m {folder} -f 0 1 -device cpu -npp 1 -nps 1",
        f"nnUNetv2_find_best_configuration 990 -c 2d -tr {stock} {ours} -f 0 1 -np 1",
        f"nnUNetv2_export_model_to_zip -d 990 -o {tmp_path / 'model.zip'} -c 2d -tr {ours} -f 0 1",
        cwd=elsewhere,
    )
    assert list(elsewhere.iterdir()) == []
    assert json.loads(validated)["metric_per_case"]
    for case in ("test_5", "test_6"):
        expected = sitk.GetArrayFromImage(sitk.ReadImage(str(whole / f"{case}.nii.gz")))
        assert (whole / f"{case}.npz").is_file()
        for other in (parts, by_folder):
            assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(other / f"{case}.nii.gz"))), expected)
    assert "nnUNetv2_ensemble" in printed or "nnUNetv2_predict" in printed
    best = json.loads((host.results / "Dataset990_Plain" / "inference_information.json").read_text())
    assert any(ours in name for name in best["all_results"])

    clean, installed, ensembled = tmp_path / "clean", tmp_path / "installed", tmp_path / "ensembled"
    clean.mkdir()
    host.run(
        f"nnUNetv2_install_pretrained_model_from_zip {tmp_path / 'model.zip'}",
        f"nnUNetv2_predict -i {images} -o {installed} {model}",
        results=clean,
    )
    for case in ("test_5", "test_6"):
        assert (installed / f"{case}.nii.gz").read_bytes() == (whole / f"{case}.nii.gz").read_bytes()

    of_vanilla = tmp_path / "vanilla"
    host.run(
        f"nnUNetv2_train 990 2d 0 -tr {vanilla} -device cpu",
        f"nnUNetv2_predict -i {images} -o {of_vanilla} -d 990 -c 2d -f 0 -tr {vanilla} -device cpu -npp 1 -nps 1 "
        "--save_probabilities",
        f"nnUNetv2_ensemble -i {of_vanilla} {whole} -o {ensembled} -np 1",
    )
    check_prediction(host, 990, ensembled, {0, 1, 2})


def test_neighbouring_slices_from_the_official_folder_to_the_prediction(tmp_path):
    host = Host(tmp_path / "nnunet")
    folder = write_acdc(tmp_path / "ACDC", test=1)
    host.run(f"nnUNetv2_salstm convert acdc -i {folder} --neighbours 1 -np 1")
    host.plan(127)
    file = host.root / "preprocessed" / host.dataset(127).name / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    small(plans["configurations"]["2d"]["architecture"])
    plans["configurations"]["2d"]["batch_size"] = 12
    file.write_text(json.dumps(plans))
    trainers = [f"nnUNetTrainerSALSTM_{module}_25d_{LENGTH}" for module in "AB"] + [f"nnUNetTrainerSALSTMOff_{LENGTH}"]
    images = host.dataset(127) / "imagesTs"
    commands = []
    for trainer in trainers:
        words = f"-tr {trainer} -device cpu"
        commands.append(f"nnUNetv2_train 127 2d 0 {words}")
        commands.append(f"nnUNetv2_predict -i {images} -o {tmp_path / trainer} -d 127 -c 2d -f 0 {words} -npp 1 -nps 1")
    printed = host.run("nnUNetv2_preprocess -d 127 -c 2d -np 1", *commands)
    assert len(re.findall(r"Batch size [3-5] instead of the planned 12", printed)) == 2
    for trainer in trainers:
        check_prediction(host, 127, tmp_path / trainer, {0, 1, 2, 3})
        saved = json.loads((host.model(127, trainer, PLAIN, "2d") / "plans.json").read_text())["configurations"]["2d"]
        sequence = saved["architecture"]["arch_kwargs"].get("salstm", {}).get("sequence")
        assert (sequence, saved["batch_size"] < 6) == (("frames", True) if "25d" in trainer else (None, False))
