"""Every fast form of a convolution equals the ordinary one, and so do its gradients."""

import pytest
import torch
from torch.nn import functional as F

from tof2perf.gan import convolutions
from tof2perf.gan.convolutions import Convolution, FirstConvolution, LastTransposed, Transposed

STRIDED = {"stride": 2, "padding": 1}


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def _assert_same(layer, reference, *volumes: torch.Tensor) -> None:
    """Same values, and same gradients for the volumes that want one, the weights and the offsets."""
    layer = layer.double()
    torch.nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(5))
    inputs = (*(volume for volume in volumes if volume.requires_grad), layer.weight, layer.bias)
    expected = reference(torch.cat(volumes, dim=1), layer.weight, layer.bias, **STRIDED)
    found = layer(*volumes)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    pull = _random(*expected.shape, seed=6)
    for ours, theirs in zip(
        torch.autograd.grad((found * pull).sum(), inputs),
        torch.autograd.grad((expected * pull).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("few", [0, 32], ids=["as PyTorch does it", "as a matrix product"])
@pytest.mark.parametrize(("batch", "shape"), [(1, (4, 4, 2)), (2, (2, 6, 2)), (1, (2, 2, 2))])
def test_convolution_for_few_voxels(monkeypatch, few, batch, shape):
    monkeypatch.setattr(convolutions, "FEW", few)
    _assert_same(Convolution(3, 5), F.conv3d, _random(batch, 3, *shape).requires_grad_())


@pytest.mark.parametrize("few", [0, 32], ids=["as PyTorch does it", "as a matrix product"])
@pytest.mark.parametrize(("batch", "shape"), [(1, (2, 2, 1)), (2, (1, 3, 2)), (1, (1, 1, 1))])
def test_transposed_convolution_for_few_voxels(monkeypatch, few, batch, shape):
    monkeypatch.setattr(convolutions, "FEW", few)
    _assert_same(Transposed(3, 5), F.conv_transpose3d, _random(batch, 3, *shape).requires_grad_())


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 2, 1)])
@pytest.mark.parametrize("channels", [(3,), (1, 2)], ids=["one volume", "two volumes"])
@pytest.mark.parametrize("many", [0, 2**25], ids=["apart", "joined"])
def test_last_transposed_convolution(monkeypatch, shape, channels, many):
    monkeypatch.setattr(convolutions, "MANY", many)
    volumes = (_random(2, width, *shape, seed=width).requires_grad_() for width in channels)
    _assert_same(LastTransposed(3, 2), F.conv_transpose3d, *volumes)


@pytest.mark.parametrize("maps", [1, 2])
@pytest.mark.parametrize("learning", [False, True], ids=["maps measured", "maps generated"])
def test_first_convolution_of_the_discriminator(maps, learning):
    tof, targets = _random(2, 1, 6, 8, 4), _random(2, maps, 6, 8, 4, seed=1)
    _assert_same(FirstConvolution(maps, 3), F.conv3d, tof, targets.requires_grad_(learning))
