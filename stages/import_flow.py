"""Takes a corpus that was released as flow maps: index, and a product a kind in data/cache/<corpus>/released/.

    python -m stages.import_flow megc2019_flow

Every file is checked against the release. Arrays are (3, 28, 28) float32 a clip (mer.corpora.flow_release). Where label
sheets are named, the index also has the action units that coders saw.
"""

import sys
from pathlib import Path

from mer import corpora
from mer.clips import write_index
from mer.storage.cache import CacheWriter
from mer.storage.files import replaced_folder
from stages._run import run


def main(stage, *, reader: str, raw: str, index: str, out: str, sheets: list[str] | None = None):
    release = corpora.load(reader).RELEASE
    table = release.read_labels(raw).sort_values("id")
    for sheet in sheets or []:
        part, _, path = sheet.partition("=")
        table, found = release.with_units(table, part, corpora.load(part).read_annotations(path), path)
        print(f"{path}: action units of {found} of {(table['corpus'] == part).sum()} clips of {part}", file=sys.stderr)
    with replaced_folder(Path(out)) as fresh:
        for kind in release.kinds:
            with CacheWriter(fresh / f"{kind}.h5", kind=kind, ragged=False, params={"source": reader}) as writer:
                for clip_id, image in zip(table["id"], table[kind], strict=True):
                    writer.append(clip_id, release.read_map(image, kind))
    write_index(Path(index), table)


if __name__ == "__main__":
    run("import_flow", main)
