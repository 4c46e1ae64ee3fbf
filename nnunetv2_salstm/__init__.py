"""SA-LSTM modules for nnU-Net, as a plugin of the stock package."""

from importlib.metadata import version

import nnunetv2_salstm_autoload
from nnunetv2_salstm.config import SALSTMConfig

__all__ = ["SALSTMConfig", "__version__"]
__version__ = version("nnunetv2-salstm")

# Also for an interpreter that was running while the package was installed, such as a notebook's.
nnunetv2_salstm_autoload.register()
