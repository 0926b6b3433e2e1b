"""What the docs name exists: links, files, targets of make, parameters and stages."""

import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from benchmarks import scaling
from mer import models
from tools import torture
from tools.preset import compose

ROOT = Path(__file__).resolve().parent.parent
TOP = ("mer", "stages", "tests", "docs", "conf", "tools", "examples")
HISTORY = ("CHANGELOG.md",)  # names what is gone
PAGES = sorted(
    p.relative_to(ROOT).as_posix()
    for p in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "data/raw").glob("*/README.md")]
)
YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def test_there_are_pages():
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/README.md", "docs/uamrn.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page} links to {target}, which is not there"
        assert not anchor or anchor in anchors(file), f"{page} links to {target}: no such heading"


@pytest.mark.parametrize("page", PAGES)
def test_every_target_of_make_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    # In code only: prose may use the verb.
    named = [m for code in code_of(read(page)) for m in re.findall(r"\bmake ([a-z][a-z-]*)\b", code)]
    assert set(named) <= targets, f"{page} names make {sorted(set(named) - targets)}, which the Makefile lacks"


def test_targets_of_make_are_found_in_the_readme():
    named = [m for code in code_of(read("README.md")) for m in re.findall(r"\bmake ([a-z][a-z-]*)\b", code)]
    assert {"repro", "test", "plan", "preset", "manifest", "publish"} <= set(named)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY])
