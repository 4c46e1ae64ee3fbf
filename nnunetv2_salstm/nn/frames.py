"""The residual block for 2.5D: frames that come with their neighbours, of which the current one is refined."""

import torch
from einops import rearrange
from torch import Tensor

from nnunetv2_salstm.nn.block import SALSTMBlock
from nnunetv2_salstm.nn.pooling import add_upsampled

NUM_FRAMES = 3


class FrameBlock(SALSTMBlock):
    """A `SALSTMBlock` for images with two neighbours: current + upsample(layer(previous, current, next)).

    This is the authors' wiring (Ji et al. 2024): the features of three neighbouring slices or video frames, computed by
    one encoder, come in, those of the current one go out. The frames lie along the batch axis, (3B, channels, *S):
    first the B current ones, then their previous, then their next ones. The layer is one for volumes; the frames are
    its slices.

    Arguments and errors are those of `SALSTMBlock`; the layer takes (B, in_channels, D, *S).

    Examples:
        >>> import torch
        >>> from nnunetv2_salstm.nn import SALSTM, SliceSALSTM
        >>> layer = SliceSALSTM(SALSTM(in_channels=8, hidden_channels=8, out_channels=32, kernel_size=3))
        >>> block = FrameBlock(32, layer, stride=(2, 2))
        >>> current, previous, following = torch.rand(3, 2, 32, 7, 9)
        >>> torch.equal(block(torch.cat([current, previous, following])), current)
        True
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns the current frames with the layer's contribution added, (B, channels, *S).

        Args:
            x: (3B, channels, *S), current, previous and next frames.

        Raises:
            ValueError: if x has other channels or axes than the block, or a batch that is no multiple of 3.
        """
        self.check(x)
        if x.shape[0] % NUM_FRAMES:
            raise ValueError(f"x must be (3B, ...), current, previous and next frames, got {tuple(x.shape)}")
        return add_upsampled(x[: x.shape[0] // NUM_FRAMES], self.contribution(x), self.stride)

    def compute_conv_feature_map_size(self, input_size: tuple[int, ...]) -> int:
        """Returns how many values the convolutions produce for a size in voxels, for all three frames."""
        return NUM_FRAMES * super().compute_conv_feature_map_size(input_size)

    def apply_layer(self, x: Tensor) -> Tensor:
        """Returns the layer's output for the current frames, (B, channels, *S), from all, (3B, in_channels, *S)."""
        current, previous, following = rearrange(x, "(frame b) c ... -> frame b c 1 ...", frame=NUM_FRAMES)
        output: Tensor = self.layer(torch.cat([previous, current, following], dim=2))
        return output[:, :, 1]
