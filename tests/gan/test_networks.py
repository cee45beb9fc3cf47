"""Generator and discriminator: shapes, normalisation, weights, and the switches that change what goes in and out."""

import pytest
import torch
from torch.nn import functional as F

from tof2perf.figures.networks import layer_shapes
from tof2perf.gan.networks import PatchDiscriminator, UNetGenerator


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(
    ("shape", "levels"), [((32, 32, 16), 4), ((64, 64, 32), 5), ((20, 28, 12), 3), ((17, 9, 30), 4)]
)
def test_map_has_the_shape_of_the_tof_whatever_the_grid(shape, levels):
    generator = UNetGenerator(levels=levels, filters=2)
    generated = generator(_random(2, 1, *shape))
    assert generated.shape == (2, 1, *shape)
    assert generated.abs().max() <= 1


def test_mirrored_border_leaves_volumes_that_fit_alone():
    generator = UNetGenerator(levels=3, filters=2)
    tof = _random(1, 1, 16, 8, 16)
    wider = F.pad(tof, (0, 0, 4, 4, 0, 0), mode="reflect")
    assert torch.equal(generator(tof[:, :, :, :8]), generator(tof))
    cropped = generator(wider[:, :, :, 2:14])  # 12 voxels are mirrored by 2 on both sides to 16
    assert torch.equal(
        cropped, generator(F.pad(wider[:, :, :, 2:14], (0, 0, 2, 2, 0, 0), mode="reflect"))[:, :, :, 2:14]
    )


def test_too_many_levels_for_a_volume_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"5 levels are too many for a volume of \(32, 32, 8\): use fewer levels"):
        UNetGenerator(levels=5, filters=2)(_random(1, 1, 32, 32, 8))


def test_volume_too_thin_for_the_discriminator_is_continued_with_background():
    tof, perfusion = _random(1, 1, 32, 32, 16), _random(1, 1, 32, 32, 16, seed=1)
    discriminator = PatchDiscriminator(filters=2, layers=3)
    logits = discriminator(tof, perfusion)
    thicker = (F.pad(volume, (4, 4), value=-1.0) for volume in (tof, perfusion))
    assert logits.shape == (1, 1, 2, 2, 1)
    assert torch.equal(logits, discriminator(*thicker))


def test_background_beyond_the_border_changes_nothing_inside_the_first_level():
    """Zero padding must look like background: at 0, the middle of the TOF's range, it would look like vessels."""
    generator = UNetGenerator(levels=2, filters=4)
    tof = _random(1, 1, 8, 8, 8)
    features = []
    generator.down[0].register_forward_hook(lambda _, __, output: features.append(output))
    generator(tof)
    generator(F.pad(tof, (4, 4, 4, 4, 4, 4), value=-1.0))
    torch.testing.assert_close(features[0], features[1][:, :, 2:-2, 2:-2, 2:-2])


def test_paper_size_halves_to_a_bottleneck_of_2_by_2_by_1_and_back():
    """Shapes only: tensors without storage stand for the 256x256x128 volume."""
    with torch.device("meta"):
        generator, discriminator = UNetGenerator(levels=7, filters=64), PatchDiscriminator(filters=64, layers=3)
        volume = torch.empty(1, 1, 256, 256, 128)
    shapes = dict(layer_shapes(generator, volume))
    assert shapes["down 1"] == (64, 128, 128, 64)
    assert shapes["down 7"] == (512, 2, 2, 1)
    assert shapes["up 7"] == (512, 4, 4, 2)
    assert shapes["up 1"] == (1, 256, 256, 128)
    assert layer_shapes(discriminator, volume, volume)[-1] == ("logits", (1, 30, 30, 14))


def test_training_and_inference_behave_the_same():
    tof, perfusion = _random(1, 1, 16, 16, 16), _random(1, 1, 16, 16, 16, seed=1)
    generator, discriminator = UNetGenerator(levels=3, filters=4), PatchDiscriminator(filters=4, layers=2)
    assert torch.equal(generator.train()(tof), generator.eval()(tof))
    assert torch.equal(discriminator.train()(tof, perfusion), discriminator.eval()(tof, perfusion))


