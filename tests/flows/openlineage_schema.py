"""JSON Schemas of OpenLineage's events, at the very versions that they name, made of the classes that the
specification's own project generates from it (openlineage-python, Apache-2.0): stricter, in that nothing
undeclared may stand in an event.
"""

from __future__ import annotations

import enum
import types
import typing
from typing import Any

import attr
from jsonschema import Draft202012Validator
from openlineage.client import event_v2, facet_v2

FACETS = {
    facet: getattr(getattr(facet_v2, module), name)
    for facet, module, name in (
        ("parent", "parent_run", "ParentRunFacet"),
        ("errorMessage", "error_message_run", "ErrorMessageRunFacet"),
        ("jobType", "job_type_job", "JobTypeJobFacet"),
        ("ownership", "ownership_job", "OwnershipJobFacet"),
        ("sql", "sql_job", "SQLJobFacet"),
        ("schema", "schema_dataset", "SchemaDatasetFacet"),
        ("documentation", "documentation_dataset", "DocumentationDatasetFacet"),
        ("columnLineage", "column_lineage_dataset", "ColumnLineageDatasetFacet"),
        ("version", "dataset_version_dataset", "DatasetVersionDatasetFacet"),
        ("outputStatistics", "output_statistics_output_dataset", "OutputStatisticsOutputDatasetFacet"),
    )
}
"""The facets that we send, by the key they stand under."""
_ALWAYS = {"producer", "schemaURL", "_producer", "_schemaURL", "eventType"}
"""What the specification requires, and the classes fill in."""
_URI = {"pattern": r"^[A-Za-z][A-Za-z0-9+.-]*:([A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+$"}
"""RFC 3986: the validator passes over the format `uri` without a package that checks it."""
_TEXTS = {
    "eventTime": {"format": "date-time"},
    "runId": {"format": "uuid"},
    **dict.fromkeys(("producer", "_producer"), _URI),
}
"""What a text has to be, by the name it stands under."""
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}


def validator() -> Draft202012Validator:
    """What holds a run event to the specification, formats included."""
    definitions: dict[str, Any] = {}
    schema = {**_of_class(event_v2.RunEvent, definitions), "$defs": definitions}
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


def _of_class(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    """A reference to the class's schema, which some hold again."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    reference = {"$ref": f"#/$defs/{name}"}
    if name in definitions:
        return reference
    properties: dict[str, Any] = {}
    required = []
    definitions[name] = {"type": "object", "properties": properties, "additionalProperties": False}
    hints = typing.get_type_hints(kind)
    for field in attr.fields(kind):
        properties[field.name] = _of_field(field.name, hints[field.name], definitions)
        if field.default is attr.NOTHING or field.name in _ALWAYS:
            required.append(field.name)
    for url in {"schemaURL", "_schemaURL"} & properties.keys():
        properties[url] = {"const": kind._get_schema()}  # type: ignore[attr-defined]
    definitions[name]["required"] = required
    return reference


def _of_field(name: str, hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if name == "facets" or name.endswith("Facets"):
        inside = {facet: _of_class(kind, definitions) for facet, kind in FACETS.items()}
        return {"type": "object", "properties": inside, "additionalProperties": False}
    return {**_of_hint(hint, definitions), **_TEXTS.get(name, {})}


def _of_hint(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin in {typing.Union, types.UnionType}:
        # Nulls are left out of an event.
        return _of_hint(next(part for part in arguments if part is not type(None)), definitions)
    if origin is list:
        return {"type": "array", "items": _of_hint(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of_hint(arguments[1], definitions)}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [member.value for member in hint]}
    return {"type": _PLAIN[hint]} if hint in _PLAIN else _of_class(hint, definitions)
