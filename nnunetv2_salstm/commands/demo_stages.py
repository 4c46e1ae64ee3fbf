"""The stages of the demo, each a command of nnU-Net, each skipped if an earlier run has finished it."""

import json
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from nnunetv2_salstm.commands.demo_folder import claim_folder, explained
from nnunetv2_salstm.converters import phantom
from nnunetv2_salstm.evaluation.demo import read_result, results_frame
from nnunetv2_salstm.evaluation.runs import NUMBER, TrainingLog
from nnunetv2_salstm.host.checkpoints import count_parameters, read_checkpoint
from nnunetv2_salstm.host.commands import on_device, patient_threads, run_nnunet
from nnunetv2_salstm.host.files import atomic_write, write_text
from nnunetv2_salstm.host.trainer_lookup import our_folder
from nnunetv2_salstm.host.versions import (
    describe_hardware,
    package_versions,
    require_device,
    require_nnunet_with_trainers_by_name,
)
from nnunetv2_salstm.reporting.demo import demo_document, draw_prediction
from nnunetv2_salstm.reporting.document import Document, to_html, to_markdown, to_terminal

# Networks by the name that the table gives them, and the trainers that make them.
METHODS = {
    "stock": "nnUNetTrainerSALSTMOff",
    "SA-LSTM A": "nnUNetTrainerSALSTM_A",
    "SA-LSTM B": "nnUNetTrainerSALSTM_B",
}
CONFIGURATION = "3d_fullres"
PLANS = "nnUNetPlans"
DATASET_ID = str(phantom.DATASET_ID)
FORMAT = 1  # of results.json
# An epoch in nnU-Net's log: its number, training loss, Dice of each label on validation patches, and seconds. What
# follows says that its checkpoint is written.
EPOCH = re.compile(
    r": Epoch (\d+) *\n.*?: train_loss (\S+).*?: Pseudo dice \[(.*?)\].*?: Epoch time: (\S+) s"
    r"(?=.*?: (?:Epoch \d|Training done))",
    re.DOTALL,
)
# Seconds without a line before a sign of life.
SILENCE = 15.0


@dataclass(frozen=True)
class Settings:
    """The size of a run.

    Attributes:
        training_cases, test_cases: number of volumes.
        slices, edge: size of a volume in voxels; the number of slices varies by one over the cases.
        epochs, iterations: length of each training, and training iterations an epoch.
        mirroring: whether prediction averages over mirrored images, as nnU-Net does by default.
        disk: bytes that the run needs.
        seed: of the phantoms and of the networks' weights and augmentation.
    """

    training_cases: int
    test_cases: int
    slices: int
    edge: int
    epochs: int
    iterations: int
    mirroring: bool
    disk: int
    seed: int = 0

    def trainer(self, method: str) -> str:
        """Returns the name of a method's trainer, e.g. "nnUNetTrainerSALSTM_A_5epochs_15its_seed0"."""
        return f"{METHODS[method]}_{self.epochs}epochs_{self.iterations}its_seed{self.seed}"


QUICK = Settings(
    training_cases=12, test_cases=4, slices=6, edge=40, epochs=5, iterations=20, mirroring=False, disk=500_000_000
)
FULL = Settings(
    training_cases=14, test_cases=6, slices=8, edge=56, epochs=6, iterations=20, mirroring=True, disk=500_000_000
)


def run_demo(out: Path, settings: Settings, device: str) -> None:
    """Takes phantoms through nnU-Net with every method, prints a table and leaves everything in the folder `out`.

    Raises:
        SalstmError: if the device is missing, nnU-Net too old, `out` another's, not writable or its disk full, or a
            command of nnU-Net failed.
    """
    require_device(device)
    require_nnunet_with_trainers_by_name()
    demo = _Demo(out, settings, device)
    claim_folder(
        out, {**asdict(settings), "device": device, "nnunetv2_salstm": version("nnunetv2-salstm")}, settings.disk
    )
    print(f"Everything goes to {out}, nnU-Net's own output to nnunet.log there.")
    print("Ctrl-C stops; the same command then goes on where it was.", flush=True)
    with explained(out):
        document = demo.run()
        for name, render in (("results.md", to_markdown), ("results.html", to_html)):
            write_text(out / name, render(document))
    print(f"\n{to_terminal(document)}")
    print(f"Written to {out}: results.html, results.md, results.json and overlay_<trainer>.png of each network.")


