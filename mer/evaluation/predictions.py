"""The folder of an experiment's predictions: data/predictions/<experiment>.

predictions.csv   a row a seed and clip, as mer.loso.run returns it
audit.csv         with an audit: the same for the epoch, or the candidate, that is best on the test subject
choices.csv       with selection nested: a row a seed, fold and candidate: its scores inside the fold, and whether it
                  was chosen
explain.h5        a product: what the model's explanations are, of the first seed; where it has any
run.json          how the predictions came about, see `describe_run`; which of these files there are, with the number of
                  rows and the SHA-256 of each list; and its own SHA-256
"""

import hashlib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mer.errors import MerError, listed
from mer.storage.cache import CacheWriter
from mer.storage.files import damaged, digest, replaced_folder, unreadable
from mer.storage.tables import printable, read_cells

if TYPE_CHECKING:
    import pandas as pd

TEXT = ("selection", "id", "corpus", "subject", "fold")  # also where a subject is named NA or 007
COLUMNS = ("seed", "selection", "epoch", "id", "corpus", "subject", "fold", "label")  # then p0, p1, … a class
RUN = "run.json"


def read_predictions(folder: Path, name: str = "predictions.csv") -> tuple["pd.DataFrame", dict[str, Any]]:
    """Predictions (or audit.csv) and run.json of an experiment.

    Raises MerError where one is missing, or another than `write_predictions` has written: the line, and what to do.
    """
    folder = Path(folder)
    run_info = read_run(folder / RUN)
    files = run_info.pop("files")
    gone = [other for other in files if not (folder / other).exists()]
    if gone:
        raise damaged(folder, f"it has no {listed(gone)}")
    if name not in files:
        raise MerError(f"{folder / name}: is not among the files of this run ({listed(files)}); run dvc repro")
    table = _read_list(folder / name, files[name]["rows"], len(run_info["class_names"]))
    if _sha256(folder / name) != files[name]["sha256"]:
        raise damaged(folder / name, f"its bytes are not those that {RUN} has the SHA-256 of")
    return table, run_info


def _read_list(path: Path, count: int, classes: int) -> "pd.DataFrame":
    """A list of predictions, its numbers as such. Raises MerError with the line of what cannot be."""
    import pandas as pd

    heading, *rows = read_cells(path)
    expected = [*COLUMNS, *(f"p{c}" for c in range(classes))]
    missing = [column for column in expected if column not in heading]
    if missing or heading != expected:
        raise damaged(path, f"columns {listed(missing)} are missing" if missing else f"has columns {listed(heading)}")
    seen: dict[tuple[str, str], int] = {}
    for number, row in enumerate(rows, start=2):
        cells = dict(zip(heading, row, strict=True))
        clip = f"line {number} (clip {printable(cells['id'])})"
        first = seen.setdefault((cells["seed"], cells["id"]), number)
        if first != number:
            raise damaged(path, f"{clip} has the clip of line {first} again")
        for column, cell in cells.items():
            form = _INTEGER if column in COLUMNS else _FLOAT
            if column not in TEXT and not form.fullmatch(cell):
                raise damaged(path, f"{clip}: {column} is {cell[:40]!r}")
        if not 0 <= int(cells["label"]) < classes:
            raise damaged(path, f"{clip}: label is {cells['label']}, there are {classes} classes")
    if len(rows) != count:
        raise damaged(path, f"it has {len(rows)} rows, {count} were written")
    table = pd.DataFrame(rows, columns=heading, dtype=str)
    for column in heading:
        if column not in TEXT:
            kind = np.int64 if column in COLUMNS else np.float64
            table[column] = np.array([kind(cell) for cell in table[column]], dtype=kind)
    return table


_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)
_FLOAT = re.compile(r"-?\d{1,18}(\.\d{1,18})?(e[-+]\d{1,3})?", re.ASCII)


def read_run(path: Path) -> dict[str, Any]:
    """run.json without its digest. Raises MerError for anything but what `run_text` has made."""
    try:
        content = json.loads(path.read_bytes())
        sound = content.pop("sha256") == digest(content)
        names = content["class_names"], content["files"]
    except FileNotFoundError:
        raise MerError(f"{path}: there is no such file; run dvc repro, or correct the experiment's name") from None
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged(path, "it does not describe a run") from None
    if not sound or not isinstance(names[0], list) or not isinstance(names[1], dict):
        raise damaged(path, "its content is not that of its SHA-256")
    return content


