"""Where a process computes maps, and how much of them at a time: a bound of memory that adapts to the device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qmri_core.devices import fastest
from qmri_core.mapping.inference import VOXELS, infer_parts, on_device
from qmri_core.mapping.network import MapNetwork
from qmri_core.mapping.parts import Part

BYTES_PER_VOXEL = 1000
"""Memory that a pass needs for each voxel of its planes, in float32, at most; found on a CPU, see
``tests/qmri_core/mapping/test_inference_blocks.py``."""
SHARE = 0.5
"""Of a GPU's free memory, for passes: the rest is for what waits beside them and what the allocator cannot join."""
MOST_VOXELS = 1 << 24
"""Of a pass on a GPU, whatever its memory: larger passes are not faster."""

Found = list[tuple[Part, Tensor]]
"""Parts with what `qmri_core.mapping.inference.infer_parts` gives of them, on the CPU."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Device:
    """A network on the device of this process; ``voxels`` of planes are a full call, less where they must."""

    network: MapNetwork
    place: torch.device
    precision: torch.dtype
    voxels: int

    @classmethod
    def here(cls, network: MapNetwork) -> Device:
        """The fastest device that this process has, with a copy of the network on it."""
        place, precision = fastest()
        return cls(on_device(network, place), place, precision, fitting_voxels(place))

    def start(self, parts: Sequence[Part]) -> Callable[[], Found]:
        """Start a call of parts whose planes are of one shape; what is returned waits for what was found.

        On a CPU everything is found at once. On a GPU the caller may prepare the next call meanwhile. A call that
        does not fit into the device's memory is made in halves, and so are later ones.

        Raises
        ------
        torch.OutOfMemoryError
            If not even one slice of one session fits.
        """
        try:
            return self._launched(parts)
        except torch.OutOfMemoryError:
            halves = _halves(parts)
            if len(halves) < 2:
                raise
        # outside of the handler, whose traceback would keep the tensors of what has failed
        torch.cuda.empty_cache()
        self.voxels = max(1, min(self.voxels, sum(part.inside.numel() for part in parts)) // 2)
        _log.warning("the device's memory is full: calls of %d voxels from now on", self.voxels)
        found = [each for half in halves for each in self.start(half)()]
        return lambda: found

    def _launched(self, parts: Sequence[Part]) -> Callable[[], Found]:
        tensors = infer_parts(self.network, parts, self.place, precision=self.precision)
        if self.place.type != "cuda":
            found = list(zip(parts, tensors, strict=True))
            return lambda: found
        # the copies queue behind the pass, and run while the next one is prepared
        copies = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
        for copy, tensor in zip(copies, tensors, strict=True):
            copy.copy_(tensor, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call,unused-ignore]
        done.record()

        def wait() -> Found:
            done.synchronize()
            return list(zip(parts, copies, strict=True))

        return wait


def fitting_voxels(place: torch.device) -> int:
    """Voxels of planes in a full call: as the free memory of a GPU allows, and on a CPU as its caches like it."""
    if place.type != "cuda":
        return VOXELS["cpu"]
    free, _ = torch.cuda.mem_get_info(place)
    return max(VOXELS["cpu"], min(MOST_VOXELS, int(SHARE * free) // BYTES_PER_VOXEL))


def _halves(parts: Sequence[Part]) -> list[Sequence[Part]]:
    if len(parts) == 1:
        return [[half] for half in parts[0].halves()]
    middle = len(parts) // 2
    return [parts[:middle], parts[middle:]]
