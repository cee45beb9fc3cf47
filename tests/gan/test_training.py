"""The training loop: one step, exact resume after kill -9, seeds, and errors that stop before harm is done."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from helpers.tiny_training import SHAPE, Network, Training

from tof2perf.cohorts.layout import preprocessed_path
from tof2perf.gan import training as engine
from tof2perf.gan.devices import make_fabric
from tof2perf.gan.inference import generate, load_generator
from tof2perf.gan.pairs import load_pair
from tof2perf.gan.pix2pix import Pix2Pix
from tof2perf.gan.training import Run, TrainingError, best_epoch, rate_factor, train
from tof2perf.gan.weights import read_tensors
from tof2perf.system.files import write_text
from tof2perf.volumes.nifti import CohortError, write_volume

PATIENTS = {"sub-0001": "train", "sub-0002": "train", "sub-0003": "train", "sub-0004": "validation"}
RESULTS = ("generator.safetensors", "discriminator.safetensors", "history.csv", "config.yaml")


FABRIC = make_fabric(Training())


@pytest.fixture(autouse=True)
def one_thread():
    """The same bytes need the same number of threads, in this process and in those it starts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cohort(tmp_path, rng):
    """Four patients: a ball for a brain, brighter vessels on one side, longer Tmax on the other."""
    folder = tmp_path / "acute"
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    mask = (grid**2).sum(0) < 0.9
    for patient in PATIENTS:
        side = rng.choice([-1, 1])
        tof = np.where(mask, 1 + (side * grid[0] > 0.3) + rng.normal(0, 0.05, SHAPE), 0)
        tmax = np.where(mask, 1 + 8 * (side * grid[0] < -0.3) + rng.normal(0, 0.1, SHAPE), 0)
        for name, volume in {"tof": tof, "tmax": tmax, "cbf": 60 - 3 * tmax, "mask": mask}.items():
            write_volume(preprocessed_path(folder, patient, name), volume, np.diag([-4.0, -4.0, 8.0, 1.0]))
    rows = "".join(f"{patient}\t{split}\n" for patient, split in PATIENTS.items())
    write_text(folder / "participants.tsv", "participant_id\tsplit\n" + rows)
    return folder


def _train(
    cohort: Path, model: Path, *, map_name: str = "tmax", network=None, epochs: int = 4, seed: int = 7, **options
):
    twin, after_epoch = options.pop("initialise_from", None), options.pop("after_epoch", None)
    return train(
        Run(
            cohort,
            map_name,
            model,
            network=network or Network(),
            training=Training(**options),
            epochs=epochs,
            seed=seed,
            initialise_from=twin,
            after_epoch=after_epoch,
            progress=False,
        )
    )


def _bytes(model: Path) -> dict[str, bytes]:
    return {name: (model / name).read_bytes() for name in RESULTS}


def _interrupt_after(monkeypatch, steps: int) -> None:
    """Let a run die in its step number ``steps`` + 1."""
    count, step = iter(range(10**6)), Pix2Pix.step

    def limited(self, *args, **kwargs):
        if next(count) == steps:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Pix2Pix, "step", limited)


# --- schedule and choice of the epoch ---------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_rates_are_constant_then_fall_and_never_reach_zero(schedule):
    factors = [rate_factor(schedule, decay_from=0.5, epoch=epoch, epochs=10) for epoch in range(1, 11)]
    assert factors[:6] == [1.0] * 6
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert 0 < factors[-1] < 0.3


def test_constant_schedule_is_constant():
    assert {rate_factor("constant", decay_from=0.0, epoch=epoch, epochs=5) for epoch in range(1, 6)} == {1.0}


def test_best_epoch_is_the_first_with_the_least_error_or_the_highest_ssim():
    history = [
        {"epoch": 1, "validation_mae": 2.0, "validation_ssim": 0.7, "rate": 1.0},
        {"epoch": 2, "validation_mae": 1.0, "validation_ssim": 0.8, "rate": 1.0},
        {"epoch": 3, "validation_mae": 1.0, "validation_ssim": 0.9, "rate": 1.0},
    ]
    assert best_epoch(history, "mae") == 2
    assert best_epoch(history, "ssim") == 3


