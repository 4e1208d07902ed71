"""The strategy contract: a small saved config that turns a run into a stream of tokens.

A strategy holds numbers and names only, is saved in the pipeline folder as a diffusers scheduler is
(`decoding_config.json`), and is swapped the same way: `pipe.decoding =
Masked.from_config(pipe.decoding.config, num_steps=8)`.
"""

import inspect
import json
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from diffusers import ConfigMixin

from studio.generators.guidance import Guidance
from studio.media.files import atomic_write
from studio.outputs import DecodeState, TokenLayout

LARGEST = 1e9  # of a number among the options


@dataclass
class Proposal(DecodeState):
    """A `DecodeState` that also shows what was drawn for every position, taken or not.

    Args:
        proposal: int64 (B, N); equals `tokens` where `known`. The best preview of a masked
            decoding.
    """

    proposal: torch.Tensor | None = None


class DecodingStrategy(ConfigMixin):
    """Base of all strategies. A subclass sets `kind` ("ordered" or "unordered", the runs it reads)
    and gives `stream`.

    Its `__init__` takes plain JSON values through `register_to_config`, among them
    `guidance_scale`, `guidance_form`, `guidance_schedule`, `guidance_power` and
    `guidance_interval`.
    """

    config_name = "decoding_config.json"
    kind: str = ""

    @property
    def guidance(self) -> Guidance:
        """The guidance that a run must be started with."""
        c, interval = self.config, self.config.guidance_interval
        check_number("guidance_scale", c.guidance_scale, 0)
        check_number("guidance_power", c.guidance_power, 0)
        if interval is not None:
            if not isinstance(interval, list | tuple) or len(interval) != 2:
                raise ValueError(
                    f"guidance_interval {shortened(interval)} must be None or two whole numbers"
                )
            for end in interval:
                check_number("guidance_interval", end, 0, whole=True)
            interval = (interval[0], interval[1])
        return Guidance(
            scale=c.guidance_scale,
            form=c.guidance_form,
            schedule=c.guidance_schedule,
            power=c.guidance_power,
            interval=interval,
        )

    def max_steps(self, num_tokens: int) -> int:
        """The most steps that `stream` takes for a sequence of `num_tokens`."""
        raise NotImplementedError

    def stream(
        self,
        run,
        layout: TokenLayout,
        generators: list[torch.Generator],
        *,
        given: torch.Tensor | None = None,
        keep: torch.Tensor | None = None,
        num_tokens: int | None = None,
    ) -> Iterator[DecodeState]:
        """Makes tokens, and yields after every step. Stopping to read is cancelling.

        Args:
            run: a fresh run of a generator of this strategy's kind, started with `self.guidance`.
            layout: what the tokens mean.
            generators: one a sample; each gives one draw.
            given, keep: tokens int64 (B, N), and which of them to keep, bool (B, N).
            num_tokens: make only the first so many, where the strategy can.
        """
        raise NotImplementedError

    @classmethod
    def from_config(cls, config, **overrides) -> Self:
        """A strategy from the config of this or another class: names that this class lacks are
        dropped, and so are the other class's defaults.

        Raises:
            ValueError: an override that this class does not know.
        """
        names = _option_names(cls)
        unknown = sorted(set(overrides) - set(names))
        if unknown:
            raise ValueError(
                f"{unknown[0]} is no option of {cls.__name__}; known: {', '.join(names)}"
            )
        defaults = config.get("_use_default_values", [])
        values = {k: v for k, v in config.items() if k in names and k not in defaults}
        return cls(**{**values, **overrides})

    def with_options(self, **overrides) -> Self:
        """This strategy with some options changed; options given as None stay as they are."""
        given = {k: v for k, v in overrides.items() if v is not None}
        return type(self).from_config(self.config, **given) if given else self

    @classmethod
    def from_pretrained(cls, folder, *, subfolder: str | None = None) -> Self:
        """Reads `decoding_config.json`. Raises ValueError when it is absent, broken, or another
        class's."""
        path = Path(folder, subfolder or "", cls.config_name)
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{path.parent.name}: has no {cls.config_name}") from None
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{path.parent.name}: {cls.config_name} is not readable JSON"
            ) from error
        if not isinstance(config, dict) or config.get("_class_name") != cls.__name__:
            raise ValueError(f"{path.parent.name}: {cls.config_name} is not of a {cls.__name__}")
        options = {k: v for k, v in config.items() if not k.startswith("_")}
        return cls.from_config({}, **options)

    def save_pretrained(self, folder, **kwargs) -> None:
        """Writes `decoding_config.json` into `folder`, whole or not at all."""
        atomic_write(Path(folder, self.config_name), self.to_json_string())


