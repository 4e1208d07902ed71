"""studio: generative image, video and audio models that work through tokens."""

from studio.registry import CLASSES, find_class

__version__ = "0.1.0"
_FUNCTIONS = {"register_with_diffusers": "studio.hub", "list_models": "studio.hub"}
# The base classes that diffusers looks up on the top level of a registered library.
_BASES = {
    "ModelMixin": "diffusers",
    "SchedulerMixin": "diffusers",
    "DiffusionPipeline": "diffusers",
    "DecodingStrategy": "studio.decoding.base",
}
# The registry holds the names, so that no list of them can fall behind.
__all__ = [*CLASSES, *_FUNCTIONS]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    import importlib

    if name in CLASSES:
        return find_class(name)
    module = _FUNCTIONS.get(name) or _BASES.get(name)
    if module is None:
        raise AttributeError(f"module 'studio' has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__():
    return sorted(__all__)
