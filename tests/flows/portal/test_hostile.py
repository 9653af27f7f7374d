"""Pages of a warehouse in which much has gone wrong, and names are what somebody else has made of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flows.portal.site import PAGES, write
from flows.services import Services
from tests.flows.portal import filled
from tests.flows.portal.reader import Read
from tests.house import Server

EVIL = '</script><script>alert(1)</script><img src=x onerror=alert(2)> " onmouseover="alert(3)\' `{{ 7*7 }}`'

_MUCH = """
insert into ops.incident (incident_id, cause, signal, subject, severity, owner, opened_at, seen_at, message,
    action, runbook, touches, members, resolved_at, acknowledged_at, acknowledged_by)
select 'evil' || n, 'c' || n, 'row_count', %(evil)s, 'warning', %(evil)s,
    timestamptz '2025-10-20 11:00Z' - n * interval '1 minute', '2025-10-20 12:00Z', n || ' ' || %(evil)s,
    %(evil)s, 'javascript:alert(4)', jsonb_build_array(%(evil)s::text),
    jsonb_build_array(jsonb_build_object('signal', %(evil)s::text, 'subject', %(evil)s::text,
        'severity', 'warning', 'message', %(evil)s::text)),
    case when n %% 2 = 0 then timestamptz '2025-10-20 11:30Z' end, '2025-10-20 12:00Z', %(evil)s
from generate_series(1, 10000) as n;
update ops.incident set runbook = 'https://wiki.example.test/a"b?c=<d>#row_count' where incident_id = 'evil1';
insert into ops.notification (kind, severity, body, channel, title, problem, created_at, sent_at, given_up_at,
    tries)
values
    ('info', 'info', '', 'mail', 'went', '', '2025-10-20 11:51Z', '2025-10-20 11:51Z', null, 1),
    ('info', 'info', '', 'mail', 'waits', %(evil)s, '2025-10-20 11:52Z', null, null, 3),
    ('info', 'info', '', 'mail', 'given up', '', '2025-10-20 11:53Z', null, '2025-10-20 11:59Z', 8),
    ('info', 'info', '', 'mail', 'waits since now', %(evil)s, '2025-10-20 11:53:30Z', null, null, 1),
    ('info', 'info', '', %(evil)s, %(evil)s, '', '2025-10-20 11:54Z', null, null, 0);
insert into ops.run (run_id, flow, started_at, finished_at, state, summary) values
    (%(evil)s, %(evil)s, '2025-10-20 11:00Z', '2025-10-20 11:01Z', 'Failed',
        jsonb_build_object('failures', jsonb_build_array(%(evil)s::text)));
insert into ops.health (signal, subject, verdict, value, limit_value, unit, since, measured_at, message,
    action)
values ('row_count', %(evil)s, 'warning', 'NaN', 'Infinity', 'rows', '2025-10-20 11:00Z',
    '2025-10-20 11:59Z', %(evil)s, '');
insert into ops.dead_letter (letter_id, source, entity, topic, reason, payload, received_at)
values ('evil', %(evil)s, %(evil)s, %(evil)s, %(evil)s, 'x', '2025-10-20 11:00Z');
"""


@pytest.fixture(scope="module")
def pages(postgres18: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Read]:
    services = filled.services(postgres18, tmp_path_factory.mktemp("world"))
    _go_wrong(services)
    written = write(services, tmp_path_factory.mktemp("portal"))
    assert max(written.bytes_of.values()) < 2_000_000, written.bytes_of
    return {page.name: Read(written.folder / page.file) for page in PAGES}


def _go_wrong(services: Services) -> None:
    with services.warehouse.connect() as connection:
        for statement in _MUCH.split(";\n")[:-1]:
            connection.execute(statement.encode(), {"evil": EVIL})


def test_what_others_have_named_is_text_in_every_page(pages: dict[str, Read]) -> None:
    for page in pages.values():
        text = Path(page.path).read_text(encoding="utf-8")
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert not re.search(r"<[^>]*\sonmouseover=", text)
        assert not re.search(r"href=.javascript:", text)
        assert not re.search(r"[\[,:](NaN|Infinity)\b", text), "no JSON: its scripts would not start"
    assert EVIL.replace("`", "") in pages["incidents"].text


def test_of_a_message_is_told_how_often_it_was_tried_itself_and_that_it_was_given_up(
    pages: dict[str, Read],
) -> None:
    said = " ".join(pages["incidents"].text.split())
    told = re.findall(r"(?:not yet,|given up after) \d+ tr(?:y|ies)", said[said.index("Who was told") :])
    assert told[:4] == ["not yet, 0 tries", "not yet, 1 try", "given up after 8 tries", "not yet, 3 tries"]


def test_a_runbook_on_the_web_is_a_link_and_nothing_else_that_somebody_wrote(pages: dict[str, Read]) -> None:
    outside = [link for link in pages["incidents"].links if ":" in link]
    assert outside == ['https://wiki.example.test/a"b?c=<d>#row_count']
