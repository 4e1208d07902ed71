"""Networks at fewer bits: int8 weights, int8 arithmetic on a CPU, bfloat16.

LLM.int8(), 2022, 2208.07339, for the setting: symmetric scales, one an output channel. Only the
transformer's own linear maps change, which are nearly all that a step reads; embeddings, heads and
the condition's encoder stay as they are. Left out on purpose: outlier columns, int4, calibration.
"""

import logging
import warnings

import torch
import torch.nn.functional as F
from torch import nn

# name -> what it is
PRECISIONS = {
    "int8": "weights at 8 bits, arithmetic as before; on a CPU in bfloat16 products",
    "int8-dynamic": "weights and inputs at 8 bits, on a CPU only",
    "bf16": "everything in bfloat16",
}
UNSAVED = ("int8", "int8-dynamic")  # their weights are in no form that can be loaded
PACKED = 16  # with inputs of another width the packed kernel of CPUs breaks the process
FEW_ROWS = 16  # up to so many rows the packed kernel of CPUs is faster than unpacking the weights
logger = logging.getLogger(__name__)


def has_bf16(device: torch.device | str) -> bool:
    """Whether a device computes bfloat16 itself, not by way of float32."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, bool)() for name in names)
    return device.type == "mps"


class Int8Linear(nn.Module):
    """A linear map whose weights are int8 with a scale an output channel.

    Args:
        linear: what it stands for; its weights are rounded to the nearest step.
    """

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight = linear.weight.detach().float()  # (out, in)
        scale = weight.abs().amax(1).clamp(min=1e-8) / 127  # (out,)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out), in x's dtype."""
        rows = x.numel() // x.shape[-1]
        packed = self.in_features % PACKED == 0 and 0 < rows <= FEW_ROWS
        if x.device.type == "cpu" and packed:
            # Reads a quarter of the bytes; the kernel is only fast for bfloat16 inputs.
            flat = x.reshape(rows, -1).bfloat16()
            y = torch._weight_int8pack_mm(flat, self.weight, self.scale.bfloat16())
            y = y.to(x.dtype).unflatten(0, x.shape[:-1])
        else:
            y = F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return y if self.bias is None else y + self.bias


def quantize(generator, precision: str) -> None:
    """Changes a generator in place.

    Args:
        generator: float32, with its transformer in `layers`.
        precision: a name in `PRECISIONS`. "bf16" where the processor has none is slower than
            float32, which is logged.

    Raises:
        ValueError: an unknown precision, a generator that was changed before, or "int8-dynamic"
            off the CPU.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} must be one of {', '.join(PRECISIONS)}")
    before = getattr(generator, "precision", None)
    if before is not None:
        raise ValueError(f"precision {precision!r}: the generator was changed to {before} before")
    if precision == "int8-dynamic" and generator.device.type != "cpu":
        raise ValueError(f"precision 'int8-dynamic' is for CPUs, not for {generator.device.type}")
    if precision == "bf16":
        if not has_bf16(generator.device):
            logger.warning("this processor has no bfloat16 arithmetic: expect no gain in speed")
        nn.Module.to(generator, torch.bfloat16)  # diffusers' own warns of what is no concern here
    elif precision == "int8":
        _replace(generator.layers)
    else:
        _make_dynamic(generator.layers)
    generator.precision = precision
    generator.compiled_step = None  # was of the old layers


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, Int8Linear(child))
        else:
            _replace(child)


def _make_dynamic(layers: nn.Module) -> None:
    """torch's own dynamic linear maps, with a scale an output channel."""
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its being moved to another package one day
        quantize_dynamic(layers, {nn.Linear: per_channel_dynamic_qconfig}, inplace=True)
