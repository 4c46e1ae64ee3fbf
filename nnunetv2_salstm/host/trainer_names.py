"""The grammar of the trainers' names: a name says the modules, the length and the seed of a run."""

import re
from dataclasses import dataclass

# Of nnU-Net's trainer, and so of ours without a number of epochs in their names.
NNUNETS_EPOCHS = 1000
# Which modules a trainer demands by the first part of its name; None is the stock network.
METHODS: dict[str, dict[str, str] | None] = {
    "nnUNetTrainerSALSTM_A": {"module": "A"},
    "nnUNetTrainerSALSTM_B": {"module": "B"},
    "nnUNetTrainerBDCLSTM": {"module": "bdclstm"},
    "nnUNetTrainerSALSTMConvControl": {"module": "conv"},
    "nnUNetTrainerSALSTMOff": None,
}
# What each of them is, in a line; a control is what a method must be better than.
DESCRIPTIONS = {
    "nnUNetTrainerSALSTM_A": "method: the paper's module A (SALSTM), attention over the states of a ConvLSTM",
    "nnUNetTrainerSALSTM_B": "method: the paper's module B (LSTMSA), query, key and value gated by the hidden state",
    "nnUNetTrainerBDCLSTM": "control: attention off, the bidirectional ConvLSTM remains (BDC-LSTM, an earlier paper's)",
    "nnUNetTrainerSALSTMConvControl": "control: plain convolutions of about the same parameters and reach",
    "nnUNetTrainerSALSTMOff": "control: the stock network, for the suffixes",
}
# In the order in which a name takes them.
SUFFIXES = {
    "_bottleneck or _skips": "blocks at the bottleneck only, or on the skip connections only (not for Off)",
    "_25d": "2d, on data whose channels are a slice or frame with its neighbours (not for Off)",
    "_<N>epochs": "epochs, nnU-Net's 1000 without it",
    "_<M>its": "training iterations an epoch, nnU-Net's 250 without it; validation takes M / 5",
    "_seed<S>": "start of the weights and, in the process itself, augmentation",
}
NAME = re.compile(
    rf"(?P<method>{'|'.join(METHODS)})(_(?P<placement>bottleneck|skips))?(_(?P<frames>25d))?"
    r"(_(?P<epochs>[1-9]\d*)epochs)?(_(?P<iterations>[1-9]\d*)its)?(_seed(?P<seed>\d+))?"
)
NAME_RULE = (
    f"one of {', '.join(METHODS)}; then optionally, in this order, _bottleneck or _skips, _25d (not for Off), "
    "_<N>epochs, _<M>its, _seed<S>"
)
_SEED = re.compile(r"_seed(\d+)$")
_LENGTH = re.compile(r"(_[1-9]\d*epochs)?(_[1-9]\d*its)?$")


@dataclass(frozen=True)
class TrainerName:
    """What a trainer's name says; None where it says nothing.

    Attributes:
        salstm: values of `SALSTMConfig` that the name demands, None for the stock network.
        epochs: length of the training.
        iterations: training iterations an epoch.
        seed: seed of weights and, in this process, augmentation.
    """

    salstm: dict[str, str] | None
    epochs: int | None
    iterations: int | None
    seed: int | None

    @classmethod
    def parse(cls, name: str) -> "TrainerName":
        """Reads a trainer's name.

        Raises:
            ValueError: if it is no trainer of this package.
        """
        match = NAME.fullmatch(name)
        salstm = METHODS[match["method"]] if match else None
        if match is None or (salstm is None and (match["placement"] or match["frames"])):
            raise ValueError(f"the trainer must be {NAME_RULE}; got {name!r}")
        if match["placement"]:
            salstm = {**(salstm or {}), "placement": match["placement"]}
        if match["frames"]:
            salstm = {**(salstm or {}), "sequence": "frames"}
        epochs, iterations, seed = (
            int(match[part]) if match[part] else None for part in ("epochs", "iterations", "seed")
        )
        return cls(salstm, epochs, iterations, seed)


def name_of_run(name: str, epochs: int | None, iterations: int | None, seed: int | None) -> str:
    """Returns the name of a trainer of this package with length and seed; what it says itself is kept.

    Raises:
        ValueError: if it is no trainer of this package.
    """
    own, match = TrainerName.parse(name), NAME.fullmatch(name)
    assert match is not None  # or it could not be parsed
    parts = [match["method"], match["placement"], match["frames"]]
    parts += [f"{value}epochs" if (value := own.epochs or epochs) else None]
    parts += [f"{value}its" if (value := own.iterations or iterations) else None]
    seed = seed if own.seed is None else own.seed
    return "_".join([*filter(None, parts), *([] if seed is None else [f"seed{seed}"])])


def epochs_of(name: str) -> int:
    """Returns how many epochs any trainer trains, as far as its name says: nnU-Net's own end in _1epoch or _5epochs."""
    match = re.search(r"_([1-9]\d*)epochs?(_|$)", name)
    return int(match[1]) if match else NNUNETS_EPOCHS


def split_seed(name: str) -> tuple[str, str]:
    """Returns a trainer's name without its seed, and the seed, "" where it says none."""
    match = _SEED.search(name)
    return (name[: match.start()], match[1]) if match else (name, "")


def without_length(name: str) -> str:
    """Returns a trainer's name without what it says about the length of the training."""
    return _LENGTH.sub("", name)


def are_one_method(name: str, other: str) -> bool:
    """Whether two trainers without their seeds train alike: the stock network has two names."""
    ours, theirs = (re.sub(r"^nnUNetTrainerSALSTMOff", "nnUNetTrainer", text) for text in (name, other))
    return ours == theirs
