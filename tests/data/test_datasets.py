import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from factory.core.errors import InputError
from factory.data.config import DataConfig
from factory.data.datasets import class_names, load_data
from factory.data.image_data import stratified_split


def test_digits_are_split_the_same_way_for_every_seed() -> None:
    data, again = load_data(DataConfig(), seed=0), load_data(DataConfig(), seed=9)
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.train.images.shape == (1437, 3, 32, 32)
    assert data.train.images.dtype == torch.uint8
    assert torch.equal(data.test.images, again.test.images)
    assert torch.bincount(data.test.labels).min() >= 35
    both = torch.cat([data.train.images, data.test.images]).flatten(1)
    assert both.max() == 255
    x = data.normalise(data.train.images)
    assert x.dtype == torch.float32
    assert x.mean().item() == pytest.approx(0, abs=1e-4)
    assert x.std().item() == pytest.approx(1, abs=1e-3)


def test_normalise_is_the_written_formula() -> None:
    data = load_data(DataConfig(image_size=8, max_train=20), seed=0)
    x = data.test.images[:4]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (data.mean, data.std))
    assert torch.allclose(data.normalise(x), (x / 255 - mean) / std, atol=1e-5)


def test_subsets_are_stratified_and_seeded() -> None:
    cfg = DataConfig(image_size=8, max_train=100, max_test=50)
    data = load_data(cfg, seed=0)
    assert (len(data.train), len(data.test)) == (100, 50)
    assert set(torch.bincount(data.train.labels).tolist()) <= {9, 10, 11}
    assert torch.equal(data.train.images, load_data(cfg, seed=0).train.images)
    assert not torch.equal(data.train.images, load_data(cfg, seed=1).train.images)
    with pytest.raises(InputError, match="max_train = 5 leaves no picture of"):
        load_data(DataConfig(image_size=8, max_train=5), seed=0)


def test_search_halves_are_disjoint_and_complete() -> None:
    labels = torch.arange(103) % 7
    first, second = stratified_split(labels, 0.5, seed=2)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(103))
    difference = torch.bincount(labels[first]) - torch.bincount(labels[second])
    assert difference.abs().max() <= 2
    data = load_data(DataConfig(image_size=8), seed=0)
    weights, architecture = data.split(0.5, seed=0)
    assert len(weights) + len(architecture) == len(data.train)
    assert abs(len(weights) - len(architecture)) <= 1


def _fake_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, n in (("data_batch_1", 40), ("test_batch", 20)):
        batch = {
            "data": rng.integers(0, 256, (n, 3072), dtype=np.uint8),
            "labels": [i % 10 for i in range(n)],
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    names = ["airplane"] * 10
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(
        CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": None}
    )


def test_cifar10_is_read_from_its_root_or_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_cifar10(tmp_path, monkeypatch)
    data = load_data(DataConfig(kind="cifar10", root=str(tmp_path)), seed=0)
    assert data.train.images.shape == (40, 3, 32, 32)
    assert len(data.test) == 20
    assert data.class_names[:2] == ("airplane", "automobile")
    inner = DataConfig(kind="cifar10", root=str(tmp_path / "cifar-10-batches-py"), image_size=16)
    assert load_data(inner, seed=0).train.images.shape == (40, 3, 16, 16)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_data(DataConfig(kind="cifar10", root="~"), seed=0).test) == 20


def test_missing_and_damaged_cifar10_name_folder_and_command(tmp_path: Path) -> None:
    cfg = DataConfig(kind="cifar10", root=str(tmp_path / "pictures"))
    with pytest.raises(InputError) as missing:
        load_data(cfg, seed=0)
    text = str(missing.value)
    assert "is not there" in text
    assert str(tmp_path / "pictures" / "cifar-10-batches-py") in text
    assert f"CIFAR10('{tmp_path / 'pictures'}', download=True)" in text
    folder = tmp_path / "pictures" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "data_batch_1").write_bytes(b"not a batch")
    with pytest.raises(InputError, match="is damaged or incomplete"):
        load_data(cfg, seed=0)


def _pictures(folder: Path, n: int, colour: int, suffix: str = ".png") -> None:
    folder.mkdir(parents=True)
    for i in range(n):
        Image.new("RGB", (20 + i, 16), (colour, i, 0)).save(folder / f"{i:03}{suffix}")


