"""The model factory: from chips to a verified ONNX model per tier."""
