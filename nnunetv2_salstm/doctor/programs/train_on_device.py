"""Trains a tiny network with SA-LSTM blocks for two seconds: train_on_device.py ANSWERS DEVICE"""

import json
import sys
import time
from pathlib import Path

import torch
from torch import nn

from nnunetv2_salstm.networks import SALSTMPlainConvUNet

SECONDS = 2.0


def main(answers, device):
    network = make_network().to(device)
    x = torch.randn(1, 1, 8, 32, 32, device=device)
    bad = None
    steps = 0
    start = time.perf_counter()
    while bad is None and (steps == 0 or time.perf_counter() - start < SECONDS):
        bad = find_not_finite(network, x)
        steps += 1
    event = {"steps": steps, "seconds": time.perf_counter() - start, "not_finite": bad}
    Path(answers).write_text(json.dumps(event), encoding="utf-8")


def make_network():
    network = SALSTMPlainConvUNet(
        input_channels=1,
        n_stages=3,
        features_per_stage=[8, 16, 16],
        conv_op=nn.Conv3d,
        kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        n_conv_per_stage=[1, 1, 1],
        num_classes=2,
        n_conv_per_stage_decoder=[1, 1],
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
        deep_supervision=True,
        salstm={"module": "A"},
    )
    network.apply(network.initialize)
    # As they start, the blocks are the identity, and most of their gradients zero.
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    return network


def find_not_finite(network, x):
    """Makes a step, under nnU-Net's autocast on CUDA; returns what is not finite, or None."""
    network.zero_grad()
    with torch.autocast(x.device.type, enabled=x.device.type == "cuda"):
        outputs = network(x)
    sum(y.float().square().mean() for y in outputs).backward()
    if not all(torch.isfinite(y).all() for y in outputs):
        return "the output"
    for name, parameter in network.named_parameters():
        if parameter.grad is None or not torch.isfinite(parameter.grad).all():
            return f"the gradient of {name}"
    return None


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
