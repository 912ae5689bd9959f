"""Random seeds and classes as functions of what they are for. No torch, so that figures can name what a run drew."""

import hashlib


def mix(*parts: int | str) -> int:
    """A 63-bit seed from its parts; different parts, different seeds, with no pattern between neighbours."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def labels(rule: str, num_images: int, num_classes: int, seed: int) -> list[int]:
    """Classes to ask for: "random", each drawn for itself, as ADM and DiT do; "balanced", 0, 1, ... in turn."""
    if rule == "balanced":
        return [index % num_classes for index in range(num_images)]
    return [mix("label", seed, index) % num_classes for index in range(num_images)]
