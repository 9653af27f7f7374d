"""Managing Debezium: `python -m flows cdc register|status|pause|resume|resnapshot|unregister`.

Everything follows from the declarations: the tables whose mode is `cdc` are published, captured and sent to
one topic each. Landing these topics is `flows.landing`'s; whether it may is `flows.extract.debezium_guard`'s.
"""
