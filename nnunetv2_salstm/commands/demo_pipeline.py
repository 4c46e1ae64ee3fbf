"""The stages of the demo, each nnU-Net's own, each skipped if an earlier run has finished it."""

import json
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch

from nnunetv2_salstm.commands.demo_folder import claim_folder, explained
from nnunetv2_salstm.commands.demo_interrupt import stoppable
from nnunetv2_salstm.commands.demo_progress import Progress
from nnunetv2_salstm.commands.demo_settings import ARMS, Settings
from nnunetv2_salstm.converters import phantom
from nnunetv2_salstm.host.checkpoints import read_checkpoint
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import written_whole
from nnunetv2_salstm.host.versions import require_device, require_nnunet_with_trainers_by_name
from nnunetv2_salstm.reporting.demo import ArmResult, Report
from nnunetv2_salstm.reporting.demo_overlay import draw_overlay
from nnunetv2_salstm_autoload import trainers_folder

# nnU-Net is imported inside the functions: its older versions read the environment at import.

CONFIGURATION = "3d_fullres"
PLANS = "nnUNetPlans"
PROCESSES = 2


def run_demo(out: Path, settings: Settings, device: str) -> None:
    """Takes phantoms through nnU-Net with every arm, prints a table and leaves everything in the folder `out`.

    Raises:
        SalstmError: if the device is missing, nnU-Net too old, or `out` another's, not writable or its disk full.
    """
    _check_requirements(device)
    package = version("nnunetv2-salstm")
    claim_folder(out, {**asdict(settings), "device": device, "nnunetv2_salstm": package}, settings.disk)
    print(f"Everything goes to {out}, nnU-Net's own output to nnunet.log there.")
    print("Ctrl-C stops; the same command then goes on where it was.")
    with (
        explained(out),
        Progress(out / "nnunet.log", stages=3 + len(ARMS)) as progress,
        # Within: what interrupted workers say in their last moments is for the log.
        stoppable(),
        _environment(
            nnUNet_raw=str(out / "raw"),
            nnUNet_preprocessed=str(out / "preprocessed"),
            nnUNet_results=str(out / "results"),
            nnUNet_extTrainer=str(trainers_folder()),
            nnUNet_wandb_enabled="0",
            # Compiling takes longer than this training.
            nnUNet_compile="f",
        ),
    ):
        _generate(out, settings, progress)
        _preprocess(out, progress)
        for arm in ARMS:
            _train(out, settings, device, arm, progress)
        progress.stage(f"Predict and evaluate {settings.test_cases} test cases")
        results = [_evaluate(out, settings, device, arm, progress) for arm in ARMS]
        report = Report.make(results, settings, device, _plan(out))
        for name, text in (("results.json", report.to_json()), ("results.md", report.to_markdown())):
            with written_whole(out / name) as file:
                file.write_text(text)
    print(f"\n{report.to_table()}\n\n{textwrap.fill(report.caveat(), 100)}\n")
    print(f"Written to {out}: results.md, results.json, and overlay_<trainer>.png for each network.")


def _check_requirements(device: str) -> None:
    require_device(device)
    require_nnunet_with_trainers_by_name()
    if trainers_folder() is None:
        raise SalstmError("the installation has no trainers folder; run: pip install --force-reinstall nnunetv2-salstm")


def _generate(out: Path, settings: Settings, progress: Progress) -> None:
    progress.stage(f"Generate {settings.training_cases} training and {settings.test_cases} test cases")
    if _already((out / "raw").is_dir(), progress):
        return
    with written_whole(out / "raw") as folder:
        sizes = (settings.training_cases, settings.test_cases, settings.slices, settings.edge)
        for _ in phantom.write_dataset(folder, settings.seed, *sizes):
            pass


def _preprocess(out: Path, progress: Progress) -> None:
    progress.stage("Plan and preprocess, as nnUNetv2_plan_and_preprocess does")
    if _already((out / "preprocessed").is_dir(), progress):
        return
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    with written_whole(out / "preprocessed") as folder, _environment(nnUNet_preprocessed=str(folder)):
        extract_fingerprints([phantom.DATASET_ID], num_processes=PROCESSES)
        progress.line("fingerprint extracted")
        # nnU-Net sets torch's threads to this number while it plans, so it must not be 0 here.
        with _environment(nnUNet_n_proc_DA="1"):
            plan_experiments([phantom.DATASET_ID])
        preprocess([phantom.DATASET_ID], PLANS, [CONFIGURATION], [PROCESSES])
    plan = _plan(out)
    progress.line(f"planned patches of {' x '.join(map(str, plan['patch_size']))} voxels, {plan['batch_size']} a batch")


