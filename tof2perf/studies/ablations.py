"""Compare the choices of the method: one switch at a time, all else the same, scored on the validation split."""

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tof2perf.cohorts.participants import patients_in
from tof2perf.gan.inference import load_generator
from tof2perf.gan.pairs import PairDataset
from tof2perf.gan.training import Run, best_epoch, train
from tof2perf.maps import chosen_maps
from tof2perf.profiles import Profile
from tof2perf.studies.score import score
from tof2perf.system.files import write_json, write_table


@dataclass(frozen=True)
class Variant:
    """One row of the table: the differences from the profile.

    Attributes:
        label: as printed.
        training, network: keys of these sections and their other values.
        together: one generator makes all five maps.
        twin: start from the weights of the acute twin where the profile wants that; else from scratch.
    """

    label: str
    training: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    together: bool = False
    twin: bool = True


VARIANTS = {
    "default": Variant("as in the profile"),
    "released": Variant("objective as released", training={"objective": "released"}),
    "no-adversary": Variant("L1 and SSIM, no discriminator", training={"adversarial_weight": 0.0}),
    "l1": Variant("L1 alone (U-Net)", training={"adversarial_weight": 0.0, "ssim_weight": 0.0, "l1_weight": 100.0}),
    "tof": Variant("TOF without its mirror image", network={"input": "tof"}),
    "mirror": Variant("TOF and its mirror image", network={"input": "tof+mirror"}),
    "bfloat16": Variant("computed in bfloat16", training={"precision": "bfloat16"}),
    "all": Variant("all five maps by one generator", together=True),
    "scratch": Variant("from scratch", twin=False),
}
DEFAULTS = {
    "acute": ("default", "released", "no-adversary", "l1", "tof", "bfloat16", "all"),
    "pegasus": ("default", "scratch"),
}


def run(
    folder: Path,
    results: Path,
    profile: Profile,
    *,
    maps: Sequence[str],
    variants: Sequence[str],
    epochs: int | None = None,
    twins: Path | None = None,
) -> pd.DataFrame:
    """Train every variant for every map and score it on the validation split; finished variants are not repeated.

    Args:
        folder: preprocessed cohort.
        results: folder for the models and ``ablations_<cohort>.csv``.
        profile: the settings from which the variants differ.
        maps: maps of the table.
        variants: keys of :data:`VARIANTS`.
        epochs: of every training; None as in the profile.
        twins: folder of the models ``<cohort>_<map>`` to start from, where the profile or a variant wants that.

    Returns:
        One row per variant and map: ``variant``, ``label``, ``map``, ``epochs``, ``best_epoch``, ``mae`` (map's unit),
        Dice of lesions (for Tmax), ``seconds`` of training per map and ``seconds_per_epoch``.

    Raises:
        ValueError: unknown variant or map, or a model that was trained with other settings or data.
        TrainingError, CohortError: as :func:`tof2perf.gan.training.train`.
    """
    for name in variants:
        if name not in VARIANTS:
            raise ValueError(f"unknown variant '{name}': choose one of {', '.join(VARIANTS)}")
    patients = patients_in(folder, "validation")
    twin = profile.initialise_from.get(folder.name)
    rows = []
    for name in variants:
        variant = VARIANTS[name]
        for model_map in ["all"] if variant.together else maps:
            training = Run(
                folder,
                model_map,
                results / name / f"{folder.name}_{model_map}",
                network=dataclasses.replace(profile.network, **variant.network),
                training=dataclasses.replace(profile.training, **variant.training),
                epochs=epochs or profile.epochs[folder.name],
                seed=profile.seed,
                initialise_from=twins / f"{twin}_{model_map}" if twin and twins and variant.twin else None,
                progress=False,
            )
            spent = _train_once(training, f"profile {profile.name}")
            generator, made = load_generator(training.model_folder), [entry.name for entry in chosen_maps(model_map)]
            times = {"seconds": spent["seconds"] / len(made), "seconds_per_epoch": spent["seconds"] / spent["epochs"]}
            for made_map in (map_name for map_name in made if map_name in maps):
                scores = score(generator, folder, patients, made_map, profile.evaluation)
                rows.append({"variant": name, "label": variant.label, "map": made_map, **scores, **spent, **times})
    table = pd.DataFrame(rows)
    write_table(results / f"ablations_{folder.name}.csv", table)
    return table


def _train_once(run: Run, source: str) -> dict[str, Any]:
    """Train a model, or check that the finished one has these settings; return its epochs and the time it took.

    An interrupted training goes on; its time is then scaled to all epochs.
    """
    record = run.model_folder / "time.json"
    if record.exists():
        known = yaml.safe_load((run.model_folder / "config.yaml").read_text(encoding="utf-8"))
        data = PairDataset(run.folder, patients_in(run.folder, "train"), run.map_name).fingerprint()
        wanted = run.settings() | {"data": data}
        if differing := [key for key in wanted if known[key] != wanted[key]]:
            raise ValueError(
                f"{run.model_folder}: trained with other {' and '.join(differing)}; remove it to train it again"
            )
        return json.loads(record.read_text(encoding="utf-8"))
    moments: list[float] = []
    start = time.perf_counter()
    history = train(dataclasses.replace(run, after_epoch=lambda *_: moments.append(time.perf_counter())))
    best = best_epoch(history.to_dict("records"), run.training.criterion)
    seconds = (moments[-1] - start) * run.epochs / len(moments) if moments else math.nan
    spent = {"epochs": run.epochs, "best_epoch": best, "source": source, "seconds": seconds}
    write_json(record, spent)
    return spent
