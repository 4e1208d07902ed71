"""Golden vectors: recordings of official rules and layers that belong to no converted network.

One file a subject; `CHECKS` names, for every fixture folder, the function that runs its inputs
through our code: `check(fixture, folder)` with a `verify.RecordedFixture` and the folder's path. A
file of this folder is named alone; the check of training's pieces stands in training, by its name.
"""

import importlib
from collections.abc import Callable

CHECKS = {
    "spec_gsd": "speculation:check_gsd",
    "spec_sjd": "speculation:check_sjd",
    "spec_lantern": "speculation:check_lantern",
    "neighborhood_attention": "attention:check_neighborhood",
    "wavtokenizer_training_bits": "studio.training.audio_golden:check_training",
    "reward_forcing_ema_sink": "caches:check_ema_sink",
}


def find_check(name: str) -> Callable:
    """The function for a fixture folder of this name. Raises KeyError for an unknown one."""
    module, function = CHECKS[name].split(":")
    place = module if "." in module else f"{__name__}.{module}"
    return getattr(importlib.import_module(place), function)
