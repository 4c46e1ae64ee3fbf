"""Writes the checkpoints that every later version must load: python tests/make_golden_checkpoints.py, once a release.

They are nnU-Net's own files, of tiny networks, with an input and what the network returned for it beside them.
"""

import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from places import DATA
from presets import name_of, plans_of, tiny

DATASET = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "label": 1},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}
TRAINERS = {"nnUNetTrainerSALSTM_A": 3, "nnUNetTrainerSALSTM_B_skips": 2, "nnUNetTrainerSALSTM_B_25d": 2}


def main() -> None:
    """Writes one file for each trainer into tests/data."""
    with tempfile.TemporaryDirectory() as folder:
        # Before nnU-Net is imported.
        os.environ |= {f"nnUNet_{name}": folder for name in ("raw", "preprocessed", "results")}
        from nnunetv2_salstm.host.frames import with_neighbours
        from nnunetv2_salstm.trainers import get_trainer

        for name, dims in TRAINERS.items():
            plan = tiny(dims)
            plan["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 4, 8]
            plans = {**plans_of(plan), "continue_training": False}
            dataset = with_neighbours(DATASET) if name.endswith("25d") else DATASET
            torch.manual_seed(0)
            trainer = get_trainer(name)(plans, name_of(plan), 0, dataset, torch.device("cpu"))
            preprocessed = Path(trainer.preprocessed_dataset_folder)
            preprocessed.mkdir(parents=True, exist_ok=True)
            (preprocessed / "case.b2nd").touch()  # nnU-Net infers the format of the data from it
            trainer.initialize()
            for block in trainer.network.salstm.values():
                torch.nn.init.normal_(block.layer.output_convolution.weight, std=0.1)
            file = DATA / f"{name}_{version('nnunetv2-salstm')}.pth"
            trainer.save_checkpoint(str(file))
            checkpoint = torch.load(file, weights_only=False)
            x = torch.randn(1, trainer.num_input_channels, *plan["patch_size"])
            with torch.inference_mode():
                outputs = trainer.network(x)
            torch.save({**checkpoint, "golden": {"input": x, "output": outputs[0].clone()}}, file)
            print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
