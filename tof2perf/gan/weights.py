"""Weights and training state on disk: safetensors with one JSON header, checked on reading, never unpickled."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tof2perf.system.files import write_bytes

HEADER = "tof2perf"  # the one metadata key: safetensors keeps no order among several, and bytes must be reproducible


class WeightsError(ValueError):
    """A file of weights that cannot be used; the message names the file and what is wrong, in one line."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict) -> None:
    """Write tensors and a JSON-serialisable header in one file, atomically; equal content gives equal bytes."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({**header, "sha256": _digest(content)}, allow_nan=False)
    write_bytes(path, save(content, metadata={HEADER: text}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read back what :func:`write_tensors` wrote.

    Raises:
        WeightsError: missing, truncated, altered or foreign file.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: missing")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except KeyError:
        raise WeightsError(f"{path}: not written by this package") from None
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: damaged ({reason})") from None
    if header.pop("sha256", None) != _digest(tensors):
        raise WeightsError(f"{path}: damaged (its content does not match its checksum)")
    return tensors, header


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put ``prefix/`` before every name, to keep several networks in one file."""
    return {f"{prefix}/{name}": tensor for name, tensor in state.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the tensors whose name begins with ``prefix/`` and remove that prefix: inverse of :func:`prefixed`."""
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
