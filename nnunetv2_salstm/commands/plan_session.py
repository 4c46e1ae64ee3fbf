"""Planning from file to file."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_salstm.config import SALSTMConfig
from nnunetv2_salstm.host.config_file import read_config
from nnunetv2_salstm.host.configurations import BenchPlan, plans_in_file
from nnunetv2_salstm.host.datasets import find_dataset
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import read_json, written_whole
from nnunetv2_salstm.host.fit import Fit, Training
from nnunetv2_salstm.host.memory import MemoryEstimate
from nnunetv2_salstm.plans import add_to_plans, salstm_plans_name, without_salstm
from nnunetv2_salstm.reporting.network_drawing import draw_network
from nnunetv2_salstm.reporting.tables import Table, markdown_table


@dataclass(frozen=True)
class Planned:
    """One configuration with blocks.

    Attributes:
        name: of the configuration.
        values: what changes in it.
        stock: GB that the stock network was estimated to take.
        asked: GB with the blocks that were asked for.
        gigabytes: GB with those that it got.
        changes: in words, what was made smaller.
    """

    name: str
    values: dict[str, Any]
    stock: float
    asked: float
    gigabytes: float
    changes: list[str]


def run_plan(arguments: argparse.Namespace) -> None:
    """Writes the plans that the arguments ask for.

    Raises:
        SalstmError: if the plans to copy are missing, the blocks do not fit them, or the target is too small.
    """
    folder = find_dataset("nnUNet_preprocessed", arguments.dataset)
    source = folder / f"{arguments.plans}.json"
    chosen = plans_in_file(source, arguments.configurations)
    plans = chosen[0].plans
    modules, planned = set(), []
    for configuration in chosen:
        demanded = _demanded(arguments, configuration.configuration)
        modules.add(demanded["module"])
        planned.append(_plan(configuration, demanded, arguments.gpu_memory_target))
    if len(modules) > 1 and arguments.name is None:
        raise SalstmError(
            f"--config has the modules {', '.join(sorted(modules))}; name the plans: -overwrite_plans_name"
        )
    name = arguments.name or salstm_plans_name(arguments.plans, modules.pop())
    if name == arguments.plans:
        raise SalstmError(f"-overwrite_plans_name must be another name than that of the plans to copy, got {name}")
    result = {**plans, "plans_name": name, "configurations": {**plans["configurations"]}}
    for one in planned:
        result["configurations"][one.name] = {**result["configurations"][one.name], **one.values}
    file = folder / f"{name}.json"
    _write_plans(file, result, arguments.overwrite)
    _print(planned, arguments.gpu_memory_target)
    if arguments.draw:
        for one in planned:
            picture = folder / f"{name}_{one.name}.svg"
            _write(picture, draw_network(PlansManager(result).get_configuration(one.name).configuration, one.name))
            print(f"drawn: {picture}")
    print(f"Written to {file}; the preprocessed data are those of {arguments.plans}. Train and predict with:")
    print(f"    nnUNetv2_train {arguments.dataset} {planned[-1].name} 0 -p {name}")
    print(f"    nnUNetv2_predict -d {arguments.dataset} -p {name} -c {planned[-1].name} -f 0 -i INPUT -o OUTPUT")


def _demanded(arguments: argparse.Namespace, configuration: str) -> dict[str, Any]:
    values = read_config(arguments.config, configuration) if arguments.config else {}
    module = values.get("module", arguments.module or "A")
    if arguments.module not in (None, module):
        raise SalstmError(f"--config says module {module!r} but --module {arguments.module!r}; leave one of them out")
    return {**values, "module": module}


def _plan(source: BenchPlan, demanded: dict[str, Any], target: float | None) -> Planned:
    plans, configuration = source.plans, source.configuration
    classes = PlansManager(plans).get_label_manager(source.dataset_json).num_segmentation_heads
    stock = PlansManager(plans).get_configuration(configuration).configuration
    try:
        resolved = PlansManager(add_to_plans(plans, configuration, demanded)).get_configuration(configuration)
    except ValueError as error:
        raise SalstmError(str(error)) from None
    architecture = resolved.configuration["architecture"]
    config = SALSTMConfig.from_json(architecture["arch_kwargs"]["salstm"])
    asked = Training(config, tuple(resolved.patch_size), resolved.batch_size)
    # Plans made by hand may not have it.
    median_size = resolved.configuration.get("median_image_size_in_voxels", asked.patch_size)
    fit = Fit(architecture, asked, median_size, classes)
    try:
        taken = asked if target is None else fit.search(target)
    except SalstmError as error:
        raise SalstmError(f"{configuration}: {error}") from None
    return Planned(
        configuration,
        {
            "architecture": fit.architecture(taken),
            "batch_size": taken.batch_size,
            "patch_size": list(taken.patch_size),
        },
        MemoryEstimate(without_salstm(architecture), classes).gigabytes(stock["patch_size"], stock["batch_size"]),
        fit.gigabytes(asked),
        fit.gigabytes(taken),
        taken.changes(asked),
    )


def _write_plans(file: Path, plans: dict[str, Any], overwrite: bool) -> None:
    text = json.dumps(plans, indent=4)
    if file.exists() and not overwrite and read_json(file, "plans") != json.loads(text):
        raise SalstmError(
            f"{file} is there already and says something else; give other plans with -overwrite_plans_name, or replace "
            "it with --overwrite (models that were trained with it keep their own copy)"
        )
    _write(file, text)


def _write(file: Path, text: str) -> None:
    try:
        with written_whole(file) as unfinished:
            unfinished.write_text(text)
    except OSError as error:
        raise SalstmError(f"cannot write {file}: {error.strerror}") from None


def _print(planned: list[Planned], target: float | None) -> None:
    frame = pandas.DataFrame({
        "configuration": [one.name for one in planned],
        "patch (voxels)": ["x".join(map(str, one.values["patch_size"])) for one in planned],
        "batch": [one.values["batch_size"] for one in planned],
        "stock (GB)": [one.stock for one in planned],
        "with blocks (GB)": [one.gigabytes for one in planned],
    })  # fmt: skip
    formats = {"stock (GB)": ".2f", "with blocks (GB)": ".2f"}
    print("Memory for training as nnU-Net estimates it:\n")
    print(f"{markdown_table(Table(frame, formats=formats, text_columns=2))}\n")
    for one in planned:
        if one.changes:
            print(f"{one.name}: {one.asked:.2f} GB would pass the target of {target:g} GB. Changed:")
            for change in one.changes:
                print(f"    {change}")
