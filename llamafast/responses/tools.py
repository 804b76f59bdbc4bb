"""The tools of a Responses request: as chat tools for the model, and back to what the client named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llamafast.errors import InvalidRequestError

JsonObject = dict[str, object]

# A custom tool takes text. The model writes it as the one string parameter of a function.
CUSTOM_PARAMETER = "input"

# Tools that OpenAI runs on its own machines. A request may list them, but nothing here runs them.
HOSTED_TOOLS = frozenset(
    {
        "web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11", "file_search",
        "computer", "computer_use", "computer_use_preview", "code_interpreter", "mcp", "image_generation",
        "local_shell", "shell", "apply_patch", "programmatic_tool_calling",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ToolOrigin:
    """What the client calls a tool.

    kind: `function` or `custom`. name: its name. namespace: the namespace that it is in, None: none.
    """

    kind: str
    name: str
    namespace: str | None = None


@dataclass(slots=True)
class ToolTable:
    """The tools of one request.

    chat_tools: as chat takes them, in the order of the request.
    paths: the client's field of each chat tool.
    kept: as the client wrote them, without those that were dropped; the response object shows these.
    origins: by the name that the model sees.
    warnings: what was dropped or is not enforced, one text each.
    """

    chat_tools: list[JsonObject] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    kept: list[JsonObject] = field(default_factory=list)
    origins: dict[str, ToolOrigin] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def add(self, tools: Sequence[object], path: str) -> None:
        """Take the tools at `path` of the request. Equal names: the first one counts if both are equal.

        Raises InvalidRequestError, naming the field.
        """
        for i, tool in enumerate(tools):
            here = f"{path}[{i}]"
            if not isinstance(tool, dict):
                raise InvalidRequestError(f"{here}: must be an object", param=here)
            if self._add(tool, here, None):
                self.kept.append(tool)

    def model_name(self, kind: str, name: str, namespace: str | None = None) -> str | None:
        """The name that the model sees for a tool of the client's; None: there is no such tool."""
        wanted = ToolOrigin(kind, name, namespace)
        for seen, origin in self.origins.items():
            if origin == wanted or (namespace is None and (origin.kind, origin.name) == (kind, name)):
                return seen
        return None

    def chat_choice(self, choice: object) -> object:
        """`tool_choice` as chat takes it. Raises InvalidRequestError."""
        if choice is None or isinstance(choice, str):
            if choice not in (None, "auto", "none", "required"):
                raise InvalidRequestError("tool_choice: must be auto, none, required or an object", param="tool_choice")
            return "auto" if choice is None else choice
        if not isinstance(choice, dict):
            raise InvalidRequestError("tool_choice: must be a string or an object", param="tool_choice")
        if choice.get("type") != "allowed_tools":
            return self._named(choice, "tool_choice")
        mode, listed = choice.get("mode"), choice.get("tools")
        if mode not in ("auto", "required"):
            raise InvalidRequestError("tool_choice.mode: must be auto or required", param="tool_choice.mode")
        if not isinstance(listed, list) or not listed:
            raise InvalidRequestError("tool_choice.tools: must be a list of tools", param="tool_choice.tools")
        named = [self._named(tool, f"tool_choice.tools[{i}]") for i, tool in enumerate(listed)]
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}

    def _add(self, tool: JsonObject, path: str, namespace: str | None) -> bool:
        """Take one tool; False: it is dropped."""
        kind = tool.get("type")
        if not isinstance(kind, str):
            raise InvalidRequestError(f"{path}.type: must be a string", param=f"{path}.type")
        if kind == "namespace" and namespace is None:
            name, inner = _name(tool, path), tool.get("tools")
            if not isinstance(inner, list):
                raise InvalidRequestError(f"{path}.tools: must be a list", param=f"{path}.tools")
            added = [
                self._add(_object(t, f"{path}.tools[{i}]"), f"{path}.tools[{i}]", name) for i, t in enumerate(inner)
            ]
            return any(added)
        if kind == "tool_search" and tool.get("execution") == "client":
            function = {"name": "tool_search", "description": tool.get("description"),
                        "parameters": tool.get("parameters")}  # fmt: skip
            return self._keep(ToolOrigin("function", "tool_search"), _present(function), path)
        if kind == "function":
            fields = ("name", "description", "parameters", "strict")
            function = {name: tool.get(name) for name in fields}
            return self._keep(ToolOrigin("function", _name(tool, path), namespace), _present(function), path)
        if kind == "custom":
            return self._add_custom(tool, path, namespace)
        if kind in HOSTED_TOOLS or kind in ("tool_search", "namespace"):
            self.warnings.append(f"{path}: tools of type '{kind}' are not run here, so it was left out")
            return False
        self.warnings.append(f"{path}: tools of type '{kind[:64]}' are not known, so it was left out")
        return False

    def _add_custom(self, tool: JsonObject, path: str, namespace: str | None) -> bool:
        name, form = _name(tool, path), tool.get("format")
        text: JsonObject = {"type": "string", "description": "The whole input, as plain text."}
        pattern = None if form is None else self._pattern(form, f"{path}.format")
        function: JsonObject = {
            "name": name,
            "description": tool.get("description"),
            "parameters": {
                "type": "object",
                "properties": {CUSTOM_PARAMETER: text if pattern is None else {**text, "pattern": pattern}},
                "required": [CUSTOM_PARAMETER],
                "additionalProperties": False,
            },
            "strict": None if pattern is None else True,
        }
        return self._keep(ToolOrigin("custom", name, namespace), _present(function), path)

    def _pattern(self, form: object, path: str) -> str | None:
        """The pattern that the input of a custom tool has to match; None: any text. Raises InvalidRequestError."""
        if not isinstance(form, dict) or form.get("type") not in ("text", "grammar"):
            raise InvalidRequestError(f"{path}.type: must be text or grammar", param=f"{path}.type")
        if form["type"] == "text":
            return None
        syntax, definition = form.get("syntax"), form.get("definition")
        if syntax not in ("lark", "regex"):
            raise InvalidRequestError(f"{path}.syntax: must be lark or regex", param=f"{path}.syntax")
        if not isinstance(definition, str):
            raise InvalidRequestError(f"{path}.definition: must be a string", param=f"{path}.definition")
        if syntax == "lark":
            self.warnings.append(f"{path}: not enforced: grammars of custom tools are enforced as a regex only")
            return None
        return f"^(?:{definition})$"

    def _keep(self, origin: ToolOrigin, function: JsonObject, path: str) -> bool:
        name = _flat(origin)
        document: JsonObject = {"type": "function", "function": {**function, "name": name}}
        if name in self.origins:
            if self.origins[name] == origin and document in self.chat_tools:
                return False
            raise InvalidRequestError(f"{path}.name: two tools are called '{name}'", param=f"{path}.name")
        self.origins[name] = origin
        self.chat_tools.append(document)
        self.paths.append(path)
        return True

    def _named(self, choice: object, path: str) -> JsonObject:
        choice = _object(choice, path)
        kind, name = choice.get("type"), choice.get("name")
        if kind not in ("function", "custom"):
            raise InvalidRequestError(f"{path}: tools of type '{str(kind)[:64]}' cannot be called here", param=path)
        if not isinstance(name, str):
            raise InvalidRequestError(f"{path}.name: must be a string", param=f"{path}.name")
        namespace = choice.get("namespace")
        found = self.model_name(kind, name, namespace if isinstance(namespace, str) else None)
        if found is None and name in self.origins:
            found = name
        if found is None:
            raise InvalidRequestError(f"{path}.name: there is no tool '{name[:128]}'", param=f"{path}.name")
        return {"type": "function", "function": {"name": found}}


def _flat(origin: ToolOrigin) -> str:
    """The name that the model sees."""
    namespace = origin.namespace
    if not namespace:
        return origin.name
    return f"{namespace}{'' if namespace.endswith(('__', '/')) else '__'}{origin.name}"


def _name(tool: Mapping[str, object], path: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequestError(f"{path}.name: must be a string", param=f"{path}.name")
    return name


def _object(value: object, path: str) -> JsonObject:
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{path}: must be an object", param=path)
    return value


def _present(function: JsonObject) -> JsonObject:
    return {name: value for name, value in function.items() if value is not None}
