// The official JavaScript client against a running server. usage: openai_javascript.mjs URL WRITER EMBEDDER
import assert from "node:assert/strict";
import OpenAI from "openai";
import { readFileSync } from "node:fs";

const [url, writer, embedder] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: "unused", maxRetries: 0 });
const messages = [{ role: "user", content: "What is the capital of France?" }];

const names = [];
for await (const model of client.models.list()) names.push(model.id);
assert.ok(names.includes(writer) && names.includes(embedder), names);

const asked = { model: writer, messages, max_completion_tokens: 24, seed: 7, temperature: 0.7 };
const whole = await client.chat.completions.create(asked);
const text = whole.choices[0].message.content;
assert.ok(text.length > 0 && whole.usage.total_tokens > 0);

const stream = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
let streamed = "", ends = [], usage = null;
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  if (chunk.choices[0]?.finish_reason) ends.push(chunk.choices[0].finish_reason);
  usage = chunk.usage ?? usage;
}
assert.equal(streamed, text);
assert.deepEqual(ends, [whole.choices[0].finish_reason]);
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
const helper = client.chat.completions.stream(asked);
assert.equal((await helper.finalChatCompletion()).choices[0].message.content, text);

// Leaving in the middle of an answer is nobody's error.
const left = await client.chat.completions.create({ ...asked, max_completion_tokens: 200, stream: true });
for await (const _ of left) break;

const completion = await client.completions.create({ model: writer, prompt: "One, two,", max_tokens: 4 });
assert.equal(completion.object, "text_completion");

// The client asks for base64 where no format is named, and reads it itself.
const vectors = await client.embeddings.create({ model: embedder, input: ["A man is eating food.", "A man eats."] });
const floats = await client.embeddings.create({ model: embedder, input: "A man is eating food.", encoding_format: "float" });
assert.equal(vectors.data.length, 2);
vectors.data[0].embedding.forEach((x, at) => assert.ok(Math.abs(x - floats.data[0].embedding[at]) < 1e-6));

await assert.rejects(client.chat.completions.create({ ...asked, model: "gpt-4" }), (error) =>
  error instanceof OpenAI.NotFoundError && error.code === "model_not_found");
await assert.rejects(client.chat.completions.create({ ...asked, temperature: -1 }), (error) =>
  error instanceof OpenAI.BadRequestError && error.param === "temperature");
await assert.rejects(client.chat.completions.create({ ...asked, tools: [{ type: "function", function: { name: "f" } }] }), (error) =>
  error instanceof OpenAI.BadRequestError && error.param === "tools");

const version = JSON.parse(readFileSync(new URL("node_modules/openai/package.json", import.meta.url))).version;
console.log(`openai ${version} (JavaScript): models, chat, streams, texts, vectors, errors: fine`);