def test_a_volume_is_judged_the_same_alone_and_in_a_batch():
    tofs, maps = _random(2, 1, 16, 16, 16), _random(2, 1, 16, 16, 16, seed=1)
    discriminator = PatchDiscriminator(filters=4, layers=2)
    together = discriminator(tofs, maps)
    alone = torch.cat([discriminator(tofs[:1], maps[:1]), discriminator(tofs[1:], maps[1:])])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_absolute_intensity_of_the_tof_reaches_the_map():
    generator = UNetGenerator(levels=3, filters=4, spread=0.1)
    tof = _random(1, 1, 16, 16, 16)
    assert (generator(tof) - generator(tof * 0.5 - 0.5)).abs().max() > 1e-3


def test_every_weight_learns():
    generator = UNetGenerator(levels=3, filters=2)
    discriminator = PatchDiscriminator(filters=2, layers=2)
    tof = _random(1, 1, 16, 16, 16)
    discriminator(tof, generator(tof)).square().mean().backward()
    for network in (generator, discriminator):
        dead = [name for name, weight in network.named_parameters() if weight.grad.abs().max() == 0]
        # An offset before instance normalisation is subtracted again; it costs nothing and may stay.
        assert all(name.endswith("convolution.bias") for name in dead)


def test_untrained_generator_gives_the_empty_map():
    generated = UNetGenerator(levels=3, filters=4)(_random(1, 1, 16, 16, 16))
    assert generated.mean() < -0.9


def test_weights_follow_the_generator_they_are_drawn_from():
    def weights(seed: int) -> torch.Tensor:
        network = UNetGenerator(levels=3, filters=4, generator=torch.Generator().manual_seed(seed), spread=0.05)
        return torch.cat([p.flatten() for name, p in network.named_parameters() if name.endswith("convolution.weight")])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert weights(1).std().item() == pytest.approx(0.05, rel=0.02)
    assert weights(1).mean().item() == pytest.approx(0.0, abs=0.002)


def test_building_a_network_with_wrong_sizes_fails_at_once():
    with pytest.raises(ValueError, match="at least 2 levels"):
        UNetGenerator(levels=1, filters=4)
    with pytest.raises(ValueError, match="at least 1 layer"):
        PatchDiscriminator(filters=4, layers=0)


def test_recomputed_activations_change_neither_map_nor_gradients():
    tof = _random(1, 1, 16, 16, 8)
    kept = UNetGenerator(levels=3, filters=4)
    again = UNetGenerator(levels=3, filters=4, recompute=True)
    for network in (kept, again):
        network(tof).square().sum().backward()
    assert torch.equal(kept(tof), again(tof))
    for one, other in zip(kept.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_recomputing_keeps_fewer_bytes_for_the_backward_pass():
    def kept(network: UNetGenerator) -> int:
        storages = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: storages.setdefault(tensor.untyped_storage().data_ptr(), tensor), lambda tensor: tensor
        ):
            network(_random(1, 1, 16, 16, 8))
        return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())

    assert kept(UNetGenerator(levels=3, filters=4, recompute=True)) < 0.7 * kept(UNetGenerator(levels=3, filters=4))


def test_five_maps_leave_one_generator_and_are_judged_together():
    generator, discriminator = UNetGenerator(levels=3, filters=2, maps=5), PatchDiscriminator(filters=2, maps=5)
    tof = _random(2, 1, 16, 16, 8)
    maps = generator(tof)
    assert maps.shape == (2, 5, 16, 16, 8)
    assert discriminator(tof, maps).shape[:2] == (2, 1)
    assert len({maps[0, channel].sum().item() for channel in range(5)}) == 5


def test_mirrored_generator_sees_the_other_hemisphere_in_its_first_level():
    tof = _random(1, 1, 64, 8, 8)
    changed = tof.clone()
    changed[:, :, :4] = 1.0

    def reached(network: UNetGenerator) -> torch.Tensor:
        """Where along the first axis the first level answers to the change."""
        features = []
        hook = network.down[0].register_forward_hook(lambda _, __, output: features.append(output))
        network(tof), network(changed)
        hook.remove()
        return (features[0] != features[1]).any(dim=(0, 1, 3, 4)).nonzero().flatten()

    assert reached(UNetGenerator(levels=2, filters=2)).tolist() == [0, 1, 2]
    assert reached(UNetGenerator(levels=2, filters=2, mirrored=True)).tolist() == [0, 1, 2, 29, 30, 31]
