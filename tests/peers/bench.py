#!/usr/bin/env python3
"""MiniLM embeddings: Ostrakon beside the engines people use, in one run, on this machine. Called by `make bench`.

Every engine is a process of its own. Every round gives each the same token ids in turn, so that a drift of the machine's
speed falls on all alike, and lets them rest between turns (worker threads spin for a while after a run). Ratios are
medians of the round-by-round ratios to our CPU backend. Accuracy is the least cosine with onnxruntime's f32 over real
text. Prints tables; writes the same figures as JSON, and a chart.
"""
import argparse, json, os, platform, statistics, subprocess, sys, time
from importlib.metadata import version
import numpy as np
import engines
import report
from process import Engine

REST_S = 0.25
# Texts beside those that are timed, for accuracy.
CHECKED = 24
OURS, OPENVINO, NATIVE, REFERENCE = "ostrakon cpu", "ostrakon openvino", "ostrakon cpu, called natively", "ostrakon reference"
F32 = "onnxruntime f32"
GOALS = [  # (what, where in the report, at most)
    ("cpu, 1 x 128: latency beside onnxruntime f32", "ratio_f32", 0.45),
    ("cpu, 1 x 128: latency beside OpenVINO int8", "ratio_openvino_int8", 1.5),
    ("openvino, 1 x 128: latency beside OpenVINO int8", "openvino_ratio_int8", 1.0),
    ("openvino, 32 x 128: latency beside OpenVINO int8", "openvino_ratio_int8_batch", 1.0),
    ("1 x 128: blocks in WebAssembly beside the same operations called natively", "ratio_native", 1.03),
    ("process start to first answer, ms", "start_ms", 300),
    ("peak memory beside 2 x package + 100 MB", "memory_ratio", 1.0),
    ("run with a receipt beside run without, user CPU of the process, 8 texts of 256 tokens", "receipt_ratio", 1.02),
]


def start(a):
    """Every engine that runs here, by name."""
    here, python = os.path.dirname(os.path.abspath(__file__)), sys.executable
    started = {name: Engine([python, os.path.join(here, "engines.py"), name, str(a.threads), a.folder]) for name in engines.NAMES}
    ours = lambda backend, via: Engine([a.peer, a.package, str(a.threads), backend], via)
    cpu = ours("cpu", "component")
    started |= {OURS: cpu, OPENVINO: ours("openvino", "component"), NATIVE: cpu.going("native"), REFERENCE: ours("reference", "component")}
    works = {}
    for name, engine in started.items():
        if engine.run(np.array([[101, 2158, 102]]), 1) is None:
            print(f"not compared: {name} (its message is above)")
        else:
            works[name] = engine
    for needed in (F32, OURS):
        if needed not in works:
            sys.exit(f"{needed} does not run here")
    return works


