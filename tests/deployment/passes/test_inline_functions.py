import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort

from factory.deployment.passes.inline_functions import inline_functions

TEXT = """<ir_version: 9, opset_import: ["" : 20, "local" : 1]>
g (float[1,2] x) => (float[1,2] y) { y = local.twice(x) }
<domain: "local", opset_import: ["" : 20]>
twice (a) => (b) { b = Add(a, a) }"""


def test_a_call_becomes_its_body():
    model = ir.from_proto(onnx.parser.parse_model(TEXT))
    assert inline_functions(model)
    proto = ir.to_proto(model)
    assert [n.op_type for n in proto.graph.node] == ["Add"]
    session = ort.InferenceSession(proto.SerializeToString())
    assert session.run(None, {"x": np.ones((1, 2), np.float32)})[0].tolist() == [[2.0, 2.0]]
    assert not inline_functions(model)
