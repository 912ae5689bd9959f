"""Random numbers as a function of where a run is, so that an interruption leaves no trace."""

import hashlib

import torch


def mix(*parts: int | str) -> int:
    """A 63-bit seed from its parts; different parts, different seeds, with no pattern between neighbours."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Reseed every generator for one training step: noise, time, mask and label dropout follow from these numbers.

    Ranks differ, so that processes draw different noise.
    """
    torch.manual_seed(mix("train", seed, step, rank))
