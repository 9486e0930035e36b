"""all-MiniLM-L6-v2 from its float weights to an ONNX graph, so that onnxruntime can be timed on it.

Two graphs: `plain` in standard operators, `fused` in the com.microsoft operators that
onnxruntime's own BERT optimiser produces. Input `input_ids` int64 [batch, sequence] without padding,
output `embedding` f32 [batch, 384]: mean over tokens, then unit length.
"""
import numpy as np
from onnx import TensorProto, helper, numpy_helper, save
from safetensors.numpy import load_file

HEADS, LAYERS, HIDDEN = 12, 6, 384


class Graph:
    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(self, kind, inputs, output, domain="", **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes))
        return output


def export(weights_file, path, fused):
    w = {k: v for k, v in load_file(weights_file).items() if v.dtype == np.float32}
    g = Graph()
    norm = lambda p: [g.constant(p + ".g", w[p + ".weight"]), g.constant(p + ".b", w[p + ".bias"])]

    def layer_norm(x, p, out):
        return g.op("LayerNormalization", [x, *norm(p)], out, axis=-1, epsilon=1e-12)

    words = g.op("Gather", [g.constant("words", w["embeddings.word_embeddings.weight"]), "input_ids"], "word_rows")
    g.constant("positions", w["embeddings.position_embeddings.weight"] + w["embeddings.token_type_embeddings.weight"][0])
    g.op("Shape", ["input_ids"], "tokens", start=1, end=2)
    zero = g.constant("zero", np.array([0], np.int64))
    positions = g.op("Slice", ["positions", zero, "tokens", zero], "position_rows")
    x = layer_norm(g.op("Add", [words, positions], "sum"), "embeddings.LayerNorm", "x")
    g.constant("heads", np.array([0, 0, HEADS, HIDDEN // HEADS], np.int64))
    g.constant("flat", np.array([0, 0, HIDDEN], np.int64))
    g.constant("scale", np.float32((HIDDEN // HEADS) ** -0.5))
    for i in range(LAYERS):
        x = encoder(g, w, x, f"encoder.layer.{i}.", f"l{i}_", fused, norm, layer_norm)
    mean = g.op("ReduceMean", [x, g.constant("rows", np.array([1], np.int64))], "mean", keepdims=0)
    length = g.op("ReduceL2", [mean, g.constant("last", np.array([-1], np.int64))], "length", keepdims=1)
    g.op("Div", [mean, length], "embedding")
    graph = helper.make_graph(
        g.nodes, "minilm",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", HIDDEN])], g.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)])
    model.ir_version = 9
    save(model, path)


def encoder(g, w, x, p, s, fused, norm, layer_norm):
    matrix = lambda k: g.constant(s + k + ".w", w[p + k + ".weight"].T)
    bias = lambda k: g.constant(s + k + ".b", w[p + k + ".bias"])
    linear = lambda x, k, out: g.op("Add", [g.op("MatMul", [x, matrix(k)], out + "_m"), bias(k)], out)
    names = ["attention.self.query", "attention.self.key", "attention.self.value"]
    if fused:
        qkv = g.constant(s + "qkv.w", np.concatenate([w[p + k + ".weight"].T for k in names], 1))
        qkv_bias = g.constant(s + "qkv.b", np.concatenate([w[p + k + ".bias"] for k in names]))
        a = g.op("Attention", [x, qkv, qkv_bias], s + "att", "com.microsoft", num_heads=HEADS)
        skip = lambda y, x, n, k, out: g.op("SkipLayerNormalization", [y, x, *norm(p + n), bias(k)], out, "com.microsoft", epsilon=1e-12)
        x = skip(g.op("MatMul", [a, matrix("attention.output.dense")], s + "o"), x,
                 "attention.output.LayerNorm", "attention.output.dense", s + "n1")
        up = g.op("MatMul", [x, matrix("intermediate.dense")], s + "up")
        f = g.op("BiasGelu", [up, bias("intermediate.dense")], s + "gelu", "com.microsoft")
        return skip(g.op("MatMul", [f, matrix("output.dense")], s + "down"), x, "output.LayerNorm", "output.dense", s + "n2")

    def split(k, name, order):
        rows = g.op("Reshape", [linear(x, k, s + name), "heads"], s + name + "_r")
        return g.op("Transpose", [rows], s + name + "_t", perm=order)

    q, k, v = split(names[0], "q", [0, 2, 1, 3]), split(names[1], "k", [0, 2, 3, 1]), split(names[2], "v", [0, 2, 1, 3])
    scores = g.op("Mul", [g.op("MatMul", [q, k], s + "qk"), "scale"], s + "scores")
    mixed = g.op("MatMul", [g.op("Softmax", [scores], s + "p", axis=-1), v], s + "pv")
    rows = g.op("Reshape", [g.op("Transpose", [mixed], s + "pv_t", perm=[0, 2, 1, 3]), "flat"], s + "rows")
    y = layer_norm(g.op("Add", [linear(rows, "attention.output.dense", s + "o"), x], s + "r1"), p + "attention.output.LayerNorm", s + "n1")
    h = g.op("Gelu", [linear(y, "intermediate.dense", s + "up")], s + "gelu")
    return layer_norm(g.op("Add", [linear(h, "output.dense", s + "down"), y], s + "r2"), p + "output.LayerNorm", s + "n2")
