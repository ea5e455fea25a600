import subprocess
import sys

import numpy as np
from PIL import Image

from factory.deployment.manifest import describe_model
from factory.deployment.snippet import run_snippet


def test_the_snippet_runs_and_names_the_class(exported, tmp_path):
    program = tmp_path / "run.py"
    text = run_snippet(describe_model(exported).model_dump(mode="json"), threads=1)
    program.write_text(text)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    (tmp_path / exported.name).write_bytes(exported.read_bytes())
    done = subprocess.run(
        [sys.executable, "run.py", "picture.png"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("class ")
    assert "intra_op_num_threads = 1" in text


def test_a_bare_manifest_gives_a_program_all_the_same():
    text = run_snippet({"file": "m.onnx"})
    compile(text, "snippet", "exec")
    assert "'m.onnx'" in text


def test_grey_pictures():
    text = run_snippet(
        {
            "file": "m.onnx",
            "inputs": [{"name": "image", "shape": [1, 1, 28, 28]}],
            "metadata": {"preprocessing": {"mean": [0.1], "std": [0.3], "scale": 1.0}},
        }
    )
    compile(text, "snippet", "exec")
    assert 'convert("L")' in text
    assert "* 1.0" in text


def test_no_torch_and_no_onnx_needed_to_write_it():
    code = (
        "import sys; import factory.deployment.snippet; "
        "assert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
