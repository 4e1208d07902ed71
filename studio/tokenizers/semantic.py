"""Tokens that mean what is said: from the middle of a recogniser, and back by flow matching.

CosyVoice: A Scalable Multilingual Zero-shot Text-to-speech Synthesizer based on Supervised Semantic
Tokens, 2024, 2407.05407, with the finite scalar codes of CosyVoice 2 (2024, 2412.10117), at a size
for one computer and one language. A recogniser of letters is cut in the middle by a quantizer, so
that its tokens keep the words and lose the voice. What is lost comes back from a speaker's vector
and, if given, from a stretch of sound (a prompt): flow matching makes mel bands, and a Vocos head
(2306.00814) the wave, in place of CosyVoice's vocoder. Left out on purpose: the conformers and the
U-Net of the original, and a network that tells speakers by their sound: speakers are named.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from studio.layers.ctc import best_path
from studio.layers.flow import FlowEstimator, fixed_noise, integrate, straight_path
from studio.layers.istft import InverseSTFTHead
from studio.layers.spectrogram import LogMel
from studio.layers.vocos import ConvNeXtBlock, VocosBackbone
from studio.media.resampling import resample
from studio.outputs import QuantizerOutput
from studio.quantizers.fsq import FiniteScalarQuantizer
from studio.tokenizers.base_audio import AudioTokenizer

_FLOOR = 1e-2
_SPREAD = 2.0  # nepers of a band that count as 1


@dataclass(frozen=True)
class FlowDraws:
    """What chance decides in a step of training the flow.

    Args:
        speakers: int64 (B,), who speaks.
        times: (B,) in [0, 1].
        noise: (B, M, F).
        prompts: int64 (B,), frames at the start that are given.
        dropped: bool (B,), rows that are told nothing.
    """

    speakers: torch.Tensor
    times: torch.Tensor
    noise: torch.Tensor
    prompts: torch.Tensor
    dropped: torch.Tensor


class SemanticTokenizer(AudioTokenizer):
    """Sound to tokens of what is said, and back in the voice of a speaker.

    Args:
        sample_rate: samples a second.
        hop: samples a token.
        frames: frames of mel bands a token; divides `hop`.
        n_mels, mel_window: bands, and the length of their window.
        levels: of the finite scalar codes.
        alphabet: the letters that the recogniser tells apart.
        speakers: their names; `condition` of `decode` is a number of these.
        dim, hidden_dim: of the blocks that run once a token.
        front_layers, back_layers: of the recogniser, before and after the codes.
        token_layers: that read the codes for the flow.
        flow_dim, flow_hidden_dim, flow_layers: of the flow's network.
        wave_dim, wave_hidden_dim, wave_layers: of the network that makes the wave.
        steps: of the flow. guidance: how far it goes beyond what it does when told nothing.
        clip_seconds: the clip that `layout` is about.
        window_seconds: longer clips go in windows of so many seconds.
    """

    _no_split_modules = ["ConvNeXtBlock"]
    _encoder_modules = (
        *("read", "front", "norm_in", "project_in"),
        *("project_out", "back", "norm_out", "spell"),
    )

    @register_to_config
    def __init__(
        self,
        *,
        sample_rate: int = 16000,
        hop: int = 320,
        frames: int = 2,
        n_mels: int = 80,
        mel_window: int = 512,
        levels: Sequence[int] = (5, 5, 5, 5),
        alphabet: str = "abcdefghijklmnopqrstuvwxyz' ",
        speakers: Sequence[str] = ("speaker",),
        dim: int = 160,
        hidden_dim: int = 480,
        front_layers: int = 5,
        back_layers: int = 2,
        token_layers: int = 3,
        flow_dim: int = 160,
        flow_hidden_dim: int = 480,
        flow_layers: int = 6,
        wave_dim: int = 192,
        wave_hidden_dim: int = 576,
        wave_layers: int = 6,
        steps: int = 10,
        guidance: float = 0.7,
        clip_seconds: float = 3.0,
        window_seconds: float = 12.0,
    ):
        super().__init__()
        if frames < 1 or hop % frames:
            raise ValueError(f"frames {frames} must divide the hop {hop}")
        self.hop, self.num_codebooks, self.frames = hop, 1, frames
        self.step, self.n_mels = hop // frames, n_mels
        self.mel = LogMel(sample_rate, mel_window, self.step, n_mels, clip=_FLOOR)
        self.read = nn.Conv1d(n_mels * frames, dim, 3, padding=1)
        self.front = _blocks(front_layers, dim, hidden_dim)
        self.norm_in = nn.LayerNorm(dim)
        self.codebook = FiniteScalarQuantizer(tuple(levels))
        self.codebook_size = self.codebook.codebook_size
        self.project_in = nn.Linear(dim, self.codebook.dim)
        self.project_out = nn.Conv1d(self.codebook.dim, dim, 3, padding=1)
        self.back = _blocks(back_layers, dim, hidden_dim)
        self.norm_out = nn.LayerNorm(dim)
        self.spell = nn.Linear(dim, len(alphabet) + 1)
        self.embed = nn.Conv1d(self.codebook.dim, dim, 3, padding=1)
        self.context = _blocks(token_layers, dim, hidden_dim)
        self.widen = nn.Sequential(
            nn.Conv1d(dim, dim, 3, padding=1), nn.Mish(), nn.Conv1d(dim, n_mels, 1)
        )
        self.voices = nn.Embedding(len(speakers), n_mels)
        self.flow = FlowEstimator(n_mels, 3 * n_mels, flow_dim, flow_hidden_dim, flow_layers)
        self.vocoder = VocosBackbone(n_mels, wave_dim, wave_hidden_dim, wave_layers)
        self.head = InverseSTFTHead(wave_dim, n_fft=4 * self.step, hop=self.step)

    @property
    def speakers(self) -> list[str]:
        """Who can speak."""
        return list(self.config.speakers)

    # --- what is said ----------------------------------------------------------------------------

    @property
    def encoder_reach(self) -> int:
        """Tokens on each side of its own place that a token depends on."""
        return 1 + 3 * len(self.front) - (-self.mel.n_fft // (2 * self.hop))

    def bands(self, waves: torch.Tensor) -> torch.Tensor:
        """Waves (B, 1, L) to normalised log-mel bands (B, M, F), whole tokens of them; float32."""
        count = self.num_frames(waves.shape[-1])
        length = max(count * self.hop, self.mel.n_fft // 2 + 1)
        padded = F.pad(waves[:, 0].float(), (0, length - waves.shape[-1]))
        with torch.autocast(waves.device.type, enabled=False):
            bands = self.mel(padded)[..., : count * self.frames]  # (B, M, F)
        return (bands - math.log(_FLOOR)) / _SPREAD - 1

    def features(self, waves: torch.Tensor) -> torch.Tensor:
        """Waves (B, 1, L) to features (B, D', T), D' the width of the codes."""
        bands = self.bands(waves).unflatten(-1, (-1, self.frames))  # (B, M, T, frames)
        rows = bands.transpose(2, 3).flatten(1, 2)  # (B, M * frames, T)
        h = self.front(self.read(rows.to(self.dtype)))
        return self.project_in(self.norm_in(h.transpose(1, 2))).transpose(1, 2)  # (B, D', T)

    def feature_pieces(self, waves: torch.Tensor, frames: int) -> Iterator[torch.Tensor]:
        """The features of a long clip in pieces (B, D', t); joined they are those of the whole."""
        total, margin = self.num_frames(waves.shape[-1]), self.encoder_reach
        for start in range(0, total, frames):
            first, end = max(0, start - margin), min(start + frames, total)
            piece = self.features(waves[..., first * self.hop : (end + margin) * self.hop])
            yield piece[..., start - first : end - first]

    def quantize(self, features: torch.Tensor) -> QuantizerOutput:
        """Features (B, D', T) to `quantized` (B, D', T) and `indices` (B, 1, T)."""
        out = self.codebook(features.transpose(1, 2))
        vectors, indices = out.quantized.transpose(1, 2), out.indices[:, None]
        return QuantizerOutput(vectors, indices, out.loss, out.stats)

    def recognise(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors (B, D', T) to log-probabilities of letters (B, T, V), the blank first."""
        h = self.back(self.project_out(vectors))
        return self.spell(self.norm_out(h.transpose(1, 2))).float().log_softmax(-1)

    def steps(self, samples: torch.Tensor) -> torch.Tensor:
        """Tokens of clips of so many samples."""
        return -(-samples // self.hop)

    @torch.no_grad()
    def transcribe(
        self, waves: Sequence[torch.Tensor], *, sample_rate: int | None = None
    ) -> list[str]:
        """What is said in waves (1, L), read from the tokens."""
        texts = []
        for wave in waves:
            heard = resample(wave[None], sample_rate or self.sample_rate, self.sample_rate)
            vectors = self.quantize(self.features(heard.to(self.device))).quantized
            texts.append(best_path(self.recognise(vectors)[0], self.config.alphabet))
        return texts

    # --- how it sounds ---------------------------------------------------------------------------

    @property
    def reach(self) -> int | None:
        """None: every step of the flow looks further."""
        return None

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, 1, T) to vectors (B, D', T)."""
        return self.codebook.lookup(codes[:, 0]).transpose(1, 2).to(self.dtype)

    def expected(self, vectors: torch.Tensor) -> torch.Tensor:
        """What the codes say of the bands: vectors (B, D', T) to (B, M, F)."""
        h = self.context(self.embed(vectors))  # (B, D, T)
        return self.widen(F.interpolate(h, scale_factor=self.frames, mode="linear"))  # (B, M, F)

    def flow_bands(
        self,
        vectors: torch.Tensor,
        speakers: torch.Tensor,
        *,
        prompt: torch.Tensor | None = None,
        steps: int | None = None,
    ) -> torch.Tensor:
        """Bands (B, M, F) of vectors (B, D', T).

        Args:
            speakers: int64 (B,).
            prompt: bands (B, M, P) of what is spoken first; they stand for the first P frames.
            steps: of the flow; the configured number when None.
        """
        expected = self.expected(vectors)
        batch, _, frames = expected.shape
        given = torch.zeros_like(expected)
        if prompt is not None:
            given[..., : prompt.shape[-1]] = prompt
        told = self._context(expected, self.voices(speakers), given)
        both = torch.cat([told, torch.zeros_like(told)])  # (2B, 3M, F)
        scale = self.config.guidance

        def velocity(x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
            known, free = self.flow(x.repeat(2, 1, 1), times.repeat(2), both).chunk(2)
            return (1 + scale) * known - scale * free

        noise = fixed_noise(self.n_mels, frames, vectors.device).to(expected.dtype)
        made = integrate(velocity, noise.expand(batch, -1, -1), steps=steps or self.config.steps)
        if prompt is not None:
            made[..., : prompt.shape[-1]] = prompt
        return made

    def _context(self, expected, voices, given) -> torch.Tensor:
        """(B, M, F), (B, M), (B, M, F) to (B, 3M, F)."""
        return torch.cat([expected, voices[..., None].expand_as(expected), given], 1)

    def vocode(self, bands: torch.Tensor) -> torch.Tensor:
        """Bands (B, M, F) to waves (B, L)."""
        return self.head(self.vocoder(bands.to(self.dtype)))

    def synthesize(
        self, vectors: torch.Tensor, *, condition: int | torch.Tensor | None = None
    ) -> torch.Tensor:
        """Vectors (B, D', T) to waves (B, L).

        Args:
            condition: the speaker's number, one or (B,); the first speaker when None.

        Raises:
            ValueError: there is no such speaker.
        """
        numbers = torch.as_tensor(condition or 0 if not torch.is_tensor(condition) else condition)
        numbers = numbers.to(vectors.device).reshape(-1).expand(len(vectors))
        count = self.voices.num_embeddings
        if int(numbers.min()) < 0 or int(numbers.max()) >= count:
            raise ValueError(f"condition {condition}: speakers are numbered 0 to {count - 1}")
        return self.vocode(self.flow_bands(vectors, numbers))

    # --- training --------------------------------------------------------------------------------

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, audio: torch.Tensor, draws: FlowDraws | None = None
    ) -> tuple[torch.Tensor, torch.Tensor] | torch.Tensor:
        """What training needs of audio (B, 1, L).

        Args:
            draws: None for what is said: log-probabilities of letters (B, T, V), with a gradient
                through the quantizer.

        Returns:
            with `draws` the flow's mean squared error over what is not given, a scalar, and waves
            (B, 1, L) from the true bands.
        """
        if draws is None:
            return self.recognise(self.quantize(self.features(audio)).quantized)
        with torch.no_grad():
            bands = self.bands(audio).to(self.dtype)
            vectors = self.quantize(self.features(audio)).quantized
        place = torch.arange(bands.shape[-1], device=bands.device)
        told = (place < draws.prompts[:, None])[:, None]  # (B, 1, F)
        context = self._context(self.expected(vectors), self.voices(draws.speakers), bands * told)
        context = context.masked_fill(draws.dropped[:, None, None], 0.0)
        point, velocity = straight_path(bands, draws.noise, draws.times)
        error = (self.flow(point, draws.times, context) - velocity).float().square()
        free = (~told | draws.dropped[:, None, None]).expand_as(error)
        waves = self.vocode(bands)[:, None, : audio.shape[-1]]
        return (error * free).sum() / free.sum().clamp(min=1), waves


def _blocks(count: int, dim: int, hidden_dim: int) -> nn.Sequential:
    scale = 1 / math.sqrt(max(1, count))
    return nn.Sequential(*(ConvNeXtBlock(dim, hidden_dim, scale=scale) for _ in range(count)))
