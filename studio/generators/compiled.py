"""A network step with static shapes, compiled: on a GPU one launch a step instead of hundreds.

After gpt-fast: keys and values are written at positions that are tensors, masks follow from them,
and the step is compiled once a number of tokens, with CUDA graphs where the mode asks for them
(torch's "reduce-overhead"). Nothing waits for the GPU. A graph reads and writes fixed memory, so
the slabs of keys and values belong to the step, and runs borrow them in turn. Left out on purpose:
compiling the first pass, whose length is the caption's.
"""

import shutil
import weakref

import torch

from studio.layers.cache import StaticCache

SIZES = (1, 8, 16, 32, 64)  # tokens a pass; others are padded to the next


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile's own compiler works for a device: a CPU needs a C++ compiler."""
    if device.type != "cpu":
        return True
    return any(shutil.which(name) for name in ("g++", "c++", "clang++", "cl"))


def compile_options(device: torch.device, mode: str | None, backend: str) -> dict:
    """Options of `torch.compile` for steps: static shapes, CUDA graphs on a GPU by default.

    Raises:
        ValueError: there is no C++ compiler, which backend "inductor" needs on a CPU.
    """
    if backend == "inductor" and not can_compile(device):
        raise ValueError('backend "inductor" needs a C++ compiler, such as g++, on this machine')
    if mode is None and device.type == "cuda" and backend == "inductor":
        mode = "reduce-overhead"
    options = {"dynamic": False, "fullgraph": True, "backend": backend}
    return options | ({"mode": mode} if mode else {})


