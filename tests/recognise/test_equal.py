"""A clip that is recognised gets the probability of the network of its fold: there is no second preprocessing."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mer.clips import clips, read_index
from mer.evaluation.calibration import tempered
from mer.loso import run as loso
from mer.params import load
from mer.plan_file import stages_of
from mer.recognise import bundle, page, sources
from mer.recognise.recogniser import Recogniser
from mer.storage.cache import ClipCache
from stages.train import rows_of
from tests.helpers.refusals import refused
from tests.recognise.conftest import trained

NAMES = ["synthetic-linear", "synthetic-ststnet"]
# float32: the fold predicts its clips in one batch, whose sums have another order.
CLOSE = 1e-5


def fold_recogniser(folder: Path, name: str, subject: str, target: Path) -> Path:
    """The bundle of an experiment with the weights of the fold that has not seen `subject`."""
    params, args = load(folder / "params.yaml"), stages_of(folder / "plan.yaml")["fit"][name]["args"]
    experiment, settings = params.experiments[name], params.train.of(params.experiments[name])
    with contextlib.chdir(folder):
        caches = [ClipCache(path) for path in args["reads"]]
        table, _, _ = rows_of(args["index"], args["labels"], args["classes"], caches)
        model = loso.fitted(
            caches, table, model=experiment.model, classes=args["classes"], knobs=params.knobs_of(experiment),
            recipe=experiment.recipe, seed=settings.seed, weights=args.get("weights"), without=subject,
        )  # fmt: skip
    source = folder / "data/recognisers" / name
    card = bundle.read_card(source).model_dump(by_alias=True)
    weights = {path.stem: path for path in (source / "weights").glob("*")}
    bundle.write(target, {k: v for k, v in card.items() if k != "files"}, model, weights)
    return target


def check_equal(folder: Path, name: str, target: Path, count: int) -> None:
    predictions = pd.read_csv(folder / "data/predictions" / name / "predictions.csv").set_index("id")
    rows = clips(read_index(folder / "data/index/synthetic.csv"))
    rows = [row for row in rows if row.id in predictions.index and row.apex_source == "annotated"]
    subject = f"{rows[0].corpus}/{rows[0].subject}"
    one = Recogniser(fold_recogniser(folder, name, subject, target))
    mine = [row for row in rows if f"{row.corpus}/{row.subject}" == subject][:count]
    assert len(mine) == count
    columns = [f"p{c}" for c in range(len(one.card.classes))]
    for row in mine:
        paths = tuple(folder / row.frame.format(number) for number in row.numbers)
        answer = one.recognise(sources.Source(row.id, paths, row.fps, row.apex - row.onset))
        expected = predictions.loc[row.id, columns].to_numpy(float)
        np.testing.assert_allclose(answer.raw, expected, atol=CLOSE)
        np.testing.assert_allclose(answer.probability, tempered(expected[None], one.card.temperature)[0], atol=1e-4)
        assert answer.apex == row.apex - row.onset
        assert answer.n_frames == len(row.numbers)
    # Another fold's network says something else, so the equality is none of all networks.
    others = sorted(set(one.card.subjects) - {subject})
    other = Recogniser(fold_recogniser(folder, name, others[0], target.with_name("other")))
    different = other.recognise(sources.Source(row.id, paths, row.fps, row.apex - row.onset))
    assert np.abs(different.raw - expected).max() > 100 * CLOSE


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_gets_the_probability_of_its_fold(flows, name, tmp_path):
    check_equal(flows, name, tmp_path / "fold", 3)


# ---- the other networks: each with all that its chain needs --------------------------------------------------------

OTHERS = ["synthetic-uamrn", "synthetic-msmmt", "synthetic-dcma", "synthetic-micronbert"]


@pytest.fixture(scope="module")
def networks(root, tmp_path_factory):
    folder = trained(root, tmp_path_factory.mktemp("networks"), OTHERS, OTHERS)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_so_it_is_with_magnified_frames_dynamic_images_faces_and_pairs(networks, name, tmp_path):
    check_equal(networks, name, tmp_path / "fold", 1)


@pytest.mark.slow
def test_two_images_are_no_clip_for_a_filter_and_that_is_said(networks):
    row = next(
        row for row in clips(read_index(networks / "data/index/synthetic.csv")) if row.apex_source == "annotated"
    )
    images = [networks / row.frame.format(number) for number in (row.onset, row.apex)]
    for name in ("synthetic-msmmt", "synthetic-dcma"):
        said = refused(
            "needed are at least", Recogniser(networks / "data/recognisers" / name).recognise, sources.pair(*images)
        )
        assert str(images[0]) in said
        assert "mer-recognise-" not in said
        assert said.endswith("(parameters are the recogniser's: fit it anew with others)")


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_the_page_has_the_map_of_each_network(networks, name, tmp_path):
    rows = clips(read_index(networks / "data/index/synthetic.csv"))
    row = next(row for row in rows if row.apex_source == "annotated")
    one = Recogniser(networks / "data/recognisers" / name)
    paths = tuple(networks / row.frame.format(number) for number in row.numbers)
    answer = one.recognise(sources.Source(row.id, paths, row.fps, row.apex - row.onset), explain=True)
    what, picture = page.own_map(answer)
    assert picture.startswith("data:image/jpeg;base64,")
    assert ("attention" in what) == (answer.explained.get("picture") is None)
    assert page.render([answer], [one.card]).count("data:image/jpeg") == 5
