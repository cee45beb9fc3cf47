"""Training of one pix2pix GAN: the epochs, the choice of the best one, and a checkpoint that resumes exactly."""

import contextlib
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from lightning_fabric import Fabric
from torch import Tensor
from tqdm.auto import tqdm

from tof2perf.cohorts.participants import patients_in
from tof2perf.gan.devices import in_processes, keep_freed_memory, make_fabric
from tof2perf.gan.losses import ssim
from tof2perf.gan.networks import UNetGenerator
from tof2perf.gan.pairs import PairDataset
from tof2perf.gan.pix2pix import LOSSES, Pix2Pix
from tof2perf.gan.weights import WeightsError, prefixed, read_tensors, under, write_tensors
from tof2perf.maps import chosen_maps
from tof2perf.preprocessing.training_range import RECORD
from tof2perf.system.files import digest, locked, write_bytes, write_table, write_text

EXPLODED = 1e4  # a loss beyond this does not come back: L1 and SSIM terms cannot exceed 2, logits stay below a hundred
SMALL = 2**20  # voxels up to which time is scarcer than memory
CRITERIA = {"mae": ("validation_mae", 1), "ssim": ("validation_ssim", -1)}  # column of the history, sign to minimise


class TrainingError(RuntimeError):
    """Training cannot go on; the message says in one line where it stopped and what to do."""


@dataclass(frozen=True)
class Run:
    """One training: the data, the model's folder and the settings.

    Attributes:
        folder: preprocessed cohort, with ``participants.tsv``.
        map_name: the target map, or ``all`` for one generator of the five.
        model_folder: receives ``generator.safetensors`` and ``discriminator.safetensors`` (best epoch),
            ``history.csv``, ``config.yaml`` and, if preprocessing left it, ``inputs.json``.
        network, training: sections of the profile.
        epochs: passes over the training split, at least 1.
        seed: the profile's seed; combined with the cohort's and the map's name, so that models are independent.
        initialise_from: model folder whose networks are the starting point (pegasus: its acute twin).
        progress: show a progress bar with the losses.
        after_epoch: called with the new row of the history and the generator once the epoch's checkpoint is written;
            an exception in it ends the run. With one device only.
    """

    folder: Path
    map_name: str
    model_folder: Path
    network: Any
    training: Any
    epochs: int
    seed: int
    initialise_from: Path | None = None
    progress: bool = True
    after_epoch: Callable[[dict[str, float], UNetGenerator], None] | None = None

    @property
    def checkpoint(self) -> Path:
        """State after the last complete epoch; removed once the results are written."""
        return self.model_folder / "checkpoint"

    def settings(self) -> dict[str, Any]:
        """Return what determines the result beside the data, as ``config.yaml`` holds it: lists for tuples."""
        chosen = {"cohort": self.folder.name, "map": self.map_name, "epochs": self.epochs, "seed": self.seed}
        sections = {"network": dataclasses.asdict(self.network), "training": dataclasses.asdict(self.training)}
        return chosen | json.loads(json.dumps(sections))


def train(run: Run) -> pd.DataFrame:
    """Train one map of one cohort, or all five at once, and keep the epoch that is best on the validation split.

    A run that dies continues from its checkpoint when called again, and ends with the same bytes as an uninterrupted
    one.

    Returns:
        History: one row an epoch with the mean of every loss, ``validation_mae`` in the map's unit inside the brain,
        ``validation_ssim`` and ``rate``, the factor on the learning rates.

    Raises:
        TrainingError: unusable checkpoint or starting weights, a loss that is not finite, or, with several devices, any
            error in one of the processes.
        CohortError: missing or bad files.
        WriteError: another run works in the model folder, or the disk is full.
        ValueError: unknown map.
    """
    if run.training.devices == 1:
        return _train(run)
    try:
        in_processes(functools.partial(_train, run), run.training.devices)
    except torch.multiprocessing.ProcessRaisedException as error:
        *_, last = str(error).strip().splitlines()  # of the traceback: the exception's name, a colon, its message
        raise TrainingError(last.partition(": ")[2]) from error
    return pd.read_csv(run.model_folder / "history.csv", float_precision="round_trip")


