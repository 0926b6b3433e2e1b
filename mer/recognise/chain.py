"""The products of a clip of one's own, by the stages that make those of a corpus: no second preprocessing.

A plan is derived for a corpus of this one clip, as `make plan` does it; its stages run here, in this process, into a
scratch folder.
"""

import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mer import imports
from mer.clips import Clip, write_excluded, write_index
from mer.errors import MerError
from mer.parallel import Engine
from mer.params import Corpus, Params
from mer.plan import STAGES, Plan, derive_products
from mer.products import Product
from mer.recognise.sources import CORPUS, Source
from mer.storage.cache import ClipCache

PARAMETER = re.compile(rf"\b({'|'.join(STAGES)})\.[a-z_]+")
READER = "casme2"  # any with frames: which it is decides nothing, since its sheet is not read


@dataclass
class Chain:
    """How the clips of a recogniser are processed.

    params: of the experiment; weights: name -> file of the networks that products are made with; device: cpu or cuda.
    """

    params: Params
    weights: Mapping[str, Path]
    device: str = "cpu"
    after_stage: Callable[[str], None] | None = None
    _plans: dict[tuple[Product, ...], tuple[Plan, list[str]]] = field(default_factory=dict)

    def products(self, source: Source, wanted: Sequence[Product], scratch: Path) -> tuple[Clip, list[ClipCache]]:
        """The products of one clip; scratch: an empty folder.

        Raises MerError as the stages do: no face, two faces, fewer frames than a filter needs.
        """
        plan, paths = self._plan(tuple(wanted))
        clip = source.clip(0, scratch / "frames")
        self._index(clip, scratch)
        for stage in STAGES:
            for key, entry in plan.get(stage, {}).items():
                try:
                    self._run(stage, key, entry["args"], scratch)
                except MerError as error:
                    raise MerError(f"{source.name}: {_as_users_know_it(str(error), clip)}") from None
                if self.after_stage is not None:
                    self.after_stage(stage)
        return clip, [ClipCache(scratch / path) for path in paths]

    def _plan(self, wanted: tuple[Product, ...]) -> tuple[Plan, list[str]]:
        if wanted not in self._plans:
            corpus = Corpus.model_validate({"reader": READER, "classes": 3})
            params = self.params.model_copy(update={"corpora": {CORPUS: corpus}, "experiments": {}})
            plan, paths = derive_products(params, CORPUS, wanted)
            self._plans[wanted] = plan, paths
        return self._plans[wanted]

    def _index(self, clip: Clip, scratch: Path) -> None:
        import pandas as pd

        path = scratch / f"data/index/{CORPUS}.csv"
        path.parent.mkdir(parents=True)
        write_index(path, pd.DataFrame([vars(clip)]))
        write_excluded(path.with_suffix(".excluded.csv"), [])

    def _run(self, stage: str, key: str, args: dict[str, Any], scratch: Path) -> None:
        if str(imports.ROOT) not in sys.path:
            sys.path.insert(0, str(imports.ROOT))  # stages/ is no package that is installed
        module, run = importlib.import_module(f"stages.{stage}"), importlib.import_module("stages._run")

        class Here(run.Stage):  # type: ignore[name-defined]
            """A stage whose products lie in the scratch folder, and which nobody resumes."""

            spool = scratch / "spool" / f"{stage}@{key}"
            engine = Engine(workers=1)
            device = self.device

            def code(self) -> str:
                return "recognise"

        Path(scratch / "spool").mkdir(exist_ok=True)
        located = {name: self._located(value, scratch) for name, value in args.items()}
        module.main(Here(stage, key, self.params), **located)

    def _located(self, value: Any, scratch: Path) -> Any:
        if not isinstance(value, str) or not value.startswith("data/"):
            return value
        if not value.startswith("data/weights/"):
            return str(scratch / value)
        name = Path(value).stem
        if name not in self.weights:
            raise MerError(f"this recogniser needs weights {name!r}, which it does not hold; copy its folder whole")
        return str(self.weights[name])


def _as_users_know_it(said: str, clip: Clip) -> str:
    """The line of a stage without scratch folders; a parameter that it names is no option of the user's command."""
    said = said.replace(f"{Path(clip.frame).parent}/", "frame ").replace(".img", "").replace(clip.id, "the clip")
    return f"{said} (parameters are the recogniser's: fit it anew with others)" if PARAMETER.search(said) else said
