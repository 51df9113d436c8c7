"""What the figure of vectors shows: common words of GloVe, in 8 bits, and a map of them.

python -m tools.live_vectors     choose, round and lay out the words anew, into live/stored

The map is UMAP's. It differs a little from machine to machine, so it is made once and kept.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from course_commands import terminal
from course_utils import pretrained

if TYPE_CHECKING:  # gensim does not exist for every Python
    from gensim.models import KeyedVectors

STORED = Path(__file__).resolve().parents[1] / "live" / "stored" / "vectors.json"
#: The file with the rows of all words, which a reader asks for by a word of their own.
ON_REQUEST = "vectors"
COMMONEST = 3000
START = {"word": "king", "a": "king", "b": "man", "c": "woman"}
CAPTION = (
    "The nearest word to king − man + woman is king; queen comes out because a rule forbids the "
    "three words as answers. GloVe's 50 numbers for each of some 3,300 common words. The map is "
    "drawn by UMAP: words that lie together are often alike, but the bars are the measure."
)
#: What a learner may try and news seldom name: these words are there however rare they are.
EVERYDAY = """
he she we me us it my his her
cat cats dog dogs puppy kitten horse cow sheep pig goat chicken duck lion tiger wolf bear fox
rabbit mouse rat elephant monkey snake frog fish shark whale bird birds eagle owl bee ant spider
butterfly apple apples pear banana bananas orange lemon grape peach plum cherry mango melon fig
strawberry potato tomato onion carrot rice bread butter cheese milk egg eggs meat beef pork soup
salad pizza pasta cake chocolate honey salt pepper tea coffee beer wine juice breakfast lunch dinner
mother father mom dad son daughter brother sister uncle aunt nephew niece cousin grandfather
grandmother husband wife boy girl man woman men women child children baby king queen prince princess
emperor empress duke duchess lord lady hero heroine actor actress waiter waitress god goddess monk
nun groom bride widow gentleman doctor nurse teacher lawyer cook farmer baker soldier painter judge
pilot clerk engineer scientist programmer professor librarian dancer receptionist carpenter captain
mechanic philosopher boss writer poet singer plumber hairdresser student pupil
hand hands foot feet arm arms leg legs head knee shoulder finger neck elbow ankle wrist eye eyes ear
nose mouth tooth teeth hair skin heart brain bone blood
shirt coat hat shoe shoes trousers dress jacket skirt socks gloves scarf boots
joy anger fear sadness love hope grief shame pride envy guilt despair happy sad angry afraid tired
hungry red green blue yellow black white brown pink purple grey
house houses room kitchen door window table chair bed lamp garden tree trees flower flowers rose
leaf grass forest mountain river lake sea ocean beach island desert sun moon star stars sky rain
snow wind storm cloud fire ice winter summer spring autumn
car cars bus train bicycle ship boat plane road bridge book books pen pencil paper letter computer
keyboard phone screen internet software guitar piano violin drum music song painting movie spoon
fork knife cup plate bottle box ball toy doll game chess
mathematics physics chemistry biology history geometry algebra number
austria vienna belgium brussels china beijing cuba havana egypt cairo england london finland
helsinki france paris germany berlin greece athens hungary budapest india delhi iran tehran iraq
baghdad ireland dublin italy rome japan tokyo kenya nairobi norway oslo peru lima poland warsaw
portugal lisbon russia moscow spain madrid sweden stockholm switzerland thailand bangkok turkey
ankara ukraine kiev vietnam hanoi austrian chinese egyptian english french german greek hungarian
indian irish italian japanese norwegian polish portuguese russian spanish swedish thai turkish swiss
dollar euro pound yen peso rupee ruble franc
good better best bad worse worst big bigger biggest small smaller smallest large larger largest fast
faster fastest slow slower slowest strong stronger strongest weak weaker long longer longest short
shorter old older oldest young younger youngest high higher highest low lower lowest cold colder hot
hotter warm warmer cool rich richer poor poorer early late hard harder easy easier
walk walked walking play played go went going see saw seeing take took give gave write wrote writing
speak spoke swim swam swimming run ran running eat ate eating drink drank sing sang singing dance
dancing think thought read reading sleep slept buy bought sell sold come came say said tell told
know knew ugly beautiful clean dirty dark bright light heavy loud quiet wet dry full empty open
closed true false possible impossible certain uncertain unhappy legal illegal known unknown
monday tuesday wednesday thursday friday saturday sunday january february march april may june july
august september october november december one two three four five six seven eight nine ten hundred
thousand million einstein newton darwin mozart beethoven bach shakespeare picasso obama
"""


def choose(glove: KeyedVectors) -> list[str]:
    """Return the commonest plain words of three letters or more and the everyday ones.

    The commonest comes first.
    """
    plain = [word for word in glove.index_to_key if re.fullmatch("[a-z]{3,}", word)]
    return sorted({*plain[:COMMONEST], *EVERYDAY.split()}, key=glove.key_to_index.__getitem__)


def lay_out(vectors: np.ndarray) -> np.ndarray:
    """Return places ``(n, 2)`` between 0 and 1 for vectors ``(n, C)``, alike by cosine."""
    from umap import UMAP  # slow: it brings a compiler, numba

    method = UMAP(n_neighbors=15, min_dist=0.6, metric="cosine", random_state=0, n_jobs=1)
    places = method.fit_transform(vectors)
    return (places - places.min(0)) / np.ptp(places, axis=0)


def packed(array: np.ndarray) -> str:
    """Return the bytes of an array as text."""
    return base64.b64encode(array.tobytes()).decode("ascii")


def record() -> dict[str, str]:
    """Return the words, their places in 16 bits, their rows in 8 bits and the rows' scales."""
    import torch

    from _ext.course_live import rounded_rows  # which imports this module

    glove = pretrained.load_glove()
    words = choose(glove)
    rows, scales = rounded_rows(torch.tensor(glove[words]))
    places = np.rint(lay_out(glove[words]) * 65535).astype(np.uint16)
    arrays = {"map": places, "rows": rows, "scales": scales}
    return {"words": " ".join(words)} | {name: packed(array) for name, array in arrays.items()}


