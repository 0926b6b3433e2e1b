"""Sets a finished run into one static page; writes metrics/report/index.html.

    python -m stages.report demo

The page holds its pictures and charts, loads nothing, and opens from disk. What is missing is named on it.
"""

from pathlib import Path

from mer import plan_file
from mer.evaluation import report
from stages._run import run


def main(stage):
    report.write(Path(), stage.params, plan_file.stages_of(), Path("metrics/report/index.html"))


if __name__ == "__main__":
    run("report", main)
