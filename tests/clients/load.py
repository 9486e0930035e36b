#!/usr/bin/env python3
"""Many clients at once, most of them bad: usage: load.py OSTRAKON WRITER EMBEDDER [SECONDS [CLIENTS]]

Starts a server of two packages and has 200 clients ask it for two minutes: whole answers, answers in pieces, readers that take
a few bytes now and then, clients that leave in the middle, heads and bodies that never end, bodies that are too large, and
requests that are none. Each is told what it should be told. Afterwards the server answers as before, to the byte; it has
the memory, descriptors and threads that it had when all had come once. Anything else ends this with a message and 1.
"""
import asyncio, collections, json, os, random, subprocess, sys, time

ostrakon, writer, embedder = sys.argv[1:4]
SECONDS = float(sys.argv[4]) if len(sys.argv) > 4 else 120
CLIENTS = int(sys.argv[5]) if len(sys.argv) > 5 else 200
# Less room than clients, so that some must be told to come again.
BOUNDS = ["--requests", "150", "--waiting", "40", "--sequences", "24"]
BODY = 4 << 20
PATIENCE = 90

seen, wrong = collections.Counter(), collections.Counter()


class Told(Exception):
    """The server said something else than it should."""


def head(path, length, method="POST"):
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode()


async def connect():
    return await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 30)


async def status_of(reader):
    line = await asyncio.wait_for(reader.readline(), PATIENCE)
    if not line:
        raise ConnectionResetError("closed without an answer")
    headers = {}
    while (header := await asyncio.wait_for(reader.readline(), PATIENCE)) not in (b"\r\n", b""):
        name, _, value = header.decode().partition(":")
        headers[name.lower()] = value.strip()
    return int(line.split()[1]), headers


