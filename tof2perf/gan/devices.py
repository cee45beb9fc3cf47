"""Devices of a training: one or several of this machine, and their precision."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.plugins.environments.lightning import find_free_network_port

PRECISIONS: dict[str, Any] = {"float32": "32-true", "bfloat16": "bf16-mixed"}  # profile -> Lightning Fabric


def choose_device(name: str) -> torch.device:
    """Choose a device: ``auto`` takes a GPU if there is one, other names are PyTorch's (cpu, cuda, mps, cuda:1).

    Raises:
        ValueError: this machine does not have it.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, available in there.items() if available))
    if not there.get(torch.device(name).type, True):
        raise ValueError(f"no device '{name}' on this machine; choose cpu or auto")
    return torch.device(name)


def make_fabric(training: Any) -> Fabric:
    """Set up Lightning Fabric for a profile's training section: ``device``, ``devices`` and ``precision``.

    With several devices each of as many processes calls this (:func:`in_processes`); gradients are averaged over them.
    """
    device = choose_device(training.device)
    return Fabric(
        accelerator=device.type,
        devices=[device.index] if device.index is not None else training.devices,
        strategy="ddp" if training.devices > 1 else "auto",
        precision=PRECISIONS[training.precision],
        plugins=[LightningEnvironment()],  # Fabric would otherwise try to join the processes of a Slurm job around it
    )


def in_processes(work: Callable[[], None], count: int) -> None:
    """Call ``work``, which can be pickled, in ``count`` new processes of this machine that form one Fabric.

    Fabric itself would fork, which CUDA and OpenMP do not survive, or refuse to run in a notebook.

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


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, because the next step needs the same again.

    The C library of Linux returns every large block to the system, which clears each page before it gives it out again:
    a sixth of a step at 128x128x64. Does nothing on other systems. Costs memory, so not for volumes at full size.
    """
    trim_threshold, mmap_max = -1, -4  # mallopt's numbers for these options
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).mallopt(trim_threshold, -1)
            ctypes.CDLL(None).mallopt(mmap_max, 0)
