#!/usr/bin/env python3
"""Private runs beside plain ones, in one run, on this machine. Called by `make bench` after bench.py.

Servers are processes of their own on this machine, so everything shares its processors. The kernel puts a thread that is
woken on the processor that wakes it, so whoever sends and whoever receives may take turns on one of them while the
other idles, which two machines would not do; `apart` is the same with their network threads kept on different
processors. Every round gives each engine the same token ids in turn, four times. `online` is from token ids in to embeddings out with masks ready; `masks` is what can be prepared
while nothing is asked for. Then the same over longer ways: each server in a network namespace of its own, behind a
relay that holds every byte back for half the round trip.

CrypTen and SPU are not run here (`private_peers.py`, see the notes of the project): they take 12 s and 19 s on a machine of
this kind for one text of 128 tokens, and need no work of the client.
"""
import argparse, asyncio, json, os, socket, statistics, subprocess, sys, tempfile, time
import engines
from process import Engine

TOKENS, REST_S = 128, 0.25
LONGER_MS = [1, 10, 50]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


async def relay(listen, port, delay_ms):
    """Hand bytes on both ways, each after half the round trip."""
    async def hand_on(reader, writer):
        queue = asyncio.Queue(1024)

        async def write():
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0, due - time.monotonic()))
                if not data:
                    return writer.close()
                writer.write(data)
                await writer.drain()
        task = asyncio.create_task(write())
        try:
            while data := await reader.read(1 << 20):
                await queue.put((time.monotonic() + delay_ms / 2e3, data))
        except ConnectionError:
            pass
        await queue.put((time.monotonic() + delay_ms / 2e3, b""))
        await task

    async def accepted(reader, writer):
        there = await asyncio.open_connection("127.0.0.1", port)
        for stream in (writer, there[1]):
            stream.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(hand_on(reader, there[1]), hand_on(there[0], writer), return_exceptions=True)

    server = await asyncio.start_server(accepted, listen, port)
    await server.serve_forever()


class Servers:
    """Nodes that multiply, each of an operator of its own; with a delay, each behind a relay."""

    def __init__(self, a, count, delay_ms=0):
        self.folder, self.processes, self.names, self.net = tempfile.TemporaryDirectory(), [], [], os.getpid() % 250
        boot = ""
        if delay_ms:
            self.ip(f"link add ostp{self.net} type bridge", f"addr add 10.99.{self.net}.254/24 dev ostp{self.net}", f"link set ostp{self.net} up")
        for n in range(count):
            run, listen, more, port = [], "127.0.0.1", "", free_port()
            if delay_ms:
                name, outside, here = f"ostp{self.net}n{n}", f"op{self.net}n{n}", f"10.99.{self.net}.{n + 1}"
                self.ip(f"netns add {name}", f"link add {outside} type veth peer name eth0 netns {name}", f"link set {outside} master ostp{self.net} up",
                        f"-n {name} addr add {here}/24 dev eth0", f"-n {name} link set eth0 up", f"-n {name} link set lo up")
                self.names.append(name)
                run, more = ["ip", "netns", "exec", name], f'external = ["/ip4/{here}/tcp/{port}"]\n'
                self.processes.append(subprocess.Popen([*run, sys.executable, __file__, "relay", here, str(port), str(delay_ms)]))
            config = os.path.join(self.folder.name, f"{n}.toml")
            with open(config, "w") as file:
                file.write(f'operator = "{n}"\nroles = ["execution", "scheduling"]\nlisten = ["/ip4/{listen}/tcp/{port}"]\n{more}bootstrap = [{boot}]\n'
                           f'plugins = "{a.plugins}"\nbackend = "cpu"\npackages = [{{ package = "{a.package}" }}]\n[trust]\nallow_unknown = true\n')
            env = os.environ | {"OSTRAKON_LOG": "error", "OSTRAKON_HOME": os.path.join(self.folder.name, f"home{n}")}
            node = subprocess.Popen([*run, a.ostrakon, "--json", "node", "--config", config], env=env, stdout=subprocess.PIPE, text=True)
            self.processes.append(node)
            ready = json.loads(node.stdout.readline())
            if n == 0:
                self.address = f"/ip4/{here}/tcp/{port}" if delay_ms else ready["addresses"][0]
                boot = f'"{self.address}"'
        time.sleep(4)  # until all have heard of all

    def ip(self, *commands):
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name])
        if self.names:
            subprocess.run(["ip", "link", "del", f"ostp{self.net}"])
        self.folder.cleanup()


def private(a, servers, count):
    return Engine([a.peer, a.package, str(a.threads), "private", servers.address, str(count)])


def keep_apart(client, servers):
    """Network threads of client and servers on two processors."""
    one, other = sorted(os.sched_getaffinity(0))[:2]
    for pid, name, place in [(client.process.pid, "tokio-rt-worker", one)] + [(server.pid, "ostrakon-net", other) for server in servers.processes]:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/comm") as comm:
                if comm.read().strip() == name:
                    os.sched_setaffinity(int(task), {place})


