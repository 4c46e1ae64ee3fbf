"""`nnUNetv2_salstm inspect`: its statistics by hand, what it sees against slow references, and the whole command."""

import gzip
import json
import math
import re
import shutil
from base64 import b64encode
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from closeness import assert_close
from model_folders import awaken, with_preprocessing, write_images, write_model
from places import DATA
from presets import as_residual_encoder, build, tiny

from nnunetv2_salstm.cli import main
from nnunetv2_salstm.evaluation import subject as subject_module
from nnunetv2_salstm.evaluation.features import (
    Mean,
    distance_from_identity,
    distance_from_uniform,
    effective_rank,
    entropy,
    magnitude,
    sparsity,
    squared_norm,
)
from nnunetv2_salstm.evaluation.inspection import ModelFindings
from nnunetv2_salstm.evaluation.probe import NUMBERS, Probe, StageValues
from nnunetv2_salstm.evaluation.subject import Subject, fullest_slice, look_at, stitch
from nnunetv2_salstm.host.cases import find_cases, preprocess
from nnunetv2_salstm.host.models import Model, make_predictor
from nnunetv2_salstm.nn import GatedStateAttention, StateAttention
from nnunetv2_salstm.nn.convlstm import ConvLSTMState
from nnunetv2_salstm.reporting import figures, inspection_figures
from nnunetv2_salstm.reporting.inspection import stage_table

OFF = None
FINAL = "checkpoint_final.pth"


# Statistics, by hand


@pytest.mark.parametrize(
    ("values", "sparse", "mean"),
    [
        ([3.0, 4.0, 0.0, 0.0], 2 - 7 / 5, 7 / 4),
        ([3.0, -4.0, 0.0, 0.0], 2 - 7 / 5, 7 / 4),
        ([0.0, 0.0, -7.0, 0.0], 1.0, 7 / 4),
        ([2.0, -2.0, 2.0, 2.0], 0.0, 2.0),
        ([0.0, 0.0, 0.0, 0.0], math.nan, 0.0),
        ([5.0], math.nan, 5.0),
    ],
)
def test_sparsity_and_magnitude_of_a_map(values, sparse, mean):
    x = torch.tensor(values, dtype=torch.double)[None, None]
    assert sparsity(x).item() == pytest.approx(sparse, nan_ok=True)
    assert magnitude(x).item() == pytest.approx(mean)


def test_sparsity_is_each_maps_own_and_of_noise_what_the_docs_say():
    torch.manual_seed(0)
    noise = torch.randn(1, 2, 400, 400)
    noise[:, 1] = noise[:, 1].relu()
    assert sparsity(noise).shape == (1, 2)
    assert sparsity(noise).flatten().tolist() == pytest.approx(
        [1 - math.sqrt(2 / math.pi), 1 - 1 / math.sqrt(math.pi)], abs=0.01
    )
    assert squared_norm(torch.tensor([[3.0, 4.0], [0.0, 12.0]])) == pytest.approx(169)


@pytest.mark.parametrize(
    ("matrix", "rank"),
    [
        (torch.eye(4), 4),
        (torch.ones(4, 4) / 4, 1),
        # All rows attend to one channel: what "all rows are alike" looks like where neither other distance sees it.
        (torch.tensor([1.0, 0, 0, 0]).repeat(4, 1), 1),
        (torch.eye(4)[[0, 0, 1, 1]], 2),
        (torch.diag(torch.tensor([3.0, 1.0])), 4 / 3**0.75),  # shares 3/4 and 1/4
        (torch.diag(torch.tensor([3.0, 1.0])) @ torch.eye(2, 7), 4 / 3**0.75),
        (torch.zeros(2, 2), math.nan),
    ],
    ids=str,
)
def test_effective_rank_counts_the_directions(matrix, rank):
    both = effective_rank(torch.stack([matrix, 5 * matrix]))
    assert both.tolist() == pytest.approx([rank, rank], rel=1e-5, nan_ok=True)
    assert effective_rank(matrix[None].half()).item() == pytest.approx(rank, rel=1e-2, nan_ok=True)


@pytest.mark.parametrize(
    ("rows", "entropy_", "from_identity", "from_uniform"),
    [
        ([[1, 0], [0, 1]], 0.0, 0.0, 0.5),
        ([[0.5, 0.5], [0.5, 0.5]], 1.0, 0.5, 0.0),
        ([[0.5, 0.5], [0, 1]], 0.5, 0.25, 0.25),
        ([[0, 1], [1, 0]], 0.0, 1.0, 0.5),
        ([[0.25] * 4] * 4, 1.0, 0.75, 0.0),
        ([[0.5, 0.5, 0, 0]] * 4, 0.5, 0.75, 0.5),
        ([[1.0]], math.nan, 0.0, 0.0),
    ],
)
def test_entropy_and_distances_of_a_matrix(rows, entropy_, from_identity, from_uniform):
    matrix = torch.tensor(rows, dtype=torch.double)[None]
    assert entropy(matrix).item() == pytest.approx(entropy_, nan_ok=True)
    assert distance_from_identity(matrix).item() == pytest.approx(from_identity)
    assert distance_from_uniform(matrix).item() == pytest.approx(from_uniform)


