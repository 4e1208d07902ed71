"""The tokenizer contract: media to tokens and back.

Every tokenizer is a diffusers model: its config is its `__init__` signature, and `save_pretrained`
/ `from_pretrained` work as diffusers users know them.
"""

import math

import torch
from diffusers import ConfigMixin, ModelMixin

from studio.outputs import TokenizerOutput, TokenLayout, TokenRate


class Tokenizer(ModelMixin, ConfigMixin):
    """Base of all tokenizers.

    A subclass gives `layout`, `encode` and `decode`. Media: image (B, 3, H, W) and video (B, 3, T,
    H, W) floats in [-1, 1], audio (B, 1, L) in [-1, 1]. Tokens: int64 (B, N) or (B, K, N).
    """

    config_name = "config.json"
    medium = "image"  # or "audio", "video"
    _supports_gradient_checkpointing = False
    _encoder_modules: tuple[str, ...] = ()

    def encoder_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        """The named parameters that decide the tokens; with these frozen the decoder may still
        learn.
        """
        heads = self._encoder_modules
        return [(n, p) for n, p in self.named_parameters() if n.split(".")[0] in heads]

    @property
    def layout(self) -> TokenLayout:
        """The layout of the tokens at the configured size."""
        raise NotImplementedError

    def encode(self, media: torch.Tensor) -> TokenizerOutput:
        """Media to tokens."""
        raise NotImplementedError

    def decode(
        self,
        tokens: torch.Tensor,
        *,
        num_tokens: int | None = None,
        layout: TokenLayout | None = None,
        generators: list[torch.Generator] | None = None,
    ) -> torch.Tensor:
        """Tokens to media.

        Args:
            tokens: int64 (B, N).
            num_tokens: decode only this many leading tokens; needs a layout with decodable
                prefixes.
            layout: the layout when it is not the configured one (a picture of another size).
            generators: one a sample, for decoders that draw noise.
        """
        raise NotImplementedError

    def reconstruct(self, media: torch.Tensor, *, num_tokens: int | None = None) -> torch.Tensor:
        """Media through tokens and back: what `studio reconstruct` shows."""
        encoded = self.encode(media)
        assert encoded.tokens is not None  # continuous tokenizers have a way of their own
        return self.decode(encoded.tokens, num_tokens=num_tokens, layout=encoded.layout)

    def rate(
        self,
        num_tokens: int | None = None,
        *,
        layout: TokenLayout | None = None,
        size: tuple[int, int] | None = None,
    ) -> TokenRate:
        """Tokens, bits and bits per pixel of one picture.

        Args:
            num_tokens: of a prefix; all when None.
            layout: of the tokens; the configured one when None.
            size: (H, W) of the picture; the configured square when None.
        """
        layout = layout or self.layout
        height, width = size or (self.config.image_size, self.config.image_size)
        count = layout.num_tokens if num_tokens is None else num_tokens
        bits = layout.bits(count)
        return TokenRate(count, bits, bits / (height * width), "pixel")

    def check_num_tokens(self, num_tokens: int | None, layout: TokenLayout) -> int:
        """The number of tokens to decode. Raises ValueError when a prefix of that length can't be
        decoded.
        """
        total = layout.num_tokens
        if num_tokens is None or num_tokens == total:
            return total
        if not layout.prefix:
            raise ValueError(
                f"num_tokens {num_tokens}: {type(self).__name__} decodes all {total} tokens only"
            )
        if not 1 <= num_tokens <= total:
            raise ValueError(f"num_tokens {num_tokens} must lie between 1 and {total}")
        return num_tokens


def check_image(images: torch.Tensor, multiple: int) -> None:
    """Raises ValueError unless `images` is (B, 3, H, W) with H and W multiples of `multiple`."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images of shape {tuple(images.shape)} must be (B, 3, H, W)")
    height, width = images.shape[-2:]
    if height % multiple or width % multiple or not math.prod((height, width)):
        raise ValueError(f"image size {height}x{width} must be a multiple of {multiple}")
