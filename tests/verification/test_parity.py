"""Parity and accuracy, against a device that returns what it is told."""

import subprocess
import sys

import numpy as np
import pytest

from factory.core.errors import InputError
from factory.verification.parity import (
    check_parity,
    measure_accuracy,
    measure_int8_drop,
    prepare_images,
    relative_differences,
)

IMAGES = np.zeros((4, 3, 2, 2), dtype=np.float32)
LOGITS = np.array([[1.0, -2.0], [0.5, 0.25], [-4.0, 3.0], [0.0, 8.0]])
LABELS = np.array([0, 0, 1, 0])


class FakeDevice:
    """Answers each model, which is here just a name, with fixed outputs."""

    def __init__(self, **answers):
        self.answers = {name.encode(): value for name, value in answers.items()}

    def run_batch(self, model, inputs):
        return self.answers[model][: len(inputs)].astype(np.float32)


def test_relative_difference_is_per_image_and_by_its_largest_output():
    ours = LOGITS.copy()
    ours[0, 0] += 0.002  # by the largest output 2 of that image
    ours[3, 0] += 0.004  # a zero beside an 8
    assert relative_differences(ours, LOGITS) == pytest.approx([0.001, 0, 0, 0.0005])
    ours[1, 1] = np.nan
    assert relative_differences(ours, LOGITS)[1] == np.inf


def test_parity_holds_and_fails():
    device = FakeDevice(good=LOGITS * (1 + 1e-5), bad=LOGITS + np.array([0.0, 0.1]))
    good = check_parity(b"good", device, IMAGES, LOGITS)
    assert good.holds
    assert good.max_relative_difference == pytest.approx(1e-5, rel=0.1)
    assert good.images == 4
    bad = check_parity(b"bad", device, IMAGES, lambda x: LOGITS[: len(x)])
    assert not bad.holds
    assert bad.worst_image == 1
    assert bad.same_class == 1.0
    assert bad.to_dict()["holds"] is False


def test_a_torch_callable_is_a_reference():
    torch = pytest.importorskip("torch")
    weight = torch.tensor(LOGITS, requires_grad=True)
    device = FakeDevice(good=LOGITS)
    assert check_parity(b"good", device, IMAGES, lambda x: weight * 1.0).holds


def test_accuracy_and_what_int8_costs():
    device = FakeDevice(fp32=LOGITS, int8=LOGITS[:, ::-1])
    assert measure_accuracy(b"fp32", device, IMAGES, LABELS) == 0.75
    drop = measure_int8_drop(b"int8", b"fp32", device, IMAGES, LABELS)
    assert drop.accuracy_drop_points == pytest.approx(50.0)
    assert drop.same_class == 0.0


def test_images_are_prepared_as_the_model_takes_them():
    pixels = np.full((1, 2, 1, 1), 51, dtype=np.uint8)
    x = prepare_images(pixels, mean=(0.1, 0.2), std=(0.5, 1.0))
    assert x.dtype == np.float32
    assert x.ravel() == pytest.approx([0.2, 0.0], abs=1e-6)
    assert (prepare_images(IMAGES + 7) == 7).all()


def test_bad_input():
    device = FakeDevice(good=LOGITS)
    with pytest.raises(InputError, match="3 labels for 4 images"):
        measure_accuracy(b"good", device, IMAGES, LABELS[:3])
    with pytest.raises(InputError, match="against a reference of shape"):
        check_parity(b"good", device, IMAGES, LOGITS[:, :1])
    with pytest.raises(InputError, match="at least one image"):
        prepare_images(IMAGES[:0])


def test_verification_imports_no_torch():
    code = (
        "import sys, factory.verification.verify, factory.verification.parity; "
        "assert not {'torch', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
