"""Our own image and caption features, so that pictures are measured without any download.

Two small towers trained to agree, as in "Learning Transferable Visual Models From Natural Language
Supervision" (2021, 2103.00020), on emoji renders only: a convolutional tower for pictures and one
for object names. Names are a closed set, so the caption tower is a table with a vector a name; a
gallery holds the mean picture vector of every name beside it. A linear head reads the background's
colour word.
They are not Inception features: distances compare with each other, and with nobody else's figures.
Leaves out on purpose: sentences, several objects, photographs.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

BUNDLED = "emoji-features"
NOTE = "features: studio's own emoji features, not Inception"
MAX_SCALE = 60.0


class _Convolution(nn.Sequential):
    """3 x 3 (or 1 x 1) convolution and batch norm."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1):
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(outputs))


class _Residual(nn.Module):
    """Two convolutions beside a shortcut: (B, C, H, W) to the same."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = _Convolution(channels, channels)
        self.second = _Convolution(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class _ImageTower(nn.Module):
    """Pictures (B, 3, S, S) to (B, width * cells): `width` channels of each of the last stage's
    cells, since where a part stands in the picture tells much of what is drawn."""

    def __init__(self, channels: tuple[int, ...], width: int, patch: int):
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(patch)]
        last = 3 * patch * patch
        for level, count in enumerate(channels):
            stride = 2 if level else 1
            layers += [_Convolution(last, count, stride=stride), nn.ReLU(), _Residual(count)]
            last = count
        layers += [_Convolution(last, width, kernel=1), nn.ReLU()]
        # a quarter faster on CPUs
        self.layers = nn.Sequential(*layers)
        self.layers.to(memory_format=torch.channels_last)  # pyright: ignore

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images).flatten(1)  # (B, width * cells)


class _Centred(nn.Sequential):
    """A linear map to vectors around zero: pictures start without a direction that all share."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(
            nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs, affine=False)
        )


class ImageTextFeatures(ModelMixin, ConfigMixin):
    """Pictures and object names as unit vectors that agree when they mean the same.

    Args:
        names: all object names, a closed set.
        backgrounds: the colour words of the head.
        image_size: side that pictures are resized to.
        dim: of the unit vectors.
        channels: of the stages of the picture tower, each at half the size of the one before.
        width: channels of the last cells.
        patch: side of the pixel squares that the first convolution takes as channels.
    """

    config_name = "config.json"
    gallery: torch.Tensor

    @register_to_config
    def __init__(
        self,
        names: list[str],
        backgrounds: list[str],
        image_size: int = 64,
        dim: int = 128,
        channels: tuple[int, ...] = (48, 96, 192),
        width: int = 64,
        patch: int = 4,
    ):
        super().__init__()
        self.images = _ImageTower(tuple(channels), width, patch)
        width *= (image_size // patch // 2 ** (len(channels) - 1)) ** 2
        self.project = _Centred(width, dim)
        self.captions = nn.Embedding(len(names), dim)
        self.background = nn.Linear(width, len(backgrounds))
        self.log_scale = nn.Parameter(torch.tensor(3.0))
        self.register_buffer("gallery", torch.zeros(len(names), dim))

    @classmethod
    def bundled(cls) -> "ImageTextFeatures":
        """The features that came with the package, ready to use. Raises ValueError when there are
        none."""
        from studio.hub import pretrained_folder

        return cls.from_pretrained(pretrained_folder(BUNDLED)).eval()

    @property
    def names(self) -> list[str]:
        """All object names; `gallery` has a row for each."""
        return list(self.config.names)

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], any size, to features (B, width * cells)."""
        size = self.config.image_size
        if images.shape[-2:] != (size, size):
            images = F.interpolate(
                images, (size, size), mode="bicubic", antialias=True, align_corners=False
            )  # (B, 3, S, S)
        return self.images(images.clamp(-1, 1).to(self.log_scale.dtype))

    def encode_images(self, images: torch.Tensor, *, batch_size: int = 64) -> torch.Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], any size, to unit vectors (B, dim)."""
        parts = [self.project(self.pooled(part)) for part in images.split(batch_size)]
        return F.normalize(torch.cat(parts), dim=-1)  # (B, dim)

    def encode_captions(self, names: list[str]) -> torch.Tensor:
        """Object names to unit vectors (M, dim).

        Raises:
            ValueError: a name is none of `names`.
        """
        places = {name: place for place, name in enumerate(self.config.names)}
        unknown = [name for name in names if name not in places]
        if unknown:
            raise ValueError(f"name {unknown[0]!r} is none of the {len(places)} that features know")
        ids = torch.tensor([places[name] for name in names], device=self.log_scale.device)
        return F.normalize(self.captions(ids), dim=-1)  # (M, dim)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What training needs of pictures (B, 3, H, W): unit vectors (B, dim), scaled similarities
        to every name (B, M), and scores of the background words (B, len(backgrounds))."""
        pooled = self.pooled(images)
        features = F.normalize(self.project(pooled), dim=-1)  # (B, dim)
        scores = self.scale() * features @ F.normalize(self.captions.weight, dim=-1).T  # (B, M)
        return features, scores, self.background(pooled)

    def scale(self) -> torch.Tensor:
        """The learned inverse temperature."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def retrieve(self, features: torch.Tensor, k: int = 5) -> torch.Tensor:
        """The k names whose gallery vectors are nearest, best first: (B, dim) to int64 (B, k)."""
        return (features @ self.gallery.T).topk(k, dim=-1).indices  # (B, k)

    def background_words(self, images: torch.Tensor) -> list[str]:
        """The background's colour word in each picture (B, 3, H, W)."""
        best = self.background(self.pooled(images)).argmax(-1)  # (B,)
        return [self.config.backgrounds[i] for i in best.tolist()]
