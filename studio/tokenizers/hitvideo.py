"""Hierarchical video tokens: few coarse ones first, finer layers for detail, any number decodable.

HiTVideo: Hierarchical Tokenizers for Enhancing Text-to-Video Generation with Autoregressive Large
Language Models, 2025, 2503.11513. No code or weights are public, and what could be read of the
paper is its outline: a 3D causal autoencoder with several layers of discrete codes, upper ones
strongly compressed, lower ones for detail, trained so that decoding may stop after any layer.
Choices made here, each for a reason:

- Top-down, as VQ-VAE-2 (2019, 1906.00446): a layer codes what the estimate from the layers above
  left over, so stopping early decodes the estimate, and no layer repeats another.
- Every layer starts linear: blocks of features are projected on principal components (`fit`), and
  networks that start at zero correct the residual before it is coded and the estimate after it. A
  3D network from scratch stayed blurred for hours on a CPU; this one reconstructs at step 0. With
  `linear` there is one network, behind all layers that are there, and codes are final once fitted.
- The trunk, pixels to features and back, is a frozen image tokenizer applied frame by frame
  (`from_image_tokenizer`) or, with `trunk=None`, causal 3D convolutions. Both keep every frame;
  only the layers compress time.
- Codes are finite scalar (no codebook to keep alive) instead of learned vectors.
- Causal by blocks of frames: a clip has k * time_factor frames, 16 and not 17, and a chunk of whole
  blocks encodes to the same tokens as it does within the clip. One image is one block of copies.

Left out on purpose: the variational term, adversarial training, and codes of varying number.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import nn

from studio.layers.block_net import BlockNet, CausalTrunk
from studio.layers.causal import Carry
from studio.outputs import TokenizerOutput, TokenLayout, TokenRate, TokenSegment
from studio.quantizers.fsq import FiniteScalarQuantizer
from studio.registry import find_class
from studio.tokenizers.base import Tokenizer
from studio.tokenizers.base_video import VideoTokenizer
from studio.tokenizers.code_layer import CodeLayer

# 64 + 256 + 128 tokens for 16 frames of 64 x 64 on a trunk that reduces space by 8. The last layer
# is slow: what eight frames share is cheap to say once.
LAYERS = (
    {"name": "coarse", "stride": (4, 2, 2), "levels": (8, 8, 8, 8)},
    {"name": "fine", "stride": (4, 1, 1), "levels": (8, 8, 8, 8)},
    {"name": "detail", "stride": (8, 1, 1), "levels": (8, 8, 8, 8)},
)

PORTION = 1 << 19  # pixels that go through an image trunk at a time: 128 frames of 64 x 64


class HiTVideoTokenizer(VideoTokenizer):
    """Clips to layers of tokens, coarse first, and back from any number of whole layers.

    Args:
        num_frames, image_size: the usual clip; other sizes work too.
        trunk: config of an image tokenizer with `_class_name`, see `from_image_tokenizer`; None for
            causal 3D convolutions.
        trunk_scale: frames are enlarged so many times before an image trunk, and reduced after it.
        trunk_channels, trunk_base, trunk_patch, trunk_halvings: of the 3D trunk, see `CausalTrunk`.
        layers: coarse to fine; name, stride in features along time, height and width, and levels of
            the finite scalar quantizer.
        block: frames, rows and columns of features that the networks see as one place.
        dim, depth, final_depth: width of the networks, residual blocks in each, and in the last.
        refiner_channels, refiner_depth: of the network that corrects pixels; 0 for none.
        spread: what a deviation of 1 becomes before the quantizer's bound.
        frozen_start: keep the principal components as `fit` set them.
        linear: codes are linear in the features: no network sees them before they are coded, so
            `fit` makes them final and all that is trained is decoding, from any number of layers.
    """

    causal = True
    lone_first = False
    _no_split_modules = ["BlockNet", "CausalTrunk"]
    trunk_network: Any  # a `CausalTrunk`, or an image tokenizer
    mean: torch.Tensor
    _encoder_modules = ("trunk_network", "codes", "targets", "estimates")

    @register_to_config
    def __init__(
        self,
        *,
        num_frames: int = 16,
        image_size: int = 64,
        trunk: dict[str, Any] | None = None,
        trunk_scale: int = 1,
        trunk_channels: int = 4,
        trunk_base: int = 32,
        trunk_patch: int = 4,
        trunk_halvings: int = 1,
        layers: Sequence[dict[str, Any]] = LAYERS,
        block: Sequence[int] = (4, 1, 1),
        dim: int = 128,
        depth: int = 2,
        final_depth: int = 4,
        refiner_channels: int = 48,
        refiner_depth: int = 2,
        spread: float = 0.7,
        frozen_start: bool = True,
        linear: bool = False,
    ):
        super().__init__()
        if trunk is None:
            shape = (trunk_base, trunk_patch, trunk_halvings)
            self.trunk_network = CausalTrunk(trunk_channels, *shape)
            channels, reduction = trunk_channels, self.trunk_network.reduction
        else:
            self.trunk_network = _image_trunk(trunk)
            channels, reduction = (
                self.trunk_network.quantize.dim,
                self.trunk_network.reduction // trunk_scale,
            )
        self.reduction = reduction
        cells = (int(block[0]), int(block[1]), int(block[2]))
        strides = [layer["stride"] for layer in layers] + [cells]
        self.time_factor = math.lcm(*(int(s[0]) for s in strides))
        self.space_factor = reduction * math.lcm(*(int(n) for s in strides for n in s[1:]))
        self.codes = nn.ModuleList(
            CodeLayer(channels, layer["stride"], layer["levels"], spread) for layer in layers
        )

        def network(depth: int) -> BlockNet:
            seen = channels + 1 if linear else 2 * channels
            return BlockNet(seen, channels, cells, dim=dim, depth=depth)

        between = 0 if linear else len(layers)
        self.targets = nn.ModuleList(network(depth) for _ in range(between))
        self.estimates = nn.ModuleList(network(depth) for _ in range(max(0, between - 1)))
        self.final = network(final_depth)
        self.refiner = None
        if refiner_channels:
            self.refiner = BlockNet(
                4, 3, (1, 4, 4), dim=refiner_channels, depth=refiner_depth, attend=False
            )
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1, 1))
        if frozen_start and trunk is not None:
            self.codes.requires_grad_(False)

    @classmethod
    def from_image_tokenizer(cls, tokenizer: Tokenizer, **options: Any) -> "HiTVideoTokenizer":
        """A video tokenizer on the frozen weights of an image tokenizer that gives a grid of finite
        scalar codes. `options` are this class's arguments; `fit` comes next.
        """
        config = {k: v for k, v in tokenizer.config.items() if not k.startswith("_")}
        made = cls(trunk={"_class_name": type(tokenizer).__name__, **config}, **options)
        made.trunk_network.load_state_dict(tokenizer.state_dict())
        return made

    @property
    def code_layers(self) -> list[CodeLayer]:
        """The layers of codes, coarse first."""
        return [cast(CodeLayer, layer) for layer in self.codes]

    def train_decoder(self) -> None:
        """Lets the decoder of an image trunk learn; its encoder stays frozen."""
        trunk = self.trunk_network
        if isinstance(trunk, Tokenizer):
            kept = {name for name, _ in trunk.encoder_parameters()}
            for name, parameter in trunk.named_parameters():
                parameter.requires_grad_(name not in kept)

    def encoder_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """See `Tokenizer.encoder_parameters`; an image trunk's decoder is none of them."""
        found = super().encoder_parameters()
        trunk = self.trunk_network
        if not isinstance(trunk, Tokenizer):
            return found
        kept = {f"trunk_network.{name}" for name, _ in trunk.encoder_parameters()}
        return [(n, p) for n, p in found if n in kept or not n.startswith("trunk_network.")]

    # --- sizes -----------------------------------------------------------------------------------

    def layout_of(self, num_frames: int, height: int, width: int) -> TokenLayout:
        """One segment a layer, coarse first, each a grid (t, h, w)."""
        size = (num_frames, height // self.reduction, width // self.reduction)
        segments = []
        for layer, spec in zip(self.code_layers, self.config.layers, strict=True):
            shape = tuple(n // s for n, s in zip(size, layer.stride, strict=True))
            segments.append(TokenSegment(spec["name"], shape, layer.quantize.codebook_size))
        return TokenLayout(tuple(segments))

    def num_tokens_of(self, num_layers: int, layout: TokenLayout | None = None) -> int:
        """How many tokens the first layers have. Raises ValueError for a number there is not."""
        if not 1 <= num_layers <= len(self.codes):
            raise ValueError(f"num_layers {num_layers} must lie between 1 and {len(self.codes)}")
        segments = (layout or self.layout).segments
        return sum(segment.num_tokens for segment in segments[:num_layers])

    def check_num_tokens(self, num_tokens: int | None, layout: TokenLayout) -> int:
        """The number of tokens to decode. Raises ValueError unless they are whole layers."""
        counts = [self.num_tokens_of(i + 1, layout) for i in range(len(self.codes))]
        count = counts[-1] if num_tokens is None else num_tokens
        if count not in counts:
            allowed = ", ".join(map(str, counts))
            raise ValueError(f"num_tokens {count} must be whole layers: one of {allowed}")
        return count

    def layer_rates(self, size: tuple[int, int, int] | None = None) -> dict[str, TokenRate]:
        """Tokens, bits and bits per pixel of every layer by name, for a clip of (T, H, W)."""
        side = self.config.image_size
        frames, height, width = size or (self.config.num_frames, side, side)
        rates = {}
        for segment in self.layout_of(frames, height, width).segments:
            bits = segment.num_tokens * segment.bits_per_token
            per_pixel = bits / (frames * height * width)
            rates[segment.name] = TokenRate(segment.num_tokens, bits, per_pixel, "pixel")
        return rates

    # --- pixels to features and back -------------------------------------------------------------

    def features(self, video: torch.Tensor, carry: Carry | None = None) -> torch.Tensor:
        """A clip (B, 3, T, H, W) in [-1, 1], or its next chunk, to features (B, C, T, h, w)."""
        self.check_video(video, first=False)
        video = video.to(self.dtype)
        if isinstance(self.trunk_network, CausalTrunk):
            return self.trunk_network.features(video, carry or Carry())
        frames = video.transpose(1, 2).flatten(0, 1)  # (B*T, 3, H, W)
        if self.config.trunk_scale > 1:
            scale = float(self.config.trunk_scale)
            frames = F.interpolate(frames, scale_factor=scale, mode="bilinear")
        with torch.no_grad():
            # a few at a time: large frames take much memory
            parts = [self.trunk_network.latents(part) for part in frames.split(_portion(frames))]
            latents = torch.cat(parts).movedim(1, -1)  # (B*T, h, w, C)
            bounded = self.trunk_network.quantize.bound(latents) / (
                self.trunk_network.quantize._levels // 2
            )
        return bounded.unflatten(0, (len(video), -1)).movedim(-1, 1)  # (B, C, T, h, w)

    def pixels(
        self, features: torch.Tensor, carry: Carry | None = None, *, num_layers: int | None = None
    ) -> torch.Tensor:
        """Features (B, C, T, h, w) to a clip (B, 3, T, H, W), about [-1, 1], not clamped.

        Args:
            num_layers: how many layers the features were made from, all when None; it tells the
                refiner how much detail is there.
        """
        carry = carry or Carry()
        if isinstance(self.trunk_network, CausalTrunk):
            video = self.trunk_network.pixels(features, carry)
        else:
            cells = features.transpose(1, 2).flatten(0, 1)  # (B*T, C, h, w)
            parts = cells.split(_portion(cells, self.trunk_network.reduction))
            frames = torch.cat([self.trunk_network.pixels(part) for part in parts])
            if self.config.trunk_scale > 1:
                frames = F.avg_pool2d(frames, self.config.trunk_scale)
            video = frames.unflatten(0, (len(features), -1)).transpose(1, 2)  # (B, 3, T, H, W)
        if self.refiner is None:
            return video
        share = (num_layers or len(self.codes)) / len(self.codes)
        known = torch.full_like(video[:, :1], share)
        return video + self.refiner(torch.cat((video, known), dim=1), carry)

    # --- features to layers of codes and back ----------------------------------------------------

    @torch.no_grad()
    def fit(self, video: torch.Tensor, *, portion: int = 16) -> None:
        """Sets every layer's projections from clips (n, 3, T, H, W): a start that reconstructs."""
        features = torch.cat([self.features(part) for part in video.split(portion)])
        self.mean.copy_(features.mean((0, 2, 3, 4), keepdim=True))
        left = features - self.mean
        for layer in self.code_layers:
            layer.fit(left)
            left = left - layer.decode(layer.encode(left)[1])

    def _refine(self, layer: int, estimate: torch.Tensor, added: torch.Tensor, carry: Carry):
        """The estimate after a layer: what was known, what its codes add, and a correction."""
        if self.config.linear:
            return estimate + added
        last = layer == len(self.codes) - 1
        network = self.final if last else self.estimates[layer]
        return estimate + added + network(torch.cat((estimate + added, added), dim=1), carry)

    def _finish(self, estimate: torch.Tensor, num_layers: int, carry: Carry) -> torch.Tensor:
        """Where codes are linear, the correction of what the first layers add up to."""
        if not self.config.linear:
            return estimate
        known = torch.full_like(estimate[:, :1], num_layers / len(self.codes))
        return estimate + self.final(torch.cat((estimate, known), dim=1), carry)

    def _encode_layers(
        self, features: torch.Tensor, carry: Carry
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Codes of every layer, and the estimates of the features after each."""
        estimate = self.mean.expand_as(features)
        codes, estimates = [], []
        for i, layer in enumerate(self.code_layers):
            seen = torch.cat((features, estimate), dim=1)
            target = features - estimate
            if not self.config.linear:
                target = target + self.targets[i](seen, carry)
            indices, quantized = layer.encode(target)
            estimate = self._refine(i, estimate, layer.decode(quantized), carry)
            codes.append(indices)
            estimates.append(estimate)
        return codes, estimates

    def encode(self, media: torch.Tensor, *, carry: Carry | None = None) -> TokenizerOutput:
        """A clip (B, 3, T, H, W) in [-1, 1], or with `carry` its next chunk, to tokens (B, N), the
        layers one after the other. `latents` are the trunk's features (B, C, T, h, w), `quantized`
        what is known of them from all layers (where `linear`, before the last correction), `loss`
        the mean squared error after every layer.
        """
        return self._encode(media, carry or Carry())[0]

    def _encode(
        self, video: torch.Tensor, carry: Carry
    ) -> tuple[TokenizerOutput, list[torch.Tensor]]:
        features = self.features(video, carry)
        codes, estimates = self._encode_layers(features, carry)
        errors = [F.mse_loss(estimate, features.detach()) for estimate in estimates]
        tokens = torch.cat([part.flatten(1) for part in codes], dim=1)  # (B, N)
        layout = self.layout_of(*(int(n) for n in video.shape[-3:]))
        loss = torch.stack(errors).mean()
        return TokenizerOutput(tokens, features, layout, estimates[-1], loss), estimates

    def decode(
        self, tokens, *, num_tokens=None, layout=None, generators=None, carry=None
    ) -> torch.Tensor:
        """Tokens (B, n) to a clip (B, 3, T, H, W).

        Args:
            tokens: of all layers, or of the first ones.
            num_tokens: decode only so many leading tokens; whole layers, see `num_tokens_of`.
            layout: of all layers, where the clip is not of the configured size.
            carry: of the chunks before.
        """
        carry = carry or Carry()
        estimate, kept = self.estimate(tokens, num_tokens=num_tokens, layout=layout, carry=carry)
        return self.pixels(estimate, carry, num_layers=kept)

    def estimate(
        self, tokens, *, num_tokens=None, layout=None, carry=None
    ) -> tuple[torch.Tensor, int]:
        """Tokens (B, n) to features (B, C, T, h, w), and of how many layers; see `decode`."""
        layout, carry = layout or self.layout, carry or Carry()
        count = self.check_num_tokens(num_tokens or tokens.shape[1], layout)
        if tokens.shape[1] < count:
            raise ValueError(f"num_tokens {count} is more than the {tokens.shape[1]} tokens given")
        estimate, start, kept = self.mean, 0, 0
        for i, segment in enumerate(layout.segments):
            part = tokens[:, start : start + segment.num_tokens].unflatten(1, segment.shape)
            layer = self.code_layers[i]
            added = layer.decode(layer.lookup(part))  # (B, C, T, h, w)
            estimate = self._refine(i, estimate.expand_as(added), added, carry)
            start, kept = start + segment.num_tokens, i + 1
            if start == count:
                break
        return self._finish(estimate, kept, carry), kept

    def forward(
        self, video: torch.Tensor, num_tokens: int | None = None
    ) -> tuple[torch.Tensor, TokenizerOutput]:
        """What training needs: the reconstruction from the layers that `num_tokens` leading tokens
        are, and the encoding. Gradients pass the quantizers.
        """
        carry = Carry()
        encoded, estimates = self._encode(video, carry)
        count = self.check_num_tokens(num_tokens, encoded.layout)
        sums = [self.num_tokens_of(i + 1, encoded.layout) for i in range(len(self.codes))]
        kept = sums.index(count) + 1
        later = Carry()
        finished = self._finish(estimates[kept - 1], kept, later)
        return self.pixels(finished, later, num_layers=kept), encoded


def _portion(frames: torch.Tensor, scale: int = 1) -> int:
    """How many frames (B, C, H, W), `scale` times larger in pixels, a trunk sees at a time."""
    return max(1, PORTION // (frames.shape[-2] * frames.shape[-1] * scale**2))


def _image_trunk(config: dict[str, Any]) -> Any:
    """An image tokenizer by its config, frozen."""
    name = config.get("_class_name", "")
    trunk = find_class(name).from_config(dict(config))
    if not isinstance(trunk.quantize, FiniteScalarQuantizer) or not hasattr(trunk, "reduction"):
        raise ValueError(f"trunk {name!r} must give a grid of finite scalar codes")
    return trunk.requires_grad_(False).eval()
