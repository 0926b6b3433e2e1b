"""What comes and goes within half a second is a candidate; a slow movement, the head's own and a blink are none."""

import numpy as np
import pytest
import skimage.data
from scipy.ndimage import map_coordinates

from mer.motion.candidates import KEPT, LONGEST, REACH, candidates, comes_and_goes, interval, peaks, reach_of
from tests.helpers.refusals import refused

RATE = 48.0
SIZE = 64
Y, X = np.mgrid[:SIZE, :SIZE].astype(float)
PHOTO = skimage.data.camera()[80:176, 180:276].astype(float)


def pulse(t, begin, end, peak):
    """A raised cosine."""
    return peak * (0.5 - 0.5 * np.cos(2 * np.pi * (t - begin) / (end - begin))) if begin < t < end else 0.0


def film(seconds, up=(), drift=0.0, noise=1.0, seed=0):
    """A photograph in which a bump moves up and back at times, while the whole shifts; (T, SIZE, SIZE) uint8."""
    bump = np.exp(-((Y - 40) ** 2 + (X - 24) ** 2) / (2 * 8**2))
    rng, frames = np.random.default_rng(seed), []
    for n in range(round(seconds * RATE)):
        t = n / RATE
        level = sum(pulse(t, *one) for one in up)
        x = X + drift * np.sin(2 * np.pi * 0.4 * t)
        picture = map_coordinates(PHOTO, (Y + 16 + level * bump, x + 16), order=3)
        frames.append((picture + rng.normal(0, noise, picture.shape)).round().clip(0, 255))
    return np.stack(frames).astype(np.uint8)


def found_in(grey):
    strength = comes_and_goes(grey, RATE)
    return candidates(grey, RATE, peaks(strength, RATE), strength)


def test_a_quick_movement_is_found_with_its_interval_while_the_head_drifts():
    (one,) = found_in(film(4, up=[(1.5, 1.9, 1.2)], drift=2.0))
    assert abs(one.apex - 1.7 * RATE) <= 2
    # A raised cosine is at a tenth of its height a fifth of the way in: that far from the apex it is `SETTLED`.
    assert 1.5 * RATE - 1 <= one.onset <= 1.6 * RATE + 1
    assert 1.8 * RATE - 1 <= one.offset <= 1.9 * RATE + 1
    assert one.strength > 0
    assert one.loud > 6


def test_a_slow_movement_is_no_candidate():
    assert found_in(film(5, up=[(1.0, 3.0, 3.0)], drift=1.0)) == []
    assert len(found_in(film(5, up=[(0.5, 2.5, 3.0), (3.4, 3.8, 1.2)], drift=1.0))) == 1


def test_a_drifting_head_alone_is_no_candidate():
    assert found_in(film(4, drift=3.0)) == []


def test_two_movements_half_a_second_apart_are_two():
    found = found_in(film(4, up=[(1.0, 1.4, 1.2), (2.0, 2.4, 1.2)]))
    assert [round(one.apex / RATE, 1) for one in found] == [1.2, 2.2]


def test_a_strength_is_the_root_of_what_is_taken_back():
    """Against the definition, frame by frame: a mean over all pixels, unknown within reach of an end."""
    from mer.motion.head import without_head_motion
    from mer.motion.tvl1 import tvl1

    grey, reach = film(1, up=[(0.3, 0.7, 1.2)]), reach_of(RATE)
    seen = X > 20
    found, of_part = comes_and_goes(grey, RATE), comes_and_goes(grey, RATE, seen)
    assert reach == round(RATE * REACH)
    assert np.isnan(found[:reach]).all()
    assert np.isnan(found[-reach:]).all()
    for t in (12, 24, 36):
        for strength, part in ((found, None), (of_part, seen)):
            before, after = (without_head_motion(tvl1(grey[a], grey[a + reach]), part) for a in (t - reach, t))
            back = -(before[0] * after[0] + before[1] * after[1])[slice(None) if part is None else part]
            assert strength[t] == pytest.approx(np.sqrt(max(0.0, back.mean())), rel=1e-6)


def test_an_interval_stays_within_half_a_second_of_the_apex_and_inside_the_recording():
    grey = film(1, up=[(0.1, 0.3, 1.2)])
    onset, offset = interval(grey, 9, RATE)
    assert 0 <= onset < 9 < offset <= 9 + LONGEST * RATE
    assert interval(grey[:1], 0, RATE) == (0, 0)


def test_peaks_stand_above_the_noise_of_the_recording_and_apart():
    rng = np.random.default_rng(0)
    strength = np.abs(rng.normal(0.05, 0.01, 480))
    strength[[100, 110, 300]] = [0.5, 0.4, 0.3]
    strength[:8] = np.nan
    assert [at for at, _ in peaks(strength, RATE)] == [100, 300]
    (_, loud), _ = peaks(strength, RATE)
    known = strength[8:]
    spread = 1.4826 * np.median(np.abs(known - np.median(known)))
    assert loud == pytest.approx((0.5 - np.median(known)) / spread)
    assert peaks(strength, RATE, loud=loud + 1) == []
    assert peaks(np.full(50, np.nan), RATE) == []
    assert peaks(np.full(50, 0.1), RATE) == []  # nothing varies


def test_what_cannot_be_looked_at():
    assert KEPT > LONGEST
    refused("12 frames a second are too few to look for micro-expressions; needed are 18", reach_of, 12.0)
    refused(r"comes_and_goes: clip is .3, 4, 5, 6.", comes_and_goes, np.zeros((3, 4, 5, 6), np.uint8), RATE)
    refused("seen .5, 5.", comes_and_goes, np.zeros((30, 6, 6), np.uint8), RATE, np.ones((5, 5), bool))
    refused("comes_and_goes: clip", comes_and_goes, np.zeros((30, 6, 6), np.uint8), RATE, np.zeros((6, 6), bool))
