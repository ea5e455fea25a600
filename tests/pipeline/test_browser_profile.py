"""`factory profile --browser`: the page's device gets a profile, and keeps it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from factory.api import profile
from factory.core.errors import InputError
from factory.devices import browser_server
from factory.devices.profile import load_profile
from factory.pipeline.browser_profile import BrowserRequest, open_browser
from factory.pipeline.tables import mismatch

sys.path.insert(0, str(Path(__file__).parents[1] / "devices"))
from fake_page import FACTS, FakePage


@pytest.fixture
def page(monkeypatch, tmp_path):
    """Pages that pair by themselves; ``page.facts`` are what the next one says."""
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(browser_server, "ort_files", dict)
    monkeypatch.setattr("factory.devices.browser.ort_version", lambda: "1.30.0")

    class Pages:
        facts = FACTS

    def announce(url, digest):
        fake = FakePage(url, Pages.facts)
        fake.in_background(fake.pair)

    monkeypatch.setattr("factory.devices.browser.show_address", announce)
    monkeypatch.setattr("factory.devices.browser.FAREWELL_S", 0.0)
    return Pages


@contextlib.contextmanager
def opened(**options):
    with open_browser(BrowserRequest(port=0, **options)) as device:
        yield device


def test_the_profile_is_written_and_found_again(page, tmp_path):
    with opened(threads=2) as device:
        assert device.profile.id == "pixel-8-chrome-150-t2-fp32"
    path = tmp_path / "device_profiles" / "pixel-8-chrome-150-t2-fp32.toml"
    written = load_profile(path)
    assert (written.threads, written.runtime) == (2, "ort-web")
    assert written.chip == "Pixel 8, Android / Chrome 150 / 9 cores / wasm simd"
    assert written.browser.port == 0
    before = path.stat().st_mtime_ns
    with opened(threads=2) as device:
        assert device.profile == written
    assert path.stat().st_mtime_ns == before


def test_fewer_threads_where_the_page_is_not_isolated(page):
    page.facts = {**FACTS, "isolated": False}
    with opened(threads=4) as device:
        assert device.profile.id == "pixel-8-chrome-150-t1-fp32"
        assert device.profile.threads == 1


def test_a_name_belongs_to_one_device(page):
    with opened(name="mine"):
        pass
    page.facts = {**FACTS, "hints": {"model": "Galaxy", "platform": "Android"}}
    with (
        pytest.raises(InputError, match=r"'mine' is another device.*choose another name"),
        opened(name="mine"),
    ):
        pass


def test_odd_facts_cannot_break_the_file(page, tmp_path):
    page.facts = {**FACTS, "hints": {"model": 'a"]\n[evil]\nx = "\\', "platform": "../.."}}
    with opened() as device:
        files = list((tmp_path / "device_profiles").iterdir())
        assert [file.stem for file in files] == [device.profile.id]
        assert load_profile(files[0]).chip == device.profile.chip


def test_a_table_of_another_browser_is_no_match(page):
    with opened() as device:
        chip = device.profile.chip

        def table(chip):
            fingerprint = {"chip": chip, "runtime": "ort-web", "threads": 1}
            return SimpleNamespace(fingerprint=fingerprint)

        assert "measured with chip 'Galaxy'" in mismatch(table("Galaxy"), device.profile)
        assert mismatch(table(chip), device.profile) == ""
        anyone = device.profile.model_copy(update={"chip": "any"})
        assert mismatch(table("Galaxy"), anyone) == ""


def test_what_to_measure_must_be_clear():
    with pytest.raises(InputError, match="it is not clear what to measure"):
        profile()
    with pytest.raises(InputError, match="it is not clear what to measure"):
        profile("local-cpu-t1-fp32", browser=BrowserRequest())
    with pytest.raises(InputError, match="wasm, webgpu, webnn"):
        profile(browser=BrowserRequest(provider="cuda"), dry_run=True)
    assert profile(browser=BrowserRequest(), dry_run=True)["kernels"] > 10