def _option_names(cls) -> list[str]:
    return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]


def shortened(value) -> str:
    """A value as it stands in an error line."""
    text = reprlib.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_number(
    name: str, value, low: float, high: float = LARGEST, *, whole: bool = False
) -> None:
    """Raises ValueError unless `value` is a number (a whole one) with low <= value <= high."""
    fits = isinstance(value, int) or (not whole and isinstance(value, float))
    if isinstance(value, bool) or not fits or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        open_end = high == LARGEST and not (fits and value > high)
        bounds = f">= {low:g}" if open_end else f"from {low:g} to {high:g}"
        raise ValueError(f"{name} {shortened(value)} must be {kind} {bounds}")


def check_name(name: str, value, allowed) -> None:
    """Raises ValueError unless `value` is one of `allowed`, strings or truth values."""
    if not isinstance(value, str | bool) or value not in allowed:
        known = ", ".join(map(str, allowed))
        raise ValueError(f"{name} {shortened(value)} must be one of {known}")


def check_sampling(temperature, top_k, top_p, min_p) -> None:
    """Raises ValueError unless the four options of sampling are in range."""
    check_number("temperature", temperature, 0)
    check_number("top_k", top_k, 0, whole=True)
    check_number("top_p", top_p, 0, 1)
    check_number("min_p", min_p, 0, 1)


def check_given(given, keep, batch: int, num_tokens: int, layout: TokenLayout, device):
    """`given` and `keep` on `device`, both full (B, N); nothing is kept when both are None.

    Raises:
        ValueError: one without the other, a wrong shape, or a kept id outside the vocabulary.
    """
    shape = (batch, num_tokens)
    if given is None and keep is None:
        tokens = torch.zeros(shape, dtype=torch.int64, device=device)  # (B, N)
        return tokens, torch.zeros(shape, dtype=torch.bool, device=device)
    if given is None or keep is None:
        raise ValueError("given and keep belong together: one of them is missing")
    for name, tensor in (("given", given), ("keep", keep)):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} must be {shape}")
    tokens = given.to(device=device, dtype=torch.int64)
    keep = keep.to(device=device, dtype=torch.bool)
    tokens = torch.where(keep, tokens, 0)
    if bool((tokens < 0).any()) or bool((tokens >= layout.vocab_size).any()):
        raise ValueError(f"given tokens must lie between 0 and {layout.vocab_size - 1}")
    return tokens, keep


def outside_vocabulary(layout: TokenLayout, width: int, device) -> torch.Tensor | None:
    """bool (N, V), True for ids that a position's segment does not have; None when every id is
    allowed."""
    if all(s.vocab_size >= width for s in layout.segments):
        return None
    sizes = [s.vocab_size for s in layout.segments for _ in range(s.num_tokens)]
    bounds = torch.tensor(sizes, device=device)[:, None]  # (N, 1)
    return torch.arange(width, device=device)[None] >= bounds  # (N, V)


def check_count(num_tokens: int | None, total: int) -> int:
    """How many tokens to make; all when None. Raises ValueError unless 1 <= it <= `total`."""
    count = total if num_tokens is None else num_tokens
    if not 1 <= count <= total:
        raise ValueError(f"num_tokens {num_tokens} must lie between 1 and {total}")
    return count


def check_batch(run, layout: TokenLayout, generators: list[torch.Generator]) -> None:
    """Raises ValueError unless the run, the layout and the generators belong together."""
    if run.batch_size != len(generators):
        raise ValueError(f"generators: {len(generators)} given for a batch of {run.batch_size}")
    if run.num_tokens != layout.num_tokens:
        raise ValueError(f"layout of {layout.num_tokens} tokens for a run of {run.num_tokens}")
