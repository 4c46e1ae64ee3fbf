"""Where the modules compute: in float32 at least, whatever autocast or the weights say.

The gates see unbounded inputs and the attention logits are sums over all pixels; both overflow float16 (at 65,504).
The modules work on small grids, so float32 costs next to nothing there.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def to_float32(x: Tensor) -> Tensor:
    """Returns x in float32 if it is narrower (float16, bfloat16), else x itself."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Returns a context in which operations on x's device keep the dtype of their inputs."""
    device = x.device.type
    # Asking costs less than entering a context that changes nothing.
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
