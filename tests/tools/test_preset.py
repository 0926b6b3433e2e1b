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


def parts_of(name: str) -> list[str]:
    """The presets that a preset is made of, which may be made of others; a plain one is its own."""
    return [inner for part in overlay(name).get("presets", ()) for inner in parts_of(part)] or [name]


def corpora_of(name: str) -> dict | list:
    """A mapping, or, of presets that take C, a list."""
    found = [overlay(part)["corpora"] for part in parts_of(name)]
    return found[0] if len(found) == 1 else list(dict.fromkeys(corpus for one in found for corpus in one))


def of_corpora() -> list[str]:
    """The presets that take C."""
    return [name for name in PRESETS if isinstance(corpora_of(name), list)]


PRESETS = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem not in ("base", "corpora"))
EACH = [(name, corpus) for name in of_corpora() for corpus in corpora_of(name)]
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
    wanted = corpora_of(name)
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
    if name == "uamrn" and corpus in ("megc2019_flow", "causalnet_flow"):
        refused(f"model uamrn reads .* corpus {corpus} was released as flow.* without its frames", check,
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
    if name in (
        "demo",
        "teach",
        "torture",
        "synthetic_bundled",
    ):  # their ViT is a small one: the entry of another task is replaced, with its comment
        base.remove("ViT-B/16, ImageNet-21k and then ImageNet-1k")
    assert base <= comments(preset.compose(name))


def test_what_a_preset_does_not_say_is_the_bases():
    base, demo = overlay("base"), YAML(typ="safe").load(preset.compose("demo"))
    assert demo["flow"] == base["flow"]
    assert demo["uamrn"] == base["uamrn"] | {"factors": "linspace_2_13_8", "d_model": 64, "samples": 3}
    assert demo["pretrain"]["runs"]["magnet"] == base["pretrain"]["runs"]["magnet"] | {"pool": "people"}


# ---- presets of presets ---------------------------------------------------------------------------------------------

SECTIONS = ("experiments", "curves", "heatmaps", "motion_maps")


@pytest.mark.parametrize("corpora", ["", "casme2", "samm,composite", "casme3"])
def test_paper_is_what_its_presets_are_together(corpora):
    """Entry by entry, with the corpora that they are meant for or with others."""
    found = parsed(preset.compose("paper", corpora))
    parts = [parsed(preset.compose(part, corpora)) for part in overlay("paper")["presets"]]
    for section in SECTIONS:
        together = {key: entry for part in parts for key, entry in getattr(part, section).items()}
        assert getattr(found, section) == together
        assert list(getattr(found, section)) == list(together)
    assert found.explain.drawn == {key: clip for part in parts for key, clip in part.explain.drawn.items()}
    assert found.corpora == {key: corpus for part in parts for key, corpus in part.corpora.items()}
    base = overlay("base")["pretrain"]["runs"]
    for part in parts:
        for name, run in part.pretrain.runs.items():
            if name not in base or name in (overlay(part.preset).get("pretrain") or {}).get("runs", {}):
                assert found.pretrain.runs[name] == run
        assert found.knobs == part.knobs
        assert found.train == part.train


def test_paper_has_every_preset_of_a_paper():
    """Those that take C, and are not made of others themselves."""
    plain = {name for name in of_corpora() if "presets" not in overlay(name)}
    assert set(overlay("paper")["presets"]) == plain - {"megc2019_flow", "megc2019_msmmt"}


def test_the_rehearsal_is_paper_in_small():
    """The same experiments, pictures and stages; no network is as large, and nothing is asked of the net."""
    small, paper = (parsed(preset.compose(name)) for name in ("rehearsal", "paper"))
    for section in SECTIONS:
        assert list(getattr(small, section)) == list(getattr(paper, section))
    stages = [{stage: set(keys) for stage, keys in derive(one)[0].items()} for one in (small, paper)]
    sized = ("frames", "magnify_learned", "embed", "report")  # whose keys name the size, the factors, or the preset
    assert all(stages[0][stage] == stages[1][stage] for stage in stages[0] if stage not in sized)
    assert all(len(stages[0][stage]) == len(stages[1][stage]) for stage in sized)
    for name, experiment in small.experiments.items():
        assert experiment.recipe == ({} if experiment.model == "linear" else {"epochs": 1})
        assert {**paper.experiments[name].model_dump(), "recipe": experiment.recipe} == experiment.model_dump()
    runs = small.pretrain.runs
    assert runs["dcma_none"].knobs == {"attention": "none", "size": 32, "stem": 4, "layers": 1, "growth": 4}
    assert runs["vit"].source.startswith("data/")
    assert runs["resnet18"].first == "random"
    assert "&" not in "".join(line.split("#")[0] for line in preset.compose("rehearsal").splitlines())  # an anchor


def test_an_entry_of_a_pattern_lies_over_all_that_it_matches(mine):
    mine(b'preset: mine\npresets: [a]\nexperiments:\n  "*-ststnet": {recipe: {epochs: 2}}\n'
         b'  samm-ststnet: {seeds: [0, 1]}\nlinear: {grid: 4}\n')  # fmt: skip
    mine(b'preset: a\ncorpora: [samm, smic]\nexperiments:\n  "{corpus}-linear": {model: linear}\n'
         b'  "{corpus}-ststnet": {model: ststnet, recipe: {lr: 0.1}}\n', "a")  # fmt: skip
    found = parsed(preset.compose("mine"))
    assert found.preset == "mine"
    assert found.experiments["samm-ststnet"].recipe == {"lr": 0.1, "epochs": 2}
    assert found.experiments["smic-ststnet"].recipe == {"lr": 0.1, "epochs": 2}
    assert (found.experiments["samm-ststnet"].seeds, found.experiments["smic-ststnet"].seeds) == ([0, 1], None)
    assert found.knobs["linear"]["grid"] == 4
    assert list(parsed(preset.compose("mine", "smic")).experiments) == ["smic-linear", "smic-ststnet"]


A = 'preset: a\ncorpora: [samm]\nexperiments: {"{corpus}-linear": {model: linear}}\n'


@pytest.mark.parametrize(
    ("b", "message"),
    [
        ('corpora: [samm]\nexperiments: {"{corpus}-linear": {model: linear, knobs: {grid: 4}}}',
         "presets a and b define experiments.samm-linear differently; give one of them another name"),
        ('corpora: [smic]\nexperiments: {samm-linear: {corpus: samm, model: ststnet}, "{corpus}-x": {model: linear}}',
         "presets a and b define experiments.samm-linear differently"),
        ('corpora: [smic]\nexperiments: {"{corpus}-x": {model: linear}}\npretrain: {runs: {vit: {source: data/x}}}',
         "presets a and b define pretrain.runs.vit differently"),
        ('corpora: [smic]\nexperiments: {"{corpus}-x": {model: linear}}\ncurves: {c: {experiments: ["*-x"], knob: c}}',
         "presets a and b define curves.c differently"),
        ('corpora: [smic]\nexperiments: {"{corpus}-x": {model: linear}}\ntrain: {audit: true}',
         "preset b sets train.audit, which would hold for a too; say it in both, or in an experiment"),
        ('corpora: [smic]\nexperiments: {"{corpus}-x": {model: linear}}\nlinear: {grid: 4}',
         "preset b sets linear.grid, which would hold for a too"),
        ('corpora: {smic: {classes: 3}}\nexperiments: {smic-x: {corpus: smic, model: linear}}\nflow: {tau: 0.25}',
         None),
        ('corpora: [samm]\nexperiments: {"{corpus}-linear": {model: linear}, "{corpus}-x": {model: linear}}', None),
    ],
    ids=["an experiment", "one of a corpus's own", "a run", "a curve", "a setting", "a knob", "as the base",
         "the same"],
)  # fmt: skip
def test_presets_that_differ_in_what_both_say_are_no_preset(mine, b, message):
    mine(b"preset: mine\npresets: [a, b]\n")
    extra = 'pretrain: {runs: {vit: {source: data/y}}}\ncurves: {c: {experiments: ["*-y"], knob: c}}\n'
    mine((A + extra * ("define pretrain" in (message or "") or "define curves" in (message or ""))).encode(), "a")
    mine(f"preset: b\n{b}\n".encode(), "b")
    if message is None:
        found = parsed(preset.compose("mine"))
        assert found.preset == "mine"
        assert "samm-linear" in found.experiments
    else:
        refused(message, preset.compose, "mine")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("presets: []", r"conf/mine.yaml: presets is \[\]; needed is a list of presets, each once"),
        ("presets: a", "conf/mine.yaml: presets is 'a'; needed is a list of presets"),
        ("presets: [a, a]", "presets is .*; needed is a list of presets, each once"),
        ("presets: [mine]", "conf/mine.yaml: presets: 'mine' is no other preset; valid names: a"),
        ("presets: [casme2]", "presets: 'casme2' is no other preset; valid names: a"),
        ("presets: [[a]]", r"presets: \['a'\] is no other preset"),
        ("presets: [a]\nexperiments: {samm-uamrn: {seeds: [1]}}",
         "conf/mine.yaml: experiments: 'samm-uamrn' matches none; valid names: samm-linear"),
        ('presets: [a]\npretrain: {runs: {"resnet19*": {steps: 1}}}', "pretrain.runs: 'resnet19\\*' matches none"),
        ("presets: [a]\nflow: {thetta: 1}", "conf/mine.yaml: flow.thetta is unknown"),
    ],
)  # fmt: skip
def test_what_no_preset_of_presets_is_made_of(mine, content, message):
    mine(f"preset: mine\n{content}\n".encode())
    mine(A.encode(), "a")
    refused(message, preset.compose, "mine")


