"""Adds the request bodies to the OpenAPI document. The routes read bodies without FastAPI, which would add them."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from llamafast.server.schemas.common import JsonBody

_REF = "#/components/schemas/{model}"


def body_docs(model: type[JsonBody]) -> dict[str, object]:
    """The argument openapi_extra of a route that takes bodies of this type."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


class DocumentedApp(FastAPI):
    """A FastAPI application whose OpenAPI document holds the schemas of `bodies`, too."""

    bodies: Sequence[type[JsonBody]] = ()

    def openapi(self) -> dict[str, object]:
        """The OpenAPI document. It is built at the first call."""
        if self.openapi_schema is None:
            schema = get_openapi(title=self.title, version=self.version, routes=self.routes)
            _, definitions = models_json_schema([(body, "validation") for body in self.bodies], ref_template=_REF)
            schema.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
            self.openapi_schema = schema
        return self.openapi_schema