def test_an_epoch_before_the_rate_falls_is_never_the_best_once_it_has_fallen():
    history = [
        {"epoch": 1, "validation_mae": 0.5, "validation_ssim": 0.9, "rate": 1.0},
        {"epoch": 2, "validation_mae": 2.0, "validation_ssim": 0.6, "rate": 0.7},
        {"epoch": 3, "validation_mae": 1.0, "validation_ssim": 0.5, "rate": 0.3},
    ]
    assert best_epoch(history[:1], "mae") == 1
    assert best_epoch(history, "mae") == 3
    assert best_epoch(history, "ssim") == 2


def test_unknown_map_is_named_before_anything_is_written(cohort, tmp_path):
    with pytest.raises(ValueError, match="unknown map 'adc'"):
        _train(cohort, tmp_path / "model", map_name="adc")
    assert not (tmp_path / "model").exists()


# --- a whole training -------------------------------------------------------------------------------------------------


def test_training_lowers_the_error_and_leaves_the_best_epoch(cohort, tmp_path):
    history = _train(cohort, tmp_path / "model", epochs=8)
    assert list(history.epoch) == list(range(1, 9))
    assert history.validation_mae.min() < 0.7 * history.validation_mae[0]
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted(RESULTS)
    saved = pd.read_csv(tmp_path / "model" / "history.csv")
    pd.testing.assert_frame_equal(saved, history)
    config = yaml.safe_load((tmp_path / "model" / "config.yaml").read_text())
    assert config["best_epoch"] == best_epoch(history.to_dict("records"), "mae")
    assert config["cohort"] == "acute"
    assert config["map"] == "tmax"
    assert config["training"]["betas"] == [0.5, 0.999]


def test_saved_generator_has_the_validation_error_of_its_epoch(cohort, tmp_path):
    history = _train(cohort, tmp_path / "model")
    generator = Pix2Pix(Network(), Training(), seed=0, fabric=FABRIC).generator
    generator.load_state_dict(read_tensors(tmp_path / "model" / "generator.safetensors")[0])
    pairs = engine.PairDataset(cohort, ["sub-0004"], "tmax")
    again = engine.validate(generator, pairs, "tmax", device=torch.device("cpu"))
    assert again["validation_mae"] == history.validation_mae.min()


def test_validation_error_counts_the_brain_alone_and_in_physical_units(cohort):
    class Empty(torch.nn.Module):
        def forward(self, tof):
            return torch.full_like(tof, -1.0)  # 0 s everywhere

    pairs = engine.PairDataset(cohort, ["sub-0004"], "tmax")
    mean_tmax = (pairs.targets[0][pairs.masks[0]].mean().item() + 1) * 10
    error = engine.validate(Empty(), pairs, "tmax", device=torch.device("cpu"))["validation_mae"]
    assert error == pytest.approx(mean_tmax)


def test_same_seed_gives_the_same_bytes_and_another_seed_others(cohort, tmp_path):
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        _train(cohort, tmp_path / name, epochs=2, seed=seed)
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")
    assert _bytes(tmp_path / "one")["generator.safetensors"] != _bytes(tmp_path / "three")["generator.safetensors"]


def test_training_does_not_touch_the_global_random_state(cohort, tmp_path):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    _train(cohort, tmp_path / "one", epochs=1)
    np.random.seed(5)  # noqa: NPY002 - nor depend on it
    _train(cohort, tmp_path / "two", epochs=1)
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")
    torch.manual_seed(0)
    Pix2Pix(Network(), Training(), seed=3, fabric=FABRIC)
    assert torch.equal(torch.rand(3), expected)


def test_models_of_two_maps_start_from_different_weights(cohort, tmp_path):
    for map_name in ("tmax", "cbf"):
        _train(cohort, tmp_path / map_name, map_name=map_name, epochs=1, generator_rate=0.0, discriminator_rate=0.0)
    assert _bytes(tmp_path / "tmax")["generator.safetensors"] != _bytes(tmp_path / "cbf")["generator.safetensors"]


def test_pegasus_starts_from_both_networks_of_its_acute_twin(cohort, tmp_path):
    _train(cohort, tmp_path / "twin", epochs=2)
    frozen = {"generator_rate": 0.0, "discriminator_rate": 0.0}
    _train(cohort, tmp_path / "child", epochs=1, initialise_from=tmp_path / "twin", **frozen)
    for name in ("generator", "discriminator"):
        twin, child = (read_tensors(tmp_path / model / f"{name}.safetensors")[0] for model in ("twin", "child"))
        assert all(torch.equal(twin[key], child[key]) for key in twin)


