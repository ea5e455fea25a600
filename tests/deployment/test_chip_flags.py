from factory.deployment.chip_flags import chip_flags, int8_note, wants_reduced_range


def test_flags_are_read_from_x86_and_arm(tmp_path):
    x86 = tmp_path / "x86"
    x86.write_text("processor : 0\nflags : fpu sse4_1 avx2 avx512_vnni hypervisor\n")
    assert chip_flags(x86) == ("sse4_1", "avx2", "avx512_vnni")
    arm = tmp_path / "arm"
    arm.write_text("processor : 0\nFeatures : fp asimd asimddp i8mm\n")
    assert chip_flags(arm) == ("asimd", "asimddp", "i8mm")
    assert chip_flags(tmp_path / "nothing") == ()


def test_seven_bits_without_vnni(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert wants_reduced_range(True, ("avx2",))
    assert not wants_reduced_range(True, ("avx2", "avx_vnni"))
    assert not wants_reduced_range(False, ("avx2",)), "another chip is not judged by this one"
    assert "can saturate" in int8_note(("avx2",), "x86_64")
    assert "do not saturate" in int8_note(("avx512_vnni",), "x86_64")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not wants_reduced_range(True, ("asimd",))
