"""What is drawn in a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.image import imread


def pixels(path: Path, colour: str) -> int:
    """How many pixels of a picture have this colour."""
    picture = imread(path)[..., :3]
    return int((np.abs(picture - np.array(to_rgb(colour))).max(axis=-1) < 0.01).sum())
