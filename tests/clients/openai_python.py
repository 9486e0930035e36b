"""The official Python client against a running server. usage: openai_python.py URL WRITER EMBEDDER"""
import asyncio
import sys
import urllib.request

import openai

url, writer, embedder = sys.argv[1:4]
client = openai.OpenAI(base_url=url, api_key="unused", max_retries=0)
messages = [{"role": "user", "content": "What is the capital of France?"}]

names = [model.id for model in client.models.list()]
assert {writer, embedder} <= set(names), names
assert client.models.retrieve(writer).id == writer

# A conversation, whole and in pieces: the same answer.
whole = client.chat.completions.create(model=writer, messages=messages, max_completion_tokens=24, seed=7, temperature=0.7)
text = whole.choices[0].message.content
assert text and whole.choices[0].finish_reason in ("stop", "length") and whole.usage.completion_tokens > 0
assert whole.system_fingerprint.startswith("fp_") and whole.seed == 7
stream = client.chat.completions.create(model=writer, messages=messages, max_completion_tokens=24, seed=7, temperature=0.7,
                                        stream=True, stream_options={"include_usage": True})
chunks = list(stream)
assert chunks[0].choices[0].delta.role == "assistant"
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
assert all(chunk.choices[0].finish_reason is None for chunk in chunks[:-2])
assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens and not chunks[-1].choices
# The client's own helper puts a stream together again.
with client.chat.completions.stream(model=writer, messages=messages, max_completion_tokens=24, seed=7, temperature=0.7) as events:
    for _ in events:
        pass
    assert events.current_completion_snapshot.choices[0].message.content == text
# An answer goes back as it came.
turn = [*messages, whole.choices[0].message, {"role": "user", "content": "Why?"}]
assert client.chat.completions.create(model=writer, messages=turn, max_tokens=4).choices[0].message.role == "assistant"
scored = client.chat.completions.create(model=writer, messages=messages, max_tokens=3, logprobs=True, top_logprobs=4, temperature=0)
assert all(len(token.top_logprobs) == 4 and token.logprob <= 0 for token in scored.choices[0].logprobs.content)
several = client.chat.completions.create(model=writer, messages=messages, max_tokens=3, n=3, extra_body={"top_k": 50})
assert [choice.index for choice in several.choices] == [0, 1, 2]
# Every answer names its receipt, in pieces the last one does.
named = [choice.ostrakon["receipt"] for choice in [*several.choices, chunks[-2].choices[0]]]
assert len(set(named)) == 4 and all("ostrakon" not in (chunk.choices[0].model_extra or {}) for chunk in chunks[:-2])
assert len(urllib.request.urlopen(f"{url}/receipts/{named[3]}").read()) > 1000

# Texts.
done = client.completions.create(model=writer, prompt=["One, two,", "Red, green,"], max_tokens=4, echo=True, logprobs=1)
assert done.choices[1].text.startswith("Red, green,")
assert len(done.choices[0].logprobs.tokens) == len(done.choices[0].logprobs.token_logprobs)
pieces = [chunk.choices[0].text for chunk in client.completions.create(model=writer, prompt="One, two,", max_tokens=6, seed=1, stream=True)]
assert "".join(pieces) == client.completions.create(model=writer, prompt="One, two,", max_tokens=6, seed=1).choices[0].text

# Vectors. (The client asks for base64 and reads it itself.)
texts = ["A man is eating food.", "A man is eating a piece of bread."]
vectors = [one.embedding for one in client.embeddings.create(model=embedder, input=texts).data]
floats = [one.embedding for one in client.embeddings.create(model=embedder, input=texts, encoding_format="float").data]
assert len(vectors) == 2 and all(abs(a - b) < 1e-6 for a, b in zip(vectors[0], floats[0]))
assert sum(a * b for a, b in zip(*vectors)) > 0.7


def refused(kind, **more):
    arguments = {"model": writer, "messages": messages, "max_tokens": 2, **more}
    try:
        client.chat.completions.create(**arguments)
    except kind as error:
        return error.body
    raise AssertionError(f"{more} was not refused")


assert refused(openai.NotFoundError, model="gpt-4")["code"] == "model_not_found"
assert refused(openai.BadRequestError, temperature=-1)["param"] == "temperature"
tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
assert refused(openai.BadRequestError, tools=tools)["param"] == "tools"
assert refused(openai.BadRequestError, response_format={"type": "json_object"})["param"] == "response_format"


async def together():
    async with openai.AsyncOpenAI(base_url=url, api_key="unused") as several:
        ask = lambda seed: several.chat.completions.create(model=writer, messages=messages, max_tokens=8, seed=seed)
        first = await asyncio.gather(*(ask(seed) for seed in range(8)))
        again = await asyncio.gather(*(ask(seed) for seed in reversed(range(8))))
        return [[answer.choices[0].message.content for answer in answers] for answers in (first, again[::-1])]


first, again = asyncio.run(together())
assert first == again
print(f"openai {openai.__version__} (Python): models, chat, streams, likelihoods, texts, vectors, errors, receipts, 16 at once: fine")
