"""Sound at another sample rate, by torchaudio where it works here, else by scipy.

Both are windowed-sinc filters and agree to about -60 dB. Left out on purpose: a filter of our own.
"""

import math

import torch

from studio.env import mend, probe


def resample(audio: torch.Tensor, source: int, target: int) -> torch.Tensor:
    """Audio (..., L) at `source` samples a second to (..., ceil(L * target / source)).

    Raises:
        ValueError: a rate that is not a whole number of at least 1.
        ImportError: one line, when neither torchaudio nor scipy works here.
    """
    for name, rate in (("source", source), ("target", target)):
        if rate != int(rate) or rate < 1:
            raise ValueError(f"{name} rate {rate} must be a whole number of at least 1")
    if source == target:
        return audio
    shrink = math.gcd(int(source), int(target))
    up, down = int(target) // shrink, int(source) // shrink
    if probe("torchaudio").ok:
        from torchaudio.functional import resample as by_torchaudio

        return by_torchaudio(audio.float(), down, up).to(audio.dtype)
    if not probe("scipy").ok:
        raise ImportError(f"resampling needs torchaudio or scipy; run: {mend('audio')}")
    from scipy.signal import resample_poly

    rows = audio.detach().float().cpu().numpy()
    made = torch.from_numpy(resample_poly(rows, up, down, axis=-1))  # (..., L * up / down)
    return made.to(audio.device, audio.dtype)
