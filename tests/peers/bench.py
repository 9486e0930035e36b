#!/usr/bin/env python3
"""MiniLM embeddings: Ostrakon beside onnxruntime, in one run, on this machine. Called by `make bench`.

Every round gives each engine the same token ids in turn, so that a drift of the machine's speed falls
on all of them alike. Engines rest between turns (their worker threads spin for a while after a run).
Prints a table and writes the same figures as JSON. Ratios are medians of the round-by-round ratios.

  bench.py --weights model.safetensors --peer BIN --ostrakon BIN --package DIR --out results.json
"""
import argparse, json, os, platform, statistics, subprocess, sys, time
import numpy as np
import onnxruntime as ort
from minilm_onnx import export

REST_S = 0.25
GOALS = [  # (what, ratio or figure, at most)
    ("latency, 128 tokens, against onnxruntime f32", "ratio_plain_128", 0.45),
    ("block in WebAssembly against the same operations called natively", "ratio_native_128", 1.03),
    ("process start to first answer, ms", "start_ms", 300),
    ("peak memory against 2 x package + 100 MB", "memory_ratio", 1.0),
    ("run with a receipt against run without, user CPU of the process, 8 texts of 256 tokens", "receipt_ratio", 1.02),
]


class OnnxRuntime:
    def __init__(self, path, threads):
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, ids, runs):
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            result = self.session.run(None, {"input_ids": ids})[0]
            times.append((time.perf_counter() - start) * 1e3)
        return times, result


class Ostrakon:
    """A process that answers one JSON line per request; it times itself, without the pipe."""

    def __init__(self, process, via):
        self.process, self.via = process, via

    def run(self, ids, runs):
        self.process.stdin.write(json.dumps({"ids": ids.tolist(), "runs": runs, "via": self.via}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the ostrakon peer process ended: see its message above")
        answer = json.loads(line)
        return answer["ms"], np.array(answer["embeddings"], np.float32)


def token_ids(batch, tokens, seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(1996, 29000, (batch, tokens))
    ids[:, 0], ids[:, -1] = 101, 102
    return ids.astype(np.int64)


def compare(engines, batch, tokens, rounds, runs):
    """Median and spread per engine, and every engine's round-by-round ratio to ours."""
    ids = token_ids(batch, tokens, seed=tokens + batch)
    medians = {name: [] for name in engines}
    results = {}
    for engine in engines.values():
        engine.run(ids, 3)
    for turn in range(rounds):
        # Alternating order: whoever comes after a rest finds a colder machine.
        for name, engine in list(engines.items())[:: 1 if turn % 2 else -1]:
            times, results[name] = engine.run(ids, runs)
            medians[name].append(statistics.median(times))
            time.sleep(REST_S)
    f32 = results["onnxruntime f32"]
    rows = {}
    for name, values in medians.items():
        cosine = (results[name] * f32).sum(-1)
        rows[name] = dict(median_ms=statistics.median(values), low_ms=min(values), high_ms=max(values),
                          sentences_per_s=1e3 * batch / statistics.median(values), cosine_min=float(cosine.min()),
                          ours_over_it=statistics.median([o / v for o, v in zip(medians["ostrakon"], values)]))
    return rows


def receipt_ratio(run, rounds):
    """User CPU time of a process that writes a receipt beside one that does not, in turn."""
    text = " ".join(["word"] * 254)
    plain = run + ["--json", "--threads", "1"] + ["--text", text] * 8
    times = [[], []]
    for _ in range(rounds):
        for taken, more in zip(times, ([], ["--receipt", os.devnull])):
            process = subprocess.Popen(plain + more, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            if status != 0:
                sys.exit(f"ostrakon run: exit status {status}")
            taken.append(usage.ru_utime)
    return statistics.median(with_ / without for without, with_ in zip(*times))


def whole_process(command, runs):
    """Wall time in ms and peak memory in MB of a whole process, warm."""
    walls, peaks = [], []
    for _ in range(runs + 1):
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            sys.exit(f"{' '.join(command)}: exit status {status}")
        walls.append((time.perf_counter() - start) * 1e3)
        peaks.append(usage.ru_maxrss / 1024)
    return statistics.median(walls[1:]), max(peaks)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("weights", "peer", "ostrakon", "package", "out"):
        a.add_argument("--" + name, required=True)
    a.add_argument("--threads", type=int, default=os.cpu_count())
    a.add_argument("--rounds", type=int, default=12)
    a.add_argument("--shapes", default="1x16,1x128,1x256,32x128", help="batch x tokens, comma-separated")
    a = a.parse_args()

    # First, while this process is small: a child's peak counts from its parent's size at the fork.
    receipt = receipt_ratio([a.ostrakon, "run", a.package], 15)
    start_ms, peak_mb = whole_process([a.ostrakon, "run", a.package, "--json", "--text", "A man is eating food."], 10)

    folder = os.path.dirname(os.path.abspath(a.out))
    engines = {}
    for name, fused in (("onnxruntime f32", False), ("onnxruntime f32 fused", True)):
        path = os.path.join(folder, f"minilm-{'fused' if fused else 'plain'}.onnx")
        if not os.path.exists(path):
            export(a.weights, path, fused)
        engines[name] = OnnxRuntime(path, a.threads)
    command = [a.peer, a.package, str(a.threads)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    engines["ostrakon"] = Ostrakon(process, "component")
    engines["ostrakon, operations called natively"] = Ostrakon(process, "native")

    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor())
    flags = next((l for l in open("/proc/cpuinfo") if l.startswith("flags")), "")
    features = [f for f in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if f in flags.split()]
    print(f"{cpu}, {a.threads} threads, {' '.join(features)}; onnxruntime {ort.__version__}; all-MiniLM-L6-v2\n")
    report = dict(machine=cpu, features=features, threads=a.threads, onnxruntime=ort.__version__, tables={})
    for batch, tokens in (map(int, shape.split("x")) for shape in a.shapes.split(",")):
        runs = max(1, 1600 // (batch * tokens))
        rows = compare(engines, batch, tokens, a.rounds if batch == 1 else max(3, a.rounds // 4), runs)
        report["tables"][f"{batch}x{tokens}"] = rows
        print(f"batch {batch}, {tokens} tokens\n{'engine':40}{'median ms':>10}{'low':>9}{'high':>9}{'sent/s':>9}{'min cosine':>12}{'ours / it':>11}")
        for name, r in rows.items():
            print(f"{name:40}{r['median_ms']:10.2f}{r['low_ms']:9.2f}{r['high_ms']:9.2f}{r['sentences_per_s']:9.1f}{r['cosine_min']:12.6f}{r['ours_over_it']:11.3f}")
        print()
    package_mb = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(a.package) for f in fs) / 2**20
    table = report["tables"].get("1x128")
    if table is None:
        return
    report.update(ratio_plain_128=table["onnxruntime f32"]["ours_over_it"], ratio_fused_128=table["onnxruntime f32 fused"]["ours_over_it"],
                  ratio_native_128=table["ostrakon, operations called natively"]["ours_over_it"], start_ms=start_ms, receipt_ratio=receipt,
                  peak_mb=peak_mb, package_mb=package_mb, memory_ratio=peak_mb / (2 * package_mb + 100))
    print(f"process start to first answer: {start_ms:.0f} ms; peak memory {peak_mb:.0f} MB; package {package_mb:.1f} MB\n")
    for what, key, goal in GOALS:
        print(f"{'met ' if report[key] <= goal else 'MISSED'}  {what}: {report[key]:.3f} (goal: at most {goal})")
    with open(a.out, "w") as f:
        json.dump(report, f, indent=1)


main()
