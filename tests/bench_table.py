"""Print what `make bench` measured as the table for the README: python tests/bench_table.py results/benchmarks.json."""

import json
import sys
from pathlib import Path


def table(results: dict) -> str:
    """Markdown: seconds (the least of all rounds), and the rate as a share of that of a large matrix product."""
    found = {entry["name"].split("[")[0]: {} for entry in results["benchmarks"]}
    for entry in results["benchmarks"]:
        key = tuple(sorted((entry["params"] or {}).items()))
        found[entry["name"].split("[")[0]][key] = entry
    product = {
        precision: max(max(entry["extra_info"]["product"][precision]) for entry in results["benchmarks"])
        for precision in ("float32", "bfloat16")
    }
    machine = results["machine_info"]["cpu"]
    lines = [
        f"{machine.get('brand_raw', 'processor')}, large matrix product "
        + ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {precision}" for precision, rate in product.items()),
        "",
        "| volume | step | seconds | against the released step | share of the matrix product's rate |",
        "| --- | --- | --- | --- | --- |",
    ]
    steps = {(dict(key)["size"], dict(key)["algorithm"]): entry for key, entry in found["test_step"].items()}
    for (size, algorithm), entry in steps.items():
        seconds, yardstick = entry["stats"]["min"], steps[size, "released"]["stats"]["min"]
        share = "" if algorithm == "released" else _share(_rate(entry), product, algorithm)
        lines.append(f"| {size} | {algorithm} | {seconds:.3f} | {yardstick / seconds:.1f} times as fast | {share} |")
    for key, entry in found.get("test_full_size_step", {}).items():
        params, info = dict(key), entry["extra_info"]
        precision = params["precision"]
        share = info["operations"] / info["seconds"] / product[precision]
        kept = "activations recomputed" if params["recompute"] else "activations kept"
        lines.append(
            f"| 256x256x128, 64 filters | ours in {precision}, {kept} | {info['seconds']:.1f} "
            f"({info['cpu_seconds']:.0f} of CPU) | peak {info['peak_gb']:.2f} GB | {share:.0%} |"
        )
    lines += [
        "",
        "| part of the step | volume | seconds | share of the matrix product's rate |",
        "| --- | --- | --- | --- |",
    ]
    for key, entry in found.get("test_part_of_the_step", {}).items():
        params = dict(key)
        share = _share(_rate(entry), product, "") if entry["extra_info"]["operations"] else ""
        lines.append(f"| {params['group']} | {params['size']} | {entry['stats']['min']:.4f} | {share} |")
    return "\n".join(lines)


def _rate(entry: dict) -> float:
    """Operations a second in the fastest round."""
    return entry["extra_info"]["operations"] / entry["stats"]["min"]


def _share(rate: float, product: dict[str, float], algorithm: str) -> str:
    return f"{rate / product['bfloat16' if 'bfloat16' in algorithm else 'float32']:.0%}"


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
