"""The plan of a run: arithmetic is that of a real step, work grows with what costs, and a run scales to itself."""

import dataclasses
import itertools
import shutil

import pytest
import torch
from helpers.tiny_training import Network, Training
from torch.utils.flop_counter import FlopCounterMode

from tof2perf.gan.devices import make_fabric
from tof2perf.gan.pix2pix import Pix2Pix
from tof2perf.planning import plan
from tof2perf.planning.arithmetic import count
from tof2perf.planning.plan import Rate, measure, patients, predict, rates_of_run
from tof2perf.profiles import load_profile
from tof2perf.system.files import write_json
from tof2perf.system.memory import peak_gb
from tof2perf.system.run import Run
from tof2perf.volumes.nifti import CohortError

# About what one core of an AMD EPYC needs: seconds, GB of memory and of disk for a unit of each kind's size.
RATES = plan.ASSUMED | {
    "simulate": Rate(1e-6, 6e-8, 3e-9),
    "preprocess": Rate(5e-7, 2e-7, 1.4e-9),
    "train": Rate(2e-11, 1e-9, 4e-9),
}


@pytest.fixture(scope="module")
def profile():
    return load_profile("laptop")


def planned(profile, counts=None, **machine):
    return predict(
        measure(Run(profile.name, ""), profile, counts or patients(profile)), RATES, **({"cores": 2} | machine)
    )


