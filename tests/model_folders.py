"""Model folders as nnU-Net leaves them behind, of tiny untrained networks whose blocks add something, and images."""

import json
import re
from copy import deepcopy

import numpy as np
import SimpleITK as sitk
import torch
from places import ROOT
from presets import build, name_of, plans_of, tiny

from nnunetv2_salstm.plans import add_to_plans


def awaken(network, seed=0):
    """Draws the blocks' last convolutions, which start at zero."""
    torch.manual_seed(seed)
    for block in getattr(network, "salstm", {}).values():
        torch.nn.init.normal_(block.layer.output_convolution.weight, std=0.5)


def dataset_json(channels=1, ending=".nii.gz"):
    return {
        "channel_names": {str(channel): "MRI" for channel in range(channels)},
        "labels": {"background": 0, "one": 1, "two": 2},
        "numTraining": 1,
        "file_ending": ending,
    }


def with_preprocessing(plans, channels=1):
    """Adds what the plans of networks lack and images need."""
    resampling = {"order": 1, "order_z": 0, "force_separate_z": None}
    plans["transpose_forward"] = plans["transpose_backward"] = [0, 1, 2]
    for configuration in plans["configurations"].values():
        configuration |= {
            "normalization_schemes": ["ZScoreNormalization"] * channels,
            "use_mask_for_norm": [False] * channels,
        }
        for kind in ("data", "seg", "probabilities"):
            configuration[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
            configuration[f"resampling_fn_{kind}_kwargs"] = {"is_seg": kind == "seg", **resampling}
    return plans


def write_model(root, trainer, salstm, dims=3, channels=1, seed=0, folds=("0",)):
    """Leaves behind what nnU-Net does of a training, with an untrained encoder and blocks that add something."""
    plan = tiny(dims)
    plan["architecture"]["arch_kwargs"]["features_per_stage"] = [8, 8, 16]
    configuration, plans = name_of(plan), plans_of(plan, channels)
    if salstm is not None:
        plans = add_to_plans(plans, configuration, salstm)
    network = build(deepcopy(plan), salstm, seed, deep_supervision=True, input_channels=channels)
    awaken(network, seed)
    folder = root / f"{trainer}__nnUNetPlans__{configuration}"
    for fold in folds:
        (folder / f"fold_{fold}").mkdir(parents=True)
        checkpoint = {
            "network_weights": network.state_dict(),
            "trainer_name": trainer,
            "init_args": {"configuration": configuration},
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(with_preprocessing(plans, channels)))
    (folder / "dataset.json").write_text(json.dumps(dataset_json(channels)))
    return folder


def write_images(folder, names=("a", "b"), channels=1, size=(9, 30, 22)):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        for channel in range(channels):
            image = sitk.GetImageFromArray(rng.normal(100, 20, size).astype(np.float32))
            image.SetSpacing((1.0, 1.0, 3.0))
            sitk.WriteImage(image, str(folder / f"{name}_{channel:04d}.nii.gz"))
    return folder


def programs_on_a_page(page, model):
    """Returns the Python programs of a page of docs/how-to, for this model; only the first names one."""
    text = (ROOT / "docs" / "how-to" / page).read_text()
    first, *others = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    first, replaced = re.subn(r'^model = ".*"$', f'model = "{model.name}"', first, flags=re.MULTILINE)
    assert replaced == 1
    assert not any(re.search(r"^model = ", other, re.MULTILINE) for other in others)
    return [first, *others]
