"""SA-LSTM blocks in a U-Net of your own, written in plain PyTorch: `add_salstm`.

    python examples/plain_pytorch_unet.py

A network needs `.encoder` and `.decoder`; the encoder returns the list of its skips, largest first, and says in five
attributes what nnU-Net's encoders say of themselves. `add_salstm` then puts a block on each skip and the bottleneck.
It changes no output until the blocks are trained, and the network's own forward stays as it is. A few steps on bright
balls in noise follow, seconds on a CPU.
"""

import torch
from torch import Tensor, nn

from nnunetv2_salstm.networks import add_salstm


def stage(in_channels: int, out_channels: int, stride: tuple[int, ...]) -> nn.Sequential:
    """Returns a convolution that goes down by `stride`, with norm and nonlinearity."""
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, 3, stride, padding=1),
        nn.InstanceNorm3d(out_channels, affine=True),
        nn.LeakyReLU(),
    )


class Encoder(nn.Module):
    """Returns the features of every stage, largest first, the bottleneck's last."""

    def __init__(self, in_channels: int, channels: tuple[int, ...], strides: tuple[tuple[int, ...], ...]):
        super().__init__()
        inputs = (in_channels, *channels[:-1])
        self.stages = nn.ModuleList(stage(*sizes) for sizes in zip(inputs, channels, strides, strict=True))
        # What add_salstm needs to know:
        self.conv_op = nn.Conv3d  # how many axes there are
        self.output_channels = channels  # of each stage
        self.strides = strides  # of each stage to the one before, the first axis being that of the slices
        self.norm_op = nn.InstanceNorm3d  # for the blocks' input; None for no norm
        self.norm_op_kwargs = {"affine": True}

    def forward(self, x: Tensor) -> list[Tensor]:
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return skips


class Decoder(nn.Module):
    """Goes back up, with the skips."""

    def __init__(self, channels: tuple[int, ...], strides: tuple[tuple[int, ...], ...], num_classes: int):
        super().__init__()
        above, below = channels[-2::-1], channels[:0:-1]
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(*sizes, stride, stride)
            for *sizes, stride in zip(below, above, strides[:0:-1], strict=True)
        )
        self.stages = nn.ModuleList(stage(2 * width, width, (1, 1, 1)) for width in above)
        self.head = nn.Conv3d(channels[0], num_classes, 1)

    def forward(self, skips: list[Tensor]) -> Tensor:
        *skips, x = skips
        for up, stage, skip in zip(self.ups, self.stages, reversed(skips), strict=True):
            x = stage(torch.cat([skip, up(x)], dim=1))
        return self.head(x)


class UNet(nn.Module):
    """A U-Net of three stages for volumes (B, 1, D, H, W) of thick slices."""

    def __init__(self, num_classes: int = 2):
        super().__init__()
        channels = 8, 16, 32
        strides = (1, 1, 1), (1, 2, 2), (2, 2, 2)
        self.encoder = Encoder(1, channels, strides)
        self.decoder = Decoder(channels, strides, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def balls_in_noise(cases: int) -> tuple[Tensor, Tensor]:
    """Returns images (cases, 1, 8, 32, 32) of a bright ball each, and labels (cases, 8, 32, 32)."""
    size = torch.tensor([8, 32, 32])
    slice_spacing = torch.tensor([4, 1, 1])  # a slice is as thick as four pixels
    voxels = torch.stack(torch.meshgrid(*[torch.arange(n) for n in size], indexing="ij"), dim=-1)
    centers = (0.3 + 0.4 * torch.rand(cases, 1, 1, 1, 3)) * size
    labels = ((voxels - centers) * slice_spacing).norm(dim=-1) < 8
    images = labels + 0.5 * torch.randn(labels.shape)
    return images.unsqueeze(1), labels.long()


def main() -> list[float]:
    """Extends the U-Net, trains it for a few steps and returns the losses."""
    torch.manual_seed(0)
    images, labels = balls_in_noise(cases=4)
    network = UNet()
    before = network(images)

    add_salstm(network, {"module": "A"})  # or "B"; docs/reference.md lists all values
    print("blocks at stages:", ", ".join(network.salstm))
    print("output unchanged before training:", torch.equal(network(images), before))

    # After add_salstm, so that the optimizer has the blocks' parameters too.
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for step in range(20):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 5 == 0 or step == 19:
            print(f"step {step:2}: loss {loss.item():.3f}")
    return losses


if __name__ == "__main__":
    main()
