"""The official training codes of DiT, MaskDiT and MDT as contenders: their networks, losses and steps, from a checkout.

Nothing of them is kept here: what a step calls, and in which order, is written anew after the lines that each comment
names, at DiT ed81ce2, MaskDiT 73cfb96 and MDT 71a0f94 (its branch mdtv1, which SD-DiT compares with). What is left out
of a step only makes it faster, and `conditions` says it.

N images, B of a batch, C channels, S side, K classes.
"""

from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.bench.measure import Contender
from harness.bench.official_checkout import Project, load
from harness.bench.official_step import PRECISIONS, OfficialStep, Precision, Setting
from harness.system.errors import UsageError, unknown

SCALE = 0.18215  # between the VAE's latents and a network's input, in all three codes


def official(method: str, folder: Path, setting: Setting) -> Contender:
    """The official code of `method` ("dit", "maskdit", "mdt") in the checkout `folder`, ready to step.

    A step takes the next whole batch.

    Raises UsageError for a method without an official code, a folder without it, or a precision that it or the device
    does not have, SetupError for a package that it needs and that is not installed.
    """
    if method not in STEPS:
        raise unknown("official code", method, STEPS)
    images, batch_size = len(setting.labels), setting.batch_size
    if images < batch_size:
        raise UsageError(f"{images} images do not fill a batch of {batch_size}; give at least as many.")
    step = STEPS[method]
    return step(setting, load(step.project, folder))


class _DiT(OfficialStep):
    """DiT train.py:198-214."""

    project = Project(
        "facebookresearch/DiT",
        needs=("models:DiT", "models:DiT_models", "diffusion:create_diffusion"),
        packages=("timm.models.vision_transformer",),
    )
    own_precision = PRECISIONS["tf32"]  # train.py:12-13
    left_out = ("the VAE's encoding of the images (train.py:201-203)",)
    optimizer_name = "AdamW as torch chooses to run it, learning rate 1e-4"

    def _network(self) -> nn.Module:
        models, name = self.checkout.modules["models"], self._named()
        make = models.DiT_models[f"DiT-{name}"] if name else partial(models.DiT, **self._numbers())
        return make(**self._data())

    def _prepare(self) -> None:
        self.diffusion = self.checkout.modules["diffusion"].create_diffusion(timestep_respacing="")  # train.py:150
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, weight_decay=0)  # train.py:155
        self.ema = self._frozen_copy()
        self.running_loss = 0.0

    def _step(self, clean: Tensor, labels: Tensor) -> Tensor:
        level = torch.randint(0, self.diffusion.num_timesteps, (len(clean),), device=clean.device)  # train.py:204
        loss = self.diffusion.training_losses(self.model, clean, level, {"y": labels})["loss"].mean()  # train.py:206
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self._average()
        self.running_loss += loss.item()  # train.py:214: in every step, and it waits for the device
        return loss.detach()

    @torch.no_grad()
    def _average(self, decay: float = 0.9999) -> None:
        """train.py:39-49, called in train.py:211: the fixed positions are averaged too."""
        averages = dict(self.ema.named_parameters())
        for name, weight in self.model.module.named_parameters():
            averages[name].mul_(decay).add_(weight.data, alpha=1 - decay)


class _MaskDiT(OfficialStep):
    """MaskDiT train.py:200-235, with configs/train/imagenet256-latent.yaml."""

    project = Project(
        "Anima-Lab/MaskDiT",
        needs=(
            "models.maskdit:DiT", "models.maskdit:DiT_models", "models.maskdit:Precond_models",
            "train_utils.loss:Losses", "train_utils.helper:update_ema", "utils:sample",
        ),
        packages=("timm.models.vision_transformer",),
    )  # fmt: skip
    # train.py:39-40; the config's tf32 is false, and what train.py:44-46 then leaves alone is torch's own default.
    own_precision = Precision("fp16", tf32_convolutions=True, autocast=torch.float16)
    compiles = True  # train.py:179
    left_out = ("accelerate: its autocast and loss scaling are called without it",)
    optimizer_name = "fused AdamW of torch in place of apex's FusedAdam, learning rate 1e-4"
    mask_ratio, mae_weight, label_dropout, learning_rate = 0.5, 0.1, 0.1, 1e-4  # the config's

    def _network(self) -> nn.Module:
        models, name, shape = self.checkout.modules["models.maskdit"], self._named(), self.setting.shape
        if name is None:  # the wrapper takes a size by a name of this table only
            name = "another"
            models.DiT_models[f"DiT-{name}"] = partial(models.DiT, **self._numbers())
        return models.Precond_models["edm"](  # train.py:123-131
            img_resolution=shape.side,
            img_channels=shape.channels,
            num_classes=shape.num_classes,
            model_type=f"DiT-{name}",
            use_decoder=True,
            mae_loss_coef=self.mae_weight,
            pad_cls_token=False,
        )

    def _prepare(self) -> None:
        self.loss_of = self.checkout.modules["train_utils.loss"].Losses["edm"]()  # train.py:182
        self.update_ema = self.checkout.modules["train_utils.helper"].update_ema
        self.draw_latents = self.checkout.modules["utils"].sample
        self.optimizer = torch.optim.AdamW(  # train.py:141
            self.network.parameters(), lr=self.learning_rate, weight_decay=0, fused=True
        )
        self.scaler = torch.amp.GradScaler(self.setting.device.type, enabled=self.precision.name == "fp16")
        self.ema = self._frozen_copy()
        self.running_loss, self.num_steps = 0.0, 0

    def _stored(self) -> tuple[Tensor, Tensor]:
        """The VAE's moments, of hardly any variance, and one-hot labels, as their data set.   (N, 2C, S, S), (N, K)"""
        mean, labels = super()._stored()
        moments = torch.cat([mean / SCALE, torch.full_like(mean, -30)], dim=1)
        return moments, F.one_hot(labels, self.setting.shape.num_classes).float()

    def _step(self, moments: Tensor, labels: Tensor) -> Tensor:
        clean = self.draw_latents(moments)  # train.py:203
        self.model.zero_grad(set_to_none=True)
        labels = labels * (torch.rand([len(labels), 1], device=labels.device) >= self.label_dropout)  # train.py:209
        losses = self.loss_of(
            net=self.model, images=clean, labels=labels, mask_ratio=self.mask_ratio, mae_loss_coef=self.mae_weight
        )  # train.py:216-218
        loss = losses.mean()
        self.scaler.scale(loss).backward()
        for group in self.optimizer.param_groups:  # train.py:223-225: its warm-up, of no images, is over in step 1
            group["lr"] = self.learning_rate * min(self.num_steps, 1)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.running_loss += loss.item()  # train.py:227: in every step, and it waits for the device
        self.update_ema(self.ema, self.model.module)  # train.py:230
        self.num_steps += 1
        return loss.detach()


