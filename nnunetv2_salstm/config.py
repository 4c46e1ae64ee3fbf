"""What a network's SA-LSTM modules are: one value that plans, checkpoints and logs carry."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

FORMAT = 2
# What values of an older format leave out: they load as what they were, whatever the defaults are by now.
BEFORE = {1: {"attention": "authors", "initial_gain": 0.0}}
MODULES = ("A", "B", "bdclstm", "conv")
ATTENTIONS = ("authors", "centred", "correlation")
PLACEMENTS = ("all", "bottleneck", "skips")
SEQUENCES = ("auto", "slices", "repeat", "frames")
BOUNDARIES = ("zero", "replicate")
# What the input's channels hold with sequence "frames": a slice or video frame itself, the one before, the one after.
FRAMES = ("current", "previous", "next")


@dataclass(frozen=True, kw_only=True)
class SALSTMConfig:
    """Configuration of the modules in a network; JSON-able, immutable, validated.

    Attributes:
        module: "A" (SALSTM), "B" (LSTMSA), or a control: "bdclstm" (attention off), "conv" (plain convolutions of
            about the same parameters).
        placement: "all", "bottleneck", "skips", or the indices of the encoder's stages, 0 being the full resolution.
        grid: how many stages below its own a block's grid lies, at least 0; the plan's strides give its cells. It
            never lies below the bottleneck.
        reduction: a block works on 1 / reduction of its stage's channels, but on at most max_hidden_channels.
        max_hidden_channels: upper bound of a block's channels.
        kernel_size: odd edge length of the gates' convolutions on the coarse grid.
        steps: length of the sequence that ends at each slice, at least 2: steps - 1 neighbours on either side.
        sequence: "slices" (along the first spatial axis, which nnU-Net makes the one of lowest resolution), "repeat"
            (x, ..., x: no neighbours), or "auto": slices in 3D, repeat in 2D. "frames" is for 2D with neighbours
            (2.5D): the input's channels hold the current, previous and next slice or video frame.
        attention: how the logits compare Q and K over the pixels: "authors" (their product), "centred" (their
            covariance), or "correlation" (times a learnable temperature in place of attention_scale).
        attention_scale: tau, the weight of the mean over pixels in the attention's logits.
        boundary: the neighbour beyond the first and last slice: "zero" or "replicate".
        initial_gain: the start of a block's last convolution, as a multiple of nnU-Net's own initialisation: 0 makes
            the block the identity, so that the network starts as the stock one.

    Raises:
        ValueError: for a value outside these rules.
    """

    module: str = "A"
    placement: str | tuple[int, ...] = "all"
    grid: int = 2
    reduction: int = 4
    max_hidden_channels: int = 24
    kernel_size: int = 3
    steps: int = 2
    sequence: str = "auto"
    attention: str = "authors"
    attention_scale: float = 570.0
    boundary: str = "zero"
    initial_gain: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("module", MODULES),
            ("sequence", SEQUENCES),
            ("attention", ATTENTIONS),
            ("boundary", BOUNDARIES),
        ):
            _require(getattr(self, name) in allowed, name, f"one of {', '.join(allowed)}", getattr(self, name))
        if isinstance(self.placement, str):
            rule = f"one of {', '.join(PLACEMENTS)}, or a list of stage indices"
            _require(self.placement in PLACEMENTS, "placement", rule, self.placement)
        else:
            stages = self.placement
            valid = isinstance(stages, (list, tuple)) and len(stages) > 0 and all(_is_int(s) and s >= 0 for s in stages)
            rule = "different stage indices, 0 or above, 0 being the full resolution"
            _require(valid and len(set(stages)) == len(stages), "placement", rule, stages)
            object.__setattr__(self, "placement", tuple(sorted(stages)))
        for name, least in (
            ("grid", 0),
            ("reduction", 1),
            ("max_hidden_channels", 1),
            ("kernel_size", 1),
            ("steps", 2),
        ):
            value = getattr(self, name)
            _require(_is_int(value) and value >= least, name, f"a whole number of at least {least}", value)
        _require(self.kernel_size % 2 == 1, "kernel_size", "odd, so that the size is kept", self.kernel_size)
        tau, gain = self.attention_scale, self.initial_gain
        _require(_is_number(tau) and 0 < tau < float("inf"), "attention_scale", "a positive number", tau)
        _require(_is_number(gain) and 0 <= gain < float("inf"), "initial_gain", "a number of at least 0", gain)

    @property
    def frames(self) -> int:
        """How many slices or video frames the input's channels hold: 3 in 2.5D, else 1."""
        return len(FRAMES) if self.sequence == "frames" else 1

    def resolve(self, spatial_dims: int, n_stages: int) -> "SALSTMConfig":
        """Returns the configuration with nothing left to be decided, for an encoder of these axes and stages.

        Raises:
            ValueError: if it does not fit: slices in 2D, frames in 3D, a stage that does not exist.
        """
        if self.sequence == "frames" and (spatial_dims != 2 or self.steps != 2):
            raise ValueError(
                "sequence 'frames' needs a 2D configuration and steps 2 (one neighbour on either side), got "
                f"{spatial_dims} spatial axes and steps {self.steps}"
            )
        if spatial_dims < 3 and self.sequence == "slices":
            raise ValueError(
                f"sequence 'slices' needs a 3D configuration, got {spatial_dims} spatial axes; use 'repeat'"
            )
        self.stages(n_stages)
        sequence = self.sequence
        if sequence == "auto":
            sequence = "slices" if spatial_dims == 3 else "repeat"
        return replace(self, sequence=sequence)

    def stages(self, n_stages: int) -> tuple[int, ...]:
        """Returns the indices of the encoder's stages that get a block; the bottleneck is n_stages - 1.

        Raises:
            ValueError: if placement names a stage that the encoder does not have.
        """
        bottleneck = n_stages - 1
        if self.placement == "all":
            return tuple(range(n_stages))
        if self.placement == "bottleneck":
            return (bottleneck,)
        if self.placement == "skips":
            return tuple(range(bottleneck))
        absent = [stage for stage in self.placement if int(stage) > bottleneck]
        if absent:
            raise ValueError(f"placement must name stages 0 to {bottleneck} of this network, got {absent}")
        return tuple(int(stage) for stage in self.placement)

    def hidden_channels(self, channels: int) -> int:
        """Returns the channels on which a block of a stage with `channels` channels works.

        Raises:
            ValueError: if reduction does not divide the channels (and the upper bound does not settle it).
        """
        if channels // self.reduction >= self.max_hidden_channels:
            return self.max_hidden_channels
        if channels % self.reduction:
            raise ValueError(
                f"reduction must divide the {channels} channels of every stage it acts on, got {self.reduction}"
            )
        return channels // self.reduction

    def to_json(self) -> dict[str, Any]:
        """Returns the configuration as JSON values, with its format number."""
        values = asdict(self)
        if not isinstance(self.placement, str):
            values["placement"] = list(self.placement)
        return {"format": FORMAT, **values}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "SALSTMConfig":
        """Returns the configuration in `values`; what they leave out has its default, or that of their format.

        Raises:
            ValueError: for an unknown name, a wrong value, or a format newer than this package.
        """
        check_names(values)
        before = BEFORE.get(values.get("format", FORMAT), {})
        return cls(**{name: value for name, value in {**before, **values}.items() if name != "format"})

    def same_network(self) -> "SALSTMConfig":
        """Returns the configuration without how a training starts: equal for all that build the same network."""
        return replace(self, initial_gain=0.0)


def check_names(values: Mapping[str, Any]) -> None:
    """Checks that `values` could be a configuration: its names are known and its format not newer than ours.

    Raises:
        ValueError: if they could not.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f'salstm must be a mapping such as {{"module": "A"}}, got {values!r}')
    written = values.get("format", FORMAT)
    if not _is_int(written) or written < 1:
        raise ValueError(f"format must be a whole number of at least 1, got {written!r}")
    if written > FORMAT:
        raise ValueError(
            f"format must be at most {FORMAT} in this version of nnunetv2-salstm, got {written}: it was written by a "
            "newer version; upgrade with: pip install --upgrade nnunetv2-salstm"
        )
    known = [field.name for field in fields(SALSTMConfig)]
    unknown = [name for name in values if name not in known and name != "format"]
    if unknown:
        raise ValueError(f"salstm takes {', '.join(known)}, got {', '.join(map(repr, unknown))}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _require(condition: bool, name: str, rule: str, value: Any) -> None:
    if not condition:
        raise ValueError(f"{name} must be {rule}, got {value!r}")
