"""What several checks need to know, each found out once."""

import shutil
import subprocess
from functools import cached_property
from typing import Any

from nnunetv2_salstm.doctor.child import run_program

# torchvision comes with timm, which nnU-Net's architectures need.
PACKAGES = ("torch", "torchvision", "dynamic_network_architectures", "batchgeneratorsv2", "nnunetv2")


class Machine:
    """Packages and devices of this machine."""

    @cached_property
    def imports(self) -> dict[str, dict[str, Any]]:
        """What came of importing each of PACKAGES: its "file" or an "error", and what torch says of the devices."""
        found: dict[str, dict[str, Any]] = {}
        while len(found) < len(PACKAGES):
            remaining = [package for package in PACKAGES if package not in found]
            answer = run_program("import_packages", *remaining)
            found |= {event["package"]: event for event in answer.events}
            if len(answer.events) < len(remaining):
                # A wrong combination of builds has ended the process; the others get another one.
                found[remaining[len(answer.events)]] = {"error": answer.failure}
        return found

    @property
    def torch(self) -> dict[str, Any] | None:
        """What torch says of itself, or None if it cannot be imported."""
        facts = self.imports["torch"]
        return None if "error" in facts else facts

    @cached_property
    def nvidia_gpus(self) -> list[str]:
        """Name and driver of each NVIDIA GPU, as the driver says, whether torch can use them or not."""
        program = shutil.which("nvidia-smi")
        if program is None:
            return []
        command = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return result.stdout.strip().splitlines() if result.returncode == 0 else []
