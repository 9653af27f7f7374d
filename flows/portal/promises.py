"""The SLA ledger as results of queries: what flows/sla.py counts, each figure with the SQL that gives it."""

from __future__ import annotations

from flows import sla
from flows.portal.reading import Reading, Result

_NAMES = {"freshness": "(table_name, good, bad)", "uptime": "(good, bad)", "quality": "(good, bad)"}


def kept(moment: Reading) -> dict[str, Result]:
    """Of each promise what was kept and what is left of its budget; of freshness each table too."""
    report = sla.report(moment.connection, moment.as_of)
    found: dict[str, Result] = {}
    for name, query in sla.sql(moment.connection, report).items():
        whole = "sum(good + bad)" if name == "quality" else f"{sla.PERIOD_MINUTES} * count(*)"
        unmeasured = f"greatest(0, {report.minutes:.0f} - coalesce(good, 0) - coalesce(bad, 0))"
        counted = "" if name == "quality" else f"\n    sum({unmeasured}) as unmeasured,"
        spared = f"(1 - {sla.TARGETS[name]}) * {whole}"
        found[name] = moment.query(
            name,
            f"""select
    sum(good) as good,
    sum(bad) as bad,{counted}
    round(sum(good) / nullif(sum(good + bad), 0), 6) as share,
    {sla.TARGETS[name]} as target,
    round(1 - sum(bad) / nullif({spared}, 0), 4) as budget_left
from (
    select coalesce(good, 0) as good, coalesce(bad, 0) as bad
    from (
{query}
    ) as counted {_NAMES[name]}
) as minutes""",
        )
        if name == "freshness":
            found["freshness_by_table"] = moment.query(
                "freshness_by_table",
                f"""select
    table_name,
    coalesce(good, 0) as good,
    coalesce(bad, 0) as bad,
    {unmeasured} as unmeasured,
    round(coalesce(good, 0) / nullif(coalesce(good, 0) + coalesce(bad, 0), 0), 6) as share
from (
{query}
) as counted {_NAMES[name]}
order by share, table_name""",
            )
    return found
