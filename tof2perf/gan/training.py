"""Training of one pix2pix GAN: the epochs, and a checkpoint that resumes exactly where a run died."""

import contextlib
import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from lightning_fabric import Fabric
from torch import Tensor
from tqdm.auto import tqdm

from tof2perf.cohorts.participants import patients_in
from tof2perf.gan.devices import (
    PRECISIONS,
    in_processes,
    keep_freed_memory,
    make_fabric,
    mean_over_processes,
    on_device,
)
from tof2perf.gan.losses import SSIM_WINDOWS, ssim
from tof2perf.gan.networks import UNetGenerator
from tof2perf.gan.pairs import PairDataset
from tof2perf.gan.pix2pix import INPUTS, LOSSES, OBJECTIVES, Pix2Pix
from tof2perf.gan.weights import WeightsError, prefixed, read_tensors, under, write_tensors
from tof2perf.maps import chosen_maps
from tof2perf.preprocessing.training_range import RECORD
from tof2perf.system.files import WriteError, locked, write_bytes, write_table, write_text
from tof2perf.volumes.nifti import CohortError

EXPLODED = 1e4  # a loss beyond this does not come back: L1 and SSIM terms cannot exceed 2, logits stay below a hundred
SMALL = 2**20  # voxels up to which time is scarcer than memory
SCHEDULES = ("constant", "linear", "cosine")
CRITERIA = {"mae": ("validation_mae", 1), "ssim": ("validation_ssim", -1)}  # column of the history, sign to minimise


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stood and what to do, in one line."""


def train(
    folder: Path,
    map_name: str,
    model_folder: Path,
    *,
    network: Any,
    training: Any,
    epochs: int,
    seed: int,
    initialise_from: Path | None = None,
    progress: bool = True,
    after_epoch: Callable[[dict[str, float], UNetGenerator], None] | None = None,
    launched: bool = False,
) -> pd.DataFrame:
    """Train one map of one cohort, or all five at once, and keep the epoch that is best on the validation split.

    A run that dies continues from ``checkpoint`` in the model folder when called again and ends with the same bytes
    as an uninterrupted one. The checkpoint is removed once the four results below are written.

    Args:
        folder: preprocessed cohort, with ``participants.tsv``.
        map_name: the target map, or ``all`` for one generator of the five.
        model_folder: receives ``generator.safetensors`` and ``discriminator.safetensors`` (best epoch),
            ``history.csv``, ``config.yaml`` and, if preprocessing left it, ``inputs.json``.
        network, training: sections of the profile.
        epochs: passes over the training split.
        seed: the profile's seed; combined with the cohort's and the map's name, so that models are independent.
        initialise_from: model folder whose networks are the starting point (pegasus: its acute twin).
        progress: show a progress bar with the losses.
        after_epoch: called with the new row of the history and the generator once the epoch's checkpoint is written;
            what it raises ends the run. With one device only.
        launched: this is one of ``training.devices`` processes that ``srun`` started. They end with the checkpoint of
            the last epoch, and the next call, without ``launched``, makes the results of it.

    Returns:
        History: one row an epoch with the mean of every loss, ``validation_mae`` in the map's unit inside the brain,
        ``validation_ssim`` and ``rate``, the factor on the learning rates.

    Raises:
        TrainingError: unusable checkpoint or starting weights, a loss that is not finite, or ``launched`` with another
            number of processes.
        CohortError: missing or bad files.
        WriteError: another run at work in ``model_folder``, or a full disk.
        ValueError: unknown map or setting.
    """
    chosen_maps(map_name)
    _check_settings(network, training, epochs)
    if launched and (started := int(os.environ.get("SLURM_NTASKS", 1))) != training.devices:
        raise TrainingError(
            f"srun started {started} processes for a profile with {training.devices} devices; make -n and devices equal"
        )
    run = functools.partial(
        _run,
        folder=Path(folder),
        map_name=map_name,
        model_folder=Path(model_folder),
        network=network,
        training=training,
        epochs=epochs,
        seed=seed,
        initialise_from=initialise_from,
        progress=progress,
        after_epoch=after_epoch,
        launched=launched,
    )
    if launched or training.devices == 1:
        return run()
    try:
        in_processes(run, training.devices)
    except torch.multiprocessing.ProcessRaisedException as error:
        # The last line of a process's traceback is its error; if that is one of ours, pass it on as such.
        kind, _, message = str(error).strip().splitlines()[-1].partition(": ")
        for known in (TrainingError, CohortError, WriteError):
            if kind.endswith(known.__name__):
                raise known(message) from None
        raise
    return pd.read_csv(Path(model_folder) / "history.csv", float_precision="round_trip")


def _run(
    *,
    folder: Path,
    map_name: str,
    model_folder: Path,
    network: Any,
    training: Any,
    launched: bool,
    **settings: Any,
) -> pd.DataFrame:
    """What :func:`train` does, in each of the processes; the first one writes, and nobody else meanwhile."""
    fabric = make_fabric(training, launched=launched)
    fabric.launch()
    pairs = PairDataset(folder, patients_in(folder, "train"), map_name)
    held_out = PairDataset(folder, patients_in(folder, "validation"), map_name)
    if network.input == "tof+mirror":
        pairs.require_left_to_right()
        held_out.require_left_to_right()
    given = {"folder": folder, "map_name": map_name, "model_folder": model_folder, "network": network}
    given |= {"training": training, "finish": not launched}
    with locked(model_folder) if fabric.is_global_zero else contextlib.nullcontext():
        return _run_epochs(fabric, pairs, held_out, **given, **settings)


def _run_epochs(
    fabric: Fabric,
    pairs: PairDataset,
    held_out: PairDataset,
    *,
    folder: Path,
    map_name: str,
    model_folder: Path,
    network: Any,
    training: Any,
    epochs: int,
    seed: int,
    initialise_from: Path | None,
    progress: bool,
    after_epoch: Callable[[dict[str, float], UNetGenerator], None] | None,
    finish: bool,
) -> pd.DataFrame:
    """From the last checkpoint, or from the start, to the weights of the best epoch."""
    if fabric.device.type == "cpu" and pairs.tofs[0].numel() <= SMALL:
        keep_freed_memory()
    model = Pix2Pix(
        network,
        training,
        maps=len(chosen_maps(map_name)),
        seed=_seed(seed, folder.name, map_name, "weights"),
        fabric=fabric,
    )
    order = torch.Generator().manual_seed(_seed(seed, folder.name, map_name, "order"))
    config = {
        "cohort": folder.name,
        "map": map_name,
        "epochs": epochs,
        "seed": seed,
        "network": _plain(network),
        "training": _plain(training),
        "data": pairs.fingerprint(),
        "initialised_from": _start_from(model, initialise_from) if initialise_from else None,
    }
    checkpoint = model_folder / "checkpoint"
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    if checkpoint.exists():
        history, best = _resume(checkpoint, config, model, order)
    fabric.barrier()

    batches = math.ceil(len(pairs) / training.batch)
    steps = tqdm(
        total=epochs * batches,
        initial=len(history) * batches,
        desc=f"{folder.name} {map_name}",
        mininterval=1.0,
        disable=not (progress and fabric.is_global_zero),
    )
    # Convolutions on GPUs otherwise choose their algorithm by how fast it happened to be, and add up in any order.
    with steps, torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        for epoch in range(len(history) + 1, epochs + 1):
            sums = dict.fromkeys(LOSSES, 0.0)
            rate = rate_factor(training.schedule, decay_from=training.decay_from, epoch=epoch, epochs=epochs)
            shares = pairs.batches(
                order, flip=training.flip, size=training.batch, rank=fabric.global_rank, processes=fabric.world_size
            )
            for patients, tof, target in on_device(shares, fabric.device):
                losses = model.step(tof, target, rate=rate)
                _check(losses, f"epoch {epoch}, patient {patients}", checkpoint)
                for name in LOSSES:
                    sums[name] += losses[name]
                steps.set_postfix({name: f"{losses[name]:.3g}" for name in LOSSES}, refresh=False)
                steps.update()
            row = {"epoch": epoch, **{name: total / batches for name, total in sums.items()}, "rate": rate}
            row |= validate(model.generator, held_out, map_name, fabric=fabric)
            _check(row, f"epoch {epoch}, validation", checkpoint)
            history.append(row)
            if best_epoch(history, training.criterion) == epoch:
                networks = {"generator": model.generator, "discriminator": model.discriminator}
                best = {}
                for name, part in networks.items():
                    best |= prefixed(name, {key: value.cpu().clone() for key, value in part.state_dict().items()})
            if fabric.is_global_zero:
                tensors = model.state() | prefixed("best", best) | {"order": order.get_state()}
                write_tensors(checkpoint, tensors, {"config": config, "history": history})
            if after_epoch:
                after_epoch(row, model.generator)

    frame = pd.DataFrame(history)
    header = {"map": map_name, "cohort": folder.name, "network": config["network"]}
    config["best_epoch"] = best_epoch(history, training.criterion)
    if finish and fabric.is_global_zero:
        write_tensors(model_folder / "discriminator.safetensors", under("discriminator", best), header)
        write_table(model_folder / "history.csv", frame)
        write_text(model_folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        if (folder / RECORD).is_file():  # whoever predicts from another input prepares it alike
            write_bytes(model_folder / RECORD, (folder / RECORD).read_bytes())
        write_tensors(model_folder / "generator.safetensors", under("generator", best), header)
        checkpoint.unlink(missing_ok=True)
    fabric.barrier()
    return frame


def validate(generator: UNetGenerator, pairs: PairDataset, map_name: str, *, fabric: Fabric) -> dict[str, float]:
    """Error of the generator on held-out pairs, in eval mode and, like inference, in single precision.

    Returns:
        ``validation_mae``: mean over patients of the mean absolute error inside the brain, in the map's unit;
        ``validation_ssim``: mean over patients of the 3D SSIM of the whole normalised volume.
        Of several maps: ``validation_mae_<map>`` in the unit of each, and as ``validation_mae`` the mean over the maps
        of the error as a share of the map's range.
    """
    maps = chosen_maps(map_name)
    found = torch.zeros(len(pairs), len(maps) + 1, dtype=torch.float64)  # errors of every map as shares, SSIM
    generator.eval()
    with torch.no_grad():
        for index in range(fabric.global_rank, len(pairs), fabric.world_size):
            tof, target = (volume.to(fabric.device) for volume in pairs[index])
            generated = generator(tof[None])[0]
            mask = pairs.masks[index].to(fabric.device)[0]
            found[index, :-1] = (generated - target)[:, mask].abs().mean(dim=1).cpu() / 2
            found[index, -1] = ssim(generated[None], target[None], data_range=2.0).item()
    generator.train()
    if fabric.world_size > 1:  # each process left zeros where the others measured
        found = mean_over_processes(found.to(fabric.device), fabric).cpu() * fabric.world_size
    *shares, similarity = (math.fsum(column) / len(pairs) for column in found.T.tolist())
    errors = [share * (entry.bounds[1] - entry.bounds[0]) for share, entry in zip(shares, maps, strict=True)]
    if len(maps) == 1:
        return {"validation_mae": errors[0], "validation_ssim": similarity}
    each = {f"validation_mae_{entry.name}": error for entry, error in zip(maps, errors, strict=True)}
    return {"validation_mae": math.fsum(shares) / len(maps), "validation_ssim": similarity, **each}


def _seed(seed: int, *names: str) -> int:
    """A seed of its own for each purpose, the same on every machine (Python's ``hash`` is not)."""
    return int.from_bytes(hashlib.sha256("/".join([str(seed), *names]).encode()).digest()[:7], "big")


def _plain(section: Any) -> dict[str, Any]:
    """A profile section as JSON and YAML know it: lists for tuples."""
    content = dataclasses.asdict(section)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in content.items()}


