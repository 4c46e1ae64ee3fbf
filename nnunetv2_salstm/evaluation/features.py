"""What is said of feature maps, attention matrices and gates, in numbers; docs/how-to/inspect.md has the formulas."""

from dataclasses import dataclass

import torch
from torch import Tensor

# A gate below or above lets next to nothing, or next to everything, through.
CLOSED, OPEN = 0.05, 0.95


def sparsity(x: Tensor) -> Tensor:
    """Returns Hoyer's sparsity of each map, (B, C): 0 if all magnitudes are equal, 1 if all but one value are zero.

    (sqrt(n) - |x|_1 / |x|_2) / (sqrt(n) - 1) for n values; nan for a map of zeros or of one value, which have none.

    Args:
        x: maps, (B, C, *S).
    """
    root: float = x[0, 0].numel() ** 0.5
    found: Tensor = (root - _norm(x, 1) / _norm(x, 2)) / (root - 1)
    return found


def magnitude(x: Tensor) -> Tensor:
    """Returns the mean absolute value of each map, |x|_1 / n, (B, C), from maps, (B, C, *S)."""
    mean: Tensor = _norm(x, 1) / x[0, 0].numel()
    return mean


def squared_norm(x: Tensor) -> float:
    """Returns |x|_2 squared."""
    return float(_norm(x[None, None], 2).double().square())


def entropy(matrix: Tensor) -> Tensor:
    """Returns the entropy of the rows, (B,), their mean: 0 if each row is one 1, 1 if it is uniform; nan for C = 1.

    Args:
        matrix: attention matrices, (B, C, C), rows summing to one.
    """
    rows: Tensor = torch.special.entr(matrix).sum(-1)
    return rows.mean(-1) / torch.tensor(float(matrix.shape[-1])).log().to(rows)


def distance_from_identity(matrix: Tensor) -> Tensor:
    """Returns the total variation between the rows and those of the identity, (B,), their mean, from (B, C, C)."""
    return _total_variation(matrix, torch.eye(matrix.shape[-1]).to(matrix))


def distance_from_uniform(matrix: Tensor) -> Tensor:
    """Returns the total variation between the rows and 1 / C, (B,), their mean, from (B, C, C)."""
    return _total_variation(matrix, torch.full_like(matrix[:1], 1 / matrix.shape[-1]))


def effective_rank(matrix: Tensor) -> Tensor:
    """Returns the effective rank of matrices, (B,): the exponential of the entropy of the singular values' shares.

    1 for rows that are multiples of one row, min(M, N) for orthogonal rows of one length (Roy and Vetterli 2007); nan
    for a matrix of zeros.

    Args:
        matrix: (B, M, N).
    """
    values = torch.linalg.svdvals(matrix.to(torch.promote_types(matrix.dtype, torch.float32)))
    nats: Tensor = torch.special.entr(values / values.sum(-1, keepdim=True)).sum(-1)
    return nats.exp()


def _norm(x: Tensor, order: int) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(x.flatten(2), order, dim=-1, dtype=dtype)
    return norm


def _total_variation(matrix: Tensor, other: Tensor) -> Tensor:
    return (matrix - other).abs().sum(-1).mean(-1) / 2


@dataclass
class Mean:
    """The mean of numbers that come one after the other; those that are nan, for which there is nothing, are left out.

    Attributes:
        total: sum so far.
        count: how many numbers that is.
    """

    total: float = 0.0
    count: int = 0

    def add(self, values: Tensor) -> None:
        """Adds all values of a tensor."""
        there = values[~values.isnan()]
        self.total += float(there.sum(dtype=torch.float64))
        self.count += there.numel()

    @property
    def value(self) -> float | None:
        """The mean, None without any number."""
        return self.total / self.count if self.count else None
