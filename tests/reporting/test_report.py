import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from factory.core.errors import InputError
from factory.reporting import figures, search_figures
from factory.reporting.report import write_report

SECTIONS = [
    "tiers", "summary", "accuracy-latency", "no-latency", "architectures", "search", "training",
    "kernels", "predictor", "run", "provenance",
]  # fmt: skip
VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Ids, attribute values and text of a page; checks that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def report(run):
    path = write_report(run)
    assert path == run / "07-report" / "report.html"
    text = path.read_text()
    return Page(text), text, json.loads(path.with_suffix(".json").read_text())


@pytest.fixture
def no_plots(monkeypatch):
    """For tests that are not about the plots, which take most of a report's time."""
    for module in (figures, search_figures):
        monkeypatch.setattr(module, "svg", lambda figure, label: "<svg></svg>")


def test_every_section_is_there_with_the_numbers_of_the_artefacts(make_run):
    page, _, values = report(make_run())
    assert [i for i in page.ids if i in SECTIONS] == SECTIONS
    assert "missing" not in page.ids
    assert "All 3 models hold their budgets" in page.text
    for shown in (
        "98.33 %", "2.23 ms", "15.23 M", "16.40 M", "80.1 k", "+3.0 %", "93 % used", "4.44 ms",
        "over the budget", "drop 0.20 points", "12 × 3×3 depthwise conv", "11.7 %", "2.1 %",
        "346 kB", "2.3e-06", "CPUExecutionProvider: 71", "abababab", "cdcdcdcd", "torch 2.15.0",
        "Smallest latency this space can reach: 1.44 ms", "factory build RECIPE.toml", "Conv 70 %",
    ):  # fmt: skip
        assert shown in page.text, shown
    assert values["schema_version"] == 1
    assert values["seed"] == 7
    first = values["tiers"][0]
    assert first["verdict"] == "passed"
    assert first["median_ms"] == pytest.approx(2.4 * 0.93)
    assert first["relative_error"] == pytest.approx(0.03)
    assert first["budget_use"] == pytest.approx(0.93)
    assert first["chip"] == "Example CPU 3000"
    assert values["no_latency"]["devices"][0]["saved"] == pytest.approx(1 - 2.232 / 4.44)
    assert values["predictors"][0]["baselines"]["macs_line"]["median_percent"] == 11.7


def test_it_refers_to_nothing_outside_itself(make_run):
    page, text, _ = report(make_run())
    for _, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert value.startswith("#"), (name, value)
    assert not {"script", "link", "iframe", "img", "object", "form"} & set(page.tags)
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert len(text.encode()) < 3_000_000


def test_identifiers_are_unique_and_references_resolve(make_run):
    page, text, _ = report(make_run([f"tier-{i}" for i in range(5)]))
    assert len(page.ids) == len(set(page.ids))
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    assert used <= set(page.ids)
    assert len(text.encode()) < 3_000_000


def test_the_same_run_gives_the_same_page(make_run):
    run = make_run(["only"])
    before = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == before


def test_a_failed_tier_says_by_how_much(make_run, no_plots):
    page, _, values = report(make_run(verdicts=["passed", "failed", "passed"]))
    assert "2 of 3 models passed; failed: digits-t1" in page.text
    assert "measured 4.72 ms, budget 4.0 ms (+18 %)" in page.text
    assert "118 % of the budget used" in page.text
    assert values["headline"]["verdict"] == "failed"


def test_one_tier(make_run):
    page, _, _ = report(make_run(["only"]))
    assert "The model holds its budget" in page.text


def test_simulated_devices_are_labelled(make_run, no_plots):
    run = make_run()
    path = run / "06-verify" / "digits-t1.json"
    value = json.loads(path.read_text())
    value["describe"]["simulated"] = True
    path.write_text(json.dumps(value))
    page, _, values = report(run)
    assert [t["simulated"] for t in values["tiers"]] == [False, True, False]
    assert page.text.count("simulated") == 3  # tile, summary table, comparison


EVIL = '<script>alert(1)</script>" onload="x'


def test_text_of_artefacts_is_escaped_everywhere(make_run):
    run = make_run(["evil"])
    record = json.loads((run / "run.json").read_text())
    record["recipe"]["recipe"] |= {"name": EVIL, "description": EVIL}
    record["provenance"] |= {"chip": EVIL, "packages": {EVIL: EVIL}}
    (run / "run.json").write_text(json.dumps(record))
    genotype = run / "03-search" / "evil" / "genotype.json"
    genotype.write_text(genotype.read_text().replace("sep_conv_3x3", EVIL.replace('"', '\\"')))
    verify = json.loads((run / "06-verify" / "evil.json").read_text())
    verify |= {"device_id": EVIL, "precision": EVIL, "reasons": [EVIL], "providers": {EVIL: 1}}
    verify["kernels"][0]["kernel"] = EVIL
    verify["describe"]["fingerprint"]["chip"] = EVIL
    (run / "06-verify" / "evil.json").write_text(json.dumps(verify))
    manifest = json.loads((run / "05-deploy" / "evil" / "manifest.json").read_text())
    manifest |= {"file": EVIL, "sha256": EVIL}
    (run / "05-deploy" / "evil" / "manifest.json").write_text(json.dumps(manifest))
    (run / "02-fit" / "report.json").write_text(
        json.dumps({EVIL: {"n_kernels": 3, "held_out": None, "protocol": EVIL}})
    )
    history = run / "03-search" / "evil" / "history.jsonl"
    history.write_text(history.read_text().replace("latency_ms", EVIL.replace('"', "") + "_ms"))
    page, text, _ = report(run)
    assert "script" not in page.tags
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_mathematics_signs_in_a_tier_name_do_not_break_the_plots(make_run):
    run = make_run(["plain"])
    for path in list(run.rglob("plain*")):
        path.rename(path.with_name(path.name.replace("plain", "a$b$c")))
    record = json.loads((run / "run.json").read_text())
    record["recipe"]["tiers"][0]["name"] = "a$b$c"
    (run / "run.json").write_text(json.dumps(record))
    page, _, _ = report(run)
    assert "a$b$c" in page.text


