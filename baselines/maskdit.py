"""MaskDiT (Zheng et al. 2023, arXiv:2306.09305): encode the visible half, decode all, reconstruct the rest.

B batch, C channels, S side, L tokens, K kept tokens, P values of a patch, D encoder width, W decoder width.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.model import method
from harness.model.formulations import Formulation
from harness.model.method import Batch, Progress
from harness.model.nn import tokens
from harness.model.nn.asymmetric import Decoder, Encoder, ProjectStart
from harness.model.nn.embeddings import Condition, patchify
from harness.model.official import CONDITION, MODULATED, Names, Official, Tables, blocks, under
from harness.model.randomness import Draw
from harness.model.shape import Shape
from harness.recipes.config import Knobs


class Config(Knobs):
    mask_ratio: float = Field(
        0.5, ge=0, lt=1, description="MaskDiT repository, configs/train; SD-DiT Fig. 3: 50% of the patches"
    )
    mae_weight: float = Field(0.1, ge=0, description="MaskDiT repository, configs/train: mae_loss_coef")
    decoder_width: int = Field(
        512, ge=4, multiple_of=4, description="MaskDiT repository, models/maskdit.py: the same for every encoder"
    )
    decoder_depth: int = Field(8, ge=1, description="MaskDiT repository, models/maskdit.py: the same for every encoder")
    decoder_heads: int = Field(
        16, ge=1, description="MaskDiT repository, models/maskdit.py: the same for every encoder"
    )

    project_start: ProjectStart = Field(
        "zero", description="MaskDiT repository, models/maskdit.py: zero, which a comment there doubts"
    )

    @property
    def input_patches(self) -> str:
        return f"{1 - self.mask_ratio:.0%}"


class Network(nn.Module):
    """The asymmetric encoder-decoder whose masked places hold one learned token of the decoder's width."""

    def __init__(self, cfg: Config, shape: Shape, out_channels: int):
        super().__init__()
        self.condition = Condition(shape.width, shape.num_classes, null_label_learned=False)
        self.encoder = Encoder(shape)
        self.mask_token = nn.Parameter(torch.randn(1, 1, cfg.decoder_width) * 0.02)
        self.decoder = Decoder(
            shape, out_channels, width=cfg.decoder_width, depth=cfg.decoder_depth, num_heads=cfg.decoder_heads,
            project_start=cfg.project_start,
        )  # fmt: skip

    def forward(self, net_input: Tensor, net_noise: Tensor, labels: Tensor, keep: Tensor | None = None) -> Tensor:
        cond = self.condition(net_noise, labels)  # (B, D)
        embedded = self.encoder.embed(net_input)  # (B, L, D)
        x = self.decoder.project(self.encoder(embedded, cond, keep), cond)  # (B, K, W)
        if keep is not None:
            x = tokens.scatter(x, keep, onto=self.mask_token.expand(len(x), embedded.shape[1], -1))  # (B, L, W)
        return self.decoder(x, cond)  # (B, C, S, S)


def _official_names(network: Network) -> tuple[Names, Tables]:
    names = {
        "encoder.patches.proj": "x_embedder.proj",
        "mask_token": "mask_token",
        **CONDITION,
        **blocks("encoder.blocks", "blocks", len(network.encoder.blocks)),
        **under(MODULATED, "decoder.project", "decoder_layer"),
        **blocks("decoder.blocks", "decoder_blocks", len(network.decoder.blocks)),
        **under(MODULATED, "decoder.readout", "final_layer"),
    }
    return names, {"pos_embed": network.encoder.position, "decoder_pos_embed": network.decoder.position}


class Method(method.Method):
    official = Official(settings=(), names=_official_names)
    formulations = ("edm",)  # its reconstruction compares denoised images: IDDPM's are 157 times the noise at step 999

    def __init__(self, cfg: Config, shape: Shape, formulation: Formulation):
        super().__init__()
        self.cfg, self.shape, self.formulation = cfg, shape, formulation
        self.num_keep = tokens.num_kept(shape.num_tokens, cfg.mask_ratio)
        self.network = Network(cfg, shape, formulation.out_channels(shape.channels))

    def forward(self, batch: Batch, progress: Progress, draw: Draw) -> dict[str, Tensor]:
        length = self.shape.num_tokens
        noised = self.formulation.noised(batch.clean, draw)
        keep = tokens.random_keep(draw, length, self.num_keep)
        raw = self.network(noised.net_input, noised.net_noise, batch.labels, keep)
        visible = tokens.visible(keep, length)  # (B, L)
        denoise = (self._per_token(self.formulation.loss_map(raw, noised)) * visible).sum() / visible.sum()
        if self.num_keep == length:
            return {"loss": denoise}
        masked = 1 - visible
        mae = (self._reconstruction(raw, noised) * masked).sum() / masked.sum()
        loss = denoise + self.cfg.mae_weight * mae
        return {"loss": loss, "loss/denoise": denoise.detach(), "loss/mae": mae.detach()}

    def _per_token(self, loss_map: Tensor) -> Tensor:  # (B, C, S, S) -> (B, L)
        return patchify(loss_map, self.shape.patch).mean(-1)

    def _reconstruction(self, raw: Tensor, noised) -> Tensor:  # (B, L)
        """Squared error of each patch against the NOISED input, normalised per patch (MaskDiT Sec. 4.3; MAE)."""
        target = patchify(noised.noisy, self.shape.patch)  # (B, L, P)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        return (patchify(self.formulation.denoised(raw, noised), self.shape.patch) - target).square().mean(-1)
