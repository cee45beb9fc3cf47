"""Digests of the package's code."""

from tof2perf.system import codebase


def test_a_module_is_hashed_with_the_data_files_in_the_folder_of_its_name(tmp_path):
    module, data = tmp_path / "metadata.py", tmp_path / "metadata" / "README"
    module.write_text("")
    data.parent.mkdir()
    hashes = [codebase.hash_module(module)]
    for text in ("one", "two"):
        data.write_text(text)
        codebase.hash_small.cache_clear()
        hashes.append(codebase.hash_module(module))
    assert hashes[0] == codebase.hash_small(module) and len(set(hashes)) == 3
