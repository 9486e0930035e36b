#!/usr/bin/env python3
"""The files that wasmtime's wasi-nn guests read: small models of ours instead of downloads. usage: fixtures.py UPSTREAM_FIXTURES OUT

The classifier takes the mean colour of an image and compares it with a thousand colours; the colour of class 963 is the
mean of upstream's picture, so that class, and no other, is right for it.
"""
import shutil, sys
import numpy as np
import onnx
import openvino as ov
from onnx import TensorProto, helper, numpy_helper

upstream, out = sys.argv[1:3]
image = np.fromfile(f"{upstream}/000000062808.rgb", np.float32).reshape(1, 3, 224, 224)
mean = image.mean(axis=(2, 3))[0]
colours = np.random.default_rng(1).normal(size=(1000, 3)).astype(np.float32)
colours[963] = mean
# -|x - c|^2 without the part that is the same for every class
weights, bias = 2 * colours.T, -(colours**2).sum(axis=1)

nodes = [
    helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
    helper.make_node("Flatten", ["pooled"], ["colour"]),
    helper.make_node("Gemm", ["colour", "weights", "bias"], ["classes"]),
    helper.make_node("Softmax", ["classes"], ["output"], axis=1),
]
graph = helper.make_graph(
    nodes, "colours",
    [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 224, 224])],
    [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1000])],
    [numpy_helper.from_array(np.ascontiguousarray(weights), "weights"), numpy_helper.from_array(bias, "bias")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
onnx.checker.check_model(model)
onnx.save(model, f"{out}/model.onnx")
ov.save_model(ov.convert_model(f"{out}/model.onnx"), f"{out}/model.xml", compress_to_fp16=False)
shutil.copy(f"{upstream}/000000062808.rgb", out)
shutil.copy(f"{upstream}/000000062808.rgb", f"{out}/tensor.bgr")
