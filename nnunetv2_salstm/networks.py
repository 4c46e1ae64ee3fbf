"""Stock nnU-Net architectures with SA-LSTM blocks on the encoder's outputs."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, SupportsIndex

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.helper import convert_conv_op_to_dim
from einops import rearrange
from torch import Tensor, nn

from nnunetv2_salstm.config import FRAMES, SALSTMConfig
from nnunetv2_salstm.nn import (
    SALSTM,
    ConvControl,
    FrameBlock,
    GatedStateAttention,
    SALSTMBlock,
    SliceSALSTM,
    StateAttention,
    StateValue,
)
from nnunetv2_salstm.nn.attention import Attention

_ENCODER_ATTRIBUTES = ("conv_op", "output_channels", "strides", "norm_op", "norm_op_kwargs")


class SkipBlocks(nn.ModuleDict):
    """The blocks of a network by encoder stage: keys are stage indices, "0" the full resolution.

    Args:
        blocks: by stage.
        stages: how many the encoder has.
        frames: how many slices or video frames the network's input holds in its channels.
    """

    def __init__(self, blocks: Mapping[str, SALSTMBlock], stages: int, frames: int = 1):
        super().__init__(blocks)
        self.stages = stages
        self.frames = frames

    def stack_frames(self, x: Tensor) -> Tensor:
        """Returns what the encoder takes: the frames moved from the channels, (B, 3C, *S), to the batch, (3B, C, *S).

        Raises:
            ValueError: if the channels do not hold so many frames.
        """
        if self.frames == 1:
            return x
        if x.shape[1] % self.frames:
            raise ValueError(f"x must hold {', '.join(FRAMES)} in its channels, a multiple of 3, got {tuple(x.shape)}")
        return rearrange(x, "b (frame c) ... -> (frame b) c ...", frame=self.frames)

    def forward(self, skips: Sequence[Tensor]) -> list[Tensor]:
        """Returns the encoder's skips with the blocks applied.

        Raises:
            ValueError: if these are not as many as the encoder has strides; some block would be left out in silence.
        """
        if len(skips) != self.stages:
            raise ValueError(
                f"network.encoder must return a list of {self.stages} skips, one a stride, got {len(skips)}"
            )
        return [
            self[str(stage)](skip) if str(stage) in self else skip[: skip.shape[0] // self.frames]
            for stage, skip in enumerate(skips)
        ]


def add_salstm(network: nn.Module, config: SALSTMConfig | Mapping[str, Any] | None = None) -> nn.Module:
    """Adds blocks to the outputs of a network's encoder and returns the network.

    The blocks are registered as `network.salstm` (state-dict keys `salstm.<stage>.*`, all others unchanged). Network
    and encoder get classes derived from their own: the encoder returns its features with the blocks applied, and the
    network's own forward stays in charge. The network's output does not change until the blocks are trained. The state
    of torch's random generator is left as it was.

    Args:
        network: has `.decoder`, and `.encoder`, which returns the list of its stages' features, largest first, the
            bottleneck's last, and has the attributes of nnU-Net's encoders: conv_op, e.g. nn.Conv3d; output_channels
            and strides of each stage, one stride for each axis; norm_op, e.g. nn.InstanceNorm3d, for the blocks'
            input, or None; norm_op_kwargs, e.g. {"affine": True}.
        config: the modules; None for the default. With sequence "frames" the network's input then holds three frames
            in its channels, (B, 3C, *S), of which its encoder sees each for itself.

    Raises:
        ValueError: if the network is not like that, has blocks already, is compiled, or the configuration does not fit
            it.
    """
    for name in ("encoder", "decoder"):
        if not hasattr(network, name):
            raise ValueError(f"network must have .encoder and .decoder, {type(network).__name__} has no .{name}")
    encoder: Any = network.encoder
    if hasattr(network, "salstm"):
        raise ValueError(f"network must not have blocks already, {type(network).__name__} has .salstm")
    if isinstance(encoder, _RefiningEncoder):
        raise ValueError("network.encoder must not have the blocks of another network: give each its own encoder")
    missing = [name for name in _ENCODER_ATTRIBUTES if not hasattr(encoder, name)]
    if missing:
        raise ValueError(
            f"network.encoder must have {', '.join(_ENCODER_ATTRIBUTES)}; it has no {', '.join(missing)}: set them on "
            "it; help(add_salstm) says what they are"
        )
    if not getattr(encoder, "return_skips", True):
        raise ValueError("network.encoder must return its skips, got return_skips=False")
    for name, module in (("network", network), ("network.encoder", encoder)):
        # It would be called in place of the class's, and leave the blocks out.
        if "forward" in vars(module) or isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"{name} must have its class's own forward: add blocks first, then compile it")
    network.salstm = make_blocks(network, _as_config(config))
    # In a tuple: as a submodule of the encoder the blocks would be in the state dict a second time.
    encoder.blocks_of_skips = (network.salstm,)
    encoder_class: type = type(encoder)
    network_class: type = type(network)
    encoder.__class__ = _derive(_RefiningEncoder, encoder_class)
    network.__class__ = _derive(_RefinedNetwork, network_class)
    return network


class _Derived:
    """An instance of a class that `_derive` made, which pickle and copy cannot find by its name."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        reduced: Any = super().__reduce_ex__(2)
        _, _, *state = reduced
        return (_empty_instance, type(self).__bases__, *state)


