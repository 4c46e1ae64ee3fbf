"""write plans with which nnU-Net's own trainers train SA-LSTM networks

Copies plans of a data set and names our network in them, so that the stock nnUNetTrainer trains and predicts it. The
preprocessed data are shared. With a memory target the blocks, and last of all the patch, become smaller until nnU-Net's
estimate keeps it.

    plan -d 27
    plan -d 27 -c 3d_fullres --module B --gpu-memory-target 8
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_salstm.commands.options import add_option
from nnunetv2_salstm.config import MODULES
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import read_json, write_text

if TYPE_CHECKING:
    from nnunetv2_salstm.host.planning import Planned


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds which plans, which blocks and how much memory."""
    add_option(parser, "-d", required=True)
    add_option(parser, "-p", help="name of the plans to copy (%(default)s)")
    add_option(parser, "-c", many=True, help="configurations that get blocks (all by default)")
    parser.add_argument("--module", choices=MODULES, help="A by default, or what --config says")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help='values of the configuration as JSON, e.g. {"steps": 3}, or plans that have them',
    )
    parser.add_argument(
        "--gpu-memory-target",
        type=_gigabytes,
        metavar="GB",
        help="memory for training, as nnU-Net estimates it; without it blocks, batch and patch stay as they are",
    )
    parser.add_argument(
        "-overwrite_plans_name",
        dest="name",
        metavar="NAME",
        help="name of the new plans (the old name and, for module A, SALSTM_A)",
    )
    add_option(parser, "--overwrite", help="replace plans of that name that say something else")
    parser.add_argument(
        "--draw", action="store_true", help="draw each network with its blocks, an SVG beside the plans"
    )


def run(arguments: argparse.Namespace) -> None:
    """Writes the plans and says what training with them needs.

    Raises:
        SalstmError: if the plans to copy are missing, the blocks do not fit them, or the target is too small.
    """
    from nnunetv2_salstm.host.configurations import plans_in_file
    from nnunetv2_salstm.host.datasets import find_dataset
    from nnunetv2_salstm.host.planning import plan_blocks, with_blocks
    from nnunetv2_salstm.plans import salstm_plans_name

    folder = find_dataset("nnUNet_preprocessed", arguments.dataset)
    chosen = plans_in_file(folder / f"{arguments.plans}.json", arguments.configurations)
    demanded = [_demanded(arguments, source.configuration) for source in chosen]
    planned = [
        plan_blocks(source, values, arguments.gpu_memory_target)
        for source, values in zip(chosen, demanded, strict=True)
    ]
    modules = sorted({values["module"] for values in demanded})
    if len(modules) > 1 and arguments.name is None:
        raise SalstmError(f"--config has the modules {', '.join(modules)}; name the plans: -overwrite_plans_name")
    name = arguments.name or salstm_plans_name(arguments.plans, modules[0])
    if name == arguments.plans:
        raise SalstmError(f"-overwrite_plans_name must be another name than that of the plans to copy, got {name}")
    plans, notes = with_blocks(chosen[0].plans, name, planned)
    file = folder / f"{name}.json"
    # Before anything is written, as values that no drawing can be made of are no plans either.
    pictures = _draw(file, plans, planned) if arguments.draw else {}
    _write_plans(file, plans, arguments.overwrite)
    _print(planned, arguments.gpu_memory_target)
    for note in notes:
        print(f"{note}.")
    for picture, text in pictures.items():
        _write(picture, text)
        print(f"drawn: {picture}")
    print(f"Written to {file}; the preprocessed data are those of {arguments.plans}. Train and predict with:")
    for command in _commands(arguments.dataset, name, plans, planned[-1].name):
        print(f"    {command}")


def _commands(dataset: str, plans_name: str, plans: dict[str, Any], configuration: str) -> list[str]:
    """Returns what trains and predicts with a configuration; a cascade needs the stage before it for all cases."""
    from nnunetv2_salstm.plans import resolve

    previous = resolve(plans, configuration).get("previous_stage")
    train, predict = (
        f"nnUNetv2_train {dataset} {{}} {{}} -p {plans_name}",
        f"nnUNetv2_predict -d {dataset} -p {plans_name}",
    )
    if previous is None:
        return [train.format(configuration, 0), f"{predict} -c {configuration} -f 0 -i INPUT -o OUTPUT"]
    if previous not in plans["configurations"]:
        return [f"# {configuration} needs predictions of {previous}, which these plans do not have"]
    return [
        *(train.format(previous, fold) for fold in range(5)),
        train.format(configuration, 0),
        f"{predict} -c {previous} -f 0 1 2 3 4 -i INPUT -o PREVIOUS",
        f"{predict} -c {configuration} -f 0 -i INPUT -o OUTPUT -prev_stage_predictions PREVIOUS",
    ]


def _demanded(arguments: argparse.Namespace, configuration: str) -> dict[str, Any]:
    from nnunetv2_salstm.host.config_file import read_config

    values = read_config(arguments.config, configuration) if arguments.config else {}
    module = values.get("module", arguments.module or "A")
    if arguments.module not in (None, module):
        raise SalstmError(f"--config says module {module!r} but --module {arguments.module!r}; leave one of them out")
    return {**values, "module": module}


def _write_plans(file: Path, plans: dict[str, Any], overwrite: bool) -> None:
    text = json.dumps(plans, indent=4)
    if file.exists() and not overwrite and read_json(file, "plans") != json.loads(text):
        raise SalstmError(
            f"{file} is there already and says something else; give other plans with -overwrite_plans_name, or replace "
            "it with --overwrite (models that were trained with it keep their own copy)"
        )
    _write(file, text)


def _draw(file: Path, plans: dict[str, Any], planned: Sequence["Planned"]) -> dict[Path, str]:
    from nnunetv2_salstm.plans import resolve
    from nnunetv2_salstm.reporting.network_drawing import draw_network

    return {
        file.with_name(f"{file.stem}_{one.name}.svg"): draw_network(resolve(plans, one.name), one.name)
        for one in planned
    }


def _write(file: Path, text: str) -> None:
    try:
        write_text(file, text)
    except OSError as error:
        raise SalstmError(f"cannot write {file}: {error.strerror}") from None


def _print(planned: Sequence["Planned"], target: float | None) -> None:
    import pandas

    from nnunetv2_salstm.reporting.tables import Table, markdown_table

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


def _gigabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number of GB, got {text}")
    return value
