"""The plan of a run: arithmetic is that of a real step, work grows with what costs, disk is that of a real cohort."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.miniature import planned_steps
from helpers.tiny_training import Network, Training
from torch.utils.flop_counter import FlopCounterMode

from tof2perf.cohorts.workspace import Workspace
from tof2perf.gan.devices import make_fabric
from tof2perf.gan.pix2pix import Pix2Pix
from tof2perf.maps import MAPS
from tof2perf.phantom.cohort import simulate_cohort
from tof2perf.planning import costs, plan, scaling
from tof2perf.planning.arithmetic import count
from tof2perf.planning.costs import Phase, Site, Step, choose_site, plan_steps, share_out
from tof2perf.planning.plan import run_on_paper
from tof2perf.planning.rates import RatesError, read_rates
from tof2perf.preprocessing.preprocess import preprocess_patient
from tof2perf.profiles import load_profile
from tof2perf.system.files import write_json
from tof2perf.system.memory import peak_gb
from tof2perf.volumes.nifti import CohortError

REPOSITORY = Path(__file__).resolve().parents[2]
RATES = REPOSITORY / "results" / "reference" / "scaling"
TWO_CORES = Site(cores=2, jobs=2)


@pytest.fixture(scope="module")
def profile():
    return load_profile("laptop")


@pytest.fixture(scope="module")
def rates():
    """What was measured once for the page on scaling."""
    return read_rates(RATES / "laptop.json", "laptop")


def planned(profile, rates, *, site=TWO_CORES, counts=None, **options):
    return plan_steps(profile, rates, site, counts or costs.patients(profile), **options)


def work(steps) -> float:
    return math.fsum(step.core_seconds + step.device_seconds for step in steps)


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
    found = costs.patients(profile)
    assert found.keys() == simulated.keys()
    for key, cohort in simulated.items():
        assert found[key] == {"train": cohort.train, "validation": cohort.validation, "test": cohort.test}


@pytest.mark.parametrize("own", [False, True], ids=["simulated", "own data"])
def test_planned_steps_are_those_of_the_graph_with_their_order(tmp_path, rates, profile, own):
    for number in range(9 * own):
        (tmp_path / "acute" / f"sub-{number:04d}").mkdir(parents=True)
    declared = {step.name: set(step.after) for step in planned_steps(data=str(tmp_path) if own else "")}
    counts = costs.patients(profile, str(tmp_path) if own else "", root=tmp_path)
    steps = planned(profile, rates, counts=counts, simulated=not own)
    assert sorted(step.name for step in steps) == sorted(declared)
    for step in steps:
        if step.kind in ("preprocess", "train"):
            assert set(step.after) == declared[step.name], step.name


def test_patients_of_own_data_are_counted_in_their_folder(tmp_path, profile):
    for number in range(20):
        (tmp_path / "mine" / "acute" / f"sub-{number:04d}").mkdir(parents=True)
    found = costs.patients(profile, str(tmp_path / "mine"), root=tmp_path)
    assert found == {"acute": {"train": 16, "validation": 1, "test": 3}}
    lines = ["participant_id\tsplit"] + [f"sub-{n:04d}\t{'train' if n < 10 else 'test'}" for n in range(19)]
    (tmp_path / "mine" / "acute" / "participants.tsv").write_text("\n".join([*lines, "sub-0019\tvalidation\n"]))
    found = costs.patients(profile, str(tmp_path / "mine"), root=tmp_path)
    assert found == {"acute": {"train": 10, "validation": 1, "test": 9}}


def test_a_cohort_of_two_cannot_be_planned(tmp_path, profile):
    for number in range(2):
        (tmp_path / "mine" / "acute" / f"sub-{number:04d}").mkdir(parents=True)
    with pytest.raises(CohortError, match="2 patients; each of the three splits needs one"):
        costs.patients(profile, str(tmp_path / "mine"), root=tmp_path)


@pytest.mark.parametrize("number", [3, 7, 100, 9999])
def test_shares_are_whole_patients_of_whom_none_is_lost(number):
    found = share_out(number, {"train": 140, "validation": 40, "test": 20})
    assert sum(found.values()) == number and min(found.values()) >= 1


# --- growth -----------------------------------------------------------------------------------------------------------


def test_work_grows_with_patients_epochs_filters_and_volume(profile, rates):
    base = planned(profile, rates)
    many = planned(profile, rates, counts=costs.enlarged(costs.patients(profile), 1560))
    for kind in ("simulate", "preprocess", "train", "evaluate"):
        of_kind = [[step for step in steps if step.kind == kind] for steps in (base, many)]
        assert 5 < work(of_kind[1]) / work(of_kind[0]) < 10.5, kind
    network = dataclasses.replace(profile.network, generator_filters=32, discriminator_filters=16)
    preprocessing = dataclasses.replace(profile.preprocessing, shape=(96, 96, 48))
    for change in (
        {"epochs": {name: 2 * epochs for name, epochs in profile.epochs.items()}},
        {"network": network},
        {"preprocessing": preprocessing},
    ):
        larger = planned(dataclasses.replace(profile, **change), rates)
        assert work(larger) > 1.2 * work(base), change
        assert max(step.memory_gb for step in larger) >= max(step.memory_gb for step in base)


def test_more_devices_and_more_cores_are_never_slower_but_for_the_critical_path(profile, rates):
    counts = costs.patients(profile)
    ends = []
    for devices in (1, 2, 5, 10, 100):
        site = choose_site(rates, cores=8 * devices, devices=devices, rate=0.01)
        steps = plan_steps(profile, rates, site, counts)
        ends.append(run_on_paper(steps, site).end)
        chain = plan.critical_path(steps)
        assert ends[-1] >= math.fsum(step.seconds for step in chain) * (1 - 1e-9)
        assert [step.kind for step in chain][-3:] == ["evaluate", "dice", "pages"]
        assert "02-train-pegasus" in chain[3].name  # it starts from its acute twin, which stands before it
    assert all(later <= sooner * 1.001 for sooner, later in itertools.pairwise(ends))


def test_steps_share_cores_and_devices():
    one = Step("one", "train", (), (Phase(10.0, 2),), 1.0)
    two = dataclasses.replace(one, name="two")
    after = dataclasses.replace(one, name="after", after=("one", "two"))
    assert run_on_paper([one, two, after], Site(cores=4, jobs=4)).end == pytest.approx(20)
    assert run_on_paper([one, two, after], Site(cores=2, jobs=4)).end == pytest.approx(30)
    assert run_on_paper([one, two, after], Site(cores=4, jobs=1)).end == pytest.approx(30)
    gpu = [dataclasses.replace(step, phases=(Phase(10.0, 1, 1),), device_gb=3.0) for step in (one, two)]
    both = run_on_paper(gpu, Site(cores=4, jobs=4, devices=1))
    assert (both.end, both.device_gb, both.memory_gb) == (pytest.approx(20), 6.0, 2.0)
    assert run_on_paper(gpu, Site(cores=4, jobs=4, devices=2)).device_gb == 3.0


# --- against what is there --------------------------------------------------------------------------------------------


def test_disk_is_that_of_a_real_cohort(tmp_path):
    """What the timed patients left fits others: as many files, as many bytes within a tenth."""
    smoke = load_profile("smoke")
    rates = read_rates(RATES / "smoke.json", "smoke")
    here, few = Workspace("smoke", tmp_path), dataclasses.replace(smoke.cohorts["acute"], train=1, validation=1, test=1)
    folder, prepared = here.cohort("acute"), here.preprocessed("acute")
    # Other patients than the timed ones, which had the profile's seed.
    simulate_cohort(folder, "acute", cohort=few, phantom=smoke.phantom, seed=smoke.seed + 1, jobs=1)
    preprocess_patient(folder, "sub-0002", prepared, cohort=smoke.cohorts["acute"], settings=smoke.preprocessing)
    counts = {"acute": {"train": 1, "validation": 1, "test": 1}}
    simulate, preprocess, *_ = plan_steps(smoke, rates, TWO_CORES, counts)
    for place, planned_gb, planned_files in (
        (folder, simulate.disk_gb - rates.oracle_gb["acute"], simulate.files - len(MAPS)),
        (prepared, preprocess.disk_gb / 3, preprocess.files // 3),
    ):
        left = [path for path in place.rglob("*") if path.is_file()]
        assert planned_gb == pytest.approx(math.fsum(path.stat().st_size for path in left) / 1e9, rel=0.1)
        of_patients = [path for path in left if "sub-" in path.name]  # the others describe the cohort
        assert planned_files == len(of_patients)


def test_a_finished_run_is_compared_by_kind(tmp_path, profile, rates):
    steps = planned(profile, rates)
    schedule = run_on_paper(steps, TWO_CORES)
    for step in steps:
        taken = {"step": step.name, "seconds": 2 * schedule.seconds(step.name), "peak_memory_gb": step.memory_gb}
        taken["outputs"] = {"a file": ["sha", step.disk_gb * 1e9, 0, 0]}
        write_json(tmp_path / ".stamps" / f"{step.name}.json", taken)
    for kind, number, *cells in plan.against(tmp_path, steps, schedule):
        assert int(number) == sum(step.kind == kind for step in steps)
        assert (cells[2], cells[5]) == ("0.50", "1.00")
    with pytest.raises(CohortError, match="no finished steps"):
        plan.against(tmp_path / "nothing", steps, schedule)


def test_what_does_not_fit_is_told(profile, rates, tmp_path, monkeypatch):
    steps = planned(profile, rates)
    schedule = run_on_paper(steps, TWO_CORES)
    told = plan.limits(profile, steps, schedule, TWO_CORES, root=tmp_path / "not made yet", elsewhere=False)
    assert len(told) >= 1
    monkeypatch.setattr(plan, "total_bytes", lambda: 1.5e9)
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda _: plan.shutil._ntuple_diskusage(2e9, 1e9, 1e9))
    disk, memory = plan.limits(profile, steps, schedule, TWO_CORES, root=tmp_path, elsewhere=False)
    assert "has 1.0 GB free; give another ROOT" in disk
    assert "this machine has 1.5 GB" in memory and "make -j1" in memory


@pytest.mark.parametrize("name", scaling.TABLES)
def test_the_tables_of_the_page_on_scaling_are_what_the_plan_computes(name):
    stored = pd.read_csv(scaling.FOLDER / f"{name}.csv")
    pd.testing.assert_frame_equal(scaling.TABLES[name](), stored, rtol=1e-3, check_dtype=False)


# --- command line -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--profile", "nobody"], "unknown profile 'nobody'"),
        (["--profile", "laptop", "--rates", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--profile", "paper", "--rates", str(RATES / "laptop.json")], "sizes of profile laptop; measure paper"),
        (["--profile", "laptop", "--rates", str(RATES / "laptop.json"), "--devices", "4"], "RATE=40 for 40 TFLOP/s"),
    ],
)
def test_what_cannot_be_planned_is_one_line(words, message, capsys):
    assert plan.main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_the_plan_of_a_cluster_is_printed(capsys, tmp_path):
    words = ["--profile", "laptop", "--rates", str(RATES / "laptop.json"), "--root", str(tmp_path)]
    assert plan.main([*words, "--devices", "10", "--rate", "40", "--cores", "64", "--patients", "10000"]) == 0
    text = capsys.readouterr().out
    assert "10000 patients" in text and "64 cores and 10 devices of 40 TFLOP/s" in text
    kinds = [line.split()[0] for line in text.splitlines() if line.split()[:1] and line.split()[0] in costs.KINDS]
    assert kinds == list(costs.KINDS)


def test_devices_of_unknown_speed_are_refused(rates):
    with pytest.raises(RatesError):
        choose_site(rates, devices=2)
    assert choose_site(rates, cores=3) == Site(3, 3)
    assert choose_site(rates, cores=3, devices=8, rate=1.0) == Site(3, 8, 8, 1e12)


def test_rates_are_written_and_read_alike(rates, tmp_path):
    path = tmp_path / "rates.json"
    path.write_text(json.dumps(dataclasses.asdict(rates)), encoding="utf-8")
    assert read_rates(path, "laptop") == rates