def _train(run: Run) -> pd.DataFrame:
    """Train in this process, which may be one of several; the first one alone writes, under the folder's lock."""
    fabric = make_fabric(run.training)
    fabric.launch()
    pairs = PairDataset(run.folder, patients_in(run.folder, "train"), run.map_name)
    held_out = PairDataset(run.folder, patients_in(run.folder, "validation"), run.map_name)
    if fabric.device.type == "cpu" and pairs.tofs[0].numel() <= SMALL:
        keep_freed_memory()
    with locked(run.model_folder) if fabric.is_global_zero else contextlib.nullcontext():
        return _run_epochs(run, fabric, pairs, held_out)


def _run_epochs(run: Run, fabric: Fabric, pairs: PairDataset, held_out: PairDataset) -> pd.DataFrame:
    """Train from the last checkpoint, or from the start, and write the weights of the best epoch."""
    model = Pix2Pix(
        run.network, run.training, maps=len(chosen_maps(run.map_name)), seed=_seed(run, "weights"), fabric=fabric
    )
    order = torch.Generator().manual_seed(_seed(run, "order"))
    config = {
        **run.settings(),
        "data": pairs.fingerprint(),
        "initialised_from": _start_from(model, run.initialise_from) if run.initialise_from else None,
    }
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    if run.checkpoint.exists():
        history, best = _resume(run.checkpoint, config, model, order)
    fabric.barrier()

    batches = math.ceil(len(pairs) / run.training.batch)
    bar = tqdm(
        total=run.epochs * batches,
        initial=len(history) * batches,
        desc=f"{run.folder.name} {run.map_name}",
        mininterval=1.0,
        disable=not (run.progress and fabric.is_global_zero),
    )
    # Convolutions on GPUs otherwise choose their algorithm by how fast it happened to be, and add up in any order.
    with bar, torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        for epoch in range(len(history) + 1, run.epochs + 1):
            row = _learn(run, epoch, model, pairs, order, bar)
            row |= validate(model.generator, held_out, run.map_name, device=fabric.device)
            _check(run, row, f"epoch {epoch}, validation")
            history.append(row)
            if best_epoch(history, run.training.criterion) == epoch:
                best = {name: tensor.cpu().clone() for name, tensor in model.weights().items()}
            if fabric.is_global_zero:
                tensors = model.state() | prefixed("best", best) | {"order": order.get_state()}
                write_tensors(run.checkpoint, tensors, {"config": config, "history": history})
            if run.after_epoch:
                run.after_epoch(row, model.generator)

    frame = pd.DataFrame(history)
    if fabric.is_global_zero:
        _write_results(run, config | {"best_epoch": best_epoch(history, run.training.criterion)}, frame, best)
    fabric.barrier()
    return frame


def _learn(
    run: Run, epoch: int, model: Pix2Pix, pairs: PairDataset, order: torch.Generator, bar: tqdm
) -> dict[str, float]:
    """Take one step on every batch of an epoch; return the mean of every loss and the factor on the rates."""
    training, fabric = run.training, model.fabric
    rate = rate_factor(training.schedule, decay_from=training.decay_from, epoch=epoch, epochs=run.epochs)
    share = slice(fabric.global_rank, None, fabric.world_size)  # of each batch, for this process
    sums = dict.fromkeys(LOSSES, 0.0)
    for patients, *volumes in pairs.batches(order, flip=training.flip, size=training.batch):
        tof, target = (volume[share].to(fabric.device) for volume in volumes)
        losses = model.step(tof, target, rate=rate)
        _check(run, losses, f"epoch {epoch}, patient {', '.join(patients)}")
        for name in LOSSES:
            sums[name] += losses[name]
        bar.set_postfix({name: f"{losses[name]:.3g}" for name in LOSSES}, refresh=False)
        bar.update()
    batches = math.ceil(len(pairs) / training.batch)
    return {"epoch": epoch, **{name: total / batches for name, total in sums.items()}, "rate": rate}


