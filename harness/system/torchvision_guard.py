"""Lets torch-fidelity, clean-fid and diffusers be imported where torchvision's own operators cannot load.

All three import torchvision, and its registry build holds compiled operators for CUDA. Beside a CPU-only torch they
cannot be loaded, and `import torchvision` ends with "operator torchvision::nms does not exist", although no metric
needs one of them.
"""

import sys

import torch

_STAND_INS = ("nms", "qnms")  # the two that torchvision looks up while it is imported
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_definitions: torch.library.Library | None = None  # operators vanish with the object that defined them


def install() -> None:
    """Make `import torchvision` work. Call it before the first import of anything that imports torchvision.

    Where torchvision's operators load, nothing is defined; where they do not, the two names get a definition without
    an implementation, so calling one still fails.
    """
    global _definitions
    # Only torchvision knows whether its operators load: their file's name differs between versions (_C, _C_stable), so
    # it is asked first. Defining first would be fatal beside a torchvision that works: a namespace can be defined only
    # once, and its library would find it taken.
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        if hasattr(torch.ops.torchvision, "nms"):
            raise  # another fault than missing operators, and torchvision's message says which
        _forget_failed_import()
        _definitions = torch.library.Library("torchvision", "DEF")
        for name in _STAND_INS:
            _definitions.define(name + _SIGNATURE)


def _forget_failed_import() -> None:
    """Python drops a package whose import failed but keeps its finished parts, which a second import trips over."""
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[module]
