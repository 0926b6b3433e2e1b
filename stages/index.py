"""Reads a corpus's label sheet and checks it against the frames on disk; writes data/index/<corpus>.csv, a row a clip.

    python -m stages.index synthetic

Every row of the sheet is kept; an experiment selects its classes later. What does not fit together stops here.
"""

import sys
from pathlib import Path

from mer import corpora
from mer.clips import check_counts, checked, files_digest, write_corrected, write_excluded, write_index
from mer.corpora.facts import check_facts, is_whole_corpus
from mer.errors import MerError, listed
from mer.macro import tables
from mer.parallel import map_clips
from stages._run import run


def main(stage, *, reader: str, raw: str, out: str, clips: int | None = None, subjects: int | None = None):
    module, on_error = corpora.load(reader), stage.section.on_error
    if hasattr(module, "read_macro"):  # faults of single images are found, and left out, where they are looked at
        images = module.read_macro(raw)
        left_out = listed([f"{count} {reason}" for reason, count in images.attrs["excluded"].items()])
        if left_out:
            print(f"{raw}: images left out by the set's own rules: {left_out}", file=sys.stderr)
        table = tables.index_table(images, stage.key)
    elif not hasattr(module, "read_corpus"):
        raise MerError(f"--reader {reader}: {module.__name__} reads no layout; name a module that has read_corpus")
    else:
        table = module.read_corpus(raw, stage.key, on_error=on_error)
    table = checked(table, f"corpus {stage.key}, read by {module.__name__}")
    found = {"clips": len(table), "subjects": table["subject"][table["subject"] != ""].nunique()}
    check_counts(found, {"clips": clips, "subjects": subjects}, raw, f"corpora.{stage.key}.expect")
    if clips is None and subjects is None and is_whole_corpus(stage.key, reader):
        check_facts(table, reader, raw, len(table.attrs.get("excluded", [])))
    paths = [
        [row.frame.format(n) for n in range(row.onset, row.offset + 1) if str(n) not in row.absent.split()]
        for row in table.itertuples()
    ]
    table["digest"] = map_clips(files_digest, paths, stage.engine, "clips")
    write_index(Path(out), table)
    write_excluded(Path(out).with_suffix(".excluded.csv"), table.attrs.get("excluded", []))
    write_corrected(Path(out).with_suffix(".corrected.csv"), table.attrs.get("corrected", []))


if __name__ == "__main__":
    run("index", main)
