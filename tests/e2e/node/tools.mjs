// Asks the server at argv[2] for tool calls, as whole answers, as streams and through openai-node's tool runner.
// The transcripts are at argv[3]. Prints one JSON object.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const recorded = JSON.parse(readFileSync(process.argv[3], "utf8")).filter((item) => !item.image);

const pairs = [];
for (const item of recorded.filter((item) => item.tools || item.thinking).slice(0, 24)) {
  const options = { model, messages: item.messages, temperature: 0, max_tokens: 100, enable_thinking: item.thinking };
  if (item.tools) options.tools = item.tools;
  const whole = (await client.chat.completions.create(options)).choices[0];
  const stream = client.chat.completions.stream(options);
  let reasoning = "";
  stream.on("chunk", (chunk) => { reasoning += chunk.choices[0]?.delta?.reasoning_content ?? ""; });
  const streamed = (await stream.finalChatCompletion()).choices[0];
  pairs.push({ whole, streamed, reasoning });
}

const asked = [];
const runner = client.chat.completions.runTools({
  model, temperature: 0, enable_thinking: false,
  messages: [{ role: "user", content: "What is the weather in Paris?" }],
  tools: [{
    type: "function",
    function: {
      name: "get_weather",
      description: "Get the current weather",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
      parse: JSON.parse,
      function: ({ city }) => { asked.push(city); return '{"temperature": 18, "condition": "sunny"}'; },
    },
  }],
});
const said = await runner.finalContent();
console.log(JSON.stringify({ pairs, asked, said }));
