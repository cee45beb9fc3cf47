"""The training objective: parity with scikit-image, limits, and gradients that lead somewhere."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from tof2perf.gan.losses import adversarial, l1, ssim


def _pair(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    first = rng.uniform(-1, 1, shape)
    return first, np.clip(first + rng.normal(0, 0.3, shape), -1, 1)


def _tensor(volume: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(volume)[None, None]


@pytest.mark.parametrize("shape", [(16, 16, 16), (23, 17, 12), (11, 30, 14)])
@pytest.mark.parametrize("data_range", [2.0, 1.0])
def test_ssim_equals_that_of_scikit_image(rng, shape, data_range):
    first, second = _pair(rng, shape)
    reference = structural_similarity(first, second, data_range=data_range)
    ours = ssim(_tensor(first), _tensor(second), data_range=data_range).item()
    assert ours == pytest.approx(reference, abs=1e-10)


def test_ssim_in_single_precision_stays_within_1e5_of_scikit_image_on_a_mostly_empty_volume(rng):
    first, second = _pair(rng, (32, 32, 16))
    first[:10], second[:10] = -1.0, -1.0  # background, where variances are differences of equal numbers
    reference = structural_similarity(first, second, data_range=2.0)
    ours = ssim(_tensor(first).float(), _tensor(second).float(), data_range=2.0).item()
    assert ours == pytest.approx(reference, abs=1e-5)


def test_ssim_of_a_batch_is_the_mean_over_its_volumes(rng):
    pairs = [_pair(rng, (12, 13, 14)) for _ in range(2)]
    firsts, seconds = (torch.cat([_tensor(volume) for volume in side]) for side in zip(*pairs, strict=True))
    singly = [ssim(_tensor(a), _tensor(b), data_range=2.0).item() for a, b in pairs]
    assert ssim(firsts, seconds, data_range=2.0).item() == pytest.approx(np.mean(singly), abs=1e-12)


def test_ssim_is_one_for_equal_volumes_and_symmetric(rng):
    first, second = (_tensor(volume) for volume in _pair(rng, (12, 13, 14)))
    assert ssim(first, first, data_range=2.0).item() == pytest.approx(1.0, abs=1e-12)
    there, back = (ssim(*pair, data_range=2.0) for pair in ((first, second), (second, first)))
    assert there.item() == pytest.approx(back.item(), abs=1e-14)


def test_gradient_of_ssim_is_the_true_one(rng):
    first, second = (_tensor(volume) for volume in _pair(rng, (11, 12, 13)))
    first.requires_grad_(True)
    ssim(first, second, data_range=2.0).backward()
    direction = torch.from_numpy(rng.normal(size=first.shape))
    step = 1e-5
    with torch.no_grad():
        ahead, behind = (ssim(first + sign * step * direction, second, data_range=2.0).item() for sign in (1, -1))
    slope = (first.grad * direction).sum().item()
    assert abs(slope) > 1e-4
    assert slope == pytest.approx((ahead - behind) / (2 * step), rel=1e-6)


def test_gradcheck_of_ssim(rng):
    first, second = (_tensor(volume) for volume in _pair(rng, (7, 7, 8)))
    assert torch.autograd.gradcheck(lambda volume: ssim(volume, second, data_range=2.0), first.requires_grad_(True))


def test_ssim_refuses_what_it_cannot_compare():
    volume = torch.zeros(1, 1, 8, 8, 8)
    with pytest.raises(ValueError, match="volumes of one shape"):
        ssim(volume, volume[..., :7], data_range=2.0)
    with pytest.raises(ValueError, match=r"spans 7 voxels.*set the SSIM weight to 0"):
        ssim(volume[..., :6], volume[..., :6], data_range=2.0)
    with pytest.raises(ValueError, match="for its first volume alone"):
        ssim(volume, volume.clone().requires_grad_(), data_range=2.0)


def test_adversarial_loss_takes_logits():
    logits = torch.tensor([-3.0, 0.5, 2.0], dtype=torch.float64)
    for real in (True, False):
        probability = torch.sigmoid(logits) if real else 1 - torch.sigmoid(logits)
        assert adversarial(logits, real=real).item() == pytest.approx(-probability.log().mean().item(), rel=1e-12)


def test_undecided_discriminator_costs_log_two():
    assert adversarial(torch.zeros(5), real=True).item() == pytest.approx(math.log(2))
    assert adversarial(torch.zeros(5), real=False).item() == pytest.approx(math.log(2))


def test_adversarial_loss_stays_finite_and_keeps_its_gradient_for_a_certain_discriminator():
    logits = torch.full((4,), -200.0, requires_grad=True)
    loss = adversarial(logits, real=True)
    loss.backward()
    assert loss.item() == pytest.approx(200.0)
    assert logits.grad.sum().item() == pytest.approx(-1.0)


def test_l1_is_the_mean_absolute_difference():
    assert l1(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 1.0])).item() == pytest.approx(1.5)
