"""Picture files to uint8 tensors: upright, RGB, scaled to cover a size, its middle cropped."""

from __future__ import annotations

import concurrent.futures
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from factory.core.errors import InputError
from factory.core.progress import SILENT, Progress

T = TypeVar("T")
MAX_THREADS = 8
CHUNK = 64  # pictures decoded between two steps of the progress display
MAX_PIXELS = 100_000_000  # of what is decoded: 300 MB; JPEGs are decoded at reduced size
MAX_ASPECT = 8  # of what is scaled: of a longer picture only the middle is looked at
NAMED = 3  # unreadable pictures named in one message

# Pillow warns of odd tags, and from 89 million pixels on; the pictures it refuses are reported.
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnreadableError(Exception):
    """A picture that cannot be decoded whole; its text is the reason."""


@dataclass(frozen=True)
class PictureFacts:
    """What a file holds: its size in pixels, and whether there is more than one picture."""

    width: int
    height: int
    animated: bool


Size = int | tuple[int, int]
"""Side of a square, or height and width, in pixels."""


def decode_picture(path: Path, image_size: Size) -> np.ndarray:
    """uint8 array [H, W, 3] of one file; InputError names a file that cannot be read."""
    try:
        return read_picture(path, image_size)[0]
    except UnreadableError as error:
        raise unreadable_error([(path, str(error))]) from None


def read_picture(path: Path, image_size: Size) -> tuple[np.ndarray, PictureFacts]:
    """uint8 array [H, W, 3] of one file, of its first frame, and what the file holds.

    Raises:
        UnreadableError: the file is no picture, is cut short or damaged, or is too large.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    height, width = size
    try:
        with Image.open(path) as opened:
            facts = PictureFacts(*opened.size, getattr(opened, "is_animated", False))
            if opened.format == "PNG":
                _check_sums(path)
            opened.seek(0)
            opened.draft("RGB", (width, height))  # large JPEGs decode at reduced size
            if min(opened.size) < 1:
                raise ValueError("no pixels")
            if opened.size[0] * opened.size[1] > MAX_PIXELS:
                raise ValueError(f"more than {MAX_PIXELS / 1e6:.0f} million pixels")
            picture = _rgb(_middle(ImageOps.exif_transpose(opened)))
    except Exception as error:  # the decoders of Pillow raise whatever they like on a damaged file
        raise UnreadableError(_reason(error, path)) from None
    scale = max(width / picture.width, height / picture.height)
    whole = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
    if whole != picture.size:
        picture = picture.resize(whole, Image.Resampling.BILINEAR)
    left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
    return np.asarray(picture.crop((left, top, left + width, top + height))), facts


def _check_sums(path: Path) -> None:
    """The check sums of all chunks of a PNG; decoding alone looks at some of them only."""
    with Image.open(path) as opened:
        opened.verify()


def _middle(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    longest = MAX_ASPECT * min(width, height)
    if max(width, height) <= longest:
        return picture
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    return picture.crop((left, top, left + min(width, longest), top + min(height, longest)))


def _reason(error: Exception, path: Path) -> str:
    """Why Pillow failed, on one line and without the path."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "empty file" if _is_empty(path) else "no picture, or damaged at its start"
    if isinstance(error, MemoryError):
        return "too large for the memory"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:120]


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:
        return False


def unreadable_error(unreadable: Sequence[tuple[Path, str]]) -> InputError:
    """The error that names the first of these pictures and says how many there are."""
    first, reason = unreadable[0]
    if len(unreadable) == 1:
        return InputError(
            f"cannot read the picture {first.absolute()}", why=reason, fix="repair or remove it"
        )
    named = ", ".join(f"{path.name}: {reason}" for path, reason in unreadable[1:NAMED])
    return InputError(
        f"cannot read the picture {first.absolute()} and {len(unreadable) - 1} more",
        why=f"{reason}; {named}" + (", ..." if len(unreadable) > NAMED else ""),
        fix="repair or remove them; `factory inspect FOLDER` names all",
    )


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
    paths: Sequence[Path], image_size: Size, progress: Progress = SILENT, label: str = "decode"
) -> Tensor:
    """uint8 tensor [N, 3, H, W] of all files; InputError names those that cannot be read."""
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    out = np.empty((len(paths), *size, 3), dtype=np.uint8)

    def fill(place: int) -> str | None:
        try:
            out[place] = read_picture(paths[place], image_size)[0]
        except UnreadableError as error:
            return str(error)
        return None

    reasons = each(fill, range(len(paths)), progress, label)
    unreadable = [(paths[i], reason) for i, reason in enumerate(reasons) if reason is not None]
    if unreadable:
        raise unreadable_error(unreadable)
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


def each(
    work: Callable[[Any], T], items: Sequence[Any], progress: Progress, label: str
) -> Iterator[T]:
    """``work`` of every item in order, by several threads (Pillow decodes without the GIL)."""
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    with (
        concurrent.futures.ThreadPoolExecutor(threads) as pool,
        progress.task(label, total=len(items)) as task,
    ):
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            yield from pool.map(work, chunk)
            task.advance(len(chunk))


def check_pictures(paths: Sequence[Path], progress: Progress, label: str) -> None:
    """Decode every file once, so that a damaged one ends the run before hours of work, not amid."""
    unreadable = [(path, look.unreadable) for path, look in looks(paths, progress, label)]
    named = [(path, reason) for path, reason in unreadable if reason is not None]
    if named:
        raise unreadable_error(named)


LOOK_PX = 32  # a picture is decoded at this size to be looked at


@dataclass(frozen=True)
class Look:
    """One file decoded and looked at: its facts and whether it is grey, or why it is unreadable."""

    facts: PictureFacts | None = None
    grey: bool = False
    unreadable: str | None = None


def looks(paths: Sequence[Path], progress: Progress, label: str) -> Iterator[tuple[Path, Look]]:
    """Every file with what it holds."""
    return zip(paths, each(_look, paths, progress, label), strict=True)


def _look(path: Path) -> Look:
    try:
        pixels_HWC, facts = read_picture(path, LOOK_PX)
    except UnreadableError as error:
        return Look(unreadable=str(error))
    return Look(facts, grey=bool((pixels_HWC == pixels_HWC[..., :1]).all()))


@dataclass(frozen=True)
class LazyPictures:
    """Pictures decoded when they are indexed, for folders larger than the memory."""

    paths: tuple[Path, ...]
    image_size: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor) -> Tensor:
        return decode_pictures([self.paths[i] for i in index.tolist()], self.image_size)
