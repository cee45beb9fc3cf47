"""Colophon and manifest."""

import hashlib
import json
import re
import subprocess

import pytest

from tof2perf.pipeline import provenance


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    for name in ("tables/table1.csv", "figures/figure1.pdf", ".stamps/a.json", "failed/a.ipynb", "figures/.x.abc.part"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_the_manifest_lists_results_alone_with_true_hashes(results):
    path, count = provenance.write_manifest(results, profile="smoke", source="simulated cohort, profile smoke")
    manifest = json.loads(path.read_text())
    assert count == 2 and sorted(manifest["files"]) == ["figures/figure1.pdf", "tables/table1.csv"]
    for name, entry in manifest["files"].items():
        content = (results / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert manifest["source"] == "simulated cohort, profile smoke" and manifest["profile"] == "smoke"


def test_the_same_results_give_the_same_manifest(results):
    first = provenance.write_manifest(results, profile="smoke", source="s")[0].read_bytes()
    assert provenance.write_manifest(results, profile="smoke", source="s")[0].read_bytes() == first
    assert not list(results.glob(".*.part"))


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
    (tmp_path / "unpacked").mkdir()  # an archive inside another project's checkout
    assert provenance.commit(tmp_path / "unpacked") == "unknown"
