"""The HTTP door described for programs: OpenAPI 3.1."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

_FORMATS = {
    "application/json": {"schema": {"type": "array", "items": {"type": "object"}}},
    "application/x-ndjson": {"schema": {"type": "string"}},
    "text/csv": {"schema": {"type": "string"}},
    "application/vnd.apache.arrow.stream": {},
}
_FORMAT = {
    "name": "format",
    "in": "query",
    "description": "Instead of Accept.",
    "schema": {"type": "string", "enum": ["json", "ndjson", "csv", "arrow"]},
}
_FIGURES = {
    "description": "Prometheus's text format, version 0.0.4; each figure has its node as a label.",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}
_KEY = {
    "name": "key",
    "in": "path",
    "required": True,
    "description": "Percent-encoded. It may contain slashes, as they are or encoded.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 512},
}
_ETAG = {"ETag": {"description": "The version, quoted.", "schema": {"type": "string"}}}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "description": "The version that must be there, quoted; * for any.",
    "schema": {"type": "string"},
}
_IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "description": "Of a write, *: nothing may be there. Of a reading, versions that the client has.",
    "schema": {"type": "string"},
}


def description() -> dict[str, Any]:
    """Return the description of all routes."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "eau2",
            "description": "A key-value store whose values are bytes or dataframes.",
            "version": version("eau2"),
        },
        "security": [{}, {"token": []}],
        "paths": {
            "/": {"get": _operation("index", "What is here.", {"200": _text("The routes.")}, security=[{}])},
            "/health": {
                "get": _operation("health", "Whether the store can be read.", {"200": _json("It can.")}, security=[{}])
            },
            "/metrics": {"get": _operation("metrics", "What all nodes say of themselves.", {"200": _FIGURES})},
            "/openapi.json": {"get": _operation("openapi", "This description.", {"200": _json("OpenAPI 3.1.")})},
            "/keys": {"get": _listing()},
            "/keys/{key}": {"parameters": [_KEY], "get": _get(), "head": _head(), "put": _put(), "delete": _delete()},
            "/sql": {"post": _sql()},
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error", "message", "hint"],
                    "properties": {each: {"type": "string"} for each in ("error", "message", "hint")},
                }
            },
        },
    }


def _operation(name: str, summary: str, responses: dict[str, Any], **more: Any) -> dict[str, Any]:
    failure = {
        "description": "What is wrong.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    return {"operationId": name, "summary": summary, "responses": {**responses, "default": failure}, **more}


def _text(what: str) -> dict[str, Any]:
    return {"description": what, "content": {"text/plain": {"schema": {"type": "string"}}, "text/html": {}}}


def _json(what: str) -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"schema": {"type": "object"}}}}


def _query(name: str, schema: dict[str, Any], what: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": what, "schema": schema}


def _listing() -> dict[str, Any]:
    page = {
        "type": "object",
        "required": ["keys", "next"],
        "properties": {
            "keys": {"type": "array", "items": {"type": "string"}},
            "next": {"type": ["string", "null"], "description": "`after` of the next page."},
        },
    }
    return _operation(
        "listKeys",
        "Keys, sorted by code point, a page at a time.",
        {"200": {"description": "A page.", "content": {"application/json": {"schema": page}}}},
        parameters=[
            _query("prefix", {"type": "string"}, "How they begin."),
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 1000}, "How many at most."),
            _query("after", {"type": "string"}, "The key that they follow."),
        ],
    )


def _get() -> dict[str, Any]:
    value = {"description": "Bytes, or the rows of a frame.", "headers": _ETAG}
    return _operation(
        "getValue",
        "What is under the key.",
        {
            "200": {**value, "content": {"application/octet-stream": {}, **_FORMATS}},
            "304": {"description": "The client has this version.", "headers": _ETAG},
            "404": _failure("Nothing is under the key."),
            "406": _failure("The format has no way to tell such columns."),
        },
        parameters=[_FORMAT, _IF_NONE_MATCH],
    )


def _head() -> dict[str, Any]:
    return _operation(
        "headValue",
        "The version of what is under the key.",
        {"200": {"description": "It is there.", "headers": _ETAG}, "404": {"description": "Nothing is."}},
        parameters=[_FORMAT, _IF_NONE_MATCH],
    )


def _put() -> dict[str, Any]:
    frames = (
        "application/vnd.apache.arrow.stream",
        "text/csv",
        "application/x-ndjson",
        "application/vnd.apache.parquet",
    )
    body = {"required": True, "content": {"application/octet-stream": {}, **{each: {} for each in frames}}}
    return _operation(
        "putValue",
        "Create or replace what is under the key.",
        {
            "200": {**_json("A file was loaded: the account of its lines, and the version."), "headers": _ETAG},
            "201": {"description": "It was created.", "headers": _ETAG},
            "204": {"description": "It was replaced.", "headers": _ETAG},
            "412": _failure("Something else is under the key; nothing was changed."),
            "413": _failure("Bytes have at most 64 MiB."),
        },
        requestBody=body,
        parameters=[
            _IF_MATCH,
            _IF_NONE_MATCH,
            _query("on_error", {"type": "string", "enum": ["report", "null", "fail"]}, "What becomes of bad lines."),
        ],
    )


def _delete() -> dict[str, Any]:
    return _operation(
        "deleteValue",
        "Delete what is under the key.",
        {
            "204": {"description": "It is deleted."},
            "404": _failure("Nothing is under the key."),
            "412": _failure("Something else is under the key; nothing was changed."),
        },
        parameters=[_IF_MATCH],
    )


def _sql() -> dict[str, Any]:
    given = {"type": "object", "required": ["query"], "properties": {"query": {"type": "string"}}}
    return _operation(
        "query",
        "The answer of a query. Keys of frames are table names.",
        {"200": {"description": "Its rows.", "content": _FORMATS}, "400": _failure("The query is wrong.")},
        requestBody={
            "required": True,
            "content": {"text/plain": {"schema": {"type": "string"}}, "application/json": {"schema": given}},
        },
        parameters=[_FORMAT],
    )


def _failure(what: str) -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
