// The official Node SDKs, as their users call them. `node calls.mjs CASE,CASE OPENAI ANTHROPIC`
// runs the cases against two base URLs and prints what the client got of each, as one JSON array.
// GIVEN in the environment: the clients' key and headers, as JSON.
import process from "node:process";

import Anthropic from "@anthropic-ai/sdk";
import OpenAI, { toFile } from "openai";

const [, , wanted, openaiUrl, anthropicUrl] = process.argv;
const given = { maxRetries: 0, ...JSON.parse(process.env.GIVEN) };
const gpt = new OpenAI({ baseURL: openaiUrl, ...given });
const claude = new Anthropic({ baseURL: anthropicUrl, ...given });
const messages = [{ role: "user", content: "ping" }];
const asked = { model: "gpt-4o", messages };
const said = { model: "claude-haiku-4-5-20251001", max_tokens: 2000, messages };
const parameters = { type: "object", properties: { city: { type: "string" } } };
const names = ["weather", "time"];

async function all(stream) {
  const got = [];
  for await (const each of stream) got.push(each);
  return got;
}

async function failure(promise) {
  try {
    return await promise;
  } catch (error) {
    return { kind: error.constructor.name, status: error.status, error: error.error };
  }
}

const cases = {
  chat: () => gpt.chat.completions.create(asked),
  chat_stream: async () =>
    all(
      await gpt.chat.completions.create({
        ...asked,
        stream: true,
        stream_options: { include_usage: true },
      }),
    ),
  chat_tools: () =>
    gpt.chat.completions
      .stream({
        ...asked,
        tools: names.map((each) => ({ type: "function", function: { name: each, parameters } })),
      })
      .finalChatCompletion(),
  chat_error: () => failure(gpt.chat.completions.create(asked)),
  chat_leave: async () => {
    const stream = await gpt.chat.completions.create({ ...asked, stream: true });
    for await (const chunk of stream) {
      stream.controller.abort();
      return chunk;
    }
  },
  response_leave: async () => {
    const stream = await gpt.responses.create({ model: "gpt-4o", input: "ping", stream: true });
    for await (const event of stream) {
      stream.controller.abort();
      return event.type;
    }
  },
  response: () => gpt.responses.create({ model: "gpt-4o", input: "ping" }),
  response_stream: async () =>
    all(await gpt.responses.create({ model: "gpt-4o", input: "ping", stream: true })),
  openai_files: async () => {
    const file = await toFile(Buffer.from("line one\n"), "notes.txt");
    const made = await gpt.files.create({ file, purpose: "user_data" });
    return [made, await (await gpt.files.content(made.id)).text()];
  },
  message: () => claude.messages.create(said),
  message_stream: async () => all(await claude.messages.create({ ...said, stream: true })),
  message_tools: () =>
    claude.messages
      .stream({
        ...said,
        thinking: { type: "enabled", budget_tokens: 1024 },
        tools: names.map((each) => ({ name: each, input_schema: parameters })),
      })
      .finalMessage(),
  message_error: () => failure(claude.messages.create(said)),
  message_leave: async () => {
    const stream = await claude.messages.create({ ...said, stream: true });
    for await (const event of stream) {
      stream.controller.abort();
      return event.type;
    }
  },
  message_signal: async () => {
    const leaving = new AbortController();
    const stream = claude.messages.stream(said, { signal: leaving.signal });
    stream.on("text", () => leaving.abort());
    return failure(stream.finalMessage());
  },
  message_aside: async () => {
    const requests = [{ custom_id: "one", params: said }];
    const batch = await claude.messages.batches.create({ requests });
    const results = await all(await claude.messages.batches.results(batch.id));
    const { model } = said;
    return [batch, results, await claude.messages.countTokens({ model, messages })];
  },
};

const got = [];
for (const name of wanted.split(",")) got.push(await cases[name]());
process.stdout.write(JSON.stringify(got) + "\n");