def test_limits_of_the_attention_itself():
    # Every state is 1 in a pixel of its own: Q K^T is the identity.
    apart = torch.eye(4, dtype=torch.double).reshape(1, 4, 2, 2)
    matrix, _ = StateAttention(4, tau=1e4).factors(ConvLSTMState(*[apart] * 6))
    assert distance_from_identity(matrix).item() == pytest.approx(0, abs=1e-6)
    matrix, _ = StateAttention(4, tau=1e4).factors(ConvLSTMState(*[torch.zeros_like(apart)] * 6))
    assert distance_from_uniform(matrix).item() == pytest.approx(0, abs=1e-6)
    assert entropy(matrix).item() == pytest.approx(1)


def test_gate_values():
    seen = StageValues()
    for values in ([0.0, 0.04, 0.5], [0.96]):
        for gate in "fg":
            seen.add_gate(gate, torch.tensor(values))
    seen.add_gate("g", torch.tensor([-0.96, -0.9]))
    found = seen.numbers()
    assert found["f_mean"] == pytest.approx(1.5 / 4)
    assert found["f_deviation"] == pytest.approx(np.std([0.0, 0.04, 0.5, 0.96]))
    assert (found["f_low"], found["f_high"]) == (0.5, 0.25)
    assert (found["g_low"], found["g_high"]) == pytest.approx((1 / 6, 1 / 6))


def test_rank_of_attention_that_takes_one_channel():
    seen = StageValues()
    one, value = torch.tensor([1.0, 0, 0, 0]).repeat(4, 1), torch.eye(4, 9)
    seen.add_attention("forward", one[None], value[None])
    seen.add_attention("reverse", torch.eye(4)[None], value[None])
    found = seen.numbers()
    # Neither distance tells.
    assert (found["forward_from_identity"], found["forward_from_uniform"]) == (0.75, 0.75)
    assert (found["forward_rank"], found["forward_rank_kept"]) == pytest.approx((1, 1 / 4))
    assert (found["reverse_rank"], found["reverse_rank_kept"]) == pytest.approx((4, 1))


def test_a_mean_leaves_out_what_is_undefined():
    mean = Mean()
    assert mean.value is None
    mean.add(torch.tensor([1.0, math.nan, 3.0]))
    mean.add(torch.tensor(math.nan))
    assert mean.value == 2


# What is seen in a network


NETWORKS = {
    "3d A": (tiny(3), {"module": "A"}),
    "3d B skips": (tiny(3), {"module": "B", "placement": "skips"}),
    "3d off bottleneck": (tiny(3), {"module": "bdclstm", "placement": "bottleneck"}),
    "3d conv": (tiny(3), {"module": "conv"}),
    "3d A steps 3": (tiny(3), {"module": "A", "steps": 3, "boundary": "replicate"}),
    "3d ResEnc B": (as_residual_encoder(tiny(3)), {"module": "B"}),
    "2d A": (tiny(2), {"module": "A"}),
    "2.5d B": (tiny(2), {"module": "B", "sequence": "frames"}),
    "2d stock": (tiny(2), OFF),
}


def network_of(name, seed=0):
    plan, salstm = NETWORKS[name]
    frames = 3 if (salstm or {}).get("sequence") == "frames" else 1
    network = build(deepcopy(plan), salstm, seed, deep_supervision=False, input_channels=2 * frames)
    awaken(network, seed)
    torch.manual_seed(seed + 1)
    return network.eval(), torch.randn(1, 2 * frames, *plan["patch_size"])


def watch(network, *tiles):
    probe = Probe(network)
    with torch.inference_mode(), probe.watching():
        for x in tiles:
            network(x)
    return probe


def raw_skips(network, x):
    """The encoder's outputs before the blocks."""
    blocks = getattr(network, "salstm", None)
    return network.encoder(x if blocks is None else blocks.stack_frames(x))


def last_states(block, net, x, reverse):
    """The slow reference: the states of each slice that a block uses, from the layer's input, slice by slice."""
    sequence, steps = block.layer.sequence, block.layer.steps
    slices = list(x.unbind(2)) if sequence == "slices" else [x]
    if reverse:
        slices = slices[::-1]
    states = []
    for z in range(len(slices)):
        around = [z - step for step in range(steps - 1, -1, -1)]
        if sequence == "repeat":
            inputs = [slices[z]] * steps
        elif block.layer.boundary == "replicate":
            inputs = [slices[max(p, 0)] for p in around]
        else:
            inputs = [slices[p] for p in around if p >= 0]
        state = None
        for one in inputs:
            state = net.cell0(one, state)
        states.append(state)
    return states