def compare(started, batch, tokens, rounds, a):
    """Of each engine: median, spread, accuracy, memory, and our median round-by-round ratio to it."""
    ids = engines.windows(a.texts, a.tokenizer, tokens, max(batch, CHECKED))
    timed = ids[:batch]
    runs = max(1, 1600 // (batch * tokens))
    # Plain WebAssembly is for checking, not for speed: few runs, and no large batches.
    slow = {REFERENCE: 1}
    chosen = {n: e for n, e in started.items() if n != REFERENCE or batch * tokens <= 128}
    embed = lambda engine: np.concatenate([engine.run(row[None], 1)[1] for row in ids]) if batch == 1 else engine.run(timed, 1)[1]
    f32 = embed(chosen[F32])
    cosine = {n: float((embed(e) * f32[:len(ids)]).sum(-1).min()) if n not in slow
              else float((e.run(ids[:1], 1)[1] * f32[:1]).sum(-1).min()) for n, e in chosen.items()}
    medians = {name: [] for name in chosen}
    for turn in range(rounds):
        # Alternating order: whoever comes after a rest finds a colder machine.
        for name, engine in list(chosen.items())[:: 1 if turn % 2 else -1]:
            if name in slow and turn >= 3:
                continue
            times, _ = engine.run(timed, slow.get(name, runs))
            medians[name].append(statistics.median(times))
            time.sleep(REST_S)
    return {name: dict(median_ms=statistics.median(values), low_ms=min(values), high_ms=max(values),
                       sentences_per_s=1e3 * batch / statistics.median(values), cosine_min=cosine[name], peak_mb=chosen[name].peak_mb(),
                       ours_over_it=statistics.median([o / v for o, v in zip(medians[OURS], values)]))
            for name, values in medians.items()}


def ratio(rows, ours, peer):
    """Of two engines that were timed in the same rounds."""
    if ours not in rows or peer not in rows:
        return None
    return rows[peer]["ours_over_it"] / rows[ours]["ours_over_it"]


def component_ratio(component, native, ids, rounds=150):
    """The blocks in WebAssembly beside the same operations called natively: a difference smaller than what the machine's speed
    drifts in a second, so they take turns every few runs."""
    ratios = []
    for turn in range(rounds):
        order = [component, native][:: 1 if turn % 2 else -1]
        times = {engine.via: statistics.median(engine.run(ids, 3)[0]) for engine in order}
        ratios.append(times[component.via] / times[native.via])
    return statistics.median(ratios)


def best_peer(rows, least_cosine=0.9):
    peers = {n: r for n, r in rows.items() if n in engines.NAMES and r["cosine_min"] >= least_cosine}
    return min(peers, key=lambda n: peers[n]["median_ms"])


def receipt_ratio(run, rounds):
    """User CPU time of a process that writes a receipt beside one that does not, in turn."""
    text = " ".join(["word"] * 254)
    plain = run + ["--json", "--threads", "1"] + ["--text", text] * 8
    times = [[], []]
    for turn in range(rounds):
        # Alternating order, as everywhere here.
        for taken, more in list(zip(times, ([], ["--receipt", os.devnull])))[:: 1 if turn % 2 else -1]:
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


def machine(threads):
    lines = open("/proc/cpuinfo").read().splitlines()
    find = lambda key: next((l.split(":")[1].strip() for l in lines if l.startswith(key)), "")
    features = [f for f in ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8") if f in find("flags").split()]
    packages = {p: version(p) for p in ("onnxruntime", "openvino", "nncf")}
    return dict(cpu=find("model name") or platform.processor(), features=features, threads=threads, **packages)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("peer", "ostrakon", "package", "folder", "texts", "tokenizer", "out"):
        a.add_argument("--" + name, required=True)
    a.add_argument("--threads", type=int, default=os.cpu_count())
    a.add_argument("--rounds", type=int, default=12)
    a.add_argument("--shapes", default="1x16,1x128,1x256,32x16,32x128,32x256", help="batch x tokens, comma-separated")
    a = a.parse_args()

    # First, while this process is small: a child's peak counts from its parent's size at the fork.
    run = [a.ostrakon, "run", a.package, "--backend", "cpu"]
    receipt = receipt_ratio(run, 30)
    start_ms, peak_mb = whole_process(run + ["--json", "--text", "A man is eating food."], 10)
    package_mb = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(a.package) for f in fs) / 2**20

    result = dict(machine=machine(a.threads), command=" ".join(sys.argv), tables={}, start_ms=start_ms, peak_mb=peak_mb, package_mb=package_mb,
                  receipt_ratio=receipt, memory_ratio=peak_mb / (2 * package_mb + 100))
    m = result["machine"]
    title = (f"all-MiniLM-L6-v2 on {m['cpu']} ({' '.join(m['features'])}), {m['threads']} threads; onnxruntime {m['onnxruntime']}, "
             f"OpenVINO {m['openvino'].split('-')[0]}")
    print(title + "\n")
    started = start(a)
    for batch, tokens in (map(int, shape.split("x")) for shape in a.shapes.split(",")):
        rows = compare(started, batch, tokens, a.rounds if batch == 1 else max(3, a.rounds // 4), a)
        result["tables"][f"{batch}x{tokens}"] = rows
        peer = best_peer(rows)
        print(report.table(batch, tokens, rows))
        print(f"best peer: {peer}; ours beside it: {rows[peer]['ours_over_it']:.3f}\n", flush=True)

    one, many = result["tables"].get("1x128", {}), result["tables"].get("32x128", {})
    result |= dict(ratio_f32=ratio(one, OURS, F32), ratio_openvino_int8=ratio(one, OURS, "OpenVINO int8"),
                   openvino_ratio_int8=ratio(one, OPENVINO, "OpenVINO int8"), openvino_ratio_int8_batch=ratio(many, OPENVINO, "OpenVINO int8"),
                   ratio_native=component_ratio(started[OURS], started[NATIVE], engines.windows(a.texts, a.tokenizer, 128, 1))
                   if NATIVE in started else None)
    print(f"process start to first answer: {start_ms:.0f} ms; peak memory {peak_mb:.0f} MB; package {package_mb:.1f} MB\n")
    for what, key, goal in GOALS:
        if result[key] is not None:
            print(f"{'met ' if result[key] <= goal else 'MISSED'}  {what}: {result[key]:.3f} (goal: at most {goal})")
    os.makedirs(a.out, exist_ok=True)
    with open(os.path.join(a.out, "results.json"), "w") as f:
        json.dump(result, f, indent=1)
    groups = [(f"{s.replace('x', ' x ')} tokens, median latency", {n: r for n, r in result["tables"][s].items() if n != REFERENCE})
              for s in ("1x128", "32x128") if s in result["tables"]]
    report.chart(title, groups, os.path.join(a.out, "chart.svg"))


main()