def ask(engine, ids, runs):
    engine.process.stdin.write(json.dumps({"ids": ids.tolist(), "runs": runs}) + "\n")
    engine.process.stdin.flush()
    return json.loads(engine.process.stdout.readline())


def main():
    parser = argparse.ArgumentParser()
    for name in ("ostrakon", "peer", "package", "folder", "texts", "tokenizer", "plugins", "out"):
        parser.add_argument("--" + name, required=True, type=os.path.abspath)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=8)
    a = parser.parse_args()
    ids = engines.windows(a.texts, a.tokenizer, TOKENS, 1)
    here, median = os.path.dirname(os.path.abspath(__file__)), statistics.median
    f32 = Engine([sys.executable, os.path.join(here, "engines.py"), "onnxruntime f32", str(a.threads), a.folder])
    plain = Engine([a.peer, a.package, str(a.threads), "cpu"])
    result = {}
    print(f"\nPrivate runs of one text of {TOKENS} tokens, medians of {a.rounds} rounds, milliseconds\n")
    print(f"{'servers':>8} {'online':>8} {'masks':>8} {'beside onnxruntime f32':>24} {'with masks':>11} {'client CPU beside plain':>24} {'client MB':>10} {'MB sent':>8} {'received':>9} {'ahead':>7} {'trips':>6}")
    for count, apart in ((2, False), (2, True), (3, False), (5, False)):
        if apart and (not os.path.isdir("/proc/self/task") or os.cpu_count() < 2):
            continue
        servers = Servers(a, count)
        try:
            shared, rows = private(a, servers, count), []
            ask(shared, ids, 1)
            memory = shared.peak_mb()  # with masks of one text
            if apart:
                keep_apart(shared, servers)
            for turn in range(a.rounds):
                row = {}
                for name, engine in [("f32", f32), ("plain", plain), ("private", shared)][:: 1 if turn % 2 else -1]:
                    answer = ask(engine, ids, 4)
                    row[name] = median(answer["ms"])
                    if name == "private":
                        row |= masks(answer)
                        same = answer["embeddings"]
                    elif name == "plain":
                        row["plain_cpu"], wanted = median(answer["cpu_ms"]), answer["embeddings"]
                    time.sleep(REST_S)
                if same != wanted:
                    sys.exit("a private run gave other bytes than a plain one")
                rows.append(row)
            middle = lambda of: median(of(row) for row in rows)
            trips = answer["traffic"] if "traffic" in answer and answer["traffic"] else ask(shared, ids, 0)["traffic"]
            runs = 1 + 4 * a.rounds
            ahead, sent, received, trips = (n / runs for n in trips)
            name = f"{count}, apart" if apart else str(count)
            result[name] = r = dict(online_ms=middle(lambda r: r["private"]), masks_ms=middle(lambda r: r["masks"]), f32_ms=middle(lambda r: r["f32"]),
                                    online_over_f32=middle(lambda r: r["private"] / r["f32"]),
                                    all_over_f32=middle(lambda r: (r["private"] + r["masks"]) / r["f32"]),
                                    client_cpu_over_plain=middle(lambda r: (r["cpu"] + r["masks_cpu"]) / r["plain_cpu"]),
                                    client_mb=memory, plain_mb=plain.peak_mb(), sent=sent, received=received, ahead=ahead, round_trips=trips)
            print(f"{name:>8} {r['online_ms']:>8.1f} {r['masks_ms']:>8.1f} {r['online_over_f32']:>24.2f} {r['all_over_f32']:>11.2f} {r['client_cpu_over_plain']:>24.2f}"
                  f" {r['client_mb']:>10.0f} {sent / 1e6:>8.2f} {received / 1e6:>9.2f} {ahead / 1e6:>7.2f} {trips:>6.0f}")
        finally:
            shared.process.kill()
            servers.close()
    print(f"\nplain: {plain.peak_mb():.0f} MB. Goals: online at most 2.5 x onnxruntime f32, with masks at most 6 x.\n")
    if os.geteuid() == 0:
        print(f"{'round trip, ms':>15} {'online, ms':>11}")
        for delay in LONGER_MS:
            servers = Servers(a, 2, delay)
            try:
                shared = private(a, servers, 2)
                ask(shared, ids, 1)
                result[f"round trip {delay} ms"] = online = median(ask(shared, ids, a.rounds)["ms"])
                print(f"{delay:>15} {online:>11.1f}")
            finally:
                shared.process.kill()
                servers.close()
    else:
        print("longer ways are not measured: only root may make network namespaces")
    os.makedirs(a.out, exist_ok=True)
    with open(os.path.join(a.out, "private.json"), "w") as file:
        json.dump(result, file, indent=1)


def masks(answer):
    middle = statistics.median
    return dict(masks=middle(answer["masks_ms"]), cpu=middle(answer["cpu_ms"]), masks_cpu=middle(answer["masks_cpu_ms"]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["relay"]:
        asyncio.run(relay(sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
    else:
        main()
