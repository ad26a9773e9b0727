"""Random streams that depend only on their purpose, not on the caller or the order of calls.

Every draw comes from a generator seeded by (seed, purpose, stage, epoch, ...). Lanes with the same
seed therefore see the same permutations, initial weights, batch order and noise, alone or in a
pack, and a resumed run needs no saved generator state.
"""

import hashlib

import torch
from torch import Tensor


def generator(
    seed: int, *purpose: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return the generator for a purpose; equal arguments give equal draws on one device type."""
    text = "/".join(map(str, (seed, *purpose)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    stream = torch.Generator(device=device)
    stream.manual_seed(int.from_bytes(digest, "little") >> 1)
    return stream


def normal(
    shape: tuple[int, ...], stream: torch.Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draw standard normal noise on the stream's device."""
    return torch.randn(shape, generator=stream, device=stream.device, dtype=dtype)
