import numpy as np
import onnx
import pytest

from factory.core.errors import InputError
from factory.deployment.agreement import compare
from factory.deployment.camera import embed_preprocessing
from factory.deployment.make import camera_pictures, prepare_picture
from factory.deployment.metadata import Preprocessing
from factory.deployment.run_here import run_images

CASES = [
    ((16, 16), "stretch", "RGB"),
    ((31, 57), "cover", "RGB"),
    ((48, 64), "stretch", "BGR"),
    ((9, 12), "cover", "RGB"),
]


@pytest.mark.parametrize(("camera", "fit", "colour"), CASES)
def test_pixels_give_the_same_answers_as_pillow(exported, camera, fit, colour):
    pre = Preprocessing(
        mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.25), size=(16, 16), fit=fit, colour=colour
    )
    model = onnx.load(exported)
    pixels = camera_pictures(camera, 6)
    prepared = np.stack([prepare_picture(p, pre) for p in pixels])
    expected = run_images(model.SerializeToString(), prepared)
    whole = embed_preprocessing(model, pre, camera)
    found = compare(run_images(whole.SerializeToString(), pixels), expected)
    assert found.signal_db > (100 if camera == (16, 16) else 38)
    assert found.same_class == 1.0


def test_grey_pictures():
    text = """<ir_version: 9, opset_import: ["" : 20]>
    net (float[1,1,4,4] image) => (float[1,16] y) { y = Flatten(image) }"""
    pre = Preprocessing(mean=(0.1,), std=(0.5,), size=(4, 4), colour="grey")
    whole = embed_preprocessing(onnx.parser.parse_model(text), pre)
    pixels = camera_pictures((4, 4), 3)
    prepared = np.stack([prepare_picture(p, pre) for p in pixels]).reshape(3, -1)
    got = run_images(whole.SerializeToString(), pixels)
    assert np.abs(got - prepared).max() < 1.01 / 255 / 0.5  # Pillow rounds the grey value


def test_sizes_that_contradict_each_other(exported):
    pre = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1), size=(32, 32))
    with pytest.raises(InputError, match="16x16 pixels but its preprocessing says 32x32"):
        embed_preprocessing(onnx.load(exported), pre)
