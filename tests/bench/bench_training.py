"""Time and memory of the training step; run by `make bench`, never as a test: nothing here passes or fails by time.

Side by side in one run: the released code's step, ours, the parts of ours, and around each a large matrix product (what
the machine can do). Arithmetic is counted as multiplications and additions of the convolutions alone.
"""

import dataclasses
import functools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers.released_step import ReleasedStep
from torch import Tensor, nn

from tof2perf.gan.devices import keep_freed_memory, make_fabric
from tof2perf.gan.losses import ssim
from tof2perf.gan.pix2pix import Pix2Pix
from tof2perf.planning.arithmetic import count
from tof2perf.profiles import NetworkProfile, load_profile

SIZES = {
    "64x64x32, 16 filters": ((64, 64, 32), 16, 5),
    "128x128x64, 32 filters": ((128, 128, 64), 32, 6),
    "256x256x128, 64 filters": ((256, 256, 128), 64, 7),
}
SMALLER = list(SIZES)[:2]
FULL = list(SIZES)[2]
PRODUCT = 2048  # rows and columns of the matrices
GROUPS = ("first layer", "middle layers", "bottleneck", "up path", "last layer", "discriminator", "SSIM", "optimiser")


def sized(size: str) -> NetworkProfile:
    """The networks of the profile laptop at another size."""
    _, filters, levels = SIZES[size]
    network = load_profile("laptop").network
    return dataclasses.replace(network, levels=levels, generator_filters=filters, discriminator_filters=filters)


def build(size: str, **options) -> tuple[Pix2Pix, Tensor, Tensor]:
    """A model of the profile laptop at another size, and one pair of random volumes."""
    training = dataclasses.replace(load_profile("laptop").training, device="cpu", **options)
    if size != FULL:
        keep_freed_memory()
    model = Pix2Pix(sized(size), training, seed=1, fabric=make_fabric(training))
    return model, *noise(size)


def noise(size: str) -> Tensor:
    """TOF and map, each (1, 1, x, y, z) in [-1, 1]."""
    return torch.rand((2, 1, 1, *SIZES[size][0]), generator=torch.Generator().manual_seed(0)) * 2 - 1


def rounds(size: str) -> dict[str, int]:
    return {"rounds": 20 if size == SMALLER[0] else 5, "warmup_rounds": 2, "iterations": 1}


def step_arithmetic(size: str) -> dict[str, int]:
    """Operations a step of each group, counted on the networks' shapes."""
    shape, _, levels = SIZES[size]
    found = dict.fromkeys(GROUPS, 0)
    for layer, operations in count(sized(size), shape).step.items():
        groups = {
            "down.0": "first layer",
            f"down.{levels - 1}": "bottleneck",
            "up.0": "bottleneck",
            "output": "last layer",
            "discriminator": "discriminator",
        }
        found[groups.get(layer, "middle layers" if layer.startswith("down") else "up path")] += operations
    return found


@pytest.fixture(autouse=True)
def product_rate(benchmark):
    """Operations a second of a large matrix product, before and after each measurement: what the machine can do now.

    Other work on the machine comes and goes; the best of all these rates is the yardstick of the whole run.
    """
    benchmark.extra_info["product"] = {"float32": [], "bfloat16": []}
    generator = torch.Generator().manual_seed(0)
    factors = torch.rand((2, PRODUCT, PRODUCT), generator=generator)

    def measure() -> None:
        for precision, rates in benchmark.extra_info["product"].items():
            first, second = factors.to(getattr(torch, precision))
            for _ in range(3):
                start = time.perf_counter()
                torch.mm(first, second)
                rates.append(2 * PRODUCT**3 / (time.perf_counter() - start))

    measure()
    yield
    measure()


