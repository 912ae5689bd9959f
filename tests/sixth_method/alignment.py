"""DiT whose second block is aligned with a frozen encoder of the image and with a stored tensor of it."""

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from harness.model import method
from harness.model.formulations import Formulation
from harness.model.frozen import Frozen
from harness.model.method import Batch, Progress
from harness.model.nn.dit import DiT
from harness.model.pretrained import Pretrained
from harness.model.randomness import Draw
from harness.model.shape import Shape
from harness.recipes.config import Knobs

FEATURES = 6


class Config(Knobs):
    encoder_sha256: str = Field("0" * 64, pattern="[0-9a-f]{64}", description="chosen for the test")


def encoder(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, FEATURES, 3), nn.BatchNorm2d(FEATURES), nn.AdaptiveAvgPool2d(1))


class Method(method.Method):
    def __init__(self, cfg: Config, shape: Shape, formulation: Formulation):
        super().__init__()
        self.formulation = formulation
        self.network = DiT(shape, formulation.out_channels(shape.channels), taps=(1,))
        self.project = nn.Linear(shape.width, FEATURES)
        file = Pretrained(
            name="the sixth method's encoder",
            file="encoder.safetensors",
            sha256=cfg.encoder_sha256,
            url="https://weights.invalid/encoder.safetensors",
        )
        self.frozen = {"encoder": Frozen(file, lambda: encoder(shape.channels))}
        self.extra = {"edges": (shape.channels, shape.side, shape.side)}

    def forward(self, batch: Batch, progress: Progress, draw: Draw) -> dict[str, Tensor]:
        noised = self.formulation.noised(batch.clean, draw)
        raw, (tapped,) = self.network.tapped(noised.net_input, noised.net_noise, batch.labels)
        denoise = self.formulation.loss_map(raw, noised).mean()
        wanted = self.frozen["encoder"].network(batch.extra["edges"]).flatten(1)  # (B, FEATURES)
        align = F.mse_loss(self.project(tapped.mean(1)), wanted)
        return {"loss": denoise + align, "loss/denoise": denoise.detach(), "loss/align": align.detach()}

    def param_groups(self) -> list[dict]:
        head = {"params": list(self.project.parameters()), "lr_scale": 10.0, "weight_decay": 0.0}
        return [{"params": list(self.network.parameters())}, head]