@cache
def recorded() -> tuple[list[str], np.ndarray, np.ndarray, str]:
    """Return the words, their rows ``(n, C)`` and scales ``(n,)``, and their places as text."""
    found = json.loads(STORED.read_text(encoding="utf-8"))
    words = found["words"].split()
    rows = np.frombuffer(base64.b64decode(found["rows"]), np.int8).reshape(len(words), -1)
    return words, rows, np.frombuffer(base64.b64decode(found["scales"]), np.float32), found["map"]


def vectors() -> tuple[list[str], np.ndarray]:
    """Return the words and the vectors ``(n, C)`` that the page makes of their 8 bits."""
    words, rows, scales, _ = recorded()
    return words, rows * scales[:, None].astype(np.float64)


def places() -> np.ndarray:
    """Return where the words lie on the map, ``(n, 2)`` between 0 and 1."""
    return np.frombuffer(base64.b64decode(recorded()[-1]), np.uint16).reshape(-1, 2) / 65535


def nearest(vector: np.ndarray, n: int) -> list[tuple[str, float]]:
    """Return the ``n`` words with the largest cosines to a vector ``(C,)``."""
    words, table = vectors()
    cosines = table @ vector / np.linalg.norm(table, axis=1) / np.linalg.norm(vector)
    return [(words[i], float(cosines[i])) for i in np.argsort(-cosines)[:n]]


def first() -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """Return the words nearest to the first word, and to the first sum, with their cosines."""
    words, table = vectors()
    word, a, b, c = (table[words.index(name)] for name in START.values())
    return nearest(word, 9), nearest(a - b + c, 11)  # 8 others, and 8 beside the three


def script() -> str:
    """Return the script that brings the rows of all words."""
    _, rows, scales, _ = recorded()
    brought = {"rows": packed(rows), "scales": packed(scales)}
    return f'live.arrive("{ON_REQUEST}", {json.dumps(brought)});\n'


def data() -> dict[str, Any]:
    """Return the words with their map, the rows that the first picture needs, and what loads."""
    words, rows, scales, places = recorded()
    named = {word for found in first() for word, _ in found} | set(START.values())
    ids = sorted(words.index(word) for word in named)
    text = script().encode()
    return {
        **{"words": " ".join(words), "map": places, **START},
        "some": {"ids": ids, "rows": packed(rows[ids]), "scales": packed(scales[ids])},
        "more": {
            "name": f"the vectors of {len(words):,} words",
            "file": ON_REQUEST,
            "version": f"?v={hashlib.sha256(text).hexdigest()[:12]}",
            "bytes": len(text),
        },
    }


def still(stored: dict[str, Any]) -> str:
    """Return both lists of the beginning as they stand without JavaScript."""
    near, found = first()
    three = [stored[key] for key in "abc"]
    parts = (
        _bars(f"Nearest to {stored['word']}", near[1:], ()),
        _bars("Nearest to {} − {} + {}".format(*three), found[:8], three),
    )
    return f'<div class="live-columns">{"".join(parts)}</div>'


def _bars(head: str, rows: list[tuple[str, float]], marked: Sequence[str]) -> str:
    bars = "".join(
        f'<li><span class="live-bar{" live-asked" if word in marked else ""}" '
        f'style="--p: {100 * cosine:.1f}%"><span class="live-token">{html.escape(word)}</span>'
        f'<span class="live-track"></span><span class="live-p">{cosine:.3f}</span></span></li>'
        for word, cosine in rows
    )
    return f'<div><p class="live-label">{head}, by cosine</p><ol class="live-top">{bars}</ol></div>'


def main() -> int:
    """Write the stored words anew."""
    STORED.write_text(json.dumps(record(), indent=1) + "\n", encoding="utf-8")
    print(f"{STORED.name}: {STORED.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(terminal.run(main))
