"""The generator contract: a network over tokens, started on a condition to give a run.

Every generator is a diffusers model: its config is its `__init__` signature, and `save_pretrained`
/ `from_pretrained` work as diffusers users know them. State of decoding lives in the run alone.
"""

import functools

import torch
from diffusers import ConfigMixin, ModelMixin

from studio.generators.conditioning import Condition, check_condition
from studio.generators.guidance import Guidance
from studio.generators.run import Run
from studio.layers.neighborhood import Neighborhood
from studio.outputs import TokenLayout

OUTPUTS = ("logits", "digits", "losses", "features", "prior", "prior_losses")


class Generator(ModelMixin, ConfigMixin):
    """Base of all generators.

    A subclass sets `kind` ("ordered": its runs extend a sequence; "unordered": its runs fill masked
    positions), has a `token_head` (`layers.token_embedding.TokenHead`), and gives `forward` and
    `start`.
    """

    config_name = "config.json"
    kind: str = ""
    compiled_step = None  # set by `generators.compiled.compile_step`
    # The windows within which tokens attend, where the config has a `neighborhood`.
    window: Neighborhood | None = None
    _no_split_modules = ["LlamaBlock", "BertBlock"]
    _supports_gradient_checkpointing = True

    @property
    def layout(self) -> TokenLayout:
        """The layout of the tokens that this network makes."""
        return TokenLayout.from_dict(self.config.layout)

    def start(self, condition: Condition, *, guidance: Guidance | None = None) -> Run:
        """Begins to make tokens.

        Args:
            condition: B rows, on the network's device; B is the run's batch.
            guidance: classifier-free guidance; None for none.
        """
        raise NotImplementedError

    def find_window(self) -> Neighborhood | None:
        """The windows that the config's `neighborhood` lays over the tokens' grid; None without.

        Raises:
            ValueError: the tokens are no single grid, or the windows do not fit it.
        """
        if self.config.neighborhood is None:
            return None
        first, *others = self.layout.segments
        if others or first.codebooks > 1:
            raise ValueError(
                "neighborhood needs a layout of one segment with one codebook, which is a grid"
            )
        return Neighborhood.from_config(self.config.neighborhood, first.shape)

    def check_condition(self, condition: Condition) -> None:
        """Raises ValueError when this network can't be conditioned on `condition`."""
        check_condition(condition, self.config)

    def _run_blocks(self, blocks, x: torch.Tensor, **options) -> torch.Tensor:
        """All blocks in turn, (B, N, D) to (B, N, D); checkpointed when that is switched on."""
        checkpoint = self._gradient_checkpointing_func if self.gradient_checkpointing else None
        for layer, block in enumerate(blocks):
            if checkpoint is not None and torch.is_grad_enabled():
                x = checkpoint(functools.partial(block, layer=layer, **options), x)
            else:
                x = block(x, layer=layer, **options)
        return x

    def _read_out(
        self,
        x: torch.Tensor,
        output: str,
        targets: torch.Tensor | None,
        label_smoothing: float = 0.0,
        prior: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Features (B, N, D) to what `forward` was asked for; `prior` (B, N, E) is added."""
        head = self.token_head
        if output == "features":
            return x
        if output == "logits":
            return head(x, prior=prior)  # (B, N, V)
        if output == "digits":
            return head.digit_logits(x, prior=prior)  # (B, N, E)
        if output == "losses" and targets is not None:
            return head.cross_entropy(x, targets, label_smoothing=label_smoothing, prior=prior)
        raise ValueError(f'output {output!r} must be one of {OUTPUTS}; "losses" needs targets')
