import pytest
import torch

from factory.data.augment import Augmentation


@pytest.fixture
def x() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (16, 3, 12, 10), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(shift_px=3, flip=True, cutout_px=4),
        Augmentation(resized_crop=True, flip=True),
        Augmentation(policy="rand_augment"),
        Augmentation(policy="trivial_augment", cutout_px=2),
    ],
)
def test_depends_on_seed_and_step_alone(augmentation: Augmentation, x: torch.Tensor) -> None:
    torch.manual_seed(1)
    first = augmentation(x, seed=5, step=7)
    state = torch.get_rng_state()
    second = augmentation(x, seed=5, step=7)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    assert torch.equal(first, second)
    assert first.dtype == torch.uint8
    assert first.shape == x.shape
    assert not torch.equal(first, augmentation(x, seed=5, step=8))
    assert not torch.equal(first, augmentation(x, seed=6, step=7))


def test_nothing_to_do_changes_nothing(x: torch.Tensor) -> None:
    assert torch.equal(Augmentation()(x, seed=0, step=0), x)


def test_shift_and_flip_move_pixels_as_they_say(x: torch.Tensor) -> None:
    shift_px = 2
    out = Augmentation(shift_px=shift_px, flip=True)(x, seed=0, step=0)
    padded = torch.nn.functional.pad(x, (shift_px,) * 4)
    mirrored = 0
    for before, after in zip(padded, out, strict=True):
        windows = [
            before[:, r : r + 12, c : c + 10]
            for r in range(2 * shift_px + 1)
            for c in range(2 * shift_px + 1)
        ]
        plain = any(torch.equal(after, window) for window in windows)
        flipped = any(torch.equal(after, window.flip(2)) for window in windows)
        assert plain or flipped
        mirrored += flipped
    assert 0 < mirrored < len(x)


def test_cutout_fills_one_square_at_most(x: torch.Tensor) -> None:
    out = Augmentation(cutout_px=4, fill=(0, 0, 0))(x, seed=0, step=0)
    holes = (out == 0).all(1)
    assert holes.flatten(1).sum(1).max() == 16
    for hole in holes:
        rows, columns = hole.any(1).sum(), hole.any(0).sum()
        assert rows <= 4
        assert columns <= 4
        assert hole.sum() == rows * columns > 0
    assert torch.equal(out[~holes[:, None].expand_as(out)], x[~holes[:, None].expand_as(x)])


def test_resized_crop_keeps_a_constant_picture() -> None:
    x = torch.full((4, 3, 16, 16), 77, dtype=torch.uint8)
    assert torch.equal(Augmentation(resized_crop=True)(x, seed=0, step=0), x)
