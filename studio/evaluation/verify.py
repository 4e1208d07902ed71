"""Our networks against recordings of the official ones: `verify` runs a parity fixture through the
real path.

A fixture is a folder with `config.json` (the official values), `weights.safetensors` (official
keys) and `io.safetensors` (inputs and outputs). The weights go through `studio.conversion.convert`
into a folder, come back by `from_pretrained`, and every recorded tensor must be an input or be
compared. What is compared is in the family's own file in `studio/conversion`, or, for recordings
without a network of their own, in `studio/evaluation/golden`; decoding loops are the shipped
strategies. Left out on purpose: speed.
"""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from studio.conversion.convert import convert, read_tensors
from studio.conversion.family import Decoded, find_family
from studio.evaluation.golden import CHECKS, find_check
from studio.hub import read_json
from studio.registry import find_class


@dataclass(frozen=True)
class Check:
    """One row of a verification.

    Args:
        output: the recorded tensor.
        shape: its shape.
        error: the largest absolute difference; for whole numbers, how many differ. NaN where there
            is nothing to compare.
        tolerance: the largest `error` allowed; 0 for whole numbers.
        ok: whether it holds.
        note: why not, where `error` does not say it.
    """

    output: str
    shape: tuple[int, ...]
    error: float
    tolerance: float
    ok: bool
    note: str = ""


def verify(folder: str | Path, family: str | None = None) -> list[Check]:
    """Convert the weights of a fixture, run every input, compare every output.

    Args:
        folder: the fixture.
        family: a name from `studio.conversion.family.families` or `studio.evaluation.golden`; the
            folder's name when None.

    Returns:
        One row a recorded output, and a failed one for each tensor that was neither an input nor
        compared.

    Raises:
        ValueError: no such folder or family, a file that is missing or broken, weights that do not
            fit.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"folder {folder} does not exist")
    name = family or folder.resolve().name
    if name in CHECKS:
        config = folder / "config.json"
        fixture = RecordedFixture(
            read_json(config) if config.exists() else {}, read_tensors(folder / "io.safetensors")
        )
        with torch.no_grad():
            find_check(name)(fixture, folder)
        return fixture.finish()
    found = find_family(name)
    fixture = RecordedFixture(
        read_json(folder / "config.json"), read_tensors(folder / "io.safetensors")
    )
    with torch.no_grad():
        found.checks(_converted(folder, found.name) if found.model else None, fixture)
    return fixture.finish()


class RecordedFixture:
    """The recorded tensors, and rows of what was compared (a `conversion.family.Fixture`)."""

    def __init__(self, config: dict[str, Any], tensors: dict[str, torch.Tensor]):
        self.config = config
        self.rows: list[Check] = []
        self._tensors = tensors
        self._used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self) -> list[str]:
        """The names of all recorded tensors."""
        return list(self._tensors)

    def input(self, name: str) -> torch.Tensor:
        """A recorded tensor, to be used as an input. Raises ValueError when there is none."""
        if name not in self._tensors:
            raise ValueError(f"io.safetensors holds no tensor {name!r}, which this family needs")
        self._used.add(name)
        return self._tensors[name].clone()

    def expect(self, name: str, value: torch.Tensor, tolerance: float = 0.0) -> None:
        """Compare our `value` with the recorded tensor `name`: shapes, then values (whole numbers
        exactly).
        """
        recorded = self._tensors.get(name)
        if recorded is None:
            self.rows.append(Check(name, (), math.nan, tolerance, False, "not in io.safetensors"))
            return
        self._used.add(name)
        shape = tuple(recorded.shape)
        if tuple(value.shape) != shape:
            note = f"ours has the shape {tuple(value.shape)}"
            self.rows.append(Check(name, shape, math.nan, tolerance, False, note))
            return
        if recorded.is_floating_point():
            difference = (value.double() - recorded.double()).abs()
            error = difference.max().item() if difference.numel() else 0.0
        else:
            error, tolerance = float((value != recorded).sum()), 0.0
        self.rows.append(Check(name, shape, error, tolerance, error <= tolerance))

    def decode(self, model: Any, condition: Any, strategy: str, **options: Any) -> Decoded:
        """Run the strategy of that name on the shipped decoding path, watching what the network
        sees and says.
        """
        plan = find_class(strategy)(**options)
        run = _WatchedRun(model.start(condition, guidance=plan.guidance))
        draws = [torch.Generator().manual_seed(row) for row in range(condition.batch_size)]
        tokens = None
        for state in plan.stream(run, model.layout, draws):
            tokens = state.tokens
        if tokens is None:
            raise ValueError(f"{strategy} made no step")
        return Decoded(tokens.clone(), run.logits, run.inputs)

    def finish(self) -> list[Check]:
        """All rows, with a failed one for every tensor that nothing used, and for a fixture without
        outputs.
        """
        for name, tensor in self._tensors.items():
            if name not in self._used:
                note = "neither used as an input nor compared"
                self.rows.append(Check(name, tuple(tensor.shape), math.nan, 0.0, False, note))
        if not self.rows:
            self.rows.append(Check("-", (), math.nan, 0.0, False, "nothing was compared"))
        return self.rows


class _WatchedRun:
    """A run that keeps what went in and what came out; everything else is the run's own."""

    def __init__(self, run: Any):
        self._run = run
        self.logits: list[torch.Tensor] = []
        self.inputs: list[torch.Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def extend(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = self._run.extend(tokens)  # (B, n, V)
        self.logits.append(logits.clone())
        return logits

    def fill(self, tokens: torch.Tensor, known: torch.Tensor, **options: Any) -> torch.Tensor:
        self.inputs.append(torch.where(known, tokens, -1))  # (B, N)
        logits = self._run.fill(tokens, known, **options)  # (B, N, V)
        self.logits.append(logits.clone())
        return logits


def _converted(folder: Path, family: str) -> Any:
    """The fixture's weights through the real conversion, loaded again from our folder."""
    with tempfile.TemporaryDirectory() as place:
        weights = folder / "weights.safetensors"
        out = convert(weights, family, Path(place) / "model", folder / "config.json")
        model = find_class(find_family(family).model).from_pretrained(out)
    return model.eval()
