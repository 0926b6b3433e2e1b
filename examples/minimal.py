"""Leave-one-subject-out with the library alone: arrays, labels and subjects in, scores out. No DVC, no files.

    python examples/minimal.py

Each clip is a flow image, (3, 84, 84): u and v in px, strain. Here it is noise and a pattern of its subject; each class
has a motion in another place. Put your own arrays and table in their place.
"""

import numpy as np
import pandas as pd

from mer.evaluation.metrics import score
from mer.training import loso

CLASSES = ["negative", "positive", "surprise"]
MODELS: dict[str, dict] = {"linear": {}, "ststnet": {"epochs": 30}}  # name -> changes to its recipe
SUBJECTS, CLIPS = 12, 6  # clips of a subject


def made_up(signal: float = 0.12, seed: int = 0) -> tuple[np.ndarray, pd.DataFrame]:
    """(flow images (N, 3, 84, 84) float32, one row a clip); signal: px, of the motion that tells the classes apart."""
    rng, n = np.random.default_rng(seed), SUBJECTS * CLIPS
    table = pd.DataFrame({
        "id": [f"mine/s{i // CLIPS:02d}/{i % CLIPS}" for i in range(n)], "corpus": "mine",
        "subject": [f"s{i // CLIPS:02d}" for i in range(n)], "label": np.arange(n) % len(CLASSES),
    })  # fmt: skip
    patterns = rng.normal(0, 0.2, (SUBJECTS, 3, 84, 84))
    flow = patterns.repeat(CLIPS, axis=0) + rng.normal(0, 0.2, (n, 3, 84, 84))
    for i, label in enumerate(table["label"]):
        flow[i, 1, 8 + 24 * label : 28 + 24 * label, 20:64] += signal  # downwards
    return flow.astype(np.float32), table


def evaluate(flow: np.ndarray, table: pd.DataFrame, model: str) -> dict:
    """The scores of all clips, each predicted by a model that has not seen its subject."""
    predictions = loso.run([flow], table, model=model, classes=len(CLASSES), recipe=MODELS[model])
    predicted = predictions[[f"p{c}" for c in range(len(CLASSES))]].to_numpy().argmax(1)
    return score(predictions["label"], predicted, CLASSES)


if __name__ == "__main__":
    flow, table = made_up()
    for model in MODELS:
        found = evaluate(flow, table, model)
        print(f"{model:<8} UF1 {found['uf1']:.4f}  UAR {found['uar']:.4f}  accuracy {found['acc']:.4f}")
