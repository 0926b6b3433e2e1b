"""Faces: 68 landmarks, and the crop that is fixed by them over a whole clip."""

from mer.faces.alignment import CROPS, align_clip, crop_transform
from mer.faces.landmarks import detect_landmarks

__all__ = ["CROPS", "align_clip", "crop_transform", "detect_landmarks"]
