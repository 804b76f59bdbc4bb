"""The fields that say which tools a model may call, and what they come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StringConstraints,
    model_validator,
)

from llamafast.errors import InvalidRequestError
from llamafast.parsing.tools import Tool
from llamafast.server.schemas.tool_schema import check_parameters

JsonObject = dict[str, object]

# OpenAI's names, and the dots, slashes and colons of MCP servers; nothing that a format could take for a marker.
Name = Annotated[str, StringConstraints(pattern=r"^[\w.:/-]{1,128}$")]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What a request lets the model call; by default nothing.

    tools: those it may call. shown: the tools as the client wrote them, for the chat template; they may be more.
    is_required: it has to call one. param: the field that holds them; paths: where each of tools stands in it.
    """

    tools: tuple[Tool, ...] = ()
    shown: tuple[JsonObject, ...] = ()
    is_required: bool = False
    is_parallel: bool = True
    is_legacy: bool = False
    param: str = "tools"
    paths: tuple[str, ...] = ()

    @property
    def is_enforced(self) -> bool:
        """Whether what the model writes must be constrained."""
        return self.is_required or any(tool.strict for tool in self.tools)

    @property
    def num_chars(self) -> int:
        """About as long as the tools stand in a prompt."""
        return sum(len(repr(tool)) for tool in self.shown)


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
        """Raises InvalidRequestError for bad parameters, naming their place below `path`."""
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
    """A tool by its name: the one that must be called, or one of those that may be."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["function"]
    function: NamedFunction


class AllowedToolList(BaseModel):
    """auto: these may be called; required: one of these must be."""

    model_config = ConfigDict(strict=True, extra="allow")

    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1)


class AllowedTools(BaseModel):
    """Some of the request's tools."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["allowed_tools"]
    allowed_tools: AllowedToolList


class ToolFields(BaseModel):
    """OpenAI's tools, and the functions that they were before."""

    tools: list[ToolDefinition] = Field(default_factory=list, max_length=1024)
    tool_choice: Literal["auto", "none", "required"] | NamedTool | AllowedTools = Field(
        "auto", description="none hides the tools; required, a named tool and allowed_tools are enforced."
    )
    parallel_tool_calls: bool = Field(True, description="false: the answer ends behind its first call.")
    functions: list[FunctionDefinition] = Field(default_factory=list, max_length=1024, description="Older `tools`.")
    function_call: Literal["auto", "none"] | NamedFunction = Field("auto", description="Older `tool_choice`.")

    def tool_use(self) -> ToolUse:
        """What the model may call. Raises InvalidRequestError."""
        if self.functions:
            if self.tools:
                raise InvalidRequestError("'functions' is the older name of 'tools': give one", param="functions")
            return self._of_functions()
        if self.function_call not in ("auto", "none"):
            raise InvalidRequestError("function_call needs functions", param="function_call")
        if not self.tools:
            if self.tool_choice not in ("auto", "none"):
                raise InvalidRequestError("tool_choice needs tools", param="tool_choice")
            return ToolUse()
        paths = tuple(f"tools[{i}].function" for i in range(len(self.tools)))
        tools = _distinct([definition.function for definition in self.tools], paths)
        choice = self.tool_choice
        if choice == "none":
            return ToolUse()
        use = ToolUse(
            tools,
            tuple(tool.document for tool in self.tools),
            is_required=choice == "required" or isinstance(choice, NamedTool),
            is_parallel=self.parallel_tool_calls,
            paths=paths,
        )
        if isinstance(choice, NamedTool):
            return _only(use, {choice.function.name: "tool_choice.function.name"}, is_required=True, is_parallel=False)
        if isinstance(choice, AllowedTools):
            allowed = choice.allowed_tools
            path = "tool_choice.allowed_tools.tools[{}].function.name"
            names = {tool.function.name: path.format(i) for i, tool in enumerate(allowed.tools)}
            return _only(use, names, is_required=allowed.mode == "required", is_parallel=use.is_parallel)
        return use

    def _of_functions(self) -> ToolUse:
        paths = tuple(f"functions[{i}]" for i in range(len(self.functions)))
        tools = _distinct(self.functions, paths)
        if self.function_call == "none":
            return ToolUse()
        shown: tuple[JsonObject, ...] = tuple({"type": "function", "function": f.document} for f in self.functions)
        use = ToolUse(tools, shown, is_parallel=False, is_legacy=True, param="functions", paths=paths)
        if isinstance(self.function_call, NamedFunction):
            return _only(use, {self.function_call.name: "function_call.name"}, is_required=True, is_parallel=False)
        return use


def _distinct(functions: Sequence[FunctionDefinition], paths: Sequence[str]) -> tuple[Tool, ...]:
    names: set[str] = set()
    for function, path in zip(functions, paths, strict=True):
        if function.name in names:
            raise InvalidRequestError(f"{path}.name: '{function.name}' is there twice", param=f"{path}.name")
        names.add(function.name)
    return tuple(function.tool(path) for function, path in zip(functions, paths, strict=True))


def _only(use: ToolUse, names: Mapping[str, str], *, is_required: bool, is_parallel: bool) -> ToolUse:
    """A use narrowed to tools by name. names: each with the path of the field that says it.

    Where a call is required the grammar sees to the rest, and the prompt stays as it was (so does its cached prefix);
    else the template hides the other tools.
    """
    known = {tool.name for tool in use.tools}
    for name, path in names.items():
        if name not in known:
            raise InvalidRequestError(f"{path}: there is no tool '{name}' in {use.param}", param=path)
    kept = list(_places(use.tools, names))
    return ToolUse(
        tuple(use.tools[i] for i in kept),
        use.shown if is_required else tuple(use.shown[i] for i in kept),
        is_required=is_required,
        is_parallel=is_parallel,
        is_legacy=use.is_legacy,
        param=use.param,
        paths=tuple(use.paths[i] for i in kept),
    )


def _places(tools: Sequence[Tool], names: Mapping[str, str]) -> Iterator[int]:
    return (i for i, tool in enumerate(tools) if tool.name in names)
