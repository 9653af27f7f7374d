"""`python -m flows check`: what is published, held to its rules."""

from __future__ import annotations

from tests.flows.company import Place
from transforms import registry


def test_what_a_run_has_published_passes_every_rule(built: Place) -> None:
    done = built.run("check")
    assert done.code == 0, done.out
    for table in registry.build_order():
        if table.is_published:
            assert any(line.split()[:2] == ["ok", table.name] for line in done.out.splitlines()), table.name
    assert "FAIL" not in done.out


def test_a_row_that_breaks_a_rule_is_counted_and_the_exit_code_is_1(copy: Place) -> None:
    copy.rows(
        "update analytics.fct_orders set revenue = -1 where order_id in "
        "(select order_id from analytics.fct_orders order by 1 limit 3)"
    )
    done = copy.run("check", "fct_orders")
    assert done.code == 1
    failed = [line.split() for line in done.out.splitlines() if line.startswith("FAIL")]
    assert any(words[1] == "fct_orders" and "3" in words for words in failed), done.out


def test_money_that_does_not_add_up_to_the_applications_is_found(copy: Place) -> None:
    copy.rows(
        "update analytics.fct_orders set revenue = revenue + 0.01 where order_id = "
        "(select order_id from analytics.fct_orders where revenue > 1 order by 1 limit 1)"
    )
    done = copy.run("check", "fct_orders")
    assert done.code == 1
    failed = [line.split()[2:4] for line in done.out.splitlines() if line.startswith("FAIL")]
    assert failed == [["revenue_equals_application", "accuracy"]]


def test_only_the_named_table_is_checked_and_the_results_are_kept(copy: Place) -> None:
    copy.rows("truncate ops.check_result")
    done = copy.run("check", "dim_users")
    assert done.code == 0
    assert {line.split()[1] for line in done.out.splitlines() if line.startswith("ok")} == {"dim_users"}
    kept = copy.rows("select table_name, passed from ops.check_result where run_id like 'check-%'")
    assert len(kept) == copy.value("select count(*) from ops.check_result") > 0
    assert set(kept) == {("dim_users", True)}


def test_an_unknown_table_gets_one_sentence_and_exit_code_2(built: Place) -> None:
    done = built.run("check", "dim_user")
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    assert "dim_users" in done.err, "the name that was probably meant is said"
