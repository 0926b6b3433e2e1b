"""Files of network weights: what they hold, where they come from, and whether they fit a network.

Ours are safetensors, float32 (float16 where they are bundled), with a note: where the weights come from, which subjects
they have seen, and the SHA-256 of tensors and note, which is compared whenever the file is read. Files of others may be
torch's, whose own sums are compared, or those of a model of transformers.
"""

import contextlib
import hashlib
import io
import json
import shlex
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mer.errors import MerError, listed, one_line, short
from mer.storage.files import REPAIR, replace_file, unreadable

KINDS = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
     torch.uint8, torch.bool}
)  # fmt: skip


def save_weights(
    network: nn.Module, path: str | Path, about: dict[str, str | list[str]] | None = None, *, half: bool = False
) -> None:
    """Write a network's weights as safetensors, with its own names, float32 (counters as they are), on the CPU.

    Equal weights and `about` give equal bytes. An interrupted run leaves the file that was there before, or none.

    Args:
        path: ends in `.safetensors`.
        about: the note, see mer.pretraining; `weights_about` gives it back.
        half: float16 instead: half the bytes, three digits.

    Raises:
        MerError: the path has another suffix.
    """
    import safetensors.torch

    if Path(path).suffix != ".safetensors":
        raise MerError(f"{path}: weights are written as safetensors; let the name end in .safetensors")
    state = {}
    for name, value in network.state_dict().items():
        value = value.detach().cpu()
        kind = (torch.float16 if half else torch.float32) if value.is_floating_point() else value.dtype
        state[name] = value.to(kind).contiguous()
    note = {**(about or {}), SUM: _sum_of(state, about or {})}
    # One entry: safetensors writes several in an order that changes from run to run.
    replace_file(path, safetensors.torch.save(state, {"about": json.dumps(note, sort_keys=True)}))


MOST_WORDS = 500  # characters of a note that go into stamps and reports
SUM = "sha256_of_content"  # in the note, which `weights_about` gives back without it


