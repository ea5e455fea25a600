"""The recipes that `factory new` writes: the demo's under another name, or one for a folder."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from factory.core.errors import InputError
from factory.data.folder_listing import printable
from factory.pipeline.recipe_sizing import (
    NETWORKS,
    SEARCH_EPOCHS,
    SEARCH_WARMUP,
    Estimate,
    Sizes,
    wanted_epochs,
)

if TYPE_CHECKING:
    from factory.data.survey import Survey

_PACKAGE = Path(__file__).resolve().parents[1]
_DIGITS = """\
[data]
kind = "digits"             # the 1,797 handwritten digits of scikit-learn; nothing to download
# a recipe for your own pictures: factory new my.toml --data my-pictures
image_size = {image_size}             # pictures are resized to this many pixels a side
"""
LISTED_CLASSES = 12  # named one by one in a comment
JUDGED = 50  # test pictures without which an accuracy says little


def template_text() -> str:
    """The demo recipe that comes with the package."""
    for folder in (_PACKAGE / "_data" / "recipes", _PACKAGE.parent / "recipes"):
        if (folder / "demo.toml").is_file():
            return (folder / "demo.toml").read_text(encoding="utf-8")
    raise InputError(
        "the package's recipes/demo.toml is missing",
        fix="install the package again: python -m pip install --force-reinstall model-factory",
    )


def digits_recipe(*, name: str, image_size: int) -> str:
    """The demo's recipe for a run called ``name``."""
    text = template_text()
    data = _DIGITS.format(image_size=image_size) + "\n"
    text = re.sub(r"\A(#[^\n]*\n)+", f"# {name}: made by `factory new`.\n", text)
    text = re.sub(r'(?m)^name = "demo"', f'name = "{name}"', text, count=1)
    text = re.sub(r"(?m)^description = .*\n", "", text, count=1)
    return re.sub(r"(?ms)^\[data\]\n.*?(?=^\[)", lambda _: data, text, count=1)


def folder_recipe(*, name: str, root: str, survey: Survey, sizes: Sizes, cost: Estimate) -> str:
    """The recipe for the folder ``root``, with comments on what is in it."""
    train, test = len(survey.listing.train), len(survey.listing.test)
    shrunk = [f"{sizes.epochs} epochs"] if sizes.epochs < _wanted(survey, sizes) else []
    if sizes.max_train:
        shrunk.append(f"{sizes.max_train:,} of {train:,} training pictures")
    text = f"""\
{_comment(_heading(name, cost))}

[recipe]
name = "{name}"
seed = 0                    # the same tables and seed give the same networks
description = {_toml(_description(survey, root))}

{_comment(_pictures(survey))}
[data]
kind = "image_folder"
{_setting(f"root = {_toml(root)}", "relative to the folder in which the build starts")}
{_setting(f"image_size = {sizes.image_size}", _image_size(survey, sizes))}
{_data_settings(survey, sizes)}
# What may be built: networks of two searched cells (as in DARTS), at this size.
[space]
kind = "cell"
{_setting(f"channels = {sizes.channels}", "width of the first cells; every reduction doubles it")}
{_setting(f"layers = {sizes.layers}", "number of cells; two of them halve the picture")}
{_setting(f'stem = "{sizes.stem}"', _stem(sizes))}

# How much is measured on each chip before anything is searched.
[profile]
effort = "quick"            # about 0.2 s a kernel; "full" for a chip that you ship to
{_setting(f"networks = {NETWORKS}", "random networks that correct the sum of kernels")}

# The search: all candidate operators side by side in one network, the choice made by gradient.
[search]
preset = "short"            # PC-DARTS (partial channels), settings for a few minutes on a CPU
{_setting(f"channels = {sizes.channels}", "size of the network that is searched in")}
layers = {sizes.layers}
batch_size = {sizes.batch_size}
{_setting(f"epochs = {SEARCH_EPOCHS}", "passes over half of the pictures, the other half judges")}
{_setting(f"warmup_epochs = {SEARCH_WARMUP}", "of these only train weights, once for all tiers")}
{_search_steps(sizes)}
{_comment(_training(sizes, shrunk))}
[training]
epochs = {sizes.epochs}
{_setting(f"batch_size = {sizes.batch_size}", "pictures a step")}
lr = {_learning_rate(sizes):g}
auxiliary_weight = 0.4      # a second classifier in the middle, during training only
drop_path = 0.05
{_setting(f"eval_every = {max(1, sizes.epochs // 10)}", "test after every so many epochs")}
{_setting(f"ema_decay = {_ema_decay(sizes, train):g}", "what ships are averaged weights")}

[budget]
baseline = false            # true: one more search, without a latency term, for comparison
{_setting(f"max_int8_drop_points = {_int8_points(test):g}", _int8_words(test))}

# The tiers: one chip, one budget, one model each. A budget is either max_latency_ms, or
# latency_percentile: as fast as the fastest so many per cent of random networks of the space on
# that chip, turned into milliseconds once and frozen in the run folder. `factory devices` lists
# the chips that are known; phones and boards are measured there, not here.
{_comment(_accuracy_words(survey))}
[[tiers]]
name = "one-core"
device = "local-cpu-t1-fp32"
latency_percentile = 40
{_min_accuracy(survey)}
[[tiers]]
name = "one-core-int8"
device = "local-cpu-t1-int8"      # 8-bit integers: smaller, and faster on chips made for them
latency_percentile = 40
{_min_accuracy(survey)}"""
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _heading(name: str, cost: Estimate) -> str:
    return (
        f"{name}: made by `factory new` from what is in the folder. A build takes "
        f"{cost.sentence()}. docs/formats/recipe.md describes every key."
    )