def _write_results(run: Run, config: dict[str, Any], history: pd.DataFrame, best: dict[str, Tensor]) -> None:
    """Write the best epoch's networks, the history and the settings; the generator last, as the sign of completion."""
    header = {"map": run.map_name, "cohort": run.folder.name, "network": config["network"]}
    write_tensors(run.model_folder / "discriminator.safetensors", under("discriminator", best), header)
    write_table(run.model_folder / "history.csv", history)
    write_text(run.model_folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    if (run.folder / RECORD).is_file():  # prediction needs it to prepare another input in the same way
        write_bytes(run.model_folder / RECORD, (run.folder / RECORD).read_bytes())
    write_tensors(run.model_folder / "generator.safetensors", under("generator", best), header)
    run.checkpoint.unlink(missing_ok=True)


def validate(generator: UNetGenerator, pairs: PairDataset, map_name: str, *, device: torch.device) -> dict[str, float]:
    """Measure the generator's error on held-out pairs, in eval mode and, like inference, in single precision.

    Returns:
        ``validation_mae``: mean over patients of the mean absolute error inside the brain, in the map's unit;
        ``validation_ssim``: mean over patients of the 3D SSIM of the whole normalised volume.
        Of several maps: ``validation_mae_<map>`` in the unit of each, and as ``validation_mae`` the mean over the maps
        of the error as a share of the map's range.
    """
    maps = chosen_maps(map_name)
    measured = torch.zeros(len(pairs), len(maps) + 1, dtype=torch.float64)  # errors of all maps as shares, SSIM
    generator.eval()
    with torch.no_grad():
        for index in range(len(pairs)):
            tof, target = (volume.to(device) for volume in pairs[index])
            generated = generator(tof[None])[0]
            mask = pairs.masks[index].to(device)[0]
            measured[index, :-1] = (generated - target)[:, mask].abs().mean(dim=1).cpu() / 2
            measured[index, -1] = ssim(generated[None], target[None], data_range=2.0).item()
    generator.train()
    *shares, similarity = (math.fsum(column) / len(pairs) for column in measured.T.tolist())
    errors = [share * (entry.bounds[1] - entry.bounds[0]) for share, entry in zip(shares, maps, strict=True)]
    if len(maps) == 1:
        return {"validation_mae": errors[0], "validation_ssim": similarity}
    each = {f"validation_mae_{entry.name}": error for entry, error in zip(maps, errors, strict=True)}
    return {"validation_mae": math.fsum(shares) / len(maps), "validation_ssim": similarity, **each}


def rate_factor(schedule: str, *, decay_from: float, epoch: int, epochs: int) -> float:
    """Compute the factor on the learning rates in one epoch: 1 at first, falling towards 0 at the end.

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
    """Return the epoch, counted from 1, that is best on the validation split; of equal ones the first.

    Once the learning rate falls, only the epochs since then count. Before that, a generator that makes no lesions has a
    smaller mean error than one that has just learned where lesions are but not how large. It would win.
    """
    column, sign = CRITERIA[criterion]
    settled = [row for row in history if row["rate"] < 1.0] or history
    return int(min(settled, key=lambda row: sign * row[column])["epoch"])


def _seed(run: Run, purpose: str) -> int:
    """Derive a seed for each purpose, the same on every machine (Python's ``hash`` is not)."""
    names = f"{run.seed}/{run.folder.name}/{run.map_name}/{purpose}"
    return int(digest(names)[:14], 16)


def _check(run: Run, values: Mapping[str, float], where: str) -> None:
    """Stop before a bad value spreads into weights, history and checkpoint."""
    for name, value in values.items():
        if not math.isfinite(value) or (name in LOSSES and abs(value) > EXPLODED):
            good = f"last good checkpoint: {run.checkpoint}" if run.checkpoint.exists() else "no checkpoint yet"
            raise TrainingError(
                f"{where}: {name} is {value:g}; {good}; lower the learning rates in the profile, remove the checkpoint "
                "and train again"
            )


def _start_from(model: Pix2Pix, twin: Path) -> str:
    """Load the twin's networks and return a digest, by which a checkpoint belongs to them."""
    content = b""
    for name in ("generator", "discriminator"):
        path = Path(twin) / f"{name}.safetensors"
        try:
            getattr(model, name).load_state_dict(read_tensors(path)[0])
        except WeightsError as error:
            raise TrainingError(f"{error}; train the model it belongs to first") from None
        except RuntimeError:
            raise TrainingError(f"{path}: layers differ from this profile's; train its model again") from None
        content += path.read_bytes()
    return digest(content)


def _resume(checkpoint: Path, config: dict, model: Pix2Pix, order: torch.Generator) -> tuple[list, dict[str, Tensor]]:
    """Restore model and order from the checkpoint and return its history and best weights."""
    remedy = f"remove {checkpoint} to train from the start"
    try:
        tensors, header = read_tensors(checkpoint)
    except WeightsError as error:
        raise TrainingError(f"{error}; {remedy}") from None
    known = header.get("config", {})
    differing = [key for key in config if known.get(key) != config[key]]
    if differing:
        raise TrainingError(f"{checkpoint}: belongs to a run with other {' and '.join(differing)}; {remedy}")
    model.restore(tensors)
    order.set_state(tensors["order"])
    return header["history"], under("best", tensors)
