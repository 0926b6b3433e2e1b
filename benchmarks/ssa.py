"""Sparse self-attention against full: milliseconds a sequence, and operations as the paper counts them and as they are.

    python -m benchmarks.ssa --save

Prints one JSON line. Attention alone (eq. 6, hashing included), without the matrices before and behind it, at the
paper's size: two heads of 512, 3 planes, 4 tables, random vectors, no gradient. The three forms run in turns on the
same vectors; times are medians over repeats.

    full        all L**2 pairs, no hashing
    masked      all pairs, then a mask: what short sequences are trained with
    bucketed    only pairs within a bucket, as Algorithm 1 has it

Operations, in products of a query and a key, over all heads: `full` and `ssa` are the paper's b n_h L**2 and
b n_h n_t w (L / 2w)**2 with w = 2**n_p buckets (reading note U-12); `formed` is what the bucketed form does, a pair as
often as tables have it, and `union` how many pairs there are. For vectors that no bucket prefers the paper's count is a
fourth of what is formed: a bucket holds L / w queries and as many keys, not half of each.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor

from benchmarks._report import add_options, report
from mer.models.uamrn import attention, bucketed_attention, same_bucket, tags

HEADS, TABLES, WIDTH = 2, 4, 512
FORMS = ("full", "masked", "bucketed")


def run(form: str, q: Tensor, k: Tensor, v: Tensor, planes: Tensor) -> Tensor:
    if form == "full":
        return attention(q, k, v, None, None, "full")[0]
    hashed = tags(q, planes), tags(k, planes)
    return attention(q, k, v, *hashed, "pre_softmax")[0] if form == "masked" else bucketed_attention(q, k, v, *hashed)


def operations(q: Tensor, k: Tensor, planes: Tensor) -> dict[str, int]:
    tag_q, tag_k = tags(q, planes), tags(k, planes)
    batch, heads, tables, length = tag_q.shape
    buckets = 2 ** planes.shape[2]
    formed = (tag_q[..., :, None] == tag_k[..., None, :]).sum()
    return {
        "full": batch * heads * length**2,
        "ssa": round(batch * heads * tables * buckets * (length / (2 * buckets)) ** 2),
        "formed": int(formed),
        "union": int(same_bucket(tag_q, tag_k).sum()),
    }


@torch.no_grad()
def measure(length: int, batch: int, n_p: int, repeats: int) -> dict:
    q, k, v = torch.randn(3, batch, HEADS, length, WIDTH).unbind()
    planes = torch.randn(HEADS, TABLES, n_p, WIDTH)
    outputs = {form: run(form, q, k, v, planes) for form in FORMS}  # nothing is timed the first time
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(repeats):
        for form in FORMS:
            start = time.perf_counter()
            run(form, q, k, v, planes)
            seconds[form].append(time.perf_counter() - start)
    return {
        "ms": {form: round(1e3 * statistics.median(values) / batch, 3) for form, values in seconds.items()},
        "operations": operations(q, k, planes),
        "furthest_bucketed_from_masked": float((outputs["bucketed"] - outputs["masked"]).abs().max()),
    }


def first_win(lengths: dict[str, dict], against: str) -> int | None:
    """The shortest length from which on bucketed is faster at every length measured; None if it is at none."""
    won = None
    for length, found in lengths.items():
        faster = found["ms"]["bucketed"] < found["ms"][against]
        won = (won or int(length)) if faster else None
    return won


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 128, 512, 1024, 2048, 4096])
    parser.add_argument("--batch", type=int, default=1, help="sequences in a batch; times are of one sequence")
    parser.add_argument("--planes", type=int, default=3, help="n_p")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    add_options(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    lengths = {str(n): measure(n, args.batch, args.planes, args.repeats) for n in sorted(args.lengths)}
    result = {
        "heads": HEADS, "width": WIDTH, "tables": TABLES, "planes": args.planes, "threads": args.threads,
        "lengths": lengths,
        "bucketed_wins_from": {form: first_win(lengths, form) for form in ("masked", "full")},
    }  # fmt: skip
    report("ssa", result, ("torch",), args.save)


if __name__ == "__main__":
    main()
