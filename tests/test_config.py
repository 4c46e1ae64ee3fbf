"""The configuration: JSON round trip, and one clear error for every wrong value."""

import json

import pytest

from nnunetv2_salstm import SALSTMConfig


def test_json_round_trip():
    config = SALSTMConfig(
        module="B", placement=(2, 0), grid=1, steps=3, sequence="slices", attention_scale=100.0, initial_gain=0.3
    )
    written = json.loads(json.dumps(config.to_json()))
    assert written["format"] == 2
    assert written["placement"] == [0, 2]
    assert SALSTMConfig.from_json(written) == config
    assert SALSTMConfig.from_json({}) == SALSTMConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"module": "C"}, "module must be one of A, B, bdclstm, conv, got 'C'"),
        ({"placement": "decoder"}, "placement must be one of all, bottleneck, skips, or a list .* got 'decoder'"),
        ({"placement": []}, r"placement must be different stage indices, .* got \[\]"),
        ({"placement": [1, 1]}, r"placement must be different stage indices, .* got \[1, 1\]"),
        ({"placement": [-1]}, r"placement must be different stage indices, .* got \[-1\]"),
        ({"placement": ["0"]}, r"placement must be different stage indices, .* got \['0'\]"),
        ({"placement": 3}, "placement must be different stage indices, .* got 3"),
        ({"grid": -1}, "grid must be a whole number of at least 0, got -1"),
        ({"grid": 1.5}, "grid must be a whole number of at least 0, got 1.5"),
        ({"reduction": 0}, "reduction must be a whole number of at least 1, got 0"),
        ({"reduction": True}, "reduction must be a whole number of at least 1, got True"),
        ({"max_hidden_channels": 0}, "max_hidden_channels must be a whole number of at least 1, got 0"),
        ({"kernel_size": 4}, "kernel_size must be odd, so that the size is kept, got 4"),
        ({"kernel_size": -3}, "kernel_size must be a whole number of at least 1, got -3"),
        ({"steps": 1}, "steps must be a whole number of at least 2, got 1"),
        ({"sequence": "time"}, "sequence must be one of auto, slices, repeat, frames, got 'time'"),
        ({"boundary": "wrap"}, "boundary must be one of zero, replicate, got 'wrap'"),
        ({"attention_scale": 0}, "attention_scale must be a positive number, got 0"),
        ({"attention_scale": float("inf")}, "attention_scale must be a positive number, got inf"),
        ({"attention_scale": float("nan")}, "attention_scale must be a positive number, got nan"),
        ({"attention_scale": "570"}, "attention_scale must be a positive number, got '570'"),
        ({"attention": "dot"}, "attention must be one of authors, centred, correlation, got 'dot'"),
        ({"initial_gain": -0.1}, "initial_gain must be a number of at least 0, got -0.1"),
        ({"initial_gain": float("nan")}, "initial_gain must be a number of at least 0, got nan"),
        ({"initial_gain": True}, "initial_gain must be a number of at least 0, got True"),
        ({"hidden": 8}, "salstm takes module, placement, grid, .* got 'hidden'"),
        ({"format": 3}, "format must be at most 2 in this version .* got 3: it was written by a newer version"),
        ({"format": "1"}, "format must be a whole number of at least 1, got '1'"),
        ("A", "salstm must be a mapping such as .* got 'A'"),
    ],
    ids=str,
)
def test_refuses_wrong_values(values, message):
    with pytest.raises(ValueError, match=message):
        SALSTMConfig.from_json(values)


def test_values_of_an_older_format_load_as_what_they_were(monkeypatch):
    monkeypatch.setattr(
        SALSTMConfig.__init__,
        "__kwdefaults__",
        {**SALSTMConfig.__init__.__kwdefaults__, "initial_gain": 1.0, "attention": "centred"},
    )  # whatever the defaults come to be
    assert SALSTMConfig.from_json({"module": "A"}).initial_gain == 1.0
    old = SALSTMConfig.from_json({"format": 1, "module": "A"})
    assert (old.initial_gain, old.attention) == (0.0, "authors")


def test_the_start_is_no_part_of_the_network():
    assert SALSTMConfig(initial_gain=1.0) != SALSTMConfig()
    assert SALSTMConfig(initial_gain=1.0).same_network() == SALSTMConfig()
    assert SALSTMConfig(attention="centred").same_network() != SALSTMConfig()


@pytest.mark.parametrize(("dims", "sequence"), [(2, "repeat"), (3, "slices")])
def test_resolves_the_sequence(dims, sequence):
    assert SALSTMConfig().resolve(dims, n_stages=4).sequence == sequence
    assert SALSTMConfig(sequence="repeat").resolve(dims, n_stages=4).sequence == "repeat"


def test_refuses_what_does_not_fit_the_network():
    with pytest.raises(ValueError, match="sequence 'slices' needs a 3D configuration, got 2 spatial axes"):
        SALSTMConfig(sequence="slices").resolve(2, n_stages=4)


def test_frames_are_for_2d_and_one_neighbour_on_either_side():
    config = SALSTMConfig(sequence="frames")
    assert config.resolve(2, n_stages=4) == config
    assert (config.frames, SALSTMConfig().frames) == (3, 1)
    for wrong, dims, got in [
        (config, 3, "got 3 spatial axes and steps 2"),
        (SALSTMConfig(sequence="frames", steps=3), 2, "got 2 spatial axes and steps 3"),
    ]:
        with pytest.raises(ValueError, match=f"sequence 'frames' needs a 2D configuration and steps 2 .*{got}"):
            wrong.resolve(dims, n_stages=4)
    with pytest.raises(ValueError, match=r"placement must name stages 0 to 3 of this network, got \[4\]"):
        SALSTMConfig(placement=(1, 4)).resolve(3, n_stages=4)


@pytest.mark.parametrize(
    ("placement", "stages"), [("all", (0, 1, 2, 3)), ("bottleneck", (3,)), ("skips", (0, 1, 2)), ((3, 1), (1, 3))]
)
def test_stages(placement, stages):
    assert SALSTMConfig(placement=placement).stages(4) == stages


def test_hidden_channels():
    config = SALSTMConfig(reduction=4, max_hidden_channels=32)
    assert [config.hidden_channels(channels) for channels in (32, 64, 128, 320, 330)] == [8, 16, 32, 32, 32]
    with pytest.raises(ValueError, match="reduction must divide the 30 channels of every stage it acts on, got 4"):
        config.hidden_channels(30)
