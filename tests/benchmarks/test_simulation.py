"""Speed and memory of the simulator: sessions per minute and core, and training batches against the network."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

_ONE_PROCESS = """
import json, resource, sys, time, torch
from pathlib import Path
from flows.simulate import SessionOrder, make_session
from qmri_core.simulation.cohort import plan_cohort
torch.set_num_threads(1)
resolution, folder = float(sys.argv[1]), sys.argv[2]
seconds = []
for plan in plan_cohort(sessions=9, groups=3, seed=1):
    began = time.process_time()
    make_session(SessionOrder(plan=plan, out=folder + "/in", truth=folder + "/truth", resolution=resolution,
                              output_format="dicom", labels=None))
    seconds.append(time.process_time() - began)
print(json.dumps({"seconds": seconds, "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""
LIMIT = 2048


@pytest.mark.parametrize("resolution", [2.0, 1.0])
def test_sessions_per_minute_and_memory_of_a_process(resolution: float, tmp_path: Path) -> None:
    """Sessions of three groups after the first of each, which makes the lookup tables of its trains."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _ONE_PROCESS, str(resolution), str(tmp_path)],
        capture_output=True, text=True, check=True, cwd=root,
    )  # fmt: skip
    result = json.loads(done.stdout.splitlines()[-1])
    later = result["seconds"][3:]
    print(f"{resolution:g} mm: {60 / np.mean(later):.1f} sessions per minute and core ({np.mean(later):.1f} s of CPU), "
          f"first of a group {np.mean(result['seconds'][:3]):.1f} s, at most {result['MiB']:.0f} MiB")  # fmt: skip
    assert result["MiB"] < LIMIT


def test_training_batches_against_the_network() -> None:
    """Seconds of a batch (slab and protocol kept) and of a step of the network on it, one thread, CPU."""
    from qmri_core.mapping.inference import run_network
    from qmri_core.mapping.network import MapNetwork, NetworkSettings
    from qmri_core.preprocessing.template.brain import tissue_templates
    from qmri_core.simulation.atlas import atlas_from_templates
    from qmri_core.training.loop import TrainingSettings
    from qmri_core.training.protocols import random_protocol
    from qmri_core.training.simulated_batches import make_batch, make_slab

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        settings = TrainingSettings()
        atlas = atlas_from_templates(tissue_templates(), resolution=2.0)
        began = time.process_time()
        slab = make_slab(atlas, 1, settings.size)
        slab_seconds = time.process_time() - began
        nominal, as_run = random_protocol(np.random.default_rng(0))
        network = MapNetwork(NetworkSettings(widths=settings.widths))
        rng = np.random.default_rng(0)
        make_batch(slab, nominal, as_run, rng)
        began = time.process_time()
        for _ in range(5):
            one = make_batch(slab, nominal, as_run, rng)
        batch = (time.process_time() - began) / 5
        began = time.process_time()
        for _ in range(5):
            log_maps, log_sd = run_network(network, one.relative, one.mask, one.physics)
            (log_maps.square().mean() + log_sd.mean()).backward()
        step = (time.process_time() - began) / 5
    finally:
        torch.set_num_threads(threads)
    print(f"slab {slab_seconds:.2f} s, batch {batch * 1e3:.0f} ms, step of the network {step * 1e3:.0f} ms: "
          f"batches are {step / batch:.1f} times as fast as the network")  # fmt: skip
    assert step / batch > 0.2
