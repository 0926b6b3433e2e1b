"""Faces: 68 landmarks, and the crop that is fixed by them over a whole clip."""

from mer.faces.alignment import CROPS, align_clip, crop_corners, crop_size, crop_transform, outside_share, warp
from mer.faces.landmarks import ATTEMPTS, Face, NoFaceError, detect_landmarks, face_box, find_face, find_onset_face

__all__ = [
    "ATTEMPTS",
    "CROPS",
    "Face",
    "NoFaceError",
    "align_clip",
    "crop_corners",
    "crop_size",
    "crop_transform",
    "detect_landmarks",
    "face_box",
    "find_face",
    "find_onset_face",
    "outside_share",
    "warp",
]
