"""Presets: each composes with its corpora, keeps the comments of the base, and is refused where it cannot be."""

import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mer import params, validation
from mer.params import Params
from mer.plan import derive
from tests.helpers.refusals import refused
from tests.helpers.trees import BOMB
from tools import plan, preset

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
KNOWN = YAML(typ="safe").load((CONF / "corpora.yaml").read_text())


@pytest.fixture(autouse=True)
def _in_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def parsed(text: str) -> Params:
    return params.parse(YAML(typ="safe").load(text))


def overlay(name: str) -> dict:
    return YAML(typ="safe").load((CONF / f"{name}.yaml").read_text())


def of_corpora() -> list[str]:
    """The presets that take C."""
    return [name for name in PRESETS if isinstance(overlay(name)["corpora"], list)]


PRESETS = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem not in ("base", "corpora"))
EACH = [(name, corpus) for name in of_corpora() for corpus in overlay(name)["corpora"]]
OTHERS = [(name, corpus) for name in ("baselines", "uamrn") for corpus in KNOWN if (name, corpus) not in EACH]


def test_there_are_presets():
    assert {"demo", "synthetic_full", "megc2019_flow", "baselines", "uamrn"} <= set(PRESETS)
    assert preset.presets() == PRESETS


# ---- composing ------------------------------------------------------------------------------------------------------


def test_a_run_of_another_task_keeps_nothing_of_the_bases_entry():
    """Base fetches the ViT; a preset that trains one names all that this takes, and no source is left to be refused."""
    run = YAML(typ="safe").load(preset.compose("teach"))["pretrain"]["runs"]["vit"]
    assert overlay("base")["pretrain"]["runs"]["vit"]["task"] == "fetch"
    assert run == overlay("teach")["pretrain"]["runs"]["vit"]
    assert run["task"] == "macro"


def check(text: str, name: str) -> Params:
    """It is valid, and a plan follows from it: a run of train for each experiment."""
    found = parsed(text)
    assert found.preset == name
    validation.check(found)
    stages, _ = derive(found)
    assert set(stages["train"]) == set(found.experiments) != set()
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_composes_validates_and_has_a_plan(name):
    found = check(preset.compose(name), name)
    wanted = overlay(name)["corpora"]
    parts = {part for corpus in wanted for part in found.corpora[corpus].parts or ()}
    assert set(found.corpora) == {*wanted, *parts}
    assert {entry.corpus for entry in found.experiments.values()} == set(wanted)


@pytest.mark.parametrize(("name", "corpus"), EACH)
def test_and_with_each_of_its_corpora(name, corpus):
    found = check(preset.compose(name, corpus), name)
    assert set(found.corpora) == {corpus, *KNOWN[corpus].get("parts", ())}
    assert {entry.corpus for entry in found.experiments.values()} == {corpus}


@pytest.mark.parametrize(("name", "corpus"), OTHERS)
def test_and_with_corpora_that_it_does_not_name(name, corpus):
    """All but a model that reads frames on a corpus that was released without them."""
    if (name, corpus) == ("uamrn", "megc2019_flow"):
        refused("model uamrn reads .* corpus megc2019_flow was released as flow without its frames", check,
                preset.compose(name, corpus), name)  # fmt: skip
    else:
        check(preset.compose(name, corpus), name)


def test_corpora_are_taken_as_they_are_named():
    found = parsed(preset.compose("uamrn", "smic, samm"))
    assert set(found.corpora) == {"samm", "smic"}
    assert list(found.experiments)[:2] == ["smic-linear", "smic-ststnet"]
    assert found.explain.drawn == {"smic-uamrn": "", "samm-uamrn": ""}


def test_an_entry_of_a_corpuss_own_comes_before_that_of_all():
    own = "casme2/sub02/EP03_02f"  # Figure 4
    drawn = parsed(preset.compose("uamrn", "casme2,samm")).explain.drawn
    assert drawn == {"casme2-uamrn": own, "samm-uamrn": ""}


def test_a_curve_is_there_for_each_corpus():
    found = parsed(preset.compose("msmmt_alpha", "casme2,megc2019_flow")).curves
    assert list(found) == ["casme2-msmmt-alpha", "megc2019-flow-msmmt-alpha"]
    assert found["megc2019-flow-msmmt-alpha"].model_dump() == {
        "experiments": ["megc2019-flow-msmmt-a*"], "knob": "alpha", "baseline": "megc2019-flow-linear-innereye"
    }  # fmt: skip


def test_heat_maps_are_there_for_each_corpus():
    found = parsed(preset.compose("dcma", "casme2,composite"))
    assert {name: entry.experiments for name, entry in found.heatmaps.items()} == {
        f"{corpus}-dcma-attention": [f"{corpus}-dcma{what}" for what in ("-none", "-channel", "-spatial", "")]
        for corpus in ("casme2", "composite")
    }
    assert set(found.explain.drawn) == {f"{c}-dcma{what}" for c in ("casme2", "composite") for what in ("", "-none")}


