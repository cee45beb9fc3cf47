"""The search of hyperparameters: begins with the profile's values, resumes, prunes, and never mixes conditions."""

import dataclasses

import optuna
import pandas as pd
import pytest
import yaml

from tof2perf.cohorts.toy import write_example
from tof2perf.profiles import TrainingProfile, load_profile
from tof2perf.studies import hyperparameters
from tof2perf.studies.hyperparameters import search, suggest


@pytest.fixture
def profile():
    smoke = load_profile("smoke")
    network = dataclasses.replace(
        smoke.network, levels=3, generator_filters=2, discriminator_filters=2, discriminator_layers=1
    )
    return dataclasses.replace(smoke, network=network, epochs={"acute": 2, "pegasus": 1})


@pytest.fixture
def folder(tmp_path):
    return write_example(tmp_path / "acute", seed=1)


def _search(folder, profile, **options):
    return search(folder, "tmax", folder.parent / "study", profile, **options)


def test_first_trial_has_the_values_of_the_profile(folder, profile):
    study = _search(folder, profile, trials=1)
    found = suggest(optuna.trial.FixedTrial(study.trials[0].params))
    for key, value in found.items():
        own = getattr(profile.training, key)
        assert own == (pytest.approx(value) if isinstance(value, float) else value), key


def test_study_goes_on_where_it_stopped_with_trials_it_has_not_tried(folder, profile):
    before = _search(folder, profile, trials=2).trials
    after = _search(folder, profile, trials=4).trials
    assert [trial.params for trial in after[:2]] == [trial.params for trial in before]
    assert len(after) == 4
    assert len({trial.params["generator_rate"] for trial in after}) == 4
    assert len(_search(folder, profile, trials=4).trials) == 4


def test_trial_that_died_with_its_process_is_closed(folder, profile):
    study = _search(folder, profile, trials=1)
    study.ask()
    states = [trial.state.name for trial in _search(folder, profile, trials=2).trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]


def test_worse_than_the_median_is_stopped_early(folder, profile, monkeypatch):
    calls = []

    class Always(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            calls.append(trial.last_step)
            return trial.number == 1

    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda **_: Always())
    study = _search(folder, profile, trials=2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED"]
    assert calls == [1, 2, 1]
    assert [path.name for path in (folder.parent / "study").glob("trial-*")] == []


def test_exploding_trial_fails_alone(folder, profile, monkeypatch):
    real = hyperparameters.suggest

    def exploding(trial):
        return real(trial) | ({"generator_rate": 1e38} if trial.number == 0 else {})

    monkeypatch.setattr(hyperparameters, "suggest", exploding)
    study = _search(folder, profile, trials=2)
    assert study.trials[0].state.name == "FAIL"


def test_winner_is_written_as_lines_for_the_profile_with_the_study_that_chose_it(folder, profile):
    study = _search(folder, profile, trials=2)
    text = (folder.parent / "study" / "best.yaml").read_text()
    assert text.startswith(
        "# chosen by a study of 2 trials (profile smoke, cohort acute, map tmax, goal mae, epochs 2)"
    )
    chosen = yaml.safe_load(text)["training"]
    assert chosen.keys() <= {field.name for field in dataclasses.fields(TrainingProfile)}
    assert chosen["l1_weight"] + chosen["ssim_weight"] == pytest.approx(100, rel=0.01)
    table = pd.read_csv(folder.parent / "study" / "trials.csv")
    assert table.value.min() == pytest.approx(study.best_value)


@pytest.mark.parametrize(("goal", "best"), [("dice", max), ("ssim", max)])
def test_goals_that_grow_are_maximised(folder, profile, goal, best):
    study = _search(folder, profile, trials=2, goal=goal)
    assert study.best_value == best(trial.value for trial in study.trials)
    assert 0 <= study.best_value <= 1


def test_study_of_other_conditions_is_refused(folder, profile):
    _search(folder, profile, trials=1)
    with pytest.raises(ValueError, match=r"study\.db: begun with epochs 2, not 3; give another folder"):
        _search(folder, profile, trials=2, epochs=3)
    write_example(folder, seed=2)
    with pytest.raises(ValueError, match="begun with data"):
        _search(folder, profile, trials=2)


def test_lesions_can_only_be_the_goal_for_tmax(folder, profile):
    with pytest.raises(ValueError, match="unknown goal 'dice' for cbf"):
        search(folder, "cbf", folder.parent / "study", profile, goal="dice")
