"""What `make bench` measured, as tables: ``python tests/benchmark_tables.py results/benchmarks.json``."""

import json
import sys
from pathlib import Path


def tables(results: dict) -> str:
    """Markdown: simulation, deconvolution, training step, and the parts of that step."""
    found: dict[str, dict[tuple, dict]] = {}
    for entry in results["benchmarks"]:
        key = tuple(sorted((entry["params"] or {}).items()))
        found.setdefault(entry["name"].split("[")[0], {})[key] = entry
    machine = results["machine_info"]["cpu"].get("brand_raw", "processor")
    return "\n\n".join([f"Measured on: {machine}.", _patients(found), _deconvolution(found), *_training(found)])


def _patients(found: dict) -> str:
    rows = []
    for key, entry in sorted(found["test_one_patient"].items()):
        case, info = dict(key), entry["extra_info"]
        rows.append((f"{case['profile']}, {case['cohort']}", f"{info['seconds']:.2f}", f"{info['peak_gb']:.2f}"))
    return _markdown(("one simulated patient, one thread", "seconds", "peak memory (GB)"), rows)


def _deconvolution(found: dict) -> str:
    rows = []
    for name, text in (("test_deconvolution", "deconvolution"), ("test_series_to_maps", "series to five maps")):
        for key, entry in found[name].items():
            rate = entry["extra_info"]["voxels_per_second"]
            rows.append((f"{text}, {dict(key)['method']}", f"{float(f'{rate:.2g}'):,.0f}"))
    return _markdown(("one thread", "voxels a second"), rows)


def _training(found: dict) -> list[str]:
    """The step beside the released one, and its parts; rates as shares of that of a large matrix product."""
    measured = [entry for cases in found.values() for entry in cases.values() if "product" in entry["extra_info"]]
    product = {
        precision: max(max(entry["extra_info"]["product"][precision]) for entry in measured)
        for precision in ("float32", "bfloat16")
    }
    rows = []
    steps = {(dict(key)["size"], dict(key)["algorithm"]): entry for key, entry in found["test_step"].items()}
    for (size, algorithm), entry in steps.items():
        seconds, yardstick = entry["stats"]["min"], steps[size, "released"]["stats"]["min"]
        share = "" if algorithm == "released" else _share(entry, product, algorithm)
        rows.append((size, algorithm, f"{seconds:.3f}", f"{yardstick / seconds:.1f} times as fast", share))
    for key, entry in found["test_full_size_step"].items():
        case, info = dict(key), entry["extra_info"]
        share = info["operations"] / info["seconds"] / product[case["precision"]]
        kept = "recomputed" if case["recompute"] else "kept"
        name = f"ours in {case['precision']}, activations {kept}"
        seconds = f"{info['seconds']:.1f} ({info['cpu_seconds']:.0f} of CPU)"
        rows.append(("256x256x128, 64 filters", name, seconds, f"peak {info['peak_gb']:.2f} GB", f"{share:.0%}"))
    bounds = [
        f"{entry['stats']['min'] / (entry['extra_info']['operations'] / product['float32']):.1f} times ({size})"
        for (size, algorithm), entry in steps.items()
        if algorithm == "released"
    ]
    bound = (
        "With every operation at the rate of the matrix product, the float32 step would be "
        f"{' and '.join(bounds)} as fast as the released one."
    )
    rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {precision}" for precision, rate in product.items())
    last = f"share of the rate of a large matrix product ({rates})"
    parts = []
    for key, entry in found["test_part_of_the_step"].items():
        share = _share(entry, product, "") if entry["extra_info"]["operations"] else ""
        parts.append((dict(key)["group"], dict(key)["size"], f"{entry['stats']['min']:.4f}", share))
    return [
        _markdown(("volume", "training step", "seconds", "against the released step; memory", last), rows),
        bound,
        _markdown(("part of the step", "volume", "seconds", "share of the matrix product's rate"), parts),
    ]


def _share(entry: dict, product: dict[str, float], algorithm: str) -> str:
    """Operations a second in the fastest round over those of the matrix product."""
    rate = entry["extra_info"]["operations"] / entry["stats"]["min"]
    return f"{rate / product['bfloat16' if 'bfloat16' in algorithm else 'float32']:.0%}"


def _markdown(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ("---",) * len(header), *rows))


if __name__ == "__main__":
    print(tables(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
