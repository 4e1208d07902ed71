"""The one training loop: every model of the studio is trained by it, from a recipe.

Batches, noise and dropout are functions of the recipe's seed and the step alone, so a run that was
killed goes on to the same numbers. What differs between models is a task (see `tasks.py`): its
data, its loss, its sample sheet.
"""

import contextlib
import json
import logging
import math
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from studio.media.files import atomic_write, remove_leftovers
from studio.media.image import write_image
from studio.training.checkpoint import load_checkpoint, save_checkpoint
from studio.training.ema import WeightAverage
from studio.training.recipe import Recipe, check_required, load_recipe
from studio.training.tasks import Task, make_task

logger = logging.getLogger(__name__)


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to a tenth of the peak at the last step."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * min(done, 1.0))))


class Run:
    """The state of one training run: model, averages, optimizer and step."""

    def __init__(self, recipe: Recipe, folder: Path, accelerator: Accelerator):
        self.recipe, self.folder, self.accelerator = recipe, folder, accelerator
        self.step = 0
        torch.manual_seed(recipe.seed)
        self.task: Task = make_task(recipe, folder)
        self.model = self.task.build().to(accelerator.device)
        self.average = WeightAverage(self.model, recipe.ema)
        self.optimizer = torch.optim.AdamW(
            _decay_groups(self.model, recipe.weight_decay),
            lr=recipe.learning_rate,
            betas=recipe.betas,
            fused=True,
        )
        self.wrapped, self.optimizer = accelerator.prepare(self.model, self.optimizer)

    def resume(self) -> bool:
        """Takes up the last checkpoint of the folder, when there is one."""
        state = load_checkpoint(self.folder)
        if state is None:
            return False
        self.model.load_state_dict(state["model"])
        self.average.shadow = {
            n: t.to(self.accelerator.device) for n, t in state["average"].items()
        }
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        if "task" in state:
            self.task.load_state_dict(state["task"])  # pyright: ignore[reportAttributeAccessIssue]
        return True

    def save(self) -> None:
        """Writes the checkpoint, atomically."""
        if self.accelerator.is_main_process:
            state = {
                "model": self.model.state_dict(),
                "average": self.average.shadow,
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
            }
            if hasattr(self.task, "state_dict"):  # what a task itself trains beside the model
                state["task"] = self.task.state_dict()  # pyright: ignore
            save_checkpoint(self.folder, state)

    def train_step(self) -> dict[str, float]:
        """One optimizer step. Returns the metrics of its batch."""
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, recipe)
        self.task.prepare(self.model, self.average, self.step)
        # dropout inside networks draws from torch's own state: tie that to the step as well
        torch.manual_seed(hash((recipe.seed, self.step)) % 2**63)
        share = self.step * self.accelerator.num_processes + self.accelerator.process_index
        batch = self.task.batch(share, self.accelerator.device)
        with self.accelerator.autocast():
            loss, metrics = self.task.loss(self.wrapped, batch, self.step)
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip)
        assert norm is not None  # it is only where XLA clips elsewhere
        if not torch.isfinite(norm):
            raise RuntimeError(
                f"gradient norm is {norm.item()} at step {self.step}: lower learning_rate"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.model, self.step)
        self.step += 1
        return {"loss": loss.item(), "grad_norm": norm.item(), **metrics}


def train(
    recipe: str | Path | Recipe,
    *,
    out: str | Path | None = None,
    resume: bool = True,
    overrides: list[str] | None = None,
    progress=None,
) -> Path:
    """Trains a recipe to its last step.

    Args:
        recipe: path of a YAML file, or a `Recipe`.
        out: folder of the run; `runs/<name>` when None. Holds `last.pt`, `metrics.jsonl`,
            TensorBoard files, sheets and, at the end, `final/` with the averaged weights.
        resume: go on from the folder's checkpoint; False refuses a folder that has one.
        overrides: "key=value" changes of the recipe.
        progress: called as progress(step, steps, metrics) after every step.

    Returns:
        The folder `final/`.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    folder = Path(out or Path("runs") / recipe.name)
    check_required(recipe)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    if not resume and (folder / "last.pt").exists():
        raise ValueError(f"out {folder} holds a run already: resume it, or choose another folder")
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    accelerator = Accelerator(mixed_precision="bf16" if recipe.precision == "bfloat16" else "no")
    try:
        run = Run(recipe, folder, accelerator)
    except Exception:
        if made:  # and nothing is in it yet
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    if accelerator.is_main_process:
        remove_leftovers(folder)
    if run.resume():
        logger.info("resuming %s at step %d", recipe.name, run.step)
    log = _Log(folder, run.step) if accelerator.is_main_process else None
    start, first = time.monotonic(), run.step
    while run.step < recipe.steps:
        metrics = run.train_step()
        if progress:
            progress(run.step, recipe.steps, metrics)
        if log and (run.step % recipe.log_every == 0 or run.step == recipe.steps):
            rate = (run.step - first) / (time.monotonic() - start)
            log.write(
                run.step, {**metrics, "steps_per_second": rate}, (recipe.steps - run.step) / rate
            )
        if run.step % recipe.sample_every == 0 or run.step == recipe.steps:
            _sample(run, log)
        if run.step % recipe.save_every == 0 or run.step == recipe.steps:
            run.save()
    final = folder / "final"
    if accelerator.is_main_process:
        with run.average.applied(run.model):
            run.task.export(run.model, final)
    return final


def _sample(run: Run, log: "_Log | None") -> None:
    if log is None:
        return
    with run.average.applied(run.model), torch.no_grad():
        run.model.eval()
        metrics, sheet = run.task.evaluate(run.model)
        run.model.train()
    log.write(run.step, {f"eval/{k}": v for k, v in metrics.items()}, None)
    if sheet is not None:
        write_image(run.folder / f"sheet-{run.step:07d}.png", sheet)


class _Log:
    """Metrics as lines of JSON, and for TensorBoard where it is installed."""

    def __init__(self, folder: Path, step: int):
        self.path = folder / "metrics.jsonl"
        self._forget_after(step)
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)
        except ImportError:
            self.board = None

    def _forget_after(self, step: int) -> None:
        """Drops lines that a killed run wrote after its last checkpoint: they come again. So does
        one that a kill or a full disk cut short."""
        if self.path.exists():
            lines = self.path.read_text().splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            atomic_write(self.path, "".join(f"{line}\n" for line in kept))

    def write(self, step: int, metrics: dict[str, float], left: float | None) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        if self.board:
            for name, value in metrics.items():
                self.board.add_scalar(name, value, step)
        text = "  ".join(f"{k} {v:.4g}" for k, v in metrics.items())
        eta = f"  {left / 60:.0f} min left" if left is not None else ""
        logger.info("step %d  %s%s", step, text, eta)


def _step_of(line: str) -> float:
    """The step of a line of metrics; infinity for a broken one."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf


def _decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay for matrices only; biases, norms and embeddings of one row go without."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
