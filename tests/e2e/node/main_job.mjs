// Asks the server at argv[2] through openai-node and prints what came back as one JSON object.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const models = await client.models.list();
const model = models.data[0].id;
const messages = [{ role: "user", content: "What is the capital of France?" }];
const options = { model, messages, temperature: 0, logprobs: true, top_logprobs: 2 };

const whole = await client.chat.completions.create(options);
const streamed = { content: "", finish_reason: null, usage: null, tokens: 0 };
const chunks = await client.chat.completions.create({
  ...options,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of chunks) {
  streamed.usage = chunk.usage ?? streamed.usage;
  for (const choice of chunk.choices) {
    streamed.content += choice.delta.content ?? "";
    streamed.finish_reason = choice.finish_reason ?? streamed.finish_reason;
    streamed.tokens += choice.logprobs?.content?.length ?? 0;
  }
}
const runner = client.chat.completions.stream(options);
const final = await runner.finalChatCompletion();

const prompt = "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";
const completion = await client.completions.create({ model, prompt: [prompt, prompt], temperature: 0, n: 2 });
const texts = ["", ""];
for await (const chunk of await client.completions.create({ model, prompt, temperature: 0, n: 2, stream: true })) {
  for (const choice of chunk.choices) texts[choice.index] += choice.text;
}

let error = null;
try {
  await client.completions.create({ model, prompt: "Hi", temperature: -1 });
} catch (caught) {
  error = { name: caught.constructor.name, status: caught.status, param: caught.param, type: caught.type };
}

// A stream left early: the server must free the sequence (the caller looks at its metrics).
const endless = await client.completions.create({
  model, prompt, max_tokens: 20000, stream: true, ignore_eos: true, temperature: 0.8,
});
for await (const _ of endless) break;

console.log(JSON.stringify({ model, whole, streamed, final, completion, texts, error }));
