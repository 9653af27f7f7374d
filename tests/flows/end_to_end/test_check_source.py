"""`python -m flows check --source`: what differs from the application is found and named by its key."""

from __future__ import annotations

import pytest

from flows import check_source
from tests.flows.company import Company, Place


@pytest.fixture
def place(company: Company, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A warehouse in step with an application of its own. Nothing changes meanwhile: one look is enough."""
    monkeypatch.setattr(check_source, "ROUNDS", 1)
    return company.copy(own_application=True)


def test_every_table_in_step_is_equal_by_every_column(place: Place) -> None:
    done = place.run("check", "--source")
    assert done.code == 0, done.said
    lines = done.out.splitlines()
    assert len(lines) == 15
    assert all(line.endswith("rows, equal") for line in lines), done.out


def test_what_no_read_can_see_is_found_and_named(place: Place) -> None:
    """An update that leaves the cursor as it is, and one of a column that is compared as hexadecimal."""
    assert place.run("check", "--source", "users", "products").code == 0, "all is read once in the new mode"
    place.application("update users set country = 'ZZ' where id in (3, 5) returning id")
    place.application(
        "update products set image = '\\x00ff', tags = '{a,null,\"b,c\"}' where id = 2 returning id"
    )

    done = place.run("check", "--source", "users", "products", "orders")

    assert done.code == 1
    users, products, orders = done.out.splitlines()
    assert users.startswith("app.users: 2 with other values (3, 5): what changes a row there has to move")
    assert products.startswith("app.products: 1 with other values (2): ")
    assert orders.endswith("rows, equal")


def test_texts_of_a_list_are_compared_as_they_are_whatever_stands_in_them(place: Place) -> None:
    odd = "array[E'a\\vb', E'\\x01', '', null, E'\\u00e9\"\\\\']"
    changed = "updated_at = (select max(updated_at) from products)"
    place.application(f"update products set tags = {odd}, {changed} where id = 2 returning id")
    place.application(f"update products set tags = '{{}}', {changed} where id = 3 returning id")
    place.application(f"update products set tags = null, {changed} where id = 4 returning id")
    done = place.run("check", "--source", "products")
    assert (done.code, done.out.splitlines()[0].endswith("rows, equal")) == (0, True), done.said


def test_a_column_that_was_renamed_at_the_source_is_compared_too(place: Place) -> None:
    assert place.run("check", "--source", "users").code == 0
    place.application("alter table users rename country to land")
    assert place.run("check", "--source", "users").out.splitlines()[0].endswith("rows, equal")
    place.application("update users set land = 'ZZ' where id in (3, 5) returning id")
    done = place.run("check", "--source", "users")
    assert done.code == 1
    assert done.out.startswith("app.users: 2 with other values (3, 5): ")


def test_a_row_that_can_not_be_held_any_more_is_named_as_that_and_leaves_the_rest_equal(
    place: Place,
) -> None:
    assert place.run("check", "--source", "users").code == 0
    place.application(
        "update users set created_at = 'infinity', updated_at = (select max(updated_at) from users) "
        "where id = 3 returning id"
    )
    done = place.run("check", "--source", "users")
    (line,) = done.out.splitlines()
    assert line.endswith("rows, equal; 1 rows at the source can't be held: python -m flows dlq list"), line
    assert done.code == 0


def test_a_halted_table_keeps_no_other_from_being_compared(place: Place) -> None:
    place.application("alter table users drop column country cascade")
    done = place.run("check", "--source", "users", "products")
    users, products = done.out.splitlines()
    assert done.code == 1
    assert users.startswith("app.users: not compared: ")
    assert "country" in users
    assert products.endswith("rows, equal")


def test_what_was_not_landed_yet_is_landed_first(place: Place) -> None:
    changed = "country = 'ZZ', updated_at = (select max(updated_at) from users)"
    place.application(f"update users set {changed} where id = 3 returning id")
    place.application("delete from reviews where id = (select min(id) from reviews) returning id")
    done = place.run("check", "--source", "users", "reviews")
    assert done.code == 0, done.said


def test_a_table_that_is_none_is_refused_by_name(company: Company) -> None:
    done = company.copy().run("check", "--source", "user")
    assert done.code == 2
    assert "The application has no table user; there are users, " in done.err
