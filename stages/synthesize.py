"""Makes a synthetic corpus: frames, label sheet and truth under data/raw/<name>, in CASME II's own layout.

    python -m stages.synthesize synthetic

An identity on which dlib finds no face is drawn anew, so every clip can go through the real landmark stage.
"""

from pathlib import Path

from mer.errors import MerError
from mer.faces import detect_landmarks
from mer.synthetic import corpus as synthetic
from stages._run import chosen, run


def face_is_found(image, landmarks) -> bool:
    try:
        found = detect_landmarks(image)
    except MerError:
        return False  # the answer, not a failure: the identity is redrawn
    # A tenth of the eye distance: beyond it the detector has latched on to something else.
    return abs(found - landmarks).mean() < 0.1 * abs(landmarks[36:42].mean(0) - landmarks[42:48].mean(0)).max()


def main(stage):
    size = chosen(stage.section.runs, stage.key, "synthesize.runs")
    synthetic.synthesize(
        Path("data/raw") / stage.key,
        subjects=size.subjects,
        clips=size.clips,
        pool_subjects=size.pool_subjects,
        pool_macro=size.pool_images,
        pool_clips=size.pool_clips,
        pool_pairs=size.pool_pairs,
        seed=stage.section.seed,
        accept=face_is_found,
        engine=stage.engine,
    )


if __name__ == "__main__":
    run("synthesize", main)
