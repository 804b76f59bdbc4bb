"""StreamPlan: the texts around reasoning, content and calls, for a schema that can be applied to a stream."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from llamafast.chat.reading.xml_calls import Elements
from llamafast.chat.response_schema.message import REASONING_NAMES, arguments_node
from llamafast.chat.response_schema.regex_parts import (
    Kind,
    Part,
    Parts,
    UnsupportedRegexError,
    literal,
    parse_regex,
    source_of,
)
from llamafast.chat.response_schema.schema_nodes import SchemaNode


@dataclass(frozen=True, slots=True)
class Segment:
    """Text between others: reasoning or content.

    lead: optional texts before it.
    opener: the text that begins it. Empty: it may begin anywhere.
    closers: texts that end it.
    needs_opener: it exists only after its opener.
    is_skipped: the closer belongs to it.
    endings: closers that count only at the end of the text.
    has_end: the end of the text closes it too.
    """

    lead: tuple[str, ...]
    opener: str
    closers: tuple[str, ...]
    needs_opener: bool = True
    is_skipped: bool = False
    endings: tuple[str, ...] = ()
    has_end: bool = True


@dataclass(frozen=True, slots=True)
class ArgumentsPlan:
    """Arguments that can be read from a stream.

    head: the part of an item before them. Its first group is the name.
    suffix: the text between them and the item's closer.
    parser: "json", "gemma4-tool-call" or "elements".
    elements: the elements of the last kind.
    """

    head: re.Pattern[str]
    suffix: str
    parser: str
    elements: Elements | None = None


@dataclass(frozen=True, slots=True)
class CallsPlan:
    """How calls are written.

    opener, closer: the texts around one.
    num_outside: the number of characters of opener before the item.
    closer_inside: the number of characters of closer that belong to the item.
    items: the schema node of an item.
    arguments: None: an item is read after its closer.
    """

    opener: str
    closer: str
    num_outside: int
    closer_inside: int
    items: SchemaNode
    arguments: ArgumentsPlan | None


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """A whole schema.

    reasoning, content, calls: how each part is written. None: the schema has no such part.
    is_inline: text that is neither reasoning nor a call is content.
    """

    reasoning: Segment | None
    content: Segment | None
    calls: CallsPlan | None

    @property
    def is_inline(self) -> bool:
        return self.content is not None and not self.content.opener

    @property
    def leads(self) -> tuple[str, ...]:
        """The optional texts before all parts, in order."""
        segments = [segment for segment in (self.reasoning, self.content) if segment is not None]
        return tuple(dict.fromkeys(text for segment in segments for text in segment.lead))

    @property
    def ends(self) -> tuple[str, ...]:
        """The texts that end the text between the parts."""
        texts = [self.calls.opener] if self.calls is not None else []
        if self.content is not None and self.content.opener:
            texts.append(self.content.opener)
        elif self.content is not None:
            texts += [*self.content.closers, *self.content.endings]
        return tuple(dict.fromkeys(texts))

    def reasoning_openings(self) -> Iterator[str]:
        """All texts with which reasoning may begin. Long ones come first."""
        if self.reasoning is None:
            return
        leads = self.reasoning.lead
        chosen = itertools.product(*((text, "") for text in leads))
        yield from sorted({"".join(texts) + self.reasoning.opener for texts in chosen}, key=len, reverse=True)


def compile_stream_plan(root: SchemaNode) -> StreamPlan | None:
    """The plan of a schema. None: the schema can only be applied to a whole text."""
    try:
        return _plan(root)
    except UnsupportedRegexError:
        return None


def _plan(root: SchemaNode) -> StreamPlan:
    known = {"role", "content", "tool_calls", *REASONING_NAMES}
    has_own = (root.regex, root.iterator, root.key_value, root.parser) != (None, None, None, None)
    if root.type != "object" or has_own or not root.properties.keys() <= known:
        raise UnsupportedRegexError(root.path)
    if root.required - {"role"} or root.properties.get("role", SchemaNode("")).regex is not None:
        raise UnsupportedRegexError(root.path)
    reasonings = [root.properties[name] for name in REASONING_NAMES if name in root.properties]
    if len(reasonings) > 1:
        raise UnsupportedRegexError(root.path)
    reasoning = _reasoning(parse_regex(_regex(reasonings[0]))) if reasonings else None
    calls_rule = root.properties.get("tool_calls")
    calls = _calls(calls_rule) if calls_rule is not None else None
    content_rule = root.properties.get("content")
    content = _content(parse_regex(_regex(content_rule)), reasoning) if content_rule is not None else None
    if content is not None and calls is not None and not content.opener:
        # What follows such a closer shows whether a call begins. If not, the content continues.
        closers = tuple(text for text in content.closers if not calls.opener.startswith(text))
        content = replace(content, closers=closers)
    plan = StreamPlan(reasoning, content, calls)
    for one, other in itertools.permutations(plan.ends, 2):
        if other.startswith(one):
            raise UnsupportedRegexError(one)
    return plan


def _regex(node: SchemaNode) -> str:
    if node.regex is None or node.type not in ("string", None) or node.parser is not None or node.choices:
        raise UnsupportedRegexError(node.path)
    return node.regex.pattern


def _reasoning(parts: Parts) -> Segment:
    lead, opener, rest = _head(parts)
    needs_opener = bool(opener)
    if not opener:
        if not lead:
            raise UnsupportedRegexError("no beginning")
        lead, opener = lead[:-1], lead[-1]
    closers, endings, has_end, is_skipped = _tail(rest)
    if not closers or endings:
        raise UnsupportedRegexError("no end")
    return Segment(lead, opener, closers, needs_opener, is_skipped, (), has_end)


def _content(parts: Parts, reasoning: Segment | None) -> Segment:
    lead: list[str] = []
    rest = list(parts)
    if rest and rest[0].kind == "start":
        rest.pop(0)
    while rest and rest[0].kind == "option":
        inner = _only(rest.pop(0))
        text = literal(inner)
        if text is not None:
            lead.append(text)
        elif inner[0].kind == "any" and literal(inner[1:]) is not None and _kinds(rest[:1]) == ["text"]:
            pass  # it may be anywhere, as a stream searches for its opener
        elif not _skips(inner, reasoning):
            raise UnsupportedRegexError("content")
    opener = rest.pop(0).text if rest and rest[0].kind == "text" else ""
    if _takes_all(tuple(rest)):
        return Segment(tuple(lead), opener, ())
    closers, endings, has_end, is_skipped = _tail(tuple(rest))
    return Segment(tuple(lead), opener, closers, bool(opener), is_skipped, endings, has_end)


def _takes_all(parts: Parts) -> bool:
    """Whether the parts are a greedy capture with nothing after it."""
    kinds = _kinds(parts)
    return kinds in (["capture"], ["capture", "end"]) and _kinds(_only(parts[0])) == ["all"]


def _skips(parts: Parts, reasoning: Segment | None) -> bool:
    """Whether the parts match reasoning: its opener, anything, its closer, white space."""
    if reasoning is None:
        return False
    kinds = [part.kind for part in parts if part.kind != "space"]
    texts = [part.text for part in parts if part.kind == "text"]
    if kinds == ["option", "any", "text"]:
        return literal(_only(parts[0])) == reasoning.opener and texts[-1] in reasoning.closers
    return kinds == ["text", "any", "text"] and texts[0] == reasoning.opener and texts[-1] in reasoning.closers


def _head(parts: Parts) -> tuple[tuple[str, ...], str, Parts]:
    """(optional texts, the text that must follow, the rest)."""
    rest = list(parts)
    if rest and rest[0].kind == "start":
        rest.pop(0)
    lead: list[str] = []
    while rest and rest[0].kind == "option":
        lead.append(_text(_only(rest.pop(0))))
    opener = rest.pop(0).text if rest and rest[0].kind == "text" else ""
    return tuple(lead), opener, tuple(rest)


def _tail(parts: Parts) -> tuple[tuple[str, ...], tuple[str, ...], bool, bool]:
    """A lazy capture and its end, as (closers, closers at the end of the text, whether that ends it, is_skipped)."""
    if len(parts) < 2 or parts[0].kind != "capture" or _kinds(_only(parts[0])) != ["any"]:
        raise UnsupportedRegexError("capture")
    rest = parts[1:]
    if _kinds(rest) == ["end"]:
        return (), (), True, False
    if _kinds(rest) == ["text"]:
        return (rest[0].text,), (), False, True
    if _kinds(rest) != ["ahead"]:
        raise UnsupportedRegexError("end")
    closers: list[str] = []
    endings: list[str] = []
    has_end = False
    for alternative in rest[0].alternatives:
        ending = tuple(part for part in alternative if part.kind != "space")
        if [part.kind for part in ending] == ["end"]:
            has_end = True
        elif ending and ending[-1].kind == "end":
            endings.append(_text(ending[:-1]))
        else:
            closers.append(_text(ending))
    return tuple(closers), tuple(endings), has_end, False


def _calls(node: SchemaNode) -> CallsPlan:
    if node.iterator is None or node.items is None or node.regex is not None:
        raise UnsupportedRegexError(node.path)
    parts = list(parse_regex(node.iterator.pattern))
    captures = [i for i, part in enumerate(parts) if part.kind == "capture"]
    if len(captures) != 1 or node.iterator.groupindex:
        raise UnsupportedRegexError(node.path)
    before, inside, behind = parts[: captures[0]], _only(parts[captures[0]]), parts[captures[0] + 1 :]
    outer_open, outer_close = _text(tuple(before)), _text(tuple(behind))
    inner_open = inside[0].text if inside and inside[0].kind == "text" else ""
    inner_close = inside[-1].text if len(inside) > 1 and inside[-1].kind == "text" else ""
    if not outer_open + inner_open or not inner_close + outer_close:
        raise UnsupportedRegexError(node.path)
    if not any(part.kind == "any" for part in inside):
        raise UnsupportedRegexError(node.path)
    return CallsPlan(
        outer_open + inner_open,
        inner_close + outer_close,
        len(outer_open),
        len(inner_close),
        node.items,
        _arguments(node.items, inner_close),
    )


def _arguments(items: SchemaNode, inner_close: str) -> ArgumentsPlan | None:
    """None: an item can only be read after its closer."""
    function = items.properties.get("function", items)
    name, arguments = function.properties.get("name"), arguments_node(items)
    plain = [node for node in (items, function) if node.regex is None and node.parser is None and not node.key_value]
    if len(plain) < 2 or name is None or name.regex is None or arguments is None or arguments.regex is None:
        return None
    try:
        name_head = _name_head(parse_regex(name.regex.pattern))
        head, suffix = _around(parse_regex(arguments.regex.pattern))
        elements = _elements(arguments.key_value, suffix + inner_close) if arguments.key_value is not None else None
    except UnsupportedRegexError:
        return None
    if inner_close and not suffix.endswith(inner_close):
        return None
    if elements is None and arguments.parser is None:
        return None
    # The regex of the name defines where the name ends, that of the arguments where they begin. Both begin at the item.
    return ArgumentsPlan(
        re.compile(f"(?={name_head}){head}", re.DOTALL),
        suffix[: len(suffix) - len(inner_close)],
        arguments.parser or "",
        elements,
    )


def _name_head(parts: Parts) -> str:
    """The regex of an item up to the end of its name: literal texts, the name, and the text that ends it."""
    kinds = [part.kind for part in parts if part.kind != "start"]
    if kinds[-1:] not in (["text"], ["one"]) or not set(kinds) <= {"text", "capture", "one"}:
        raise UnsupportedRegexError("name")
    captures = [part for part in parts if part.kind == "capture"]
    if len(captures) != 1 or _kinds(_only(captures[0])) != ["run"]:
        raise UnsupportedRegexError("name")
    return source_of(tuple(part for part in parts if part.kind != "start"))


def _around(parts: Parts) -> tuple[str, str]:
    """(regex of the text before the captured arguments, the text after them)."""
    rest = [part for part in parts if part.kind not in ("start", "end")]
    captures = [i for i, part in enumerate(rest) if part.kind == "capture"]
    if len(captures) != 1 or not all(part.kind in ("text", "run", "one") for part in rest[: captures[0]]):
        raise UnsupportedRegexError("arguments")
    return source_of(tuple(rest[: captures[0]])), _text(tuple(rest[captures[0] + 1 :]))


def _elements(pairs: re.Pattern[str], suffix: str) -> Elements:
    """The elements of a regex such as `<key=(?P<key>[^>]+)>(?P<value>.*?)</key>`."""
    parts = parse_regex(pairs.pattern)
    if _kinds(parts) != ["text", "capture", "text", "capture", "text"]:
        raise UnsupportedRegexError("pairs")
    if [part.kind for part in (*_only(parts[1]), *_only(parts[3]))] != ["run", "any"]:
        raise UnsupportedRegexError("pairs")
    return Elements(suffix, "", parts[0].text, parts[4].text, parts[2].text)


def _kinds(parts: Sequence[Part]) -> list[Kind]:
    return [part.kind for part in parts]


def _only(part: Part) -> Parts:
    if len(part.alternatives) != 1 or not part.alternatives[0]:
        raise UnsupportedRegexError(part.source)
    return part.alternatives[0]


def _text(parts: Parts) -> str:
    text = literal(parts)
    if text is None:
        raise UnsupportedRegexError(source_of(parts))
    return text
