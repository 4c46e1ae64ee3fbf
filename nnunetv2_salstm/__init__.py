"""SA-LSTM modules for nnU-Net, as a plugin of the stock package."""

import nnunetv2_salstm_autoload
from nnunetv2_salstm.config import SALSTMConfig

__all__ = ["SALSTMConfig"]

# Also for an interpreter that was running while the package was installed, such as a notebook's.
nnunetv2_salstm_autoload.register()


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("nnunetv2-salstm")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