def rate_factor(schedule: str, *, decay_from: float, epoch: int, epochs: int) -> float:
    """Factor on the learning rates in one epoch, 1 at first, falling towards 0 at the end.

    Args:
        schedule: "constant"; or "linear" (as pix2pix) or "cosine" decay after a constant part.
        decay_from: share of the epochs after which the decay begins, in [0, 1).
        epoch: counted from 1.
        epochs: of the whole training.

    >>> [rate_factor("linear", decay_from=0.5, epoch=epoch, epochs=4) for epoch in (1, 2, 3, 4)]
    [1.0, 1.0, 1.0, 0.5]
    """
    done = (epoch - 1) / epochs
    if schedule == "constant" or done <= decay_from:
        return 1.0
    decayed = (done - decay_from) / (1.0 - decay_from)
    return 1.0 - decayed if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * decayed))


def best_epoch(history: Sequence[Mapping[str, float]], criterion: str) -> int:
    """The epoch, counted from 1, that is best on the validation split; the first of equals.

    Only epochs after the learning rate began to fall count, if there are any. Before that a generator that has found no
    lesion yet has a smaller mean error than one that has just learned where they are, but not how large: it would win.
    """
    column, sign = CRITERIA[criterion]
    settled = [row for row in history if row["rate"] < 1.0] or history
    return int(min(settled, key=lambda row: sign * row[column])["epoch"])