def _train(out: Path, settings: Settings, device: str, arm: str, progress: Progress) -> None:
    trainer_name = settings.trainer(arm)
    progress.stage(f"Train {arm}: {trainer_name}")
    fold = _model_folder(out, trainer_name) / "fold_0"
    if _already((fold / "checkpoint_final.pth").is_file(), progress):
        return
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

    started = any((fold / f"checkpoint_{kind}.pth").is_file() for kind in ("latest", "best"))
    # Augmentation in this process: the arms then see the same batches, and two cores are busy with the network anyway.
    with _environment(nnUNet_n_proc_DA="0"):
        trainer = get_trainer_from_args(
            str(phantom.DATASET_ID), CONFIGURATION, 0, trainer_name, PLANS, started, torch.device(device)
        )
        maybe_load_checkpoint(trainer, started, False)
        if started:
            progress.line(f"goes on after epoch {trainer.current_epoch}")
        _show_epochs(trainer, progress)
        trainer.run_training()


def _show_epochs(trainer: Any, progress: Progress) -> None:
    finish_epoch = trainer.on_epoch_end

    def on_epoch_end() -> None:
        finish_epoch()
        last = {name: values[-1] for name, values in trainer.logger.get_checkpoint().items()}
        dice = zip(phantom.STRUCTURES, last["dice_per_class_or_region"], strict=True)
        progress.line(
            f"epoch {trainer.current_epoch}/{trainer.num_epochs}  loss {last['train_losses']:6.3f}  Dice on validation "
            f"patches {'  '.join(f'{name} {value:.2f}' for name, value in dice)}  "
            f"{last['epoch_end_timestamps'] - last['epoch_start_timestamps']:.0f} s"
        )

    trainer.on_epoch_end = on_epoch_end


def _evaluate(out: Path, settings: Settings, device: str, arm: str, progress: Progress) -> ArmResult:
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer_name = settings.trainer(arm)
    model = _model_folder(out, trainer_name)
    raw = out / "raw" / phantom.DATASET
    predictions = out / "predictions" / trainer_name
    predictor = nnUNetPredictor(use_mirroring=settings.mirroring, device=torch.device(device), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), use_folds=(0,))
    if not predictions.is_dir():
        with written_whole(predictions) as folder:
            folder.mkdir()
            # File by file: listing a folder takes nnU-Net a dozen processes.
            images = [[str(image)] for image in sorted((raw / "imagesTs").iterdir())]
            predictor.predict_from_files_sequential(images, str(folder))
    summary = predictions / "summary.json"
    if not summary.is_file():
        with written_whole(summary) as file:
            compute_metrics_on_folder(
                str(raw / "labelsTs"), str(predictions), str(file), SimpleITKIO(), ".nii.gz",
                list(phantom.STRUCTURES.values()), num_processes=1,
            )  # fmt: skip
    checkpoint = read_checkpoint(model / "fold_0" / "checkpoint_final.pth")
    result = ArmResult.read(
        arm,
        trainer_name,
        json.loads(summary.read_text()),
        checkpoint["logging"],
        settings.iterations,
        sum(parameter.numel() for parameter in predictor.network.parameters()),
    )
    case = _case_to_draw(raw)
    with written_whole(out / f"overlay_{trainer_name}.png") as file:
        draw_overlay(
            raw / "imagesTs" / f"{case}_0000.nii.gz",
            raw / "labelsTs" / f"{case}.nii.gz",
            predictions / f"{case}.nii.gz",
            f"{arm}, {case}",
            file,
        )
    progress.line(f"{arm}: mean Dice {result.mean_dice:.3f}")
    return result


def _case_to_draw(raw: Path) -> str:
    """Returns the name of the first of the test cases with the most slices."""
    files = sorted((raw / "labelsTs").iterdir())
    return max(files, key=lambda file: sitk.ReadImage(str(file)).GetDepth()).name.removesuffix(".nii.gz")


def _plan(out: Path) -> dict[str, Any]:
    plans = json.loads((out / "preprocessed" / phantom.DATASET / f"{PLANS}.json").read_text())
    return plans["configurations"][CONFIGURATION]


def _model_folder(out: Path, trainer_name: str) -> Path:
    return out / "results" / phantom.DATASET / f"{trainer_name}__{PLANS}__{CONFIGURATION}"


def _already(finished: bool, progress: Progress) -> bool:
    if finished:
        progress.line("already done")
    return finished


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Sets environment variables of this process for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
