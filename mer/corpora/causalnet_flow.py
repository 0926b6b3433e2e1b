"""The second flow release of the MEGC2019 composite: the same 442 real clips, four 28x28 maps each.

By the author of CausalNet, github.com/tony19980810/CausalNet (MIT), from a crop and TV-L1 of his own: no map equals one
of the first release (megc2019_flow); on average over the clips they correlate by 0.48, 0.30 and 0.17 for u, v and
strain. `flow` is that from onset to apex, `flow_offset` that from apex to offset, each with u, v and strain as red,
green and blue, each stretched to 0..255 by itself (mer.corpora.flow_release); `direction` and `direction_offset` show
their directions as colours.
"""

from mer.corpora.flow_release import LABELS, NAMES, Release

__all__ = ["LABELS"]

RELEASE = Release(
    "causalnet_flow", "CausalNet 7bdf163f", "https://github.com/tony19980810/CausalNet", "7bdf163f",
    {"flow": "", "flow_offset": "_1", "direction": "_2", "direction_offset": "_3"},
)  # fmt: skip
RELEASED = RELEASE.kinds
CLASSES = {3: {name: {name} for name in NAMES}}
how, image_folder, read_labels, read_image = RELEASE.how, RELEASE.image_folder, RELEASE.read_labels, RELEASE.read_map