def test_every_preset_can_be_made(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for code in code_of(read(page)):
        for name, corpora in re.findall(r"make preset P=(\w+)(?: C=([\w,]+))?", code):
            compose(name, corpora)


def code_of(text: str) -> list[str]:
    """Code spans and blocks."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [*blocks, *re.findall(r"`([^`]+)`", rest)]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY])
def test_every_path_in_code_exists(page):
    for code in code_of(read(page)):
        for path in re.findall(rf"(?<![\w./-])(?:{'|'.join(TOP)})/[^\s`,;:'\")]*", code):
            if not re.search(r"[<>{}*…]", path):  # no pattern
                assert (ROOT / path).exists(), f"{page} names {path}, which is not there"


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY])
def test_every_module_in_code_exists(page):
    """`mer.loso.run` may be a module, or what a module holds: mer.corpora.select."""
    for code in code_of(read(page)):
        for command in re.findall(r"python -m ((?:tools|stages|benchmarks)(?:\.\w+)+)(?![\w.<])", code):
            place = ROOT / command.replace(".", "/")
            assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), f"{page}: python -m {command}"
        for name in re.findall(r"(?<![\w./])mer(?:\.\w+)+", code):
            assert found(name.split(".")), f"{page} names {name}, which is not there"


def found(parts: list[str]) -> bool:
    """Whether a dotted name is a module, or its last one or two parts are said in one."""
    for end in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:end])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            return len(parts) - end <= 2 and all(re.search(rf"\b{name}\b", text) for name in parts[end:])
    return False


@pytest.mark.parametrize("page", PAGES)
def test_every_parameter_of_exp_run_exists(page):
    """dvc exp run -S refuses a key that params.yaml lacks."""
    params = YAML(typ="safe").load(read("params.yaml"))
    for key in re.findall(r"-S '?([\w.-]+)=", read(page)):
        value = params
        for name in key.split("."):
            assert isinstance(value, dict), f"{page} names {key}: nothing stands below"
            assert name in value, f"{page} names {key}, which params.yaml lacks"
            value = value[name]


def test_parameters_are_found_in_the_readme():
    assert {"train.seed", "flow.lambda_", "train.seeds"} <= set(re.findall(r"-S '?([\w.-]+)=", read("README.md")))


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY])
def test_every_parameter_in_code_exists(page):
    """`spot.missing`: a section of params.yaml or of a model, and a name in it."""
    params = YAML(typ="safe").load(read("conf/base.yaml"))
    sections = {section: value for section, value in params.items() if isinstance(value, dict) and value}
    for code in code_of(read(page)):
        match = re.fullmatch(rf"({'|'.join(sections)})\.([\w.]+)(: .*)?", code)
        if match and not match[2].endswith("h5"):  # explain.h5 is a file
            value = sections[match[1]]
            for name in match[2].split("."):
                assert name in value, f"{page} names {code}, which conf/base.yaml lacks"
                value = value[name]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY])
def test_every_stage_in_code_exists(page):
    stages = set(YAML(typ="safe").load(read("dvc.yaml"))["stages"])
    for code in code_of(read(page)):
        for stage in re.findall(r"(?<![\w.-])([a-z_]+)@[\w<]", code):
            assert stage in stages, f"{page} names {code}: dvc.yaml has no stage {stage}"


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY])
def test_every_example_of_an_experiment_names_a_model_and_knobs_that_exist(page):
    for block in YAML_BLOCK.findall(read(page)):
        content = YAML(typ="safe").load(block)
        for name, entry in (content.get("experiments") or {}).items():
            models.check_knobs(entry["model"], entry.get("knobs", {}), f"{page}: {name}")


def test_the_readmes_table_of_the_demo_is_the_published_one():
    published = {p.stem: json.loads(p.read_text()) for p in (ROOT / "results/demo").glob("synthetic-*.json")}
    rows = re.findall(r"^(synthetic-\S+) +(\S+) \[.*?\] (\S+) \[.*?\] (\S+) ", read("README.md"), re.MULTILINE)
    found = {name: tuple(values) for name, *values in rows}
    assert found == {n: tuple(f"{metric[m]:.4f}" for m in ("uf1", "uar", "acc")) for n, metric in published.items()}


def test_the_index_of_the_docs_lists_every_page():
    listed = set(re.findall(r"^\| \[([\w.]+)\]", read("docs/README.md"), re.MULTILINE))
    assert listed == {Path(page).name for page in PAGES if page.startswith("docs/")} - {"README.md"}


def test_the_citation_file_has_what_its_format_requires():
    """cff-version 1.2.0 requires these four; the version is the package's."""
    cff = YAML(typ="safe").load(read("CITATION.cff"))
    assert cff["cff-version"] == "1.2.0"
    assert cff["message"]
    assert cff["title"]
    assert all(set(author) <= {"name", "family-names", "given-names", "orcid"} for author in cff["authors"])
    assert cff["authors"]
    assert cff["version"] == re.search(r'^version = "(.*)"$', read("pyproject.toml"), re.MULTILINE)[1]
    assert cff["license"] == re.search(r'^license = "(.*)"$', read("pyproject.toml"), re.MULTILINE)[1]


def test_the_workflow_calls_the_script_of_ci():
    workflow = YAML(typ="safe", pure=True).load(read(".github/workflows/ci.yml"))
    steps = workflow["jobs"]["ci"]["steps"]
    assert {"run": "bash .ci/run"} in steps
    assert set(workflow["on"]) == {"push", "pull_request"}
    assert (ROOT / ".ci/run").is_file()


def test_the_table_of_the_four_systems_is_what_was_published():
    rows = re.findall(r"^\| ([^|]+) \| (\d) \| (\d+) \| (.+) \|$", read("docs/weights.md"), re.MULTILINE)
    presets, linear = {}, {"5": "linear", "3": "linear-three"}
    for preset in ("synthetic_full", "synthetic_bundled"):
        presets |= {path.stem: path for path in sorted((ROOT / "results" / preset).glob("synthetic-*.json"))}
    assert len(rows) == 7
    for name, classes, clips, numbers in rows:
        key = re.sub(r"[ ,].*|-", "", name.lower()) if name != "linear, on flow" else linear[classes]
        path = presets[f"synthetic-{key}"]
        metric = json.loads(path.read_text())
        low, high = json.loads((path.parent / "details" / path.name).read_text())["ci95"]["uf1"]
        shuffled = presets.get(f"synthetic-{key}-shuffled")
        assert int(clips) == metric["n_clips"]
        assert numbers.split(" | ") == [
            f"{metric['uf1']:.3f}", f"{low:.3f} to {high:.3f}", f"{metric['uar']:.3f}", f"{metric['acc']:.3f}",
            "-" if shuffled is None else f"{json.loads(shuffled.read_text())['uf1']:.3f}",
        ]  # fmt: skip


def test_the_table_of_real_flow_is_what_was_published():
    for section, preset, others in (
        ("What came out", "megc2019_views", {"simulated-linear", *ORIGINS}),
        ("Coded action units as a second target", "megc2019_coded", {"megc2019-linear", "causalnet-linear"}),
    ):
        rows = re.findall(ROW, section_of("docs/real_flow.md", section), re.MULTILINE)
        folder = ROOT / "results" / preset
        assert {name for name, _ in rows} == {path.stem for path in folder.glob("*-*.json")} - others
        for name, numbers in rows:
            metric = json.loads((folder / f"{name}.json").read_text())
            low, high = json.loads((folder / f"details/{name}.json").read_text())["ci95"]["uf1"]
            assert numbers.split(" | ") == [
                f"{metric['uf1']:.3f}", f"{low:.3f} to {high:.3f}", f"{metric['uar']:.3f}", f"{metric['acc']:.3f}"
            ], name  # fmt: skip


ROW = r"^\| `([a-z0-9-]+)` \| .+? \| ([^|]+ \| [^|]+ \| [^|]+ \| [^|]+) \|$"
ORIGINS = [f"recorded-and-simulated-{model}" for model in ("linear", "squashed", "cnn")]


def section_of(path: str, title: str) -> str:
    """The text under a heading, to the next one."""
    return re.split(r"^## ", read(path).partition(f"\n## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def test_what_is_said_of_recorded_against_simulated_is_what_was_published():
    text, folder = section_of("docs/real_flow.md", "Recorded against simulated"), ROOT / "results/megc2019_views"
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| .+? \| ([^|]+(?: \| [^|]+){5}) \|$", text, re.MULTILINE)
    assert [name for name, _ in rows] == ORIGINS
    for name, numbers in rows:
        parts = json.loads((folder / f"{name}.json").read_text())["parts"]
        details = json.loads((folder / f"details/{name}.json").read_text())
        assert details["protocol"]["evaluation"] == "recorded-against-simulated"
        expected = []
        for side in ("recorded", "simulated"):
            low, high = details["parts"][side]["ci95"]["uf1"]
            expected += [f"{parts[side]['uf1']:.3f}", f"{low:.3f} to {high:.3f}", f"{parts[side]['uar']:.3f}"]
        assert numbers.split(" | ") == expected
    alone = json.loads((folder / "simulated-linear.json").read_text())
    assert f"{alone['uf1']:.3f} UF1 and {alone['uar']:.3f} UAR with `linear` (`simulated-linear`)" in " ".join(
        text.split()
    )


def test_the_mean_is_that_of_the_candidates_of_the_choice():
    """docs/real_flow.md compares a choice and a mean of one list, which the preset has twice."""
    known = YAML(typ="safe").load(read("conf/megc2019_views.yaml"))["experiments"]
    choice, mean = known["megc2019-au-nested"], known["megc2019-au-mean"]
    assert {**mean, "selection": "nested", "audit": True} == choice
    assert len(choice["candidates"]) == 12
    more = known["megc2019-au-mean-sixteen"]["candidates"]
    assert {name: one for name, one in more.items() if "squashed" not in name} == choice["candidates"]
    assert len(more) == 16


def test_what_is_learned_on_one_side_and_tested_on_the_other_is_what_was_measured():
    result = json.loads(read("benchmarks/results/cross_check.json"))
    row = r"^\| \d+ (\w+) clips \| (\d+) (\w+) clips \| (\w+) \| (.+) \|$"
    rows = re.findall(row, read("docs/recognise.md"), re.MULTILINE)
    assert len(rows) == 4
    for train, clips, test, model, numbers in rows:
        entry = result[f"{train} to {test}"]
        scores = [entry[model][what] for what in ("across", "within")]
        said = [f"{one['uf1']:.3f} [{one['uf1_ci95'][0]:.3f}, {one['uf1_ci95'][1]:.3f}]" for one in scores]
        assert int(clips) == entry["clips"]
        assert numbers.split(" | ") == [*said, f"{entry['largest']:.3f}"]


def test_what_is_said_of_spotting_is_what_was_measured():
    result = json.loads(read("benchmarks/results/spotting.json"))
    recordings, apex, page = result["recordings"], result["apex"], read("docs/recognise.md")
    ours, peer = recordings["ours"], recordings["smaller"]
    assert f"| of {recordings['quick']} quick movements |" in page
    overlaps = f"{ours['overlap_median']:.3f}, {ours['overlap_least']:.3f}"
    assert f"| what is taken back | {ours['found']} | {ours['wrong']} | {overlaps} |" in page
    assert f"by itself | {peer['found']} | {peer['wrong']} | - |" in page
    motion = read("docs/motion.md")
    for head in ("removed", "kept"):
        assert f" {apex[head]['frames_off_mean']:.2f} " in motion


def test_what_is_said_of_scaling_is_what_was_measured():
    page = read("docs/scaling.md")
    assert scaling.table(json.loads(read("benchmarks/results/scaling.json"))) in page
    assert scaling.limits_table(json.loads(read("benchmarks/results/scaling_limits.json"))) in page


def test_the_table_of_disturbances_is_what_was_run():
    result = json.loads(read("benchmarks/results/torture.json"))
    assert torture.table(result["trials"]) in read("docs/reliability.md")
    assert sum(trial["what"].startswith("SIG") for trial in result["trials"]) >= 50
