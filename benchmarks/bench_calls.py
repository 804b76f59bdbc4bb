"""Measures the cost of enforcing tool calls on 8 streams of the built-in model: free, strict and required.

Tokens per second of the engine, greedy, one thread; and the time to compile the grammar of 20 tools for every format,
the first time and again. usage: python benchmarks/bench_calls.py [--quick] [--waves N]
The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from array import array
from dataclasses import replace
from functools import partial

from bench_serve import machine
from models import BUILT_IN, REPOSITORY

from llamafast.chat.enforcing.output_grammar import CallPolicy
from llamafast.chat.formats import registry
from llamafast.chat.prompt.template import ChatTemplate
from llamafast.chat.tools import Tool
from llamafast.engine.engine import Engine, EngineConfig
from llamafast.engine.vocabulary import grammar_vocabulary
from llamafast.grammars.compiler import GrammarCompiler
from llamafast.grammars.structured import StructuredKind, StructuredOutput
from llamafast.request import Request, SamplingParams

STREAMS = 8
CITIES = ("Berlin", "Paris", "Rome", "Madrid", "Oslo", "Vienna", "London", "Tokyo")
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "The city name"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city"],
}
TOOLS = [Tool("get_weather", "Get the current weather", WEATHER, strict=True)]
RULES = {"auto": None, "strict": CallPolicy(), "required": CallPolicy(is_required=True)}


def prompts(engine: Engine) -> list[str]:
    """One question per stream, rendered with the tool."""
    template = ChatTemplate(engine.model_info.chat_template or "", bos_token="", eos_token="")
    tools = [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
        }
        for tool in TOOLS
    ]
    return [
        template.render(
            [{"role": "user", "content": f"What is the weather in {city}?"}],
            tools=tools,
            documents=None,
            add_generation_prompt=True,
            continue_final_message=False,
            enable_thinking=False,
        )
        for city in CITIES
    ]


def rate(engine: Engine, texts: list[str], rules: CallPolicy | None, waves: int) -> tuple[float, float]:
    """(tokens per second, decodes per token) of this many waves of streams."""
    params = SamplingParams(temperature=0.0, max_tokens=100)
    chat_format = registry.by_name("qwen3_xml")
    requests = []
    for i, text in enumerate(texts):
        grammar = None
        if rules is not None:
            structured = StructuredOutput(StructuredKind.LARK, chat_format.grammar(text, TOOLS, rules))
            params, grammar = replace(params, structured=structured), engine.compile_grammar(structured)
        token_ids = array("i", engine.tokenizer.encode(text, add_special=False, parse_special=True))
        requests.append(Request(str(i), token_ids, params, grammar=grammar))
    num_tokens, num_before, start = 0, engine.runner.num_decodes, time.perf_counter()
    for _ in range(waves):
        for request in requests:
            engine.add(request)
        while engine.has_work:
            num_tokens += sum(len(output.token_ids) for output in engine.step())
    elapsed = time.perf_counter() - start
    return num_tokens / elapsed, STREAMS * (engine.runner.num_decodes - num_before) / num_tokens


def compile_times(engine: Engine) -> list[dict[str, object]]:
    """Milliseconds to write and compile the grammar of 20 tools, by format."""
    schemas = json.loads((REPOSITORY / "tests" / "grammars" / "tool_schemas.json").read_text())
    objects = [name for name, schema in schemas.items() if schema.get("type") == "object"][:20]
    tools = [Tool(name, "", schemas[name], strict=True) for name in objects]
    compiler = GrammarCompiler(partial(grammar_vocabulary, engine.tokenizer))
    compiler.compile(StructuredOutput(StructuredKind.REGEX, "a"))  # prepares the vocabulary
    rows: list[dict[str, object]] = []
    for name in registry.names():
        chat_format = registry.by_name(name)
        if not chat_format.syntaxes:
            continue
        start = time.perf_counter()
        source = chat_format.grammar("", tools, CallPolicy(is_required=True))
        written = time.perf_counter()
        compiler.compile(StructuredOutput(StructuredKind.LARK, source))
        compiled = time.perf_counter()
        compiler.compile(StructuredOutput(StructuredKind.LARK, source))
        again = time.perf_counter()
        times = (written - start, compiled - written, again - compiled)
        row = dict(zip(("write_ms", "compile_ms", "again_ms"), (round(t * 1e3, 2) for t in times), strict=True))
        rows.append({"format": name, **row})
    compiler.close()
    return rows


def main() -> int:
    """Run, then print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waves", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one repeat of two waves")
    options = parser.parse_args()
    if options.quick:
        options.waves, options.repeats = 2, 1
    with Engine(str(BUILT_IN), EngineConfig(n_ctx=8192, n_seq_max=STREAMS, threads=1)) as engine:
        texts = prompts(engine)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in RULES}
        for rules in RULES.values():
            rate(engine, texts, rules, 1)
        for _ in range(options.repeats):
            for name, rules in RULES.items():
                found[name].append(rate(engine, texts, rules, options.waves))
        compiles = compile_times(engine)
    rows = [
        {
            "tool_choice": name,
            "tokens_per_s": round(statistics.median(each for each, _ in rates), 1),
            "decodes_per_token": round(statistics.median(each for _, each in rates), 3),
        }
        for name, rates in found.items()
    ]
    print(json.dumps({"bench": "calls", "streams": STREAMS, "machine": machine(), "rows": rows, "compiles": compiles}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
