"""The state that all routes share: models by name, HTTP settings, the metrics registry, and the body reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from fastapi import Request
from prometheus_client import CollectorRegistry, Gauge
from starlette.types import Receive

from llamafast.engine.breakers import dry_breakers
from llamafast.errors import EngineDeadError, NotFoundError, ShuttingDownError
from llamafast.request import SamplingParams
from llamafast.server.model_names import matches
from llamafast.server.receiving.body import BodyReader
from llamafast.server.receiving.preparation import Preparation
from llamafast.server.receiving.unknown_fields import UnknownFields
from llamafast.server.schemas.common import JsonBody
from llamafast.server.served_model import ServedModel

Body = TypeVar("Body", bound=JsonBody)
T = TypeVar("T")

_MAX_QUOTED_CHARS = 200


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """HTTP settings, the same for all models.

    max_body_bytes: the greatest size of a request body, in bytes.
    strict_fields: an unknown request field is an error.
    keepalive_s: seconds without output after which a stream sends a comment.
    shutdown_deadline_s: seconds that running requests get to finish when the server shuts down.
    version: the version of the program, for the OpenAPI document.
    """

    max_body_bytes: int = 32 * 1024 * 1024
    strict_fields: bool = False
    keepalive_s: float = 15.0
    shutdown_deadline_s: float = 30.0
    version: str = ""


class ServerState:
    """The state of one application.

    models: at least one. The first one answers requests that name no model. serve() replaces them.
    settings: HTTP settings.
    registry: the metrics that /metrics shows.
    preparation: the threads for large bodies.

    Raises ValueError if two models have the same name.
    """

    def __init__(self, models: Sequence[ServedModel], settings: ServerSettings) -> None:
        self.settings = settings
        self.serve(models)
        self.registry = CollectorRegistry()
        self.preparation = Preparation()
        self._bodies = BodyReader(
            self.preparation,
            UnknownFields(self.registry),
            max_bytes=settings.max_body_bytes,
            is_strict=settings.strict_fields,
        )
        preparing = Gauge(
            "llamafast:requests_in_preparation", "Large bodies that are read and tokenized.", registry=self.registry
        )
        preparing.set_function(lambda: self.preparation.num_jobs)

    def serve(self, models: Sequence[ServedModel]) -> None:
        """Serve these models from now on. Raises ValueError if two of them have the same name."""
        by_name = _by_name((name, model) for model in models for name in model.names.exact)
        patterns = _by_name((name, model) for model in models for name in model.names.patterns)
        self.models = tuple(models)
        self._by_name = by_name
        self._by_pattern = sorted(patterns.items(), key=lambda item: -len(item[0]))

    def model_for(self, name: str | None) -> ServedModel:
        """The model with this name. Exact names count before patterns, long patterns before short ones.

        name: None for the first model. Raises NotFoundError.
        """
        if name is None:
            return self.models[0]
        model = self._by_name.get(name)
        if model is None:
            model = next((model for pattern, model in self._by_pattern if matches(pattern, name)), None)
        if model is None:
            known = ", ".join(f"'{each}'" for each in self._by_name)
            raise NotFoundError(
                f"the model '{name[:_MAX_QUOTED_CHARS]}' does not exist; this server has {known}",
                param="model",
                code="model_not_found",
            )
        return model

    async def prepare(self, request: Request, body_type: type[Body], work: Callable[[ServedModel, Body], T]) -> T:
        """Read the body, find its model, and return work(model, body). All of it runs in a thread if it may take long.

        Raises what `work` raises, RequestTooLargeError, InvalidRequestError, NotFoundError (model), ClientDisconnect,
        QueueFullError, EngineDeadError, ShuttingDownError.
        """
        self._check_any_ready()
        return await self._bodies.read(request, body_type, partial(self._find_and_work, work))

    async def load_message(self, raw: bytes, receive: Receive) -> tuple[object, int]:
        """The JSON document in a message, and its cost for prepare_message(). Raises what BodyReader.load raises."""
        return await self._bodies.load(raw, receive)

    async def prepare_message(
        self,
        document: object,
        cost: int,
        receive: Receive,
        body_type: type[Body],
        work: Callable[[ServedModel, Body], T],
    ) -> T:
        """As prepare(), for a body that came in a message and was parsed by load_message()."""
        self._check_any_ready()
        found = partial(self._find_and_work, work)
        return await self._bodies.validate(document, cost, receive, body_type, found)

    async def resolve_breakers(self, receive: Receive, served: ServedModel, params: SamplingParams) -> None:
        """Find the tokens of DRY's sequence breakers in a thread. The engine then reads them from their cache."""
        if params.dry_multiplier:
            work = partial(dry_breakers, served.engine.tokenizer, params.dry_sequence_breakers)
            await self.preparation.run(receive, 0, work)

    def deaths(self) -> dict[str, str]:
        """The reasons why engines have died, by the alias of the model. Raises EngineDeadError if all have died."""
        deaths = {model.alias: model.death for model in self.models if model.death is not None}
        if len(deaths) < len(self.models):
            return deaths
        if len(deaths) == 1:
            raise EngineDeadError(f"the engine is dead: {self.models[0].death}")
        reasons = "; ".join(f"model '{alias}': {reason}" for alias, reason in deaths.items())
        raise EngineDeadError(f"all engines are dead: {reasons}")

    def _find_and_work(self, work: Callable[[ServedModel, Body], T], body: Body) -> T:
        served = self.model_for(body.model)
        self._check_ready(served)
        return work(served, body)

    def _check_any_ready(self) -> None:
        """Raise EngineDeadError or ShuttingDownError if no model takes requests. Then no body has to be read."""
        if not any(model.engine_thread.ready for model in self.models):
            deaths = self.deaths()
            next(model for model in self.models if model.alias not in deaths).engine_thread.check_ready()

    def _check_ready(self, served: ServedModel) -> None:
        """Raise EngineDeadError or ShuttingDownError if the model takes no requests. One of several is named."""
        try:
            served.engine_thread.check_ready()
        except (EngineDeadError, ShuttingDownError) as exc:
            if len(self.models) > 1:
                exc.message = f"model '{served.alias}': {exc.message}"
            raise


def _by_name(named: Iterable[tuple[str, ServedModel]]) -> dict[str, ServedModel]:
    """Raises ValueError for a name that two models have."""
    by_name: dict[str, ServedModel] = {}
    for name, model in named:
        if by_name.setdefault(name, model) is not model:
            raise ValueError(f"two models have the name '{name}'")
    return by_name
