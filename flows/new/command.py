"""`python -m flows new NAME`: a table of others, or something to be read, begun with files that work."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from flows.declaration import added, in_python
from flows.errors import FlowsError
from flows.new import api_list, app_table, model, topic
from flows.new.draft import Draft, Project, call
from flows.settings import load
from transforms import registry
from transforms.contract import Layer, check_name
from transforms.entities import Rest, SourceEntity

_FIRST = "Change them to what you want: a model's file says what is selected, and what each column means."
_LEFT_OUT = "Left out, since no column can be called so, or two would: {}."
_LAST = (
    ".venv/bin/python -m pytest tests/transforms holds it to its rows, python -m flows catalog --write "
    "brings docs/dictionary.md up to date; python -m flows plan says what the next run builds."
)


def command(arguments: argparse.Namespace) -> int:
    """Write the files, say which, and what to do then. Raises FlowsError, ContractError; nothing is written
    then.
    """
    draft = drafted(arguments, Project())
    for line in draft.write():
        print(line)
    for line in (_FIRST, *draft.next, _LAST):
        print(f"  {line}")
    return 0


def drafted(arguments: argparse.Namespace, project: Project) -> Draft:
    """What is to be written for the name that was typed."""
    source, dot, name = arguments.name.partition(".")
    if not dot:
        _refuse_others(arguments, "a table that is made of others", "upstreams")
        return _model(arguments, project)
    makers = {"app": _app_table, "events": _topic}
    if source not in makers and not _lists(source):
        raise FlowsError(
            f"'{source}' is no source of which a declaration can be begun: write app.TABLE for one of the "
            "application's tables, events.TOPIC for a topic, SOURCE.LIST for one more list of an API that is "
            "declared. docs/connect.md shows how the first list of an API is."
        )
    check_name(name)
    if source == "app":
        _refuse_others(arguments, "a table of the application", "read", "mode", "key")
    elif source == "events":
        _refuse_others(arguments, "a topic", "read", "key", "time")
    else:
        _refuse_others(arguments, "a list of an API", "read", "key")
    if (known := f"raw_{source}__{name}") in registry.tables():
        raise FlowsError(f"{arguments.name} is declared already, and lands in {known}.")
    return makers.get(source, _api_list)(arguments, name, project)


def _refuse_others(arguments: argparse.Namespace, what: str, *known: str) -> None:
    options = {"upstreams": "--from", "read": "--read", "mode": "--mode", "key": "--key", "time": "--time"}
    for name, option in options.items():
        if getattr(arguments, name) is not None and name not in known:
            fitting = ", ".join(options[one] for one in known)
            raise FlowsError(
                f"{option} says nothing of {what}, as {arguments.name} is one; it takes {fitting}."
            )


def _model(arguments: argparse.Namespace, project: Project) -> Draft:
    name = check_name(arguments.name)
    layer = model.layer_of(name)
    if not arguments.upstreams:
        raise FlowsError(
            f"Say what {name} is made of: --from TABLE, and once more for each that is joined. All there "
            "are: python -m flows catalog"
        )
    tables = model.made_of(arguments.upstreams)
    draft = Draft(project, _files(project, layer, name, model.text(tables), model.rows(tables)))
    if layer.is_published:
        draft.next.append(".venv/bin/python -m warehouse_ddl writes its DDL.")
    return draft


def _app_table(arguments: argparse.Namespace, name: str, project: Project) -> Draft:
    schema, dot, table = (arguments.read or name).rpartition(".")
    schema = schema if dot else "public"
    found = app_table.look(load(), schema, table, arguments.key)
    mode = arguments.mode or app_table.mode_of(found)
    if mode == "incremental" and app_table.CURSOR not in {column.name for column in found.columns}:
        raise FlowsError(
            f"{schema}.{table} has no column {app_table.CURSOR}, by which --mode incremental reads. Take "
            "--mode snapshot, and write the `mode` and the `cursor` that it has into its declaration "
            "afterwards (docs/connect.md)."
        )
    text = app_table.declaration(name, found, mode, schema, table)
    draft, entity = _declared(project, "app", name, text)
    pairs = app_table.staged(entity, found)
    staged = app_table.staging(entity, pairs), app_table.rows(entity, pairs)
    draft.new = _files(project, Layer.STAGING, f"stg_app__{name}", *staged)
    draft.next.append(f"It is read by `{mode}`; docs/connect.md says which way fits what.")
    if mode == "cdc":
        draft.next.append("python -m flows cdc register has its changes captured.")
    personal = [column.name for column in entity.columns if column.pii]
    draft.next.append(
        f"Taken for personal data, by their names: {', '.join(personal) or 'no column'}. Others are to be "
        "named in _PERSONAL in transforms/sources/app.py and in the model's `pii`: they are masked, and go "
        "with an erasure."
    )
    return draft


def _topic(arguments: argparse.Namespace, name: str, project: Project) -> Draft:
    called = arguments.read or name
    shape = topic.look(load(), called, (arguments.key or [None])[0], arguments.time)
    grain = f"one row per record of topic {called}"
    words = [in_python(name), in_python(grain)]
    words += [f"topic={in_python(called)}"] if called != name else []
    words += [f"event_time={in_python(shape.time)}"] if shape.time != "event_time" else []
    draft, entity = _declared(project, "events", name, call("_topic", words))
    of_one = f"one row per event of topic {called}"
    staged = topic.staging(entity.table, of_one, shape), topic.rows(entity.table, shape)
    draft.new = _files(project, Layer.STAGING, f"stg_events__{name}", *staged)
    if shape.left_out:
        draft.next.append(_LEFT_OUT.format(", ".join(shape.left_out)))
    draft.next.append(
        "Its fields are those of the newest records; what others have, add. Where one holds personal data, "
        "name its column in the model's `pii`."
    )
    return draft


def _lists(source: str) -> list[SourceEntity]:
    """The lists of an API after which another one can be asked: not those that are asked by ranges."""
    own = [entity for entity in registry.entities() if entity.source == source]
    return [entity for entity in own if isinstance(entity.read, Rest) and entity.read.paging != "window"]


def _api_list(arguments: argparse.Namespace, name: str, project: Project) -> Draft:
    source = arguments.name.partition(".")[0]
    shape = api_list.look(load(), _lists(source), name, arguments.read, arguments.key)
    path = project.declarations(source)
    if not path.exists():
        raise FlowsError(
            f"There is no transforms/sources/{source}.py to write into. Call the file that declares {source} "
            "so, or add the declaration by hand as docs/connect.md says."
        )
    has_api = re.search(r"^API\b", path.read_text(encoding="utf-8"), re.MULTILINE) is not None
    draft, entity = _declared(project, source, name, api_list.declaration(name, shape, has_api))
    staged = api_list.staging(entity, shape), api_list.rows(entity, shape)
    draft.new = _files(project, Layer.STAGING, f"stg_{source}__{name}", *staged)
    range_of = f"by ranges of {shape.read.recorded_at}" if shape.read.since else "whole, with each run"
    draft.next.append(
        f"It is asked as {shape.like.place} is, {range_of}: see in transforms/sources/{source}.py whether "
        "that fits."
    )
    if shape.left_out:
        draft.next.append(_LEFT_OUT.format(", ".join(shape.left_out)))
    draft.next.append(
        "Its fields are those of the first page; what others have, add. Where one holds personal data, "
        "name its column in the model's `pii`, and the field in the declaration's `personal`."
    )
    return draft


def _declared(project: Project, source: str, name: str, text: str) -> tuple[Draft, SourceEntity]:
    """A draft with one more declaration, and what that declares."""
    path = project.declarations(source)
    changed = added(path.read_text(encoding="utf-8"), text, path)
    names: dict[str, object] = {}
    exec(compile(changed, str(path), "exec"), names)
    entities = names["ENTITIES"]
    assert isinstance(entities, tuple)
    entity = next(one for one in entities if one.name == name)
    return Draft(project, changed={path: changed}, entities=[entity]), entity


def _files(project: Project, layer: Layer, name: str, text: str, rows: str) -> dict[Path, str]:
    return {project.model(layer, name): text, project.rows(layer, name): rows}
