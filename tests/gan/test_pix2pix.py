"""One step of the GAN: who learns from what, what the switches change, and that they cost no more than they should."""

import dataclasses

import pytest
import torch
from helpers.tiny_training import SHAPE, Network, Training

from tof2perf.gan import pix2pix
from tof2perf.gan.devices import make_fabric
from tof2perf.gan.losses import adversarial
from tof2perf.gan.pix2pix import Pix2Pix


def _model(network: Network | None = None, *, maps: int = 1, **options) -> Pix2Pix:
    training = Training(**options)
    return Pix2Pix(network or Network(), training, maps=maps, seed=3, fabric=make_fabric(training))


@pytest.fixture
def model():
    return _model()


def _volumes(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tof, target = torch.rand((2, 1, 1, *SHAPE), generator=generator) * 2 - 1
    return tof, target


def test_one_step_runs_the_generator_once_and_reports_every_loss(model):
    passes = []
    model.generator.register_forward_hook(lambda *_: passes.append(1))
    losses = model.step(*_volumes(), rate=1.0)
    assert len(passes) == 1
    assert set(losses) == {"discriminator", "adversarial", "l1", "ssim", "generator"}
    assert losses["generator"] == pytest.approx(losses["adversarial"] + 100 * losses["l1"] + 10 * losses["ssim"])


def test_discriminator_step_sends_no_gradient_into_the_generator(model):
    gradients = {}
    for name, optimiser in model.optimisers.items():
        optimiser.register_step_pre_hook(
            lambda *_, name=name: gradients.update(
                {name: [weight.grad is not None for weight in model.generator.parameters()]}
            )
        )
    model.step(*_volumes(), rate=1.0)
    assert not any(gradients["discriminator"])
    assert all(gradients["generator"])


def test_generator_step_leaves_the_discriminator_alone(model):
    states = []
    for optimiser in model.optimisers.values():
        optimiser.register_step_post_hook(
            lambda *_: states.append({key: value.clone() for key, value in model.discriminator.state_dict().items()})
        )
    model.step(*_volumes(), rate=1.0)
    after_discriminator, after_generator = states
    assert all(torch.equal(after_discriminator[key], after_generator[key]) for key in after_generator)


def test_all_losses_fall_on_a_single_pair(model):
    volumes = _volumes()
    first = model.step(*volumes, rate=1.0)
    for _ in range(40):
        last = model.step(*volumes, rate=1.0)
    assert last["l1"] < 0.7 * first["l1"]
    assert last["ssim"] < first["ssim"]
    assert last["discriminator"] < first["discriminator"]


def test_rate_zero_changes_no_weight(model):
    before = [weight.clone() for weight in model.generator.parameters()]
    model.step(*_volumes(), rate=0.0)
    assert all(torch.equal(one, other) for one, other in zip(before, model.generator.parameters(), strict=True))


def test_without_adversarial_weight_the_discriminator_is_not_run():
    model = _model(adversarial_weight=0.0, ssim_weight=0.0)
    model.discriminator.register_forward_hook(lambda *_: pytest.fail("the discriminator ran"))
    losses = model.step(*_volumes(), rate=1.0)
    assert losses["discriminator"] == losses["adversarial"] == losses["ssim"] == 0
    assert losses["generator"] == pytest.approx(100 * losses["l1"])


def test_gradients_are_released_before_the_next_forward_pass(model):
    model.step(*_volumes(), rate=1.0)
    assert all(weight.grad is None for part in (model.generator, model.discriminator) for weight in part.parameters())


def test_generator_starts_from_weights_of_the_spread_in_the_profile():
    for spread in (0.02, 0.1):
        model = _model(Network(generator_filters=8), initial_spread=spread)
        assert model.generator.down[2].convolution.weight.std().item() == pytest.approx(spread, rel=0.05)


def test_large_volumes_are_judged_in_two_parts_with_the_same_outcome(monkeypatch):
    once, parts = _model(), _model()
    expected = once.step(*_volumes(), rate=1.0)
    passes = []
    parts.discriminator.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    monkeypatch.setattr(pix2pix, "TOGETHER", 0)
    assert parts.step(*_volumes(), rate=1.0) == pytest.approx(expected, rel=1e-5)
    assert passes == [1, 1, 1]  # real, generated, and generated again for the generator
    # An offset before instance normalisation has no gradient but rounding errors, which Adam scales up: weights alone.
    one, other = (dict(model.discriminator.named_parameters()) for model in (once, parts))
    for name in one:
        if name.endswith("weight"):
            torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-5)


