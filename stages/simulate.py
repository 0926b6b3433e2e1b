"""Makes a corpus of simulated flow: its index, and its maps in data/cache/<corpus>/released/flow.h5.

    python -m stages.simulate simulated

Nobody is recorded, and no picture is drawn (mer.synthetic.flow_maps). The maps have the form of the public releases.
"""

from pathlib import Path

from mer.clips import write_index
from mer.storage.cache import CacheWriter
from mer.storage.files import replaced_folder
from mer.synthetic import flow_corpus
from mer.synthetic.flow_maps import changed_nuisance
from stages._run import chosen, run


def main(stage, *, index: str, out: str):
    size = chosen(stage.section.runs, stage.key, "simulate.runs")
    how = changed_nuisance(size.nuisance, f"simulate.runs.{stage.key}.nuisance")
    table, flow = flow_corpus.made(
        stage.key, subjects=size.subjects, clips=size.clips, seed=stage.section.seed, nuisance=how
    )
    with (
        replaced_folder(Path(out)) as fresh,
        CacheWriter(fresh / "flow.h5", kind="flow", ragged=False, params={"source": "simulated_flow"}) as writer,
    ):
        for clip_id, image in zip(table["id"], flow, strict=True):
            writer.append(clip_id, image)
    write_index(Path(index), table)


if __name__ == "__main__":
    run("simulate", main)
