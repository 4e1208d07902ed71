"""What the process that workers are forked from has loaded: torch, diffusers, what most models use.

Importing it is what it is for. It runs nothing, so no thread is lost in a fork.
"""

import gc

from studio.hub import import_diffusers
from studio.registry import CLASSES, find_class

_USUAL = ("studio.pipelines.", "studio.generators.", "studio.decoding.")
_TOKENIZERS = ("PrefixTokenizer", "GridTokenizer")

import_diffusers()

import studio.rendering.worker  # noqa: E402, F401

for _name, _module in CLASSES.items():
    if _module.startswith(_USUAL) or _name in _TOKENIZERS:
        find_class(_name)
# What is there for good need not be looked at, and so not be copied, by any worker.
gc.collect()
gc.freeze()
