/* ---
kind: accuracy
description: No more was given back than was paid.
--- */
select payment_id, amount_minor, amount_refunded_minor
from fct_payments
where amount_refunded_minor > amount_minor