def _check_settings(network: Any, training: Any, epochs: int) -> None:
    """Refuse now what would fail only after an epoch."""
    for section, name, known in (
        (training, "schedule", SCHEDULES),
        (training, "criterion", CRITERIA),
        (training, "ssim_window", SSIM_WINDOWS),
        (training, "objective", OBJECTIVES),
        (training, "precision", PRECISIONS),
        (network, "input", INPUTS),
    ):
        if getattr(section, name) not in known:
            raise ValueError(f"unknown {name} '{getattr(section, name)}': choose one of {', '.join(known)}")
    if epochs < 1:
        raise ValueError(f"cannot train for {epochs} epochs: give at least 1")
    if training.batch < 1 or training.devices < 1 or training.batch % training.devices:
        raise ValueError(
            f"a batch of {training.batch} cannot be shared by {training.devices} devices: give a multiple of devices"
        )


def _check(values: Mapping[str, float], where: str, checkpoint: Path) -> None:
    """Stop before a bad value spreads into weights, history and checkpoint."""
    for name, value in values.items():
        if not math.isfinite(value) or (name in LOSSES and abs(value) > EXPLODED):
            good = f"last good checkpoint: {checkpoint}" if checkpoint.exists() else "no checkpoint yet"
            raise TrainingError(
                f"{where}: {name} is {value:g}; {good}; lower the learning rates in the profile, remove the checkpoint "
                "and train again"
            )


