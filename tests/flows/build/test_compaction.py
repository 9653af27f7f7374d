"""Which files of a partition are joined into one."""

from __future__ import annotations

from flows.build import compaction
from flows.stores.manifest import LakeFile


def test_a_file_is_written_anew_only_with_others_of_its_size_or_when_much_of_it_has_gone() -> None:
    def file(rows: int, gone: int = 0) -> LakeFile:
        whole = LakeFile(
            "stg_app__orders", "staging", "2025-10", f"{rows}-{gone}.parquet", rows + gone, 1, ""
        )
        return whole.without(range(gone))

    large, small = file(1_000_000), [file(100 + number) for number in range(compaction.MAX_FILES)]
    assert compaction.to_be_joined([large, *small[:-2]]) == []
    assert compaction.to_be_joined([large, *small]) == small
    worn = file(1_000_000, 200_000)
    assert compaction.to_be_joined([worn, *small[:2]]) == [worn]
    huge = [file(compaction.MOST_ROWS // 3 + number) for number in range(compaction.MAX_FILES)]
    assert compaction.to_be_joined(huge) == huge[:2]
