"""Comparing tensors by their relative error, with the name of what differs."""

import torch
from torch import Tensor


def assert_close(name: str, actual: Tensor, expected: Tensor, relative: float = 1e-9) -> None:
    """Fails if a value is not finite or the largest error exceeds `relative` times the largest expected value."""
    assert actual.shape == expected.shape, f"{name}: {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    assert torch.isfinite(actual).all(), f"{name} has values that are not finite"
    assert torch.isfinite(expected).all(), f"expected {name} has values that are not finite"
    error = (actual - expected).abs().max().item() / max(expected.abs().max().item(), 1e-300)
    assert error <= relative, f"{name}: relative error {error:.2e}"


def gradients(output: Tensor, inputs: dict[str, Tensor], seed: int = 7) -> dict[str, Tensor]:
    """Returns the gradient of a random projection of the output for every named input."""
    projection = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed), dtype=output.dtype)
    values = torch.autograd.grad(output, list(inputs.values()), projection)
    return dict(zip(inputs, values, strict=True))
