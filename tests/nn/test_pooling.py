"""Means over cells and additions to cells: equal to pooling and nearest interpolation, values and gradients."""

from pathlib import Path

import pytest
import torch
from closeness import assert_close
from torch.nn import functional as F

import nnunetv2_salstm
from nnunetv2_salstm.nn.pooling import add_upsampled, average_pool

WHOLE = [
    ((3,), (12,)), ((2, 4), (6, 8)), ((1, 2, 4), (3, 6, 8)), ((2, 4, 4), (4, 8, 12)), ((2, 1, 1), (4, 3, 2)),
    ((6,), (12,)), ((8,), (16,)),
]  # fmt: skip
CUT = [((3,), (8,)), ((2, 4), (5, 6)), ((2, 1, 4), (5, 3, 6)), ((2, 4, 4), (1, 9, 3))]
POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def inputs(cell, size, dtype=torch.double):
    torch.manual_seed(0)
    grid = [-(-edge // length) for edge, length in zip(size, cell, strict=True)]
    return torch.randn(2, 3, *size, dtype=dtype), torch.randn(2, 3, *grid, dtype=dtype)


def interpolated(values, x, cell):
    full = F.interpolate(values, scale_factor=tuple(map(float, cell)), mode="nearest-exact")
    for axis, edge in enumerate(x.shape[2:], start=2):
        full = full.narrow(axis, 0, edge)
    return x + full


@pytest.mark.parametrize(("cell", "size"), [*WHOLE, *CUT], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "sliced", "channels last"])
def test_equal_to_pooling_and_interpolation_with_gradients(cell, size, layout):
    x, values = inputs(cell, size)
    if layout == "sliced":
        x = torch.cat([x, x], dim=1)[:, 3:]
    elif layout == "channels last":
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    x.requires_grad_()
    values.requires_grad_()

    def pooled(x):
        clipped = [min(length, edge) for length, edge in zip(cell, size, strict=True)]
        return POOL[len(cell)](x, clipped, ceil_mode=True)

    for ours, reference, arguments in (
        (lambda x: average_pool(x, cell), pooled, (x,)),
        (
            lambda x, values: add_upsampled(x, values, cell),
            lambda x, values: interpolated(values, x, cell),
            (x, values),
        ),
    ):
        output, expected = ours(*arguments), reference(*arguments)
        assert_close("output", output, expected)
        weights = torch.randn_like(expected)
        for name, a, b in zip(
            ("x", "values"),
            torch.autograd.grad((output * weights).sum(), arguments),
            torch.autograd.grad((expected * weights).sum(), arguments),
            strict=False,
        ):
            assert_close(f"gradient of {name}", a, b)


@pytest.mark.parametrize(("cell", "size"), [WHOLE[1], WHOLE[3], CUT[1]], ids=str)
def test_gradients_have_gradients(cell, size):
    x, values = inputs(cell, size)
    x, values = x[:1, :1].requires_grad_(), values[:1, :1].requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: average_pool(x, cell).sin(), (x,))
    assert torch.autograd.gradgradcheck(lambda x, v: add_upsampled(x, v, cell).sin(), (x, values))


@pytest.mark.parametrize(("cell", "size"), [((4, 4), (8, 8)), ((4, 4), (7, 9))], ids=["whole", "cut"])
def test_half_precision_neither_overflows_nor_widens_the_feature_map(cell, size):
    x = torch.full((1, 2, *size), 3e4, dtype=torch.float16, requires_grad=True)
    coarse = average_pool(x, cell)
    assert coarse.dtype == torch.float32
    assert torch.allclose(coarse, torch.full_like(coarse, 3e4))
    values = torch.zeros_like(coarse, requires_grad=True)
    output = add_upsampled(x, values, cell)
    assert output.dtype == torch.float16
    # The sum over a cell of 16 gradients of 1e4 is beyond float16.
    (gradient,) = torch.autograd.grad(output, values, torch.full_like(output, 1e4))
    assert torch.isfinite(gradient).all()
    if size == (8, 8):
        assert torch.allclose(gradient, torch.full_like(gradient, 1.6e5))


@pytest.mark.parametrize(("cell", "size"), [*WHOLE, *CUT], ids=str)
def test_float32_sums_stay_float32_under_autocast(cell, size):
    x, values = (tensor.requires_grad_() for tensor in inputs(cell, size, torch.float32))

    def results():
        outputs = average_pool(x, cell), add_upsampled(x, values, cell)
        return [*outputs, *torch.autograd.grad([output.square().sum() for output in outputs], [x, values])]

    expected = results()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results()
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


def test_the_package_has_no_autograd_functions():
    """Plain operations only: torch.func, export, and graphs cut by DDP see through nothing else."""
    package = Path(nnunetv2_salstm.__file__).parent
    assert [file.name for file in package.rglob("*.py") if "autograd.Function" in file.read_text()] == []
