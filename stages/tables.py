"""Sets the papers' printed tables beside what is computed here.

Writes metrics/tables.json, metrics/tables/ (Markdown, LaTeX, CSV) and metrics/overview.csv.

    python -m stages.tables

Ours are metrics/ of the present graph and the published copies under results/.
"""

from pathlib import Path

import pandas as pd

from mer.evaluation import tables
from mer.evaluation.reports import write_csv, write_json
from mer.storage.files import replaced_folder
from stages._run import run


def main(stage):
    found = tables.results(Path(), stage.params)
    content = tables.verdicts(found, stage.params.preset)
    with replaced_folder(Path("metrics/tables")) as fresh:
        for name, text in tables.written(content).items():
            (fresh / name).write_text(text, encoding="utf-8")
    write_json(Path("metrics/tables.json"), content)
    write_csv(Path("metrics/overview.csv"), pd.DataFrame(tables.overview(found)))


if __name__ == "__main__":
    run("tables", main)
