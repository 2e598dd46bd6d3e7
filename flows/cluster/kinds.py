"""Kinds of Dask clusters that a run starts and ends: processes of this machine, one per GPU of it, Slurm jobs, pods.

What belongs to a site (partition, image, memory, how many) stands in Dask's own configuration, read from where
``DASK_CONFIG`` points; `deploy` has a file for each kind.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import dask
from dask.system import CPU_COUNT
from distributed import LocalCluster, Nanny, Scheduler, Security, SpecCluster
from distributed.system import MEMORY_LIMIT

from flows.cluster.dispatch import ClusterError
from flows.settings import Settings
from storage.source.full_disk import temporary_folder

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
ONE_THREAD = dict.fromkeys(THREAD_VARIABLES, "1")

MEMORY_PER_WORKER = 2_500_000_000
"""Bytes that a worker with PyTorch, the brain-mask network and one session needs; decides how many workers start."""

MEMORY_SHARE = 0.9
"""Share of the machine's memory that workers may use; the rest is for this process and the file cache."""

CONFIGURATION: Mapping[str, Any] = {
    "distributed.worker.multiprocessing-method": "spawn",  # fork copies locks of running threads
    # Sessions are not Dask data: there is nothing to spill, and a paused worker would wait for ever for memory that
    # the allocator keeps. Too much memory ends the process; the item is tried again, alone in the end.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.scheduler.allowed-failures": 1,  # run_bounded tries suspects again, alone
    "distributed.admin.large-graph-warning-threshold": "100MB",
    # Workers keep a tree of call stacks for each second of the last hour: 80 MB each after six minutes of headers.
    "distributed.worker.profile.enabled": False,
    # Dask's default trim threshold of 64 KiB gives the memory of every large array back to the system at once and
    # faults it in again for the next: simulating took 193 s instead of 60 s, most of it in the kernel.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 536_870_912,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 33_554_432,
}

GPU = "GPU"
"""Dask resource of which a worker that holds a GPU has one."""

ADAPTIVE: Mapping[str, Mapping[str, Any]] = {"slurm": {"interval": "2s", "wait_count": 60}, "kubernetes": {}}
"""Jobs that queued for hours are not given back for the seconds of a commit: only after two idle minutes.

Pods are counted by the Dask operator, which has no such options.
"""

EXTRAS = {"slurm": "dask_jobqueue", "kubernetes": "dask_kubernetes"}
"""Package that makes each kind of cluster; the extra that brings it has the name of the kind."""


def default_workers() -> int:
    """Worker processes for this machine: one per core, as far as its memory goes, at least one."""
    return max(1, min(int(CPU_COUNT), int(MEMORY_LIMIT * MEMORY_SHARE) // MEMORY_PER_WORKER))


def security_of(settings: Settings) -> Security | None:
    """TLS with the certificates of the settings, and nothing but TLS; None where none are given."""
    if settings.tls_ca is None:
        return None
    pairs = {
        f"tls_{role}_{part}": str(path)
        for role in ("client", "scheduler", "worker")
        for part, path in (("cert", settings.tls_cert), ("key", settings.tls_key))
    }
    return Security(tls_ca_file=str(settings.tls_ca), require_encryption=True, **pairs)


@contextmanager
def started_cluster(settings: Settings, *, processes: bool = True) -> Iterator[Any]:
    """Cluster of the kind that ``settings.scheduler`` names, ended with the context.

    Raises
    ------
    ClusterError
        If the kind needs a package that is not installed, or a GPU and there is none.
    DiskFullError
        If there is no place for the workers' files.
    """
    kind = settings.scheduler or "local"
    with dask.config.set(CONFIGURATION), ExitStack() as stack:
        if kind in EXTRAS:
            yield stack.enter_context(_elastic_cluster(kind, settings))
            return
        # what the driver has set would win over Dask's own defaults
        stack.enter_context(_environment(ONE_THREAD if processes else {}))
        folder = stack.enter_context(temporary_folder("qmri-dask-"))
        if kind == "gpu":
            yield stack.enter_context(_gpu_cluster(visible_gpus(), folder, settings))
        else:
            workers = settings.workers or default_workers()
            yield stack.enter_context(_local_cluster(workers, folder, processes, settings))


def _local_cluster(workers: int, folder: str, processes: bool, settings: Settings) -> LocalCluster:
    security = security_of(settings)
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=processes,
        memory_limit=int(MEMORY_LIMIT * MEMORY_SHARE) // workers,
        dashboard_address="127.0.0.1:0",  # its HTTP server starts in any case: on any free port, without dashboard
        scheduler_kwargs={"dashboard": False},
        worker_dashboard_address=None,
        local_directory=folder,
        silence_logs=logging.CRITICAL,  # workers that die are reported as data, by run_bounded
        **({} if security is None else {"security": security, "protocol": "tls"}),
    )


def visible_gpus() -> list[str]:
    """Identifiers of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` takes them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in {"", "-1"}]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _gpu_cluster(gpus: list[str], folder: str, settings: Settings) -> SpecCluster:
    """One process of one thread per GPU, which sees that GPU alone and keeps its model; dask-cuda is not needed."""
    if not gpus:
        raise ClusterError("QMRI_SCHEDULER=gpu: PyTorch finds no GPU here; unset it to use the processor")
    gpus = gpus[: settings.workers]
    security = security_of(settings)
    common = {"protocol": "tcp://" if security is None else "tls://", "security": security, "host": "127.0.0.1"}
    options = {
        **common,
        "nthreads": 1,
        "resources": {GPU: 1},
        "memory_limit": int(MEMORY_LIMIT * MEMORY_SHARE) // len(gpus),
        "local_directory": folder,
        "silence_logs": logging.CRITICAL,
    }
    return SpecCluster(
        scheduler={"cls": Scheduler, "options": {**common, "dashboard": False, "dashboard_address": "127.0.0.1:0"}},
        workers={
            number: {"cls": Nanny, "options": {**options, "env": {**ONE_THREAD, "CUDA_VISIBLE_DEVICES": gpu}}}
            for number, gpu in enumerate(gpus)
        },
        security=security,
        silence_logs=logging.CRITICAL,
    )


@contextmanager
def _elastic_cluster(kind: str, settings: Settings) -> Iterator[Any]:
    """Slurm jobs or pods: at least one, so that a run does not queue again for each wave; at most ``workers``."""
    try:
        import_module(EXTRAS[kind])
    except ImportError:
        raise ClusterError(f"QMRI_SCHEDULER={kind} needs {EXTRAS[kind]}: pip install 'qmri-cohort[{kind}]'") from None
    security = security_of(settings)
    with _slurm(security) if kind == "slurm" else _pods(security) as cluster:
        maximum = settings.workers or int(dask.config.get("qmri.maximum-workers", 8))
        cluster.adapt(minimum=1, maximum=maximum, **ADAPTIVE[kind])
        yield cluster


def _slurm(security: Security | None) -> Any:  # noqa: ANN401 - dask-jobqueue has no types
    from flows.cluster.slurm import slurm_cluster

    return slurm_cluster(security)


def _pods(security: Security | None) -> Any:  # noqa: ANN401 - dask-kubernetes has no types
    if security is not None:
        raise ClusterError(
            "QMRI_SCHEDULER=kubernetes: the Dask operator's clusters take no certificates; unset QMRI_TLS_CA, "
            "QMRI_TLS_CERT and QMRI_TLS_KEY, and keep others from the pods by a network policy"
        )
    from dask_kubernetes.operator import KubeCluster

    return KubeCluster()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
