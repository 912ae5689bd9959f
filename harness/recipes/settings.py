"""Groups of settings that a method's file may set too: how flow noises, how blocks are made."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """A frozen group of settings. An unknown key or a value out of range is an error that names the field."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BlockSettings(Settings):
    """How the blocks of a network are made. The defaults are DiT's, and every method of before is made so."""

    mlp: Literal["gelu", "swiglu"] = "gelu"
    norm: Literal["layer", "rms"] = "layer"  # of the blocks, and of the layers between and behind them
    rotary: bool = False  # queries and keys are turned by the place of their patch
    qk_norm: bool = False  # queries and keys are brought to one length before they meet


class FlowSettings(Settings):
    """What formulation flow is built with (harness.model.flow.Flow); no other formulation reads it."""

    path: Literal["linear", "gvp"] = "linear"  # from data to noise
    prediction: Literal["velocity", "noise", "data"] = "velocity"  # what the network puts out
    times: Literal["uniform", "logit-normal"] = "uniform"  # the law of t in training
    shift: float = Field(default=1.0, gt=0, allow_inf_nan=False)  # k: t becomes k t / (1 + (k - 1) t) in training
    direction: float = Field(default=0.0, ge=0, allow_inf_nan=False)  # weight of 1 - cos(v, u) over the channels
    data_scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)  # the clean images are multiplied by it
