"""An image folder, listed but not decoded: classes, files, and which of them are for testing.

Layouts: ROOT/train/<class>/* with ROOT/val, valid, validation or test beside it; or
ROOT/<class>/*, from which a fixed share of each class is held out. No torch here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from factory.core.errors import InputError
from factory.data.config import DataConfig

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
TEST_FOLDERS = ("val", "valid", "validation", "test")
LAYOUT = "expected ROOT/<class>/*.jpg, or ROOT/train/<class>/*.jpg with ROOT/val/<class>/*.jpg"
MIN_PER_CLASS = 2


@dataclass(frozen=True)
class FolderListing:
    """Files of an image folder, as (path, label) pairs in a fixed order."""

    class_names: tuple[str, ...]
    train: tuple[tuple[Path, int], ...]
    test: tuple[tuple[Path, int], ...]


def list_image_folder(cfg: DataConfig) -> FolderListing:
    """The classes and files below ``cfg.root``; InputError says what is missing and where."""
    root = cfg.root_path
    if not root.exists():
        raise InputError(
            f"the image folder {root.absolute()} does not exist", fix="correct data.root"
        )
    if not root.is_dir():
        raise InputError(f"data.root {root.absolute()} is not a folder", fix=LAYOUT)
    test_root = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if not (root / "train").is_dir():
        return _held_out(root, _classes(root), cfg.test_fraction)
    train = _classes(root / "train")
    if test_root is None:
        return _held_out(root / "train", train, cfg.test_fraction)
    test = _classes(test_root, minimum=1)
    unknown = sorted(set(test) - set(train))
    if unknown:
        raise InputError(
            f"the class {unknown[0]!r} is in {test_root} but not in {root / 'train'}",
            fix="give both folders the same classes",
        )
    names = tuple(train)
    return FolderListing(names, _pairs(names, train), _pairs(names, test))


def _classes(folder: Path, minimum: int = MIN_PER_CLASS) -> dict[str, list[Path]]:
    """Class name -> its pictures, sorted; at least two classes and ``minimum`` pictures in each."""
    subfolders = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    classes = {sub.name: _pictures(sub) for sub in subfolders}
    if not any(classes.values()):
        loose = len(_pictures(folder, recursive=False))
        raise InputError(
            f"no pictures below {folder.absolute()}",
            why=f"{loose} pictures lie in it without a class folder" if loose else LAYOUT,
            fix=f"pictures end in {', '.join(SUFFIXES)}; put each class in a folder of its own",
        )
    for name, pictures in classes.items():
        if len(pictures) < minimum:
            raise InputError(
                f"the class folder {(folder / name).absolute()} holds {len(pictures)} pictures",
                why=f"at least {minimum} are needed",
                fix="add pictures or remove the folder",
            )
    if len(classes) < 2 and minimum == MIN_PER_CLASS:
        raise InputError(
            f"{folder.absolute()} holds a single class, {next(iter(classes))!r}",
            why="a classifier needs at least two",
            fix=LAYOUT,
        )
    return classes


def _pictures(folder: Path, recursive: bool = True) -> list[Path]:
    found: Iterable[Path] = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(
        path
        for path in found
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _held_out(root: Path, classes: dict[str, list[Path]], test_fraction: float) -> FolderListing:
    """Hold out a share of each class, the same files every time: ordered by a hash of the path.

    A picture that is added later moves at most one other from one part to the other.
    """
    names = tuple(classes)
    train: dict[str, list[Path]] = {}
    test: dict[str, list[Path]] = {}
    for name, pictures in classes.items():
        ordered = sorted(pictures, key=lambda path: _hash(path.relative_to(root)))
        held_out = min(max(round(test_fraction * len(ordered)), 1), len(ordered) - 1)
        test[name], train[name] = sorted(ordered[:held_out]), sorted(ordered[held_out:])
    return FolderListing(names, _pairs(names, train), _pairs(names, test))


def _hash(path: Path) -> bytes:
    return hashlib.sha256(path.as_posix().encode()).digest()


def _pairs(names: tuple[str, ...], classes: dict[str, list[Path]]) -> tuple[tuple[Path, int], ...]:
    return tuple(
        (path, label) for label, name in enumerate(names) for path in classes.get(name, [])
    )
