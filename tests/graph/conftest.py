"""A graph to build in, and random graphs of the kind that the cell space lowers to."""

import collections

import numpy as np
import onnx
import onnxruntime
import pytest

from factory.graph.opgraph import GraphBuilder, OpGraph


def build_random_graph(seed: int, steps: int = 8) -> OpGraph:
    rng = np.random.default_rng(seed)
    b = GraphBuilder(f"random-{seed}")
    size = int(rng.integers(7, 13))
    x = b.conv(b.input("image", (1, 3, size, size)), 8, 3, padding=1)
    tensors = [x, b.relu(x)]
    for _ in range(steps):
        x = tensors[int(rng.integers(len(tensors)))]
        shape = b.shape(x)
        channels = shape[1]
        choice = int(rng.integers(10))
        if choice == 0:
            x = b.relu(x)
        elif choice == 1:
            x = b.conv(b.relu(x), channels, 3, padding=2, dilation=2, groups=channels, bn=False)
        elif choice == 2:
            x = b.conv(x, channels, 3, padding=1, groups=4, bias=True)
        elif choice == 3:
            x = b.max_pool(x, 3, 1, 1)
        elif choice == 4:
            x = b.avg_pool(x, 3, 1, 1)
        elif choice == 5:
            twin = [t for t in tensors if b.shape(t) == shape]
            x = b.add(x, twin[int(rng.integers(len(twin)))])
        elif choice == 6:
            x = b.conv(b.concat([x, x]), 8, 1)
        elif choice == 7 and min(shape[2:]) > 3:
            activated = b.relu(x)
            odd = (shape[2] % 2, shape[3] % 2)
            shifted = b.slice_hw(activated, 1)
            shifted = b.pad_hw(shifted, odd) if any(odd) else shifted
            left = b.conv(activated, 4, 1, stride=2)
            x = b.concat([left, b.conv(shifted, 4, 1, stride=2)])
        elif choice == 8:
            x = b.relu(b.relu(x))
        else:
            x = b.unary("Clip", b.conv(x, channels, 1), (("min", "0"), ("max", "6")))
        tensors.append(x)
    return b.finish([b.linear(b.global_avg_pool(tensors[-1]), 10)])


@pytest.fixture
def b():
    return GraphBuilder("test")


@pytest.fixture
def x(b):
    return b.input("x", (1, 8, 9, 9))


@pytest.fixture
def random_graph():
    return build_random_graph


@pytest.fixture
def run_model(tmp_path):
    """Run a model on ones; returns the outputs and the operators of the optimised graph."""

    def run(model: onnx.ModelProto):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        feeds = {
            i.name: np.ones(i.shape, np.uint8 if "uint8" in i.type else np.float32)
            for i in session.get_inputs()
        }
        outputs = session.run(None, feeds)
        optimised = onnx.load(tmp_path / "optimised.onnx")
        return outputs, collections.Counter(node.op_type for node in optimised.graph.node)

    return run
