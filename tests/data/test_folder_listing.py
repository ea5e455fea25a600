"""Which folders of a data set are parts, which are classes, and what is left out of both."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.core.errors import InputError
from factory.data.config import DataConfig, folder_config
from factory.data.folder_listing import FolderListing, list_image_folder, part_of


def files(folder: Path, *names: str) -> None:
    """Empty files; a listing opens none of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def classes(root: Path, *names: str, count: int = 4) -> None:
    for name in names:
        files(root / name, *(f"{i}.jpg" for i in range(count)))


def listed(root: Path) -> FolderListing:
    return list_image_folder(folder_config(str(root)))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Val"),
        ("training", "validation"),
        ("TRAIN", "TEST"),
        ("train_set", "test_set"),
        ("Training Set", "Validation-Set"),
        ("trainset", "eval"),
        ("train2017", "val2017"),
        ("images_train", "images_dev"),
        ("training_data", "holdout"),
        ("seg_train", "seg_test"),
        ("ｔｒａｉｎ", "evaluation"),
    ],
)
def test_parts_in_any_spelling(tmp_path: Path, train: str, test: str) -> None:
    classes(tmp_path / train, "cat", "dog", count=3)
    classes(tmp_path / test, "cat", "dog", count=1)
    listing = listed(tmp_path)
    assert listing.class_names == ("cat", "dog")
    assert (len(listing.train), len(listing.test)) == (6, 2)
    assert listing.sentences() == []


@pytest.mark.parametrize("name", ["trainer", "tram", "contest", "invalid", "testa", "devil", "set"])
def test_other_names_are_no_parts(name: str) -> None:
    assert part_of(name) is None


@pytest.mark.parametrize("name", ["train", "valid", "test", "Development"])
def test_a_class_may_be_called_like_a_part(tmp_path: Path, name: str) -> None:
    classes(tmp_path, name, "plane", "a class with spaces", "größe", "日本")
    assert set(listed(tmp_path).class_names) == {
        name,
        "plane",
        "a class with spaces",
        "größe",
        "日本",
    }


def test_what_cannot_be_told_apart_is_refused(tmp_path: Path) -> None:
    classes(tmp_path / "a" / "train", "steam", "diesel")
    classes(tmp_path / "a", "plane")
    with pytest.raises(InputError, match=r"'train' .*may be a part of the data or a class"):
        listed(tmp_path / "a")
    classes(tmp_path / "b" / "Test", "cat", "dog")
    with pytest.raises(InputError, match=r"'Test' .*there is no train/"):
        listed(tmp_path / "b")
    classes(tmp_path / "c", "train", "val")
    with pytest.raises(InputError, match=r"4 pictures of .*train lie in no class folder"):
        listed(tmp_path / "c")
    for part in ("train", "training", "val"):
        classes(tmp_path / "d" / part, "cat", "dog")
    with pytest.raises(InputError, match="both look like the training part"):
        listed(tmp_path / "d")


def test_a_test_part_without_labels_is_left_out(tmp_path: Path) -> None:
    classes(tmp_path / "train", "cat", "dog", count=10)
    classes(tmp_path, "test", count=7)
    listing = listed(tmp_path)
    assert listing.class_names == ("cat", "dog")
    assert (len(listing.train), len(listing.test)) == (16, 4)
    assert listing.sentences() == ["left out, pictures without a class folder: 7 (7 in test)"]


def test_of_two_parts_for_testing_the_validation_judges(tmp_path: Path) -> None:
    for part in ("train", "test", "val", "raw"):
        classes(tmp_path / part, "cat", "dog", count=2)
    files(tmp_path, "cover.png")
    listing = listed(tmp_path)
    assert {path.parts[-3] for path, _ in listing.test} == {"val"}
    assert listing.left_out == {
        "pictures beside the parts": {"in the folder itself": 1, "in raw": 4},
        "pictures of other parts, as val tests": {"in test": 4},
    }


def test_an_archive_unpacked_into_a_folder_of_its_own_name(tmp_path: Path) -> None:
    for part in ("seg_train", "seg_test"):
        classes(tmp_path / part / part, "sea", "street")
    assert listed(tmp_path).class_names == ("sea", "street")


def test_classes_of_both_parts_match_whatever_their_case_and_form(tmp_path: Path) -> None:
    classes(tmp_path / "train", "Café", "Sea Lion")
    classes(tmp_path / "val", "cafe\u0301", "sea_lion", count=1)
    listing = listed(tmp_path)
    assert listing.class_names == ("Café", "Sea Lion")
    assert [label for _, label in listing.test] == [0, 1]


