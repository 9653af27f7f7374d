/* ---
grain:     one row per currency whose minor unit is not a hundredth of the major one
description: The one place that says how many decimals an amount in minor units has. A currency that is not listed has two.
key:       [currency]
write:     merge
owner:     data-team
expect:
  - between: {column: minor_digits, min: 0, max: 4}
--- */
with currencies (currency, minor_digits) as (
    -- As Stripe counts them (docs.stripe.com/currencies): ISK and UGX are sent with two decimals though they have none.
    values
        ('BIF', 0), ('CLP', 0), ('DJF', 0), ('GNF', 0), ('JPY', 0), ('KMF', 0), ('KRW', 0), ('MGA', 0),
        ('PYG', 0), ('RWF', 0), ('VND', 0), ('VUV', 0), ('XAF', 0), ('XOF', 0), ('XPF', 0),
        ('BHD', 3), ('JOD', 3), ('KWD', 3), ('OMR', 3), ('TND', 3)
)

select
    currency::varchar as currency, -- ISO 4217 code
    minor_digits::integer as minor_digits, -- Decimals of the major unit: an amount is minor units / 10^minor_digits
    (10 ** minor_digits)::bigint as minor_units -- Minor units in one major unit
from currencies