def test_maps_of_motion_are_there_for_each_corpus():
    found = parsed(preset.compose("micronbert", "casme2,composite")).motion_maps
    assert {name: entry.model_dump() for name, entry in found.items()} == {
        f"{corpus}-micronbert": {"experiment": f"{corpus}-micronbert", "factors": "arange_10_11_1", "clips": 4}
        for corpus in ("casme2", "composite")
    }


def test_figure_8_has_alpha_from_0_to_1_in_steps_of_a_tenth():
    found = parsed(preset.compose("msmmt_alpha"))
    points = derive(found)[0]["curve"]["composite-msmmt-alpha"]["args"]["points"]
    assert points == [f"composite-msmmt-a{10 * i:03}={i / 10}" for i in range(11)]


def test_an_experiment_is_one_line():
    text = preset.compose("uamrn", "casme2")
    assert "  casme2-uamrn-full-attention: {corpus: casme2, model: uamrn, knobs: {mask: full}}\n" in text
    composite = "  composite: {parts: [casme2, samm, smic], classes: 3, expect: {clips: 442, subjects: 68}}"
    assert any(line.startswith(composite) for line in preset.compose("baselines", "composite").splitlines())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_keeps_every_comment_of_the_base(name):
    def comments(text):
        return {line.split("#", 1)[1].strip() for line in text.splitlines() if "#" in line}

    base = comments((CONF / "base.yaml").read_text())
    if name in ("demo", "teach"):  # their ViT is a small one: the entry of another task is replaced, with its comment
        base.remove("ViT-B/16, ImageNet-21k and then ImageNet-1k")
    assert base <= comments(preset.compose(name))


def test_what_a_preset_does_not_say_is_the_bases():
    base, demo = overlay("base"), YAML(typ="safe").load(preset.compose("demo"))
    assert demo["flow"] == base["flow"]
    assert demo["uamrn"] == base["uamrn"] | {"factors": "linspace_2_13_8", "d_model": 64, "samples": 3}
    assert demo["pretrain"]["runs"]["magnet"] == base["pretrain"]["runs"]["magnet"] | {"pool": "people"}


# ---- what is committed ----------------------------------------------------------------------------------------------


def committed(name: str) -> str:
    shown = subprocess.run(["git", "show", f"HEAD:{name}"], capture_output=True, text=True, check=False)
    if shown.returncode:
        pytest.skip("no git checkout")
    return shown.stdout


def test_the_committed_parameters_are_the_demos(tmp_path, monkeypatch):
    """As committed: a user may have another preset in the working tree."""
    for name in ("base", "demo", "corpora"):
        (tmp_path / f"{name}.yaml").write_text(committed(f"conf/{name}.yaml"))
    monkeypatch.setattr(preset, "CONF", tmp_path)
    assert committed("params.yaml") == preset.compose("demo")


def test_the_plan_of_the_demo_is_what_derives_from_it():
    """That of the working tree where it holds the demo; where an edit of the code has changed it, run make plan."""
    text = committed("params.yaml")
    there = (ROOT / "params.yaml").read_text() == text
    _, expected = plan.derived(parsed(text))
    assert (ROOT / "plan.yaml").read_text() == expected if there else committed("plan.yaml") == expected


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "corpora", "message"),
    [
        ("dmeo", "", r"preset 'dmeo' is unknown; did you mean 'demo'\? \(make preset P=<name>\)"),
        ("", "", "preset '' is unknown; valid names: baselines, dcma, demo"),
        ("base", "", "preset 'base' is unknown"),
        ("corpora", "", "preset 'corpora' is unknown"),
        ("../conf/demo", "", "preset '../conf/demo' is unknown"),
        ("casme2", "",
         "casme2 is a corpus; name a paper or a table and the corpus: make preset P=baselines C=casme2"),
        ("uamrn", "casm2", r"C: corpus 'casm2' is unknown; did you mean 'casme2'\?"),
        ("uamrn", "casme2,,samm", "C: corpus '' is unknown; valid names: casme2"),
        ("uamrn", "casme2,samm,casme2", "C: casme2, samm, casme2 names a corpus twice; name each once"),
        ("demo", "casme2", "preset demo has corpora of its own; leave C out"),
        # Its experiments name the corpus that they are for.
        ("megc2019_flow", "casme2", "experiments.megc2019-linear.corpus is 'megc2019_flow'; valid names: casme2"),
    ],
)  # fmt: skip
def test_what_no_preset_is_made_of(name, corpora, message):
    refused(message, preset.compose, name, corpora)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes conf/mine.yaml beside copies of the shared files; the folder is the one that presets come from."""
    for name in ("base.yaml", "corpora.yaml"):
        (tmp_path / name).write_text((CONF / name).read_text())
    monkeypatch.setattr(preset, "CONF", tmp_path)
    return (tmp_path / "mine.yaml").write_bytes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a mapping"),
        (b"- 1", "is not a mapping"),
        (b"a: [1", "is not valid YAML"),
        (b"preset: \xff", "is not UTF-8 text; save it as UTF-8"),
        (b"a: " + b"[" * 5000 + b"]" * 5000, "is nested too deeply; correct it"),
        (f"preset: {BOMB}".encode(), "is not valid YAML: with its aliases .* more than 1,000,000 characters; correct"),
        (b"preset: mine\nflow: {thetta: 0.3}\n", r"flow.thetta is unknown; did you mean 'theta'\?"),
        (b"preset: mine\nalgin: {}\n", r"section 'algin' is unknown; did you mean 'align'\?"),
        (b"preset: mine\nalign: {runs: {}}\n", "align.runs is gone: the stages follow from corpora and experiments"),
        (b'preset: mine\ncorpora: [samm]\nexperiments: {"{corpus}_linear": {model: linear}}\n',
         "experiments: the name 'samm_linear' must begin with a-z or 0-9"),
    ],
)  # fmt: skip
def test_an_overlay_that_cannot_be_names_its_file(mine, content, message):
    mine(content)
    refused(rf"conf/mine.yaml: {message}|^/.*/mine.yaml: {message}", preset.compose, "mine")


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path, monkeypatch, capsys):  # which then holds the output of the demo
    """make(P, C): `make preset` in a folder of its own that begins with the demo."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preset, "CONF", CONF)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["preset", *arguments])
        preset.main()

    run("demo")
    return run


