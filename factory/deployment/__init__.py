"""deployment: a trained network or any ONNX file -> files that run on a chip.

``export`` writes fp32 ONNX through torch's exporter, ``passes`` clean the graph (one rewrite a
file), ``quantise`` makes the int8 file, ``manifest`` says what was written, ``snippet`` how to run
it. The first two import torch; ``manifest``, ``metadata`` and ``snippet`` do not.
"""
