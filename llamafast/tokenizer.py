"""Text to token ids and back: Tokenizer, Detokenizer (bytes to text as they come) and StopMatcher."""

from __future__ import annotations

import string
from codecs import utf_8_decode
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

from llamafast.errors import InvalidRequestError, ShuttingDownError

if TYPE_CHECKING:
    from llamafast._core import Model

# A character of a stop string takes some 400 bytes in an automaton, and the automaton itself as much as five.
_MAX_CACHED_CHARS = 65_536
_AUTOMATON_CHARS = 5
_ANCHOR = "\n"
# What normalizers change: blanks in a row, composed and rare characters, a soft hyphen, a ligature, capitals.
_ODD_TEXT = "A  b\t\t\n\n  \u00e9e\u0301\u4e2d\U00013000\U00013001\u00ad\u200b\ufb01 \u3000Z"


@dataclass(frozen=True, slots=True)
class TokenTable:
    """What each token id writes, both lists of shape (n_vocab,).

    pieces[i] is the text of token i, or None where its bytes alone are not complete UTF-8.
    """

    token_bytes: list[bytes]
    pieces: list[str | None]


class Tokenizer:
    """The vocabulary of a model as Python sees it. Thread-safe: everything is computed once, or by pure calls.

    token_bytes[i] and pieces[i] are those of TokenTable, control tokens being empty. eos_id and bos_id are -1 where
    the vocabulary has none; suppress_ids must not be generated; fim_ids are the prefix, suffix and middle tokens, None
    unless all three exist.
    """

    def __init__(self, model: Model) -> None:
        self._open_model: Model | None = model
        self.n_vocab = model.n_vocab
        # A byte-pair vocabulary that names no such token gets llama.cpp's fallback, token 11: an ordinary word.
        self.bos_id = model.bos_id if model.bos_id >= 0 and model.is_control(model.bos_id) else -1
        self.eos_id = model.eos_id if model.eos_id >= 0 and model.is_control(model.eos_id) else -1
        self.add_bos = model.add_bos
        self.eog_ids = frozenset(i for i in range(self.n_vocab) if model.is_eog(i))
        self.suppress_ids = model.suppress_ids
        self.fim_ids = model.fim_ids if min(model.fim_ids) >= 0 else None
        self._with_shown: dict[frozenset[int], TokenTable] = {}
        self._plain = _table([model.token_bytes(i) for i in range(self.n_vocab)])
        self.token_bytes = self._plain.token_bytes
        self.pieces = self._plain.pieces
        # SentencePiece vocabularies write a space before a text, so a text cut in two would gain one at the cut.
        self._adds_space = self.decode(self.encode("a", add_special=False, parse_special=False)).startswith(" ")

    def close(self) -> None:
        """Let go of the model, whoever still holds this; what needs it raises ShuttingDownError from now on."""
        self._open_model = None

    @property
    def _model(self) -> Model:
        model = self._open_model
        if model is None:
            raise ShuttingDownError("the engine is closed")
        return model

    def table(self, *, skip_special: bool, shown_ids: frozenset[int] = frozenset()) -> TokenTable:
        """The token table; control tokens write their own text, with skip_special only those of shown_ids."""
        if not skip_special:
            return self._special
        if not shown_ids:
            return self._plain
        table = self._with_shown.get(shown_ids)
        if table is None:  # a chat format's markers: few sets in a process
            names = [self.token_bytes_of(i, i in shown_ids) for i in range(self.n_vocab)]
            table = self._with_shown[shown_ids] = _table(names)
        return table

    @cached_property
    def _special(self) -> TokenTable:
        return _table([piece or self._model.token_bytes(i, True) for i, piece in enumerate(self.token_bytes)])

    def control_texts(self) -> frozenset[str]:
        """The texts that become control tokens where they are parsed."""
        names = (self._model.token_bytes(i, True) for i, data in enumerate(self.token_bytes) if not data)
        return frozenset(name.decode("utf-8", "replace") for name in names if name)

    def defined_texts(self) -> frozenset[str]:
        """The texts that become one token each even where control tokens are not parsed: tags, but also mere blanks."""
        names = (data for i, data in enumerate(self.token_bytes) if self._model.is_user_defined(i))
        return frozenset(name.decode("utf-8", "replace") for name in names if name)

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of text. add_special: put BOS/EOS where the vocabulary asks for it, but no BOS before one that the
        text begins with; parse_special: control tokens written in the text become those tokens.

        Raises InvalidRequestError if text holds a lone surrogate.
        """
        try:
            token_ids = self._model.tokenize(text, add_special, parse_special)
            is_doubled = add_special and self.add_bos and token_ids[:2] == [self.bos_id, self.bos_id]
            return token_ids[1:] if is_doubled else token_ids
        except UnicodeEncodeError as error:
            message = f"the text is not valid Unicode: lone surrogate at character {error.start}"
            raise InvalidRequestError(message) from None

    def min_tokens(self, text: str) -> int:
        """So many tokens a text surely has; known without tokenizing it. 0 where the vocabulary may drop anything."""
        longest, keeps_blanks = self._longest
        if not longest:
            return 0
        num_bytes = len(text.encode("utf-8", "surrogatepass"))
        if not keeps_blanks:
            num_bytes -= sum(map(text.count, string.whitespace))
        return -(-num_bytes // longest)

    @cached_property
    def _longest(self) -> tuple[int, bool]:
        """The most bytes that one token writes, 0 where texts do not come back as they were; whether blanks do.

        Normalizers change characters or drop them, unknown ones can all be one token, and some control tokens swallow
        the blanks around them.
        """
        most = max(len(self.token_bytes_of(i, special=True)) for i in range(self.n_vocab))
        names = sorted(self.control_texts())
        if self._comes_back("  ".join([_ODD_TEXT, *names, ""])):
            return most, True
        return (most, False) if self._comes_back("x".join([_ODD_TEXT, *names, ""])) else (0, False)

    def _comes_back(self, text: str) -> bool:
        again = self.decode(self.encode(text, add_special=False, parse_special=True), skip_special=False)
        return again.removeprefix(" ") == text

    def encode_segments(
        self, segments: Sequence[tuple[str, bool]], between: Callable[[], object] = lambda: None
    ) -> list[int]:
        """Token ids of (text, parse_special) pieces, one after the other, without BOS or EOS.

        Only pieces with parse_special True may name control tokens. between() is called before each piece: what it
        raises ends the work. Raises InvalidRequestError as encode does.
        """
        token_ids: list[int] = []
        for text, parse_special in segments:
            between()
            if self._adds_space and token_ids and not self._is_special(token_ids[-1]):
                # Behind other text this piece must not gain a space: tokenize it after an anchor, then cut the anchor.
                anchor = self.encode(_ANCHOR, add_special=False, parse_special=False)
                anchored = self.encode(_ANCHOR + text, add_special=False, parse_special=parse_special)
                token_ids += anchored[len(anchor) :]
            else:
                token_ids += self.encode(text, add_special=False, parse_special=parse_special)
        return token_ids

    def decode(self, token_ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of token_ids; bad bytes become U+FFFD. Raises ValueError for an id outside the vocabulary."""
        table = self.table(skip_special=skip_special).token_bytes
        return b"".join([table[self._checked(i)] for i in token_ids]).decode("utf-8", "replace")

    def _is_special(self, token_id: int) -> bool:
        return self._model.is_control(token_id) or self._model.is_user_defined(token_id)

    def is_text(self, token_id: int) -> bool:
        """Whether the token writes something even where control tokens are skipped."""
        return bool(self.token_bytes[token_id])

    def token_bytes_of(self, token_id: int, special: bool = False) -> bytes:
        """Bytes of one token; with special, those of a control token's name. Raises ValueError for a bad id."""
        plain = self.token_bytes[self._checked(token_id)]
        return self._model.token_bytes(token_id, True) if special and not plain else plain

    def _checked(self, token_id: int) -> int:
        if not 0 <= token_id < self.n_vocab:
            raise ValueError(f"token id {token_id} is outside the vocabulary of {self.n_vocab}")
        return token_id


