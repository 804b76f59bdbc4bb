// Streams responses of the server at argv[2] through openai-node, which checks the order of the events, and prints what
// they added up to as one JSON object.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const models = await client.models.list();
const model = models.data[0].id;
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", name: "get_weather", description: "Get the weather", parameters, strict: false }];
const france = { model, input: "What is the capital of France?", temperature: 0 };
const weather = { model, input: "What is the weather in Paris and London?", temperature: 0, tools };

const streamed = [];
for (const body of [france, { ...france, max_output_tokens: 5 }, weather, { ...weather, tool_choice: "required" }]) {
  streamed.push(await client.responses.stream(body).finalResponse());
}

let id;
for await (const event of await client.responses.create({ ...france, background: true, stream: true })) {
  id = event.response?.id ?? id;
}
const resumed = client.responses.stream({ response_id: id, starting_after: 3 });
const numbers = [];
for await (const event of resumed) numbers.push(event.sequence_number);
console.log(JSON.stringify({ streamed, numbers, resumed: await resumed.finalResponse() }));
