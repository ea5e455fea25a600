"""Latency targets: lowered by what was measured too much, bounded, kept over a kill."""

from factory.pipeline.targets import Targets


def test_targets_fall_and_stay_on_disk(tmp_path):
    path = tmp_path / "targets.json"
    targets = Targets(path, "b")
    targets.start("a", 9.5)
    targets.start("a", 3.0)
    assert targets.last_ms("a") == 9.5
    assert targets.tighten("a", "finalist", measured_ms=12.0, limit_ms=10.0, smallest_ms=2.0)
    assert 7.5 < targets.last_ms("a") < 8.0
    again = Targets(path, "b")
    assert again.of("a") == targets.of("a")
    assert Targets(path, "other budgets").of("a") == []


def test_a_target_is_not_lowered_below_what_the_space_reaches(tmp_path):
    targets = Targets(tmp_path / "targets.json", "b")
    targets.start("a", 9.5)
    assert targets.tighten("a", "verify", measured_ms=100.0, limit_ms=10.0, smallest_ms=9.0)
    assert targets.last_ms("a") >= 9.0
    assert not targets.tighten("a", "verify", measured_ms=100.0, limit_ms=10.0, smallest_ms=9.0)


def test_finalist_rounds_are_counted_anew_after_a_verification(tmp_path):
    targets = Targets(tmp_path / "targets.json", "b")
    targets.start("a", 9.5)
    for kind in ("finalist", "verify"):
        targets.tighten("a", kind, measured_ms=11.0, limit_ms=10.0, smallest_ms=1.0)
    assert targets.count("a", "finalist") == 1
    assert targets.count("a", "finalist", since_verify=True) == 0
