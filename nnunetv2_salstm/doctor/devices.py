"""A tiny network with our blocks on each device."""

from collections.abc import Iterator

from nnunetv2_salstm.doctor.child import run_program
from nnunetv2_salstm.doctor.finding import Finding, not_applicable, ok, wrong
from nnunetv2_salstm.doctor.machine import Machine


def check_devices(machine: Machine) -> Iterator[Finding]:
    """Forward and backward for two seconds on each, with finite outputs and gradients."""
    torch = machine.torch
    if torch is None:
        yield not_applicable("devices", "torch cannot be imported")
        return
    yield _check_device("cpu")
    for index in range(len(torch["cuda_devices"])):
        yield _check_device(f"cuda:{index}")
    if torch["mps"]:
        yield _check_device("mps")


def _check_device(device: str) -> Finding:
    answer = run_program("train_on_device", device)
    if answer.failure or not answer.events:
        todo = f"train on another device than {device} (-device), until a small network runs there"
        return wrong(device, f"a small network fails: {answer.failure}", todo)
    (event,) = answer.events
    if event["not_finite"]:
        todo = f"do not train on {device} with this torch and driver; try other versions"
        return wrong(device, f"{event['not_finite']} of a small network is not finite", todo)
    half = ", half precision" if device.startswith("cuda") else ""
    return ok(device, f"{event['steps']} steps of a small network in {event['seconds']:.1f} s{half}, all finite")
