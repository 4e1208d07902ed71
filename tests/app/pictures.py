"""Pictures as uploads."""

import io

import numpy as np
from PIL import Image


def png(seed=0, size=(32, 24)):
    """A picture of coloured noise as a PNG file's bytes."""
    values = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()
