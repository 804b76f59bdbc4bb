"""Tokenizer (text to token ids and back), Detokenizer (tokens to text, one by one) and StopMatcher."""

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

# An automaton takes about 400 bytes per character of its stop strings, plus as much as 5 characters.
_MAX_CACHED_CHARS = 65_536
_AUTOMATON_CHARS = 5
_ANCHOR = "\n"
# Text that normalizers change: several blanks, composed and rare characters, a soft hyphen, a ligature, capitals.
_ODD_TEXT = "A  b\t\t\n\n  \u00e9e\u0301\u4e2d\U00013000\U00013001\u00ad\u200b\ufb01 \u3000Z"


@dataclass(frozen=True, slots=True)
class TokenTable:
    """The text of each token id. Both lists have shape (n_vocab,).

    token_bytes: bytes of each token.
    pieces: text of each token; None if its bytes alone are not complete UTF-8.
    """

    token_bytes: list[bytes]
    pieces: list[str | None]


class Tokenizer:
    """The vocabulary of a model. Thread-safe.

    n_vocab: number of token ids.
    bos_id, eos_id: BOS and EOS tokens; -1: the vocabulary has none.
    add_bos: whether encode() with add_special puts a BOS token before a text.
    eog_ids: tokens that end a generation.
    suppress_ids: tokens that must not be generated.
    fim_ids: the prefix, suffix and middle tokens; None unless all three exist.
    token_bytes, pieces: as in TokenTable, with empty texts of control tokens.
    """

    def __init__(self, model: Model) -> None:
        self._open_model: Model | None = model
        self.n_vocab = model.n_vocab
        # For a byte-pair vocabulary without such a token, llama.cpp returns token 11, which is an ordinary word.
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
        # SentencePiece vocabularies put a space before a text. If a text is split, its second part must not get one.
        self._adds_space = self.decode(self.encode("a", add_special=False, parse_special=False)).startswith(" ")

    def close(self) -> None:
        """Release the model. Afterwards all methods that need it raise ShuttingDownError."""
        self._open_model = None

    @property
    def _model(self) -> Model:
        model = self._open_model
        if model is None:
            raise ShuttingDownError("the engine is closed")
        return model

    def table(self, *, skip_special: bool, shown_ids: frozenset[int] = frozenset()) -> TokenTable:
        """The token table in which control tokens have text: all of them, or with skip_special those of shown_ids."""
        if not skip_special:
            return self._special
        if not shown_ids:
            return self._plain
        table = self._with_shown.get(shown_ids)
        if table is None:  # few sets per process: one per chat format
            names = [self.token_bytes_of(i, i in shown_ids) for i in range(self.n_vocab)]
            table = self._with_shown[shown_ids] = _table(names)
        return table

    @cached_property
    def _special(self) -> TokenTable:
        return _table([piece or self._model.token_bytes(i, True) for i, piece in enumerate(self.token_bytes)])

    def control_texts(self) -> frozenset[str]:
        """The texts of control tokens. encode() with parse_special turns them into these tokens."""
        names = (self._model.token_bytes(i, True) for i, data in enumerate(self.token_bytes) if not data)
        return frozenset(name.decode("utf-8", "replace") for name in names if name)

    def defined_texts(self) -> frozenset[str]:
        """The texts of user-defined tokens: tags, but also runs of blanks. encode() always turns them into tokens."""
        names = (data for i, data in enumerate(self.token_bytes) if self._model.is_user_defined(i))
        return frozenset(name.decode("utf-8", "replace") for name in names if name)

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of text. Raises InvalidRequestError if the text contains a lone surrogate.

        add_special: add BOS and EOS if the vocabulary asks for them, but no second BOS if the text begins with one.
        parse_special: turn texts of control tokens into these tokens.
        """
        try:
            token_ids = self._model.tokenize(text, add_special, parse_special)
            is_doubled = add_special and self.add_bos and token_ids[:2] == [self.bos_id, self.bos_id]
            return token_ids[1:] if is_doubled else token_ids
        except UnicodeEncodeError as error:
            message = f"the text is not valid Unicode: lone surrogate at character {error.start}"
            raise InvalidRequestError(message) from None

    def min_tokens(self, text: str) -> int:
        """A lower bound of the number of tokens of a text, computed without tokenizing. 0: no bound is known."""
        longest, keeps_blanks = self._longest
        if not longest:
            return 0
        num_bytes = len(text.encode("utf-8", "surrogatepass"))
        if not keeps_blanks:
            num_bytes -= sum(map(text.count, string.whitespace))
        return -(-num_bytes // longest)

    @cached_property
    def _longest(self) -> tuple[int, bool]:
        """(maximum bytes of one token, whether blanks are kept). (0, False): decoding does not return the same text.

        Normalizers change characters or drop them, unknown characters can all become one token, and some control tokens
        remove the blanks around them.
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
        """Token ids of the joined (text, parse_special) pieces, without BOS and EOS.

        Only pieces with parse_special True can contain control tokens. between() is called before each piece; an
        exception that it raises ends the work. Raises InvalidRequestError as encode does.
        """
        token_ids: list[int] = []
        for text, parse_special in segments:
            between()
            if self._adds_space and token_ids and not self._is_special(token_ids[-1]):
                # After other text this piece must not get a space: tokenize it after an anchor, then remove the anchor.
                anchor = self.encode(_ANCHOR, add_special=False, parse_special=False)
                anchored = self.encode(_ANCHOR + text, add_special=False, parse_special=parse_special)
                token_ids += anchored[len(anchor) :]
            else:
                token_ids += self.encode(text, add_special=False, parse_special=parse_special)
        return token_ids

    def decode(self, token_ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of token_ids. Invalid bytes become U+FFFD. Raises ValueError for an id outside the vocabulary."""
        table = self.table(skip_special=skip_special).token_bytes
        return b"".join([table[self._checked(i)] for i in token_ids]).decode("utf-8", "replace")

    def _is_special(self, token_id: int) -> bool:
        return self._model.is_control(token_id) or self._model.is_user_defined(token_id)

    def is_text(self, token_id: int) -> bool:
        """Whether the token has text even if control tokens are skipped."""
        return bool(self.token_bytes[token_id])

    def token_bytes_of(self, token_id: int, special: bool = False) -> bytes:
        """Bytes of one token. special: a control token gives its name. Raises ValueError for an invalid id."""
        plain = self.token_bytes[self._checked(token_id)]
        return self._model.token_bytes(token_id, True) if special and not plain else plain

    def _checked(self, token_id: int) -> int:
        if not 0 <= token_id < self.n_vocab:
            raise ValueError(f"token id {token_id} is outside the vocabulary of {self.n_vocab}")
        return token_id


class Detokenizer:
    """Turns the tokens of one sequence into text, one by one. O(1) per token.

    The joined results of all add() calls and of flush() are the tokens' bytes decoded with errors="replace".
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
        """The text that token_id completes: "" while a character is incomplete, U+FFFD for invalid bytes."""
        if not self._pending:
            piece = self._pieces[token_id]
            if piece is not None:
                return piece
        data = self._pending + self._token_bytes[token_id]
        text, num_used = utf_8_decode(data, "replace", False)
        self._pending = data[num_used:]
        if self._pending[:1] == b"\xed" and self._pending[1:] >= b"\xa0":
            # The first two bytes of a surrogate are never valid, but the codec would wait for the third.
            return text + self.flush()
        return text

    def flush(self) -> str:
        """The text of an incomplete character at the end: U+FFFD or ""."""
        text = self._pending.decode("utf-8", "replace")
        self._pending = b""
        return text


class StopMatcher:
    """Finds the first stop string in a text that arrives in parts. It never releases a part of a stop string.

    The stop that ends first wins; if several end at the same character, the longest. Empty stops match nothing.
    Source: Aho and Corasick, CACM 18(6), 1975. Amortized O(1) per character for any number of stops.
    """

    __slots__ = ("_automaton", "_state")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._automaton = _automata.get(stops)
        self._state = 0

    def add(self, text: str) -> tuple[str, str | None]:
        """(text that can be released, the completed stop or None).

        With a stop, the text ends where the stop begins, and the matcher restarts.
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
        """Release the text held back, at the end of the sequence."""
        text = self._automaton.prefix(self._state)
        self._state = 0
        return text


class _Automaton:
    """The stops as a trie with failure links. State 0 is the root. Each state represents a prefix of some stop.

    The text held back is the prefix that the current state represents, so a matcher needs no buffer.
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
        """The prefix that a state represents."""
        return self.stop_of[state][: self.depth[state]]

    def emit(self, before: int, text: str, num_chars: int) -> str:
        """The first num_chars characters of the prefix of state `before`, followed by text."""
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
        """Set the failure links breadth first: to the state of the longest proper suffix of a state's prefix."""
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
    """The last used automata, with max_chars characters in total. Thread-safe."""

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
        made = _Automaton(stops)  # without the lock, so that other threads do not wait
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
