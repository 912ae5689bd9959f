"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) as a closure around a denoiser."""

from harness.diffusion.formulations import Prediction
from harness.diffusion.samplers import Denoise


def guided(conditional: Denoise, unconditional: Denoise, scale: float, channels: int | None = None) -> Denoise:
    """Denoises towards the label: unconditional + scale (conditional - unconditional); scale 1 is no guidance.

    `channels` guides only the first so many and leaves the others conditional: DiT guides three of a latent's four,
    and its published numbers have it so. Guiding denoised images or noise is the same, one being linear in the other.
    The learned variance is the conditional one.
    """

    def denoise(x, level) -> Prediction:
        with_label, without = conditional(x, level), unconditional(x, level)
        clean = without.clean + scale * (with_label.clean - without.clean)
        if channels is not None:
            clean[:, channels:] = with_label.clean[:, channels:]
        return Prediction(clean, with_label.variance_mix)

    return denoise
