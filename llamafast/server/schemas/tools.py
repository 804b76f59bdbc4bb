"""The fields for tools, and the tool policy that they define."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StringConstraints,
    model_validator,
)

from llamafast import caps
from llamafast.caps import at_most
from llamafast.chat.tools import Tool
from llamafast.errors import InvalidRequestError
from llamafast.server.chat.field_names import FieldNames
from llamafast.server.chat.request import ToolPolicy
from llamafast.server.schemas.pieces import IN_PIECES
from llamafast.server.schemas.tool_schema import check_parameters

JsonObject = dict[str, object]

# OpenAI's characters, and the dots, slashes and colons of MCP servers. Markers of chat formats use none of them.
Name = Annotated[str, StringConstraints(pattern=r"^[\w.:/-]{1,128}$")]


class FunctionDefinition(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: Name
    description: str | None = None
    parameters: JsonObject | None = Field(None, description="JSON Schema of the arguments, an object.")
    strict: bool | None = Field(None, description="true: the arguments follow the schema exactly.")

    _document: JsonObject = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _keep_document(
        cls, value: object, handler: ModelWrapValidatorHandler[FunctionDefinition]
    ) -> FunctionDefinition:
        function = handler(value)
        if isinstance(value, dict):
            function._document = value
        return function

    @property
    def document(self) -> JsonObject:
        """The function as the client wrote it."""
        return self._document

    def tool(self, path: str) -> Tool:
        """The function as a Tool. path: the path of the function in the body. Raises InvalidRequestError."""
        check_parameters(self.parameters, f"{path}.parameters")
        return Tool(self.name, self.description or "", self.parameters or {}, bool(self.strict))


class ToolDefinition(BaseModel):
    """A tool; only functions are supported."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["function"]
    function: FunctionDefinition

    @property
    def document(self) -> JsonObject:
        """The tool as the client wrote it."""
        return {"type": self.type, **(self.model_extra or {}), "function": self.function.document}


class NamedFunction(BaseModel):
    """A function by its name."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: str


class NamedTool(BaseModel):
    """A tool by its name: the tool that must be called, or one of the allowed tools."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["function"]
    function: NamedFunction


class AllowedToolList(BaseModel):
    """The allowed tools. auto: they may be called. required: one of them must be called."""

    model_config = ConfigDict(strict=True, extra="allow")

    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1)


class AllowedTools(BaseModel):
    """A restriction to some of the request's tools."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["allowed_tools"]
    allowed_tools: AllowedToolList


class ToolFields(BaseModel):
    """OpenAI's tools, and the older functions."""

    tools: Annotated[list[ToolDefinition], IN_PIECES] = Field(
        default_factory=list,
        max_length=caps.MAX_TOOLS,
        description="The functions that the model may call. strict: true is enforced.",
    )
    tool_choice: Literal["auto", "none", "required"] | NamedTool | AllowedTools = Field(
        "auto",
        description="none hides the tools from the model. required, a named tool and allowed_tools are enforced.",
    )
    parallel_tool_calls: bool = Field(True, description="false: the answer ends after its first call.")
    functions: Annotated[list[FunctionDefinition], IN_PIECES] = Field(
        default_factory=list, max_length=caps.MAX_TOOLS, description="Older form of `tools`."
    )
    function_call: Literal["auto", "none"] | NamedFunction = Field("auto", description="Older form of `tool_choice`.")

    def tool_policy(self) -> ToolPolicy:
        """Which tools the template shows, and which of them the model may call. Raises InvalidRequestError."""
        # Validated in pieces: pydantic does not know the length of the whole list.
        at_most("tools", len(self.tools), caps.MAX_TOOLS)
        at_most("functions", len(self.functions), caps.MAX_TOOLS)
        if self.functions:
            if self.tools:
                raise InvalidRequestError(
                    "'functions' is the older name of 'tools': use only one of them", param="functions"
                )
            return self._function_policy()
        if self.function_call not in ("auto", "none"):
            raise InvalidRequestError("function_call needs functions", param="function_call")
        if not self.tools:
            if self.tool_choice not in ("auto", "none"):
                raise InvalidRequestError("tool_choice needs tools", param="tool_choice")
            return ToolPolicy()
        paths = tuple(f"tools[{i}].function" for i in range(len(self.tools)))
        tools = _distinct([definition.function for definition in self.tools], paths)
        _check_bytes(self.tools, "tools")
        choice = self.tool_choice
        if choice == "none":
            return ToolPolicy()
        names, is_required = None, choice == "required"
        if isinstance(choice, NamedTool):
            names = _known([choice.function.name], tools, "tool_choice.function.name")
            is_required = True
        elif isinstance(choice, AllowedTools):
            allowed = choice.allowed_tools
            path = "tool_choice.allowed_tools.tools[{}].function.name"
            names = _known([tool.function.name for tool in allowed.tools], tools, path)
            is_required = allowed.mode == "required"
        return ToolPolicy(
            tools,
            tuple(tool.document for tool in self.tools),
            names,
            is_required,
            is_parallel=self.parallel_tool_calls and not isinstance(choice, NamedTool),
        )

    @property
    def tool_field_names(self) -> FieldNames:
        """The client's names of the tools and of the tool choice."""
        if not self.functions:
            return FieldNames()
        paths = tuple(f"functions[{i}]" for i in range(len(self.functions)))
        return FieldNames({"tools": "functions", "tool_choice": "function_call"}, functions=paths)

    def _function_policy(self) -> ToolPolicy:
        tools = _distinct(self.functions, self.tool_field_names.functions)
        _check_bytes(self.functions, "functions")
        choice = self.function_call
        if choice == "none":
            return ToolPolicy()
        shown: tuple[JsonObject, ...] = tuple({"type": "function", "function": f.document} for f in self.functions)
        if isinstance(choice, NamedFunction):
            names = _known([choice.name], tools, "function_call.name")
            return ToolPolicy(tools, shown, names, is_required=True, is_parallel=False, is_legacy=True)
        return ToolPolicy(tools, shown, is_parallel=False, is_legacy=True)


def _check_bytes(definitions: Sequence[FunctionDefinition | ToolDefinition], param: str) -> None:
    try:
        num_bytes = sum(len(orjson.dumps(definition.document)) for definition in definitions)
    except orjson.JSONEncodeError as exc:
        raise InvalidRequestError(f"{param}: nested too deeply", param=param) from exc
    at_most(f"bytes of {param}", num_bytes, caps.MAX_TOOL_BYTES, param)


def _distinct(functions: Sequence[FunctionDefinition], paths: Sequence[str]) -> tuple[Tool, ...]:
    names: set[str] = set()
    for function, path in zip(functions, paths, strict=True):
        if function.name in names:
            raise InvalidRequestError(
                f"{path}.name: two functions have the name '{function.name}'", param=f"{path}.name"
            )
        names.add(function.name)
    return tuple(function.tool(path) for function, path in zip(functions, paths, strict=True))


def _known(names: Sequence[str], tools: Sequence[Tool], path: str) -> tuple[str, ...]:
    """The names, each once. path: the client's field; {} in it becomes the index in a list.

    Raises InvalidRequestError for a name that no tool has.
    """
    known = {tool.name for tool in tools}
    for i, name in enumerate(names):
        if name not in known:
            raise InvalidRequestError(f"{path.format(i)}: no tool has this name", param=path.format(i))
    return tuple(dict.fromkeys(names))
