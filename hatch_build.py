"""Keeps stale copies out of editable installs: of what the wheel carries, they need only the start-up hook."""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_START_UP = "nnunetv2_salstm_autoload.pth"


class EditableHook(BuildHookInterface):
    def initialize(self, version, build_data):
        if version == "editable":
            build_data["force_include_editable"] = {f"{self.root}/{_START_UP}": _START_UP}
