"""A small codec that reads mel bands and pitch, and speaks with pulses and noise: one token a step.

Our own, for processors. The encoder sees log-mel bands and the pitch instead of convolving the
wave, which costs a twentieth; codes are finite scalars (2309.15505), which cannot die. The decoder
first draws an outline (the bands and the pitch again), then filters pulses of that pitch and noise
in the spectrum, ConvNeXt blocks saying how (Vocos, 2023, 2306.00814; see `layers/source.py` for the
source). So the tokens can be learned from outlines alone, without making a wave, and the first wave
already resembles the sound. Nothing looks further than `reach` tokens, so long clips go through in
windows; the phase of the pulses runs on over the whole clip. Left out on purpose: the original
phase, which neither bands nor pitch carry.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from studio.layers.source import HIGHEST, LOWEST, SourceFilter, cycles, pitch
from studio.layers.spectrogram import LogMel, mel_filterbank
from studio.layers.vocos import ConvNeXtBlock
from studio.outputs import QuantizerOutput, TokenizerOutput
from studio.quantizers.fsq import FiniteScalarQuantizer
from studio.tokenizers.base_audio import AudioTokenizer, ready_stretches

MIDDLE = 150.0  # Hz, the zero of the pitch's octaves
_VOICED = (0.4, 0.7)  # heights of the pitch's peak that count as not and as fully voiced
_SPREAD = 2.0  # nepers of a band that count as 1
_PITCH_WEIGHT, _VOICING_WEIGHT = 2.0, 0.5


class SpectralTokenizer(AudioTokenizer):
    """Sound to one row of tokens, and back.

    Args:
        sample_rate: samples a second.
        hop: samples a token.
        frames: frames of the spectra a token; divides `hop`.
        n_mels, mel_window: bands, and the length of their window.
        floor: magnitudes of bands below it count as silence.
        levels: of the finite scalar codes.
        dim, hidden_dim: of the blocks that run once a token.
        encoder_layers, decoder_layers: how many of them.
        fine_dim, fine_hidden_dim, fine_layers: of the blocks that run once a frame.
        n_fft: of the inverse STFT; 4 frames when None.
        clip_seconds: the clip that `layout` is about.
        window_seconds: longer clips go in windows of so many seconds.
    """

    _no_split_modules = ["ConvNeXtBlock"]
    _encoder_modules = ("read", "encoder", "norm_in", "project_in")

    @register_to_config
    def __init__(
        self,
        *,
        sample_rate: int = 16000,
        hop: int = 216,
        frames: int = 2,
        n_mels: int = 80,
        mel_window: int = 512,
        floor: float = 1e-2,
        levels: Sequence[int] = (8, 8, 8, 4),
        dim: int = 192,
        hidden_dim: int = 576,
        encoder_layers: int = 5,
        decoder_layers: int = 5,
        fine_dim: int = 160,
        fine_hidden_dim: int = 480,
        fine_layers: int = 3,
        n_fft: int | None = None,
        clip_seconds: float = 3.0,
        window_seconds: float = 12.0,
    ):
        super().__init__()
        if frames < 1 or hop % frames:
            raise ValueError(f"frames {frames} must divide the hop {hop}")
        self.hop, self.num_codebooks, self.frames = hop, 1, frames
        self.step = hop // frames
        self.n_mels = n_mels
        self.mel = LogMel(sample_rate, mel_window, self.step, n_mels, clip=floor)
        rows = (n_mels + 2) * frames
        self.read = nn.Conv1d(rows, dim, 3, padding=1)
        self.encoder = _blocks(encoder_layers, dim, hidden_dim)
        self.norm_in = nn.LayerNorm(dim)
        self.codebook = FiniteScalarQuantizer(tuple(levels))
        self.codebook_size = self.codebook.codebook_size
        self.project_in = nn.Linear(dim, self.codebook.dim)
        self.project_out = nn.Conv1d(self.codebook.dim, dim, 3, padding=1)
        self.decoder = _blocks(decoder_layers, dim, hidden_dim)
        self.norm_out = nn.LayerNorm(dim)
        self.draw = nn.Linear(dim, rows)
        self.widen = nn.Linear(dim + rows, frames * fine_dim)
        self.fine = _blocks(fine_layers, fine_dim, fine_hidden_dim)
        self.norm_fine = nn.LayerNorm(fine_dim)
        n_fft = n_fft or 4 * self.step
        self.head = SourceFilter(fine_dim, n_fft=n_fft, hop=self.step, sample_rate=sample_rate)

    # --- encoding --------------------------------------------------------------------------------

    @property
    def encoder_reach(self) -> int:
        """Tokens on each side of its own place that a token depends on."""
        window = -(-max(self.mel.n_fft, self.sample_rate // 20) // (2 * self.hop))
        return 1 + 3 * len(self.encoder) + window

    def outline(self, waves: torch.Tensor) -> torch.Tensor:
        """What the encoder reads and the decoder draws: waves (B, 1, L) to (B, T, R), for each of
        `frames` frames of a token the bands, the pitch in octaves from `MIDDLE` and the voicing, 0
        to 1. Float32.
        """
        count = self.num_frames(waves.shape[-1])
        # a window must fit into what is mirrored at the ends
        length = max(count * self.hop, self.mel.n_fft // 2 + 1)
        padded = F.pad(waves[:, 0].float(), (0, length - waves.shape[-1]))  # (B, L')
        with torch.autocast(waves.device.type, enabled=False):
            bands = self.mel(padded)[..., : count * self.frames]  # (B, M, F)
            hertz, height = pitch(padded[:, : count * self.hop], self.sample_rate, self.step)
        low, high = _VOICED
        voiced = ((height - low) / (high - low)).clamp(0, 1)
        bands = (bands - math.log(self.mel.clip)) / _SPREAD - 1
        octaves = (hertz / MIDDLE).log2() * voiced
        rows = torch.cat([bands.transpose(1, 2), octaves[..., None], voiced[..., None]], -1)
        return rows.unflatten(1, (-1, self.frames)).flatten(2)  # (B, T, R)

    def read_outline(self, outline: torch.Tensor) -> torch.Tensor:
        """Outlines (B, T, R) to features (B, D', T), D' the width of the codes."""
        h = self.encoder(self.read(outline.transpose(1, 2).to(self.dtype)))  # (B, D, T)
        return self.project_in(self.norm_in(h.transpose(1, 2))).transpose(1, 2)  # (B, D', T)

    def features(self, waves: torch.Tensor) -> torch.Tensor:
        """Waves (B, 1, L) to features (B, D', T)."""
        return self.read_outline(self.outline(waves))

    def feature_pieces(self, waves: torch.Tensor, frames: int) -> Iterator[torch.Tensor]:
        """The features of a long clip in pieces (B, D', t); joined they are those of the whole."""
        total, margin = self.num_frames(waves.shape[-1]), self.encoder_reach
        for start in range(0, total, frames):
            stop, first = min(start + frames, total), max(0, start - margin)
            piece = waves[..., first * self.hop : (stop + margin) * self.hop]
            yield self.features(piece)[..., start - first : stop - first]

    def quantize(self, features: torch.Tensor) -> QuantizerOutput:
        """Features (B, D', T) to `quantized` (B, D', T) and `indices` (B, 1, T)."""
        out = self.codebook(features.transpose(1, 2))
        quantized = out.quantized.transpose(1, 2)  # (B, D', T)
        return QuantizerOutput(quantized, out.indices[:, None], out.loss, out.stats)

    # --- decoding --------------------------------------------------------------------------------

    @property
    def reach(self) -> int:
        """Tokens on each side of a sample that the decoder looks at."""
        fine = 1 + 3 * len(self.fine) + self.head.reach
        return 1 + 3 * len(self.decoder) + -(-fine // self.frames)

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, 1, T) to vectors (B, D', T)."""
        return self.codebook.lookup(codes[:, 0]).transpose(1, 2).to(self.dtype)  # (B, D', T)

    def sketch(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors (B, D', T) to hidden states (B, T, D) and the outline (B, T, R) they draw."""
        h = self.decoder(self.project_out(vectors))  # (B, D, T)
        h = self.norm_out(h.transpose(1, 2))  # (B, T, D)
        return h, self.draw(h)

    def turns(self, outline: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The pitch of an outline in Hz (B, F), and cycles passed at every sample, float64 (B,
        L)."""
        octaves = self._per_frame(outline)[..., -2].detach().float()  # (B, F)
        hertz = (MIDDLE * 2**octaves).clamp(LOWEST, HIGHEST)
        return hertz, cycles(hertz, self.sample_rate, self.step)

    def render(
        self,
        hidden: torch.Tensor,
        outline: torch.Tensor,
        hertz: torch.Tensor,
        turns: torch.Tensor,
        *,
        start: int = 0,
    ) -> torch.Tensor:
        """Waves (B, L) of a piece that begins at sample `start` of its clip."""
        h = self.widen(torch.cat([hidden, outline], -1))  # (B, T, frames * D'')
        h = h.unflatten(-1, (self.frames, -1)).flatten(1, 2)  # (B, F, D'')
        h = self.norm_fine(self.fine(h.transpose(1, 2)).transpose(1, 2))
        bands = (self._per_frame(outline)[..., : self.n_mels].float() + 1) * _SPREAD
        sizes = (self.sample_rate, self.mel.n_fft, self.n_mels, self.head.n_fft)
        spread = _spread(*sizes).to(bands.device)  # (M + 1, bins)
        levels = (bands + math.log(self.mel.clip)) @ spread[:-1] + spread[-1]  # (B, F, bins)
        return self.head(h, levels, hertz, turns, start=start)

    def synthesize(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors (B, D', T) to waves (B, T * hop)."""
        hidden, outline = self.sketch(vectors)
        return self.render(hidden, outline, *self.turns(outline))

    def waves(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, 1, T) to waves (B, L), piece by piece where they are long."""
        return torch.cat(list(self.wave_pieces(codes, self.window_frames)), dim=-1)

    def wave_pieces(self, codes: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
        """The wave of codes (B, 1, T) in pieces (B, L) of `size` tokens; joined they are the whole,
        and only one is held in memory at a time.
        """
        total = codes.shape[-1]
        passed: torch.Tensor | float = 0.0
        for begin in range(0, total, size):
            wave, passed = self._stretch(codes, begin, min(begin + size, total), passed)
            yield wave

    def wave_stream(self, pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """As the base says; the phase of the pulses runs on."""
        passed: torch.Tensor | float = 0.0
        for codes, begin, end in ready_stretches(pieces, self.reach):
            wave, passed = self._stretch(codes, begin, end, passed)
            yield wave

    def _stretch(
        self, codes: torch.Tensor, begin: int, end: int, passed: torch.Tensor | float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The wave (B, L) of tokens `begin` to `end` of codes (B, 1, T), and the cycles passed at
        its end; `passed` are those at its start.
        """
        margin = self.reach
        first = max(0, begin - margin)
        vectors = self.lookup(codes[..., first : end + margin])
        hidden, outline = self.sketch(vectors)
        hertz, turns = self.turns(outline)
        left, right = (begin - first) * self.hop, (end - first) * self.hop
        # cycles counted from the start of the clip, not of the piece
        before = turns[:, left - 1 : left] if left else 0.0
        turns = (turns - before + passed) % 1
        wave = self.render(hidden, outline, hertz, turns, start=first * self.hop)
        return wave[:, left:right], turns[:, right - 1 : right]

    def _per_frame(self, outline: torch.Tensor) -> torch.Tensor:
        """(B, T, R) to (B, F, M + 2)."""
        return outline.unflatten(-1, (self.frames, -1)).flatten(1, 2)

    # --- training --------------------------------------------------------------------------------

    def forward(
        self, audio: torch.Tensor, *, synthesize: bool = True
    ) -> tuple[torch.Tensor, TokenizerOutput]:
        """Audio (B, 1, L) to its reconstruction (B, 1, L), with a gradient through the quantizer,
        and the encoding, whose `loss` is the error of the outline.

        Args:
            audio: L a multiple of `hop`.
            synthesize: False makes no wave (and returns the audio), which teaches the tokens alone
                at a fraction of the cost.
        """
        seen = self.outline(audio)
        out = self.quantize(self.read_outline(seen))
        hidden, drawn = self.sketch(out.quantized)
        layout = self.layout_of(seen.shape[1])
        loss = self._outline_error(drawn.float(), seen)
        encoded = TokenizerOutput(out.indices[:, 0], out.quantized, layout, out.quantized, loss)
        if not synthesize:
            return audio, encoded
        waves = self.render(hidden, drawn, *self.turns(drawn))
        return waves[:, None, : audio.shape[-1]], encoded

    def _outline_error(self, drawn: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Absolute errors of bands (in nepers), pitch (where there is one) and voicing, weighed."""
        drawn, seen = self._per_frame(drawn), self._per_frame(seen)
        difference = (drawn - seen).abs()
        voiced = seen[..., -1]
        octaves = (difference[..., -2] * voiced).sum() / voiced.sum().clamp(min=1)
        bands = _SPREAD * difference[..., : self.n_mels].mean()
        return bands + _PITCH_WEIGHT * octaves + _VOICING_WEIGHT * difference[..., -1].mean()


def _blocks(count: int, dim: int, hidden_dim: int) -> nn.Sequential:
    scale = 1 / math.sqrt(max(1, count))
    return nn.Sequential(*(ConvNeXtBlock(dim, hidden_dim, scale=scale) for _ in range(count)))


@functools.lru_cache(maxsize=8)
def _spread(sample_rate: int, window: int, n_mels: int, n_fft: int) -> torch.Tensor:
    """Log bands to log magnitudes of bins, linear between the bands' middles: (M + 1, n_fft / 2 +
    1), the last row a constant (what a band sums up, and how loud the sources are)."""
    bank = mel_filterbank(sample_rate, window, n_mels)  # (F, M)
    places = torch.linspace(0, sample_rate / 2, len(bank))
    middles = (bank * places[:, None]).sum(0) / bank.sum(0).clamp(min=1e-6)  # (M,)
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    right = torch.searchsorted(middles, bins).clamp(1, n_mels - 1)
    share = ((bins - middles[right - 1]) / (middles[right] - middles[right - 1])).clamp(0, 1)
    matrix = torch.zeros(n_mels + 1, len(bins))
    matrix[right - 1, torch.arange(len(bins))] = 1 - share
    matrix[right, torch.arange(len(bins))] = share
    # a source of power 1 has magnitudes of about sqrt(3 / 8 * window) under a Hann window
    area = bank.sum(0).clamp(min=1e-3).log()
    matrix[-1] = -(area @ matrix[:-1]) - 0.5 * math.log(0.375 * window)
    return matrix
