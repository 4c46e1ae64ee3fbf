"""The configuration of the modules that a user keeps in a file."""

from pathlib import Path
from typing import Any

from nnunetv2_salstm.config import SALSTMConfig
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import read_json


def read_config(file: Path, configuration: str) -> dict[str, Any]:
    """Returns the values of `SALSTMConfig` in a JSON file, or in plans of ours for a configuration.

    Raises:
        SalstmError: if the file cannot be read, or holds no such values.
    """
    values = read_json(file, "SA-LSTM values")
    if "configurations" in values:
        values = _values_in_plans(file, values, configuration)
    try:
        SALSTMConfig.from_json(values)
    except ValueError as error:
        raise SalstmError(f"--config {file}: {error}") from None
    return {name: value for name, value in values.items() if name != "format"}


def _values_in_plans(file: Path, plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    from nnunetv2_salstm.plans import salstm_of

    if configuration not in plans["configurations"]:
        raise SalstmError(f"--config {file} are plans without the configuration {configuration}; name others")
    values = salstm_of(plans, configuration)
    if values is None:
        raise SalstmError(
            f"--config {file} are plans whose configuration {configuration} has no SA-LSTM blocks; give plans written "
            'by nnUNetv2_salstm plan, or a file such as {"steps": 3}'
        )
    return values