@pytest.mark.parametrize("stage", ["01-profile", "02-fit", "03-search", "04-train", "05-deploy"])
def test_a_missing_stage_is_said_and_the_rest_shown(make_run, no_plots, stage):
    run = make_run(["only"])
    shutil.rmtree(run / stage)
    page, _, values = report(run)
    assert "missing" in page.ids
    assert any(line.startswith(stage) for line in values["missing"])
    assert "98.33 %" in page.text


@pytest.mark.parametrize("last", range(7))
def test_a_run_stopped_after_any_stage_has_a_report(make_run, no_plots, last):
    run = make_run(["one", "two"])
    for folder in sorted(run.glob("0*")):
        if int(folder.name[:2]) > last:
            shutil.rmtree(folder)
    page, _, values = report(run)
    reached = {0: "not started", 1: "not started", 2: "not started", 3: "searched", 4: "trained",
               5: "deployed", 6: "verified"}  # fmt: skip
    assert {t["reached"] for t in values["tiers"]} == {reached[last]}
    if last < 6:
        assert "0 of 2 models verified; 2 still to come" in page.text
    if last == 3:
        assert "predicted, not measured" in page.text


def test_broken_files_are_named_and_cut_histories_read(make_run):
    run = make_run()
    (run / "04-train" / "digits-t1" / "result.json").write_text('{"test_acc')
    (run / "02-fit" / "report.json").write_text("[1, 2]")
    history = run / "03-search" / "digits-t1" / "history.jsonl"
    history.write_text(history.read_text()[:-30])
    (run / "06-verify" / "digits-all.json").write_text(
        '{"median_ms": NaN, "accuracy": "much", "kernels": 3, "describe": [], "reasons": "x"}'
    )
    (run / "05-deploy" / "digits-all" / "manifest.json").write_text('{"inputs": []}')
    page, _, values = report(run)
    assert "04-train/digits-t1/result.json is not valid JSON" in page.text
    assert "02-fit/report.json is not a JSON object" in page.text
    assert values["tiers"][0]["median_ms"] is None
    assert values["tiers"][0]["verdict"] == "not verified"


def test_a_tier_that_is_not_decided_is_neither_passed_nor_failed(make_run, no_plots):
    run = make_run()
    path = run / "06-verify" / "digits-all.json"
    value = json.loads(path.read_text())
    reason = "not decided: the machine was busy, 3 of 3 attempts"
    value |= {"verdict": "undecided", "median_ms": None, "reasons": [reason]}
    path.write_text(json.dumps(value))
    page, _, values = report(run)
    assert values["tiers"][0]["verdict"] == "not decided"
    assert (
        "not decided: digits-all" in values["headline"]["text"]
        or values["headline"]["verdict"] == "failed"
    )
    assert reason in page.text
    assert "○ not decided" in page.text


def test_without_run_json_the_tiers_come_from_the_folders(make_run, no_plots):
    run = make_run()
    (run / "run.json").unlink()
    page, _, values = report(run)
    assert {t["name"] for t in values["tiers"]} == {"digits-all", "digits-t1", "digits-int8"}
    assert "run.json is not there" in page.text


def test_ten_tiers(make_run, no_plots):
    page, text, values = report(make_run([f"tier-{i}" for i in range(10)]))
    assert len(values["tiers"]) == 10
    assert {f"tier-{i}" for i in range(1, 11)} <= set(page.ids)
    assert len(text.encode()) < 3_000_000


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        write_report(tmp_path / "nothing")
    with pytest.raises(InputError, match="is no run folder"):
        write_report(tmp_path)
    assert not (tmp_path / "07-report").exists()


def test_no_torch_and_no_runtime_is_imported():
    code = (
        "import sys; import factory.reporting.report, factory.reporting.model_card; "
        "assert not {'torch', 'onnx', 'onnxruntime', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_pictures_behind_an_accuracy_are_counted(make_run, no_plots):
    run = make_run()
    assert report(run)[2]["data"] is None  # of a run that did not note them
    data = {"train": {"cat": 1200, "<b>": 300}, "test": {"cat": 40, "<b>": 10}}
    note = "left out, files in a format that is not read: 2 (2 .heic)"
    (run / "data.json").write_text(json.dumps({**data, "notes": [note]}))
    page, _, values = report(run)
    assert "Trained with 1,500 pictures of 2 classes" in page.text
    assert "accuracy is of 50 others, each of them 2 points" in page.text
    assert note in page.text
    assert values["data"]["classes"][1] == {"name": "<b>", "train": 300, "test": 10}
    (run / "data.json").write_text(json.dumps({"train": {"cat": "many"}, "test": 3}))
    assert report(run)[2]["data"] is None
