"""What all video tokenizers share: sizes, rates, and long videos in bounded memory.

Letters: B batch, T frames, H height, W width, N tokens, D width of a latent; t, h, w cells.
"""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F

from studio.layers.causal import Carry
from studio.outputs import TokenizerOutput, TokenLayout, TokenRate, TokenSegment
from studio.tokenizers.base import Tokenizer


class VideoTokenizer(Tokenizer):
    """Base of video tokenizers: clips (B, 3, T, H, W), where one image is a clip of one frame.

    A subclass sets `time_factor` and `space_factor` (a clip of 1 + k * time_factor frames becomes 1
    + k cells; without `lone_first`, k * time_factor frames become k cells), and gives `layout_of`,
    `encode` and `decode`. Discrete ones give `latents` (B, D, t, h, w) or (B, N, D). Continuous
    ones have no tokens: their `latents` are (B, N, D), and `decode` takes those. `causal` ones take
    a `carry` and encode a clip in chunks to the very same tokens; the others cut a long one into
    windows of `num_frames` frames that know nothing of each other.
    """

    medium = "video"
    causal = False
    lone_first = True  # the first frame is a cell of its own
    time_factor = 1
    space_factor = 1

    @property
    def layout(self) -> TokenLayout:
        """The layout of a clip of the configured size."""
        size = self.config.image_size
        return self.layout_of(self.config.num_frames, size, size)

    def layout_of(self, num_frames: int, height: int, width: int) -> TokenLayout:
        """The layout of a whole clip of that size, in frames and pixels."""
        raise NotImplementedError

    def encode(self, media: torch.Tensor, *, carry: Carry | None = None) -> TokenizerOutput:
        """A clip, or with `carry` the next chunk of one, to tokens."""
        raise NotImplementedError

    def decode(
        self,
        tokens: torch.Tensor,
        *,
        num_tokens: int | None = None,
        layout: TokenLayout | None = None,
        generators: list[torch.Generator] | None = None,
        carry: Carry | None = None,
    ) -> torch.Tensor:
        """Tokens, or continuous latents (B, N, D), to a clip, or with `carry` the next chunk."""
        raise NotImplementedError

    def check_video(self, video: torch.Tensor, *, first: bool = True) -> None:
        """Raises ValueError unless `video` is a clip (or, not `first`, a later chunk) that fits."""
        if video.ndim != 5 or video.shape[1] != 3:
            raise ValueError(f"video of shape {tuple(video.shape)} must be (B, 3, T, H, W)")
        frames, height, width = video.shape[-3:]
        lone = int(first and self.lone_first)
        if not frames or (frames - lone) % self.time_factor:
            form = "1 + a multiple" if lone else "a multiple"
            raise ValueError(f"video of {frames} frames must have {form} of {self.time_factor}")
        if not height or not width or height % self.space_factor or width % self.space_factor:
            factor = self.space_factor
            raise ValueError(f"video size {height}x{width} must be a multiple of {factor}")

    def check_tokens(
        self, tokens: torch.Tensor, num_tokens: int | None, layout: TokenLayout | None
    ) -> TokenLayout:
        """The layout of all `tokens`. Raises ValueError where their number is another."""
        layout = layout or self.layout
        self.check_num_tokens(num_tokens, layout)
        if tokens.shape[1] != layout.num_tokens:
            raise ValueError(f"{tokens.shape[1]} tokens given; the layout has {layout.num_tokens}")
        return layout

    def grid_of(self, encoded: TokenizerOutput) -> torch.Tensor:
        """What the decoder sees of an encoding, as a grid (B, D, t, h, w)."""
        quantized = encoded.latents if encoded.quantized is None else encoded.quantized
        if encoded.tokens is not None:
            return quantized
        return quantized.transpose(1, 2).unflatten(2, encoded.layout.segments[0].shape)

    def fitted(self, video: torch.Tensor) -> torch.Tensor:
        """A clip of any size, enlarged at its end, bottom and right by its edge until it fits."""
        frames, height, width = video.shape[-3:]
        pads = (-width % self.space_factor, -height % self.space_factor)
        pads = (*pads, (int(self.lone_first) - frames) % self.time_factor)
        return F.pad(video, (0, pads[0], 0, pads[1], 0, pads[2]), mode="replicate")

    def reconstruct(self, media: torch.Tensor, *, num_tokens: int | None = None) -> torch.Tensor:
        """A clip (B, 3, T, H, W) of any size through tokens and back, in the same size."""
        encoded = self.encode(self.fitted(media))
        values = encoded.latents if encoded.tokens is None else encoded.tokens
        video = self.decode(values, num_tokens=num_tokens, layout=encoded.layout)
        frames, height, width = media.shape[-3:]
        return video[:, :, :frames, :height, :width]

    def rate(
        self,
        num_tokens: int | None = None,
        *,
        layout: TokenLayout | None = None,
        size: tuple[int, ...] | None = None,
    ) -> TokenRate:
        """Tokens, bits and bits per pixel of one clip; `size` is (T, H, W), the configured one when
        None. Continuous tokenizers have no bits: NaN.
        """
        side = self.config.image_size
        frames, height, width = size or (self.config.num_frames, side, side)
        layout = layout or self.layout_of(frames, height, width)
        count = layout.num_tokens if num_tokens is None else num_tokens
        bits = layout.bits(count)
        return TokenRate(count, bits, bits / (frames * height * width), "pixel")

    def encode_stream(
        self,
        clips: Iterable[torch.Tensor],
        *,
        chunk_frames: int | None = None,
        memory: int | None = None,
    ) -> Iterator[TokenizerOutput]:
        """Encodes a video that comes in pieces, holding one chunk at a time.

        Args:
            clips: pieces (B, 3, n, H, W) of one video, of any lengths; they must fit in height and
                width. At the end the last frame is repeated until the frames fit.
            chunk_frames: frames encoded at a time, at least `time_factor`; `num_frames` when None,
                which is the only choice of a tokenizer that is not causal.
            memory: see `layers.causal.Carry`; a number bounds what attention over time keeps.
        """
        carry = Carry(memory) if self.causal else None
        frames = chunk_frames or self.config.num_frames
        if not self.causal and frames != self.config.num_frames:
            raise ValueError(f"chunk_frames {frames} must be {self.config.num_frames} here")
        later = frames
        if self.causal:
            later = max(1, frames // self.time_factor) * self.time_factor
            frames = later - self.time_factor + 1 if self.lone_first else later
        for chunk in regrouped(clips, first=frames, later=later, multiple=self.time_factor):
            yield self.encode(chunk) if carry is None else self.encode(chunk, carry=carry)

    def decode_stream(
        self, parts: Iterable[TokenizerOutput], *, memory: int | None = None
    ) -> Iterator[torch.Tensor]:
        """The way back of `encode_stream`: pieces (B, 3, n, H, W) of the video, one a part."""
        carry = Carry(memory) if self.causal else None
        for part in parts:
            values = part.latents if part.tokens is None else part.tokens
            if carry is None:
                yield self.decode(values, layout=part.layout)
            else:
                yield self.decode(values, layout=part.layout, carry=carry)


def regrouped(
    clips: Iterable[torch.Tensor], *, first: int, later: int, multiple: int
) -> Iterator[torch.Tensor]:
    """Pieces (B, C, n, H, W) of a video joined and cut anew: `first` frames, then `later` each.

    The last piece is shorter where the frames end; it is filled up, by its last frame repeated, to
    the next size that differs from the asked one by multiples of `multiple`.
    """
    held, wanted = None, first
    for clip in clips:
        held = clip if held is None else torch.cat((held, clip), dim=2)
        while held.shape[2] >= wanted:
            yield held[:, :, :wanted]
            held, wanted = held[:, :, wanted:], later
    if held is None:
        raise ValueError("the video has no frames")
    if held.shape[2]:
        missing = (wanted - held.shape[2]) % multiple
        yield F.pad(held, (0, 0, 0, 0, 0, missing), mode="replicate")


def video_layout(shape: tuple[int, int, int], *, vocab_size: int = 0, dim: int = 0) -> TokenLayout:
    """One segment "video" of t x h x w cells: codes, or continuous vectors of `dim` numbers."""
    return TokenLayout((TokenSegment("video", shape, vocab_size, dim=dim),))