def test_presets_that_are_made_of_each_other_are_refused(mine):
    mine(b"preset: mine\npresets: [a]\n")
    mine(b"preset: a\npresets: [mine]\n", "a")
    refused("conf/a.yaml: presets: 'mine' is no other preset", preset.compose, "mine")


def test_a_preset_of_presets_stands_alone_where_it_is_a_part(mine):
    mine(b"preset: mine\npresets: [b, a]\n")
    mine(A.encode(), "a")
    mine(b"preset: b\npresets: [a]\n", "b")
    refused("conf/mine.yaml: presets: b is made of presets itself; name those, or it alone", preset.compose, "mine")


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
    """Writes conf/mine.yaml, or another, beside copies of the shared files, in the folder that presets come from."""
    for name in ("base.yaml", "corpora.yaml"):
        (tmp_path / name).write_text((CONF / name).read_text())
    monkeypatch.setattr(preset, "CONF", tmp_path)
    return lambda content, name="mine": (tmp_path / f"{name}.yaml").write_bytes(content)


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
    assert "plan.yaml is new: 55 stages" in capsys.readouterr().out
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
    stages = {stage: {} for made_by in preset.READ_WHOLE.values() for stage in made_by}
    stages |= {"train": {"a-x": {}}, "evaluate": {"a-x": {}}, "index": {"a": {}}, "compose": {"all": {}}}
    kept = [
        "data/index/a.csv", "data/index/a.excluded.csv", "data/index/all.csv", "data/predictions/a-x/predictions.csv",
        "data/predictions/.gitkeep", "metrics/details/a-x.json", "metrics/plots/a-x/confusion.csv", "metrics/a-y.json",
        "metrics/tables.json",
    ]  # fmt: skip
    left = [
        "data/index/b.csv", "data/index/b.corrected.csv", "data/predictions/a-y/predictions.csv",
        "metrics/details/a-y.json", "metrics/plots/a-y/confusion.csv", "metrics/heatmaps/m.png",
        "metrics/explained/a-x/confusion.png",
    ]  # fmt: skip
    for name in (*kept, *left):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    preset.clear_left(stages, tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)
    assert not (tmp_path / "metrics/heatmaps").exists()
    assert (tmp_path / "data/predictions").is_dir()