def naive_matrix(attention, state):
    """softmax(s Q K^T) from the paper's equations."""
    c, f, g, h = (x.flatten(2) for x in (state.c, state.f, state.g, state.h))
    q, k = (c + f) / 2, (g + h) / 2
    if isinstance(attention, GatedStateAttention):
        q = q * attention.q_matrix(h.transpose(1, 2)).transpose(1, 2)
        k = k * attention.k_matrix(h.transpose(1, 2)).transpose(1, 2)
    logits = attention.tau / q.shape[-1] * torch.einsum("bmp,bnp->bmn", q, k)
    weights = logits.exp()
    return weights / weights.sum(-1, keepdim=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_skips_and_contributions_are_those_of_the_network(name):
    network, x = network_of(name)
    other = torch.randn_like(x)
    found = watch(network, x, other).numbers()
    with torch.no_grad():
        tiles = [raw_skips(network, tile) for tile in (x, other)]
        for stage, skips in enumerate(zip(*tiles, strict=True)):
            block = network.salstm[str(stage)] if str(stage) in getattr(network, "salstm", {}) else None
            frames = network.salstm.frames if hasattr(network, "salstm") else 1
            before = [skip[: len(skip) // frames] for skip in skips]
            after = [skip if block is None else block(skip) for skip in skips]
            after = [skip[: len(skip) // frames] for skip in skips] if block is None else after
            for kind, expected in (("before", before), ("after", after)):
                sparse = torch.cat([sparsity(y) for y in expected]).mean().item()
                assert found[stage][f"{kind}_sparsity"] == pytest.approx(sparse, rel=1e-4)
                mean = torch.stack(expected).abs().mean().item()
                assert found[stage][f"{kind}_magnitude"] == pytest.approx(mean, rel=1e-4)
            if block is None:
                assert "contribution" not in found[stage]
                continue
            added, there = (
                math.fsum(squared_norm(y) for y in ys)
                for ys in ([b - a for a, b in zip(before, after, strict=True)], before)
            )
            assert found[stage]["contribution"] == pytest.approx(math.sqrt(added / there), rel=1e-3)
            assert found[stage]["contribution"] > 0.01
            coarse = torch.cat([block.contribution(skip) for skip in skips])
            assert found[stage]["module_sparsity"] == pytest.approx(sparsity(coarse).nanmean().item(), rel=1e-4)
    if name == "3d B skips":
        assert ["contribution" in stage for stage in found] == [True, True, False]


def watch_with_reference(network, name, x):
    """Returns each block with its stage's numbers and matrices, and the slow reference's states, by direction."""
    inputs = {}
    handles = [
        block.layer.register_forward_pre_hook(lambda layer, given, key=key: inputs.update({key: given[0].clone()}))
        for key, block in network.salstm.items()
    ]
    probe = watch(network, x)
    for handle in handles:
        handle.remove()
    for key, block in network.salstm.items():
        layer, states = block.layer.layer, {}
        for direction, net in (("forward", layer.forward_net), ("reverse", layer.reverse_net)):
            with torch.no_grad():
                states[direction] = last_states(block, net, inputs[key], direction == "reverse")
            if name.startswith("2.5d"):
                assert len(states[direction]) == 3
                del states[direction][2], states[direction][0]  # not the current frame
        matrices = {direction: matrix for (stage, direction), matrix in probe.matrices().items() if stage == int(key)}
        yield block, probe.numbers()[int(key)], matrices, states


WITH_ATTENTION = [name for name, (_, salstm) in NETWORKS.items() if salstm and salstm["module"] in ("A", "B")]


@pytest.mark.parametrize("name", WITH_ATTENTION)
def test_matrices_are_those_of_the_slow_reference(name):
    network, x = network_of(name)
    for block, numbers, means, states in watch_with_reference(network, name, x):
        assert set(means) == {"forward", "reverse"}
        for direction, mean in means.items():
            attention = getattr(block.layer.layer, f"{direction}_net").attention
            with torch.no_grad():
                matrices = torch.cat([naive_matrix(attention, state) for state in states[direction]])
            assert_close(direction, mean, matrices.double().mean(0), 1e-4)
            for what, of in (
                ("entropy", entropy),
                ("from_identity", distance_from_identity),
                ("from_uniform", distance_from_uniform),
                ("rank", effective_rank),
            ):
                assert numbers[f"{direction}_{what}"] == pytest.approx(of(matrices).mean().item(), rel=1e-3)


@pytest.mark.parametrize("name", WITH_ATTENTION)
def test_gates_are_those_of_the_slow_reference(name):
    network, x = network_of(name)
    for parameter in network.salstm.parameters():
        parameter.data *= 3  # some gates are saturated
    for _, numbers, _, states in watch_with_reference(network, name, x):
        for gate in ("i", "f", "o", "g"):
            values = torch.cat([getattr(state, gate).flatten() for both in states.values() for state in both])
            assert numbers[f"{gate}_mean"] == pytest.approx(values.mean().item(), abs=1e-5)
            assert numbers[f"{gate}_deviation"] == pytest.approx(values.std(correction=0).item(), rel=1e-3)
            low = -0.95 if gate == "g" else 0.05
            assert 0 < numbers[f"{gate}_low"] == pytest.approx((values < low).float().mean().item(), abs=1e-3)
            assert 0 < numbers[f"{gate}_high"] == pytest.approx((values > 0.95).float().mean().item(), abs=1e-3)


@pytest.mark.parametrize("name", ["3d A", "2.5d B"])
def test_numbers_under_autocast_are_nearly_the_same(name):
    network, x = network_of(name)
    expected = watch(network, x).numbers()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = watch(network, x).numbers()
    for ours, theirs in zip(found, expected, strict=True):
        assert ours != theirs
        assert ours["after_sparsity"] == pytest.approx(theirs["after_sparsity"], abs=0.01)
        assert ours["contribution"] == pytest.approx(theirs["contribution"], rel=0.05)
        assert ours["f_mean"] == pytest.approx(theirs["f_mean"], abs=0.01)
        assert ours["forward_rank_kept"] == pytest.approx(theirs["forward_rank_kept"], rel=0.05)


def test_controls_have_what_they_have():
    off = watch(*network_of("3d off bottleneck"))
    assert {gate for gate in "ifog" if f"{gate}_mean" in off.numbers()[-1]} == set("ifog")
    assert off.matrices() == {}
    conv = watch(*network_of("3d conv"))
    assert "contribution" in conv.numbers()[0]
    assert "i_mean" not in conv.numbers()[0]
    assert conv.matrices() == {}


@pytest.mark.parametrize("name", NETWORKS)
def test_watching_changes_nothing_and_ends(name):
    network, x = network_of(name)
    with torch.inference_mode():
        expected = network(x)
    probe = Probe(network)
    with torch.inference_mode(), probe.watching():
        assert torch.equal(network(x), expected)
    before = probe.numbers()
    probe.clear()
    with torch.inference_mode():
        assert torch.equal(network(x), expected)
    assert probe.numbers() == []
    assert before != []
    for module in network.modules():
        assert not {"contribution", "factors"} & vars(module).keys()


def test_an_untrained_block_adds_nothing_and_zero_weights_attend_to_all_alike():
    network, x = network_of("3d A")
    for block in network.salstm.values():
        block.reset_output_convolution()
        for parameter in block.layer.layer.forward_net.parameters():
            torch.nn.init.zeros_(parameter)
    probe = watch(network, x)
    for stage in probe.numbers():
        assert stage["contribution"] == 0
        assert (stage["module_sparsity"], stage["module_magnitude"]) == (None, 0)
        assert stage["before_sparsity"] == stage["after_sparsity"]
        assert stage["forward_from_uniform"] == pytest.approx(0, abs=1e-6)
        assert stage["forward_entropy"] == pytest.approx(1)
    findings = ModelFindings("A", {}, {"module": "A"})
    findings.add("case", probe.numbers(), probe.matrices())
    words = findings.words()
    assert (
        "A: the forward attention of stages 0, 1 and 2 has collapsed to the uniform matrix (distance below 0.05)."
        in words
    )
    assert "A: the modules of stages 0, 1 and 2 add nothing; they are as at the start." in words
    assert not any("reverse attention" in sentence and "collapsed" in sentence for sentence in words)


# Words, tables and maps


def findings_with(identity=0.5, uniform=0.5, rank=3.0, kept=0.9, contributions=(0.25,), channels=4):
    findings = ModelFindings("A", {}, {"module": "A"})
    for case, contribution in zip("ab", contributions, strict=False):
        row = dict.fromkeys(NUMBERS, 0.5) | {"before_sparsity": 0.3, "contribution": contribution}
        for direction in ("forward", "reverse"):
            names = ("from_identity", "from_uniform", "rank", "rank_kept")
            row |= {f"{direction}_{name}": v for name, v in zip(names, (identity, uniform, rank, kept), strict=True)}
        matrix = torch.eye(channels, dtype=torch.double)
        findings.add(case, [row], {(0, direction): matrix for direction in ("forward", "reverse")})
    return findings


def of_both(sentence):
    return [sentence.format(direction) for direction in ("forward", "reverse")]


@pytest.mark.parametrize(
    ("found", "sentences"),
    [
        (
            {"identity": 0.049},
            of_both("the {} attention of stage 0 has collapsed to the identity (distance below 0.05)."),
        ),
        (
            {"uniform": 0.049, "rank": 1.0, "kept": 0.2},
            of_both("the {} attention of stage 0 has collapsed to the uniform matrix (distance below 0.05)."),
        ),
        (
            {"rank": 1.26, "kept": 0.334},
            of_both(
                "all rows of the {} attention of stage 0 attend to the same few channels: A has an effective rank of "
                "1.3, and Y = A V keeps 33.4 % of V's."
            ),
        ),
        (
            {"identity": 0.051, "uniform": 0.051, "kept": 0.5},
            ["no attention has collapsed to the identity, to the uniform matrix or to few channels."],
        ),
        (
            {"identity": 0.0, "uniform": 0.0, "channels": 1},
            ["the modules of stage 0 have one channel, whose attention is 1."],
        ),
    ],
    ids=["identity", "uniform", "few channels", "none", "one channel"],
)
def test_words_about_attention(found, sentences):
    assert findings_with(**found).words() == [
        f"A: {sentence}" for sentence in [*sentences, "the module adds 25 % (stage 0) of its skip's norm."]
    ]


def test_means_are_over_cases():
    frame = findings_with(contributions=(0.1, 0.5)).frame()
    assert frame["contribution"].tolist() == [0.1, 0.5]
    cells = ["A", "0", "0.300", "0.500", "0.500", "30 %", *["0.500 / 0.500"] * 3, "3.000 / 3.000", "0.900 / 0.900"]
    assert stage_table(frame).rows[0] == cells


def test_stitching_repeats_cells_and_averages_where_tiles_overlap():
    first, second = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[5.0, 7.0]]])
    everything = slice(None)
    slicers = [(everything, slice(2, 4), slice(0, 2), slice(0, 3)), (everything, slice(2, 4), slice(0, 2), slice(2, 5))]
    stitched = stitch([first, second], slicers, (2, 2, 2), (2, 5), z=3)
    assert stitched.tolist() == [[1, 1, 3.5, 5, 7]] * 2
    stitched = stitch(
        [first[0], second[0]], [(everything, 0, *slicers[0][2:]), (everything, 1, *slicers[0][2:])], (2, 2), (2, 3), z=1
    )
    assert stitched.tolist() == [[5, 5, 7]] * 2
    # Outside the tiles nothing is known.
    assert stitch([first, second], slicers, (2, 2, 2), (2, 5), z=1).isnan().all()


@pytest.mark.parametrize("dims", [2, 3])
def test_maps_lie_where_the_modules_act(dims, tmp_path):
    folder = write_model(tmp_path, "nnUNetTrainerSALSTM_A", {"module": "A"}, dims)
    subject = Subject(Model.read(folder, None, FINAL), "A", "cpu")
    model, predictor = subject.model, subject.predictor
    torch.manual_seed(3)
    data = torch.randn(1, 10, 30, 20)
    with subject.probe.watching():
        predictor.predict_sliding_window_return_logits(data)
    assert len(predictor.slicers) > 4
    z = 7
    overlay = subject.maps(z)
    assert (overlay.z, overlay.depth, overlay.pixel) == (7, 10, (1.0, 1.0))
    assert np.array_equal(overlay.image, predictor.data[0, z].numpy())
    for stage, block in model.network.salstm.items():
        total, count, there, voxels = np.zeros((30, 20)), np.zeros((30, 20)), 0.0, 0
        for slicer in predictor.slicers:
            with torch.no_grad():
                x = raw_skips(model.network, predictor.data[slicer][None])[int(stage)]
                size = (block(x) - x).norm(dim=1)[0]
            there += float(x.double().square().sum())
            voxels += size.numel()
            step = [int(a / b) for a, b in zip(model.configuration.patch_size, size.shape, strict=True)]
            for axis, length in enumerate(step):
                size = size.repeat_interleave(length, axis)
            if dims == 3:
                if not slicer[1].start <= z < slicer[1].stop:
                    continue
                size = size[z - slicer[1].start]
            elif slicer[1] != z:
                continue
            total[slicer[-2:]] += size.numpy()
            count[slicer[-2:]] += 1
        expected = torch.from_numpy(total / count / math.sqrt(there / voxels))
        assert_close(f"stage {stage}", torch.from_numpy(overlay.maps[int(stage)]).double(), expected, 1e-4)


def test_the_slice_with_the_largest_predicted_foreground_is_shown(tmp_path):
    predictor = make_predictor(Model.read(write_model(tmp_path, "nnUNetTrainer", OFF), None, FINAL), "cpu", False)
    predictor.logits = torch.zeros(3, 5, 4, 4)
    predictor.logits[0] = 1
    assert fullest_slice(predictor) == 2
    predictor.logits[1, 1, :2] = 2
    predictor.logits[2, 3, :3] = 2
    assert fullest_slice(predictor) == 3


def test_both_models_show_the_same_slice_where_they_see_the_same(tmp_path, monkeypatch):
    names = {"nnUNetTrainerSALSTM_A": {"module": "A"}, "nnUNetTrainerBDCLSTM": {"module": "bdclstm"}}
    folders = [write_model(tmp_path, name, salstm, seed=seed) for seed, (name, salstm) in enumerate(names.items())]
    subjects = [Subject(Model.read(folder, None, FINAL), folder.name, "cpu") for folder in folders]
    chosen = {id(subjects[0].predictor): 2, id(subjects[1].predictor): 5}
    monkeypatch.setattr(subject_module, "fullest_slice", lambda predictor: chosen[id(predictor)])
    (case,) = find_cases(write_images(tmp_path / "images", ["a"]), ".nii.gz")
    assert [maps.z for maps in look_at(subjects, case).values()] == [2, 2]
    subjects[1].model.configuration.configuration["patch_size"] = [16, 24, 16]  # padded more
    assert [maps.z for maps in look_at(subjects, case).values()] == [2, 5]


def test_pixels_have_the_spacing_of_the_plans(tmp_path):
    folder = write_model(tmp_path, "nnUNetTrainer", OFF)
    change_plans(lambda c: c["3d_fullres"].update(spacing=[3.0, 0.5, 2.0]))(folder)
    (case,) = find_cases(write_images(tmp_path / "images", ["a"], size=(9, 30, 22)), ".nii.gz")
    model = Model.read(folder, None, FINAL)
    data, _ = preprocess(model, case)
    assert model.pixel == (0.5, 2.0)
    assert tuple(data.shape) == (1, 9, 60, 11)


def test_tiles_lie_side_by_side_and_are_not_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_compile", "t")
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or torch.nn.Sequential(network))
    model = Model.read(write_model(tmp_path, "nnUNetTrainer", OFF), None, FINAL)
    predictor = make_predictor(model, "cpu", False)
    assert compiled == [model.network]  # by nnU-Net
    assert predictor.network is model.network
    predictor.predict_sliding_window_return_logits(torch.randn(1, 16, 48, 32))  # 2 patches along each axis
    assert len(predictor.slicers) == 8


# The command


def inspect(*arguments):
    return main(["inspect", *map(str, arguments)])


def read(out):
    """Returns the JSON; fails if it or the page is not whole."""
    page = (out / "index.html").read_text()
    files = {b64encode(path.read_bytes()).decode(): path.name for path in out.glob("*.png")}
    pictures = [files.pop(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert not files

    def refuse(constant):
        raise AssertionError(constant)

    report = json.loads((out / "inspect.json").read_text(), parse_constant=refuse)
    assert report["format"] == 2
    for model in report["models"]:
        for sentence in model["words"]:
            assert sentence.replace("'", "&#39;") in page
    return report, pictures


@pytest.mark.parametrize("dims", [pytest.param(2, marks=pytest.mark.nightly), 3])
def test_a_model_and_its_control_side_by_side(dims, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(figures, "PNG_DPI", 30)
    a = write_model(tmp_path, "nnUNetTrainerSALSTM_A", {"module": "A"}, dims)
    control = write_model(tmp_path, "nnUNetTrainerBDCLSTM", {"module": "bdclstm", "placement": "skips"}, dims, seed=1)
    images, out = write_images(tmp_path / "images"), tmp_path / "new" / "out"
    assert inspect(a, control, "-i", images, "-o", out) == 0
    report, pictures = read(out)
    assert pictures[:2] == ["sparsity.png", "contribution.png"]
    assert {"map_a.png", "map_b.png", "attention.png", "matrices_1.png", "gates.png"} < set(pictures)
    assert "matrices_2.png" not in pictures
    first, second = report["models"]
    assert (first["label"], second["label"]) == ("SALSTM_A", "BDCLSTM")
    assert (first["fold"], first["trainer"], first["salstm"]["module"]) == ("0", "nnUNetTrainerSALSTM_A", "A")
    rows = [[(row["case"], row["stage"]) for row in model["stages"]] for model in (first, second)]
    assert rows == [[(case, stage) for case in "ab" for stage in range(3)]] * 2
    assert [row["contribution"] is None for row in second["stages"][:3]] == [False, False, True]
    assert all(row["forward_rank"] >= 1 for row in first["stages"])
    assert set(first["attention_matrices"]) == {"0", "1", "2"}
    for matrices in first["attention_matrices"].values():
        assert np.sum(matrices["forward"], axis=1) == pytest.approx(1, abs=1e-5)
    assert second["attention_matrices"] == {}
    printed = capsys.readouterr().out
    assert "case 2 of 2, b: " in printed
    sentence = "BDCLSTM has its attention switched off: there are gates, but no attention matrices."
    assert sentence in " ".join(printed.split())
    assert f"Written: {out / 'index.html'}" in printed
    assert not list(out.parent.glob("unfinished*"))


def test_a_stock_model_is_said_to_be_one(tmp_path, capsys):
    """Also: the first finished fold is taken, one image means its case, and an empty folder is taken."""
    stock = write_model(tmp_path, "nnUNetTrainer", OFF, dims=2, folds=("2", "10", "all"))
    (stock / "fold_0").mkdir()
    images = write_images(tmp_path / "images", size=(2, 30, 22))
    (tmp_path / "out").mkdir()
    assert inspect(stock, "-i", images / "b_0000.nii.gz", "-o", tmp_path / "out") == 0
    report, pictures = read(tmp_path / "out")
    assert pictures == ["sparsity.png"]
    assert {row["case"] for row in report["models"][0]["stages"]} == {"b"}
    assert report["models"][0]["salstm"] is None
    (line,) = report["models"][0]["words"]
    assert line.startswith("nnUNetTrainer is a stock network without SA-LSTM modules: only the sparsity of its encoder")
    printed = capsys.readouterr().out
    assert line in " ".join(printed.split())
    assert f"nnUNetTrainer: {stock}, fold 2\n" in printed


@pytest.mark.nightly
def test_a_checkpoint_that_nnunet_wrote(tmp_path):
    file = DATA / "nnUNetTrainerSALSTM_A_0.1.0.pth"
    arguments = torch.load(file, weights_only=False)["init_args"]
    folder = tmp_path / "nnUNetTrainerSALSTM_A__nnUNetPlans__3d_fullres"
    (folder / "fold_all").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(with_preprocessing(arguments["plans"])))
    (folder / "dataset.json").write_text(json.dumps(arguments["dataset_json"]))
    shutil.copy(file, folder / "fold_all" / "checkpoint_best.pth")
    images = write_images(tmp_path / "images", ["a"])
    assert inspect(folder, "-i", images, "-o", tmp_path / "out", "-f", "all", "-chk", "checkpoint_best.pth") == 0
    report, _ = read(tmp_path / "out")
    (model,) = report["models"]
    assert (model["fold"], model["checkpoint"]) == ("all", "checkpoint_best.pth")
    assert model["stages"][0]["contribution"] > 0.001


def test_neighbouring_frames_in_2d(tmp_path):
    salstm = {"module": "B", "sequence": "frames"}
    folder = write_model(tmp_path, "nnUNetTrainerSALSTM_B_25d", salstm, dims=2, channels=3)
    images = write_images(tmp_path / "images", ["a"], channels=3, size=(2, 30, 22))
    subject = Subject(Model.read(folder, None, FINAL), "B", "cpu")
    (case,) = find_cases(images, ".nii.gz")
    assert set(look_at([subject], case)["B"].maps) == {0, 1, 2}
    assert (subject.findings.frame()["contribution"] > 0.001).all()


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path, "nnUNetTrainerSALSTM_A", {"module": "A"}, dims=2)


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images", ["a"], size=(1, 24, 16))


def refused(capsys, tmp_path, *arguments):
    """Returns the one line with which the command ended; nothing may be left behind."""
    there = sorted(tmp_path.rglob("*"))
    assert inspect(*arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("nnUNetv2_salstm inspect: ")
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == there
    return error


def damage(folder):
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"no checkpoint")


def cut_weights(folder):
    file = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file)
    checkpoint["network_weights"].popitem()
    torch.save(checkpoint, file)


def unfinish(folder):
    (folder / "fold_0" / "checkpoint_final.pth").rename(folder / "fold_0" / "checkpoint_latest.pth")


def forget_trainer(folder):
    torch.save({"network_weights": {}}, folder / "fold_0" / "checkpoint_final.pth")


def change_plans(change):
    def spoil(folder):
        plans = json.loads((folder / "plans.json").read_text())
        change(plans["configurations"])
        (folder / "plans.json").write_text(json.dumps(plans))

    return spoil


def architecture(configurations):
    return configurations["2d"]["architecture"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "plans.json").unlink(), "MODEL_FOLDER must be nnU-Net's folder of a trained model"),
        (lambda folder: shutil.rmtree(folder / "fold_0"), "has no fold_0 or other fold; train the model first"),
        (unfinish, "has no checkpoint_final.pth; its checkpoints are checkpoint_latest.pth: finish the training"),
        (damage, "checkpoint_final.pth is damaged: "),
        (forget_trainer, "checkpoint_final.pth is not a checkpoint of nnU-Net: it has no 'trainer_name'"),
        (cut_weights, "does not fit the network that plans.json names; nnUNetTrainerSALSTM_A builds another one"),
        (change_plans(lambda c: c["2d"].update(previous_stage="3d_lowres")), "is the second stage of a cascade"),
        (
            change_plans(lambda c: c.update({"3d": c.pop("2d")})),
            "the configuration of checkpoint_final.pth, 2d; it has 3d.",
        ),
        (
            change_plans(lambda c: architecture(c)["arch_kwargs"]["salstm"].update(format=3)),
            "cannot be built: format must be at most 2 in this version",
        ),
        pytest.param(
            change_plans(lambda c: architecture(c).update(network_class_name="nowhere.Network")),
            "cannot be built: Network class could not be found",
            marks=pytest.mark.filterwarnings("ignore:Network class nowhere.Network not found:UserWarning"),
        ),
        (lambda folder: (folder / "plans.json").write_text("{"), "plans.json is not JSON"),
        (lambda folder: (folder / "plans.json").write_text("{}"), "plans.json must have the configuration of"),
        (change_plans(lambda c: c["2d"].pop("architecture")), "plans.json: configuration '2d' names no network"),
        (change_plans(lambda c: c["2d"].update(inherits_from="2d")), "plans.json: configuration '2d' cannot be read"),
        (change_plans(lambda c: architecture(c)["arch_kwargs"].update(strides=None)), "cannot be built: "),
    ],
)
def test_refuses_model_folders(spoil, message, model, images, tmp_path, capsys):
    spoil(model)
    assert message in refused(capsys, tmp_path, model, "-i", images, "-o", tmp_path / "out")