def test_twin_that_is_missing_or_of_another_size_is_named(cohort, tmp_path):
    with pytest.raises(
        TrainingError, match=r"twin/generator\.safetensors: missing; train the model it belongs to first"
    ):
        _train(cohort, tmp_path / "child", initialise_from=tmp_path / "twin")
    _train(cohort, tmp_path / "twin", epochs=1)
    with pytest.raises(TrainingError, match=r"twin/generator\.safetensors: layers differ"):
        _train(cohort, tmp_path / "child", network=Network(generator_filters=3), initialise_from=tmp_path / "twin")


def test_missing_map_is_named_before_anything_is_written(cohort, tmp_path):
    with pytest.raises(CohortError, match=r"sub-0001_mtt\.nii\.gz: missing"):
        _train(cohort, tmp_path / "model", map_name="mtt")
    assert not (tmp_path / "model").exists()


# --- switches ---------------------------------------------------------------------------------------------------------


def test_one_generator_of_all_maps_reports_the_error_of_each_in_its_unit(cohort, tmp_path, rng):
    for patient in PATIENTS:
        for name in ("cbv", "mtt", "ttp"):
            volume = rng.uniform(0, 9, SHAPE)
            write_volume(preprocessed_path(cohort, patient, name), volume, np.diag([-4.0, -4.0, 8.0, 1.0]))
    history = _train(cohort, tmp_path / "all", map_name="all")
    ranges = {"tmax": 20, "cbf": 120, "cbv": 12, "mtt": 20, "ttp": 30}
    shares = [history[f"validation_mae_{name}"] / width for name, width in ranges.items()]
    np.testing.assert_allclose(history.validation_mae, np.mean(shares, axis=0))
    generator = load_generator(tmp_path / "all")
    pairs = {name: engine.PairDataset(cohort, ["sub-0004"], name) for name in ("tmax", "cbf")}
    best = best_epoch(history.to_dict("records"), "mae") - 1
    for name, data in pairs.items():
        tof, mask = (volume[0].numpy() for volume in (data.tofs[0], data.masks[0]))
        physical = (tof + 1) + 0.4  # TOF_BOUNDS
        found = np.abs(generate(generator, physical, mask, name) - load_pair(cohort, "sub-0004", name).target)[mask]
        assert found.mean() == pytest.approx(history[f"validation_mae_{name}"][best], rel=1e-3)


@pytest.mark.parametrize(
    "switch",
    [{"objective": "released"}, {"batch": 2}, {"precision": "bfloat16"}, {"network": Network(input="tof+mirror")}],
)
def test_every_switch_changes_the_weights(cohort, tmp_path, switch):
    _train(cohort, tmp_path / "default", epochs=1)
    _train(cohort, tmp_path / "switched", epochs=1, **switch)
    assert (
        _bytes(tmp_path / "default")["generator.safetensors"] != _bytes(tmp_path / "switched")["generator.safetensors"]
    )


def test_recomputed_activations_lead_to_the_same_history(cohort, tmp_path):
    kept = _train(cohort, tmp_path / "kept", epochs=2)
    pd.testing.assert_frame_equal(kept, _train(cohort, tmp_path / "again", epochs=2, checkpoint_activations=True))


