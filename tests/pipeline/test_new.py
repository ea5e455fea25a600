"""`factory new`: a commented recipe that loads, for the digits or for own pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from factory import api
from factory.cli.app import app
from factory.core.errors import InputError
from factory.data.config import folder_config
from factory.data.survey import Survey, survey_folder
from factory.pipeline import recipe_sizing
from factory.pipeline.recipe_loading import load_recipe
from factory.pipeline.recipe_sizing import Sizes, StepTimes, choose_sizes, time_steps
from tests.pipeline.tiny_recipe import write_tiny

FAST = StepTimes(training=0.01, warmup=0.01, search=0.02)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> list[Sizes]:
    """A fast machine, without timing one; the sizes it was asked about."""
    asked: list[Sizes] = []

    def timer(sizes: Sizes, classes: int) -> StepTimes:
        asked.append(sizes)
        return FAST

    monkeypatch.setattr(recipe_sizing, "time_steps", timer)
    return asked


def pictures(root: Path, counts: dict[str, int], side: int = 20, mode: str = "RGB") -> Path:
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (side, side + 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{i}.png")
    return root


def test_the_digits(tmp_path):
    answer = api.new(tmp_path / "my first")
    recipe, _ = load_recipe(answer["path"])
    assert answer["path"].endswith("my first.toml")
    assert (recipe.name, recipe.data.kind, recipe.data.image_size) == ("my-first", "digits", 32)
    assert "#" in (tmp_path / "my first.toml").read_text()


def test_own_pictures_are_looked_at(tmp_path, fast):
    folder = pictures(tmp_path / 'my "pictures"', {"cat": 200, "dog": 100}, mode="L")
    (folder / "cat" / "a.heic").touch()
    answer = api.new(tmp_path / "x.toml", data=folder)
    recipe, path = load_recipe(answer["path"])
    assert recipe.data.kind == "image_folder"
    assert (recipe.data.root, recipe.data.image_size) == (str(folder), 20)
    assert (recipe.space.stem, recipe.training.batch_size) == ("cifar", 16)
    text = path.read_text().replace("\n# ", " ")
    assert "240 training and 60 test pictures of 2 classes: cat 160, dog 80." in text
    assert "shorter side of 20 pixels, without colour" in text
    assert "Left out, files in a format that is not read: 1 (1 .heic)." in text
    assert "Who always answers 'cat' reaches 66.7%" in text
    assert {tier.min_accuracy for tier in recipe.tiers} == {0.7}
    assert recipe.budget.max_int8_drop_points == 5.0  # three of sixty
    assert "digit" not in text
    assert answer["data"]["train"] == {"cat": 160, "dog": 80}
    assert answer["estimated_s"] > 0


def test_few_test_pictures_are_no_ground_for_a_minimum(tmp_path, fast):
    folder = pictures(tmp_path / "p", {"a": 9, "b": 1})
    recipe, path = load_recipe(api.new(tmp_path / "x.toml", data=folder)["path"])
    assert [tier.min_accuracy for tier in recipe.tiers] == [None, None]
    text = path.read_text().replace("\n# ", " ")
    assert "2 test pictures are too few to judge by" in text
    assert "A single training picture: b." in text
    assert not recipe.data.effective_flip  # classes called like characters


def test_the_size_of_the_pictures_may_be_given(tmp_path, fast):
    folder = pictures(tmp_path / "p", {"a": 4, "b": 4})
    recipe, _ = load_recipe(api.new(tmp_path / "x.toml", data=folder, image_size=64)["path"])
    assert (recipe.data.image_size, recipe.space.stem) == (64, "imagenet")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    folder = pictures(tmp_path_factory.mktemp("photos"), {"sea": 60, "street": 40}, side=140)
    return survey_folder(folder_config(str(folder)))


def test_the_largest_candidate_that_fits_is_taken(photos):
    def machine(factor: float):
        def timer(sizes: Sizes, classes: int) -> StepTimes:
            step = factor * sizes.image_size**2 / 64**2
            return StepTimes(step, step, 2 * step)

        return timer

    found = [choose_sizes(photos, minutes=30, timer=machine(f)) for f in (1e-3, 0.4, 6.0)]
    fast, middle, slow = (sizes for sizes, _ in found)
    assert [fast.image_size, middle.image_size, slow.image_size] == [128, 96, 64]
    assert fast.epochs == middle.epochs == 60
    assert slow.epochs < 60
    assert all(cost.total < 33 * 60 for _, cost in found)
    longer, _ = choose_sizes(photos, minutes=300, timer=machine(6.0))
    assert longer.epochs > slow.epochs


def test_too_many_pictures_for_the_time_are_thinned_out_by_class(tmp_path):
    folder = pictures(tmp_path / "p", {"a": 150, "b": 8}, side=8)
    survey = survey_folder(folder_config(str(folder)))
    sizes, _ = choose_sizes(survey, minutes=1, timer=lambda *_: StepTimes(9.0, 9.0, 9.0))
    assert sizes.max_train == 40  # twenty a class; 126 * 6 // 40 keeps pictures of b
    assert sizes.steps_per_epoch is None or sizes.steps_per_epoch >= 1


def test_steps_are_timed_by_the_loops_of_a_build(tmp_path):
    times = time_steps(Sizes(16, "cifar", 4, 3, 4, 1), 2)
    assert min(times.training, times.warmup, times.search) > 0


def test_nothing_is_overwritten(tmp_path):
    target = tmp_path / "x.toml"
    target.write_text("mine")
    with pytest.raises(InputError, match="already there"):
        api.new(target)
    assert target.read_text() == "mine"
    for wrong in ({"image_size": -1}, {"minutes": 0}, {"minutes": float("nan")}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))} = .* is not accepted"):
            api.new(target, force=True, **wrong)
    assert target.read_text() == "mine"
    api.new(target, force=True)
    assert "[recipe]" in target.read_text()


def test_folders_that_cannot_be_used(tmp_path):
    for name, reason in (("nowhere", "does not exist"), ("a\udcffb", "not UTF-8")):
        with pytest.raises(InputError, match=reason):
            api.new(tmp_path / "x.toml", data=tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    for label in "ab":
        (tmp_path / "broken" / label).mkdir(parents=True)
        for i in range(2):
            (tmp_path / "broken" / label / f"{i}.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"cannot read the picture .* and 3 more"):
        api.new(tmp_path / "x.toml", data=tmp_path / "broken")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no pictures below"):
        api.new(tmp_path / "x.toml", data=tmp_path / "empty")


def test_names_cannot_break_out_of_a_comment(tmp_path, fast):
    folder = pictures(tmp_path / "p\x7f", {"a\nb = 1": 4, "[c]": 4})
    recipe, _ = load_recipe(api.new(tmp_path / "x.toml", data=folder)["path"])
    assert recipe.data.root == str(folder)


def test_inspect_and_a_dry_run_say_what_is_left_out(tmp_path, monkeypatch):
    folder = pictures(tmp_path / "pics", {"a": 4, "b": 4})
    (folder / "b" / "scan.heic").touch()
    recipe = write_tiny(tmp_path)
    recipe.write_text(
        recipe.read_text()
        .replace('kind = "digits"', f'kind = "image_folder"\nroot = {json.dumps(str(folder))}')
        .replace("max_train = 64\nmax_test = 12\n", "")
    )
    told = "left out, files in a format that is not read: 1 (1 .heic)"
    for command in (["inspect", str(folder)], ["build", str(recipe), "--dry-run"]):
        result = CliRunner().invoke(app, [*command, "--quiet"])
        assert result.exit_code == 0, result.output
        assert "6 training and 2 test pictures of 2 classes" in result.output
        assert told in result.output
    (folder / "b" / "broken.png").write_bytes(b"no picture")
    result = CliRunner().invoke(app, ["inspect", str(folder), "--quiet"])
    assert "broken.png: no picture, or damaged at its start" in result.output
    for dry_run in (True, False):  # and a build stops before it measures anything
        with pytest.raises(InputError, match=r"cannot read the picture .*broken\.png"):
            api.build(recipe, out=tmp_path / "run", dry_run=dry_run)
    assert not (tmp_path / "run" / "01-profile").exists()