def test_refuses_a_missing_fold(model, images, tmp_path, capsys):
    error = refused(capsys, tmp_path, model, "-i", images, "-o", tmp_path / "out", "-f", "3")
    assert f"-f must be one of the folds of {model}, which are 0; got 3" in error


def test_refuses_three_models_and_one_twice(model, images, tmp_path, capsys):
    error = refused(capsys, tmp_path, model, model, model, "-i", images, "-o", tmp_path / "out")
    assert "MODEL_FOLDER must be one or two folders, got 3" in error
    error = refused(capsys, tmp_path, model, model, "-i", images, "-o", tmp_path / "out")
    assert f"the two MODEL_FOLDERs must differ, got {model} twice" in error


def test_refuses_two_models_of_different_images(model, images, tmp_path, capsys):
    other = write_model(tmp_path, "nnUNetTrainer", OFF, dims=2, channels=2)
    error = refused(capsys, tmp_path, model, other, "-i", images, "-o", tmp_path / "out")
    assert f"their input channels differ: 1 of {model.name} and 2 of {other.name}" in error


@pytest.mark.parametrize("channels", [1, 3])
def test_refuses_cases_with_other_channels(channels, tmp_path, capsys):
    folder = write_model(tmp_path, "nnUNetTrainer", OFF, dims=2, channels=2)
    images = write_images(tmp_path / "images", ["a"], channels, size=(1, 24, 16))
    error = refused(capsys, tmp_path, folder, "-i", images, "-o", tmp_path / "out")
    assert f"images must have 2 channels, those of {folder.name}; case a has {channels} (a_0000.nii.gz" in error


