"""One of several processes that train together: ddp_worker.py RANK PROCESSES RENDEZVOUS RESULT.json [compiled]."""

import json
import sys
from pathlib import Path

import torch
from presets import as_residual_encoder, build, tiny
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

RESIDUAL = as_residual_encoder(tiny(3))
RESIDUAL["architecture"]["arch_kwargs"]["n_blocks_per_stage"] = 1
ONE_SLICE = tiny(patch=[1, 24, 16], strides=[[1, 2, 2], [1, 2, 2]])
NETWORKS = {
    **{f"3D {module}": (tiny(3), {"module": module}) for module in ("A", "B", "bdclstm", "conv")},
    **{f"2D {module}": (tiny(2), {"module": module}) for module in ("A", "B", "bdclstm", "conv")},
    **{f"2.5D {module}": (tiny(2), {"module": module, "sequence": "frames"}) for module in ("A", "B", "conv")},
    "residual encoder B": (RESIDUAL, {"module": "B"}),
    "one slice A": (ONE_SLICE, {"module": "A"}),
    "bottleneck A": (tiny(3), {"module": "A", "placement": "bottleneck"}),
    "2.5D skips B": (tiny(2), {"module": "B", "placement": "skips", "sequence": "frames"}),
    "three steps A": (tiny(3), {"module": "A", "steps": 3, "boundary": "replicate"}),
}


def network_of(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """Returns a network away from its start, and a batch of four, in float64, the same in every process."""
    plan, values = NETWORKS[name]
    channels = 6 if values.get("sequence") == "frames" else 2
    network = build(plan, values, input_channels=channels).double()
    for block in network.salstm.values():
        torch.nn.init.normal_(block.layer.output_convolution.weight, std=0.1)
    return network, torch.randn(4, channels, *plan["patch_size"], dtype=torch.double)


def two_steps(network: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Returns gradients and weights after two steps; DDP complains of unused parameters in the second one."""
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        sum(output.square().mean() for output in network(x)).backward()
        optimizer.step()
    return [*(p.grad for p in network.parameters()), *(p.detach() for p in network.parameters())]


def compiled_steps(name: str, rank: int, processes: int) -> float:
    """Returns the largest difference of the blocks' gradients between a compiled and an eager step under bfloat16.

    Relative to the largest gradient of each parameter.
    """
    gradients = []
    distributed._DEFAULT_FIRST_BUCKET_BYTES = 1000  # else 1 MB, which must not be larger than the others
    for compiled in (True, False):
        network, x = network_of(name)
        network, x = network.float(), x.float().chunk(processes)[rank]
        # Buckets this small make torch cut the graph all over the network, also inside a block.
        together = DistributedDataParallel(network, bucket_cap_mb=0.001)
        step = torch.compile(together, backend="aot_eager") if compiled else together
        for _ in range(2):  # DDP complains of unused parameters in the second one
            network.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16):
                outputs = step(x)
            sum(output.float().square().mean() for output in outputs).backward()
        gradients.append([p.grad for p in network.salstm.parameters()])
    largest = max(gradient.abs().max() for gradient in gradients[1])
    return max(((a - b).abs().max() / largest).item() for a, b in zip(*gradients, strict=True))


def differences(rank: int, processes: int) -> dict[str, float | str]:
    """Returns each network's largest difference between training in one and in several processes, or its error."""
    found: dict[str, float | str] = {}
    for name in NETWORKS:
        alone, x = network_of(name)
        expected = two_steps(alone, x)
        together, _ = network_of(name)
        try:
            values = two_steps(DistributedDataParallel(together), x.chunk(processes)[rank])
        except RuntimeError as error:
            found[name] = str(error)
            continue
        found[name] = max((a - b).abs().max().item() for a, b in zip(values, expected, strict=True))
    return found


def main() -> None:
    """Writes what is found in eager training, or, with a fifth argument, "compiled", in compiled training."""
    rank, processes, rendezvous, result = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=processes)
    if sys.argv[5:] == ["compiled"]:
        found = {"2D B": compiled_steps("2D B", rank, processes)}
    else:
        found = differences(rank, processes)
    distributed.destroy_process_group()
    if rank == 0:
        result.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
