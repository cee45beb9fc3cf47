"""One pix2pix GAN: both networks, their optimisers, and the step in which they learn from one batch."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from tof2perf.gan.losses import adversarial, l1, ssim
from tof2perf.gan.networks import PatchDiscriminator, UNetGenerator
from tof2perf.gan.weights import prefixed, under

LOSSES = ("discriminator", "adversarial", "l1", "ssim", "generator")
TOGETHER = 2**18  # voxels of a batch up to which real and generated maps are judged in one pass


class Pix2Pix:
    """Generator, discriminator and their optimisers.

    ``objective: released`` repeats two faults of the released code, to show their effect. The SSIM term is added to the
    loss but has no gradient, because that code computes it in NumPy. The discriminator's answers go through a sigmoid
    before a loss that takes logits.

    Args:
        network: profile section :class:`tof2perf.profiles.NetworkProfile`.
        training: profile section :class:`tof2perf.profiles.TrainingProfile`.
        maps: how many maps are made at once.
        seed: seed of the initial weights.
        fabric: device, precision and the other processes, from :func:`tof2perf.gan.devices.make_fabric`.
    """

    def __init__(self, network: Any, training: Any, *, maps: int = 1, seed: int, fabric: Fabric) -> None:
        start = {"generator": torch.Generator().manual_seed(seed), "spread": training.initial_spread, "maps": maps}
        recompute = training.checkpoint_activations
        self.generator = UNetGenerator.from_profile(network, recompute=recompute, **start)
        self.discriminator = PatchDiscriminator.from_profile(network, **start)
        self.training, self.fabric = training, fabric
        # The layout for tensor cores. On processors it is slower, and group normalisation crashes (PyTorch 2.13).
        self.layout = torch.channels_last_3d if fabric.device.type == "cuda" else torch.contiguous_format
        for part in (self.generator, self.discriminator):
            part.to(fabric.device).to(memory_format=self.layout)  # type: ignore[call-overload]
        self.rates = {"generator": training.generator_rate, "discriminator": training.discriminator_rate}
        self.optimisers = {
            name: torch.optim.Adam(getattr(self, name).parameters(), lr=rate, betas=training.betas, fused=True)
            for name, rate in self.rates.items()
        }

    def step(self, tof: Tensor, target: Tensor, *, rate: float) -> dict[str, float]:
        """Learn from one batch, or from this process's share of it.

        Args:
            tof: (batch, 1, x, y, z) in [-1, 1].
            target: (batch, maps, x, y, z) in [-1, 1].
            rate: factor on both learning rates, from the schedule.

        Returns:
            Every loss before its weight, and ``generator``, their weighted sum; means over all processes.
        """
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = rate * self.rates[name]
        tof, target = (volume.contiguous(memory_format=self.layout) for volume in (tof, target))
        training = self.training
        losses = {name: torch.zeros((), device=tof.device) for name in LOSSES}

        # Forward: once; both steps below use this volume.
        with self.fabric.autocast():
            generated = self.generator(tof)
        generated = generated.float()

        # Discriminator step: the generated volume is detached, so nothing reaches the generator.
        if training.adversarial_weight:
            self.discriminator.requires_grad_(True)
            losses["discriminator"] = self._update(
                "discriminator", self._discriminator_loss(tof, target, generated.detach())
            )

        # Generator step: against the discriminator just updated, whose own weights need no gradient now.
        if training.adversarial_weight:
            self.discriminator.requires_grad_(False)
            losses["adversarial"] = adversarial(self._answers(tof, generated), real=True)
        losses["l1"] = l1(generated, target)
        if training.ssim_weight:
            compared = generated.detach() if training.objective == "released" else generated
            losses["ssim"] = 1.0 - ssim(compared, target, data_range=2.0)
        total = training.adversarial_weight * losses["adversarial"] + training.l1_weight * losses["l1"]
        losses["generator"] = self._update("generator", [total + training.ssim_weight * losses["ssim"]])
        values = self._mean_over_processes(torch.stack([losses[name].detach() for name in LOSSES]))
        return dict(zip(LOSSES, values.tolist(), strict=True))

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of both networks, named."""
        generator, discriminator = self.generator.state_dict(), self.discriminator.state_dict()
        return prefixed("generator", generator) | prefixed("discriminator", discriminator)

    def state(self) -> dict[str, Tensor]:
        """Return every tensor that the next step depends on, named."""
        tensors = self.weights()
        for name, optimiser in self.optimisers.items():
            for index, moments in optimiser.state_dict()["state"].items():
                tensors |= prefixed(f"adam/{name}/{index}", moments)
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the tensors of :meth:`state`."""
        for name, optimiser in self.optimisers.items():
            getattr(self, name).load_state_dict(under(name, tensors))
            groups = optimiser.state_dict()["param_groups"]
            states = {index: under(f"adam/{name}/{index}", tensors) for index in groups[0]["params"]}
            states = {index: moments for index, moments in states.items() if moments}
            optimiser.load_state_dict({"state": states, "param_groups": groups})

    def _discriminator_loss(self, tof: Tensor, target: Tensor, generated: Tensor) -> Iterable[Tensor]:
        """Compute the discriminator's loss: of small volumes at once, of large ones in two parts for half the memory.

        Normalisation is per volume, so both ways give the same.
        """
        if tof.numel() <= TOGETHER:
            real, fake = self._answers(torch.cat([tof, tof]), torch.cat([target, generated])).chunk(2)
            yield 0.5 * (adversarial(real, real=True) + adversarial(fake, real=False))
        else:
            yield 0.5 * adversarial(self._answers(tof, target), real=True)
            yield 0.5 * adversarial(self._answers(tof, generated), real=False)

    def _answers(self, tof: Tensor, maps: Tensor) -> Tensor:
        """Judge maps: the discriminator's logits for every patch, or their sigmoid if the objective is ``released``."""
        with self.fabric.autocast():
            logits = self.discriminator(tof, maps)
        return torch.sigmoid(logits.float()) if self.training.objective == "released" else logits.float()

    def _update(self, name: str, parts: Iterable[Tensor]) -> Tensor:
        """Update one network by the gradient of the sum of the parts and return that sum.

        Gradients are released at once. At full size they would otherwise take as much memory as the weights.
        """
        total = torch.zeros((), device=self.fabric.device)
        for part in parts:
            part.backward()
            total = total + part.detach()
        for weight in getattr(self, name).parameters():
            if weight.grad is not None:
                weight.grad = self._mean_over_processes(weight.grad)
        self.optimisers[name].step()
        self.optimisers[name].zero_grad(set_to_none=True)
        return total

    def _mean_over_processes(self, values: Tensor) -> Tensor:
        return cast(Tensor, self.fabric.all_reduce(values, reduce_op="mean"))
