"""One process of a pretraining on several: what `runtime.launcher` starts.

    torchrun --standalone --nproc-per-node 2 -m mer.pretraining.worker data/.partial/pretrain@micronbert/job.json

The job is written by stage pretrain, which takes the network up that the first process leaves beside it.
"""

import ctypes
import json
import shlex
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mer.errors import FileError, MerError
from mer.pretraining import Context, Made, load_network, load_task
from mer.storage.files import replace_file

FAILED = 2  # exit status after a line that says why


def launched(launcher: str, entry: dict[str, Any], context: Context) -> Made:
    """What the task makes, on the processes that `launcher` starts; network and note are read from their file.

    Args:
        launcher: a command to which `-m mer.pretraining.worker <job>` is added, such as `torchrun --nproc-per-node 2`.

    Raises:
        MerError: a launcher that cannot be started, or processes that ended with an error (theirs is on stderr).
    """
    from mer.storage.weights import weights_about

    assert context.checkpoint is not None
    folder = context.checkpoint.parent
    job, made = folder / "job.json", folder / "made.safetensors"
    made.unlink(missing_ok=True)
    told = asdict(replace(context, engine=None, world=None))  # type: ignore[arg-type]
    told |= {name: str(told[name]) for name in ("checkpoint", "pool") if told[name] is not None}
    told["frames"] = [str(path) for path in context.frames]
    replace_file(job, json.dumps({"entry": entry, "context": told, "made": str(made)}).encode())
    try:
        command = shlex.split(launcher)
    except ValueError as error:
        raise MerError(f"runtime.launcher is {launcher!r}, which is no command ({error}); correct it") from None
    if not command:
        raise MerError(f"runtime.launcher is {launcher!r}, which is no command; name one, or leave it empty")
    if command[0] == "torchrun":  # also where the environment's scripts are not on the path
        command = [sys.executable, "-m", "torch.distributed.run", *command[1:]]
    try:
        done = subprocess.run(
            [*command, "-m", "mer.pretraining.worker", str(job)], check=False, preexec_fn=end_with_parent
        )
    except OSError as error:
        raise MerError(f"runtime.launcher: {command[0]} cannot be started ({error.strerror}); correct it") from None
    if done.returncode or not made.is_file():
        raise MerError(
            f"{context.where}: the processes of runtime.launcher ({launcher}) ended with {done.returncode}; their own "
            "message stands above; what they had trained is kept"
        )
    network = load_network(entry["network"]).load_user_weights(made, **entry["knobs"], size=entry["size"])
    about = weights_about(made)
    made.unlink()
    return Made(network, about)


def end_with_parent() -> None:
    """In a new process, on Linux: ask to be ended, as by SIGTERM, when the stage is, even by SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG; torchrun ends its own processes on it


def main() -> None:
    from mer.pretraining.distributed import world
    from mer.storage.weights import save_weights

    try:
        path = Path(sys.argv[1])
        try:
            job = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise FileError(f"{path}: is no job of stage pretrain ({error}); dvc repro pretrain writes one") from None
        told, entry = job["context"], job["entry"]
        told |= {name: Path(told[name]) for name in ("checkpoint", "pool") if told[name] is not None}
        told |= {"frames": tuple(map(Path, told["frames"]))}
        told.pop("engine")
        with world(told["device"]) as here:
            made = load_task(entry["task"]).run(entry, Context(**{**told, "world": here}))
            if here.rank == 0:
                save_weights(made.network, Path(job["made"]), made.about)
    except MerError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
