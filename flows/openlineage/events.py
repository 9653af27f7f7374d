"""The events themselves, made with the classes that the specification's own project generates from it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from openlineage.client import event_v2, facet_v2
from openlineage.client.serde import Serde
from openlineage.client.uuid import generate_new_uuid

from flows.lineage import graph
from flows.openlineage.places import Place
from transforms.contract import Column
from transforms.lineage_steps import ROWS, Kind, Origin

NAMESPACE = "user_analytics"
"""That of the jobs."""
PRODUCER = "urn:user-analytics:warehouse"
"""Who says it, as a URI: a name, which no host has to answer to."""
event_v2.set_producer(PRODUCER)  # of the facets too: they would name the library
_TYPES = {
    Kind.PASS: ("DIRECT", "IDENTITY"),
    Kind.RENAME: ("DIRECT", "IDENTITY"),
    Kind.CAST: ("DIRECT", "TRANSFORMATION"),
    Kind.EXPRESSION: ("DIRECT", "TRANSFORMATION"),
    Kind.AGGREGATE: ("DIRECT", "AGGREGATION"),
    Kind.FILTER: ("INDIRECT", "FILTER"),
    Kind.JOIN: ("INDIRECT", "JOIN"),
    Kind.GROUP: ("INDIRECT", "GROUP_BY"),
}
State = Literal["START", "RUNNING", "COMPLETE", "FAIL", "ABORT"]
_lineage = facet_v2.column_lineage_dataset


@dataclass(frozen=True)
class Dataset:
    """A table or a source: its name in the lineage, where it is, and what it is."""

    name: str
    place: Place
    columns: Sequence[Column] = ()
    description: str = ""


@dataclass(frozen=True)
class Work:
    """One run of one job: what it reads and writes, and what code it runs."""

    job: str
    inputs: Sequence[Dataset] = ()
    outputs: Sequence[Dataset] = ()
    parent: tuple[str, str] | None = None
    """Id and job of the run that it is part of."""
    owner: str = ""
    sql: str = ""
    dialect: str = "duckdb"
    is_streaming: bool = False
    run_id: str = field(default_factory=lambda: str(generate_new_uuid()))


def as_uuid(run_id: str) -> str:
    """The id of a run as OpenLineage wants it: as it is when it is a UUID, else always the same one of it."""
    try:
        return str(uuid.UUID(run_id))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{NAMESPACE}/{run_id}"))


def event(
    work: Work,
    state: State,
    at: datetime,
    *,
    rows: Mapping[str, int] | None = None,
    versions: Mapping[str, str] | None = None,
    error: str = "",
) -> dict[str, Any]:
    """What to tell of a job. `rows` are those it made, by output; `versions` those of tables, by name."""
    versions = versions or {}
    run_facets: dict[str, Any] = {}
    if work.parent is not None:
        run_id, job = work.parent
        run_facets["parent"] = facet_v2.parent_run.ParentRunFacet(
            run=facet_v2.parent_run.Run(runId=run_id),
            job=facet_v2.parent_run.Job(namespace=NAMESPACE, name=job),
        )
    if error:
        run_facets["errorMessage"] = facet_v2.error_message_run.ErrorMessageRunFacet(
            message=error, programmingLanguage="PYTHON"
        )
    told = event_v2.RunEvent(
        eventType=event_v2.RunState(state),
        eventTime=at.isoformat(),
        run=event_v2.Run(runId=work.run_id, facets=run_facets),
        job=event_v2.Job(namespace=NAMESPACE, name=work.job, facets=_job_facets(work)),
        inputs=[
            event_v2.InputDataset(
                dataset.place.namespace, dataset.place.name, facets=_described(dataset, versions)
            )
            for dataset in work.inputs
        ],
        outputs=[_output(dataset, work.inputs, rows, versions) for dataset in work.outputs],
    )
    return Serde.to_dict(told)


def _job_facets(work: Work) -> dict[str, Any]:
    facets: dict[str, Any] = {
        "jobType": facet_v2.job_type_job.JobTypeJobFacet(
            processingType="STREAMING" if work.is_streaming else "BATCH",
            integration="USER_ANALYTICS",
            jobType="TASK" if work.parent else "PIPELINE",
        )
    }
    if work.owner:
        owner = facet_v2.ownership_job.Owner(name=f"team:{work.owner}", type="OWNER")
        facets["ownership"] = facet_v2.ownership_job.OwnershipJobFacet(owners=[owner])
    if work.sql:
        facets["sql"] = facet_v2.sql_job.SQLJobFacet(query=work.sql, dialect=work.dialect)
    return facets


def _described(dataset: Dataset, versions: Mapping[str, str]) -> dict[str, Any]:
    facets: dict[str, Any] = {}
    if dataset.columns:
        fields = [
            facet_v2.schema_dataset.SchemaDatasetFacetFields(
                name=column.name, type=column.type or None, description=column.description or None
            )
            for column in dataset.columns
        ]
        facets["schema"] = facet_v2.schema_dataset.SchemaDatasetFacet(fields=fields)
    if dataset.description:
        facets["documentation"] = facet_v2.documentation_dataset.DocumentationDatasetFacet(
            dataset.description
        )
    if dataset.name in versions:
        facets["version"] = facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet(
            datasetVersion=versions[dataset.name]
        )
    return facets


def _output(
    dataset: Dataset,
    inputs: Iterable[Dataset],
    rows: Mapping[str, int] | None,
    versions: Mapping[str, str],
) -> event_v2.OutputDataset:
    facets = _described(dataset, versions)
    lineage = _columns(dataset, {source.name: source for source in inputs})
    if lineage is not None:
        facets["columnLineage"] = lineage
    counted: dict[str, Any] = {}
    if rows is not None and dataset.name in rows:
        counted["outputStatistics"] = (
            facet_v2.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
                rowCount=rows[dataset.name]
            )
        )
    return event_v2.OutputDataset(
        dataset.place.namespace, dataset.place.name, facets=facets, outputFacets=counted
    )


def _columns(dataset: Dataset, inputs: Mapping[str, Dataset]) -> _lineage.ColumnLineageDatasetFacet | None:
    """How each column is made of those of the inputs, and which of them say what rows there are."""
    known = graph()
    personal = {
        Origin(source.name, column.name)
        for source in inputs.values()
        for column in source.columns
        if column.pii
    }
    fields = {}
    for column in dataset.columns:
        read = [
            _input(
                inputs[edge.origin.table],
                edge.origin,
                edge.kind,
                hides=edge.origin in personal and not column.pii,
            )
            for edge in known.into.get(Origin(dataset.name, column.name), ())
            if edge.origin.table in inputs and edge.origin.column != ROWS
        ]
        if read:
            fields[column.name] = _lineage.Fields(inputFields=read)
    rows = [
        _input(inputs[edge.origin.table], edge.origin, edge.kind)
        for edge in known.into.get(Origin(dataset.name, ROWS), ())
        if edge.origin.table in inputs and edge.kind.is_condition
    ]
    return _lineage.ColumnLineageDatasetFacet(fields=fields, dataset=rows) if fields or rows else None


def _input(dataset: Dataset, origin: Origin, kind: Kind, *, hides: bool = False) -> _lineage.InputField:
    direct, subtype = _TYPES[kind]
    # A value that is handed on as it is hides nothing, whatever its new column is said to be.
    is_masked = hides and kind > Kind.CAST
    made = _lineage.Transformation(type=direct, subtype=subtype, description=kind.word, masking=is_masked)
    return _lineage.InputField(
        namespace=dataset.place.namespace,
        name=dataset.place.name,
        field=origin.column,
        transformations=[made],
    )
