        -- `from_json` makes a text of anything. Only what looks like another thing is asked what it is.
        case
            when {{looks}}
                then list_filter(
                    [{{listed}}],
                    lambda name: coalesce(json_type(text, '$.' || name), 'NULL') not in ('VARCHAR', 'NULL')
                )[1]
        end as no_text,
