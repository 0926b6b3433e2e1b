"""Reads a corpus's label sheet and checks it against the frames on disk; writes data/index/<corpus>.csv, a row a clip.

    python -m stages.index synthetic

Every row of the sheet is kept; an experiment selects its classes later. What does not fit together stops here.
"""

import sys
from pathlib import Path

from mer import corpora
from mer.clips import files_digest, write_excluded, write_index
from mer.corpora.layout import check_facts, is_whole_corpus
from mer.errors import MerError, listed
from mer.macro import tables as macro
from mer.parallel import map_clips
from stages._run import run


def main(stage):
    item = stage.item
    reader, on_error = corpora.load(item.reader), stage.section.on_error
    if hasattr(reader, "read_macro"):  # faults of single images are found, and left out, where they are looked at
        images = reader.read_macro(item.raw)
        left_out = listed([f"{count} {reason}" for reason, count in images.attrs["excluded"].items()])
        if left_out:
            print(f"{item.raw}: images left out by the set's own rules: {left_out}", file=sys.stderr)
        table = macro.index_table(images, stage.key)
    else:
        table = reader.read_corpus(item.raw, stage.key, on_error=on_error)
    found = {"clips": len(table), "subjects": table["subject"][table["subject"] != ""].nunique()}
    for what, wanted in item.expect.model_dump().items():
        if wanted is not None and found[what] != wanted:
            raise MerError(
                f"{item.raw}: has {found[what]} {what}, index.runs.{stage.key}.expect.{what} says {wanted}; "
                "complete the corpus or correct the number"
            )
    if not any(item.expect.model_dump().values()) and is_whole_corpus(stage.key, item.reader):
        check_facts(table, item.reader, item.raw, len(table.attrs["excluded"]))
    paths = [
        [row.frame.format(n) for n in range(row.onset, row.offset + 1) if str(n) not in row.absent.split()]
        for row in table.itertuples()
    ]
    table["digest"] = map_clips(files_digest, paths, stage.engine, "clips")
    write_index(Path("data/index") / f"{stage.key}.csv", table)
    write_excluded(Path("data/index") / f"{stage.key}.excluded.csv", table.attrs.get("excluded", []))


if __name__ == "__main__":
    run("index", main)