def _setting(assignment: str, words: str) -> str:
    """A key with its comment, which goes above where the line would be too long."""
    line = f"{assignment:<27} # {words}"
    return line if len(line) <= 100 else f"{_comment(words)}\n{assignment}"


def _comment(text: str) -> str:
    """Lines that start with #; a class or folder name cannot break out of them."""
    return textwrap.fill(printable(text), 98, initial_indent="# ", subsequent_indent="# ")


def _toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _description(survey: Survey, root: str) -> str:
    folder = printable(Path(root).absolute().name)
    return f"{len(survey.listing.class_names)} classes of pictures from {folder}"


def _pictures(survey: Survey) -> str:
    listing = survey.listing
    train = listing.counts(listing.train)
    listed = ", ".join(f"{name} {count:,}" for name, count in list(train.items())[:LISTED_CLASSES])
    more = len(train) - LISTED_CLASSES
    listed += f" and {more} more" if more > 0 else ""
    low, middle, high = (survey.side_px(q) for q in (0, 50, 100))
    sides = (
        f"All have a shorter side of {low} pixels"
        if low == high
        else f"Shorter sides of {low} to {high} pixels, half of them up to {middle}"
    )
    colour = (
        "without colour, fed as three equal channels"
        if survey.all_grey
        else f"{survey.grey} of {survey.surveyed} without colour"
        if survey.grey
        else "in colour"
    )
    notes = "".join(f" {note[0].upper()}{note[1:]}." for note in survey.sentences())
    return (
        f"{len(listing.train):,} training and {len(listing.test):,} test pictures of "
        f"{len(train)} classes: {listed}. {sides}, {colour}.{notes}"
    )


def _image_size(survey: Survey, sizes: Sizes) -> str:
    usual = survey.side_px(50)
    if sizes.image_size < usual:
        return f"pixels a side; larger (up to {usual}) sees more and takes longer"
    return "pixels a side, about what the pictures have"


def _data_settings(survey: Survey, sizes: Sizes) -> str:
    lines = [
        _setting("flip = false", "the classes look like characters: true mirrors half of them")
        if all(map(_is_character, survey.listing.class_names))
        else _setting("flip = true", "mirrors half in training; false where left and right differ")
    ]
    if sizes.stem == "imagenet":
        lines.append(_setting('crop = "resized"', "train on random parts of a picture, rescaled"))
    if sizes.max_train:
        lines.append(_setting(f"max_train = {sizes.max_train}", "remove this line to use all"))
    return "\n".join(lines) + "\n"


def _is_character(class_name: str) -> bool:
    """Whether a class is called like a letter or a digit: "a", "07", "digit_3"."""
    return len(class_name) <= 2 or class_name[-1].isdigit()


def _stem(sizes: Sizes) -> str:
    if sizes.stem == "cifar":
        return 'full resolution, for small pictures; "imagenet" from 64 pixels on'
    return 'three steps to an eighth of the resolution; "cifar" keeps it (far slower)'


def _search_steps(sizes: Sizes) -> str:
    if sizes.steps_per_epoch is None:
        return ""
    words = "instead of whole passes, for the time; more steps choose better"
    return _setting(f"steps_per_epoch = {sizes.steps_per_epoch}", words) + "\n"


def _training(sizes: Sizes, shrunk: list[str]) -> str:
    text = "The training of each network that was found."
    if shrunk:
        text += f" The time allows {' and '.join(shrunk)}: this is a first result."
    return (
        f"{text} For a full run raise epochs (to {max(100, 3 * sizes.epochs)}, say), channels and "
        "layers, and image_size up to what the pictures have."
    )


def _wanted(survey: Survey, sizes: Sizes) -> int:
    return wanted_epochs(len(survey.listing.train), sizes.batch_size)


def _learning_rate(sizes: Sizes) -> float:
    return 0.1 * min(1.0, sizes.batch_size / 64)


def _ema_decay(sizes: Sizes, train: int) -> float:
    """An average over about a fifteenth of the steps."""
    steps = sizes.epochs * max(1, min(train, sizes.max_train or train) // sizes.batch_size)
    return min(0.999, max(0.9, round(1 - 15 / steps, 3)))


def _int8_points(test: int) -> float:
    """Three test pictures may change sides, at least one point."""
    return max(1.0, min(100.0, round(300 / test, 1)))


def _int8_words(test: int) -> str:
    if _int8_points(test) == 1.0:
        return "accuracy that 8-bit integers may lose, in percentage points"
    if _int8_points(test) == 100.0:
        return f"{test} test pictures cannot say what 8-bit integers lose"
    return f"8-bit integers may lose three of the {test} test pictures, in percentage points"


def _accuracy_words(survey: Survey) -> str:
    name, share = survey.majority()
    test = len(survey.listing.test)
    if test < JUDGED:
        return (
            f"No min_accuracy is asked for: {test} test pictures are too few to judge by. "
            "min_accuracy = 0.8 in a tier makes it fail below 80 %."
        )
    return (
        f"Who always answers {name!r} reaches {share:.1%}; min_accuracy only asks for more than "
        "that, because nobody knows yet how well these pictures can be told apart. After the "
        "first build set it to what you need; below it a tier fails."
    )


def _min_accuracy(survey: Survey) -> str:
    if len(survey.listing.test) < JUDGED:
        return ""
    _, share = survey.majority()
    return f"min_accuracy = {share + 0.1 * (1 - share):.2f}\n"
