"""SA-LSTM blocks in MONAI's SwinUNETR, a network that has attention already: an adapter for `add_salstm`.

    pip install monai
    python examples/monai_swin_unetr.py

`add_salstm` wants a network of `.encoder` and `.decoder`. SwinUNETR has the parts of both side by side, so the adapter
below sorts them; it computes what SwinUNETR computes, with its weights. `benchmarks/small_study.py` trains it.
"""

import torch
from monai.networks.nets import SwinUNETR
from torch import Tensor, nn

from nnunetv2_salstm.networks import add_salstm


class Encoder(nn.Module):
    """SwinUNETR up to what its decoder takes: features of six stages, largest first, the bottleneck's last."""

    def __init__(self, network: SwinUNETR):
        super().__init__()
        self.transformer, self.normalize = network.swinViT, network.normalize
        self.of_image = network.encoder1
        # The fifth stage's features go to the decoder as they are.
        self.of_features = nn.ModuleList(
            [network.encoder2, network.encoder3, network.encoder4, nn.Identity(), network.encoder10]
        )
        # What add_salstm needs to know:
        width = network.swinViT.embed_dim
        self.conv_op = type(network.swinViT.patch_embed.proj)
        axes = 2 if self.conv_op is nn.Conv2d else 3
        self.output_channels = width, width, 2 * width, 4 * width, 8 * width, 16 * width
        self.strides = ((1,) * axes, *[(2,) * axes] * 5)
        self.norm_op = nn.InstanceNorm2d if axes == 2 else nn.InstanceNorm3d
        self.norm_op_kwargs = {"affine": True}

    def forward(self, x: Tensor) -> list[Tensor]:
        features = self.transformer(x, self.normalize)
        return [self.of_image(x), *(part(f) for part, f in zip(self.of_features, features, strict=True))]


class Decoder(nn.Module):
    """The rest of SwinUNETR: goes back up, with the skips."""

    def __init__(self, network: SwinUNETR):
        super().__init__()
        self.ups = nn.ModuleList(getattr(network, f"decoder{number}") for number in (5, 4, 3, 2, 1))
        self.head = network.out

    def forward(self, skips: list[Tensor]) -> Tensor:
        *skips, x = skips
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = up(x, skip)
        return self.head(x)


class SwinUNETRInTwo(nn.Module):
    """A SwinUNETR as an encoder and a decoder, whose weights it shares: logits (B, classes, *S) from x, (B, C, *S)."""

    def __init__(self, network: SwinUNETR):
        super().__init__()
        self.encoder, self.decoder = Encoder(network), Decoder(network)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def main() -> None:
    """Adds blocks to a SwinUNETR for images and shows that its output stays what it was."""
    torch.manual_seed(0)
    stock = SwinUNETR(in_channels=3, out_channels=2, feature_size=12, spatial_dims=2).eval()
    network = add_salstm(SwinUNETRInTwo(stock), {"module": "A"})
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        print("blocks at stages:", ", ".join(network.salstm))
        print("output equals SwinUNETR's:", torch.equal(network(images), stock(images)))
    print("parameters of the blocks:", sum(p.numel() for p in network.salstm.parameters()))


if __name__ == "__main__":
    main()
