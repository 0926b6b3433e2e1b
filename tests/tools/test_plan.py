"""What `make plan` says of costs: runs, clips, and what this machine has measured before."""

import json

import pandas as pd
import pytest
from ruamel.yaml import YAML

from mer.clips import COLUMNS, write_index
from mer.params import parse
from mer.plan import derive
from tools import _costs, plan, preset


@pytest.fixture
def table(root, tmp_path, monkeypatch):
    """table(preset, corpora): the rows of the table by stage, in a folder without data; a row is its words."""
    monkeypatch.setattr(preset, "CONF", root / "conf")

    def make(name: str, corpora: str = "", **expect) -> dict[str, list[str]]:
        content = YAML(typ="safe").load(preset.compose(name, corpora))
        for corpus, counts in expect.items():
            content["corpora"][corpus]["expect"] = counts
        params = parse(content)
        return {line.split()[0]: line.split()[1:] for line in _costs.lines(derive(params)[0], params, tmp_path)}

    return make


def note(folder, name: str, seconds: float = 90.0, peak: int = 1200, worker: int = 300) -> None:
    (folder / "data/timings").mkdir(parents=True, exist_ok=True)
    record = {"seconds": seconds, "peak_mb": peak, "peak_mb_of_a_worker": worker}
    (folder / f"data/timings/{name}.json").write_text(json.dumps(record) + "\n")


def test_a_kind_of_stage_has_a_line_with_its_runs(table, root, monkeypatch):
    monkeypatch.chdir(root)
    found = table("uamrn", "casme2,samm")
    assert found["index"][0] == "2"
    assert found["train"][0] == found["evaluate"][0] == "10"
    assert found["leakage"][0] == "1"
    assert "import_flow" not in found
    assert int(found["all"][0]) == sum(int(row[0]) for stage, row in found.items() if stage not in ("all", "stage"))


def test_an_experiment_with_candidates_says_how_many_models_it_trains(root, tmp_path, monkeypatch):
    monkeypatch.setattr(preset, "CONF", root / "conf")
    content = YAML(typ="safe").load(preset.compose("baselines", "casme2"))
    content["experiments"] = {
        "casme2-linear": {"corpus": "casme2", "model": "linear", "selection": "nested", "seeds": [0, 1],
                          "candidates": {"coarse": {"knobs": {"grid": 4}}, "fine": {"knobs": {"grid": 7}}}},
        "casme2-linear-groups": {"corpus": "casme2", "model": "linear", "selection": "nested", "inner": 5,
                                 "candidates": {"a": {}, "b": {"knobs": {"c": 0.1}}}},
        "casme2-linear-mean": {"corpus": "casme2", "model": "linear", "selection": "mean",
                               "candidates": {"a": {}, "b": {"knobs": {"c": 0.1}}}},
    }  # fmt: skip
    content["corpora"]["casme2"]["expect"] = {"subjects": 26}
    params = parse(content)
    found = [line for line in _costs.lines(derive(params)[0], params, tmp_path) if line.startswith("  ")]
    assert found == [
        f"  casme2-linear: 2 candidates, inside each fold every subject: {2 * 2 * (26 + 26 * 25 // 2):,} trainings",
        "  casme2-linear-groups: 2 candidates, inside each fold 5 groups of subjects: 270 trainings",
        "  casme2-linear-mean: 2 candidates, each as an experiment by itself",
    ]


def test_clips_are_those_of_the_published_corpora_until_there_is_an_index(table, tmp_path):
    """Five experiments on each: 246 of CASME II's 255 clips and 136 of SAMM's 159 are in five classes."""
    assert table("uamrn", "casme2,samm")["index"][:2] == ["2", "414"]
    assert table("uamrn", "casme2,samm")["train"][:2] == ["10", f"{5 * (246 + 136):,}"]
    rows = pd.DataFrame({
        "id": [f"casme2/s{n}/a" for n in range(4)], "corpus": "casme2", "subject": [f"s{n}" for n in range(4)],
        "clip": "a", "emotion": ["happiness", "disgust", "sadness", "sadness"], "aus": "", "onset": 1, "apex": 2,
        "offset": 3, "apex_source": "annotated", "fps": 200.0, "frame": "f/{}.jpg", "absent": "", "edition": "",
        "digest": "",
    })[list(COLUMNS)]  # fmt: skip
    (tmp_path / "data/index").mkdir(parents=True)
    write_index(tmp_path / "data/index/casme2.csv", rows)
    assert table("uamrn", "casme2,samm")["index"][:2] == ["2", str(4 + 159)]
    assert table("uamrn", "casme2")["landmarks"][:2] == ["1", "4"]
    # Of three of its five classes there is no clip: how many are trained on is not known.
    assert table("uamrn", "casme2")["train"][:2] == ["5", "?"]


def test_clips_of_a_composite_are_those_that_its_classes_keep(table):
    found = table("baselines", "composite")
    assert found["compose"][1] == str(255 + 159 + 164)
    assert found["train"][:2] == ["2", str(2 * 442)]


def test_clips_that_nobody_has_counted_are_no_number(table):
    found = table("uamrn", "casme2", casme2={"clips": 40})
    assert found["index"][1] == "40"
    assert found["train"][:2] == ["5", "?"]
    assert table("demo")["index"][1] == "100"


def test_what_was_not_measured_is_called_so(table):
    found = table("uamrn", "casme2")
    assert found["index"][2:] == ["not", "measured"]
    assert found["all"][1:] == ["not", "measured"]


def test_what_was_measured_has_minutes_and_the_highest_memory(table, tmp_path):
    note(tmp_path, "train@casme2-linear", seconds=90, peak=1200, worker=300)
    note(tmp_path, "train@casme2-ststnet", seconds=30, peak=900, worker=700)
    note(tmp_path, "index@casme2", seconds=1)
    note(tmp_path, "leakage", seconds=60)
    note(tmp_path, "train@another-linear", seconds=6000, peak=9000)  # of another plan
    found = table("uamrn", "casme2")
    assert found["train"][2:] == ["2.0", "(2", "of", "5", "measured)", "1,200", "700"]
    assert found["index"][2:] == ["<0.1", "1,200", "300"]
    assert found["leakage"] == ["1", "1.0", "1,200", "300"]
    assert found["all"][1:5] == ["3.0", "(4", "of", found["all"][0]]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"seconds": "x", "peak_mb": 1}', "[" * 100_000, "\x00"])
def test_a_record_that_is_cut_or_none_is_no_time(tmp_path, text):
    (tmp_path / "data/timings").mkdir(parents=True)
    (tmp_path / "data/timings/index@casme2.json").write_text(text)
    assert _costs.measured("index@casme2", tmp_path) is None
    assert _costs.measured("train@casme2-linear", tmp_path) is None


def test_the_command_prints_the_table_between_its_other_lines(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preset, "CONF", root / "conf")
    (tmp_path / "params.yaml").write_text(preset.compose("baselines", "casme2"))
    plan.main([])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("plan.yaml is new: ")
    assert said[1].split() == ["stage", "runs", "clips", "minutes", "peak", "MB", "a", "worker"]
    assert said[-2].split()[:1] == ["all"]
    assert said[-1] == "params.yaml is valid: preset baselines, 2 experiments"
    assert all(len(line) <= 120 for line in said)
