import pytest

from factory.deployment.app_snippets import app_snippet
from factory.deployment.manifest import describe_model
from factory.deployment.snippet import run_snippet


@pytest.fixture
def manifest(exported):
    return describe_model(exported).model_dump(mode="json")


@pytest.mark.parametrize("language", ["kotlin", "swift"])
def test_the_file_its_names_and_constants_are_inside(manifest, language):
    text = app_snippet(language, manifest, threads=2)
    assert manifest["sha256"] in text
    assert '"image"' in text
    assert "labels" in text
    for constant in ("0.5", "0.4", "0.3", "0.2", "0.25", "0.00392156"):
        assert constant in text
    assert "16" in text
    assert text.count("{") == text.count("}")
    assert text.count("(") == text.count(")")


def test_provider_camera_and_cover(manifest):
    assert "addNnapi" in app_snippet(
        "kotlin", manifest, execution_provider="NnapiExecutionProvider"
    )
    assert "CoreML" in app_snippet("swift", manifest, execution_provider="CoreMLExecutionProvider")
    manifest["metadata"]["preprocessing"]["fit"] = "cover"
    assert "max(16f / picture.width" in app_snippet("kotlin", manifest)
    manifest["metadata"]["preprocessing_inside"] = {"input": "pixels", "camera": [48, 64]}
    manifest["inputs"] = [{"name": "pixels", "dtype": "uint8", "shape": [48, 64, 3]}]
    kotlin, swift = (app_snippet(lang, manifest) for lang in ("kotlin", "swift"))
    assert "UINT8" in kotlin
    assert "longArrayOf(48, 64, 3)" in kotlin
    assert ".uInt8" in swift
    assert "0.25" not in kotlin, "the graph normalises"
    python = run_snippet(manifest, threads=1)
    compile(python, "example.py", "exec")
    assert "np.uint8" in python


def test_the_python_program_has_twenty_lines_at_most(manifest):
    for fit in ("stretch", "cover"):
        manifest["metadata"]["preprocessing"]["fit"] = fit
        text = run_snippet(manifest, threads=1)
        compile(text, "example.py", "exec")
        assert len(text.splitlines()) <= 20
