"""Whole Stripe objects from the few fields that matter: what generator and tests put into the store.

Amounts are in minor units, times in unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]


def _address(country: str | None = None) -> Object:
    return {
        "city": None,
        "country": country,
        "line1": None,
        "line2": None,
        "postal_code": None,
        "state": None,
    }


def charge(
    *,
    id: str,
    amount: int,
    currency: str,
    created: int,
    customer: str | None = None,
    balance_transaction: str | None = None,
    status: str = "succeeded",
    amount_refunded: int = 0,
    disputed: bool = False,
    email: str | None = None,
    name: str | None = None,
    country: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Object:
    """A charge; `status` is succeeded, pending or failed."""
    succeeded = status == "succeeded"
    return {
        "id": id,
        "object": "charge",
        "amount": amount,
        "amount_captured": amount if succeeded else 0,
        "amount_refunded": amount_refunded,
        "application": None,
        "application_fee": None,
        "application_fee_amount": None,
        "balance_transaction": balance_transaction,
        "billing_details": {
            "address": _address(country),
            "email": email,
            "name": name,
            "phone": None,
            "tax_id": None,
        },
        "calculated_statement_descriptor": "ANALYTICS SHOP",
        "captured": succeeded,
        "created": created,
        "currency": currency.lower(),
        "customer": customer,
        "description": None,
        "disputed": disputed,
        "failure_balance_transaction": None,
        "failure_code": "card_declined" if status == "failed" else None,
        "failure_message": "Your card was declined." if status == "failed" else None,
        "fraud_details": {},
        "livemode": False,
        "metadata": dict(metadata or {}),
        "on_behalf_of": None,
        "outcome": {
            "advice_code": None,
            "network_advice_code": None,
            "network_decline_code": None,
            "network_status": "declined_by_network" if status == "failed" else "approved_by_network",
            "reason": None,
            "seller_message": "Payment complete." if succeeded else None,
            "type": "issuer_declined" if status == "failed" else "authorized",
        },
        "paid": succeeded,
        "payment_intent": None,
        "payment_method": f"pm_{id.removeprefix('ch_')}",
        "payment_method_details": {
            "card": {
                "amount_authorized": amount,
                "brand": "visa",
                "checks": {
                    "address_line1_check": None,
                    "address_postal_code_check": None,
                    "cvc_check": "pass",
                },
                "country": country,
                "exp_month": 8,
                "exp_year": 2030,
                "funding": "credit",
                "installments": None,
                "last4": "4242",
                "mandate": None,
                "network": "visa",
                "three_d_secure": None,
                "wallet": None,
            },
            "type": "card",
        },
        "receipt_email": email,
        "receipt_number": None,
        "receipt_url": None,
        "refunded": amount_refunded >= amount > 0,
        "review": None,
        "shipping": None,
        "source_transfer": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": status,
        "transfer_data": None,
        "transfer_group": None,
    }


def refund(
    *,
    id: str,
    charge: str,
    amount: int,
    currency: str,
    created: int,
    balance_transaction: str | None = None,
    reason: str | None = None,
    status: str = "succeeded",
    metadata: Mapping[str, str] | None = None,
) -> Object:
    """A refund of (part of) a charge."""
    return {
        "id": id,
        "object": "refund",
        "amount": amount,
        "balance_transaction": balance_transaction,
        "charge": charge,
        "created": created,
        "currency": currency.lower(),
        "destination_details": {"card": {"type": "refund"}, "type": "card"},
        "metadata": dict(metadata or {}),
        "payment_intent": None,
        "reason": reason,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": status,
        "transfer_reversal": None,
    }


def customer(
    *,
    id: str,
    created: int,
    email: str | None = None,
    name: str | None = None,
    country: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Object:
    """A customer."""
    return {
        "id": id,
        "object": "customer",
        "address": _address(country),
        "balance": 0,
        "created": created,
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": email,
        "invoice_prefix": None,
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": dict(metadata or {}),
        "name": name,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }


def balance_transaction(
    *,
    id: str,
    amount: int,
    currency: str,
    created: int,
    source: str,
    type: str = "charge",
    fee: int = 0,
    available_on: int | None = None,
    status: str = "available",
) -> Object:
    """A movement of the balance; `type`: charge, refund, adjustment (dispute), payout; net = amount - fee."""
    fees = [
        {
            "amount": fee,
            "application": None,
            "currency": currency.lower(),
            "description": "Stripe processing fees",
            "type": "stripe_fee",
        }
    ]
    return {
        "id": id,
        "object": "balance_transaction",
        "amount": amount,
        "available_on": created if available_on is None else available_on,
        "balance_type": "payments",
        "created": created,
        "currency": currency.lower(),
        "description": None,
        "exchange_rate": None,
        "fee": fee,
        "fee_details": fees if fee else [],
        "net": amount - fee,
        "reporting_category": "dispute" if type == "adjustment" else type,
        "source": source,
        "status": status,
        "type": type,
    }


def dispute(
    *,
    id: str,
    charge: str,
    amount: int,
    currency: str,
    created: int,
    reason: str = "fraudulent",
    status: str = "needs_response",
    balance_transactions: list[Object] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Object:
    """A dispute of a charge; `status` is needs_response, under_review, won or lost."""
    return {
        "id": id,
        "object": "dispute",
        "amount": amount,
        "balance_transactions": balance_transactions or [],
        "charge": charge,
        "created": created,
        "currency": currency.lower(),
        "enhanced_eligibility_types": [],
        "evidence": {"customer_email_address": None, "customer_name": None, "uncategorized_text": None},
        "evidence_details": {
            "due_by": created + 14 * 86400,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "is_charge_refundable": False,
        "livemode": False,
        "metadata": dict(metadata or {}),
        "payment_intent": None,
        "payment_method_details": {
            "card": {
                "brand": "visa",
                "case_type": "chargeback",
                "network_reason_code": "10.4",
            },
            "type": "card",
        },
        "reason": reason,
        "status": status,
    }


def payout(
    *,
    id: str,
    amount: int,
    currency: str,
    created: int,
    arrival_date: int,
    balance_transaction: str | None = None,
    status: str = "paid",
) -> Object:
    """A payout to the bank; `status` is paid, pending, in_transit, canceled or failed."""
    return {
        "id": id,
        "object": "payout",
        "amount": amount,
        "application_fee": None,
        "application_fee_amount": None,
        "arrival_date": arrival_date,
        "automatic": True,
        "balance_transaction": balance_transaction,
        "created": created,
        "currency": currency.lower(),
        "description": "STRIPE PAYOUT",
        "destination": "ba_sandbox",
        "failure_balance_transaction": None,
        "failure_code": None,
        "failure_message": None,
        "livemode": False,
        "metadata": {},
        "method": "standard",
        "original_payout": None,
        "payout_method": None,
        "reconciliation_status": "completed",
        "reversed_by": None,
        "source_type": "card",
        "statement_descriptor": None,
        "status": status,
        "trace_id": None,
        "type": "bank_account",
    }


def balance(*, available: Mapping[str, int]) -> Object:
    """What can be paid out, by currency: an object without id and time, which only events show."""
    free = [{"amount": n, "currency": c.lower(), "source_types": {"card": n}} for c, n in available.items()]
    return {"object": "balance", "available": free, "connect_reserved": [], "livemode": False, "pending": []}


def event(
    *, id: str, type: str, created: int, object: Object, previous: Mapping[str, Any] | None = None
) -> Object:
    """What happened to an object, with the object as it was then; `previous` holds what changed."""
    data: Object = {"object": object}
    if previous is not None:
        data["previous_attributes"] = dict(previous)
    return {
        "id": id,
        "object": "event",
        "api_version": "2025-10-29.clover",
        "created": created,
        "data": data,
        "livemode": False,
        "pending_webhooks": 0,
        "request": {"id": None, "idempotency_key": None},
        "type": type,
    }
