"""Encoded pictures of a TFDS data source; those of any size → one .npy file of squares, a few in memory at a time."""

import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

AT_ONCE = 256  # pictures; only memory and speed depend on it


def blocks(source: Any) -> Iterator[list[dict[str, Any]]]:
    """The examples of a TFDS data source, some at once: read one by one they take five times as long."""
    for start in range(0, len(source), AT_ONCE):
        yield source.__getitems__(range(start, min(start + AT_ONCE, len(source))))


def square(encoded: bytes, side: int) -> np.ndarray:
    """The central square of a picture, resized to `side` bilinearly: uint8 (side, side, 3).

    The same as resizing the shorter side and cutting out the centre, but for what is cut off.
    """
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(encoded)) as picture:
        # Pillow's "bilinear" averages over all pixels that become one; grey pictures get three equal channels.
        return np.asarray(ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.BILINEAR))


def write_squares(path: Path, source: Any, side: int, progress: Callable[[int, int], None]) -> np.ndarray:
    """Writes the pictures of a TFDS data source as uint8 (N, side, side, 3) to `path`; returns their labels, (N,).

    Plain writes: a full disk is an error here, where a memory map that is written to would end the process.
    """
    total = len(source)
    labels = np.empty(total, np.int32)
    with path.open("wb") as file, ThreadPoolExecutor() as threads:  # Pillow lets go of the lock while it decodes
        header = {"descr": "|u1", "fortran_order": False, "shape": (total, side, side, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        done = 0
        for examples in blocks(source):
            for image in threads.map(lambda example: square(example["image"], side), examples):
                file.write(image.data)
            labels[done : done + len(examples)] = [example["label"] for example in examples]
            done += len(examples)
            progress(done, total)
        file.flush()
        os.fsync(file.fileno())
    return labels