# --- arithmetic -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "training"),
    [
        (Network(), Training()),
        (Network(input="tof+mirror", levels=4, discriminator_filters=3), Training(checkpoint_activations=True)),
        (Network(discriminator_layers=2), Training(adversarial_weight=0.0)),
    ],
    ids=["small", "mirrored and recomputed", "no adversary"],
)
@pytest.mark.parametrize("shape", [(32, 24, 16), (24, 20, 18)], ids=["even", "padded"])
def test_counted_operations_are_those_that_a_real_step_does(network, training, shape):
    training = dataclasses.replace(training, ssim_weight=0.0)  # whose sums are no convolutions
    model = Pix2Pix(network, training, seed=1, fabric=make_fabric(training))
    tof, target = torch.rand((2, 1, 1, *shape), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with FlopCounterMode(display=False) as counter:
        model.step(tof, target, rate=1.0)
    found = count(
        network,
        shape,
        adversarial=training.adversarial_weight > 0,
        recompute=training.checkpoint_activations,
    )
    assert sum(found.step.values()) == counter.get_total_flops()
    parts = (model.generator, model.discriminator)
    assert found.weights == sum(weight.numel() for part in parts for weight in part.parameters())
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model.generator(tof)
    assert found.forward == forward.get_total_flops()


def test_full_size_is_counted_without_its_memory():
    count(load_profile("smoke").network, (32, 32, 16))  # what is loaded the first time
    before = peak_gb()
    found = count(load_profile("paper").network, (256, 256, 128))
    assert 4 * found.weights > 7e8 and 4 * found.activations > 1.6e9  # bytes
    assert peak_gb() - before < 0.1


# --- counting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["smoke", "laptop", "workstation", "paper"])
def test_cohorts_that_nobody_simulates_are_not_counted(name):
    profile = load_profile(name)
    simulated = {key: cohort for key, cohort in profile.cohorts.items() if cohort.simulated}
    counts = patients(profile)
    assert counts.keys() == simulated.keys()
    for key, cohort in simulated.items():
        assert counts[key] == {"train": cohort.train, "validation": cohort.validation, "test": cohort.test}


def test_patients_of_own_data_are_counted_in_their_folder_without_those_left_out(tmp_path, profile):
    for number in range(20):
        (tmp_path / "mine" / "acute" / f"sub-{number:04d}").mkdir(parents=True)
    dropped = tmp_path / "data" / "intake" / "laptop-mine" / "dropped.tsv"
    dropped.parent.mkdir(parents=True)
    dropped.write_text("cohort\tparticipant_id\tproblem\nacute\tsub-0003\tdamaged\n")
    counts = patients(profile, str(tmp_path / "mine"), root=tmp_path)
    assert counts.keys() == {"acute"} and sum(counts["acute"].values()) == pytest.approx(19)
    assert counts["acute"]["train"] / counts["acute"]["test"] == pytest.approx(96 / 20)
    run = Run("laptop", tmp_path, str(tmp_path / "mine"))
    assert "simulate" not in [size.kind for size in measure(run, profile, counts)]


# --- growth -----------------------------------------------------------------------------------------------------------


def test_work_grows_with_patients_epochs_filters_and_volume(profile):
    base = planned(profile)
    tenfold = {name: {key: 10 * n for key, n in split.items()} for name, split in patients(profile).items()}
    many = planned(profile, tenfold)
    for stage in ("simulate", "preprocess", "train", "evaluate"):
        assert 5 < many["core hours"][stage] / base["core hours"][stage] < 10.5, stage
        assert many["memory (GB)"][stage] >= base["memory (GB)"][stage]
    network = dataclasses.replace(profile.network, generator_filters=32, discriminator_filters=16)
    preprocessing = dataclasses.replace(profile.preprocessing, shape=(96, 96, 48))
    for change in (
        {"epochs": {name: 2 * epochs for name, epochs in profile.epochs.items()}},
        {"network": network},
        {"preprocessing": preprocessing},
    ):
        larger = planned(dataclasses.replace(profile, **change))
        assert larger["core hours"].sum() > 1.2 * base["core hours"].sum(), change
        assert larger["memory (GB)"].max() >= base["memory (GB)"].max()


def test_more_cores_and_devices_are_never_slower_and_two_trainings_follow_one_another(profile):
    plans = [planned(profile, cores=8 * devices, devices=devices, rate=1e10) for devices in (1, 2, 5, 10, 100)]
    hours = [each.hours.sum() for each in plans]
    assert all(later <= sooner * 1.001 for sooner, later in itertools.pairwise(hours))
    for each in plans:  # a twin is trained before the model that starts from it
        one = each["GPU hours"] / each.steps
        assert (each.hours >= one * 0.999)[["train", "train, initialised"]].all()
    assert planned(profile)["GPU hours"].sum() == 0


def test_one_generator_for_all_maps_is_one_training_a_cohort(profile):
    together = planned(dataclasses.replace(profile, together=True))
    assert together.steps["train"] == 1 and planned(profile).steps["train"] == 5
    assert together.steps["evaluate"] == planned(profile).steps["evaluate"]


# --- rates ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, profile):
    """Stamps of a run of the profile on one core, whose steps cost what RATES say."""
    run = Run("laptop", tmp_path)
    for size in measure(run, profile, patients(profile)):
        rate = RATES[size.kind]
        stamp = {
            "seconds": plan.START_S + size.work * rate.seconds,
            "peak_memory_gb": plan.BASE_GB + size.memory * rate.memory_gb,
            "outputs": {"a file": ["sha", size.disk * rate.disk_gb * 1e9, 0, 0]},
        }
        write_json(run.stamp(size.name), stamp)
    write_json(run.results / "manifest.json", {"profile": "laptop"})
    return run.results


def test_a_finished_run_is_planned_as_it_was(run, profile):
    rates = rates_of_run(run)
    assert rates.keys() == RATES.keys()
    for kind, rate in rates.items():
        assert rate == pytest.approx(RATES[kind], rel=0.12), kind  # a short step counts a tenth of its seconds at least


def test_a_run_that_cannot_be_scaled_is_refused(run):
    with pytest.raises(CohortError, match="no finished run"):
        rates_of_run(run.parent / "nothing")
    own = run.rename(run.with_name("laptop-mine"))
    with pytest.raises(CohortError, match="a run of own data"):
        rates_of_run(own)


def test_a_timed_patient_and_step_cost_about_what_they_are_known_to_cost():
    """Disk within a half; time is that of this machine now, so positive is all that can be said."""
    smoke = load_profile("smoke")
    for kind, rate in (plan._patient(smoke) | plan._training(smoke)).items():
        assert rate.seconds > 0 and rate.memory_gb > 0
        assert rate.disk_gb == pytest.approx(RATES[kind].disk_gb, rel=0.5), kind


# --- command line -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--profile", "nobody"], "unknown profile 'nobody'"),
        (["--profile", "laptop", "--from", "nowhere"], "nowhere: no finished run"),
        (["--profile", "laptop", "--data", "/nowhere"], "/nowhere"),
    ],
)
def test_what_cannot_be_planned_is_one_line(words, message, capsys):
    assert plan.main(words) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line


def test_the_plan_of_a_cluster_is_printed_with_what_there_is_here(run, capsys, monkeypatch):
    monkeypatch.setattr(plan, "total_bytes", lambda: 1.5e9)
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2e9, 1e9, 1e9))
    words = ["--profile", "paper", "--from", str(run), "--root", str(run.parents[1])]
    assert plan.main([*words, "--devices", "10", "--rate", "40", "--cores", "64"]) == 0
    text = capsys.readouterr().out
    assert "acute 140/40/20, pegasus 51/13/8" in text and "64 cores and 10 GPUs" in text
    assert "free here: 1.0 GB" in text and "this machine: 1.5 GB" in text
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows == ["", "simulate", "preprocess", "train", "train, initialised", "evaluate", "pages"]


def test_without_a_run_the_profile_itself_is_timed_and_its_own_run_comes_first(run, monkeypatch, capsys):
    monkeypatch.setattr(plan, "time_sample", lambda _: RATES)
    assert plan.main(["--profile", "workstation", "--root", str(run.parents[1])]) == 0
    assert "timing a patient" in capsys.readouterr().err
    assert plan.main(["--profile", "laptop", "--root", str(run.parents[1])]) == 0
    assert f"scaling {run}" in capsys.readouterr().err