class _RefiningEncoder(_Derived):
    """What `add_salstm` makes of an encoder: one that applies blocks to what it returns."""

    blocks_of_skips: tuple[SkipBlocks]

    def forward(self, x: Tensor) -> list[Tensor]:
        (blocks,) = self.blocks_of_skips
        return blocks(super().forward(blocks.stack_frames(x)))  # type: ignore[misc]


class _RefinedNetwork(_Derived):
    """What `add_salstm` makes of a network: one that keeps its blocks."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("encoder", "salstm"):
            raise AttributeError(
                f"network.{name} must stay, or the blocks would be left out: load weights into it, compile it in place "
                "with its .compile(), or replace it before add_salstm"
            )
        super().__setattr__(name, value)


@cache
def _derive(mixin: Any, base: Any) -> Any:
    """Returns the class of an instance of `base` that gets blocks."""
    return type(f"{base.__name__}WithSALSTM", (mixin, base), {"__doc__": base.__doc__, "__module__": base.__module__})


def _empty_instance(mixin: type, base: type) -> object:
    derived = _derive(mixin, base)
    return derived.__new__(derived)


def make_blocks(network: nn.Module, config: SALSTMConfig) -> SkipBlocks:
    """Returns the blocks for a network's encoder, on the network's device and of its dtype.

    The random generator is left as it was: the stock part of a network must start as it does without us, also for
    whoever draws after us.

    Raises:
        ValueError: if the configuration does not fit the encoder.
    """
    encoder: Any = network.encoder
    strides = [tuple(stride) for stride in encoder.strides]
    config = config.resolve(convert_conv_op_to_dim(encoder.conv_op), len(strides))
    with torch.random.fork_rng(devices=[]):
        blocks = {
            str(stage): build_block(config, encoder, stage, cell_size(strides, stage, config.grid))
            for stage in config.stages(len(strides))
        }
    parameter = next(network.parameters())
    added = SkipBlocks(blocks, len(strides), config.frames).to(parameter.device, parameter.dtype)
    return added.train(network.training)


def cell_size(strides: list[tuple[int, ...]], stage: int, grid: int) -> tuple[int, ...]:
    """Returns the cell of a block's grid in voxels of its stage: the product of the next `grid` stages' strides."""
    below = strides[stage + 1 : stage + 1 + grid]
    return tuple(math.prod(axis) for axis in zip(*below, strict=True)) or (1,) * len(strides[stage])


def build_block(config: SALSTMConfig, encoder: Any, stage: int, cell: tuple[int, ...]) -> SALSTMBlock:
    """Returns the block for one stage of an nnU-Net encoder, on a grid of cells of this size in voxels."""
    channels = int(encoder.output_channels[stage])
    hidden = config.hidden_channels(channels)
    layer: SliceSALSTM | ConvControl
    # Frames are to a layer what slices are: the first axis of a volume.
    sequence = "slices" if config.sequence == "frames" else config.sequence
    if config.module == "conv":
        reach = config.steps - 1 if sequence == "slices" else 0
        axes = len(cell) + (config.frames > 1)
        layer = ConvControl(hidden, hidden, channels, config.kernel_size, reach, spatial_dims=axes)
    else:
        attentions: dict[str, Callable[[int], Attention]] = {
            "A": partial(StateAttention, tau=config.attention_scale, form=config.attention),
            "B": partial(GatedStateAttention, tau=config.attention_scale, form=config.attention),
            "bdclstm": StateValue,
        }
        # A slice of a volume has two axes; an image or signal has its own.
        axes = min(len(cell), 2)
        salstm = SALSTM(
            hidden, hidden, channels, config.kernel_size, module=attentions[config.module], spatial_dims=axes
        )
        layer = SliceSALSTM(salstm, config.steps, config.boundary, sequence)
    norm = None if encoder.norm_op is None else encoder.norm_op(hidden, **(encoder.norm_op_kwargs or {}))
    block = FrameBlock if config.frames > 1 else SALSTMBlock
    return block(channels, layer, cell, norm, config.initial_gain)


def _as_config(config: SALSTMConfig | Mapping[str, Any] | None) -> SALSTMConfig:
    return config if isinstance(config, SALSTMConfig) else SALSTMConfig.from_json(config or {})


class _WithSALSTM:
    """What both architectures add to their stock parent."""

    encoder: Any
    decoder: Any
    salstm: SkipBlocks

    def __init__(
        self,
        input_channels: int,
        *args: Any,
        salstm: SALSTMConfig | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        config = _as_config(salstm)
        if input_channels % config.frames:
            raise ValueError(
                f"input_channels must be a multiple of {config.frames} ({', '.join(FRAMES)}) with sequence 'frames', "
                f"got {input_channels}"
            )
        super().__init__(input_channels // config.frames, *args, **kwargs)  # type: ignore[call-arg]
        self.salstm = make_blocks(self, config)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Any:
        """Returns the logits as the stock network does, (B, classes, *S), from x, (B, input_channels, *S)."""
        return self.decoder(self.salstm(self.encoder(self.salstm.stack_frames(x))))

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> np.int64:
        """Returns the stock network's number of feature map values plus the blocks', for an input size in voxels.

        With sequence "frames" the encoder counts three times.
        """
        size = super().compute_conv_feature_map_size(input_size)  # type: ignore[misc]
        size += (self.salstm.frames - 1) * self.encoder.compute_conv_feature_map_size(input_size)
        edges = tuple(input_size)
        for stage, stride in enumerate(self.encoder.strides):
            edges = tuple(edge // step for edge, step in zip(edges, stride, strict=True))
            if str(stage) in self.salstm:
                block: Any = self.salstm[str(stage)]
                size += block.compute_conv_feature_map_size(edges)
        return size

    @classmethod
    def initialize(cls, module: nn.Module) -> None:
        """Initialises a module as the stock network does, a block as itself; for `network.apply`."""
        super().initialize(module)  # type: ignore[misc]
        # `apply` reaches a block after the convolutions in it, which the stock initialisation has just overwritten.
        if isinstance(module, SALSTMBlock):
            module.reset_parameters()


class SALSTMPlainConvUNet(_WithSALSTM, PlainConvUNet):
    """nnU-Net's PlainConvUNet with SA-LSTM blocks at its bottleneck and skips.

    Equal to the stock network until the blocks are trained, where their initial_gain is 0.

    Args:
        input_channels: of the images. With sequence "frames" they are those of current, previous and next frame, and
            the network equals the stock one on the current frame.
        args: the other positional arguments of the stock constructor: n_stages, features_per_stage, conv_op,
            kernel_sizes, strides, n_conv_per_stage, num_classes, n_conv_per_stage_decoder.
        salstm: the modules, a `SALSTMConfig` or its JSON form; None for the default.
        kwargs: keywords of the stock constructor: conv_bias, norm_op, norm_op_kwargs, dropout_op, dropout_op_kwargs,
            nonlin, nonlin_kwargs, deep_supervision, nonlin_first.

    Raises:
        ValueError: if the configuration is wrong or does not fit the network.

    Examples:
        >>> norm = {"norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"affine": True}, "nonlin": nn.LeakyReLU}
        >>> network = SALSTMPlainConvUNet(1, 3, (8, 16, 32), nn.Conv3d, 3, (1, 2, 2), 2, 4, 2, **norm)
        >>> tuple(network(torch.zeros(1, 1, 8, 16, 16)).shape)
        (1, 4, 8, 16, 16)
    """


class SALSTMResidualEncoderUNet(_WithSALSTM, ResidualEncoderUNet):
    """nnU-Net's ResidualEncoderUNet with SA-LSTM blocks; otherwise as `SALSTMPlainConvUNet`.

    Args:
        input_channels: as there.
        args: as there, with n_blocks_per_stage in place of n_conv_per_stage.
        salstm: as there.
        kwargs: as there, and block, bottleneck_channels, stem_channels in place of nonlin_first.

    Raises:
        ValueError: if the configuration is wrong or does not fit the network.
    """
