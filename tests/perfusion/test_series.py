"""What is a DSC series, and which of its frames: every fault that an export, a scanner or a person can put into one."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers.curves import FRAMES, ONSET, TE, TR, head_series, tissue

from tof2perf.perfusion.dsc import TYPICAL_CBV, analyse_series
from tof2perf.perfusion.series import choose_time, find_baseline, prepare_series

ANALYSIS = SimpleNamespace(method="bcsvd", aif="automatic", motion_correction=False)
PEAK = 10  # frame in which the mean signal is lowest


@pytest.fixture(scope="module")
def series():
    return head_series(np.random.default_rng(7))


@pytest.fixture
def spoilt(series):
    """Copy of the series, with some frames replaced."""

    def replace(**frames):
        copy = series.copy()
        for key, values in frames.items():
            copy[..., int(key[1:])] = values
        return copy

    return replace


def analyse(series, **options):
    return analyse_series(series, TR, TE, (8.0, 8.0, 12.0), ANALYSIS, **options)


def test_good_series_is_used_as_it_is(series):
    prepared = prepare_series(series)
    assert prepared.frames is series and not prepared.left_out
    first, stop = prepared.baseline
    assert first == 0 and stop == pytest.approx(ONSET / TR, abs=1)
    assert series[..., 0][prepared.head].min() > 200 and prepared.head.mean() == pytest.approx(0.26, abs=0.03)


@pytest.mark.parametrize("snr", [np.inf, 10])
def test_neither_noise_nor_its_absence_makes_a_frame_spoilt(rng, snr):
    assert not prepare_series(head_series(rng, snr=snr)).left_out


def bright(factor):
    return lambda s: factor * s[..., 1:5].mean(axis=3)


FAULTS = {
    "last volume cut off": ({-1: lambda s: 0}, "constant, all 0"),
    "volume lost": ({30: lambda s: 0}, "constant, all 0"),
    "constant": ({30: lambda s: 700}, "constant, all 700"),
    "negative": ({30: lambda s: -s[..., 30]}, "negative"),
    "doubled": ({30: lambda s: 2 * s[..., 30]}, "brighter than its neighbours"),
    "halved": ({30: lambda s: 0.5 * s[..., 30]}, "darker than its neighbours"),
    "shifted by a body": ({30: lambda s: np.roll(s[..., 30], 5, axis=0)}, "unlike its neighbours"),
    "copied": ({30: lambda s: s[..., 29]}, "a copy of the frame before"),
    "two not in steady state": ({0: bright(1.6), 1: bright(1.2)}, "brighter than"),
    "one not in steady state": ({0: bright(1.23)}, "brighter than"),
    "one nearly in steady state": ({0: bright(1.08)}, "brighter than the steady state"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_frame_that_is_no_measurement_is_named_left_out_and_does_not_change_the_maps(series, fault):
    frames, reason = FAULTS[fault]
    broken = series.copy()
    for frame, change in frames.items():
        broken[..., frame] = change(series)
    good, found = analyse(series), analyse(broken)
    assert sorted(found.left_out) == sorted(frame % FRAMES for frame in frames)
    assert all(reason in why for why in found.left_out.values())
    inside = good.maps["cbf"] > 5
    for name in ("tmax", "cbf", "cbv"):
        medians = [np.median(result.maps[name][inside]) for result in (found, good)]
        assert medians[0] == pytest.approx(medians[1], rel=0.08), name
    late, before = (np.count_nonzero(result.maps["tmax"] > 6) for result in (found, good))
    assert before > 100 and late == pytest.approx(before, rel=0.1)


def test_frame_lost_on_the_rise_of_the_bolus_refuses_the_series(spoilt):
    with pytest.raises(ValueError, match=rf"frame {PEAK} \(constant, all 0\) lies on the rise of the bolus"):
        prepare_series(spoilt(**{f"f{PEAK}": 0}))


def test_series_with_many_spoilt_frames_is_refused(spoilt):
    with pytest.raises(ValueError, match=r"too many frames are no measurement: 20 \(constant, all 0\), 21"):
        prepare_series(spoilt(**{f"f{frame}": 0 for frame in range(20, 28)}))


REFUSED = {
    "begins inside the bolus": (lambda s: s[..., 9:], "no baseline: [0-4] frames before the bolus"),
    "begins just before the bolus": (lambda s: s[..., 5:], "no baseline: [234] frames before the bolus, at least 5"),
    "reversed in time": (lambda s: s[..., ::-1], "reversed in time"),
    "time first": (lambda s: np.moveaxis(s, -1, 0), "time seems to be axis 1 of 4"),
    "slices and time exchanged": (lambda s: np.swapaxes(s, 2, 3), "time seems to be axis 3 of 4"),
    "two slices": (lambda s: s[:, :, 4:6], "60 frames of 22 x 24 x 2 voxels: at least 4 voxels"),
    "few frames": (lambda s: s[..., :15], "at least 20 frames"),
    "air": (lambda s: np.zeros_like(s), "no head was found"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_no_series_is_refused_with_the_reason(series, fault):
    change, message = REFUSED[fault]
    with pytest.raises(ValueError, match=message) as caught:
        analyse(change(series))
    assert "\n" not in str(caught.value)


def test_baseline_must_be_long_enough():
    with pytest.raises(ValueError, match="no baseline: 4 frames before the bolus"):
        find_baseline(np.array([1643.0, 1566, 1374, 1154, 1016, 998, 1069, 1130, 1180]))
    with pytest.raises(ValueError, match="no baseline"):
        find_baseline(1000 * np.exp(-TE * tissue(50, 5, -ONSET - 4)[0]))


def test_baseline_must_be_level():
    curve = 1000 * np.exp(-TE * tissue(50, 5, 1)[0])
    curve[:8] += np.linspace(60, -60, 8)
    with pytest.raises(ValueError, match=r"no level baseline: the signal before the bolus changes by \d+%"):
        find_baseline(curve)


def test_without_a_calibration_cbf_and_cbv_have_the_typical_volume_and_with_it_their_own(series):
    relative, absolute = analyse(series), analyse(series, calibration=0.1)
    assert absolute.calibration == 0.1
    volume = relative.maps["cbv"]
    assert np.median(volume[volume > 0]) == pytest.approx(TYPICAL_CBV, rel=1e-4)
    for name in ("cbf", "cbv"):  # the two differ by one factor
        np.testing.assert_allclose(
            relative.maps[name], relative.calibration / 0.1 * absolute.maps[name], rtol=1e-3, atol=1e-3
        )
    for name in ("tmax", "mtt", "ttp"):
        np.testing.assert_allclose(relative.maps[name], absolute.maps[name], atol=1e-3)


def choose(*stated, default=2.22):
    sources = ("sub-0001_dsc.json", "the header")
    return choose_time("RepetitionTime", dict(zip(sources, stated, strict=True)), default)


def test_sidecar_comes_before_header_and_header_before_profile():
    assert choose(1.5, 1.5) == choose(1.5, None) == choose(None, 1.5) == 1.5
    assert choose(None, None) == 2.22


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ((1.39, 1.5), "is 1.39 in sub-0001_dsc.json, 1.5 in the header: correct the one that is wrong"),
        ((0, 1.5), "is 0 in sub-0001_dsc.json, 1.5 in the header: it must be given in s, between 0.4 and 6"),
        ((0.085, None), "is 0.085 in sub-0001_dsc.json: it must be given in s"),
        ((2220, 2.22), "is 2220 in sub-0001_dsc.json, 2.22 in the header: it must be given in s"),
        (("2.22", None), "is '2.22' in sub-0001_dsc.json: it must be given in s"),
    ],
)
def test_times_that_contradict_each_other_or_no_scanner_has_are_refused_with_their_sources(stated, message):
    with pytest.raises(ValueError, match=message):
        choose(*stated)


def test_time_that_stands_nowhere_is_an_error():
    with pytest.raises(ValueError, match="RepetitionTime is given nowhere"):
        choose(None, None, default=None)
