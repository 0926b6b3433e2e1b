"""Linear Eulerian video magnification written from Wu et al. (SIGGRAPH 2012): the peer of benchmarks.magnification.

float64, frame by frame: YIQ, a Laplacian pyramid, every band with a weight filtered in time and weighed, collapsed.
"""

import cv2
import numpy as np
import scipy.fft
import scipy.signal

YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
RGB = np.linalg.inv(YIQ)


def pyramid(image):
    """The bands from fine to coarse; halved until a side is below five pixels. The residual is not magnified."""
    bands = []
    while min(image.shape[:2]) >= 5:
        smaller = cv2.pyrDown(image)
        bands.append(image - cv2.pyrUp(smaller, dstsize=image.shape[1::-1]))
        image = smaller
    return bands


def collapse(bands, smallest):
    image = np.zeros(smallest)
    for band in reversed(bands):
        image = band + cv2.pyrUp(image, dstsize=band.shape[1::-1])
    return image


def bandpass(x, kind, fps, low, high):
    """(T, H, W, 3) filtered in time; the first frame is the state that the recursive filters start from."""
    if kind == "ideal":
        spectrum, bins = scipy.fft.rfft(x, axis=0), scipy.fft.rfftfreq(len(x), 1 / fps)
        spectrum[(bins < low) | (bins > high)] = 0
        return scipy.fft.irfft(spectrum, len(x), axis=0)
    if kind == "butterworth":
        return scipy.signal.lfilter(*scipy.signal.butter(1, [low, high], "bandpass", fs=fps), x - x[0], axis=0)
    out, fast, slow = np.empty_like(x), x[0], x[0]
    rise, fall = 1 - np.exp(-2 * np.pi * np.array([high, low]) / fps)
    for t, frame in enumerate(x):
        fast, slow = (1 - rise) * fast + rise * frame, (1 - fall) * slow + fall * frame
        out[t] = fast - slow
    return out


def magnify(frames, fps, alpha, low, high, filter, lambda_c, chroma):
    """(T, H, W, 3) uint8 RGB -> the same, magnified; lambda_c > 0."""
    yiq = [cv2.transform(frame.astype(np.float64), YIQ) for frame in frames]
    levels = [np.stack(level) for level in zip(*map(pyramid, yiq), strict=True)]
    for k, level in enumerate(levels):
        weight = 0 if k == 0 else min(alpha, max(0, 5 * 2**k * (1 + alpha) / lambda_c - 1))
        levels[k] = weight * bandpass(level, filter, fps, low, high) if weight else np.zeros_like(level)
    smallest = [(side + 1) // 2 for side in levels[-1].shape[1:3]] + [3]
    out = np.empty_like(frames)
    for t, image in enumerate(yiq):
        change = collapse([level[t] for level in levels], smallest) * [1, chroma, chroma]
        out[t] = np.clip(np.rint(cv2.transform(image + change, RGB)), 0, 255)
    return out
