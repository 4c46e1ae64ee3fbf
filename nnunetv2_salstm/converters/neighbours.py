"""The slices before and after each slice of a volume."""

import numpy as np
from numpy.typing import NDArray


def with_neighbours(volume: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Returns a volume (D, H, W), and for each of its slices the previous and the next one, in volumes of that size.

    The first slice is its own previous one, and the last its own next one.
    """
    previous = np.concatenate([volume[:1], volume[:-1]])
    following = np.concatenate([volume[1:], volume[-1:]])
    return volume, previous, following
