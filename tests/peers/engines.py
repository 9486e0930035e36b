#!/usr/bin/env python3
"""One engine of the comparison, in a process of its own: a JSON request a line, as `embed-peer` answers them.

  engines.py NAME THREADS FOLDER      answer requests `{"ids": [[..], ..], "runs": n}` with `{"ms": [..], "embeddings": [[..], ..]}`
  engines.py prepare FOLDER WEIGHTS TEXTS TOKENIZER      make the models that engines run, if they are missing

The clock runs from token ids in to embeddings out. Every row of a request has the same length: no engine pads.
"""
import json, os, sys, time
import numpy as np

ONNXRUNTIME = {"onnxruntime f32": "plain.onnx", "onnxruntime f32 fused": "fused.onnx", "onnxruntime int8": "int8.onnx"}
OPENVINO = {"OpenVINO f32": ("plain.onnx", "f32"), "OpenVINO bf16": ("plain.onnx", "bf16"), "OpenVINO int8": ("int8.xml", "f32")}
NAMES = [*ONNXRUNTIME, *OPENVINO]


def onnxruntime(path, threads):
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda ids: session.run(None, {"input_ids": ids})[0]


def openvino(path, precision, threads):
    import openvino as ov
    core = ov.Core()
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    requests = {}

    def run(ids):
        # Compiled for each shape, which is what it does best.
        if ids.shape not in requests:
            model = core.read_model(path)
            model.reshape(list(ids.shape))
            requests[ids.shape] = core.compile_model(model, "CPU", settings).create_infer_request()
        request = requests[ids.shape]
        request.set_input_tensor(0, ov.Tensor(ids))
        request.infer()
        return request.get_output_tensor(0).data.copy()

    return run


def serve(name, threads, folder):
    if name in ONNXRUNTIME:
        run = onnxruntime(os.path.join(folder, ONNXRUNTIME[name]), threads)
    else:
        model, precision = OPENVINO[name]
        run = openvino(os.path.join(folder, model), precision, threads)
    for line in sys.stdin:
        request = json.loads(line)
        ids = np.array(request["ids"], np.int64)
        ms = []
        for _ in range(request["runs"]):
            start = time.perf_counter()
            result = run(ids)
            ms.append((time.perf_counter() - start) * 1e3)
        print(json.dumps({"ms": ms, "embeddings": result.tolist()}), flush=True)


def windows(texts, tokenizer, tokens, count):
    """`count` different stretches of a text, `tokens` long with the marks at both ends."""
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(tokenizer)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = tokenizer.encode(open(texts, encoding="latin-1").read(), add_special_tokens=False).ids
    inner = tokens - 2
    starts = [i * (len(ids) - inner) // count for i in range(count)]
    return np.array([[101, *ids[s:s + inner], 102] for s in starts], np.int64)


def prepare(folder, weights, texts, tokenizer):
    from minilm_onnx import export
    made = lambda name: os.path.exists(os.path.join(folder, name))
    path = lambda name: os.path.join(folder, name)
    if not made("plain.onnx"):
        export(weights, path("plain.onnx"), False)
    if not made("fused.onnx"):
        export(weights, path("fused.onnx"), True)
    if not made("int8.onnx"):
        # As onnxruntime recommends for transformers: activations scaled as they come, weights per channel.
        from onnx import TensorProto
        from onnxruntime.quantization import QuantType, quantize_dynamic
        quantize_dynamic(path("fused.onnx"), path("int8.onnx"), weight_type=QuantType.QInt8, per_channel=True,
                         op_types_to_quantize=["MatMul", "Attention"], extra_options={"DefaultTensorType": TensorProto.FLOAT})
    if not made("int8.xml"):
        # As OpenVINO recommends for transformers: NNCF, calibrated on texts like those that are compared.
        import nncf, openvino as ov
        data = nncf.Dataset([row[None] for row in windows(texts, tokenizer, 128, 160)], lambda x: {"input_ids": x})
        model = nncf.quantize(ov.Core().read_model(path("plain.onnx")), data, model_type=nncf.ModelType.TRANSFORMER,
                              preset=nncf.QuantizationPreset.MIXED, subset_size=160)
        ov.save_model(model, path("int8.xml"), compress_to_fp16=False)


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(*sys.argv[2:6])
    else:
        serve(sys.argv[1], int(sys.argv[2]), sys.argv[3])
