"""Seeding what a training draws from."""

import random

import numpy as np
import torch


def seed_everything(*seed: int) -> None:
    """Seeds Python's, numpy's and torch's generators from a few whole numbers."""
    state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)
