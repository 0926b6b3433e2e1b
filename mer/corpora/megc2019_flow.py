"""The first flow release of the MEGC2019 composite: 442 real clips of 68 subjects as 28x28 (u, v, strain) images.

By the authors of STSTNet (Liong et al. 2019); a copy lies in github.com/wangzhifengharrison/HTNet. TV-L1 from onset to
apex; read as RGB, the channels are u, v and strain, each stretched to 0..255 by itself (mer.corpora.flow_release).
"""

from mer.corpora.flow_release import LABELS, LABELS_FROM, NAMES, Release

__all__ = ["LABELS"]

REPOSITORY, REVISION, _ = LABELS_FROM
RELEASE = Release("megc2019_flow", f"HTNet {REVISION[:8]}", REPOSITORY, REVISION, {"flow": ""})
RELEASED = RELEASE.kinds
CLASSES = {3: {name: {name} for name in NAMES}}
how, image_folder, read_labels, read_image = RELEASE.how, RELEASE.image_folder, RELEASE.read_labels, RELEASE.read_map
