"""What each choice of the method is worth: one switch at a time, all else the same, judged on the validation split.

From the command line: ``python -m tof2perf.studies.ablations --profile laptop --cohort acute --maps tmax cbf``.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tof2perf.cohorts.participants import patients_in
from tof2perf.cohorts.workspace import Workspace
from tof2perf.gan.inference import load_generator
from tof2perf.gan.pairs import PairDataset
from tof2perf.gan.training import Run, best_epoch, train
from tof2perf.maps import MAPS, chosen_maps
from tof2perf.profiles import Profile, load_profile
from tof2perf.studies.score import assess
from tof2perf.system.files import write_json, write_table


@dataclass(frozen=True)
class Variant:
    """One row of the table: what differs from the profile.

    Attributes:
        label: as printed.
        training, network: keys of these sections and their other values.
        together: one generator makes all five maps.
        twin: start from the weights of the acute twin (True), from scratch (False), or as the profile says (None).
    """

    label: str
    training: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    together: bool = False
    twin: bool | None = None


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
    progress: bool = True,
) -> pd.DataFrame:
    """Train every variant for every map and assess it on the validation split; what is done already is not repeated.

    Args:
        folder: preprocessed cohort.
        results: folder for the models and ``ablations_<cohort>.csv``.
        profile: what the variants differ from.
        maps: maps of the table.
        variants: keys of :data:`VARIANTS`.
        epochs: of every training; None as in the profile.
        twins: folder of the models ``<cohort>_<map>`` to start from, where the profile or a variant wants that.
        progress: show progress bars.

    Returns:
        One row per variant and map: ``variant``, ``label``, ``map``, ``epochs``, ``best_epoch``, ``mae`` (map's unit),
        Dice of lesions (for Tmax), ``seconds`` of training per map and ``seconds_per_epoch``.

    Raises:
        ValueError: unknown variant or map.
        TrainingError, CohortError: as :func:`tof2perf.gan.training.train`.
    """
    for name in variants:
        if name not in VARIANTS:
            raise ValueError(f"unknown variant '{name}': choose one of {', '.join(VARIANTS)}")
    folder, results = Path(folder), Path(results)
    patients = patients_in(folder, "validation")
    epochs = epochs or profile.epochs[folder.name]
    rows = []
    for name in variants:
        variant = VARIANTS[name]
        for model_map in ["all"] if variant.together else maps:
            model = results / name / f"{folder.name}_{model_map}"
            changed = {
                "network": dataclasses.replace(profile.network, **variant.network),
                "training": dataclasses.replace(profile.training, **variant.training),
                "epochs": epochs,
                "seed": profile.seed,
            }
            if (model / "time.json").exists():
                _check_same(model, folder, model_map, changed)
            else:
                _train(folder, model, profile, variant, model_map, changed, twins, progress)
            spent = json.loads((model / "time.json").read_text(encoding="utf-8"))
            made = [entry.name for entry in chosen_maps(model_map) if entry.name in maps]
            for row in assess(load_generator(model), folder, patients, made, profile.evaluation):
                share = len(chosen_maps(model_map))
                rows.append(
                    {"variant": name, "label": variant.label, **row}
                    | {key: spent[key] for key in ("epochs", "best_epoch", "source")}
                    | {"seconds": spent["seconds"] / share, "seconds_per_epoch": spent["seconds"] / spent["epochs"]}
                )
    table = pd.DataFrame(rows)
    write_table(results / f"ablations_{folder.name}.csv", table)
    return table


def _train(
    folder: Path,
    model: Path,
    profile: Profile,
    variant: Variant,
    model_map: str,
    settings: dict[str, Any],
    twins: Path | None,
    progress: bool,
) -> None:
    """Train one variant and note the time it took; an interrupted one goes on, its time being scaled to all epochs."""
    twin = None
    if variant.twin or (variant.twin is None and folder.name in profile.initialise_from and twins is not None):
        if twins is None:
            raise ValueError(f"variant '{variant.label}' starts from other models: say in which folder they are")
        twin = twins / f"{profile.initialise_from[folder.name]}_{model_map}"
    moments: list[float] = []
    start = time.perf_counter()
    history = train(
        Run(
            folder,
            model_map,
            model,
            **settings,
            initialise_from=twin,
            progress=progress,
            after_epoch=lambda *_: moments.append(time.perf_counter()),
        )
    )
    epochs = settings["epochs"]
    seconds = (moments[-1] - start) * epochs / len(moments) if moments else float("nan")
    best = best_epoch(history.to_dict("records"), settings["training"].criterion)
    spent = {"epochs": epochs, "best_epoch": best, "seconds": seconds, "source": f"profile {profile.name}"}
    write_json(model / "time.json", spent)


def _check_same(model: Path, folder: Path, model_map: str, settings: dict[str, Any]) -> None:
    """Refuse to mix rows of different runs in one table.

    Raises:
        ValueError: the model was trained with other settings or data.
    """
    found = yaml.safe_load((model / "config.yaml").read_text(encoding="utf-8"))
    sections = {
        key: dataclasses.asdict(value) if not isinstance(value, int) else value for key, value in settings.items()
    }
    wanted = json.loads(json.dumps(sections))  # tuples as lists, as the file has them
    wanted["data"] = PairDataset(folder, patients_in(folder, "train"), model_map).fingerprint()
    differing = [key for key in wanted if found[key] != wanted[key]]
    if differing:
        raise ValueError(f"{model}: trained with other {' and '.join(differing)}; remove it to train it again")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--root", default=".", help="folder that data/ and results/ are in")
    parser.add_argument("--data", default="", help="folder of own cohorts, as for make")
    parser.add_argument("--cohort", default="acute")
    parser.add_argument("--maps", nargs="+", default=["tmax"], choices=list(MAPS))
    parser.add_argument("--variants", nargs="+", default=None, choices=list(VARIANTS))
    parser.add_argument("--epochs", type=int, default=None, help="of every training; the profile's if not given")
    given = parser.parse_args(arguments)
    profile = load_profile(given.profile)
    here = Workspace(profile.name, given.root, given.data)
    table = run(
        here.preprocessed(given.cohort),
        here.results / "ablations",
        profile,
        maps=given.maps,
        variants=given.variants or DEFAULTS[given.cohort],
        epochs=given.epochs,
        twins=here.results / "models",
    )
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