def _start_from(model: Pix2Pix, twin: Path) -> str:
    """Load the twin's networks; returns a digest that ties checkpoints to them."""
    digest = hashlib.sha256()
    for name in ("generator", "discriminator"):
        path = Path(twin) / f"{name}.safetensors"
        try:
            getattr(model, name).load_state_dict(read_tensors(path)[0])
        except WeightsError as error:
            raise TrainingError(f"{error}; train the model it belongs to first") from None
        except RuntimeError:
            raise TrainingError(f"{path}: layers differ from this profile's; train its model again") from None
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _resume(checkpoint: Path, config: dict, model: Pix2Pix, order: torch.Generator) -> tuple[list, dict[str, Tensor]]:
    """Put model and order back to where the checkpoint left them; returns its history and best weights."""
    remedy = f"remove {checkpoint} to train from the start"
    try:
        tensors, header = read_tensors(checkpoint)
    except WeightsError as error:
        raise TrainingError(f"{error}; {remedy}") from None
    found = header.get("config", {})
    differing = [key for key in config if found.get(key) != config[key]]
    if differing:
        raise TrainingError(f"{checkpoint}: belongs to a run with other {' and '.join(differing)}; {remedy}")
    model.restore(tensors)
    order.set_state(tensors["order"])
    return header["history"], under("best", tensors)
