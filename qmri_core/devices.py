"""Where a process computes with networks, and how exactly: one choice for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def fastest() -> tuple[torch.device, torch.dtype]:
    """Device and precision to infer with in this process: a GPU and bfloat16 if it has one, else float32 on the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.bfloat16
    return torch.device("cpu"), torch.float32


@contextmanager
def in_precision(precision: torch.dtype, device: torch.device) -> Iterator[None]:
    """Features of this precision; float32 is float32, not the TF32 that PyTorch takes for it on a GPU."""
    is_lower = precision is not torch.float32
    with (
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=is_lower),
        torch.autocast(device.type, dtype=precision if is_lower else torch.bfloat16, enabled=is_lower),
    ):
        yield
