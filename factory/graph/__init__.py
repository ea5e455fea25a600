"""graph: what a network is made of: kernels, operator graphs, ONNX, MACs, parameters."""