def _folder(root: Path) -> DataConfig:
    return DataConfig(kind="image_folder", root=str(root), image_size=16)


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".webp", ".bmp"])
def test_a_folder_of_classes_is_split_by_a_fixed_share(tmp_path: Path, suffix: str) -> None:
    _pictures(tmp_path / "cat", 10, 0, suffix)
    _pictures(tmp_path / "dog", 20, 255, suffix)
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    data = load_data(_folder(tmp_path), seed=0)
    assert class_names(_folder(tmp_path)) == data.class_names == ("cat", "dog")
    assert data.image_shape == (3, 16, 16)
    assert torch.bincount(data.train.labels).tolist() == [8, 16]
    assert torch.bincount(data.test.labels).tolist() == [2, 4]
    red = data.train.images[:, 0].float().mean((1, 2))
    assert torch.equal(red > 128, data.train.labels == 1)
    assert torch.equal(load_data(_folder(tmp_path), seed=5).test.images, data.test.images)


def test_train_and_val_folders_are_used_as_they_are(tmp_path: Path) -> None:
    for part, n in (("train", 6), ("val", 3)):
        _pictures(tmp_path / part / "cat", n, 0)
        _pictures(tmp_path / part / "dog", n, 255)
    data = load_data(_folder(tmp_path), seed=0)
    assert (len(data.train), len(data.test)) == (12, 6)
    _pictures(tmp_path / "val" / "bird", 1, 9)
    with pytest.raises(InputError, match=r"class 'bird' is in .*val but not in .*train"):
        load_data(_folder(tmp_path), seed=0)


def test_pictures_are_upright_rgb_and_centre_cropped(tmp_path: Path) -> None:
    from factory.data.pictures import decode_picture

    wide = np.zeros((16, 48, 3), dtype=np.uint8)
    wide[:, 16:32] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (decode_picture(tmp_path / "wide.png", 16) == 200).all()
    picture = Image.new("RGB", (16, 16), "black")
    picture.paste((255, 255, 255), (0, 0, 16, 8))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    picture.save(tmp_path / "turned.png", exif=exif)
    assert decode_picture(tmp_path / "turned.png", 16)[0].max() == 0
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (decode_picture(tmp_path / "clear.png", 16) == 255).all()
    Image.fromarray(np.full((16, 16), 65535, dtype=np.uint16)).save(tmp_path / "grey16.png")
    assert (decode_picture(tmp_path / "grey16.png", 16) == 255).all()


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere does not exist"):
        load_data(_folder(tmp_path / "nowhere"), seed=0)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"no pictures below .*empty"):
        load_data(_folder(empty), seed=0)
    _pictures(tmp_path / "single" / "cat", 4, 0)
    with pytest.raises(InputError, match="single class, 'cat'"):
        load_data(_folder(tmp_path / "single"), seed=0)
    (tmp_path / "single" / "dog").mkdir()
    with pytest.raises(InputError, match="dog holds 0 pictures"):
        load_data(_folder(tmp_path / "single"), seed=0)
    _pictures(tmp_path / "loose", 4, 0)
    with pytest.raises(InputError, match="4 pictures lie in it without a class folder"):
        load_data(_folder(tmp_path / "loose"), seed=0)


@pytest.mark.parametrize("memory_limit_mb", [2048, 1])
def test_an_unreadable_picture_is_named(tmp_path: Path, memory_limit_mb: int) -> None:
    _pictures(tmp_path / "cat", 4, 0)
    _pictures(tmp_path / "dog", 4, 0)
    (tmp_path / "dog" / "broken.jpg").write_bytes(b"this is not a picture")
    cfg = DataConfig(
        kind="image_folder", root=str(tmp_path), image_size=512, memory_limit_mb=memory_limit_mb
    )
    with pytest.raises(InputError, match=r"cannot read the picture .*broken\.jpg"):
        load_data(cfg, seed=0)


def test_a_picture_cut_short_is_named(tmp_path: Path) -> None:
    from factory.data.pictures import decode_picture

    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cannot read the picture .*a\.jpg"):
        decode_picture(tmp_path / "a.jpg", 32)


def test_missing_cifar10_is_told_with_the_classes_already(tmp_path):
    """A build asks for the classes first: nothing is measured for data that is not there."""
    with pytest.raises(InputError, match=r"CIFAR-10 is not there.*download=True"):
        class_names(DataConfig(kind="cifar10", root=str(tmp_path)))
