"""What the process that workers are forked from has loaded: torch, diffusers, our pipelines.

Importing it is what it is for. It runs nothing, so no thread is lost in a fork.
"""

from studio.hub import import_diffusers

import_diffusers()

import studio.pipelines.auto  # noqa: E402
import studio.pipelines.class_to_image  # noqa: E402
import studio.pipelines.text_to_image  # noqa: E402
import studio.rendering.worker  # noqa: E402, F401