class _Demo:
    """A run of the demo."""

    def __init__(self, out: Path, settings: Settings, device: str):
        self.out, self.settings, self.device = out, settings, device
        self.raw = out / "raw" / phantom.DATASET
        self.environment = {
            "nnUNet_raw": str(out / "raw"),
            "nnUNet_preprocessed": str(out / "preprocessed"),
            "nnUNet_results": str(out / "results"),
            "nnUNet_extTrainer": our_folder(),
            "nnUNet_wandb_enabled": "0",
            # Compiling takes longer than this training.
            "nnUNet_compile": "f",
            "nnUNet_def_n_proc": "1",
        }
        kind, visible = on_device(device)
        self.device_option = ("-device", kind)
        self.environment |= visible | patient_threads(kind)
        self.console = _Console(stages=3 + len(METHODS))

    def run(self) -> Document:
        """Runs all stages and returns what they are about."""
        self.generate()
        self.preprocess()
        for method in METHODS:
            self.train(method)
        self.console.stage(f"Predict and evaluate {self.settings.test_cases} test cases")
        return self.report([self.evaluate(method) for method in METHODS])

    def generate(self) -> None:
        """Writes the raw data set."""
        settings = self.settings
        self.console.stage(f"Generate {settings.training_cases} training and {settings.test_cases} test cases")
        if self.already((self.out / "raw").is_dir()):
            return
        with atomic_write(self.out / "raw") as folder:
            sizes = (settings.training_cases, settings.test_cases, settings.slices, settings.edge)
            list(phantom.write_dataset(folder, settings.seed, *sizes))

    def preprocess(self) -> None:
        """Plans and preprocesses."""
        self.console.stage("Plan and preprocess: nnUNetv2_plan_and_preprocess")
        if self.already((self.out / "preprocessed").is_dir()):
            return
        with atomic_write(self.out / "preprocessed") as folder:
            self.nnunet(
                "nnUNetv2_plan_and_preprocess",
                *("-d", DATASET_ID, "-c", CONFIGURATION, "-npfp", "2", "-np", "2"),
                environment={"nnUNet_preprocessed": str(folder)},
            )
        plan = self.plan()
        self.console.line(f"planned patches of {_size(plan['patch_size'])} voxels, {plan['batch_size']} a batch")

    def train(self, method: str) -> None:
        """Trains a method, from its last checkpoint if there is one, and validates it."""
        trainer = self.settings.trainer(method)
        fold = self.model(trainer) / "fold_0"
        self.console.stage(f"Train {method}: nnUNetv2_train -tr {trainer}")
        if self.already((fold / "validation" / "summary.json").is_file()):
            return
        arguments = [DATASET_ID, CONFIGURATION, "0", "-tr", trainer, *self.device_option]
        # In the order in which nnU-Net looks for them.
        checkpoints = [file for kind in ("latest", "best") if (file := fold / f"checkpoint_{kind}.pth").is_file()]
        if (fold / "checkpoint_final.pth").is_file():
            arguments.append("--val")
        elif checkpoints:
            arguments.append("--c")
            self.console.line(f"goes on after epoch {read_checkpoint(checkpoints[0])['current_epoch']}")
        earlier, shown = set(fold.glob("training_log_*.txt")), 0

        def show_epochs() -> None:
            nonlocal shown
            logs = sorted(set(fold.glob("training_log_*.txt")) - earlier)
            epochs = [epoch for log in logs for epoch in EPOCH.findall(log.read_text(errors="replace"))]
            for number, loss, dice, seconds in epochs[shown:]:
                values = zip(phantom.STRUCTURES, map(float, NUMBER.findall(dice)), strict=True)
                self.console.line(
                    f"epoch {int(number) + 1}/{self.settings.epochs}  loss {float(loss):6.3f}  Dice on validation "
                    f"patches {'  '.join(f'{name} {value:.2f}' for name, value in values)}  {float(seconds):.0f} s"
                )
            shown = len(epochs)

        # Augmentation in this process: the methods then see the same batches, and the network keeps two cores busy.
        self.nnunet("nnUNetv2_train", *arguments, environment={"nnUNet_n_proc_DA": "0"}, while_waiting=show_epochs)

    def evaluate(self, method: str) -> dict[str, Any]:
        """Predicts the test cases, and returns what nnU-Net says about them."""
        settings, trainer = self.settings, self.settings.trainer(method)
        predictions = self.out / "predictions" / trainer
        if not predictions.is_dir():
            with atomic_write(predictions) as folder:
                self.nnunet(
                    "nnUNetv2_predict",
                    *("-i", str(self.raw / "imagesTs"), "-o", str(folder), "-d", DATASET_ID, "-c", CONFIGURATION),
                    *("-tr", trainer, "-f", "0", *self.device_option, "--disable_progress_bar"),
                    # One after the other in one process: to start others takes longer than all of these cases.
                    *("-npp", "0", "-nps", "0"),
                    *([] if settings.mirroring else ["--disable_tta"]),
                )
        summary = predictions / "summary.json"
        if not summary.is_file():
            with atomic_write(summary) as file:
                self.nnunet(
                    "nnUNetv2_evaluate_folder",
                    *(str(self.raw / "labelsTs"), str(predictions), "-o", str(file), "-np", "1"),
                    *("-djfile", str(self.raw / "dataset.json"), "-pfile", str(predictions / "plans.json")),
                )
        fold = self.model(trainer) / "fold_0"
        result = read_result(
            json.loads(summary.read_text()), TrainingLog.read(fold), settings.iterations, phantom.STRUCTURES
        )
        parameters = count_parameters(read_checkpoint(fold / "checkpoint_final.pth")["network_weights"])
        self.console.line(f"{method}: mean Dice {result['mean_dice']:.3f}")
        return {"method": method, "trainer": trainer, **result, "parameters": parameters}

    def report(self, results: Sequence[dict[str, Any]]) -> Document:
        """Writes the pictures and the JSON, and returns the document."""
        settings, plan = self.settings, self.plan()
        pictures = {}
        for result in results:
            result["parameters_ratio"] = result["parameters"] / results[0]["parameters"]
            pictures[result["method"]] = self.picture(result["method"], result["trainer"])
            with atomic_write(self.out / f"overlay_{result['trainer']}.png") as file:
                file.write_bytes(pictures[result["method"]])
        versions, hardware = package_versions(), describe_hardware(self.device)
        about = {"settings": asdict(settings), "plan": plan, "versions": versions, "hardware": hardware}
        values = {"format": FORMAT, "results": results, **about}
        write_text(self.out / "results.json", json.dumps(values, indent=2, allow_nan=False) + "\n")
        return demo_document(
            results_frame(results),
            pictures,
            {result["method"]: result["trainer"] for result in results},
            test_cases=settings.test_cases,
            epochs=settings.epochs,
            iterations=settings.iterations,
            about={
                "training": f"{settings.training_cases} cases, fold 0, seed {settings.seed}",
                "patch": f"{_size(plan['patch_size'])} voxels, {plan['batch_size']} a batch",
                "spacing": f"{' x '.join(f'{edge:g}' for edge in plan['spacing'])} mm",
                "prediction": f"{'with' if settings.mirroring else 'without'} mirroring",
            },
            command=shlex.join(["nnUNetv2_salstm", *sys.argv[1:]]),
            versions={**hardware, **versions},
        )

    def picture(self, method: str, trainer: str) -> bytes:
        """Returns the overlay of the first of the test cases with the most slices."""
        references = {file.name: sitk.ReadImage(str(file)) for file in sorted((self.raw / "labelsTs").iterdir())}
        case = max(references, key=lambda name: references[name].GetDepth()).removesuffix(".nii.gz")
        image = sitk.ReadImage(str(self.raw / "imagesTs" / f"{case}_0000.nii.gz"))
        prediction = sitk.ReadImage(str(self.out / "predictions" / trainer / f"{case}.nii.gz"))
        return draw_prediction(
            sitk.GetArrayFromImage(image),
            sitk.GetArrayFromImage(references[f"{case}.nii.gz"]),
            sitk.GetArrayFromImage(prediction),
            phantom.STRUCTURES,
            image.GetSpacing()[1::-1],
            f"{method}, {case}",
        )

    def plan(self) -> dict[str, Any]:
        """Returns what of the plan is told: patch and batch size, spacing."""
        plans = json.loads((self.out / "preprocessed" / phantom.DATASET / f"{PLANS}.json").read_text())
        configuration = plans["configurations"][CONFIGURATION]
        return {name: configuration[name] for name in ("patch_size", "batch_size", "spacing")}

    def model(self, trainer: str) -> Path:
        """Returns nnU-Net's folder of a trained model."""
        return self.out / "results" / phantom.DATASET / f"{trainer}__{PLANS}__{CONFIGURATION}"

    def already(self, finished: bool) -> bool:
        """Says that a stage is finished, if it is."""
        if finished:
            self.console.line("already done")
        return finished

    def nnunet(
        self, name: str, *arguments: str, environment: dict[str, str] | None = None, while_waiting: Any = None
    ) -> None:
        def wait() -> None:
            if while_waiting:
                while_waiting()
            self.console.show_life()

        environment = {**self.environment, **(environment or {})}
        run_nnunet(name, *arguments, log=self.out / "nnunet.log", environment=environment, while_waiting=wait)


class _Console:
    """What is shown while the demo runs: its stages, of which there will be so many, and what happens in them."""

    def __init__(self, stages: int):
        self.stages = stages
        self._stage = 0
        self._stage_start = self._last_line = time.monotonic()

    def stage(self, title: str) -> None:
        self._stage += 1
        self._stage_start = time.monotonic()
        self._print(f"[{self._stage}/{self.stages}] {title}")

    def line(self, text: str) -> None:
        self._print(f"      {text}")

    def show_life(self) -> None:
        """Says that the stage goes on, if nothing was printed for a while."""
        if time.monotonic() - self._last_line > SILENCE:
            self.line(f"... still at it, {time.monotonic() - self._stage_start:.0f} s")

    def _print(self, text: str) -> None:
        self._last_line = time.monotonic()
        print(text, flush=True)


def _size(edges: Sequence[int]) -> str:
    return " x ".join(map(str, edges))
