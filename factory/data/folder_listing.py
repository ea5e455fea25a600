"""An image folder, listed but not decoded: classes, files, which are for testing, what is left out.

Layouts: a training part ROOT/train/<class>/* with a part for testing beside it (val, validation,
test, eval, ... in any spelling); or ROOT/<class>/*, from which a fixed share of each class is held
out. A folder called like a part is one where it holds class folders, or where parts of both kinds
lie side by side; otherwise it is a class of that name. No torch here.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from factory.core.errors import InputError
from factory.data.config import DataConfig

_FORMATS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff",
    ".avif", ".pgm", ".ppm", ".pnm",
)  # fmt: skip
SUFFIXES = tuple(suffix for suffix in _FORMATS if suffix in Image.registered_extensions())
OTHER_FORMATS = (
    ".avif", ".heic", ".heif", ".svg", ".psd", ".ico", ".tga", ".jp2", ".j2k", ".jxl", ".exr",
    ".hdr", ".dcm", ".nii", ".eps", ".pdf", ".xcf", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw",
    ".orf", ".rw2", ".raf", ".mp4", ".mov", ".avi", ".mkv", ".webm", ".npy", ".npz",
)  # fmt: skip
SYSTEM_NAMES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir"))
LAYOUT = "expected ROOT/<class>/*.jpg, or ROOT/train/<class>/*.jpg with ROOT/val/<class>/*.jpg"
MAX_DEPTH = 32  # folders in folders; deeper ones are left out
LINK_DEPTH = 2  # links to folders are followed where parts and classes lie, not deeper
UNEVEN = 10  # a class this many times as large as another is worth a sentence
NAMED = 3  # examples in a sentence

_TRAIN = ("train", "training", "trn")
_TEST = ("val", "valid", "validation", "validate", "test", "testing", "tst", "eval", "evaluation",
         "dev", "development", "holdout")  # fmt: skip
_FILLER = r"(?:data|dataset|set|split|part|subset|fold|images?|imgs?|pictures?|pics?|photos?|seg)"
_PART = re.compile(rf"{_FILLER}*({'|'.join((*_TRAIN, *_TEST))}){_FILLER}*")

Files = tuple[tuple[Path, int], ...]


@dataclass(frozen=True)
class FolderListing:
    """Files of an image folder, as (path, label) pairs in a fixed order.

    Attributes:
        class_names: in label order.
        train, test: the files.
        left_out: reason -> {kind of file or folder: how many}, for all files that are not used.
        remarks: what else a person should know of the folder, as sentences without a full stop.
    """

    class_names: tuple[str, ...]
    train: Files
    test: Files
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def files(self) -> Files:
        """Both parts."""
        return self.train + self.test

    def counts(self, files: Files) -> dict[str, int]:
        """Class -> how many of ``files``."""
        found = Counter(label for _, label in files)
        return {name: found[label] for label, name in enumerate(self.class_names)}

    def sentences(self) -> list[str]:
        """What is left out and why, then the remarks."""
        lines = []
        for reason, kinds in self.left_out.items():
            named = ", ".join(
                f"{n} {kind}" for kind, n in sorted(kinds.items(), key=lambda item: -item[1])[:6]
            )
            more = ", ..." if len(kinds) > 6 else ""
            lines.append(f"left out, {reason}: {sum(kinds.values())} ({named}{more})")
        return [*lines, *self.remarks]


def list_image_folder(cfg: DataConfig) -> FolderListing:
    """The classes and files below ``cfg.root``; InputError says what is missing and where."""
    root = cfg.root_path
    try:
        exists, is_folder = root.exists(), root.is_dir()
    except (OSError, ValueError) as error:
        raise InputError(
            f"the image folder {str(root)[:200]!r} cannot be looked at",
            why=str(getattr(error, "strerror", None) or error),
            fix="correct data.root",
        ) from None
    if not exists:
        raise InputError(
            f"the image folder {root.absolute()} does not exist", fix="correct data.root"
        )
    if not is_folder:
        raise InputError(f"data.root {root.absolute()} is not a folder", fix=LAYOUT)
    return _Lister(root, cfg.test_fraction).listing()


def list_pictures(root: Path) -> list[Path]:
    """Every picture in or below ``root``, sorted; folders mean nothing.

    Raises:
        InputError: no such folder, or none of its files is a picture.
    """
    if not root.is_dir():
        raise InputError(f"the folder of pictures {root.absolute()} does not exist")
    found = _Lister(root, 0.0).tree.everything()
    if not found:
        raise InputError(
            f"no pictures below {root.absolute()}", fix=f"pictures end in {', '.join(SUFFIXES)}"
        )
    return found


def part_of(name: str) -> str | None:
    """ "train" or "test" where a folder is called like a part of a data set, else None.

    Case, separators, digits and words such as "set", "data" or "images" do not matter.
    """
    letters = re.sub(r"[\W\d_]+", "", unicodedata.normalize("NFKC", name).casefold())
    found = _PART.fullmatch(letters)
    if found is None:
        return None
    return "train" if found[1] in _TRAIN else "test"


@dataclass
class _Folder:
    path: Path
    pictures: list[Path] = field(default_factory=list)  # directly in it
    folders: dict[str, _Folder] = field(default_factory=dict)
    unread: int = 0  # files directly in it that are pictures in a format that is not read

    def everything(self) -> list[Path]:
        """Its pictures and those of all folders below, sorted."""
        return sorted(self._walk())

    def _walk(self) -> Iterator[Path]:
        yield from self.pictures
        for folder in self.folders.values():
            yield from folder._walk()

    def all_unread(self) -> int:
        """The same count for it and all folders below."""
        return self.unread + sum(folder.all_unread() for folder in self.folders.values())

    @property
    def filled(self) -> dict[str, _Folder]:
        """The sub-folders with pictures somewhere below them."""
        return {name: sub for name, sub in self.folders.items() if any(sub._walk())}


class _Lister:
    """One look at a folder: the tree, which of its folders are what, and what is left out."""

    def __init__(self, root: Path, test_fraction: float) -> None:
        self.root, self.test_fraction = root, test_fraction
        self.left_out: dict[str, Counter[str]] = {}
        self.remarks: list[str] = []
        self.tree = self._scan(root, 0, frozenset())

    def listing(self) -> FolderListing:
        train, test = self._parts()
        classes = self._classes(train)
        held_out: dict[str, list[Path]] | None = None
        if test is not None:
            held_out = self._matched(test, classes, train)
        else:
            classes, held_out = self._held_out(train.path, classes)
        names = tuple(classes)
        listing = FolderListing(names, _pairs(names, classes), _pairs(names, held_out))
        self._look_at(listing)
        left_out = {reason: dict(kinds) for reason, kinds in self.left_out.items()}
        return FolderListing(names, listing.train, listing.test, left_out, tuple(self.remarks))

    # ---- the tree

    def _scan(self, path: Path, depth: int, above: frozenset[tuple[int, int]]) -> _Folder:
        folder = _Folder(path)
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
            status = path.stat()
        except OSError as error:
            raise InputError(
                f"cannot read the folder {path.absolute()}",
                why=error.strerror or str(error),
                fix="correct its permissions, or move it elsewhere",
            ) from None
        above = above | {(status.st_dev, status.st_ino)}
        for entry in entries:
            self._take(entry, folder, depth, above)
        return folder

    def _take(
        self,
        entry: os.DirEntry[str],
        folder: _Folder,
        depth: int,
        above: frozenset[tuple[int, int]],
    ) -> None:
        path, suffix = folder.path / entry.name, Path(entry.name).suffix.lower()
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
            inside = is_folder and entry.is_symlink() and path.stat()
        except OSError:
            is_folder = is_file = inside = False
        if entry.name.startswith(".") or entry.name.lower() in SYSTEM_NAMES:
            known = entry.name.lower() in (*SYSTEM_NAMES, ".ds_store")
            self._leave_out("hidden or system files", entry.name if known else "other")
        elif is_folder:
            if inside and (depth >= LINK_DEPTH or (inside.st_dev, inside.st_ino) in above):
                self._leave_out("links to a folder around them or deep inside", entry.name)
            elif depth >= MAX_DEPTH:
                self._leave_out(f"folders more than {MAX_DEPTH} deep", entry.name)
            else:
                folder.folders[entry.name] = self._scan(path, depth + 1, above)
        elif not is_file:
            self._leave_out("links to nothing, or no ordinary files", suffix or "without a suffix")
        elif suffix in SUFFIXES:
            folder.pictures.append(path)
        elif suffix in OTHER_FORMATS:
            folder.unread += 1
            self._leave_out("files in a format that is not read", suffix)
        else:
            self._leave_out("files that are no pictures", suffix or "without a suffix")

    def _leave_out(self, reason: str, kind: str, count: int = 1) -> None:
        if count:
            self.left_out.setdefault(reason, Counter())[_short(kind)] += count

    # ---- parts

    def _parts(self) -> tuple[_Folder, _Folder | None]:
        """The folder whose sub-folders are the classes, and the one for testing if there is one."""
        filled = self.tree.filled
        kinds = {name: part_of(name) for name in filled}
        trains = [name for name, kind in kinds.items() if kind == "train"]
        tests = [name for name, kind in kinds.items() if kind == "test"]
        others = [name for name, kind in kinds.items() if kind is None]
        nested = [name for name in (*trains, *tests) if filled[name].filled]
        if not (trains and tests) and not nested:
            if trains + tests and not others:
                raise self._no_classes(filled[(trains + tests)[0]])
            return self.tree, None
        if len(trains) > 1:
            raise InputError(
                f"the folders {trains[0]!r} and {trains[1]!r} both look like the training part",
                where=str(self.root.absolute()),
                fix="keep one of them",
            )
        if not trains or (others and not tests):
            one = nested[0]
            raise InputError(
                f"the folder {one!r} in {self.root.absolute()} may be a part of the data or a "
                "class",
                why=f"it holds class folders such as {next(iter(filled[one].filled))!r}"
                + (f", and {others[0]!r} lies beside it" if others else ", and there is no train/"),
                fix="put the parts side by side as train/ and val/ and move the rest elsewhere, or "
                "rename that class",
            )
        train = _unwrapped(filled[trains[0]])
        if not train.filled:
            raise self._no_classes(train)
        self._leave_out(
            "pictures beside the parts", "in the folder itself", len(self.tree.pictures)
        )
        for name in others:
            self._leave_out(
                "pictures beside the parts", f"in {name}", len(filled[name].everything())
            )
        for name in [name for name in tests if not filled[name].filled]:
            flat = len(filled[name].everything())
            self._leave_out("pictures without a class folder", f"in {name}", flat)
            tests.remove(name)
        chosen = min(tests, key=lambda name: (not _is_validation(name), name), default=None)
        for name in tests:
            if name != chosen:
                count = len(filled[name].everything())
                self._leave_out(f"pictures of other parts, as {chosen} tests", f"in {name}", count)
        return train, None if chosen is None else _unwrapped(filled[chosen])

    def _no_classes(self, part: _Folder) -> InputError:
        return InputError(
            f"the {len(part.everything())} pictures of {part.path.absolute()} lie in no class "
            "folder",
            why="it is called like a part of the data, not like a class",
            fix=LAYOUT,
        )

    # ---- classes

    def _classes(self, folder: _Folder) -> dict[str, list[Path]]:
        """Class name -> its pictures, sorted; at least two classes, none of them without any."""
        filled = folder.filled
        where = folder.path.absolute()
        loose = len(folder.pictures)
        if not filled:
            raise InputError(
                f"no pictures below {where}",
                why=f"{loose} pictures lie in it without a class folder" if loose else LAYOUT,
                fix=f"pictures end in {', '.join(SUFFIXES)}; put each class in a folder of its own",
            )
        hollow = [sub for name, sub in folder.folders.items() if name not in filled]
        for sub in hollow:
            if unread := sub.all_unread():
                raise InputError(
                    f"the class folder {sub.path.absolute()} holds 0 pictures that can be read",
                    why=f"and {unread} files in other formats",
                    fix=f"pictures end in {', '.join(SUFFIXES)}; convert them, or move the folder",
                )
        if len(filled) < 2:
            only = next(iter(filled))
            empty = f"; {hollow[0].path.name} holds 0 pictures" if hollow else ""
            inner = list(filled[only].filled)
            fix = f"name {folder.path / only} if {inner[0]!r} is a class" if inner else LAYOUT
            raise InputError(
                f"{where} holds a single class, {only!r}",
                why="a classifier needs at least two" + empty,
                fix=fix,
            )
        for sub in hollow:
            self._leave_out("folders without pictures", sub.path.name)
        if folder is not self.tree or loose:
            self._leave_out("pictures without a class folder", f"in {folder.path.name}", loose)
        for name in filled:
            _check_name(name, where)
        return {name: sub.everything() for name, sub in filled.items()}

    def _matched(
        self, test: _Folder, classes: dict[str, list[Path]], train: _Folder
    ) -> dict[str, list[Path]]:
        """The test pictures of each class; the names may differ in case and in Unicode form."""
        plain = Counter(map(_plain, classes))
        by_plain = {_plain(name): name for name in classes if plain[_plain(name)] == 1}
        found: dict[str, list[Path]] = {}
        for name, sub in test.filled.items():
            own = name if name in classes else by_plain.get(_plain(name))
            if own is None:
                raise InputError(
                    f"the class {name!r} is in {test.path} but not in {train.path}",
                    fix="give both folders the same classes",
                )
            found[own] = sorted([*found.get(own, []), *sub.everything()])
        loose = len(test.pictures)
        self._leave_out("pictures without a class folder", f"in {test.path.name}", loose)
        return found

    def _held_out(
        self, folder: Path, classes: dict[str, list[Path]]
    ) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
        """Hold out a share of each class, the same files every time: ordered by a hash of the path.

        A picture that is added later moves at most one other from one part to the other. A class
        keeps at least one picture for training.
        """
        train: dict[str, list[Path]] = {}
        test: dict[str, list[Path]] = {}
        for name, pictures in classes.items():
            ordered = sorted(pictures, key=lambda path: _hash(path.relative_to(folder)))
            count = min(max(round(self.test_fraction * len(ordered)), 1), len(ordered) - 1)
            test[name], train[name] = sorted(ordered[:count]), sorted(ordered[count:])
        if not any(test.values()):
            raise InputError(
                f"every class in {folder.absolute()} holds a single picture",
                why="none would be left to test with",
                fix="add pictures, or make a folder val/ beside train/",
            )
        return train, test

    def _look_at(self, listing: FolderListing) -> None:
        """Remarks on classes that are tiny, uneven, untested or easily taken for one another."""
        train, test = listing.counts(listing.train), listing.counts(listing.test)
        few = [name for name, count in train.items() if count == 1]
        if few:
            self.remarks.append(f"a single training picture: {_named(few)}")
        untested = [name for name, count in test.items() if not count]
        if untested:
            self.remarks.append(f"no test picture: {_named(untested)}")
        most, least = max(train, key=lambda n: train[n]), min(train, key=lambda n: train[n])
        if train[most] >= UNEVEN * train[least]:
            self.remarks.append(
                f"uneven classes: {_short(most)} has {train[most]} training pictures, "
                f"{_short(least)} has {train[least]}"
            )
        twins = Counter(map(_plain, listing.class_names))
        alike = [name for name in listing.class_names if twins[_plain(name)] > 1]
        if alike:
            self.remarks.append(f"classes whose names differ in case only: {_named(alike)}")


def _unwrapped(part: _Folder) -> _Folder:
    """The inner folder where an archive was unpacked into one of its own name."""
    while len(part.filled) == 1 and not part.pictures:
        name, inner = next(iter(part.filled.items()))
        if part_of(name) != part_of(part.path.name) or not inner.filled:
            break
        part = inner
    return part


def _is_validation(name: str) -> bool:
    return "val" in name.casefold() and "eval" not in name.casefold()


def _check_name(name: str, where: Path) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"the class folder {os.fsencode(name)!r} in {where} has a name that is not UTF-8",
            fix="rename it",
        ) from None


def _plain(name: str) -> str:
    """A name without the differences that file systems and people make."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())


def printable(text: str) -> str:
    """A name as a terminal and a UTF-8 file take it: other bytes are escaped, controls are "?"."""
    shown = text.encode(errors="backslashreplace").decode()
    return "".join(c if c.isprintable() else "?" for c in shown)


def _short(name: str) -> str:
    shown = printable(name)
    return shown if len(shown) <= 40 else shown[:39] + "…"


def _named(names: list[str]) -> str:
    shown = ", ".join(_short(name) for name in names[:NAMED])
    more = len(names) - NAMED
    return shown + (f" and {more} more classes" if more > 0 else "")


def _hash(path: Path) -> bytes:
    return hashlib.sha256(os.fsencode(path.as_posix())).digest()


def _pairs(names: tuple[str, ...], classes: dict[str, list[Path]]) -> Files:
    return tuple(
        (path, label) for label, name in enumerate(names) for path in classes.get(name, [])
    )
