"""Augmentation of a whole batch of uint8 pictures at once, on whatever device they lie.

Every random number comes from a generator seeded by (seed, step) alone, drawn on the CPU: a
resumed run sees the same pictures as one never interrupted, on every device.

Cutout: "Improved Regularization of Convolutional Neural Networks with Cutout" (arXiv 1708.04552).
RandAugment (arXiv 1909.13719) and TrivialAugment (arXiv 2103.10158) are torchvision's.

Shapes: N pictures, C channels, H x W pixels.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

RESIZED_CROP_MIN_AREA = 0.25  # of the picture; 0.08 is usual for a million pictures, not a thousand
RESIZED_CROP_ASPECT = (3 / 4, 4 / 3)


def derived_seed(*parts: int) -> int:
    """One well mixed 63-bit seed from several small numbers (seed, step, stream)."""
    state = np.random.SeedSequence([int(part) for part in parts]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


@dataclass(frozen=True)
class Augmentation:
    """What happens to training pictures; call it with a batch and the (seed, step) it belongs to.

    Attributes:
        shift_px: largest shift, the border filled with black.
        resized_crop: a random part of the picture, scaled to its full size.
        flip: mirror half of the pictures.
        cutout_px: side of the square replaced by ``fill``; 0: none.
        policy: "none", "rand_augment" or "trivial_augment".
        fill: colour of cut-out squares (the mean colour, which normalises to about 0).
    """

    shift_px: int = 0
    resized_crop: bool = False
    flip: bool = False
    cutout_px: int = 0
    policy: str = "none"
    fill: tuple[int, ...] = (128, 128, 128)

    def with_cutout(self, cutout_px: int) -> Augmentation:
        """The same with squares of ``cutout_px`` cut out."""
        return dataclasses.replace(self, cutout_px=cutout_px)

    def __call__(self, x_NCHW: Tensor, *, seed: int, step: int) -> Tensor:
        """The augmented uint8 batch; the same for the same (seed, step)."""
        generator = torch.Generator().manual_seed(derived_seed(seed, step, 1))
        if self.policy != "none":
            x_NCHW = _apply_policy(self.policy, x_NCHW, derived_seed(seed, step, 2))
        if self.resized_crop:
            x_NCHW = _resized_crop(x_NCHW, self.flip, generator)
        elif self.shift_px or self.flip:
            x_NCHW = _shift_and_flip(x_NCHW, self.shift_px, self.flip, generator)
        if self.cutout_px:
            x_NCHW = _cutout(x_NCHW, self.cutout_px, self.fill, generator)
        return x_NCHW


def _shift_and_flip(
    x_NCHW: Tensor, shift_px: int, flip: bool, generator: torch.Generator
) -> Tensor:
    """Both as one gather: each picture has its own row and column indices."""
    n, c, h, w = x_NCHW.shape
    offsets = torch.randint(0, 2 * shift_px + 1, (2, n, 1), generator=generator)
    rows_NH = torch.arange(h) + offsets[0]
    columns_NW = torch.arange(w) + offsets[1]
    if flip:
        mirrored = torch.rand(n, 1, generator=generator) < 0.5
        columns_NW = torch.where(mirrored, columns_NW.flip(1), columns_NW)
    padded = functional.pad(x_NCHW, (shift_px,) * 4)
    flat_index = rows_NH[:, :, None] * (w + 2 * shift_px) + columns_NW[:, None, :]
    index = flat_index.view(n, 1, h * w).to(x_NCHW.device, non_blocking=True).expand(n, c, h * w)
    return padded.flatten(2).gather(2, index).view(n, c, h, w)


def _resized_crop(x_NCHW: Tensor, flip: bool, generator: torch.Generator) -> Tensor:
    """Sample a box of random area, aspect and place, bilinearly scaled to the full size."""
    n = x_NCHW.shape[0]
    u = torch.rand(5, n, generator=generator)
    area = RESIZED_CROP_MIN_AREA + (1 - RESIZED_CROP_MIN_AREA) * u[0]
    low, high = (math.log(aspect) for aspect in RESIZED_CROP_ASPECT)
    aspect = torch.exp(low + (high - low) * u[1])
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = torch.where(u[4] < 0.5, -width, width) if flip else width
    theta[:, 1, 1] = height
    theta[:, 0, 2] = (1 - width) * (2 * u[2] - 1)
    theta[:, 1, 2] = (1 - height) * (2 * u[3] - 1)
    grid = functional.affine_grid(
        theta.to(x_NCHW.device, non_blocking=True), list(x_NCHW.shape), align_corners=False
    )
    sampled = functional.grid_sample(
        x_NCHW.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return sampled.round_().clamp_(0, 255).to(torch.uint8)


def _cutout(
    x_NCHW: Tensor, side_px: int, fill: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Fill a square around a random pixel of each picture; it may reach over the border."""
    n, c, h, w = x_NCHW.shape
    top = torch.randint(0, h, (n, 1), generator=generator) - side_px // 2
    left = torch.randint(0, w, (n, 1), generator=generator) - side_px // 2
    rows, columns = torch.arange(h), torch.arange(w)
    in_rows = (rows >= top) & (rows < top + side_px)
    in_columns = (columns >= left) & (columns < left + side_px)
    hole = (in_rows[:, None, :, None] & in_columns[:, None, None, :]).to(x_NCHW.device)
    colour = torch.tensor(fill[:c], dtype=torch.uint8).view(1, -1, 1, 1).to(x_NCHW.device)
    return torch.where(hole, colour, x_NCHW)


def _apply_policy(policy: str, x_NCHW: Tensor, seed: int) -> Tensor:
    """A torchvision policy, drawn anew for each picture; its random state stays its own."""
    from torchvision.transforms import v2

    transform = v2.RandAugment() if policy == "rand_augment" else v2.TrivialAugmentWide()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pictures = [transform(picture) for picture in x_NCHW.cpu()]
    return torch.stack(pictures).to(x_NCHW.device)
