"""Seeds that depend on what is computed, never on when or where."""

import hashlib


def derive_seed(seed: int, *parts: str | int) -> int:
    """A 63-bit seed from the protocol's seed and the names of the molecule and the step."""
    text = "\x1f".join([str(seed), *(str(part) for part in parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
