"""Colophon, manifest and comparison with reference results."""

import hashlib
import json
import re
import subprocess

import pytest

from tof2perf import provenance, verification

TABLE = """\
cohort,map,predictor,convention,metric,mean,sd,n
acute,tmax,gan,brain,ssim,0.812,0.041,20
acute,tmax,gan,brain,mae,1.050,0.210,20
acute,tmax,mean-map,brain,ssim,0.790,0.050,20
"""


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    for name in ("tables/table1.csv", "figures/figure1.pdf", ".stamps/a.json", "failed/a.ipynb", "figures/.part-x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(TABLE if name.endswith("csv") else name)
    return folder


@pytest.fixture
def reference(tmp_path):
    folder = tmp_path / "reference"
    (folder / "tables").mkdir(parents=True)
    (folder / "tables" / "table1.csv").write_text(TABLE)
    (folder / "tables" / "dice_summary.json").write_text('{"median": 0.43, "patients": {"n": 20}}')
    return folder


def outcome(results, reference, **options):
    return {entry.name: entry.outcome for entry in verification.verify(results, reference, **options)}


def test_the_manifest_lists_results_alone_with_true_hashes(results):
    path = provenance.write_manifest(results, profile="smoke", source="simulated cohort, profile smoke")
    manifest = json.loads(path.read_text())
    assert sorted(manifest["files"]) == ["figures/figure1.pdf", "tables/table1.csv"]
    for name, entry in manifest["files"].items():
        content = (results / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert manifest["source"] == "simulated cohort, profile smoke" and manifest["profile"] == "smoke"


def test_the_same_results_give_the_same_manifest(results):
    first = provenance.write_manifest(results, profile="smoke", source="s").read_bytes()
    assert provenance.write_manifest(results, profile="smoke", source="s").read_bytes() == first
    assert not list(results.glob(".part-*"))


def test_the_colophon_names_source_profile_commit_and_versions():
    shown = provenance.colophon("smoke", source="simulated cohort, profile smoke")
    for text in (shown._repr_markdown_(), repr(shown)):
        assert "simulated cohort, profile smoke" in text
        assert f"torch {provenance.versions()['torch']}" in text and provenance.commit() in text
        assert not re.search(r"/(home|root|tmp|work)/", text)


def test_a_changed_file_makes_the_commit_dirty_and_no_checkout_makes_it_unknown(tmp_path):
    assert provenance.commit(tmp_path) == "unknown"

    def git(*words):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=b", *words], check=True)

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    assert re.fullmatch("[0-9a-f]{12}", provenance.commit(tmp_path))
    (tmp_path / "file").write_text("2")
    assert re.fullmatch("[0-9a-f]{12}-dirty", provenance.commit(tmp_path))


def test_equal_bytes_are_identical_and_a_table_that_was_not_made_is_missing(results, reference):
    assert outcome(results, reference) == {"tables/table1.csv": "identical", "tables/dice_summary.json": "missing"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("0.812", "0.813", "within tolerance"),  # SSIM: absolute
        ("0.812", "0.912", "differs"),
        ("1.050", "1.100", "within tolerance"),  # MAE has the unit of its map: relative
        ("1.050", "1.200", "differs"),
        ("0.210,20", "0.210,19", "differs"),  # a count is exact
        ("0.041,20", "nan,20", "differs"),
        ("mean-map", "constant", "differs"),  # words are exact
        ("acute,tmax,mean-map,brain,ssim,0.790,0.050,20\n", "", "differs"),
    ],
)
def test_a_number_may_differ_within_its_tolerance_only(results, reference, old, new, expected):
    table = results / "tables" / "table1.csv"
    table.write_text(TABLE.replace(old, new))
    assert outcome(results, reference)["tables/table1.csv"] == expected


def test_tolerances_can_be_given(results, reference):
    (results / "tables" / "table1.csv").write_text(TABLE.replace("0.812", "0.813"))
    assert outcome(results, reference, tolerances={"ssim": 1e-4})["tables/table1.csv"] == "differs"


def test_numbers_in_json_are_compared_too(results, reference):
    given = results / "tables" / "dice_summary.json"
    given.write_text('{"median": 0.44, "patients": {"n": 20}}')
    assert outcome(results, reference)["tables/dice_summary.json"] == "within tolerance"
    given.write_text('{"median": 0.44, "patients": {"n": 21}}')
    assert outcome(results, reference)["tables/dice_summary.json"] == "differs"


def test_the_command_line_fails_on_a_miss_and_without_a_reference(results, reference, capsys):
    (results / "tables" / "dice_summary.json").write_text('{"median": 0.43, "patients": {"n": 20}}')
    assert verification.main([str(results), str(reference)]) == 0
    assert "2 of 2 tables agree" in capsys.readouterr().out
    (results / "tables" / "table1.csv").write_text(TABLE.replace("0.812", "0.112"))
    assert verification.main([str(results), str(reference)]) == 1
    assert "0.112, reference 0.812" in capsys.readouterr().out
    assert verification.main([str(results), str(reference / "absent")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
