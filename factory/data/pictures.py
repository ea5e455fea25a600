"""Picture files to uint8 tensors: upright, RGB, shorter side scaled, centre cropped to a square."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from factory.core.errors import InputError
from factory.core.progress import SILENT, Progress

MAX_THREADS = 8
CHUNK = 64  # pictures decoded between two steps of the progress display


def decode_picture(path: Path, image_size: int) -> np.ndarray:
    """uint8 array [H, W, 3] of one file; InputError names a file that cannot be read."""
    try:
        with Image.open(path) as opened:
            opened.draft("RGB", (image_size, image_size))  # large JPEGs decode at reduced size
            picture = _rgb(ImageOps.exif_transpose(opened))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"cannot read the picture {path.absolute()}",
            why=str(error) or type(error).__name__,
            fix="repair or remove it",
        ) from None
    scale = image_size / min(picture.size)
    width, height = (max(image_size, round(side * scale)) for side in picture.size)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - image_size) // 2, (height - image_size) // 2
    return np.asarray(picture.crop((left, top, left + image_size, top + image_size)))


def _rgb(picture: Image.Image) -> Image.Image:
    """RGB, 16-bit grey scaled to 8 bits, transparency laid on white."""
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture).astype(np.float64)
        top = 65535.0 if picture.mode.startswith("I") else max(float(values.max()), 1e-9)
        picture = Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8))
    if "A" in picture.mode or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return picture.convert("RGB")


def decode_pictures(
    paths: Sequence[Path], image_size: int, progress: Progress = SILENT, label: str = "decode"
) -> Tensor:
    """uint8 tensor [N, 3, H, W] of all files, decoded by several threads."""
    out = np.empty((len(paths), image_size, image_size, 3), dtype=np.uint8)

    def fill(place: int) -> None:
        out[place] = decode_picture(paths[place], image_size)

    threads = min(MAX_THREADS, os.cpu_count() or 1)
    with (
        concurrent.futures.ThreadPoolExecutor(threads) as pool,
        progress.task(label, total=len(paths)) as task,
    ):
        for start in range(0, len(paths), CHUNK):
            chunk = range(start, min(start + CHUNK, len(paths)))
            list(pool.map(fill, chunk))
            task.advance(len(chunk))
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


def check_headers(paths: Sequence[Path]) -> None:
    """Open every file without decoding it, so that a wrong one is told before hours of work."""
    for path in paths:
        try:
            with Image.open(path):
                pass
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(
                f"cannot read the picture {path.absolute()}",
                why=str(error) or type(error).__name__,
                fix="repair or remove it",
            ) from None


@dataclass(frozen=True)
class LazyPictures:
    """Pictures decoded when they are indexed, for folders larger than the memory."""

    paths: tuple[Path, ...]
    image_size: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor) -> Tensor:
        return decode_pictures([self.paths[i] for i in index.tolist()], self.image_size)
