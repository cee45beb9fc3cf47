"""Figures show what they claim: the right side, the right slice, the right patient, the source."""

import json
import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers.cells import run_cells
from nibabel import orientations

from tof2perf.figures import panels
from tof2perf.maps import MAPS

RAS = np.diag([2.0, 3.0, 4.0, 1.0])
LABEL = "simulated cohort, profile smoke"


@pytest.fixture
def head():
    """A box-shaped brain in RAS+ and a marker near the patient's left, front and top."""
    mask = np.zeros((12, 16, 10), bool)
    mask[2:10, 3:13, 1:9] = True
    marker = np.zeros(mask.shape)
    marker[3, 11, 7] = 1.0  # RAS+: low x is left, high y is front
    return mask, marker


def reoriented(volume, codes):
    """The same head stored in another orientation, and its affine."""
    turn = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(codes))
    affine = RAS @ orientations.inv_ornt_aff(turn, volume.shape)
    return orientations.apply_orientation(volume, turn), affine


def test_the_patients_left_is_on_the_right_of_the_picture_and_the_front_on_top(head):
    mask, marker = head
    picture = panels.AxialView(RAS, mask, margin_mm=0).section(marker, 7)
    assert picture.shape == (10, 8)  # rows along y, columns along x
    row, column = np.argwhere(picture.filled(0))[0]
    assert row == 1 and column == 6  # one row below the front edge, one column from the left side of the patient


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SLA"])
def test_pictures_do_not_depend_on_how_a_volume_is_stored(head, codes):
    mask, marker = head
    expected = panels.AxialView(RAS, mask)
    stored, affine = reoriented(mask.astype(np.uint8), codes)
    view = panels.AxialView(affine, stored)
    volume, _ = reoriented(marker, codes)
    assert view.size_mm == pytest.approx(expected.size_mm)
    assert np.ma.allequal(view.section(volume, 7), expected.section(marker, 7))
    assert np.ma.allequal(view.mip(volume, 5, slab_mm=20), expected.mip(marker, 5, slab_mm=20))
    assert view.widest(volume) == expected.widest(marker) == 7


def test_nothing_outside_the_brain_is_shown(head):
    mask, _ = head
    view = panels.AxialView(RAS, mask, margin_mm=5)
    loud = np.where(mask, 1.0, 99.0)
    for picture in (view.section(loud, 4), view.mip(loud, 4, slab_mm=12)):
        assert picture.max() == 1 and picture.mask.any()
    assert view.section(loud, 0).mask.all()


def test_a_projection_sees_a_vessel_anywhere_in_its_slab_and_none_beyond(head):
    mask, marker = head
    view = panels.AxialView(RAS, mask)
    assert view.mip(marker, 5, slab_mm=16).max() == 1  # slices 3 to 7
    assert view.mip(marker, 4, slab_mm=16).max() == 0  # slices 2 to 6


def test_slices_are_counted_within_the_brain(head):
    mask, marker = head
    view = panels.AxialView(RAS, mask)
    assert (view.level(0), view.level(1)) == (1, 8)
    assert view.widest(np.zeros_like(marker)) == view.level(0.6) == 5


def test_an_empty_brain_mask_is_an_error_with_a_remedy():
    with pytest.raises(ValueError, match="check the preprocessed mask"):
        panels.AxialView(RAS, np.zeros((4, 4, 4)))


def test_frames_are_true_to_scale_and_the_sheet_has_the_width_of_a_journal_column(head):
    view = panels.AxialView(RAS, head[0])
    for width in (panels.SINGLE_MM, panels.DOUBLE_MM):
        figure, frames, bars = panels.image_grid([view], rows=["a", "b"], columns=["c"], label=LABEL, width_mm=width)
        assert figure.get_figwidth() * 25.4 == pytest.approx(width)
        box = frames[0, 0].get_window_extent()
        assert box.height / box.width == pytest.approx(view.size_mm[1] / view.size_mm[0])
        assert frames.shape == (2, 1) and len(bars) == 2


@pytest.mark.parametrize(("bars", "count"), [("right", 2), ("below", 3), ("none", 0)])
def test_nothing_on_a_sheet_overlaps(head, bars, count):
    view = panels.AxialView(RAS, head[0])
    _, frames, places = panels.image_grid(
        [view], rows=["a", "b"], columns=["c", "d", "e"], label=LABEL, bars=bars, note_mm=(0, 4)
    )
    assert len(places) == count
    boxes = [axis.get_position() for axis in [*frames.ravel(), *places]]
    for i, first in enumerate(boxes):
        assert first.x0 > 0 and first.x1 < 1 and first.y0 > 0 and first.y1 < 1
        assert not any(first.overlaps(other) for other in boxes[i + 1 :])


def test_a_map_is_drawn_over_its_fixed_range_with_its_unit(head):
    mask, marker = head
    view, entry = panels.AxialView(RAS, mask), MAPS["tmax"]
    _, frames, bars = panels.image_grid([view], rows=["Tmax"], columns=["one"], label=LABEL)
    panels.show_map(frames[0, 0], view, 9 * marker, entry, 7)
    assert frames[0, 0].images[0].get_clim() == entry.bounds
    assert {text.get_text() for text in frames[0, 0].texts} == {"R", "L"}
    panels.colour_bar(bars[0], colours=entry.colormap, limits=entry.bounds, text=entry.axis)
    assert bars[0].get_ylabel() == "Tmax (s)"


