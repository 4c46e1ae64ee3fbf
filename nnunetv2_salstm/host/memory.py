"""How much memory a network needs for training, as nnU-Net estimates it."""

from collections.abc import Mapping, Sequence
from typing import Any

from nnunetv2_salstm.plans import network_to_count, stock_class

# nnU-Net's planners know one network, patch and batch for their target of 8 GB, by the number of its feature map values
# (ExperimentPlanner and nnUNetPlannerResEncM of nnU-Net 2.8); others in proportion.
REFERENCE_GB = 8.0
REFERENCE_VALUES = {
    ("PlainConvUNet", 2): 85_000_000 * 12,
    ("PlainConvUNet", 3): 560_000_000 * 2,
    ("ResidualEncoderUNet", 2): 135_000_000 * 12,
    ("ResidualEncoderUNet", 3): 680_000_000 * 2,
}


class MemoryEstimate:
    """nnU-Net's estimate for a network, from the values of the feature maps that its convolutions return.

    Args:
        architecture: of a configuration of nnU-Net plans.
        classes: number of labels, the background too.
    """

    def __init__(self, architecture: Mapping[str, Any], classes: int):
        self._class = stock_class(architecture)
        self._network = network_to_count(architecture, classes)

    def gigabytes(self, patch_size: Sequence[int], batch_size: int) -> float:
        """Returns the estimate for a batch of patches, sizes in voxels."""
        values = batch_size * int(self._network.compute_conv_feature_map_size(patch_size))
        return REFERENCE_GB * values / REFERENCE_VALUES[self._class, len(patch_size)]
