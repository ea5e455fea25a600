import json

import pytest

from factory.core.errors import InputError
from factory.reporting.artefacts import read_run
from factory.reporting.model_card import model_card, write_model_cards


def test_a_card_per_tier_with_its_numbers(make_run):
    paths = write_model_cards(make_run())
    assert [p.name for p in paths] == ["digits-all.md", "digits-t1.md", "digits-int8.md"]
    text = paths[2].read_text()
    for shown in (
        "# digits-int8", "Holds its budget", "97.73 % (fp32: 97.93 %)", "1.77 ms", "1.9 ms",
        "## Preprocessing", "32×32", "InferenceSession('model.onnx'", "17.23 M",
    ):  # fmt: skip
        assert shown in text, shown


def test_a_failed_and_an_unfinished_tier_say_so(make_run):
    run = make_run(verdicts=["failed", "passed", "passed"])
    (run / "06-verify" / "digits-t1.json").unlink()
    (run / "05-deploy" / "digits-t1" / "manifest.json").unlink()
    cards = [p.read_text() for p in write_model_cards(run)]
    assert "**Does not hold its budget or its limits**: measured 2.83 ms" in cards[0]
    assert "Not verified yet (stage reached: trained)" in cards[1]
    assert "How to run" not in cards[1]


def test_markdown_and_html_in_names_are_harmless(make_run):
    run = make_run()
    path = run / "05-deploy" / "digits-t1" / "manifest.json"
    value = json.loads(path.read_text()) | {"file": "a|b\n<script>.onnx"}
    path.write_text(json.dumps(value))
    text = model_card(read_run(run), "digits-t1")
    assert "a\\|b \\<script\\>.onnx" in text.split("## How to run")[0]


def test_unknown_tier(make_run):
    with pytest.raises(InputError, match=r"unknown tier 'digits-t2'.*did you mean 'digits-t1'"):
        model_card(read_run(make_run()), "digits-t2")