def test_a_preset_writes_parameters_and_plan_and_says_what_changes(make, capsys):
    assert "plan.yaml is new: 51 stages" in capsys.readouterr().out
    make("uamrn", "casme2")
    out = capsys.readouterr().out
    assert out.startswith("params.yaml is now preset uamrn\n")
    assert "stages more: " in out
    assert "stages less: " in out
    found = params.load("params.yaml")
    assert Path("params.yaml").read_text() == preset.compose("uamrn", "casme2")
    assert Path("plan.yaml").read_text() == plan.derived(found)[1]
    make("uamrn", "casme2")
    assert "plan.yaml is up to date" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("dmeo",), ("demo", "casme2"), ("uamrn", "megc2019_flow"), ()])
def test_a_preset_that_is_refused_changes_no_file(make, capsys, arguments):
    before = [Path(name).read_bytes() for name in ("params.yaml", "plan.yaml")]
    Path("data/predictions/synthetic-other").mkdir(parents=True)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        make(*arguments)
    said = capsys.readouterr()
    assert end.value.code == 2
    assert said.out == ""
    assert said.err.startswith("preset: ")
    assert said.err.count("\n") == 1
    assert [Path(name).read_bytes() for name in ("params.yaml", "plan.yaml")] == before
    assert Path("data/predictions/synthetic-other").is_dir()


@pytest.mark.parametrize("arguments", [("demo",), ()])
def test_another_folder_is_refused(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["preset", *arguments])
    with pytest.raises(SystemExit) as end:
        preset.main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said == "preset: conf/corpora.yaml: there is no such file here; run from the project's root\n"
    assert list(tmp_path.iterdir()) == []


def test_a_preset_leaves_no_predictions_of_another_behind(make):
    for name in ("synthetic-linear", "megc2019-linear"):
        Path("data/predictions", name).mkdir(parents=True)
        Path("data/predictions", name, "run.json").write_text("{}")
    Path("data/predictions/.gitkeep").touch()
    make("demo")
    assert sorted(path.name for path in Path("data/predictions").iterdir()) == [".gitkeep", "synthetic-linear"]


def test_results_of_what_the_plan_does_not_have_are_removed(tmp_path):
    """Stages that depend on whole folders would count them; what DVC does not write stays."""
    stages = {stage: {} for stage in preset.READ_WHOLE.values()} | {"train": {"a-x": {}}, "evaluate": {"a-x": {}}}
    kept = ["data/predictions/a-x/predictions.csv", "data/predictions/.gitkeep", "metrics/details/a-x.json",
            "metrics/plots/a-x/confusion.csv", "metrics/a-y.json", "metrics/tables.json"]  # fmt: skip
    left = ["data/predictions/a-y/predictions.csv", "metrics/details/a-y.json", "metrics/plots/a-y/confusion.csv",
            "metrics/heatmaps/m.png", "metrics/explained/a-x/confusion.png"]  # fmt: skip
    for name in (*kept, *left):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    preset.clear_left(stages, tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)
    assert not (tmp_path / "metrics/heatmaps").exists()
    assert (tmp_path / "data/predictions").is_dir()
