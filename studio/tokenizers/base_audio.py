"""What all sound tokenizers share: channels, lengths, rates, and clips of any length.

A sound tokenizer works on one channel at a sample rate of its own. Here several channels become
several rows of tokens, the output is cropped to the input's length, other sample rates are
converted, and what is longer than a window goes through in pieces: the encoder streams, the decoder
runs over overlapping windows that are cross-faded. Left out on purpose: coding the channels of
stereo together.
"""

from collections.abc import Iterable, Iterator

import torch

from studio.layers.windows import crossfaded
from studio.media.resampling import resample
from studio.outputs import QuantizerOutput, TokenizerOutput, TokenLayout, TokenRate, TokenSegment
from studio.tokenizers.base import Tokenizer

FADE_SECONDS = 0.1


class AudioTokenizer(Tokenizer):
    """Base of the sound tokenizers.

    A subclass's config has `sample_rate`, `clip_seconds` (the clip that `layout` is about) and
    `window_seconds` (longer clips go in windows); it sets `hop`, `num_codebooks` and
    `codebook_size`, and gives `features`, `feature_pieces`, `quantize`, `lookup` and `synthesize`.

    Media: audio (B, C, L), floats in [-1, 1], at `sample_rate`. Tokens: int64 (B, T) for one
    channel and one codebook, else (B, C * K, T), the codebooks of a channel in a row; flat (B, C *
    K * T) is taken as well, with a layout.
    """

    medium = "audio"
    hop: int
    num_codebooks: int
    codebook_size: int

    # --- what a subclass gives -------------------------------------------------------------------

    def features(self, waves: torch.Tensor) -> torch.Tensor:
        """Waves (B, 1, L) to features before quantization (B, D, T)."""
        raise NotImplementedError

    def feature_pieces(self, waves: torch.Tensor, frames: int) -> Iterator[torch.Tensor]:
        """The features of a long clip in pieces (B, D, t) of about `frames` frames."""
        raise NotImplementedError

    def quantize(self, features: torch.Tensor) -> QuantizerOutput:
        """Features (B, D, T) to `quantized` (B, D, T) and `indices` (B, K, T)."""
        raise NotImplementedError

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, K, T) to vectors (B, D, T); fewer codebooks than K give a coarser sound."""
        raise NotImplementedError

    def synthesize(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors (B, D, T) to waves (B, L), about [-1, 1], not clamped."""
        raise NotImplementedError

    @property
    def reach(self) -> int | None:
        """Frames on each side of a sample that the decoder looks at; None when it sees the whole
        clip. A piece decoded with that much around it equals the whole.
        """
        raise NotImplementedError

    # --- the contract ----------------------------------------------------------------------------

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.config.sample_rate / self.hop

    @property
    def layout(self) -> TokenLayout:
        """The layout of one channel of `clip_seconds`."""
        return self.layout_of(self.num_frames(round(self.config.clip_seconds * self.sample_rate)))

    @property
    def sample_rate(self) -> int:
        """Samples a second that the networks work at."""
        return self.config.sample_rate

    def num_frames(self, samples: int) -> int:
        """Frames of a clip of so many samples."""
        return -(-samples // self.hop)

    def layout_of(self, frames: int, *, channels: int = 1) -> TokenLayout:
        """The layout of so many frames."""
        rows = channels * self.num_codebooks
        return TokenLayout((TokenSegment("audio", (frames,), self.codebook_size, rows),))

    def encode(
        self,
        media: torch.Tensor,
        *,
        sample_rate: int | None = None,
        lengths: torch.Tensor | None = None,
    ) -> TokenizerOutput:
        """Audio to tokens.

        Args:
            media: (B, C, L) floats in [-1, 1].
            sample_rate: of `media`, converted to the model's; the model's own when None.
            lengths: int64 (B,) samples of each row when they differ. Each row is then coded as if
                alone, and the tokens after its `num_frames(length)` are 0.

        Returns:
            `latents` and `quantized` are (B * C, D, T); empty and None for a clip longer than a
            window (its pieces are not kept) and with `lengths`.

        Raises:
            ValueError: another shape, no samples, or values that are not finite.
        """
        check_audio(media)
        media = resample(media, sample_rate or self.sample_rate, self.sample_rate)
        if lengths is not None:
            return self._encode_rows(media, self._scaled(lengths, sample_rate))
        channels = media.shape[1]
        waves = media.flatten(0, 1)[:, None]  # (B * C, 1, L)
        frames = self.num_frames(media.shape[-1])
        layout = self.layout_of(frames, channels=channels)
        if frames <= self.window_frames or self.training:
            latents = self.features(waves)
            out = self.quantize(latents)
            tokens = self._tokens(out.indices, channels)
            return TokenizerOutput(tokens, latents, layout, out.quantized, out.loss)
        pieces = self.feature_pieces(waves, self.window_frames)
        codes = torch.cat([self.quantize(piece).indices for piece in pieces], dim=2)  # (B, K, T)
        nothing = waves.new_zeros(waves.shape[0], 0, 0)
        return TokenizerOutput(self._tokens(codes, channels), nothing, layout)

    def decode(
        self,
        tokens: torch.Tensor,
        *,
        num_tokens: int | None = None,
        layout: TokenLayout | None = None,
        generators: list[torch.Generator] | None = None,
        length: int | None = None,
        condition: int | None = None,
    ) -> torch.Tensor:
        """Tokens to audio (B, C, L).

        Args:
            tokens: int64 (B, T), (B, C * K, T), or flat with a `layout`.
            num_tokens: all of them, or None.
            layout: what they mean; read from their shape when None.
            generators: not used: no noise is drawn.
            length: samples to crop to.
            condition: of decoders with adaptive norms, the id to use.

        Raises:
            ValueError: a shape that does not fit, or codes outside the codebook.
        """
        codes = self._codes(tokens, layout)  # (B, C, K, T)
        self.check_num_tokens(num_tokens, layout or self.layout_of(codes.shape[-1]))
        batch = codes.shape[0]
        options = {} if condition is None else {"condition": condition}
        waves = self.waves(codes.flatten(0, 1), **options)[..., :length]  # (B * C, L)
        return waves.unflatten(0, (batch, -1))  # (B, C, L)

    def waves(self, codes: torch.Tensor, **options) -> torch.Tensor:
        """Codes (B, K, T) of single channels to waves (B, L), in windows where they are long;
        options as for `synthesize`.
        """
        frames = codes.shape[-1]
        if frames <= self.window_frames:
            return self.synthesize(self.lookup(codes), **options)
        fade = max(1, round(FADE_SECONDS * self.frame_rate))
        overlap = self._overlap(fade)
        size = max(self.window_frames, 2 * overlap)
        join = {"size": size, "overlap": overlap, "fade": fade, "hop": self.hop}

        def piece(start: int, stop: int) -> torch.Tensor:
            return self.synthesize(self.lookup(codes[..., start:stop]), **options)

        return crossfaded(piece, frames, **join)

    def wave_stream(self, pieces: Iterable[torch.Tensor], **options) -> Iterator[torch.Tensor]:
        """The wave of codes that come in pieces, as soon as it is certain.

        Args:
            pieces: (B, K, t) each, in order.
            options: as for `synthesize`.

        Yields:
            waves (B, L); joined they are the wave of all codes. What the decoder's `reach` still
            leaves open waits for the next piece; where it sees the whole clip, for the last.
        """
        for codes, begin, end in ready_stretches(pieces, self.reach):
            first = max(0, begin - (self.reach or 0))
            stop = codes.shape[-1] if self.reach is None else end + self.reach
            wave = self.synthesize(self.lookup(codes[..., first:stop]), **options)
            done = end == codes.shape[-1]
            yield wave[:, (begin - first) * self.hop : None if done else (end - first) * self.hop]

    def reconstruct(
        self,
        media: torch.Tensor,
        *,
        num_tokens: int | None = None,
        sample_rate: int | None = None,
        lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Audio (B, C, L) through tokens and back, as long as it was and at its own sample rate;
        with `lengths` (B,) each row as if alone, zeros after its end.
        """
        length = media.shape[-1]
        if lengths is not None:
            out = torch.zeros_like(media)
            for row, count in enumerate(lengths.tolist()):
                made = self.reconstruct(media[row : row + 1, :, :count], sample_rate=sample_rate)
                out[row, :, :count] = made[0]
            return out
        encoded = self.encode(media, sample_rate=sample_rate)
        assert encoded.tokens is not None  # sound tokenizers are discrete
        made = self.decode(encoded.tokens, num_tokens=num_tokens, layout=encoded.layout)
        return resample(made, self.sample_rate, sample_rate or self.sample_rate)[..., :length]

    def forward(self, audio: torch.Tensor) -> tuple[torch.Tensor, TokenizerOutput]:
        """What training needs, audio (B, 1, L): the reconstruction (B, 1, L), its gradient through
        the quantizer, and the encoding.
        """
        encoded = self.encode(audio)
        assert encoded.quantized is not None  # clips of training fit in a window
        return self.synthesize(encoded.quantized)[:, None, : audio.shape[-1]], encoded

    def rate(
        self,
        num_tokens: int | None = None,
        *,
        layout: TokenLayout | None = None,
        size: tuple[int, int] | None = None,
        seconds: float | None = None,
    ) -> TokenRate:
        """Tokens and bits of one clip, and bits a second.

        Args:
            num_tokens: of the first ones; all when None.
            layout: of the tokens; the configured one when None.
            size: not used.
            seconds: length of the clip; what its frames stand for when None.
        """
        layout = layout or self.layout
        seconds = seconds or layout.segments[0].shape[0] / self.frame_rate
        count = layout.num_tokens if num_tokens is None else num_tokens
        return TokenRate(count, layout.bits(count), layout.bits(count) / seconds, "second")

    @property
    def window_frames(self) -> int:
        """Frames of a window; longer clips go in several."""
        return max(1, round(self.config.window_seconds * self.frame_rate))

    # --- inside ----------------------------------------------------------------------------------

    def _overlap(self, fade: int) -> int:
        """Frames that two windows share: twice the decoder's reach and the fade between them."""
        return 2 * (round(self.frame_rate) if self.reach is None else self.reach) + fade

    def _scaled(self, lengths: torch.Tensor, sample_rate: int | None) -> torch.Tensor:
        rate = sample_rate or self.sample_rate
        return -(-lengths * self.sample_rate // rate)

    def _encode_rows(self, media: torch.Tensor, lengths: torch.Tensor) -> TokenizerOutput:
        counts = lengths.tolist()
        if len(counts) != media.shape[0] or min(counts) < 1 or max(counts) > media.shape[-1]:
            raise ValueError(
                f"lengths {counts} must be {media.shape[0]} numbers of 1 to {media.shape[-1]}"
            )
        alone = [self.encode(media[i : i + 1, :, :n]).tokens for i, n in enumerate(counts)]
        rows = [tokens for tokens in alone if tokens is not None]
        frames = max(row.shape[-1] for row in rows)
        tokens = torch.cat(
            [torch.nn.functional.pad(row, (0, frames - row.shape[-1])) for row in rows]
        )
        layout = self.layout_of(frames, channels=media.shape[1])
        return TokenizerOutput(tokens, media.new_zeros(0), layout)

    def _tokens(self, codes: torch.Tensor, channels: int) -> torch.Tensor:
        """Codes (B * C, K, T) as (B, C * K, T), or (B, T) where that is one row."""
        tokens = codes.unflatten(0, (-1, channels)).flatten(1, 2)  # (B, C * K, T)
        return tokens[:, 0] if tokens.shape[1] == 1 else tokens

    def _codes(self, tokens: torch.Tensor, layout: TokenLayout | None) -> torch.Tensor:
        """Any form of tokens as (B, C, K, T)."""
        if tokens.ndim == 2:
            tokens = layout.split(tokens)["audio"] if layout else tokens
            tokens = tokens[:, None] if tokens.ndim == 2 else tokens
        books = self.num_codebooks
        if tokens.ndim != 3 or not tokens.shape[-1]:
            raise ValueError(f"tokens of shape {tuple(tokens.shape)} must be (B, T) or (B, K, T)")
        if tokens.shape[1] > books and tokens.shape[1] % books:
            raise ValueError(f"tokens have {tokens.shape[1]} rows; a channel has {books}")
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.codebook_size:
            wrong = low if low < 0 else high
            raise ValueError(f"token {wrong} must lie between 0 and {self.codebook_size - 1}")
        channels = max(1, tokens.shape[1] // books)
        return tokens.unflatten(1, (channels, -1))  # (B, C, K, T)


def ready_stretches(
    pieces: Iterable[torch.Tensor], reach: int | None
) -> Iterator[tuple[torch.Tensor, int, int]]:
    """Codes (B, K, T) so far of those that come in pieces, and from where to where they can be
    decoded: up to `reach` before the last one (None: not at all), and to the end at the end."""
    held, done = None, 0
    for piece in pieces:
        held = piece if held is None else torch.cat((held, piece), -1)
        ready = 0 if reach is None else held.shape[-1] - reach
        if ready > done:
            yield held, done, ready
            done = ready
    if held is not None and held.shape[-1] > done:
        yield held, done, held.shape[-1]


class WaveTokenizer(AudioTokenizer):
    """A sound tokenizer made of the parts `encoder` (SEANet), `project_in` and `project_out`
    (around the codes), `backbone` (Vocos) and `head` (inverse STFT).
    """

    _no_split_modules = ["ConvNeXtBlock"]
    _encoder_modules = ("encoder", "project_in")

    @property
    def reach(self) -> int | None:
        """Frames on each side of a sample that the decoder looks at; None with attention."""
        inner = self.backbone.reach
        return None if inner is None else inner + self.head.reach

    def features(self, waves: torch.Tensor) -> torch.Tensor:
        """Waves (B, 1, L) to features (B, D, T), D the width of the codes."""
        return self.project_in(self.encoder(waves))

    def feature_pieces(self, waves: torch.Tensor, frames: int) -> Iterator[torch.Tensor]:
        """The features of a long clip in pieces (B, D, t); joined they are those of the whole."""
        for piece in self.encoder.stream(waves, frames=frames):
            yield self.project_in(piece)

    def synthesize(
        self, vectors: torch.Tensor, *, condition: int | torch.Tensor | None = None
    ) -> torch.Tensor:
        """Vectors (B, D, T) to waves (B, T * hop) ("center": (T - 1) * hop).

        Args:
            vectors: quantized features.
            condition: ids of the adaptive norms, one or (B,); 0 when None.
        """
        return self.head(self.backbone(self.project_out(vectors), condition))


def check_audio(audio: torch.Tensor) -> None:
    """Raises ValueError unless `audio` is (B, C, L) of finite values, with at least one of each."""
    if audio.ndim != 3 or not audio.numel():
        raise ValueError(
            f"audio of shape {tuple(audio.shape)} must be (B, C, L), with at least one sample"
        )
    if not bool(torch.isfinite(audio).all()):
        raise ValueError("audio holds values that are not finite")
