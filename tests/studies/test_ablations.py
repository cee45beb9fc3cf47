"""The table of ablations: one row per switch and map, nothing trained twice, nothing mixed."""

import dataclasses

import pytest
import torch

from tof2perf.cohorts.participants import patients_in
from tof2perf.cohorts.toy import write_example
from tof2perf.gan.pairs import load_pair
from tof2perf.gan.training import TrainingError
from tof2perf.metrics.lesion_agreement import dice
from tof2perf.profiles import load_profile
from tof2perf.studies import ablations
from tof2perf.studies.score import score


@pytest.fixture
def profile():
    smoke = load_profile("smoke")
    network = dataclasses.replace(
        smoke.network, levels=3, generator_filters=2, discriminator_filters=2, discriminator_layers=1
    )
    return dataclasses.replace(smoke, network=network, epochs={"acute": 1, "pegasus": 1})


@pytest.fixture
def folder(tmp_path):
    return write_example(tmp_path / "acute", seed=1)


def run(folder, profile, *, maps=("tmax",), variants=("default",), **options):
    results = folder.parent / "ablations"
    return ablations.run(folder, results, profile, maps=maps, variants=variants, **options)


def test_every_variant_gives_a_row_for_every_map_with_error_lesions_and_time(folder, profile):
    table = run(folder, profile, maps=("tmax", "cbf"), variants=ablations.DEFAULTS["acute"])
    assert list(zip(table["variant"], table["map"], strict=True)) == [
        (variant, name) for variant in ablations.DEFAULTS["acute"] for name in ("tmax", "cbf")
    ]
    assert (table.mae > 0).all() and (table.seconds > 0).all()
    assert (table[table["map"] == "tmax"].lesions == 1).all()
    assert table[table["map"] == "cbf"].lesions.isna().all()
    together = table[table.variant == "all"]
    assert (together.seconds * 5).tolist() == pytest.approx((together.seconds_per_epoch * together.epochs).tolist())
    assert (folder.parent / "ablations" / "ablations_acute.csv").is_file()


def test_variants_differ_in_what_they_say(folder, profile):
    table = run(folder, profile, variants=("default", "released", "l1", "mirror"))
    assert table.mae.nunique() == 4


def test_what_is_trained_already_is_not_trained_again(folder, profile, monkeypatch):
    first = run(folder, profile)
    monkeypatch.setattr(ablations, "train", lambda *_, **__: pytest.fail("trained again"))
    assert run(folder, profile).equals(first)


def test_model_of_other_settings_or_data_is_refused_and_the_difference_named(folder, profile):
    run(folder, profile)
    with pytest.raises(ValueError, match="acute_tmax: trained with other epochs; remove it to train it again"):
        run(folder, profile, epochs=2)
    write_example(folder, seed=2)
    with pytest.raises(ValueError, match="trained with other data"):
        run(folder, profile)


def test_pegasus_is_compared_with_and_without_its_acute_twin(folder, profile, tmp_path):
    pegasus = write_example(tmp_path / "pegasus", seed=3)
    with pytest.raises(TrainingError, match=r"acute_tmax/generator\.safetensors: missing"):
        run(pegasus, profile, variants=("default",), twins=tmp_path / "models")
    run(folder, profile)
    twins = tmp_path / "ablations" / "default"
    table = run(pegasus, profile, variants=("default", "scratch"), twins=twins)
    assert table.mae.nunique() == 2


def test_unknown_variant_names_the_known_ones(folder, profile):
    with pytest.raises(ValueError, match="unknown variant 'magic': choose one of default, released"):
        run(folder, profile, variants=("magic",))


def test_a_generator_that_knows_the_answer_has_no_error_and_full_overlap(folder, profile):
    class Knowing(torch.nn.Module):
        def __init__(self, answers):
            super().__init__()
            self.answers = iter(answers)
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, tof):
            return torch.from_numpy(next(self.answers))[None, None] / 10 - 1  # Tmax from 0 to 20 s

    patients = patients_in(folder, "validation")
    truth = [load_pair(folder, patient, "tmax").target for patient in patients]
    row = score(Knowing(truth), folder, patients, "tmax", profile.evaluation)
    assert row["mae"] == pytest.approx(0, abs=1e-5)
    assert row["dice_mean"] == row["dice_median"] == 1
    assert (row["lesions"], row["contralateral"]) == (1, 0)
    row = score(Knowing([volume[::-1].copy() for volume in truth]), folder, patients, "tmax", profile.evaluation)
    assert row["dice_mean"] == 0 and row["contralateral"] == 1
    assert dice(truth[0] > 6, truth[0][::-1] > 6) < 0.1