def test_an_outline_encloses_the_lesion_and_an_empty_one_is_not_drawn(head):
    mask, marker = head
    view = panels.AxialView(RAS, mask)
    _, frames, _ = panels.image_grid([view], rows=["a"], columns=["b", "c"], label=LABEL)
    panels.outline(frames[0, 0], view, marker > 0, 7, colour="white")
    panels.outline(frames[0, 1], view, marker > 0, 3, colour="white")
    assert not frames[0, 1].collections
    points = np.concatenate([path.vertices for path in frames[0, 0].collections[0].get_paths()])
    row, column = np.argwhere(view.section(marker, 7).filled(0))[0]
    columns_mm, rows_mm = view.centres()
    assert points.mean(axis=0) == pytest.approx((columns_mm[column], rows_mm[row]), abs=0.5)


def test_overlap_tells_agreement_from_either_side(head):
    mask, _ = head
    real, generated = np.zeros((2, *mask.shape), bool)
    real[4:6, 5, 5], generated[5:7, 5, 5] = True, True
    view = panels.AxialView(RAS, mask)
    axis = plt.figure().add_subplot()
    show_overlap = run_cells("09-figure4", "overlap")["show_overlap"]
    show_overlap(axis, view, real, generated, 5)
    found = np.asarray(axis.images[0].get_array().filled(0))
    assert {int(value): int((found == value).sum()) for value in (1, 2, 3)} == {1: 1, 2: 1, 3: 1}


def test_one_window_serves_all_tof_pictures(head):
    view = panels.AxialView(RAS, head[0])
    pictures = [view.section(np.full(head[0].shape, value), 4) for value in (1.0, 3.0)]
    assert panels.tof_window(pictures) == (0.0, 3.0)


def test_the_colours_of_a_map_end_where_its_values_do_but_never_beyond_its_range(head):
    view = panels.AxialView(RAS, head[0])
    for value, top in ((70.0, 72.0), (500.0, 120.0), (3.0, 48.0)):  # CBF, tenths of 120 ml/100 g/min
        picture = view.section(np.full(head[0].shape, value), 4)
        assert panels.map_window(MAPS["cbf"], [picture]) == (0.0, top)


def test_best_average_and_worst_are_chosen_by_the_numbers():
    scores = pd.Series({"a": 0.1, "b": 0.9, "c": 0.52, "d": 0.3, "e": 0.5, "f": math.nan})
    assert panels.choose(scores, higher_is_better=True) == [
        ("best", "b"),
        ("average", "c"),
        ("average", "e"),
        ("worst", "a"),
    ]
    assert panels.choose(scores, higher_is_better=False)[0] == ("best", "a")


@pytest.mark.parametrize(
    ("count", "titles"), [(0, []), (1, ["only patient"]), (2, ["best", "worst"]), (3, ["best", "average", "worst"])]
)
def test_few_patients_are_each_shown_once(count, titles):
    scores = pd.Series({f"sub-{k}": float(k) for k in range(count)}, dtype=float)
    chosen = panels.choose(scores, higher_is_better=True)
    assert [title for title, _ in chosen] == titles
    assert len({patient for _, patient in chosen}) == count


def test_a_saved_figure_has_the_same_bytes_again_embedded_fonts_and_its_numbers(tmp_path):
    panels.use_style()
    for folder in ("first", "second"):
        figure, axis = plt.subplots()
        axis.plot([0, 1])
        panels.sign(figure, LABEL)
        numbers = {"dice": np.float64(0.5), "none": math.nan, "rows": [np.int64(3)], "nested": {"a": np.arange(2)}}
        panels.save_figure(figure, tmp_path / folder, "figure9", numbers, caption="A line\n    and no more.")
    names = ["figure9.json", "figure9.pdf", "figure9.png", "figure9.txt"]
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == names
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    content = (tmp_path / "first" / "figure9.pdf").read_bytes()
    assert b"/FontFile2" in content and not re.search(rb"/Subtype */Type3\b", content)
    assert b"CreationDate" not in content
    assert json.loads((tmp_path / "first" / "figure9.json").read_text()) == {
        "figure": "figure9",
        "source": LABEL,
        "dice": 0.5,
        "none": None,
        "rows": [3],
        "nested": {"a": [0, 1]},
    }


def test_a_caption_ends_with_the_source(tmp_path):
    figure = plt.figure()
    panels.sign(figure, LABEL)
    panels.save_figure(figure, tmp_path, "figure9", {}, caption="A line\n    and no more.")
    assert (tmp_path / "figure9.txt").read_text() == f"A line and no more. Source: {LABEL}.\n"


def test_simulated_and_real_data_carry_tags_of_different_words_and_colours():
    tags = []
    for label in (LABEL, "own data clinic, profile laptop"):
        figure = plt.figure()
        panels.sign(figure, label)
        tag = next(text for text in figure.texts if text.get_gid() == "tag")
        tags.append((tag.get_text(), tag.get_bbox_patch().get_facecolor()))
    assert [word for word, _ in tags] == ["SIMULATED", "OWN DATA"] and tags[0][1] != tags[1][1]


def test_the_tag_does_not_cover_the_source():
    figure = plt.figure(figsize=(panels.SINGLE_MM / panels.INCH, 2))
    panels.sign(figure, LABEL)
    tag, source = (next(text for text in figure.texts if text.get_gid() == gid) for gid in ("tag", "source"))
    assert tag.get_bbox_patch().get_window_extent().x1 < source.get_window_extent().x0
    assert source.get_window_extent().x1 < figure.bbox.x1


def test_a_figure_that_does_not_state_its_source_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="does not state its source"):
        panels.save_figure(plt.figure(), tmp_path, "figure9", {}, caption="None.")
    assert not any(tmp_path.iterdir())
