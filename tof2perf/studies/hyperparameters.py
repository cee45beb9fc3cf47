"""Search hyperparameters with Optuna: stored in SQLite, pruned, resumable, scored on the validation split alone."""

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import optuna
import yaml

from tof2perf.cohorts.participants import patients_in
from tof2perf.gan.networks import UNetGenerator
from tof2perf.gan.pairs import PairDataset
from tof2perf.gan.training import Run, TrainingError, train
from tof2perf.profiles import Profile
from tof2perf.studies.score import score
from tof2perf.system.files import write_table, write_text

TOTAL = 100.0  # of the weights of L1 and SSIM; only the ratios of weights matter to Adam
GOALS: dict[str, Any] = {"mae": "minimize", "ssim": "maximize", "dice": "maximize"}


def search(
    folder: Path,
    map_name: str,
    results: Path,
    profile: Profile,
    *,
    goal: str = "mae",
    trials: int = 20,
    minutes: float = 50.0,
    epochs: int | None = None,
) -> optuna.Study:
    """Run a study, or go on with one, until it holds ``trials`` finished trials or ``minutes`` have passed.

    The first trial has the profile's own values, so whatever wins has beaten them under the same conditions. A trial
    that is worse than the median of its predecessors at the same epoch is stopped early.

    Args:
        folder: preprocessed cohort; training and validation split are used, never the test split.
        map_name: the target map.
        results: receives ``study.db``, ``trials.csv`` and ``best.yaml``.
        profile: the other settings; its seed makes the search repeatable.
        goal: validation error (``mae``), SSIM (``ssim``), or mean Dice of lesions (``dice``, Tmax only).
        trials: number of finished trials in the end, pruned ones included.
        minutes: no new trial begins after this time.
        epochs: of every trial; None as in the profile.

    Returns:
        The study; its best trial is on the best epoch of that training.

    Raises:
        ValueError: unknown goal, or a study in ``results`` that was begun under other conditions.
    """
    if goal not in GOALS or (goal == "dice" and map_name != "tmax"):
        raise ValueError(f"unknown goal '{goal}' for {map_name}: choose one of mae, ssim, or dice for tmax")
    epochs = epochs or profile.epochs[folder.name]
    results.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="study",
        storage=f"sqlite:///{results / 'study.db'}",
        direction=GOALS[goal],
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, epochs // 4)),
    )
    conditions = {"cohort": folder.name, "map": map_name, "goal": goal, "epochs": epochs, "profile": profile.name}
    data = PairDataset(folder, patients_in(folder, "train"), map_name).fingerprint()
    _check_conditions(study, conditions | {"data": data, "network": str(profile.network)}, results)
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # died with the process that ran it
    finished = _finished(study)
    # The sampler's own state is not stored: a seed that moves on with the trials does not propose the same ones again.
    study.sampler = optuna.samplers.TPESampler(seed=profile.seed % 2**32 + len(study.trials), n_startup_trials=5)
    if not finished:
        study.enqueue_trial(_own_values(profile), skip_if_exists=True)

    patients = patients_in(folder, "validation")

    def objective(trial: optuna.Trial) -> float:
        """Train once; the trial's value is that of its best epoch. Its model is not kept."""
        values: list[float] = []

        def report(row: dict[str, float], generator: UNetGenerator) -> None:
            if goal == "dice":
                overlap = score(generator, folder, patients, map_name, profile.evaluation)["dice_mean"]
                values.append(0.0 if math.isnan(overlap) else overlap)
            else:
                values.append(row[f"validation_{goal}"])
            trial.report(values[-1], step=int(row["epoch"]))
            if trial.should_prune():
                raise optuna.TrialPruned

        training = Run(
            folder,
            map_name,
            results / f"trial-{trial.number}",
            network=profile.network,
            training=dataclasses.replace(profile.training, **suggest(trial)),
            epochs=epochs,
            seed=profile.seed,
            progress=False,
            after_epoch=report,
        )
        try:
            train(training)
        finally:
            shutil.rmtree(training.model_folder, ignore_errors=True)
        return min(values) if GOALS[goal] == "minimize" else max(values)

    if len(finished) < trials:
        study.optimize(objective, n_trials=trials - len(finished), timeout=60 * minutes, catch=(TrainingError,))
    frame = study.trials_dataframe(attrs=("number", "value", "state", "duration", "params"))
    frame["duration"] = frame["duration"].dt.total_seconds()
    write_table(results / "trials.csv", frame.rename(columns={"duration": "seconds"}))
    write_text(results / "best.yaml", _best(study, goal))
    return study


def suggest(trial: optuna.trial.BaseTrial) -> dict[str, Any]:
    """Suggest values of the profile's training section for one trial.

    The ranges span a factor of ten and more around what pix2pix and the released code use (assumption).
    """
    share = trial.suggest_float("ssim_share", 0.0, 0.95)  # of what L1 and SSIM weigh together
    adversarial = trial.suggest_float("adversarial_weight", 0.01, 10.0, log=True)
    return {
        "generator_rate": trial.suggest_float("generator_rate", 2e-4, 1e-2, log=True),
        "discriminator_rate": trial.suggest_float("discriminator_rate", 2e-5, 2e-3, log=True),
        "adversarial_weight": adversarial,
        "l1_weight": TOTAL * (1 - share),
        "ssim_weight": TOTAL * share,
        "schedule": trial.suggest_categorical("schedule", ["linear", "cosine"]),
        "decay_from": trial.suggest_float("decay_from", 0.0, 0.75),
        "initial_spread": trial.suggest_float("initial_spread", 0.01, 0.1, log=True),
    }


def _own_values(profile: Profile) -> dict[str, Any]:
    """Express the profile's values in the parameters of the search."""
    training = profile.training
    similarity = training.l1_weight + training.ssim_weight
    names = ("generator_rate", "discriminator_rate", "schedule", "decay_from", "initial_spread")
    return {name: getattr(training, name) for name in names} | {
        "ssim_share": training.ssim_weight / similarity,
        "adversarial_weight": training.adversarial_weight * (TOTAL / similarity),
    }


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return study.get_trials(deepcopy=False, states=states)


def _check_conditions(study: optuna.Study, conditions: dict[str, Any], results: Path) -> None:
    """Refuse other conditions than those the study began with: such trials cannot be compared."""
    for key, value in conditions.items():
        known = study.user_attrs.get(key, value)
        if known != value:
            raise ValueError(f"{results / 'study.db'}: begun with {key} {known}, not {value}; give another folder")
        study.set_user_attr(key, value)


def _best(study: optuna.Study, goal: str) -> str:
    """Write the winner as lines for the profile, with the study they come from."""
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if not complete:
        return "# no trial was completed\n"
    trial = study.best_trial
    chosen = {
        key: float(f"{value:.3g}") if isinstance(value, float) else value
        for key, value in suggest(optuna.trial.FixedTrial(trial.params)).items()
    }
    shown = ("profile", "cohort", "map", "goal", "epochs")
    conditions = ", ".join(f"{key} {study.user_attrs[key]}" for key in shown)
    comment = (
        f"# chosen by a study of {len(_finished(study))} trials ({conditions}): "
        f"trial {trial.number}, validation {goal} {trial.value:.4g}\n"
    )
    return comment + yaml.safe_dump({"training": chosen}, sort_keys=False)
