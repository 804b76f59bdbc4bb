"""The fields that constrain an output, under the names of several servers, and the constraint that they define."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from llamafast.errors import GrammarError, InvalidRequestError
from llamafast.grammars.structured import StructuredKind, StructuredOutput
from llamafast.server.constraint import OutputConstraint
from llamafast.server.schemas.pieces import IN_PIECES

# vLLM's options for its compiler. They do not change the constraint.
_BACKEND_OPTIONS = ("backend", "disable_fallback")

Schema = dict[str, object] | bool | str


class JsonSchemaFormat(BaseModel):
    """OpenAI's named schema. Unless strict is true, keywords that cannot be enforced are dropped, as OpenAI does."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    name: str | None = None
    description: str | None = None
    strict: bool | None = Field(
        None, description="Unless true, keywords that cannot be enforced are dropped, with a Warning header."
    )
    schema_: dict[str, object] | bool | None = Field(None, alias="schema")


class ResponseFormat(BaseModel):
    """OpenAI's response format, and llama-server's field `schema`."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    schema_: dict[str, object] | bool | None = Field(None, alias="schema")


class StructuredOutputs(BaseModel):
    """vLLM's structured outputs. Exactly one of the fields is set."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    json_: Schema | None = Field(None, alias="json", description="A JSON Schema, as an object or as text.")
    json_object: bool | None = None
    regex: str | None = None
    choice: Annotated[list[str], IN_PIECES] | None = None
    grammar: str | None = Field(None, description="GBNF, root rule `root`.")


class StructuredFields(BaseModel):
    """The fields that constrain an output. A request may use one of them."""

    response_format: ResponseFormat | None = Field(
        None,
        description="json_object and json_schema are enforced. With tools the answer is either calls or such JSON.",
    )
    structured_outputs: StructuredOutputs | None = Field(
        None, description="An object with one of json, json_object, regex, choice and grammar; enforced."
    )
    guided_json: Schema | None = Field(None, description="A JSON Schema, enforced.")
    guided_regex: str | None = Field(None, description="A regular expression, enforced.")
    guided_choice: Annotated[list[str], IN_PIECES] | None = Field(None, description="The answer is one of these.")
    guided_grammar: str | None = Field(None, description="GBNF, root rule `root`.")
    grammar: str | None = Field(None, description="GBNF, root rule `root`.")
    json_schema: dict[str, object] | bool | None = Field(None, description="A JSON Schema, enforced.")

    def constraint(self) -> OutputConstraint | None:
        """The constraint on the output; None for none. Raises InvalidRequestError: it is invalid or one of several."""
        constraints = list(self._constraints())
        if len(constraints) > 1:
            first, second = (constraint.param for constraint in constraints[:2])
            raise InvalidRequestError(
                f"'{second}' cannot be combined with '{first}': a request can have one constraint", param=second
            )
        return constraints[0] if constraints else None

    def _constraints(self) -> Iterator[OutputConstraint]:
        if self.response_format is not None:
            yield from _of_response_format(self.response_format)
        if self.structured_outputs is not None:
            yield from _of_structured_outputs(self.structured_outputs)
        yield from _given("guided_json", StructuredKind.JSON_SCHEMA, self.guided_json)
        yield from _given("guided_regex", StructuredKind.REGEX, self.guided_regex)
        yield from _given("guided_choice", StructuredKind.CHOICE, self.guided_choice)
        yield from _given("guided_grammar", StructuredKind.GBNF, self.guided_grammar)
        yield from _given("grammar", StructuredKind.GBNF, self.grammar or None)
        yield from _given("json_schema", StructuredKind.JSON_SCHEMA, self.json_schema)


def _of_response_format(given: ResponseFormat) -> Iterator[OutputConstraint]:
    if given.type == "json_schema" and given.json_schema is None and given.schema_ is not None:
        strict = (given.model_extra or {}).get("strict") is True
        yield from _given("response_format.schema", StructuredKind.JSON_SCHEMA, given.schema_, strict=strict)
    elif given.type == "json_schema":
        if given.json_schema is None or given.json_schema.schema_ is None:
            param = "response_format.json_schema" + (".schema" if given.json_schema is not None else "")
            raise InvalidRequestError(f"{param}: Field required", param=param)
        param = "response_format.json_schema.schema"
        strict = given.json_schema.strict is True
        yield from _given(param, StructuredKind.JSON_SCHEMA, given.json_schema.schema_, strict=strict)
    elif given.type == "json_object":
        if given.schema_ is None:
            yield OutputConstraint("response_format", StructuredOutput(StructuredKind.JSON_OBJECT))
        yield from _given("response_format.schema", StructuredKind.JSON_SCHEMA, given.schema_)


def _of_structured_outputs(given: StructuredOutputs) -> Iterator[OutputConstraint]:
    for name, value in (given.model_extra or {}).items():
        # Without this error, a misspelt name would leave the output without a constraint.
        if value not in (None, False) and name not in _BACKEND_OPTIONS:
            param = f"structured_outputs.{name}"
            raise InvalidRequestError(f"'{param}' is not supported", param=param, code="unsupported_parameter")
    yield from _given("structured_outputs.json", StructuredKind.JSON_SCHEMA, given.json_)
    if given.json_object:
        yield OutputConstraint("structured_outputs.json_object", StructuredOutput(StructuredKind.JSON_OBJECT))
    yield from _given("structured_outputs.regex", StructuredKind.REGEX, given.regex)
    yield from _given("structured_outputs.choice", StructuredKind.CHOICE, given.choice)
    yield from _given("structured_outputs.grammar", StructuredKind.GBNF, given.grammar)


def _given(param: str, kind: StructuredKind, value: object, *, strict: bool = True) -> Iterator[OutputConstraint]:
    """The constraint of one field, if the field is set. A text is kept; any other value becomes JSON text."""
    if value is None:
        return
    try:
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
    except orjson.JSONEncodeError as exc:
        raise GrammarError(f"{param}: nested too deeply", param=param) from exc
    yield OutputConstraint(param, StructuredOutput(kind, text, strict))