class Detokenizer:
    """Turns one sequence's tokens into text as they come; O(1) per token.

    All of add() and then flush() joined is the tokens' bytes decoded at once with errors="replace".
    """

    __slots__ = ("_pending", "_pieces", "_token_bytes")

    def __init__(
        self, tokenizer: Tokenizer, skip_special: bool = True, shown_ids: frozenset[int] = frozenset()
    ) -> None:
        table = tokenizer.table(skip_special=skip_special, shown_ids=shown_ids)
        self._pieces = table.pieces
        self._token_bytes = table.token_bytes
        self._pending = b""

    def add(self, token_id: int) -> str:
        """The text that token_id completes: "" while a character is unfinished, U+FFFD as soon as bytes are bad."""
        if not self._pending:
            piece = self._pieces[token_id]
            if piece is not None:
                return piece
        data = self._pending + self._token_bytes[token_id]
        text, num_used = utf_8_decode(data, "replace", False)
        self._pending = data[num_used:]
        if self._pending[:1] == b"\xed" and self._pending[1:] >= b"\xa0":
            # A surrogate's first two bytes: never valid, but the codec waits for the third before it says so.
            return text + self.flush()
        return text

    def flush(self) -> str:
        """What an unfinished character leaves at the end: U+FFFD or ""."""
        text = self._pending.decode("utf-8", "replace")
        self._pending = b""
        return text


