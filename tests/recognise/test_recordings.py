"""Candidates in whole recordings, against recordings of which every movement is known."""

import csv

import cv2
import numpy as np
import pytest

from mer.errors import MerError
from mer.recognise import recordings, sources
from mer.recognise.__main__ import main
from mer.recognise.recogniser import Recogniser
from mer.synthetic import clip as make
from mer.synthetic.recording import draw_movements, render_recording
from tests.helpers.refusals import refused
from tests.recognise.test_sources import write_video

RATE = 50.0


def write(path, seed, seconds):
    rng = np.random.default_rng(seed)
    known = draw_movements(rng, seconds)
    pictures = list(render_recording(make.identity(7, seed, 0), known, seconds, RATE, rng))
    return write_video(path, fps=RATE, pictures=pictures), [one for one in known if one.quick]


def read(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def recogniser(flows):
    return flows / "data/recognisers/synthetic-ststnet"


@pytest.mark.slow
def test_candidates_of_a_recording_as_csv(recogniser, tmp_path, capsys):
    video, known = write(tmp_path / "a.avi", 1, 7)
    assert main([str(video), "--with", str(recogniser), "--spot", str(tmp_path / "c.csv")]) == 0
    rows = read(tmp_path / "c.csv")
    assert set(rows[0]) == set(recordings.COLUMNS)
    assert {row["kind"] for row in rows} == {"candidate"}
    assert {row["recording"] for row in rows} == {str(video)}
    hits = [one for one in known if any(one.onset <= float(row["apex_s"]) <= one.offset for row in rows)]
    assert hits
    assert all(float(row["onset_s"]) < float(row["apex_s"]) < float(row["offset_s"]) for row in rows)
    said = capsys.readouterr().out
    assert f"{video}: {len(rows)} candidates" in said
    # A part of it, from the middle of a still moment on: seconds stay those of the recording.
    cut = known[0].offset + 0.3
    assert main([str(video), "--with", str(recogniser), "--spot", str(tmp_path / "d.csv"), "--from", str(cut)]) == 0
    assert all(float(row["onset_s"]) >= cut for row in read(tmp_path / "d.csv"))


@pytest.mark.slow
def test_where_no_face_is_nothing_is_known_and_it_is_said(recogniser, tmp_path, capsys):
    rng = np.random.default_rng(0)
    person = list(render_recording(make.identity(7, 3, 0), [], 3, RATE, rng))
    empty = list(rng.integers(0, 255, (200, *person[0].shape), dtype=np.uint8))
    video = write_video(tmp_path / "a.avi", fps=RATE, pictures=person + empty)
    chain = Recogniser(recogniser).chain
    spotted = recordings.spot(sources.recording(video), chain)
    assert spotted.gaps
    assert all("no face" in why for _, _, why in spotted.gaps)
    alone = write_video(tmp_path / "b.avi", fps=RATE, pictures=empty[:60])
    refused("b.avi: .*no face", recordings.spot, sources.recording(alone), chain)
    assert main([str(alone), str(video), "--with", str(recogniser), "--spot", str(tmp_path / "c.csv")]) == 2
    said = capsys.readouterr().err
    assert "nothing is known from" in said
    assert (tmp_path / "c.csv").read_text().startswith("recording,kind,")


@pytest.mark.parametrize(("rate", "every"), [(18, 1), (60, 1), (61, 2), (100, 2), (200, 4)])
def test_no_more_frames_than_needed_are_looked_at_and_none_of_them_stays(tmp_path, rate, every):
    """Whatever the stages make of a window is gone before the next, and so are the frames that none shares."""
    looked, left = [], []

    class Chain:
        def products(self, source, wanted, scratch):
            looked.append(source.fps)
            left.append(
                (sum(path.is_dir() for path in scratch.parent.iterdir()), len(list(scratch.parent.glob("*.png"))))
            )
            (scratch / "large.h5").touch()
            raise MerError(f"{source.name}: no face")

    pictures = [np.zeros((48, 64, 3), np.uint8)] * (8 * rate)
    video = write_video(tmp_path / "a.avi", fps=rate, pictures=pictures)
    refused("a.avi: no face", recordings.spot, sources.recording(video), Chain())
    assert set(looked) == {rate / every}
    assert len(looked) == 3
    assert all(folders == 1 for folders, _ in left)
    assert max(frames for _, frames in left) <= recordings.WINDOW * rate / every + 1


def test_too_few_frames_a_second(recogniser, tmp_path):
    video = write_video(tmp_path / "a.avi", fps=12)
    chain = Recogniser(recogniser).chain
    refused("12 frames a second are too few to look", recordings.spot, sources.recording(video), chain)


def test_pixels_around_the_eyes_do_not_count():
    points = np.zeros((68, 2))
    for eye, x in ((range(36, 42), 60), (range(42, 48), 160)):
        points[list(eye)] = [(x - 15, 90), (x - 5, 85), (x + 5, 85), (x + 15, 90), (x + 5, 95), (x - 5, 95)]
    seen = recordings.beside_eyes(points, (224, 224))
    for eye in (range(36, 42), range(42, 48)):
        for x, y in points[list(eye)].astype(int):
            assert not seen[y, x]
    assert seen[130, 110]  # the nose
    assert seen[60, 60]  # a brow, 30 px above its eye
    assert 0.9 < seen.mean() < 0.98


@pytest.mark.slow
def test_a_blink_is_no_candidate(recogniser, tmp_path):
    """Lids, drawn as skin over both eyes for a quarter of a second."""
    person = make.identity(7, 2, 0)
    pictures = list(render_recording(person, [], 4, RATE, np.random.default_rng(2)))
    for n in range(100, 112):
        shut = 1 - abs(n - 106) / 6
        for eye in (range(36, 42), range(42, 48)):
            corners = person.landmarks[list(eye)]
            (cx, cy), (rx, ry) = corners.mean(0), np.ptp(corners, axis=0) / 2 + 1
            skin = pictures[0][int(cy - 3 * ry), int(cx)].astype(float)
            lid = np.zeros(pictures[n].shape[:2], np.uint8)
            cv2.ellipse(lid, (int(cx), int(cy)), (int(rx), int(ry * shut) + 1), 0, 0, 360, 1, -1)
            pictures[n] = np.where(lid[..., None] > 0, skin, pictures[n]).astype(np.uint8)
    video = write_video(tmp_path / "a.avi", fps=RATE, pictures=pictures)
    chain = Recogniser(recogniser).chain
    assert recordings.spot(sources.recording(video), chain).candidates == []


@pytest.mark.slow
def test_most_quick_movements_are_found_and_hardly_anything_else(recogniser, tmp_path):
    """Other people and movements than those on which the constants were chosen."""
    found = wrong = total = 0
    overlap = []
    chain = Recogniser(recogniser).chain
    for seed in (11, 12):
        video, known = write(tmp_path / f"{seed}.avi", seed, 24)
        spotted = recordings.spot(sources.recording(video), chain).candidates
        hit = set()
        for onset, apex, offset, _ in spotted:
            mine = [k for k, one in enumerate(known) if one.onset <= apex <= one.offset]
            wrong += not mine
            hit.update(mine)
            for k in mine:
                both = min(offset, known[k].offset) - max(onset, known[k].onset)
                overlap.append(both / (max(offset, known[k].offset) - min(onset, known[k].onset)))
        found, total = found + len(hit), total + len(known)
    assert total > 10
    # Seen on the recordings that the constants were chosen on: 31 of 31 found, nothing else, overlap 0.68 and above;
    # here one of half a pixel on one side of the face is missed.
    assert found >= 0.85 * total
    assert wrong <= 0.15 * total
    assert np.median(overlap) > 0.7
