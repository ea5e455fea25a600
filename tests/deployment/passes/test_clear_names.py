import onnx_ir as ir

from factory.deployment.passes.clear_names import clear_names


def test_names_are_unique_and_inputs_and_outputs_keep_theirs(rewrite):
    done = rewrite(
        """g (float[1,2] Relu_0) => (float[1,2] logits)
        { val_17 = Relu(Relu_0)  logits = Add(val_17, Relu_0) }""",
        clear_names,
    )
    assert done.after.graph.input[0].name == "Relu_0"
    assert done.after.graph.output[0].name == "logits"
    assert [n.name for n in done.after.graph.node] == ["Relu_0", "Add_1"]


def test_stack_traces_are_not_shipped():
    value = ir.Value(name="x", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Relu", [value], metadata_props={"pkg.torch.onnx.stack_trace": "File secret.py"})
    node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    graph = ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": 20}, name="g")
    model = ir.Model(graph, ir_version=9, metadata_props={"note": "x"})
    assert clear_names(model)
    assert b"secret" not in ir.to_proto(model).SerializeToString()
