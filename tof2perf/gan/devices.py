"""Where training computes: one device or several, in which precision, and how data get there."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from torch import Tensor

PRECISIONS: dict[str, Any] = {"float32": "32-true", "bfloat16": "bf16-mixed"}  # profile -> Lightning Fabric


def choose_device(name: str) -> torch.device:
    """``auto`` takes a GPU where there is one; any other name is taken as PyTorch knows it (cpu, cuda, mps, cuda:1)."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def make_fabric(training: Any, *, launched: bool = False) -> Fabric:
    """Lightning Fabric for a profile's training section: ``device``, ``devices`` and ``precision``.

    With several devices this is called in each of as many processes; gradients are averaged over them.

    Args:
        training: section of the profile.
        launched: the processes were started by ``srun`` and find each other through its variables; otherwise by
            :func:`in_processes`, if there are several.
    """
    device = choose_device(training.device)
    nodes = int(os.environ.get("SLURM_NNODES", 1)) if launched else 1
    devices = [device.index] if device.index is not None else training.devices // nodes
    # Fabric would take the variables of any surrounding Slurm job for a call to join its processes.
    environment = SLURMEnvironment(auto_requeue=False) if launched else LightningEnvironment()
    return Fabric(
        accelerator=device.type,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if training.devices > 1 else "auto",
        precision=PRECISIONS[training.precision],
        plugins=[environment],
    )


def in_processes(work: Callable[[], None], count: int) -> None:
    """Call ``work`` in several new processes of this machine, which then are one Fabric, and wait for them.

    Fabric's own ways to start processes either fork, which CUDA and OpenMP do not survive, or refuse notebooks.

    Args:
        work: can be pickled.
        count: of processes.

    Raises:
        torch.multiprocessing.ProcessRaisedException: one of them failed; the others are stopped.
    """
    torch.multiprocessing.spawn(_rank, args=(count, find_free_network_port(), work), nprocs=count)


def _rank(rank: int, count: int, port: int, work: Callable[[], None]) -> None:
    os.environ |= {
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    work()


def mean_over_processes(values: Tensor, fabric: Fabric) -> Tensor:
    """The mean of what every process holds; with one process, what it holds."""
    if fabric.world_size == 1:
        return values
    averaged = fabric.all_reduce(values, reduce_op="mean")
    assert isinstance(averaged, Tensor)
    return averaged


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, for the next step needs the same again.

    The C library of Linux returns every large block to the system at once, and the system clears each page when it is
    asked for it anew: a sixth of a step at 128x128x64. Elsewhere nothing is done. Costs memory where blocks of many
    sizes come and go, hence not for volumes at full size.
    """
    trim_threshold, mmap_max = -1, -4  # mallopt's names for them
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).mallopt(trim_threshold, -1)
            ctypes.CDLL(None).mallopt(mmap_max, 0)


def on_device(
    batches: Iterator[tuple[str, Tensor, Tensor]], device: torch.device
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The batches, on the device. To a CUDA device the next one is copied, from pinned memory, while one computes."""
    if device.type != "cuda":
        for patients, tof, target in batches:
            yield patients, tof.to(device), target.to(device)
        return
    copying = torch.cuda.Stream(device)
    ahead = None
    for patients, *volumes in batches:
        with torch.cuda.stream(copying):
            tof, target = (volume.pin_memory().to(device, non_blocking=True) for volume in volumes)
        if ahead is not None:
            yield ahead
        # The computing stream waits for this copy, and the allocator learns that it uses the memory.
        torch.cuda.current_stream(device).wait_stream(copying)
        for volume in (tof, target):
            volume.record_stream(torch.cuda.current_stream(device))
        ahead = (patients, tof, target)
    if ahead is not None:
        yield ahead
