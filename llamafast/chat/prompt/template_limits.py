"""The cost limits of a chat template: Jinja's sandbox with a budget of steps and characters, so that each rendering
ends.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

# One unit is a step of the template (a block, an iteration of a loop, a call), or this many characters of new text.
_CHARS_PER_UNIT = 64
_BASE_UNITS = 500_000
_UNITS_PER_MESSAGE = 200
# Each character of a conversation may be written, cut and joined several times.
_CHARS_PER_INPUT_UNIT = 8

# A step may still compare long texts. The CPU time of this thread does not depend on the load of the machine.
_CPU_S_PER_UNIT = 4e-6
_STEPS_PER_LOOK = 64

# Shorter results cost nothing but the step.
_SMALL_CHARS = 512

_NUMBERS = re.compile(r"\d+")
_NESTED_FORMAT = re.compile(r"\{[^{}]*\{")


class TemplateLimitError(ValueError):
    """A rendering takes too many steps or writes too much text."""


class _Budget(threading.local):
    """The budget that is left for the rendering in this thread."""

    left = _BASE_UNITS
    end_s = float("inf")


_budget = _Budget()


def start_budget(messages: Sequence[Mapping[str, object]] = ()) -> None:
    """Set the budget of this thread's next rendering or compilation, by the size of the conversation."""
    num_chars = num_parts = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            num_chars += len(content)
        elif isinstance(content, (list, tuple)):
            num_parts += len(content)
            texts = [part.get("text") for part in content if isinstance(part, Mapping)]
            num_chars += sum(len(text) for text in texts if isinstance(text, str))
    units = _BASE_UNITS + _UNITS_PER_MESSAGE * (len(messages) + num_parts) + num_chars // _CHARS_PER_INPUT_UNIT
    _budget.left = units
    _budget.end_s = time.thread_time() + units * _CPU_S_PER_UNIT


def _spend(num_units: int) -> None:
    _budget.left -= num_units
    if _budget.left < 0:
        _fail()


def _fail() -> None:
    raise TemplateLimitError("it takes too many steps or writes too much text")


