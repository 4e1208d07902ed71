"""The front door: `studio.Pipeline.from_pretrained` opens any folder of ours with the class that it
names."""

from __future__ import annotations

import os

from studio import hub
from studio.pipelines.base import StudioPipeline
from studio.registry import CLASSES, find_class


class Pipeline:
    """Loads pipelines by name; never made itself.

    Example:
        >>> pipe = Pipeline.from_pretrained("emoji-1d", generator="masked")
        >>> pipe("red apple").images[0].save("apple.png")
    """

    def __init__(self):
        raise TypeError("Pipeline is not made: call Pipeline.from_pretrained(name_or_path)")

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, **options) -> StudioPipeline:
        """A pipeline from a bundled name, a folder or a Hub id.

        Args:
            name_or_path: tried in that order.
            options: as in `StudioPipeline.from_pretrained`: `generator` ("autoregressive" or
                "masked"), `dtype`, `revision`, `local_files_only`, parts to use instead of the
                folder's.

        Raises:
            ValueError: one line: the model is not found, names no class of ours, or can't be
                loaded.
        """
        hub_options = ("revision", "local_files_only", "token", "cache_dir", "force_download")
        given = {k: options[k] for k in hub_options if k in options}
        name = os.fspath(name_or_path)
        folder = hub.find_folder(name, **given)
        known = [n for n in CLASSES if n.endswith("Pipeline") and n != "Pipeline"]
        class_name = hub.read_index(folder)["_class_name"]
        if class_name not in known:
            raise ValueError(
                f"{folder.name}/{hub.INDEX} names {class_name}, which is none of {', '.join(known)}"
            )
        if name not in hub.bundled_names() and not os.path.isdir(name):
            options |= {"local_files_only": True, "force_download": False}  # it is here by now
        return find_class(class_name).from_pretrained(name, **options)