async def ask(path, body, method="POST"):
    """Status, headers and whole body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reader, out = await connect()
    try:
        out.write(head(path, len(data), method) + data)
        await out.drain()
        status, headers = await status_of(reader)
        return status, headers, await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        out.close()


def chat(lot, **more):
    words = " ".join(lot.choice(["tell", "me", "of", "rivers", "bread", "kings", "and", "seven", "stars"]) for _ in range(lot.randint(1, 30)))
    return {"model": model, "messages": [{"role": "user", "content": words}], "max_tokens": lot.randint(1, 24), "temperature": 0.7} | more


async def busy(kind, status, headers, content=b""):
    """Whether it was told to come again, which is said properly."""
    seen[f"{kind} {status}"] += 1
    if status != 429:
        return False
    if not 1 <= int(headers.get("retry-after", 0)) <= 60:
        raise Told(f"{kind}: 429 without Retry-After")
    await asyncio.sleep(1)
    return True


async def whole(lot):
    status, headers, content = await ask("/v1/chat/completions", chat(lot))
    if not await busy("whole", status, headers):
        answer = json.loads(content)
        if status != 200 or answer["choices"][0]["finish_reason"] not in ("stop", "length"):
            raise Told(f"whole: {status} {content[:200]}")


async def vectors(lot):
    texts = ["a line of text"] * lot.randint(1, 20)
    status, headers, content = await ask("/v1/embeddings", {"model": embedding, "input": texts})
    if not await busy("vectors", status, headers) and (status != 200 or len(json.loads(content)["data"]) != len(texts)):
        raise Told(f"vectors: {status} {content[:200]}")


async def pieces(lot, pause=0.0, leaves=False):
    kind = "leaves" if leaves else "slow" if pause else "pieces"
    data = json.dumps(chat(lot, stream=True, max_tokens=lot.randint(8, 48))).encode()
    reader, out = await connect()
    try:
        out.write(head("/v1/chat/completions", len(data)) + data)
        await out.drain()
        if leaves and lot.random() < 0.3:
            await asyncio.sleep(lot.random())
            seen["leaves before a word"] += 1
            return
        status, headers = await status_of(reader)
        if await busy(kind, status, headers):
            return
        if status != 200:
            raise Told(f"{kind}: {status}")
        end, until = b"", time.monotonic() + lot.random() * 2
        while part := await asyncio.wait_for(reader.read(64 if pause else 65536), PATIENCE):
            end = (end + part)[-64:]
            if leaves and time.monotonic() > until:
                return
            if pause:
                await asyncio.sleep(pause)
        if b"[DONE]" not in end and not leaves:
            raise Told(f"{kind}: a stream ended without [DONE]: {end}")
    finally:
        out.close()


async def unfinished(lot):
    """Half a head, or half a body, and then nothing."""
    reader, out = await connect()
    try:
        data = json.dumps(chat(lot)).encode()
        out.write(head("/v1/chat/completions", len(data) + 100) + data if lot.random() < 0.5 else b"POST /v1/chat/comp")
        await out.drain()
        await asyncio.sleep(lot.random() * 3)
        seen["unfinished"] += 1
    finally:
        out.close()


async def oversized(lot):
    reader, out = await connect()
    try:
        out.write(head("/v1/chat/completions", BODY + lot.randint(1, 1 << 20)))
        try:
            for _ in range(16):
                out.write(b" " * 65536)
                await out.drain()
        except ConnectionError:
            pass
        status, headers = await status_of(reader)
        if not await busy("oversized", status, headers) and status != 413:
            raise Told(f"oversized: {status}")
    except ConnectionError:
        # It need not read what it has refused.
        seen["oversized, closed"] += 1
    finally:
        out.close()


MALFORMED = [
    (400, "/v1/chat/completions", b"{"),
    (400, "/v1/chat/completions", b"[1, 2]"),
    (400, "/v1/chat/completions", b"\xff\xfe\x00"),
    (404, "/v1/chat/completions", {"model": "?", "messages": []}),
    (400, "/v1/chat/completions", {"model": "?", "messages": [{"role": "user", "content": 5}]}),
    (400, "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "mood": 1}),
    (404, "/v1/chat/completions", {"model": "nobody", "messages": [{"role": "user", "content": "x"}]}),
    (404, "/v1/nothing", b"{}"),
    (404, "/v1/receipts/receipt-0/audit", b'{"method": "replay"}'),
    (400, "/v1/embeddings", b"null"),
    (400, "/v1/chat/completions", b"[" * 100_000),
]


async def malformed(lot):
    expected, path, body = lot.choice(MALFORMED)
    status, headers, content = await ask(path, body)
    if await busy("malformed", status, headers):
        return
    if status != expected or "message" not in json.loads(content)["error"]:
        raise Told(f"malformed: {status} where {expected} is right: {str(body)[:80]}: {content[:200]}")


KINDS = [(30, whole), (10, vectors), (15, pieces), (10, lambda lot: pieces(lot, pause=0.05 + lot.random() / 4)),
         (15, lambda lot: pieces(lot, leaves=True)), (5, unfinished), (5, oversized), (10, malformed)]


async def client(number, until):
    lot = random.Random(number)
    while time.monotonic() < until:
        kind = lot.choices([kind for _, kind in KINDS], [weight for weight, _ in KINDS])[0]
        try:
            await kind(lot)
        except (Told, ConnectionError, asyncio.TimeoutError, ValueError, KeyError) as error:
            wrong[f"{type(error).__name__}: {error}"] += 1


async def held():
    """Memory in MB, that of it which is kept of earlier prompts, descriptors and threads of the server."""
    _, _, metrics = await ask("/metrics", b"", "GET")
    kept = sum(float(line.split()[-1]) for line in metrics.decode().splitlines() if "_kept_bytes{" in line or "_kept_bytes " in line and line[0] != "#")
    lines = open(f"/proc/{server.pid}/status").read()
    of = lambda key: int(lines.split(key)[1].split()[0])
    return of("VmRSS:") / 1024, kept / 2**20, len(os.listdir(f"/proc/{server.pid}/fd")), of("Threads:")


async def watch(until, samples):
    while time.monotonic() < until:
        try:
            samples.append(await held())
        except (ConnectionError, asyncio.TimeoutError):
            pass
        await asyncio.sleep(1)


async def main():
    fixed = {"model": model, "messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 20, "temperature": 0.9, "seed": 3}
    text = lambda answer: json.loads(answer[2])["choices"][0]["message"]["content"]
    before = text(await ask("/v1/chat/completions", fixed))
    idle = await held()
    samples, until = [], time.monotonic() + SECONDS
    watching = asyncio.create_task(watch(until, samples))
    await asyncio.gather(*(client(number, until) for number in range(CLIENTS)))
    await watching
    await asyncio.sleep(5)
    after = text(await ask("/v1/chat/completions", fixed))
    end = await held()
    # What is kept for prompts that begin alike grows to its bound; what else there is must not grow.
    most = lambda part: max(memory - kept for memory, kept, _, _ in part)
    middle, last = most(samples[len(samples) // 4: len(samples) // 2]), most(samples[-len(samples) // 4:])
    for what, count in sorted(seen.items()):
        print(f"{count:7d}  {what}")
    print(f"memory: {idle[0]:.0f} MB idle, {end[0]:.0f} after, {end[1]:.0f} of it kept of prompts; without what is kept at most {middle:.0f} "
          f"in the second quarter, {last:.0f} in the last; descriptors {idle[2]}, {end[2]} after; threads {idle[3]}, {end[3]} after")
    failures = [f"{count} x {what}" for what, count in wrong.most_common(20)]
    failures += ["the same request has another answer"] if before != after else []
    failures += ["memory grows"] if last > 1.15 * middle + 20 else []
    failures += ["descriptors are left"] if end[2] > idle[2] + 8 else []
    failures += [] if any(key.endswith("429") for key in seen) else ["nobody was told to come again"]
    failures += ["the server has ended"] if server.poll() is not None else []
    if failures:
        sys.exit("\n".join(failures))


server = subprocess.Popen([ostrakon, "serve", writer, embedder, "--listen", "127.0.0.1:0", "--allow-unknown-signer", "--json", *BOUNDS],
                          stdout=subprocess.PIPE, text=True)
try:
    ready = json.loads(server.stdout.readline())
    port = int(ready["address"].rsplit(":", 1)[1])
    model, embedding = ([m["name"] for m in ready["models"] if m["task"] == task][0] for task in ("generation", "embedding"))
    asyncio.run(main())
    server.terminate()
    if server.wait(60) != 0:
        sys.exit(f"the server ended with {server.returncode}")
    print(f"{CLIENTS} clients, {SECONDS:.0f} s: all told what is right")
finally:
    server.kill()
