"""SA-LSTM blocks of your own making in a MONAI network: `SALSTMBlock` in BasicUNet.

    pip install monai
    python examples/monai_unet.py

`nnunetv2_salstm.nn` needs nothing of nnU-Net. A block takes the features of one stage and returns them refined, in the
same shape, so it can be put anywhere; here between MONAI's encoder and its decoder, on the four skips and the
bottleneck. The names of MONAI's own parameters do not change: weights of a trained BasicUNet can be loaded, and the
network equals it until the blocks are trained. A few steps on MONAI's random balls follow, seconds on a CPU.
"""

from functools import partial

import numpy as np
import torch
from monai.data import create_test_image_3d
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from nnunetv2_salstm.nn import SALSTM, SALSTMBlock, SliceSALSTM, StateAttention

FEATURES = 8, 8, 16, 16, 32, 8  # MONAI's: five stages, and what goes into the last convolution


def make_block(channels: int, cell: int) -> SALSTMBlock:
    """Returns a block for features (B, channels, D, H, W) that works on cells of `cell` voxels along each axis."""
    hidden = channels // 4
    # The logits of the attention are a mean over pixels, times tau: they mean the same at every stage. The default of
    # a SALSTM layer, the authors' 1 / sqrt(pixels), is made for one feature map of one size.
    attention = partial(StateAttention, tau=570.0)  # GatedStateAttention for module B
    layer = SALSTM(in_channels=hidden, hidden_channels=hidden, out_channels=channels, kernel_size=3, module=attention)
    return SALSTMBlock(channels, SliceSALSTM(layer), (cell, cell, cell), norm=nn.InstanceNorm3d(hidden, affine=True))


class SALSTMBasicUNet(BasicUNet):
    """MONAI's BasicUNet with blocks on what its encoder hands to its decoder."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(spatial_dims=3, in_channels=in_channels, out_channels=out_channels, features=FEATURES)
        # The grid of two stages below, or of the bottleneck: features change little within a cell, and it is cheap.
        cells = 4, 4, 4, 2, 1
        self.salstm = nn.ModuleList(make_block(*sizes) for sizes in zip(FEATURES[:5], cells, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        stages = [self.conv_0(x)]
        for down in (self.down_1, self.down_2, self.down_3, self.down_4):
            stages.append(down(stages[-1]))
        *skips, x = (block(features) for block, features in zip(self.salstm, stages, strict=True))
        for up, skip in zip((self.upcat_4, self.upcat_3, self.upcat_2, self.upcat_1), reversed(skips), strict=True):
            x = up(x, skip)
        return self.final_conv(x)


def balls_in_noise(cases: int) -> tuple[Tensor, Tensor]:
    """Returns images and labels of MONAI's random balls, (cases, 1, D, H, W)."""
    make = partial(create_test_image_3d, 32, 32, 32, num_objs=3, rad_min=4, rad_max=8, noise_max=0.5, num_seg_classes=1)
    pairs = np.stack([make(random_state=np.random.RandomState(case)) for case in range(cases)])
    # MONAI has the slices along the last axis, a SliceSALSTM takes them along the first.
    images, labels = torch.from_numpy(np.moveaxis(pairs, -1, 2)).float().unsqueeze(2).unbind(1)
    return images, labels


def main() -> list[float]:
    """Puts a stock BasicUNet's weights into one with blocks, trains it for a few steps and returns the losses."""
    torch.manual_seed(0)
    images, labels = balls_in_noise(cases=2)
    stock = BasicUNet(spatial_dims=3, in_channels=1, out_channels=2, features=FEATURES)
    network = SALSTMBasicUNet(in_channels=1, out_channels=2)
    loaded = network.load_state_dict(stock.state_dict(), strict=False)
    print("all of MONAI's weights have a place:", not loaded.unexpected_keys)
    print("output equals the stock network's:", torch.equal(network(images), stock(images)))

    loss_function = DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for step in range(10):
        loss = loss_function(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 3 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    return losses


if __name__ == "__main__":
    main()
