"""Where the files are that tests read."""

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
# Runs several of nnU-Net's commands in one process.
COMMANDS = TESTS / "nnunet_commands.py"
DATA = TESTS / "data"
# Data sets that are not ours to redistribute.
REAL_DATA = Path(os.environ.get("SALSTM_REAL_DATA", ROOT.parent / "shared" / "data"))