def test_released_objective_has_no_gradient_from_ssim():
    ssim_alone = {"adversarial_weight": 0.0, "l1_weight": 0.0}
    intended, released = (_model(objective=objective, **ssim_alone) for objective in ("intended", "released"))
    start = [weight.clone() for weight in released.generator.parameters()]
    values = [model.step(*_volumes(), rate=1.0) for model in (intended, released)]
    assert values[0]["ssim"] == values[1]["ssim"] > 0
    assert all(torch.equal(*pair) for pair in zip(start, released.generator.parameters(), strict=True))
    assert not all(torch.equal(*pair) for pair in zip(start, intended.generator.parameters(), strict=True))


def test_released_objective_squeezes_the_answers_through_two_sigmoids():
    tof, target = _volumes()
    model = _model(objective="released")
    with torch.no_grad():
        logits = model.discriminator(torch.cat([tof, tof]), torch.cat([target, model.generator(tof)]))
    real, fake = torch.sigmoid(logits).chunk(2)
    expected = 0.5 * (adversarial(real, real=True) + adversarial(fake, real=False))
    assert model.step(tof, target, rate=1.0)["discriminator"] == pytest.approx(expected.item(), rel=1e-5)
    # Between 0 and 1 a loss that takes logits cannot fall below log(1 + 1/e), however sure the discriminator is.
    assert adversarial(torch.sigmoid(torch.tensor([50.0])), real=True).item() == pytest.approx(0.3133, abs=1e-4)


def test_a_batch_teaches_what_the_mean_gradient_of_its_patients_would():
    volumes = [_volumes(seed) for seed in (0, 1)]
    batch = [torch.cat(sides) for sides in zip(*volumes, strict=True)]
    losses = _model(adversarial_weight=0.0).step(*batch, rate=1.0)
    singly = [_model(adversarial_weight=0.0).step(*pair, rate=1.0) for pair in volumes]
    for name in ("l1", "ssim", "generator"):
        assert losses[name] == pytest.approx(sum(one[name] for one in singly) / 2, rel=1e-5)


def test_bfloat16_gives_nearly_the_losses_of_float32_and_keeps_weights_in_float32():
    network = Network(generator_filters=8, discriminator_filters=8)
    exact, short = _model(network), _model(network, precision="bfloat16")
    for _ in range(3):
        expected, found = (model.step(*_volumes(), rate=1.0) for model in (exact, short))
        assert found == pytest.approx(expected, rel=0.03)
        assert found != expected
    assert {weight.dtype for weight in short.generator.parameters()} == {torch.float32}


def test_bfloat16_is_used_inside_the_networks():
    model = _model(precision="bfloat16")
    seen = []
    model.generator.down[1].convolution.register_forward_hook(lambda *arguments: seen.append(arguments[2].dtype))
    model.step(*_volumes(), rate=1.0)
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("options", [{}, {"objective": "released"}, {"precision": "bfloat16"}], ids=str)
@pytest.mark.parametrize("maps", [1, 5])
def test_restored_model_goes_on_as_the_one_that_was_saved(options, maps):
    tof, target = _volumes()
    target = target.expand(1, maps, *SHAPE)
    saved, restored = _model(maps=maps, **options), _model(maps=maps, **options)
    for _ in range(2):
        saved.step(tof, target, rate=1.0)
    restored.restore({name: tensor.clone() for name, tensor in saved.state().items()})
    assert restored.step(tof, target, rate=0.5) == saved.step(tof, target, rate=0.5)
    assert all(torch.equal(tensor, restored.state()[name]) for name, tensor in saved.state().items())


def test_training_section_of_every_profile_builds_a_model():
    from tof2perf.profiles import load_profile

    for name in ("smoke", "laptop"):
        profile = load_profile(name)
        section = dataclasses.replace(profile.training, device="cpu")
        model = Pix2Pix(profile.network, section, seed=1, fabric=make_fabric(section))
        assert model.generator.levels == profile.network.levels
