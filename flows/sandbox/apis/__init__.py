"""Stripe and SendGrid as one small HTTP server that keeps state.

Started by `python -m flows.sandbox.apis --folder DIR --port P`; store.py holds its objects.
"""

from __future__ import annotations

STRIPE_KEY = "sk_test_sandbox"
"""The key the simulated Stripe accepts; it opens nothing else."""
SENDGRID_KEY = "SG.sandbox"
"""The key the simulated SendGrid accepts; it opens nothing else."""
