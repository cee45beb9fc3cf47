"""Training of one pix2pix GAN: the step, the epochs, and a checkpoint that resumes exactly where a run died."""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from torch import Tensor
from tqdm.auto import tqdm

from tof2perf.cohort import participants, write_table, write_text
from tof2perf.dataset import PairDataset
from tof2perf.losses import SSIM_WINDOWS, adversarial, l1, ssim
from tof2perf.maps import get_map
from tof2perf.networks import PatchDiscriminator, UNetGenerator
from tof2perf.weights import WeightsError, prefixed, read_tensors, under, write_tensors

EXPLODED = 1e4  # a loss beyond this does not come back: L1 and SSIM terms cannot exceed 2, logits stay below a hundred
SCHEDULES = ("constant", "linear", "cosine")
CRITERIA = {"mae": ("validation_mae", 1), "ssim": ("validation_ssim", -1)}  # column of the history, sign to minimise
LOSSES = ("discriminator", "adversarial", "l1", "ssim", "generator")


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stood and what to do, in one line."""


class Pix2Pix:
    """Generator, discriminator and their optimisers.

    Args:
        network: profile section with ``levels``, ``generator_filters``, ``discriminator_filters``,
            ``discriminator_layers``.
        training: profile section with rates, loss weights and schedule.
        seed: seed of the initial weights.
        device: where to compute.
    """

    def __init__(self, network: Any, training: Any, *, seed: int, device: torch.device) -> None:
        weights = torch.Generator().manual_seed(seed)
        self.generator = UNetGenerator(levels=network.levels, filters=network.generator_filters, generator=weights).to(
            device
        )
        self.discriminator = PatchDiscriminator(
            filters=network.discriminator_filters, layers=network.discriminator_layers, generator=weights
        ).to(device)
        self.training = training
        self.device = device
        self.optimisers = {
            "generator": _adam(self.generator, training.generator_rate, training.betas),
            "discriminator": _adam(self.discriminator, training.discriminator_rate, training.betas),
        }

    def step(self, tof: Tensor, target: Tensor, *, rate: float) -> dict[str, float]:
        """Learn from one batch.

        Args:
            tof, target: (batch, 1, x, y, z) in [-1, 1].
            rate: factor on both learning rates, from the schedule.

        Returns:
            Every loss before its weight, and ``generator``, their weighted sum.
        """
        for name in self.optimisers:
            for group in self.optimisers[name].param_groups:
                group["lr"] = rate * getattr(self.training, f"{name}_rate")
        losses = {name: torch.zeros(()) for name in LOSSES}

        # Forward: once; both steps below use this volume.
        generated = self.generator(tof)

        # Discriminator step: the generated volume is detached, so nothing reaches the generator. Real and generated
        # pair go through as one batch; normalisation is per volume, so neither sees the other.
        if self.training.adversarial_weight:
            self.discriminator.requires_grad_(True)
            logits = self.discriminator(torch.cat([tof, tof]), torch.cat([target, generated.detach()]))
            real, fake = logits.chunk(2)
            losses["discriminator"] = 0.5 * (adversarial(real, real=True) + adversarial(fake, real=False))
            self._descend("discriminator", losses["discriminator"])

        # Generator step: against the discriminator just updated, whose own weights need no gradient now.
        if self.training.adversarial_weight:
            self.discriminator.requires_grad_(False)
            losses["adversarial"] = adversarial(self.discriminator(tof, generated), real=True)
        losses["l1"] = l1(generated, target)
        if self.training.ssim_weight:
            losses["ssim"] = 1.0 - ssim(generated, target, data_range=2.0, window=self.training.ssim_window)
        losses["generator"] = sum(
            weight * losses[name]
            for name, weight in (
                ("adversarial", self.training.adversarial_weight),
                ("l1", self.training.l1_weight),
                ("ssim", self.training.ssim_weight),
            )
        )
        self._descend("generator", losses["generator"])
        return {name: loss.item() for name, loss in losses.items()}

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, named."""
        tensors = {**prefixed("generator", self.generator.state_dict())}
        tensors |= prefixed("discriminator", self.discriminator.state_dict())
        for name, optimiser in self.optimisers.items():
            for index, moments in optimiser.state_dict()["state"].items():
                tensors |= prefixed(f"adam/{name}/{index}", moments)
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state` gave."""
        for name, optimiser in self.optimisers.items():
            getattr(self, name).load_state_dict(under(name, tensors))
            groups = optimiser.state_dict()["param_groups"]
            states = {index: under(f"adam/{name}/{index}", tensors) for index in groups[0]["params"]}
            states = {index: moments for index, moments in states.items() if moments}
            optimiser.load_state_dict({"state": states, "param_groups": groups})

    def _descend(self, name: str, loss: Tensor) -> None:
        self.optimisers[name].zero_grad(set_to_none=True)
        loss.backward()
        self.optimisers[name].step()


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
) -> pd.DataFrame:
    """Train one map of one cohort and keep the epoch that is best on the validation split.

    A run that dies continues from ``checkpoint`` in the model folder when called again and ends with the same bytes
    as an uninterrupted one. The checkpoint is removed once the four results below are written.

    Args:
        folder: preprocessed cohort, with ``participants.tsv``.
        map_name: the target map.
        model_folder: receives ``generator.safetensors`` and ``discriminator.safetensors`` (best epoch),
            ``history.csv`` and ``config.yaml``.
        network, training: sections of the profile.
        epochs: passes over the training split.
        seed: the profile's seed; combined with the cohort's and the map's name, so that models are independent.
        initialise_from: model folder whose networks are the starting point (pegasus: its acute twin).
        progress: show a progress bar with the losses.

    Returns:
        History: one row an epoch with the mean of every loss, ``validation_mae`` in the map's unit inside the brain,
        ``validation_ssim`` and ``rate``, the factor on the learning rates.

    Raises:
        TrainingError: unusable checkpoint or starting weights, or a loss that is not finite.
        CohortError: missing or bad files.
        ValueError: unknown map or setting.
    """
    get_map(map_name)
    _check_settings(training, epochs)
    folder, model_folder = Path(folder), Path(model_folder)
    device = choose_device(training.device)
    pairs = PairDataset(folder, participants(folder, "train"), map_name)
    held_out = PairDataset(folder, participants(folder, "validation"), map_name)
    model = Pix2Pix(network, training, seed=_seed(seed, folder.name, map_name, "weights"), device=device)
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
    for leftover in model_folder.glob(".*.part"):  # a process that was killed while it wrote
        leftover.unlink()
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    if checkpoint.exists():
        history, best = _resume(checkpoint, config, model, order)

    steps = tqdm(
        total=epochs * len(pairs),
        initial=len(history) * len(pairs),
        desc=f"{folder.name} {map_name}",
        mininterval=1.0,
        disable=not progress,
    )
    with steps:
        for epoch in range(len(history) + 1, epochs + 1):
            sums = dict.fromkeys(LOSSES, 0.0)
            rate = rate_factor(training.schedule, decay_from=training.decay_from, epoch=epoch, epochs=epochs)
            for patient, tof, target in pairs.shuffled(order, flip=training.flip):
                losses = model.step(tof.to(device)[None], target.to(device)[None], rate=rate)
                _check(losses, f"epoch {epoch}, patient {patient}", checkpoint)
                for name in LOSSES:
                    sums[name] += losses[name]
                steps.set_postfix({name: f"{losses[name]:.3g}" for name in LOSSES}, refresh=False)
                steps.update()
            row = {"epoch": epoch, **{name: total / len(pairs) for name, total in sums.items()}, "rate": rate}
            row |= validate(model.generator, held_out, map_name, device=device)
            _check(row, f"epoch {epoch}, validation", checkpoint)
            history.append(row)
            if best_epoch(history, training.criterion) == epoch:
                networks = {"generator": model.generator, "discriminator": model.discriminator}
                best = {}
                for name, part in networks.items():
                    best |= prefixed(name, {key: value.cpu().clone() for key, value in part.state_dict().items()})
            tensors = model.state() | prefixed("best", best) | {"order": order.get_state()}
            write_tensors(checkpoint, tensors, {"config": config, "history": history})

    frame = pd.DataFrame(history)
    header = {"map": map_name, "cohort": folder.name, "network": config["network"]}
    config["best_epoch"] = best_epoch(history, training.criterion)
    write_tensors(model_folder / "discriminator.safetensors", under("discriminator", best), header)
    write_table(model_folder / "history.csv", frame)
    write_text(model_folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    write_tensors(model_folder / "generator.safetensors", under("generator", best), header)
    checkpoint.unlink(missing_ok=True)
    return frame


def validate(generator: UNetGenerator, pairs: PairDataset, map_name: str, *, device: torch.device) -> dict[str, float]:
    """Error of the generator on held-out pairs, in eval mode.

    Returns:
        ``validation_mae``: mean over patients of the mean absolute error inside the brain, in the map's unit;
        ``validation_ssim``: mean over patients of the 3D SSIM of the whole normalised volume.
    """
    low, high = get_map(map_name).bounds
    errors, similarities = [], []
    generator.eval()
    with torch.no_grad():
        for index, mask in enumerate(pairs.masks):
            tof, target = (volume.to(device) for volume in pairs[index])
            generated = generator(tof[None])[0]
            error = (generated - target)[mask.to(device)].abs().mean() * (high - low) / 2
            errors.append(error.item())
            similarities.append(ssim(generated[None], target[None], data_range=2.0).item())
    generator.train()
    return {
        "validation_mae": math.fsum(errors) / len(errors),
        "validation_ssim": math.fsum(similarities) / len(similarities),
    }


def _adam(network: torch.nn.Module, rate: float, betas: tuple[float, float]) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=rate, betas=(betas[0], betas[1]), fused=True)


def choose_device(name: str) -> torch.device:
    """``auto`` takes a GPU where there is one; any other name is taken as PyTorch knows it (cpu, cuda, mps, cuda:1)."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


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
    """The epoch, counted from 1, that is best on the validation split; the first of equals."""
    column, sign = CRITERIA[criterion]
    return int(min(history, key=lambda row: sign * row[column])["epoch"])


def _check_settings(training: Any, epochs: int) -> None:
    """Refuse now what would fail only after an epoch."""
    for name, known in (("schedule", SCHEDULES), ("criterion", CRITERIA), ("ssim_window", SSIM_WINDOWS)):
        if getattr(training, name) not in known:
            raise ValueError(f"unknown {name} '{getattr(training, name)}': choose one of {', '.join(known)}")
    if epochs < 1:
        raise ValueError(f"cannot train for {epochs} epochs: give at least 1")


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