@pytest.mark.benchmark(group="step")
@pytest.mark.parametrize("algorithm", ["released", "ours", "ours in bfloat16"])
@pytest.mark.parametrize("size", SMALLER)
def test_step(benchmark, size, algorithm):
    """Each algorithm in a process of its own: how ours keeps freed memory must not speed up the released step, too."""
    benchmark.extra_info["operations"] = sum(step_arithmetic(size).values())
    alone = {"mp_context": multiprocessing.get_context("spawn"), "initializer": prepare, "initargs": (size, algorithm)}
    with ProcessPoolExecutor(1, **alone) as process:
        benchmark.pedantic(lambda: process.submit(take_step).result(), **rounds(size))


prepared: list[Callable[[], object]] = []  # the step that the process of one algorithm takes


def prepare(size: str, algorithm: str) -> None:
    if algorithm == "released":
        _, filters, levels = SIZES[size]
        prepared.append(functools.partial(ReleasedStep(levels=levels, filters=filters), *noise(size)))
    else:
        precision = "bfloat16" if "bfloat16" in algorithm else "float32"
        model, tof, target = build(size, precision=precision)
        prepared.append(functools.partial(model.step, tof, target, rate=1.0))


def take_step() -> None:
    prepared[0]()


@pytest.mark.benchmark(group="part")
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("size", SMALLER)
def test_part_of_the_step(benchmark, size, group):
    """Forward and backward pass of some layers alone, on the volumes they get in a step."""
    model, tof, target = build(size)
    generator, discriminator = model.generator, model.discriminator
    downs, ups = list(generator.down), list(generator.up)
    blocks = {
        "first layer": downs[:1],
        "middle layers": downs[1:-1],
        "bottleneck": [downs[-1], ups[0]],
        "up path": ups[1:],
        "last layer": [generator.output],
    }
    seen: dict[nn.Module, list[Tensor]] = {}
    hooks = [
        block.register_forward_hook(lambda module, inputs, _: seen.update({module: [v.detach() for v in inputs]}))
        for block in (*downs, *ups, generator.output)
    ]
    with torch.no_grad():
        generated = generator(tof)
    for hook in hooks:
        hook.remove()

    def layers() -> None:
        for block in blocks[group]:
            inputs = [volume.requires_grad_(block is not downs[0]) for volume in seen[block]]
            answer = block(*inputs)
            answer.backward(torch.ones_like(answer))

    def judged() -> None:
        discriminator.requires_grad_(True)
        for part in model._discriminator_loss(tof, target, generated):
            part.backward()
        discriminator.requires_grad_(False)
        model._answers(tof, generated.requires_grad_(True)).sum().backward()

    def similarity() -> None:
        ssim(generated.requires_grad_(True), target, data_range=2.0).backward()

    def optimised() -> None:
        for optimiser in model.optimisers.values():
            optimiser.step()

    if group == "optimiser":
        for part in (generator, discriminator):
            for weight in part.parameters():
                weight.grad = torch.ones_like(weight)
    benchmark.extra_info["operations"] = step_arithmetic(size)[group]
    work = {"discriminator": judged, "SSIM": similarity, "optimiser": optimised}.get(group, layers)
    benchmark.pedantic(work, **rounds(size))


ALONE = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[1])
import bench_training as bench

model, tof, target = bench.build(bench.FULL, **json.loads(sys.argv[2]))
for _ in range(2):  # the second has the optimisers' moments in memory, as all that follow
    start, cpu = time.perf_counter(), time.process_time()
    model.step(tof, target, rate=1.0)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
unit = 1024 if sys.platform == "linux" else 1
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_gb": peak / 1e9}))
"""


@pytest.mark.benchmark(group="full size")
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_full_size_step(benchmark, precision, recompute):
    """The second step at the paper's size in a process of its own, whose largest memory can be read."""
    options = json.dumps({"precision": precision, "checkpoint_activations": recompute})
    here = Path(__file__).resolve().parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (here.parent, here.parents[1])))}

    def run() -> None:
        done = subprocess.run(
            [sys.executable, "-c", ALONE, str(here), options],
            env=environment,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        )
        benchmark.extra_info.update(json.loads(done.stdout.splitlines()[-1]))

    benchmark.extra_info["operations"] = sum(step_arithmetic(FULL).values())
    benchmark.pedantic(run, rounds=1)
