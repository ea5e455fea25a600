from pathlib import Path

import pytest
import torch
from PIL import Image

from factory.core.errors import InputError
from factory.data.config import DataConfig
from factory.data.datasets import load_data
from factory.data.loader import Batches, BatchStream


def test_batches_are_a_function_of_seed_and_step() -> None:
    straight = BatchStream(103, 10, seed=3)
    expected = [next(straight) for _ in range(35)]
    anywhere = BatchStream(103, 10, seed=3)
    for step in (34, 0, 17, 12):
        assert torch.equal(anywhere.indices(step), expected[step])
    assert not torch.equal(BatchStream(103, 10, seed=4).indices(0), expected[0])


def test_an_epoch_has_every_picture_at_most_once_and_epochs_differ() -> None:
    stream = BatchStream(103, 10, seed=0)
    assert stream.steps_per_epoch == 10
    first = torch.cat([stream.indices(step) for step in range(10)])
    second = torch.cat([stream.indices(step) for step in range(10, 20)])
    assert len(first.unique()) == 100 == len(second.unique())
    assert not torch.equal(first, second)


def test_a_batch_larger_than_the_split_takes_all_of_it() -> None:
    stream = BatchStream(7, 64, seed=0)
    assert stream.steps_per_epoch == 1
    assert sorted(stream.indices(5).tolist()) == list(range(7))


def test_state_resumes_and_another_streams_state_is_refused() -> None:
    stream = BatchStream(50, 8, seed=1)
    for _ in range(9):
        next(stream)
    resumed = BatchStream(50, 8, seed=1)
    resumed.load_state_dict(stream.state_dict())
    assert torch.equal(next(resumed), next(stream))
    with pytest.raises(InputError, match="seed is 1, this run's is 2"):
        BatchStream(50, 8, seed=2).load_state_dict(stream.state_dict())


def test_lazy_and_eager_pictures_give_the_same_batches(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(12):
            pixels = torch.randint(0, 256, (20, 24, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / name / f"{i}.png")
    cfg = DataConfig(kind="image_folder", root=str(tmp_path), image_size=256)
    eager = load_data(cfg, 0)
    lazy = load_data(cfg.model_copy(update={"memory_limit_mb": 1}), 0)
    assert eager.train.in_memory
    assert not lazy.train.in_memory
    assert lazy.mean == pytest.approx(eager.mean, abs=1e-6)
    batches = [
        Batches(data, data.train, BatchStream(len(data.train), 4, 0), augmentation=None)
        for data in (eager, lazy)
    ]
    for step in (0, 1, 2, 7, 3):
        (x, labels), (x_lazy, labels_lazy) = (b.get(step) for b in batches)
        assert torch.equal(labels, labels_lazy)
        assert torch.allclose(x, x_lazy, atol=1e-5)
    parts = lazy.split(0.5, 0)
    assert torch.equal(parts[0][torch.arange(3)][0], eager.split(0.5, 0)[0].images[:3])
    for b in batches:
        b.close()


def test_a_batch_of_one_holds_its_picture_twice() -> None:
    data = load_data(DataConfig(image_size=8, max_train=20), 0)
    for size, n in ((1, 20), (8, 1)):
        x, labels = Batches(data, data.train, BatchStream(n, size, 0), augmentation=None).get(0)
        assert len(x) == len(labels) == 2
        assert torch.equal(x[0], x[1])