def test_volumes_whose_first_axis_does_not_run_left_to_right_are_refused(cohort, tmp_path):
    affine = np.array([[0, 4.0, 0, 0], [4.0, 0, 0, 0], [0, 0, 8.0, 0], [0, 0, 0, 1]])
    for name in ("tof", "tmax", "mask"):
        path = preprocessed_path(cohort, "sub-0002", name)
        write_volume(path, nib.load(path).get_fdata(), affine)
    with pytest.raises(CohortError, match=r"sub-0002_tof\.nii\.gz: axis 2 runs left to right, the networks need"):
        _train(cohort, tmp_path / "model")


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_batches_of_two(cohort, tmp_path):
    """Three patients in batches of two: the last batch is filled up in both cases."""
    together = _train(cohort, tmp_path / "one", batch=2, epochs=3)
    shared = _train(cohort, tmp_path / "two", batch=2, epochs=3, devices=2)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(RESULTS)
    pd.testing.assert_frame_equal(shared, together, rtol=1e-3)
    one, two = (read_tensors(tmp_path / name / "generator.safetensors")[0] for name in ("one", "two"))
    for key in one:
        if key.endswith("weight"):  # offsets before instance normalisation learn from rounding errors alone
            torch.testing.assert_close(one[key], two[key], rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_error_in_one_of_two_processes_is_the_error_of_the_run(cohort, tmp_path):
    with pytest.raises(TrainingError, match=r"epoch 1, patient sub-000\d, sub-000\d: \w+ is nan; no checkpoint yet"):
        _train(cohort, tmp_path / "model", generator_rate=1e38, batch=2, devices=2)


# --- death and resumption ---------------------------------------------------------------------------------------------

KILLED = """
import json, os, signal, sys
import torch
from tof2perf.gan import training
from tof2perf.system import files
sys.path.insert(0, sys.argv[1])
import test_training as tests

torch.set_num_threads(1)
point, count = json.loads(sys.argv[4])
calls = iter(range(1, 10**6))

def dying(function):
    def wrapper(*args, **kwargs):
        if next(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapper

if point == "step":
    training.Pix2Pix.step = dying(training.Pix2Pix.step)
elif point == "replace":  # the temporary file is complete, the checkpoint is still the old one
    files.os.replace = dying(os.replace)
elif point == "write":  # half of the bytes are on the disk
    write = tests.Path.write_bytes
    def half(path, content):
        if next(calls) == count:
            write(path, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(path, content)
    tests.Path.write_bytes = half
tests._train(tests.Path(sys.argv[2]), tests.Path(sys.argv[3]))
"""


def _train_and_die(cohort: Path, model: Path, point: str, count: int) -> None:
    """Train in a process of its own that gets SIGKILL in the ``count``-th step, write or ``os.replace``."""
    arguments = [str(Path(__file__).parent), str(cohort), str(model), json.dumps([point, count])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[k]) for k in (1, 2))}
    child = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], env=environment, capture_output=True, timeout=120
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()


@pytest.mark.parametrize(
    ("point", "count"),
    [
        pytest.param("step", 8, id="in the third epoch", marks=pytest.mark.slow),
        pytest.param("replace", 1, id="while the first checkpoint is written", marks=pytest.mark.slow),
        pytest.param("replace", 3, id="while a later checkpoint is written"),
        pytest.param("write", 3, id="in the middle of writing a checkpoint", marks=pytest.mark.slow),
        pytest.param("replace", 6, id="while the results are written", marks=pytest.mark.slow),
    ],
)
def test_run_killed_at_any_point_ends_with_the_bytes_of_an_undisturbed_one(cohort, tmp_path, point, count):
    _train(cohort, tmp_path / "undisturbed")
    _train_and_die(cohort, tmp_path / "killed", point, count)
    assert not (tmp_path / "killed" / "generator.safetensors").exists()
    _train(cohort, tmp_path / "killed")
    assert _bytes(tmp_path / "killed") == _bytes(tmp_path / "undisturbed")
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == sorted(RESULTS)


