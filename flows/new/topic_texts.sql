        -- `from_json` makes a text of anything. Only what looks like another thing is asked what it is.
        case
            when event is not null and (
                regexp_matches(text, '"({{either}})"\s*:\s*(-?[0-9]|[\[{tf])')
                -- A name may be written in escapes.
                or (contains(text, '\u00') and regexp_matches(text, '\\u00[^"]*"\s*:\s*(-?[0-9]|[\[{tf])'))
            )
                then list_filter(
                    [{{listed}}],
                    lambda name: coalesce(json_type(text, '$.' || name), 'NULL') not in ('VARCHAR', 'NULL')
                )[1]
        end as no_text,
