"""`factory new`: a commented recipe that loads, for the digits or for own pictures."""

import pytest

from factory import api
from factory.core.errors import InputError
from factory.pipeline.recipe_loading import load_recipe


def test_the_digits(tmp_path):
    answer = api.new(tmp_path / "my first")
    recipe, _ = load_recipe(answer["path"])
    assert answer["path"].endswith("my first.toml")
    assert (recipe.name, recipe.data.kind) == ("my-first", "digits")
    assert "#" in (tmp_path / "my first.toml").read_text()


def test_own_pictures(tmp_path):
    folder = tmp_path / 'my "pictures"'
    folder.mkdir()
    answer = api.new(tmp_path / "x.toml", data=folder, image_size=64)
    recipe, _ = load_recipe(answer["path"])
    assert recipe.data.kind == "image_folder"
    assert (recipe.data.root, recipe.data.image_size) == (str(folder), 64)


def test_nothing_is_overwritten(tmp_path):
    target = tmp_path / "x.toml"
    target.write_text("mine")
    with pytest.raises(InputError, match="already there"):
        api.new(target)
    assert target.read_text() == "mine"
    with pytest.raises(InputError, match="image_size"):
        api.new(target, image_size=-1, force=True)
    assert target.read_text() == "mine"
    api.new(target, force=True)
    assert "[recipe]" in target.read_text()


def test_a_missing_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        api.new(tmp_path / "x.toml", data=tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []
