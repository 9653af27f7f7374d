/* ---
kind: accuracy
row_level: true
description: An order costs nothing only when a coupon made it free.
--- */
select order_id, revenue, coupon_code
from fct_orders
where revenue = 0 and coupon_code is null
