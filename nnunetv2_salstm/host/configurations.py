"""What is benchmarked: one configuration of nnU-Net plans, wherever it comes from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_salstm.host.datasets import find_dataset, read_dataset_json
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import read_json
from nnunetv2_salstm.host.presets import PRESETS, describe_dataset, load_preset, name_of


@dataclass(frozen=True)
class BenchPlan:
    """A configuration of nnU-Net plans under the name it has in the report."""

    name: str
    plans: dict[str, Any]
    configuration: str
    dataset_json: dict[str, Any]


def presets(names: Sequence[str]) -> list[BenchPlan]:
    """Returns the plans of these presets.

    Raises:
        SalstmError: if there is none of a name; lists the known ones.
    """
    unknown = [name for name in names if name not in PRESETS]
    if unknown:
        raise SalstmError(f"--preset must name some of {', '.join(PRESETS)}; got {', '.join(unknown)}")
    loaded = {name: load_preset(name) for name in names}
    return [BenchPlan(name, plans, name_of(PRESETS[name]), dataset) for name, (plans, dataset) in loaded.items()]


def plans_in_file(file: Path, configurations: Sequence[str] | None = None) -> list[BenchPlan]:
    """Returns configurations of a file of plans, all that have a network by default.

    The dataset.json beside it gives channels and labels. Without one, the channels are as many as the plans normalise,
    and there is one label: that changes nothing but the last convolutions.

    Raises:
        SalstmError: if the file is missing or holds no plans, or lacks a configuration; lists those it has.
    """
    # Here, as it imports torch, which the command's --help need not wait for.
    from nnunetv2_salstm.plans import NoNetwork, resolve

    plans = read_json(file, "plans")
    known = plans.get("configurations")
    if not isinstance(known, dict):
        raise SalstmError(f"{file} holds no nnU-Net plans (no configurations); give a file such as nnUNetPlans.json")
    unknown = [name for name in configurations or () if name not in known]
    if unknown:
        raise SalstmError(f"{file} has the configurations {', '.join(known)}; got {', '.join(unknown)}")
    dataset_file = file.parent / "dataset.json"
    if dataset_file.is_file():
        dataset_json = read_dataset_json(dataset_file)
    else:
        channels = len(plans.get("foreground_intensity_properties_per_channel") or {"0": {}})
        dataset_json = describe_dataset(["unknown"] * channels, 1)
    chosen = list(configurations or known)
    for name in list(chosen):
        try:
            resolve(plans, name)
        except NoNetwork as error:
            if configurations:
                raise SalstmError(f"{file}: {error}; name others with -c") from None
            chosen.remove(name)
        except ValueError as error:
            raise SalstmError(f"{file}: {error}; mend it, or name others with -c") from None
    return [BenchPlan(f"{plans.get('dataset_name', file.stem)} {name}", plans, name, dataset_json) for name in chosen]


def plans_of_dataset(dataset: str, plans_name: str, configurations: Sequence[str] | None) -> list[BenchPlan]:
    """Returns configurations of a planned data set.

    Raises:
        SalstmError: if nnU-Net's folders are not set, or the data set, its plans or a configuration are missing.
    """
    if not configurations:
        raise SalstmError("-d needs the configurations too; add for example: -c 3d_fullres")
    folder = find_dataset("nnUNet_preprocessed", dataset)
    return plans_in_file(folder / f"{plans_name}.json", configurations)