class CompiledStep:
    """The later passes of an `AutoregressiveTransformer`'s runs.

    Args:
        model: the network; what changes its layers later needs a new step.
        sizes: numbers of tokens a pass that are compiled, each at its first use. A pass of another
            number is padded to the next one; a longer one is left to the run.
        options: of `torch.compile`.
    """

    def __init__(self, model, *, sizes: tuple[int, ...] = SIZES, **options):
        self.sizes = tuple(sorted(set(sizes)))
        self._weights = _Weights(model)
        self._step = torch.compile(_step, **options)
        self._graphs = options.get("mode") in ("reduce-overhead", "max-autotune")
        self._slabs: dict[tuple, tuple] = {}

    def takes(self, count: int) -> bool:
        """Whether it makes passes of so many tokens."""
        return 0 < count <= self.sizes[-1]

    def take_slabs(self, run, sizes: dict) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Memory for a run's `StaticCache` of these `sizes`: that of a run that is gone, if any."""
        key = tuple(sizes.values())
        owner, slabs = self._slabs.get(key, (None, None))
        if slabs is None or owner() is not None:
            shape = (sizes["batch_size"], sizes["num_heads"])
            shape += (sizes["max_length"] + self.sizes[-1] - 1, sizes["head_dim"])
            place = {"dtype": sizes["dtype"], "device": sizes["device"]}
            keys, values = (
                [torch.zeros(shape, **place) for _ in range(sizes["num_layers"])] for _ in range(2)
            )
            slabs = keys, values
            for slab in (*slabs[0], *slabs[1]):
                torch._dynamo.mark_static_address(slab, guard=False)
        self._slabs[key] = weakref.ref(run), slabs
        for slab in (*slabs[0], *slabs[1]):
            slab.zero_()
        return slabs

    def __call__(
        self,
        tokens: torch.Tensor,
        starts: torch.Tensor,
        rows: int,
        cache: StaticCache,
        rope: torch.Tensor,
        columns: torch.Tensor | None,
        prior: torch.Tensor | None,
        told: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass.

        Args:
            tokens: int64 (B, n).
            starts: slot of each row's first token, int64 (B,).
            rows: S, slots of the condition.
            cache: the run's, with its slots reserved.
            rope: rotary table, complex (S + N, P).
            columns: bool (B, S + N), False at padding of the condition; None for none.
            prior: digit logits (B, N, E), or None.
            told: what is added to the row that scores each token, (B, N, D), or None.

        Returns:
            features (B, n, D) and logits (B, n, V), which stay as they are.
        """
        count = tokens.shape[1]
        size = next(n for n in self.sizes if n >= count)
        if size > count:
            tokens = torch.nn.functional.pad(tokens, (0, size - count))
        if self._graphs:
            torch.compiler.cudagraph_mark_step_begin()
        features, logits = self._step(
            self._weights,
            tokens,
            starts,
            rows,
            list(cache.keys),
            list(cache.values),
            torch.view_as_real(rope),
            columns,
            prior,
            told,
        )
        features, logits = features[:, :count], logits[:, :count]
        return (features.clone(), logits.clone()) if self._graphs else (features, logits)


class _Weights:
    """The modules of a step by name, apart from the network, whose other fields are no concern."""

    def __init__(self, model):
        self.embeddings, self.layers = model.embeddings, model.layers
        self.last_norm, self.token_head = model.last_norm, model.token_head


class _Slots:
    """Slabs that are written at tensors of slots and read whole: part of a `layers.cache.Cache`."""

    turns_keys = False

    def __init__(self, keys: list[torch.Tensor], values: list[torch.Tensor], slots: torch.Tensor):
        self.keys, self.values, self.slots = keys, values, slots
        self.rows = torch.arange(len(slots), device=slots.device).unsqueeze(1)  # (B, 1)

    def update(self, layer: int, k, v, *, q=None, mask=None):
        keys, values = self.keys[layer], self.values[layer]  # (B, H, S, D)
        keys[self.rows, :, self.slots] = k.transpose(1, 2)  # (B, n, H, D)
        values[self.rows, :, self.slots] = v.transpose(1, 2)  # (B, n, H, D)
        return keys, values


def _step(weights, tokens, starts, rows, keys, values, rope, columns, prior, told):
    """See `CompiledStep.__call__`; pure but for the slabs."""
    count, last = tokens.shape[1], len(rope) - 1
    slots = starts.unsqueeze(1) + torch.arange(count, device=tokens.device)  # (B, n)
    seen = torch.arange(keys[0].shape[2], device=tokens.device) <= slots.unsqueeze(-1)
    if columns is not None:
        tail = keys[0].shape[2] - columns.shape[1]
        seen = seen & torch.nn.functional.pad(columns, (0, tail), value=True).unsqueeze(1)
    places = (slots - rows).clamp(max=last - rows)  # (B, n) of the tokens; next ones are scored
    scored = (places + 1).clamp(max=last - rows)
    x = weights.embeddings(tokens, places)  # (B, n, D)
    turns = rope[slots.clamp(max=last)]  # (B, n, P, 2)
    cache = _Slots(keys, values, slots)
    if told is not None:
        x = x + told[cache.rows, scored]
    for layer, block in enumerate(weights.layers):
        x = block(x, rope=turns, mask=seen.unsqueeze(1), cache=cache, layer=layer)
    features = weights.last_norm(x)
    if prior is not None:
        prior = prior[cache.rows, scored]  # (B, n, E)
    return features, weights.token_head(features, scored, prior)


def compile_step(
    generator, *, mode: str | None = None, backend: str = "inductor", sizes=SIZES
) -> None:
    """Makes a generator's later runs use a compiled step.

    Args:
        generator: its passes over static shapes are compiled, each at its first use: seconds on a
            GPU, up to a minute on a CPU.
        mode: of `torch.compile`; None for "reduce-overhead" (CUDA graphs) on a GPU and the default
            on a CPU.
        backend: of `torch.compile`.
        sizes: for ordered generators, see `CompiledStep`.

    Raises:
        ValueError: no C++ compiler where one is needed, a size below 1, or a generator with a
            `neighborhood`, whose attention picks and prepares its kernels as it runs.
    """
    if generator.window is not None:
        raise ValueError("a generator with a neighborhood can't be compiled")
    if not sizes or min(sizes) < 1:
        raise ValueError(f"sizes {sizes} must be whole numbers of at least 1")
    options = compile_options(generator.device, mode, backend)
    if generator.kind == "ordered":
        generator.compiled_step = CompiledStep(generator, sizes=tuple(sizes), **options)
    else:
        generator.compiled_step = torch.compile(generator.score, **options)