def _spend_chars(num_chars: int) -> None:
    _spend(1 + num_chars // _CHARS_PER_UNIT)


def _spend_on(*values: object) -> int:
    """Spend the units for the text of these values and all values inside them. Returns the units."""
    stack: list[object] = list(values)
    spent, left = 0, _budget.left
    while stack:
        value = stack.pop()
        kind = type(value)
        spent += 1
        if kind is str:
            spent += len(value) // _CHARS_PER_UNIT  # type: ignore[arg-type]
        elif kind is dict or isinstance(value, Mapping):
            stack += value  # type: ignore[arg-type]
            stack += value.values()  # type: ignore[attr-defined]
        elif kind is list or isinstance(value, (tuple, set, frozenset)):
            stack += value  # type: ignore[arg-type]
        elif kind is int:
            spent += value.bit_length() // _CHARS_PER_UNIT  # type: ignore[attr-defined]
        elif isinstance(value, str):
            spent += len(value) // _CHARS_PER_UNIT
        if spent > left:
            _fail()
    _budget.left = left - spent
    return spent


def _step() -> bool:
    """Count one step. Returns True."""
    left = _budget.left = _budget.left - 1
    if left < 0 or (not left % _STEPS_PER_LOOK and time.thread_time() > _budget.end_s):
        _fail()
    return True


def _text(value: object) -> str:
    """The text that an expression writes."""
    return value if type(value) is str else str(_paid(value))


def _add(left: Any, right: Any) -> Any:
    """The result of `a + b`."""
    result = left + right
    if type(result) is str:
        if len(result) > _SMALL_CHARS:
            _spend_chars(len(result))
    elif isinstance(result, (str, list, tuple)) and len(result) > _SMALL_CHARS:
        _spend_chars(8 * len(result))
    return result


def _join_texts(values: Iterable[object]) -> str:
    """The result of `a ~ b`."""
    text = "".join([value if type(value) is str else str(_paid(value)) for value in values])
    if len(text) > _SMALL_CHARS:
        _spend_chars(len(text))
    return text


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox. A rendering that exceeds its budget ends with TemplateLimitError.

    filters: additional filters.
    Steps are counted at the beginning of each block of statements. Operations with large results (repetition, powers,
    widths, joining, text of nested lists) are charged before they run. The global lipsum is removed.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})  # the compiler does not compute these

    def __init__(self, filters: Mapping[str, Callable[..., object]], **options: Any) -> None:
        super().__init__(**options)
        self.filters.update(filters)
        self.code_generator_class = _CountingCodeGenerator
        # The compiled templates call these. Instance attributes are found fastest.
        self.step, self.text, self.add, self.join_texts = _step, _text, _add, _join_texts
        self.globals.pop("lipsum", None)
        for name in _TEXT_FILTERS & self.filters.keys():
            self.filters[name] = _bounded_filter(name, self.filters[name])

    def concat(self, pieces: Iterable[str]) -> str:
        """Join the texts that a template, a macro or a block writes."""
        texts: list[str] = []
        num_chars = 0
        for text in pieces:
            num_chars += len(text)
            texts.append(text)
            if num_chars > _SMALL_CHARS:
                _spend_chars(num_chars)
                num_chars = 0
        return "".join(texts)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Charge for the result of an operator, then apply it."""
        if operator == "%" and isinstance(left, (str, bytes)):
            _spend_format(left, right)
        elif operator == "*":
            _spend_chars(_product_chars(left, right))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _spend_chars(_power_chars(left.bit_length() * max(right, 0)))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Count the call, and charge for the result of a string method."""
        _step()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, (str, bytes)):
            name = __obj.__name__
            if name == "join" and args:
                args = (list(args[0]),)
            num_chars = len(owner) // 4 + _method_chars(name, owner, args, kwargs)
            if num_chars > _SMALL_CHARS:
                _spend_chars(num_chars)
        elif isinstance(owner, int) and __obj.__name__ == "to_bytes":
            _spend_chars(_int(args, kwargs, 0, "length"))
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, (str, list, tuple, dict)) and len(result) > _SMALL_CHARS:
            _spend_chars(len(result)) if isinstance(result, str) else _spend(len(result))
        return result

    def call_filter(self, *args: Any, **kwargs: Any) -> Any:
        """Apply a filter for another filter, to one item."""
        _step()
        return super().call_filter(*args, **kwargs)

    def call_test(self, *args: Any, **kwargs: Any) -> Any:
        """Apply a test for a filter, to one item."""
        _step()
        return super().call_test(*args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """str.format, charged for its fields, their widths and its arguments."""
        write = super().wrap_str_format(value)
        if write is None:
            return None
        text: str = value.__self__

        @wraps(write)
        def bounded(*args: Any, **kwargs: Any) -> str:
            if _NESTED_FORMAT.search(text.replace("{{", "")):
                raise TemplateLimitError("a format width must not be a field")
            _spend_format(text, (args, kwargs))
            return write(*args, **kwargs)

        return bounded


class _CountingCodeGenerator(CodeGenerator):
    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        self.writeline("environment.step()")
        super().blockvisit(nodes, frame)

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        if node.test is not None:  # items that the test rejects reach no block
            step = nodes.Call(nodes.EnvironmentAttribute("step"), [], [], None, None, lineno=node.lineno)
            node.test = nodes.And(step, node.test, lineno=node.lineno)
        super().visit_For(node, frame)

    def visit_Add(self, node: nodes.BinExpr, frame: Frame) -> None:
        self.write("environment.add(")
        self.visit(node.left, frame)
        self.write(", ")
        self.visit(node.right, frame)
        self.write(")")

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo) -> None:
        self.write("environment.text(")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.join_texts((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


def _paid(value: object) -> object:
    """The value, after a charge for its text. Lists may contain each other many times."""
    if not isinstance(value, (str, int, float, Undefined)):
        _spend_on(value)
    return value


def _product_chars(left: object, right: object) -> int:
    for one, other in ((left, right), (right, left)):
        if isinstance(other, int) and isinstance(one, (str, bytes)):
            return len(one) * max(other, 0)
        if isinstance(other, int) and isinstance(one, (list, tuple)):
            # The list may be written, so the text of its items counts.
            return (8 * len(one) + _CHARS_PER_UNIT * _spend_on(one)) * max(other, 0)
    if isinstance(left, int) and isinstance(right, int):
        return _power_chars(max(left.bit_length(), right.bit_length()))
    return 0


def _power_chars(num_bits: int) -> int:
    """The cost of computing with this many bits, in characters. It grows with the square."""
    return num_bits * num_bits // 1024


def _spend_format(text: str | bytes, values: object) -> None:
    """Charge for a format: each field may take all values, and each number may be a width."""
    plain = text if isinstance(text, str) else text.decode("latin-1")
    num_fields = plain.count("%") + plain.count("{")
    widths = sum(int(number) for number in _NUMBERS.findall(plain) if len(number) < 19)
    if any(len(number) >= 19 for number in _NUMBERS.findall(plain)):
        _fail()
    if "*" in plain:
        stars = values if isinstance(values, (list, tuple)) else (values,)
        widths += sum(abs(value) for value in stars if isinstance(value, int))
    _spend(_spend_on(values) * num_fields)
    _spend_chars(widths)


def _int(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str, default: int = 0) -> int:
    value = args[place] if len(args) > place else kwargs.get(name, default)
    return abs(value) if isinstance(value, int) else 0


def _replaced_chars(text: Any, args: Sequence[Any]) -> int:
    if len(args) < 2 or not isinstance(text, type(args[0])) or not isinstance(args[1], type(text)):
        return 0
    return int(text.count(args[0]) * len(args[1]))


def _method_chars(name: str, owner: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """The number of characters that owner.name(*args) may add. For a filter, owner is the value as text."""
    if name in ("center", "ljust", "rjust", "zfill"):
        return _int(args, kwargs, 0, "width", 80)
    if name == "expandtabs":
        return len(owner) * _int(args, kwargs, 0, "tabsize", 8)
    if name == "replace":
        return _replaced_chars(owner, args)
    if name == "join" and args:
        return len(owner) * len(args[0]) + _CHARS_PER_UNIT * _spend_on(args[0])
    if name == "translate" and args and isinstance(args[0], Mapping):
        return len(owner) * max((len(new) for new in args[0].values() if isinstance(new, str)), default=0)
    return 0


def _filter_chars(name: str, value: Any, args: Sequence[Any], kwargs: Mapping[str, Any], num_values: int) -> int:
    """The number of characters that value|name(*args) may add to its arguments, or an equal cost.

    num_values: the approximate number of values in the arguments, including inner ones.
    """
    if name == "join":
        separator = args[0] if args else kwargs.get("d", "")
        return len(str(separator)) * len(value)
    if name == "indent":
        width = args[0] if args else kwargs.get("width", 4)
        return (str(value).count("\n") + 1) * (len(width) if isinstance(width, str) else _int((width,), {}, 0, ""))
    if name == "wordwrap":
        text, width = str(value), _int(args, kwargs, 0, "width", 79) or 1
        longest = max(map(len, text.split()), default=0)
        return len(text) // width * (longest + len(str(args[2] if len(args) > 2 else kwargs.get("wrapstring") or "")))
    if name == "batch":
        return 8 * _int(args, kwargs, 0, "linecount")
    if name in ("slice", "round"):
        return _CHARS_PER_UNIT * _int(args, kwargs, 0, "slices" if name == "slice" else "precision")
    if name == "tojson":
        indent = args[1] if len(args) > 1 else kwargs.get("indent")
        width = len(indent) if isinstance(indent, str) else indent if isinstance(indent, int) else 0
        return num_values * width * min(num_values, 64)
    if name == "replace":
        return _replaced_chars(str(value), [str(arg) for arg in args])
    if name == "format":
        _spend_format(str(value), (args, kwargs, *args))
    return _method_chars(name, str(value), args, kwargs) if name == "center" else 0


# Jinja's filters that create text or lists. The others return a part of their input, or a number.
# fmt: off
_TEXT_FILTERS = frozenset((
    "batch", "capitalize", "center", "e", "escape", "forceescape", "format", "indent", "int", "join", "list", "lower",
    "pprint", "replace", "reverse", "round", "slice", "sort", "string", "striptags", "sum", "title", "tojson", "trim",
    "truncate", "unique", "upper", "urlencode", "urlize", "wordcount", "wordwrap", "xmlattr",
))
# fmt: on


def _bounded_filter(name: str, apply: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, charged for the text of its arguments, for what it multiplies, and for its result."""
    first = 1 if hasattr(apply, "jinja_pass_arg") else 0

    @wraps(apply)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        value, *rest = args[first:]
        if isinstance(value, Iterator) and name != "tojson":  # tojson refuses iterators
            value = list(value)
        num_values = _spend_on(value, *rest, *kwargs.values())
        num_chars = _filter_chars(name, value, rest, kwargs, num_values)
        if num_chars > _SMALL_CHARS:
            _spend_chars(num_chars)
        result = apply(*args[:first], value, *rest, **kwargs)
        if isinstance(result, str) and len(result) > _SMALL_CHARS:
            _spend_chars(len(result))
        return result

    return bounded
