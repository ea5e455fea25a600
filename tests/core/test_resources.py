"""The user's own profiles, tables and recipes win over those of the package."""

from factory.core.resources import find_resources


def test_working_folder_then_home_then_package(tmp_path, monkeypatch):
    home, work = tmp_path / "home", tmp_path / "work"
    for root, names in ((home, ["a", "b"]), (work, ["a"])):
        (root / "device_profiles").mkdir(parents=True)
        for name in names:
            (root / "device_profiles" / f"{name}.toml").write_text(root.name)
    monkeypatch.chdir(work)
    monkeypatch.setenv("FACTORY_HOME", str(home))
    found = find_resources("device_profiles", ".toml")
    assert found["a"].read_text() == "work"
    assert found["b"].read_text() == "home"
    assert "local-cpu-t1-fp32" in found, "the package's own are still there"
