import subprocess
import sys

import pytest
from pydantic import ValidationError

from factory.data.config import DataConfig


def test_defaults_depend_on_the_kind() -> None:
    digits, cifar = DataConfig(kind="digits"), DataConfig(kind="cifar10")
    assert (digits.effective_shift_px, digits.effective_flip) == (2, False)
    assert (cifar.effective_shift_px, cifar.effective_flip) == (4, True)
    photos = DataConfig(kind="image_folder", image_size=224)
    assert (photos.effective_crop, photos.effective_shift_px) == ("resized", 0)


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "imagenet22k"},
        {"image_size": 0},
        {"test_fraction": 1.0},
        {"max_train": -5},
        {"shift_px": 32},
        {"rooot": "x"},
    ],
)
def test_absurd_values_are_refused(values: dict) -> None:
    with pytest.raises(ValidationError):
        DataConfig(**values)


def test_configs_import_no_torch() -> None:
    code = (
        "import sys, factory.data.config, factory.training.config, factory.data.folder_listing;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
