"""Official weights of a network: fetched through transformers and kept as a file of the project, nothing is trained."""

from pathlib import Path
from typing import Any

from mer.errors import MerError, listed
from mer.pretraining import Context, Made, load_network, networks


def run(entry: dict[str, Any], context: Context) -> Made:
    """The task `fetch`.

    Args:
        entry: network; source: a name on the Hugging Face hub, taken from transformers' cache where it is there, or a
            folder in transformers' format; revision: commit, tag or branch on the hub, without meaning for a folder.

    Raises:
        MerError: the network has no official weights, they cannot be had, or are not the network's.
    """
    module, source, revision = load_network(entry["network"]), entry["source"], entry["revision"]
    if not hasattr(module, "load_official"):
        able = [name for name in networks() if hasattr(load_network(name), "load_official")]
        raise MerError(
            f"{context.where}.network is {entry['network']!r}, for which there are no official weights to fetch; put a "
            f"file into its user_weights, train it, or take {listed(able)}"
        )
    try:
        network = module.load_official(module.build_pretrained(), source, revision)
    except MerError as error:  # whose remedies end with a file of one's own
        folder = entry["user_weights"]
        raise MerError(f"{error} into {folder}" if folder is not None else str(error)) from None
    what = source if Path(source).is_dir() else f"{source}, revision {revision}"
    return Made(network, {"weights": f"official: {what}"})