def run_text(run_info: dict[str, Any]) -> str:
    """The text of run.json, with the digest of its content."""
    # As it will be read: JSON knows neither tuples nor numbers as keys.
    content = json.loads(json.dumps({name: value for name, value in run_info.items() if name != "sha256"}))
    return json.dumps({**content, "sha256": digest(content)}, indent=1, sort_keys=True) + "\n"


def write_predictions(
    folder: Path,
    predictions: "pd.DataFrame",
    audit: "pd.DataFrame",
    run_info: dict[str, Any],
    explanations: Mapping[str, dict[str, np.ndarray]],
    choices: "pd.DataFrame | None" = None,
) -> None:
    """Write all files, then put the folder into place: it is there whole or not at all.

    How an earlier folder is replaced: `mer.storage.files.replaced_folder`.

    Args:
        folder: data/predictions/<experiment>; an earlier one is replaced.
        predictions, audit: rows of mer.loso.run; without rows of `audit` there is no audit.csv.
        run_info: as `describe_run` returns it.
        explanations: clip id -> arrays by name, one of them `data`; without any there is no explain.h5.
        choices: as mer.loso.nested.run returns them.

    Raises:
        MerError: an explanation that a product cannot hold, such as one that is not finite.
    """
    with replaced_folder(folder) as fresh:
        files: dict[str, dict[str, Any]] = {}
        for name, rows in (("predictions.csv", predictions), ("audit.csv", audit), ("choices.csv", choices)):
            if rows is not None and len(rows):
                rows.to_csv(fresh / name, index=False, lineterminator="\n", float_format="%.9g", encoding="utf-8")
                files[name] = {"rows": len(rows), "sha256": _sha256(fresh / name)}
        if explanations:
            params = {"model": run_info["model"]}
            with CacheWriter(fresh / "explain.h5", kind="explain", ragged=False, params=params) as file:
                for clip_id, found in explanations.items():
                    arrays: dict[str, Any] = found  # the engine refuses the names `key` and `clip_id`
                    file.append(clip_id, **arrays)
            files["explain.h5"] = {"rows": len(explanations)}
        (fresh / RUN).write_text(run_text({**run_info, "files": files}), encoding="utf-8")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


EVALUATIONS = {
    "subject": "leave-one-subject-out", "corpus": "leave-one-database-out", "origin": "recorded-against-simulated",
}  # fmt: skip


def describe_run(
    *,
    experiment: str,
    model: str,
    knobs: dict[str, Any],
    recipe: dict[str, Any] | None,
    class_names: Sequence[str],
    inputs: Sequence[str],
    protocol: dict[str, Any],
    excluded: Mapping[str, str],
    n_of_other_classes: int,
    editions: Mapping[str, str],
    device: str,
) -> dict[str, Any]:
    """What a reader must know to trust the numbers. No times: equal runs write equal files.

    Args:
        experiment, model: their names.
        knobs: all of the model's, not only the changed ones.
        recipe: how it was trained, complete; None for an estimator.
        class_names: in label order.
        inputs: paths of the products and weights that the model read.
        protocol: selection, held_out, seeds, folds_in_parallel, leaky, transductive, and `weights`: every network that
            had a part in the predictions, and what its weights were before the folds.
        excluded: clip id -> reason.
        n_of_other_classes: clips of the index that the class list does not select.
        editions: corpus -> the edition of it that was read; "" for one that has none.
        device: cpu or cuda.
    """
    return {
        "experiment": experiment,
        "model": model,
        "knobs": knobs,
        "recipe": recipe,
        "class_names": list(class_names),
        "inputs": list(inputs),
        "protocol": {
            "evaluation": EVALUATIONS[protocol.get("leave_out", "subject")],
            **protocol,
            "n_excluded": len(excluded),
            "excluded": dict(excluded),
            "n_of_other_classes": n_of_other_classes,
            "editions": dict(editions),
        },
        "environment": _environment(device),
    }


def _environment(device: str) -> dict[str, str]:
    import sklearn
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "device": "cpu" if device == "cpu" else torch.cuda.get_device_name(),
        "machine": platform.machine(),
    }