class StopMatcher:
    """Finds the first stop string in a text that comes in parts, and never lets out a part of one. Empty stops match
    nothing.

    Of all stops in the text the one that ends first wins; of those ending at one character, the longest.
    Source: Aho and Corasick, CACM 18(6), 1975; amortized O(1) per character whatever the number of stops.
    """

    __slots__ = ("_automaton", "_state")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._automaton = _automata.get(stops)
        self._state = 0

    def add(self, text: str) -> tuple[str, str | None]:
        """(text that is safe to send now, the stop that is complete now or None).

        With a stop, the text goes up to where the stop begins and the matcher starts anew.
        """
        automaton = self._automaton
        if self._state == 0 and automaton.first_chars.isdisjoint(text):
            return text, None
        edges, fail, match_length = automaton.edges, automaton.fail, automaton.match_length
        before = state = self._state
        for i, char in enumerate(text):
            next_state = edges[state].get(char)
            while next_state is None and state:
                state = fail[state]
                next_state = edges[state].get(char)
            state = next_state or 0
            if match_length[state]:
                self._state = 0
                length = match_length[state]
                num_safe = automaton.depth[before] + i + 1 - length
                return automaton.emit(before, text, num_safe), automaton.prefix(state)[-length:]
        self._state = state
        return automaton.emit(before, text, automaton.depth[before] + len(text) - automaton.depth[state]), None

    def flush(self) -> str:
        """The text held back, at the end of the sequence."""
        text = self._automaton.prefix(self._state)
        self._state = 0
        return text


class _Automaton:
    """The stops as a trie with failure links. State 0 is the root; each state stands for a prefix of some stop.

    The text held back is always the prefix its state stands for, so a matcher needs no buffer.
    """

    __slots__ = ("depth", "edges", "fail", "first_chars", "match_length", "stop_of")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.edges: list[dict[str, int]] = [{}]
        self.depth = [0]
        self.stop_of = [""]  # any stop that begins with the state's prefix
        self.match_length = [0]  # of the longest stop that ends here
        for stop in stops:
            self._insert(stop)
        self.fail = [0] * len(self.edges)
        self._link()
        self.first_chars = frozenset(self.edges[0])

    def prefix(self, state: int) -> str:
        """The characters from the root to state."""
        return self.stop_of[state][: self.depth[state]]

    def emit(self, before: int, text: str, num_chars: int) -> str:
        """The first num_chars of the prefix held in state `before` followed by text."""
        num_held = self.depth[before]
        if num_chars <= num_held:
            return self.stop_of[before][:num_chars]
        return self.prefix(before) + text[: num_chars - num_held]

    def _insert(self, stop: str) -> None:
        state = 0
        for i, char in enumerate(stop):
            following = self.edges[state].get(char)
            if following is None:
                following = len(self.edges)
                self.edges[state][char] = following
                self.edges.append({})
                self.depth.append(i + 1)
                self.stop_of.append(stop)
                self.match_length.append(0)
            state = following
        self.match_length[state] = len(stop)

    def _link(self) -> None:
        """Breadth first: a state fails to the longest proper suffix of its prefix that is a state itself."""
        queue = deque(self.edges[0].values())
        while queue:
            state = queue.popleft()
            self.match_length[state] = self.match_length[state] or self.match_length[self.fail[state]]
            for char, following in self.edges[state].items():
                shorter = self.fail[state]
                while shorter and char not in self.edges[shorter]:
                    shorter = self.fail[shorter]
                self.fail[following] = self.edges[shorter].get(char, 0)
                queue.append(following)


class _AutomatonCache:
    """The automata last used, of so many characters together. Thread-safe."""

    def __init__(self, max_chars: int) -> None:
        self.num_chars = 0
        self._max_chars = max_chars
        self._automata: OrderedDict[tuple[str, ...], _Automaton] = OrderedDict()
        self._lock = Lock()

    def get(self, stops: tuple[str, ...]) -> _Automaton:
        with self._lock:
            found = self._automata.get(stops)
            if found is not None:
                self._automata.move_to_end(stops)
                return found
        made = _Automaton(stops)  # without the lock: others need not wait
        with self._lock:
            if stops not in self._automata:
                self._automata[stops] = made
                self.num_chars += _num_states(stops)
            while self.num_chars > self._max_chars:
                self.num_chars -= _num_states(self._automata.popitem(last=False)[0])
        return made


def _num_states(stops: tuple[str, ...]) -> int:
    return _AUTOMATON_CHARS + len(stops) + sum(map(len, stops))


_automata = _AutomatonCache(_MAX_CACHED_CHARS)


def _table(token_bytes: list[bytes]) -> TokenTable:
    return TokenTable(token_bytes, [_complete_text(data) for data in token_bytes])


def _complete_text(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None
