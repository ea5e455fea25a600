"""Recipes: every fault in one sentence, budgets in one form, scales, the shipped recipes."""

import pytest

from factory.core.errors import InputError
from factory.pipeline.recipe_loading import changed_keys, load_recipe, merged

TIER = 'name = "sim"'


def edited(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


def test_defaults_are_filled_in(tiny):
    recipe, path = load_recipe(tiny)
    assert (recipe.name, recipe.seed, path) == ("tiny", 3, tiny)
    assert recipe.budget.safety == 0.95
    assert recipe.as_dict()["tiers"][0]["latency_percentile"] == 40


def test_a_seed_replaces_the_recipes_own(tiny):
    assert load_recipe(tiny, seed=9)[0].seed == 9


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("max_macs = 2e6", "max_mac = 2e6", ["max_mac", "did you mean 'max_macs'"]),
        ("[training]", "[trainning]", ["trainning", "did you mean 'training'"]),
        ("epochs = 3\nbatch_size = 16\ncheckpoint", 'epochs = "3x"\ncheckpoint', ["epochs", "3x"]),
        ("max_macs = 2e6", "max_macs = -5", ["max_macs", "-5"]),
        ("max_macs = 2e6", "max_macs = 0.5", ["max_macs"]),
        ("max_macs = 2e6", "max_macs = 1e13", ["max_macs"]),
        ("max_macs = 2e6", "max_macs = nan", ["max_macs"]),
        ("max_macs = 2e6", "max_params = 0", ["max_params"]),
        ('preset = "short"', 'preset = "shart"', ["search.preset", "did you mean 'short'"]),
        ("latency_percentile = 40", "max_latency_ms = 0", ["max_latency_ms"]),
        ("latency_percentile = 40", "max_latency_ms = 1e6", ["max_latency_ms"]),
        ("latency_percentile = 40", "max_latency_ms = inf", ["max_latency_ms"]),
        ("latency_percentile = 40", "latency_percentile = 100", ["latency_percentile"]),
        ("latency_percentile = 40", "", ["exactly one latency budget"]),
        ("latency_percentile = 40", "latency_percentile = 40\nmax_latency_ms = 5", ["exactly one"]),
        (TIER, 'name = "no-latency"', ["no-latency"]),
        (TIER, 'name = "../up"', ["folder name"]),
        (TIER, f"{TIER}\nchannels = 5", ["even"]),
        ("channels = 4", "channels = -4", ["channels"]),
        ('kind = "digits"', 'kind = "digit"', ["digit"]),
        ("seed = 3", "seed = -3", ["seed"]),
        ("seed = 3", "seed = 3 3", ["not valid TOML", "line"]),
    ],
)
def test_faults_are_told_in_one_sentence(tiny, old, new, words):
    with pytest.raises(InputError) as caught:
        load_recipe(edited(tiny, old, new))
    message = str(caught.value)
    assert str(tiny) in message
    for word in words:
        assert word in message
    assert "\n" not in message


def test_two_tiers_of_one_name(tiny):
    text = tiny.read_text()
    tiny.write_text(text + text[text.index("[[tiers]]") :])
    with pytest.raises(InputError, match="two tiers are called 'sim'"):
        load_recipe(tiny)


def test_a_scale_changes_only_what_it_names(tiny):
    tiny.write_text(
        tiny.read_text()
        + "[scale.big.space]\nchannels = 8\n"
        + '[[scale.big.tiers]]\nname = "sim"\nmax_latency_ms = 7\n'
    )
    plain, big = load_recipe(tiny)[0], load_recipe(tiny, scale="big")[0]
    assert (plain.space.channels, big.space.channels) == (4, 8)
    assert big.space.layers == plain.space.layers
    assert big.name == "tiny-big"
    assert (big.tiers[0].max_latency_ms, big.tiers[0].latency_percentile) == (7, None)
    assert big.tiers[0].max_macs == plain.tiers[0].max_macs


def test_an_unknown_scale_lists_the_known(tiny):
    tiny.write_text(tiny.read_text() + "[scale.small.space]\nchannels = 8\n")
    with pytest.raises(InputError, match="did you mean 'small'"):
        load_recipe(tiny, scale="smal")


def test_a_scale_of_an_unknown_section(tiny):
    tiny.write_text(tiny.read_text() + "[scale.small.spce]\nchannels = 8\n")
    with pytest.raises(InputError, match="did you mean 'space'"):
        load_recipe(tiny, scale="small")


@pytest.mark.parametrize(
    ("name", "scale"), [("demo", None), ("cifar10", None), ("cifar10", "small")]
)
def test_the_shipped_recipes_are_valid(name, scale):
    recipe, _ = load_recipe(name, scale=scale)
    assert [tier.device for tier in recipe.tiers] == [
        "local-cpu-all-fp32",
        "local-cpu-t1-fp32",
        "local-cpu-t1-int8",
    ]


def test_an_unknown_recipe_lists_the_known():
    with pytest.raises(InputError, match="did you mean 'demo'"):
        load_recipe("dmo")


def test_merging_leaves_the_base_alone():
    base = {"a": {"b": 1, "c": [1]}, "t": [{"name": "x", "v": 1}]}
    result = merged(base, {"a": {"b": 2}, "t": [{"name": "y"}]})
    assert base == {"a": {"b": 1, "c": [1]}, "t": [{"name": "x", "v": 1}]}
    assert result["a"] == {"b": 2, "c": [1]}
    assert [entry["name"] for entry in result["t"]] == ["x", "y"]


def test_changed_keys_name_tiers():
    old = {"tiers": [{"name": "a", "v": 1}, {"name": "b", "v": 1}]}
    new = {"tiers": [{"name": "b", "v": 2}, {"name": "a", "v": 1}]}
    assert changed_keys(old, new) == ["tiers.b.v (1 -> 2)"]
