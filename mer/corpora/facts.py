"""Whether a corpus is complete: counts of clips, subjects and classes against the published ones."""

import pandas as pd

from mer.corpora import load, select
from mer.errors import MerError


def is_whole_corpus(name: str, reader: str) -> bool:
    """Whether a corpus claims to be the whole one by its name: it is called `<reader>` or `<reader>-<anything>`."""
    return name == reader or name.startswith(f"{reader}-")


def check_facts(table: pd.DataFrame, corpus: str, source: str = "", excluded: int = 0) -> None:
    """Hold a table against the counts that the corpus's module declares as FACTS.

    Args:
        table: an index, or what `read_annotations` returns.
        corpus: whose facts.
        source: what messages begin with; by default the corpus.
        excluded: how many clips were left out as faulty. With any, counts may be lower by as many.

    Raises:
        MerError: a count differs; the message names it, and how to declare a part of a corpus or another edition.
            Too many clips, or as many with other labels, are another edition and no incomplete corpus.
    """
    facts = getattr(load(corpus), "FACTS", None)
    if facts is None:  # a macro set: editions disagree, nothing is known beforehand
        return
    source, clips = source or corpus, len(table) + excluded
    sheet_format = getattr(load(corpus), "SHEET_FORMAT", None)
    edition = (sheet_format.other_editions if sheet_format else {}).get(clips, "another edition")

    def check(what: str, found: int, wanted: int, slack: int) -> None:
        if wanted - slack <= found <= wanted:
            return
        if found > wanted or clips == facts.get("clips"):  # more than all clips, or all with other labels
            cause = f"this is {edition} or a changed sheet: take the one of docs/corpora.md, or declare this one"
        else:
            cause = "complete the corpus, or, for a part of it, say so"
        raise MerError(
            f"{source}: has {found} {what}, the whole {corpus} has {wanted}; {cause} with its own counts: "
            f"corpora.<name>.expect: {{clips: {len(table)}}}"
        )

    def subjects(rows: pd.DataFrame) -> int:
        return len(rows[[c for c in ("corpus", "subject") if c in rows]].drop_duplicates())

    if "clips" in facts:
        check("clips", clips, facts["clips"], 0)
        check("subjects", subjects(table), facts["subjects"], excluded)
    for classes, wanted in facts["selections"].items():
        rows = select(table, corpus, classes)
        where = f"in the {classes}-class selection"
        for label, (name, count) in enumerate(wanted["counts"].items()):
            check(f"clips of {name} {where}", int((rows["label"] == label).sum()), count, excluded)
        check(f"subjects {where}", subjects(rows), wanted["subjects"], excluded)
