"""What one act leaves behind in several lists at once, as the real service would."""

from __future__ import annotations

from flows.sandbox.apis import stripe_objects
from flows.sandbox.apis.store import Store


def create_charge(store: Store, charge: stripe_objects.Object) -> None:
    """Put a charge, the movement it makes on the balance, and its event."""
    suffix = charge["id"].removeprefix("ch_")
    charge = {**charge, "balance_transaction": f"txn_{suffix}"}
    movement = stripe_objects.balance_transaction(
        id=f"txn_{suffix}",
        amount=charge["amount"],
        currency=charge["currency"],
        created=charge["created"],
        source=charge["id"],
    )
    happened = stripe_objects.event(
        id=f"evt_{suffix}", type=f"charge.{charge['status']}", created=charge["created"], object=charge
    )
    with store.transaction():
        store.put("charges", [charge])
        store.put("balance_transactions", [movement])
        store.put("events", [happened])


def refund_charge(store: Store, charge_id: str, amount: int, created: int) -> stripe_objects.Object:
    """Refund `amount` of a charge: the refund, its movement, the changed charge and both events.

    Raises KeyError when there is no such charge and ValueError when less than `amount` is left of it.
    """
    with store.transaction():
        charge = store.get("charges", charge_id)
        if charge is None:
            raise KeyError(f"no charge {charge_id}")
        refunded = charge["amount_refunded"] + amount
        if refunded > charge["amount"]:
            raise ValueError(
                f"{charge_id}: {charge['amount'] - charge['amount_refunded']} are left to refund"
            )
        previous = {"amount_refunded": charge["amount_refunded"], "refunded": charge["refunded"]}
        suffix = f"{charge_id.removeprefix('ch_')}_{refunded}"
        charge = store.change(
            "charges", charge_id, {"amount_refunded": refunded, "refunded": refunded == charge["amount"]}
        )
        refund = stripe_objects.refund(
            id=f"re_{suffix}",
            charge=charge_id,
            amount=amount,
            currency=charge["currency"],
            created=created,
            balance_transaction=f"txn_re_{suffix}",
        )
        movement = stripe_objects.balance_transaction(
            id=f"txn_re_{suffix}",
            amount=-amount,
            currency=charge["currency"],
            created=created,
            source=refund["id"],
            type="refund",
        )
        store.put("refunds", [refund])
        store.put("balance_transactions", [movement])
        store.put(
            "events",
            [
                stripe_objects.event(
                    id=f"evt_cr_{suffix}",
                    type="charge.refunded",
                    created=created,
                    object=charge,
                    previous=previous,
                ),
                stripe_objects.event(
                    id=f"evt_re_{suffix}", type="refund.created", created=created, object=refund
                ),
            ],
        )
    return refund