def test_refuses_images_that_are_not_there_or_cannot_be_read(model, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    out = tmp_path / "out"
    assert "there is no such folder or file" in refused(capsys, tmp_path, model, "-i", tmp_path / "no", "-o", out)
    assert "they are named CASE_0000.nii.gz" in refused(capsys, tmp_path, model, "-i", empty, "-o", out)
    (empty / "case.nii.gz").touch()
    assert "they are named CASE_0000.nii.gz" in refused(capsys, tmp_path, model, "-i", empty, "-o", out)
    (empty / "case_0000.png").touch()
    assert "they are named" in refused(capsys, tmp_path, model, "-i", empty / "case_0000.png", "-o", out)
    (empty / "case_0000.nii.gz").write_bytes(b"no image")
    unreadable = "case case: {}: cannot be read, is it complete? (the file ends within its header)"
    error = refused(capsys, tmp_path, model, "-i", empty, "-o", out)
    assert unreadable.format(empty / "case_0000.nii.gz") in error
    sitk.WriteImage(sitk.GetImageFromArray(np.full((4, 8, 8), np.nan, np.float32)), str(empty / "case_0000.nii.gz"))
    (empty / "._case_0000.nii.gz").write_bytes(b"of a Mac")
    error = refused(capsys, tmp_path, model, "-i", empty, "-o", out)
    assert f"{empty / 'case_0000.nii.gz'}: all voxels must be numbers, 256 are not-a-number" in error
    (empty / "case_0000.nii.gz").write_bytes(gzip.compress(b"no image" * 99))
    assert "case_0000.nii.gz: cannot be read" in refused(capsys, tmp_path, model, "-i", empty, "-o", out)


def test_refuses_folders_it_cannot_write_to(model, images, tmp_path, capsys):
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").touch()
    assert f"-o {full} holds something else" in refused(capsys, tmp_path, model, "-i", images, "-o", full)
    below = full / "thesis.txt" / "out"
    error = refused(capsys, tmp_path, model, "-i", images, "-o", below)
    assert f"-o {below} cannot be written to: " in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_refuses_a_missing_device(model, images, tmp_path, capsys):
    error = refused(capsys, tmp_path, model, "-i", images, "-o", tmp_path / "out", "-device", "cuda")
    assert "-device cuda needs a GPU" in error


def test_an_interrupted_run_leaves_nothing(model, images, tmp_path, monkeypatch, capsys):
    there = sorted(tmp_path.rglob("*"))

    def interrupt(*arguments):
        assert (tmp_path / "unfinished.out").is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(inspection_figures, "draw_maps", interrupt)
    assert inspect(model, "-i", images, "-o", tmp_path / "out") == 130
    assert sorted(tmp_path.rglob("*")) == there


def test_a_full_disk_is_one_line(images, tmp_path, monkeypatch, capsys):
    stock = write_model(tmp_path, "nnUNetTrainer", OFF, dims=2)

    def fail(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    error = refused(capsys, tmp_path, stock, "-i", images, "-o", tmp_path / "out")
    assert "cannot be written to: No space left on device; free some room" in error
