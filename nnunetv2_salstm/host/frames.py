"""What a data set says about the neighbours among its channels (2.5D): one key of our own in dataset.json."""

from collections.abc import Mapping
from typing import Any

from nnunetv2_salstm.config import FRAMES

KEY = "salstm_neighbours"


def neighbours_entry(channels: int) -> dict[str, Any]:
    """Returns the value of `KEY` for frames of so many channels, which lie together, in the order `FRAMES`."""
    of_a_frame = [list(range(frame * channels, (frame + 1) * channels)) for frame in range(len(FRAMES))]
    return {"order": list(FRAMES), "channels": of_a_frame}


def with_neighbours(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the dataset.json of a data set to which neighbours are added as further channels.

    The channels' names repeat, since nnU-Net chooses the normalisation by them.
    """
    names = list(dataset_json["channel_names"].values())
    return {
        **dataset_json,
        "channel_names": {str(index): name for index, name in enumerate(names * len(FRAMES))},
        KEY: neighbours_entry(len(names)),
    }


def channels_of_a_frame(dataset_json: Mapping[str, Any]) -> int:
    """Returns how many channels each of the frames has in a data set with neighbours.

    Raises:
        ValueError: if the data set has none, or says so otherwise than `neighbours_entry`.
    """
    entry = dataset_json.get(KEY)
    if entry is None:
        raise ValueError(
            f"dataset.json must name the neighbours of a slice or frame among its channels ({KEY!r}), which this data "
            "set's does not; write it with: nnUNetv2_salstm convert ... --neighbours 1"
        )
    channels, rest = divmod(len(dataset_json["channel_names"]), len(FRAMES))
    expected = neighbours_entry(channels)
    if rest or entry != expected:
        raise ValueError(
            f"{KEY!r} in dataset.json must be {expected} for {len(dataset_json['channel_names'])} channels "
            f"(a multiple of {len(FRAMES)}), got {entry!r}"
        )
    return channels
