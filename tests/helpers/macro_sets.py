"""Files of fictional macro-expression sets."""

import numpy as np

from mer.fictional import layouts
from mer.fictional.macro_sets import pixels_csv
from mer.fictional.macro_sets import put as put
from mer.macro import tables

FACE = " ".join(str(n % 256) for n in range(48 * 48))
FER = [(0, "Training"), (3, "Training"), (6, "Training"), (5, "PublicTest"), (4, "PrivateTest"), (1, "PrivateTest")]
# Row 1 shows no face and has no name; the names of the others count it. The real file counts some such rows only.
PLUS = """Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF
Training,fer0000000.png,1,0,0,1,6,2,0,0,0,0
Training,,0,0,0,0,0,0,0,0,0,10
Training,fer0000002.png,4,0,0,4,1,0,0,0,1,0
PublicTest,fer0000003.png,0,0,7,0,0,0,1,0,2,0
PrivateTest,fer0000004.png,0,1,0,0,0,0,0,2,7,0
PrivateTest,fer0000005.png,1,0,0,0,0,2,0,7,0,0
"""


def flat(value=0, size=(6, 5), grey=False):
    """An image whose first pixel is (value, 10, 20) RGB, or `value` when grey."""
    image = np.full((*size, 3), (value, 10, 20), np.uint8)
    return image[:, :, 0] if grey else image


def draw(path, value=0, size=(6, 5), grey=False):
    layouts.draw(path, flat(value, size, grey))


def images(table):
    return [tables.load_image(row) for row in table.itertuples()]


def csv_text(rows, face=FACE, columns="emotion,pixels,Usage"):
    return pixels_csv(((code, face, usage) for code, usage in rows), columns)