def _sum_of(state: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(state):
        digest.update(f"{name} {state[name].dtype} {list(state[name].shape)}".encode())
        digest.update(state[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_about(path: str | Path) -> dict[str, str | list[str]]:
    """The note that `save_weights` put into the file; {} for a torch file, and where there is none.

    Raises MerError where there is no such file, or it ends in `.safetensors` and is none, or is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise MerError(f"{path}: no such file of weights; run dvc repro")
    if path.suffix != ".safetensors":
        return {}
    return _read_safetensors(path)[1]


def provenance(path: str | Path) -> str:
    """Where the weights of a file come from, in a few words: for the stamps of what is made with them."""
    # An alien note may hold anything.
    return one_line(str(weights_about(path).get("weights", "of unknown origin"))[:MOST_WORDS])


def subjects_seen(path: str | Path) -> set[str]:
    """The subjects `<corpus>/<subject>` whose frames the training of these weights saw; empty where the note has none.

    Raises MerError as `weights_about` does, and for a note whose `subjects` is no list of names.
    """
    found = weights_about(path).get("subjects", [])
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise MerError(f"{path}: its note says of subjects {short(found)}, which is no list of names; run dvc repro")
    return set(found)


def stamp(subjects: set[str]) -> dict[str, list[str]]:
    """What a product made with weights says of the subjects that they have seen; nothing where they have seen none."""
    return {"subjects_seen": sorted(subjects)} if subjects else {}


def digest_of(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises MerError where there is none."""
    if not Path(path).is_file():
        raise MerError(f"{path}: no such file of weights; run dvc repro")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(
    path: str | Path,
    expected: Mapping[str, Tensor],
    network: str,
    source: str,
    *,
    renamed: Callable[[dict], dict] = dict,
    more: bool = False,
) -> dict[str, Tensor]:
    """The tensors of a file under the names of `expected`, on the CPU.

    Args:
        path: a file of `save_weights`, known by `.safetensors`, or a torch file. A checkpoint that holds the weights
            beside other things, and names that start with `module.` (nn.DataParallel), are understood.
        expected: tensors with the shapes that are needed, by name.
        network, source: for messages: what the weights are for, and where right ones come from.
        renamed: takes a state to the names of `expected`, for weights that are known under several.
        more: tensors that are not expected are left out, such as a classifier; otherwise they are refused.

    Raises:
        MerError: no such file, not a file of weights, or other tensors than expected: which miss, which are too many,
            which differ in shape, which are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise MerError(f"{path}: no such file of {network} weights; {source}: put them there")
    content: Any  # a torch file may hold anything
    if path.suffix == ".safetensors":
        content, _ = _read_safetensors(path, source)
    else:
        try:
            content = load_torch(path)
        except (MerError, MemoryError):
            raise
        except Exception as error:  # a file of another kind makes the reader fail in any way
            reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
            raise MerError(f"{path}: is not a torch file of weights ({reason}); {source}") from None
    if not isinstance(content, dict):
        raise MerError(f"{path}: holds {type(content).__name__}, not the named tensors of {network}; {source}")
    inner = [content, *(value for value in content.values() if isinstance(value, dict))]
    states = [renamed({str(name).removeprefix("module."): value for name, value in s.items()}) for s in inner]
    state = max(states, key=lambda state: len(state.keys() & expected.keys()))
    return _matched(state, expected, str(path), network, source, more)


def read_official(
    kind: str,
    source: str,
    revision: str,
    expected: Mapping[str, Tensor] | Callable[[Any], Mapping[str, Tensor]],
    network: str,
    *,
    renamed: Callable[[dict], dict],
) -> dict[str, Tensor]:
    """The tensors of a model of transformers under the names of `expected`, on the CPU; what else it has is left out.

    Args:
        kind: the class of transformers, such as "ResNetModel".
        source: a name on the Hugging Face hub, taken from transformers' cache where it is there; or a folder.
        revision: commit, tag or branch on the hub; without meaning for a folder.
        expected, network, renamed: as for `read_weights`; expected may be a function of the model's configuration.

    Raises:
        MerError: transformers can get the weights from nowhere, or they are not the network's.
    """
    import transformers

    remedy = "fetch them once where there is a net, name a folder that holds them, or bring a file of your own"
    try:
        with _silent(transformers.utils.logging):
            # A tensor of another shape is reported below, in our words, like one that misses.
            model, report = getattr(transformers, kind).from_pretrained(
                source, revision=revision, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except Exception as error:  # no net, no such name, a damaged file: each fails in a way of its own
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise MerError(f"{source}: the official weights of {network} cannot be had ({reason}); {remedy}") from None
    drawn = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}  # not read, but random
    expected = expected(model.config) if callable(expected) else expected
    state = renamed({name: value for name, value in model.state_dict().items() if name not in drawn})
    return _matched(state, expected, source, network, remedy, more=True)


@contextlib.contextmanager
def _silent(logging: Any) -> Iterator[None]:
    """Inside, transformers shows neither its bars nor its tables of what it read; errors are raised all the same."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _matched(state: dict, expected: Mapping[str, Tensor], path: str, network: str, source: str, more: bool) -> dict:
    faults = _faults(state, expected, more)
    if faults:
        raise MerError(
            f"{path}: not the weights of {network} ({len(expected)} tensors): {', and '.join(faults)}; {source}"
        )
    return {name: state[name] for name in expected}


def _faults(state: dict, expected: Mapping[str, Tensor], more: bool) -> list[str]:
    missing = [name for name in expected if name not in state]
    surplus = [name for name in state if name not in expected and not more]
    differing, broken = [], []
    for name in expected.keys() & state.keys():
        found, needed = state[name], expected[name]
        if not isinstance(found, Tensor):
            differing.append(f"{name} is {type(found).__name__}, needed is a tensor")
        elif found.layout != torch.strided or found.is_nested or found.device.type != "cpu" or found.dtype not in KINDS:
            # Sparse, nested, quantized, without content: torch cannot say of all of these whether they are finite.
            differing.append(
                f"{name} is a tensor of {found.dtype}, {found.layout} on {found.device}, needed is a plain one"
            )
        elif found.shape != needed.shape:
            differing.append(f"{name} is {tuple(found.shape)}, needed is {tuple(needed.shape)}")
        elif not torch.isfinite(found).all():
            broken.append(name)
    return [
        f"{len(names)} {what}: {listed(sorted(names))}"
        for names, what in (
            (missing, "missing"),
            (surplus, "too many"),
            (differing, "of another shape"),
            (broken, "with values that are not finite"),
        )
        if names
    ]


def _read_safetensors(path: Path, source: str = "") -> tuple[dict[str, Tensor], dict[str, str | list[str]]]:
    """Tensors and note; source: for messages, where right weights come from. Raises MerError for a damaged file."""
    import safetensors

    remedy = f"make it again: run {REPAIR} {shlex.quote(str(path))}, then dvc repro, if the pipeline made it"
    remedy += f"; {source}" if source else ""
    _check_readable(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            state, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(path, error) from None
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise MerError(f"{path}: is not a safetensors file of weights ({reason}); {remedy}") from None
    try:
        about = json.loads(metadata.get("about", "{}"))
    except (ValueError, RecursionError):  # an entry of another writer
        about = metadata["about"]
    about = about if isinstance(about, dict) else {"about": str(about)}
    # Ours wherever the name of the sum stands in the metadata: a changed letter may have spoilt the rest of the note.
    if any(SUM in text for text in metadata.values()) and about.pop(SUM, None) != _sum_of(state, about):
        raise MerError(f"{path}: is damaged: its tensors or its note are not those that were written; {remedy}")
    return state, about


def _check_readable(path: Path) -> None:
    """Raise MerError where the system does not hand out the file: nothing is wrong with its content then."""
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise unreadable(path, error) from None


def load_torch(path: str | Path) -> Any:
    """What a torch file holds, on the CPU.

    Raises:
        FileError: the system does not hand out the file.
        MerError: its own sums do not fit; torch does not compare them, and files of the old form have none.
        MemoryError: it does not fit into memory.
        Exception: whatever torch raises for a file of another kind.
    """
    try:
        with open(path, "rb") as file:
            content = io.BytesIO(file.read())  # what fails from here on is the content's fault
    except OSError as error:
        raise unreadable(path, error) from None
    if zipfile.is_zipfile(content):
        with zipfile.ZipFile(content) as parts:
            unpacked = sum(part.file_size for part in parts.infolist())
            # torch packs nothing, so parts of this one are packed or lie in each other.
            if unpacked > content.getbuffer().nbytes:
                raise MerError(f"{path}: unpacks to {unpacked} bytes, more than it has; save it anew with torch.save")
            try:
                broken = parts.testzip()
            except zipfile.BadZipFile as error:
                broken = str(error)
        if broken is not None:
            raise MerError(f"{path}: is damaged ({broken} has another sum than was written); copy or fetch it again")
    content.seek(0)
    try:
        return torch.load(content, map_location="cpu", weights_only=True)
    except RuntimeError as error:
        if "can't allocate memory" in str(error):  # torch's own word for it
            raise MemoryError(f"{path}: {error}") from None
        raise
