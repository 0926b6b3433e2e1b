"""Takes a corpus that was released as flow maps: index and data/cache/<corpus>/released/flow.h5, (3, 28, 28) a clip.

    python -m stages.import_flow megc2019_flow

Every file is checked against the release. Grey levels: u and v about the middle level, strain as it is.
"""

from pathlib import Path

from mer.clips import write_index
from mer.corpora import megc2019_flow
from mer.storage.cache import CacheWriter
from stages._run import run


def main(stage, *, raw: str, index: str, out: str):
    table = megc2019_flow.read_labels(raw).sort_values("id")
    with CacheWriter(out, kind="flow", ragged=False, params={"source": "megc2019_flow"}) as writer:
        for clip_id, image in zip(table["id"], table["image"], strict=True):
            writer.append(clip_id, megc2019_flow.read_image(image))
    write_index(Path(index), table)


if __name__ == "__main__":
    run("import_flow", main)
