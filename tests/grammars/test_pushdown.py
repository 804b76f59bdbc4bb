"""GBNF: agrees with llama.cpp's grammar sampler, and refuses dangerous grammars."""

from __future__ import annotations

import ctypes
import itertools
import random
import re
import time
from collections.abc import Iterable

import llama_cpp.llama_cpp as raw
import pytest

from llamafast._core import Model
from llamafast.errors import GrammarError
from llamafast.grammars.pushdown import compile_gbnf
from llamafast.grammars.vocabulary import Vocabulary
from tests.grammars.vocabularies import BUILT_IN, bytes_vocabulary, model_vocabulary, text_of

SILENT = raw.llama_log_callback(lambda level, text, data: None)  # must outlive the calls

JSON = r"""root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
GRAMMARS = {
    "json": JSON,
    "list": 'root ::= item+\n# a comment\nitem ::= "- " [^\\r\\n\\x0b\\x0c\\x85\\u2028\\u2029]+ "\\n"',
    "choice": 'root ::= "yes" | "yesterday" | "no" ("t"? "hing")?',
    "arithmetic": 'root ::= (expr "=" term "\\n")+\nexpr ::= term ([-+*/] term)*\nterm ::= [0-9]+ | "(" expr ")"',
    "unicode": "root ::= [\u3041-\u309f\U0001f600-\U0001f64f\u00e0-\u00ff]{2,5} .",
    "brackets": 'root ::= "(" root ")" root | ""',
    "counted": 'root ::= ("ab" | "a"){3,} "c"{2} "d"{0,2}',
    "ambiguous": 'root ::= s\ns ::= "a" (s "b" | s "c" | "")',
    "optional loop": 'root ::= ("a"* "b"?)* "."',
}


class Reference:
    """llama.cpp's grammar sampler for one vocabulary, asked about the tokens that are whole characters.

    It accepts overlong bytes, but not NUL, nor the first byte of a character next to one that is excluded.
    """

    def __init__(self, path: str) -> None:
        raw.llama_log_set(SILENT, None)
        params = raw.llama_model_default_params()
        params.vocab_only = True
        self.model = raw.llama_model_load_from_file(path.encode(), params)
        self.vocab = raw.llama_model_get_vocab(self.model)
        self.n_vocab = raw.llama_vocab_n_tokens(self.vocab)
        # A control token writes nothing, whatever its name means to llama.cpp.
        self.ids = [i for i in range(self.n_vocab) if self._is_comparable(i)]

    def _is_comparable(self, token_id: int) -> bool:
        data = ctypes.create_string_buffer(64)
        length = raw.llama_token_to_piece(self.vocab, token_id, data, 64, 0, False)
        is_text = length > 0 and data.raw[0] > 0 and "\ufffd" not in data.raw[:length].decode("utf-8", "replace")
        return is_text or raw.llama_vocab_is_eog(self.vocab, token_id)

    def start(self, grammar: str):
        return raw.llama_sampler_init_grammar(self.vocab, grammar.encode(), b"root")

    def allowed(self, sampler) -> set[int]:
        tokens = (raw.llama_token_data * len(self.ids))(*((i, 0.0, 0.0) for i in self.ids))
        array = raw.llama_token_data_array(tokens, len(self.ids), -1, False)
        raw.llama_sampler_apply(sampler, ctypes.byref(array))
        return {token.id for token in tokens if token.logit == 0.0}


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(BUILT_IN)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return model_vocabulary(Model(BUILT_IN, vocab_only=True))


def allowed(mask: bytes, ids: Iterable[int]) -> set[int]:
    return {i for i in ids if mask[i // 8] >> i % 8 & 1}


@pytest.mark.parametrize("name", GRAMMARS)
def test_gbnf_allows_what_llama_cpp_allows(name, reference, vocabulary) -> None:
    rng = random.Random(name)
    program = compile_gbnf(vocabulary, GRAMMARS[name])
    for _ in range(3):
        sampler, constraint = reference.start(GRAMMARS[name]), program.start()
        for _ in range(12):
            expected = reference.allowed(sampler)
            assert allowed(constraint.mask(), reference.ids) == expected
            tokens = sorted(expected - vocabulary.eog_ids)
            assert constraint.is_finished == (not tokens)
            if not tokens:
                break
            token_id = rng.choice(tokens)
            assert constraint.accept(token_id)
            raw.llama_sampler_accept(sampler, token_id)
        raw.llama_sampler_free(sampler)


def test_gbnf_accepts_exactly_what_its_mask_allows(vocabulary) -> None:
    program = compile_gbnf(vocabulary, JSON)
    ids = range(vocabulary.n_vocab)
    assert {i for i in ids if program.start().accept(i)} == allowed(program.start().mask(), ids)


@pytest.mark.parametrize(
    "ranges", ["\u0000-\u007f", "\u0080-\u07ff", "\u0fff-\ud7ff", "\ue000-\U0010ffff", "a\u07f0-\u0810"]
)
def test_gbnf_class_matches_its_code_points_only(ranges) -> None:
    program = compile_gbnf(bytes_vocabulary(), "root ::= [" + ranges.encode("unicode-escape").decode() + "]")
    inside = re.compile(f"[{ranges}]")
    for code_point in (0, 0x61, 0x7F, 0x80, 0x7EF, 0x7F0, 0x7FF, 0x800, 0x811, 0xFFE, 0xFFF, 0xD7FF, 0xE000, 0x10FFFF):
        constraint, char = program.start(), chr(code_point)
        assert all(constraint.accept(byte) for byte in char.encode()) == bool(inside.match(char)), hex(code_point)


def test_gbnf_class_matches_no_overlong_bytes() -> None:
    constraint = compile_gbnf(bytes_vocabulary(), "root ::= .").start()
    assert not all(constraint.accept(byte) for byte in b"\xf0\x83\x81\x81")


def test_gbnf_forced_text_stops_where_there_is_a_choice() -> None:
    program = compile_gbnf(bytes_vocabulary(), 'root ::= "{\\"name\\": \\"" ("a" | "b") "\\"}"')
    assert text_of(program.start().forced()) == '{"name": '


HOSTILE = {
    "deep groups": "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000,
    "left recursion": 'root ::= root "a" | "b"',
    "indirect left recursion": 'root ::= x\nx ::= y "a"\ny ::= x "b" | "c"',
    "left recursion behind nothing": 'root ::= empty root "a" | "b"\nempty ::= "x"?',
    "never ends": 'root ::= "a" root',
    "no text": "root ::= [z-a]",
    "huge repetition": 'root ::= "a"{1000000000}',
    "backward repetition": 'root ::= "a"{5,2}',
    "nested repetition": 'root ::= (("a"{0,100}){0,100}){0,100}',
    "doubling chain": "root ::= r0\n"
    + "".join(f'r{i} ::= r{i + 1} | r{i + 1} "b"\n' for i in range(40))
    + 'r40 ::= "a"',
    "chain": "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(9000)) + 'r9000 ::= "a"',
    "optional row": "root ::= " + " ".join(['"a"?'] * 5000),
    "operator row": 'root ::= "a"' + "*" * 10_000,
    "long literal": 'root ::= "' + "a" * 200_000 + '"',
    "no rule": "",
    "undefined rule": "root ::= x",
    "no root": 'x ::= "a"',
    "open literal": 'root ::= "a',
    "lone surrogate": 'root ::= "\\ud800"',
    "nonsense": "\0\xff",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_gbnf_hostile_grammar_is_refused_at_once(name) -> None:
    start = time.process_time()
    with pytest.raises(GrammarError):
        compile_gbnf(bytes_vocabulary(), HOSTILE[name])
    assert time.process_time() - start < 2


def test_gbnf_that_explodes_later_ends_with_an_error() -> None:
    program = compile_gbnf(bytes_vocabulary(), 'root ::= s\ns ::= "a" (s "b" | s "c" | "d")')
    constraint = program.start()
    with pytest.raises(GrammarError):
        for _ in range(30):
            constraint.mask()
            assert constraint.accept(ord("a"))


@pytest.mark.parametrize(
    ("text", "max_bytes"), [(JSON, 150_000), ('root ::= [ab]* "a" [ab]{12} "."', 60_000)], ids=["json", "ambiguous"]
)
def test_machine_short_of_memory_forgets_states_and_allows_the_same(text, max_bytes) -> None:
    """Two sequences run in turns, so one is always in a state while the other makes room."""
    whole, cramped = (compile_gbnf(bytes_vocabulary(), text, max_bytes=size) for size in (1 << 25, max_bytes))
    rng, largest = random.Random(1), 0
    pairs = [(whole.start(), cramped.start()) for _ in range(2)]
    for step in range(600):
        first, second = pairs[step // 7 % 2]
        mask = first.mask()
        assert second.mask() == mask
        allowed = [i for i in b'ab{[:,"0 ' if mask[i // 8] >> i % 8 & 1]
        if allowed:
            token_id = rng.choice(allowed)
            assert first.accept(token_id) and second.accept(token_id)
        largest = max(largest, cramped._machine.num_state_bytes)
    assert largest < 2 * max_bytes < whole._machine.num_state_bytes


def test_machine_without_room_for_its_states_raises_grammar_error() -> None:
    constraint = compile_gbnf(bytes_vocabulary(), 'root ::= [ab]* "a" [ab]{500}', max_bytes=30_000).start()
    with pytest.raises(GrammarError, match="memory"):
        for token_id in b"a" * 400:
            constraint.accept(token_id)


def test_machine_whose_step_takes_too_long_raises_grammar_error() -> None:
    words = ["".join(letters).encode() for letters in itertools.product("ab", repeat=11)]
    vocabulary = Vocabulary([b"a", b"b", b"", *words], {2: b"<end>"}, [2], lambda text: [])
    constraint = compile_gbnf(vocabulary, 'root ::= [ab]* "a" [ab]{500}').start()
    rng = random.Random(1)
    with pytest.raises(GrammarError, match="too long"):
        for _ in range(500):
            constraint.accept(rng.randrange(2))
        constraint.mask()
