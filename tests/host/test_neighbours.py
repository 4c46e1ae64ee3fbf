"""The key of dataset.json that says which channels are neighbours."""

import pytest

from nnunetv2_salstm.host.frames import KEY, channels_of_a_frame, neighbours_entry, with_neighbours

RGB = {"channel_names": {"0": "rgb_to_0_1", "1": "rgb_to_0_1", "2": "rgb_to_0_1"}, "numTraining": 3}


@pytest.mark.parametrize(("names", "channels"), [({"0": "CT"}, 1), (RGB["channel_names"], 3)])
def test_round_trip(names, channels):
    dataset = with_neighbours({"channel_names": names, "file_ending": ".png"})
    assert channels_of_a_frame(dataset) == channels
    assert dataset["file_ending"] == ".png"
    assert list(dataset["channel_names"]) == [str(index) for index in range(3 * channels)]
    assert set(dataset["channel_names"].values()) == set(names.values())


def test_the_entry_lists_the_channels_of_current_previous_and_next():
    assert neighbours_entry(2) == {"order": ["current", "previous", "next"], "channels": [[0, 1], [2, 3], [4, 5]]}


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (RGB, "dataset.json must name the neighbours .* --neighbours 1"),
        ({**RGB, KEY: neighbours_entry(3)}, r"must be .*\[\[0\], \[1\], \[2\]\]} for 3 channels .* got {'order'"),
        (
            {**RGB, KEY: {"order": ["previous", "current", "next"], "channels": [[0], [1], [2]]}},
            "'current', 'previous'",
        ),
        ({"channel_names": {"0": "CT", "1": "CT"}, KEY: neighbours_entry(1)}, "for 2 channels .a multiple of 3"),
        ({**RGB, KEY: 1}, "got 1"),
    ],
)
def test_refuses_what_convert_does_not_write(dataset, message):
    with pytest.raises(ValueError, match=message):
        channels_of_a_frame(dataset)
