#!/usr/bin/env python3
"""Text generation beside llama.cpp: the same weights, prompt ids and threads, in turns, in one run. Called by decode.sh.

Prompts of 128 and 512 tokens, 64 more one by one; then many streams at once beside one (ours: continuous batching).
"""
import argparse, json, os, statistics, subprocess

NEW, STREAMS = 64, [1, 4, 16]


class Ours:
    def __init__(self, args):
        command = [args.peer, args.package, str(args.threads), "cpu"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, ids, new, streams=1):
        self.process.stdin.write(json.dumps({"ids": ids, "new": new, "streams": streams}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


class LlamaCpp:
    def __init__(self, args):
        command = [args.llamacpp, args.libraries, args.gguf, str(args.threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, ids, new):
        self.process.stdin.write(f"{new} {len(ids)} {' '.join(map(str, ids))}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def peak_mb(engine):
    status = open(f"/proc/{engine.process.pid}/status").read()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def prompt(count):
    """Ids that a text could have; the same in every run."""
    state, ids = 1, []
    for _ in range(count):
        state = (state * 1103515245 + 12345) % 2**31
        ids.append(300 + state % 20000)
    return ids


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def main():
    parser = argparse.ArgumentParser()
    for name in ("peer", "package", "llamacpp", "libraries", "gguf", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    ours, peer = Ours(args), LlamaCpp(args)
    results = {"threads": args.threads, "prompts": {}, "streams": {}}
    for count in (128, 512):
        ids = prompt(count)
        ours.run(ids, 4), peer.run(ids, 4)
        mine, theirs = [], []
        for _ in range(args.rounds):
            mine.append(ours.run(ids, NEW)["streams"][0])
            theirs.append(peer.run(ids, NEW))
        median = lambda runs, pick: statistics.median(pick(run) for run in runs)
        first = [median(runs, lambda run: run["first_ms"]) for runs in (mine, theirs)]
        token = [median(runs, lambda run: statistics.mean(run["between_ms"])) for runs in (mine, theirs)]
        between = [gap for run in mine for gap in run["between_ms"]]
        alike = next((i for i, (a, b) in enumerate(zip(mine[0]["tokens"], theirs[0]["tokens"])) if a != b), NEW)
        results["prompts"][count] = {
            "first_ms": first, "prefill_ratio": first[1] / first[0], "token_ms": token, "decode_ratio": token[1] / token[0],
            "between_ms_p50": percentile(between, 0.5), "between_ms_p99": percentile(between, 0.99), "alike": alike,
        }
        print(f"{count} tokens: first token after {first[0]:.1f} ms, llama.cpp {first[1]:.1f} ({first[1] / first[0]:.2f} x); "
              f"then {1e3 / token[0]:.1f} a second, llama.cpp {1e3 / token[1]:.1f} ({token[1] / token[0]:.2f} x); "
              f"between tokens 50 % {percentile(between, 0.5):.1f} ms, 99 % {percentile(between, 0.99):.1f} ms; "
              f"the same first {alike} tokens", flush=True)
    ids = prompt(32)
    for streams in STREAMS:
        totals = []
        for _ in range(max(2, args.rounds // 2)):
            run = ours.run(ids, NEW, streams)
            totals.append(sum(len(one["tokens"]) for one in run["streams"]) / run["total_ms"] * 1e3)
        results["streams"][streams] = statistics.median(totals)
        print(f"{streams} streams of 32 + {NEW} tokens: {results['streams'][streams]:.1f} tokens a second in all "
              f"({results['streams'][streams] / results['streams'][1]:.2f} x one)", flush=True)
    results["peak_mb"] = [peak_mb(ours), peak_mb(peer)]
    results["llamacpp"] = theirs[0]["info"]
    print(f"peak memory: {results['peak_mb'][0]} MB, llama.cpp {results['peak_mb'][1]} MB")
    os.makedirs(args.out, exist_ok=True)
    json.dump(results, open(f"{args.out}/decode.json", "w"), indent=1)


main()