@pytest.mark.parametrize("steps", [1, 3, 5, 11])
def test_interrupted_run_goes_on_in_the_epoch_it_was_in(cohort, tmp_path, monkeypatch, steps):
    _train(cohort, tmp_path / "undisturbed")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _interrupt_after(patch, steps)
        _train(cohort, tmp_path / "stopped")
    done, step = [], Pix2Pix.step
    monkeypatch.setattr(Pix2Pix, "step", lambda *args, **kwargs: done.append(1) or step(*args, **kwargs))
    _train(cohort, tmp_path / "stopped")
    assert len(done) == 12 - 3 * (steps // 3)
    assert _bytes(tmp_path / "stopped") == _bytes(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    "switch",
    [
        {"objective": "released", "batch": 2},
        {"precision": "bfloat16", "checkpoint_activations": True},
        {"adversarial_weight": 0.0, "network": Network(input="tof+mirror")},
    ],
    ids=["released objective in batches", "bfloat16 recomputed", "no discriminator, mirrored"],
)
def test_interrupted_run_with_switches_ends_with_the_same_bytes_and_history(cohort, tmp_path, monkeypatch, switch):
    undisturbed = _train(cohort, tmp_path / "undisturbed", **switch)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _interrupt_after(patch, 5)
        _train(cohort, tmp_path / "stopped", **switch)
    pd.testing.assert_frame_equal(_train(cohort, tmp_path / "stopped", **switch), undisturbed, check_exact=True)
    assert _bytes(tmp_path / "stopped") == _bytes(tmp_path / "undisturbed")


def test_without_an_adversary_the_discriminator_stays_as_it_was(cohort, tmp_path):
    _train(cohort, tmp_path / "short", epochs=1, adversarial_weight=0.0)
    _train(cohort, tmp_path / "long", epochs=3, adversarial_weight=0.0)
    short, long = (read_tensors(tmp_path / name / "discriminator.safetensors")[0] for name in ("short", "long"))
    assert all(torch.equal(short[key], long[key]) for key in short)


def test_what_is_called_after_an_epoch_sees_its_row_and_may_end_the_run(cohort, tmp_path):
    rows = []

    def stop(row, generator):
        rows.append(row)
        assert (tmp_path / "model" / "checkpoint").exists()
        if len(rows) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(cohort, tmp_path / "model", after_epoch=stop)
    assert [row["epoch"] for row in rows] == [1, 2]


@pytest.fixture
def stopped(cohort, tmp_path, monkeypatch):
    """A model folder whose run stopped in its third epoch."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _interrupt_after(patch, 7)
        _train(cohort, tmp_path / "stopped")
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["checkpoint"]
    return tmp_path / "stopped"


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty", "pickle"])
def test_damaged_checkpoint_is_an_error_and_never_a_silent_restart(cohort, stopped, damage):
    path = stopped / "checkpoint"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[:-1000]
    elif damage == "altered":
        content[len(content) // 2] ^= 1
    elif damage == "empty":
        content = bytearray()
    else:
        torch.save({"epoch": 2}, path)
        content = bytearray(path.read_bytes())
    path.write_bytes(bytes(content))
    with pytest.raises(TrainingError, match=r"checkpoint: damaged .*; remove .*checkpoint to train from the start"):
        _train(cohort, stopped)
    assert path.read_bytes() == bytes(content)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"l1_weight": 50.0}, "training"),
        ({"epochs": 5}, "epochs"),
        ({"seed": 8}, "seed"),
        ({"map_name": "cbf"}, "map and data"),
        ({"network": Network(generator_filters=3)}, "network"),
    ],
)
def test_checkpoint_of_another_run_is_refused_and_the_difference_named(cohort, stopped, change, named):
    with pytest.raises(TrainingError, match=f"belongs to a run with other {named}; remove .* to train from the start"):
        _train(cohort, stopped, **change)


def test_checkpoint_of_other_data_is_refused(cohort, stopped, rng):
    path = preprocessed_path(cohort, "sub-0002", "tmax")
    write_volume(path, rng.uniform(0, 9, SHAPE), np.diag([-4.0, -4.0, 8.0, 1.0]))
    with pytest.raises(TrainingError, match="belongs to a run with other data"):
        _train(cohort, stopped)


@pytest.mark.parametrize(
    ("bad", "name"), [({"l1": float("nan")}, "l1 is nan"), ({"adversarial": 1e6}, r"adversarial is 1e\+06")]
)
def test_loss_that_is_no_number_or_explodes_stops_with_epoch_patient_and_checkpoint(
    cohort, tmp_path, monkeypatch, bad, name
):
    count, step = iter(range(100)), Pix2Pix.step
    monkeypatch.setattr(
        Pix2Pix, "step", lambda *args, **kwargs: step(*args, **kwargs) | (bad if next(count) == 4 else {})
    )
    with pytest.raises(
        TrainingError, match=rf"epoch 2, patient sub-000\d: {name}; last good checkpoint: .*checkpoint;"
    ):
        _train(cohort, tmp_path / "model")
    header = read_tensors(tmp_path / "model" / "checkpoint")[1]
    assert [row["epoch"] for row in header["history"]] == [1]


def test_nan_weights_are_caught_in_the_step_after(cohort, tmp_path):
    with pytest.raises(TrainingError, match=r"epoch 1, patient sub-000\d: \w+ is nan; no checkpoint yet"):
        _train(cohort, tmp_path / "model", generator_rate=1e38)


def test_leftovers_of_a_killed_write_are_removed(cohort, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / ".checkpoint.abc.part").write_bytes(b"half a checkpoint")
    _train(cohort, model, epochs=1)
    assert sorted(path.name for path in model.iterdir()) == sorted(RESULTS)
