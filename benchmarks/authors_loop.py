"""Compares the authors' way of running their layer, slice by slice, with all slices at once.

    python benchmarks/authors_loop.py --out docs/results/authors_loop.json

Three forms with equal weights and equal outputs take turns; the ratios of medians are reported, for prediction and for
training. "authors" computes the equations as they stand, one slice after the other: both steps on [x ; h], with h = 0
in the first, each gate by itself. "slice by slice" is our `SALSTM` in the same loop, which leaves out what h = 0 makes
vanish. "shared" is `SliceSALSTM`.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch

from nnunetv2_salstm.host.versions import describe_hardware, package_versions
from nnunetv2_salstm.nn import SALSTM, GatedStateAttention, SliceSALSTM


def authors_direction(net, sequence, attention_size):
    """Returns Y of module A or B after a sequence of slices, by the equations as they stand (Ji et al. 2024)."""
    conv = net.cell0.conv
    h = c = torch.zeros_like(sequence[0])
    for x in sequence:
        i, f, o, g = conv(torch.cat([x, h], dim=1)).chunk(4, dim=1)
        i, f, o, g = i.sigmoid(), f.sigmoid(), o.sigmoid(), g.tanh()
        c = f * c + i * g
        h = o * c.tanh()
    query, key, value = (state.flatten(2).transpose(1, 2) for state in ((c + f) / 2, (g + h) / 2, h))
    if isinstance(net.attention, GatedStateAttention):
        gates = net.attention
        query, key, value = query * gates.q_matrix(value), key * gates.k_matrix(value), value * gates.v_matrix(value)
    logits = query.transpose(1, 2) @ key / attention_size**0.5
    return (logits.softmax(dim=-1) @ value.transpose(1, 2)).view_as(h)


def as_the_authors(layer, volume):
    """Returns the layer's output for each slice, computed one by one as the authors do."""
    size = layer.forward_net.attention.attention_size
    slices = volume.unbind(2)
    outputs = []
    for z in range(len(slices)):
        forward = authors_direction(layer.forward_net, slices[max(z - 1, 0) : z + 1], size)
        reverse = authors_direction(layer.reverse_net, slices[z : z + 2][::-1], size)
        outputs.append(layer.conv(torch.cat([forward, reverse], dim=1)))
    return torch.stack(outputs, dim=2)


def slice_by_slice(layer, volume):
    """Returns the layer's output for each slice with its neighbours, none beyond the ends."""
    slices = [None, *volume.unbind(2), None]
    return torch.stack([layer(*slices[z : z + 3]) for z in range(volume.shape[2])], dim=2)


def train(run, layer, volume):
    layer.zero_grad(set_to_none=True)
    run(volume).square().mean().backward()


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(works, rounds):
    for work in works.values():
        work()
    times = {name: [] for name in works}
    for turn in range(rounds):
        for name in list(works)[:: 1 if turn % 2 else -1]:
            times[name].append(seconds(works[name]))
    result = {"seconds": {name: round(statistics.median(values), 4) for name, values in times.items()}}
    shared = times["shared"]
    for name in ("authors", "slice by slice"):
        rounds_ = [a / b for a, b in zip(times[name], shared, strict=True)]
        ratio = statistics.median(times[name]) / statistics.median(shared)
        result[f"{name} / shared"] = {
            "ratio": round(ratio, 2),
            "range": [round(min(rounds_), 2), round(max(rounds_), 2)],
        }
    return result


def measure(module, size, rounds):
    torch.manual_seed(0)
    layer = SALSTM(size[1], size[1], 4, kernel_size=5, module=module, attention_size=88 * 88)
    volume = torch.randn(size)
    forms = {
        "authors": partial(as_the_authors, layer),
        "slice by slice": partial(slice_by_slice, layer),
        "shared": SliceSALSTM(layer),
    }
    with torch.no_grad():
        outputs = {name: form(volume) for name, form in forms.items()}
        expected = outputs.pop("authors")
        difference = max(((output - expected).abs().max() / expected.abs().max()).item() for output in outputs.values())
        assert difference < 1e-5, f"the outputs differ by {difference}"
        predicting = compare({name: partial(form, volume) for name, form in forms.items()}, rounds)
    training = compare({name: partial(train, form, layer, volume) for name, form in forms.items()}, rounds)
    return {"largest_relative_difference": difference, "forward": predicting, "forward_backward": training}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=10)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--edge", type=int, default=224, help="pixels")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    result = {
        "command": shlex.join(["python", "benchmarks/authors_loop.py", *sys.argv[1:]]),
        "volume": [1, arguments.channels, arguments.slices, arguments.edge, arguments.edge],
        "kernel_size": 5,
        "versions": package_versions(),
        "hardware": describe_hardware("cpu"),
    }
    for module in ("A", "B"):
        result[module] = measure(module, result["volume"], arguments.rounds)
        print(module, json.dumps(result[module]))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