def test_letters_of_both_cases_are_classes_of_their_own(tmp_path: Path) -> None:
    classes(tmp_path, "A", "a")
    if len(os.listdir(tmp_path)) == 1:
        pytest.skip("this file system does not know case")
    assert listed(tmp_path).sentences() == ["classes whose names differ in case only: A, a"]


def test_everything_that_is_left_out_is_counted(tmp_path: Path) -> None:
    classes(tmp_path, "cat", "dog")
    files(tmp_path / "cat", ".DS_Store", "Thumbs.db", "._0.jpg", "notes.txt", "a.heic", "README")
    files(tmp_path / ".git", "x.jpg")
    files(tmp_path / "__MACOSX" / "cat", "0.jpg")
    files(tmp_path / "labels", "0.txt", "1.txt")
    files(tmp_path, "loose.png")
    (tmp_path / "new folder").mkdir()
    (tmp_path / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "dog" / "again").symlink_to(tmp_path, target_is_directory=True)
    listing = listed(tmp_path)
    assert listing.class_names == ("cat", "dog")
    assert len(listing.files) == 8
    assert listing.left_out == {
        "hidden or system files": {".DS_Store": 1, "Thumbs.db": 1, "__MACOSX": 1, "other": 2},
        "files in a format that is not read": {".heic": 1},
        "files that are no pictures": {".txt": 3, "without a suffix": 1},
        "links to nothing, or no ordinary files": {".jpg": 1},
        "links to a folder around them or deep inside": {"again": 1},
        "folders without pictures": {"labels": 1, "new folder": 1},
        "pictures without a class folder": {f"in {tmp_path.name}": 1},
    }


def test_a_class_of_unread_formats_is_an_error(tmp_path: Path) -> None:
    classes(tmp_path, "cat", "dog")
    files(tmp_path / "cow", "a.heic", "b.heic")
    with pytest.raises(InputError, match=r"cow holds 0 pictures .*2 files in other formats"):
        listed(tmp_path)


def test_tiny_and_uneven_classes(tmp_path: Path) -> None:
    classes(tmp_path, "common", count=40)
    classes(tmp_path, "rare", count=1)
    listing = listed(tmp_path)
    assert listing.counts(listing.train) == {"common": 32, "rare": 1}
    assert listing.sentences() == [
        "a single training picture: rare",
        "no test picture: rare",
        "uneven classes: common has 32 training pictures, rare has 1",
    ]
    classes(tmp_path / "single", "a", "b", count=1)
    with pytest.raises(InputError, match=r"every class .* holds a single picture"):
        listed(tmp_path / "single")


def test_a_folder_around_the_data_is_named(tmp_path: Path) -> None:
    classes(tmp_path / "flowers", "rose", "tulip")
    with pytest.raises(InputError, match=r"single class, 'flowers'.*name .*flowers if 'rose'"):
        listed(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    classes(tmp_path, "cat")
    raw = os.fsencode(tmp_path) + b"/d\xffg"
    try:
        os.mkdir(raw)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    (Path(os.fsdecode(raw)) / "0.jpg").touch()
    with pytest.raises(InputError, match="a name that is not UTF-8"):
        listed(tmp_path)


@pytest.mark.parametrize("root", ["x" * 300, "a\0b"])
def test_impossible_names_are_refused(root: str) -> None:
    with pytest.raises(InputError, match="image folder"):
        list_image_folder(DataConfig(kind="image_folder", root=root))


_FOLDERS = st.sampled_from(
    ["train", "Val", "test_set", "cat", "dog", "a b", "日本", ".git", "labels", "__MACOSX"]
)
_FILES = st.sampled_from(["0.jpg", "1.PNG", ".DS_Store", "x.txt", "y.heic", "README"])
_TREES = st.sets(
    st.tuples(st.lists(_FOLDERS, max_size=3), _FILES).map(lambda pair: (*pair[0], pair[1])),
    max_size=25,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(_TREES)
def test_every_file_of_any_tree_is_used_or_counted(tree: set[tuple[str, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for parts in tree:
            files(root.joinpath(*parts[:-1]), parts[-1])
        try:
            listing = listed(root)
        except InputError:
            return
        # A hidden folder counts as one file; nothing in it is looked at.
        hidden = [
            next((i for i, part in enumerate(parts) if part in (".git", "__MACOSX")), len(parts))
            for parts in tree
        ]
        seen = {parts[: end + 1] for parts, end in zip(tree, hidden, strict=True)}
        left_out = {k: n for k, n in listing.left_out.items() if k != "folders without pictures"}
        assert len(listing.files) + sum(sum(n.values()) for n in left_out.values()) == len(seen)
        assert len(listing.class_names) >= 2
        assert all(listing.counts(listing.train).values())
        assert listing.test