class _MDT(OfficialStep):
    """MDT v1 masked_diffusion/train_util.py:172-266, with run.sh and the defaults of scripts/image_train.py."""

    project = Project(
        "sail-sg/MDT",
        needs=(
            "masked_diffusion:create_diffusion", "masked_diffusion:diffusion_defaults", "masked_diffusion.models:MDT",
            "masked_diffusion.resample:create_named_schedule_sampler", "masked_diffusion.nn:update_ema",
            "masked_diffusion.fp16_util:MixedPrecisionTrainer", "masked_diffusion.logger:Logger",
        ),
        branch="mdtv1",
        packages=("timm.models.vision_transformer",),
    )  # fmt: skip
    # scripts/image_train.py:78, use_fp16; nothing sets TF32 for training, so torch's own default holds.
    own_precision = Precision("fp32", tf32_convolutions=True)
    left_out = ("the VAE's encoding of the images (train_util.py:204)", "the writing of its logger's files")
    optimizer_name = "AdamW as torch chooses to run it, learning rate 3e-4"

    def _network(self) -> nn.Module:
        models, name = self.checkout.modules["masked_diffusion.models"], self._named()
        make = getattr(models, f"MDT_{name.replace('/', '_')}") if name else partial(models.MDT, **self._numbers())
        return make(**self._data(), mask_ratio=0.30, decode_layer=2)  # run.sh

    def _prepare(self) -> None:
        modules = self.checkout.modules
        package, self.logger = modules["masked_diffusion"], modules["masked_diffusion.logger"]
        self.logger.Logger.CURRENT = self.logger.Logger(dir=None, output_formats=[])  # else it writes to a folder
        self.diffusion = package.create_diffusion(**package.diffusion_defaults())
        self.levels = modules["masked_diffusion.resample"].create_named_schedule_sampler("uniform", self.diffusion)
        self.trainer = modules["masked_diffusion.fp16_util"].MixedPrecisionTrainer(model=self.network)  # :71
        self.optimizer = torch.optim.AdamW(self.trainer.master_params, lr=3e-4, weight_decay=0.0)  # :77
        self.ema = deepcopy(self.trainer.master_params)  # :89
        self.update_ema = modules["masked_diffusion.nn"].update_ema
        self.num_steps = 0

    def _step(self, clean: Tensor, labels: Tensor) -> Tensor:
        self.trainer.zero_grad()
        level, weights = self.levels.sample(len(clean), clean.device)  # train_util.py:211
        full = self.diffusion.training_losses(self.model, clean, level, model_kwargs={"y": labels})
        masked = self.diffusion.training_losses(
            self.model, clean, level, model_kwargs={"y": labels, "enable_mask": True}
        )
        loss = (full["loss"] * weights).mean() + (masked["loss"] * weights).mean()  # :243
        self._log(level, {name: values * weights for name, values in full.items()})
        self._log(level, {f"m_{name}": values * weights for name, values in masked.items()})
        self.trainer.backward(loss)
        self.trainer.optimize(self.optimizer)  # reads every weight's and gradient's norm, fp16_util.py:217-225
        self.update_ema(self.ema, self.trainer.master_params, rate=0.9999)  # train_util.py:254
        self.logger.logkv("step", self.num_steps)
        self.logger.logkv("samples", (self.num_steps + 1) * self.num_images)
        if self.num_steps % 10 == 0:  # :179-180
            self.logger.dumpkvs()
        self.num_steps += 1
        return loss.detach()

    def _log(self, level: Tensor, losses: dict[str, Tensor]) -> None:
        """train_util.py:331-337, called in every step: the mean of each loss, then image by image by its quartile."""
        for name, values in losses.items():
            self.logger.logkv_mean(name, values.mean().item())
            for one_level, value in zip(level.cpu().numpy(), values.detach().cpu().numpy(), strict=True):
                self.logger.logkv_mean(f"{name}_q{int(4 * one_level / self.diffusion.num_timesteps)}", value)


STEPS: dict[str, type[OfficialStep]] = {"dit": _DiT, "maskdit": _MaskDiT, "mdt": _MDT}
