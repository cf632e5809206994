"""The full configuration of a study, and config.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import TypeAdapter, ValidationError

from models.files.atomic_file import write_atomically
from search.objectives import OBJECTIVES, ObjectiveName, complete_chain
from search.proposing.samplers import SAMPLERS, SamplerName
from search.space import SearchSpace
from trainables.chain import build_chain, check_stages
from trainables.pipeline_config import PipelineConfig

CONFIG_FILE = "config.json"


class ConfigError(ValueError):
    """A config.json cannot be used; the message names the field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """A search for the Pareto front.

    Attributes:
        recipe: Name under which results are filed.
        num_pipelines: Pipelines to try, failed ones included.
        sampler: How the next pipeline is chosen.
        objectives: What is optimised, at least two. A stage that measures one of them is appended
            to the pipelines if they have none.
        seed: Of the sampler; the training's is --pipeline.seed.
        max_latency_ms: Slower networks are infeasible: not distilled, avoided by the sampler.
        max_num_params: Larger networks are infeasible, likewise.
        max_macs: Networks of more multiply-accumulates are infeasible, likewise.
        rungs: Shares of the distillation's steps after which a pipeline pauses, ascending within
            0..1; only the best go on (asynchronous successive halving over the front). Empty: all.
        reduction_factor: One of so many that reach a rung goes on, above 1. A front needs many:
            with 3, as for a single objective, a third of the stopped would have been in it.
        continuation: Let pipelines go on from the best finished network that is pruned a little
            less, instead of the unpruned one.
        begin_with_sweeps: With continuation, begin with a chain of networks along all pruning
            ratios, each pruned from the one before it.
        stop_hopeless: Do not distil a network that could not enter the front with the best
            accuracy believable for it (`search.pipelines.accuracy_bound`).
        shared_prefix: While the sampler draws at random, draw settings whose sparse network is
            trained already (`search.proposing.shared_prefix`).
        confirm: Once the search is over, fine-tune every network of the front so many more times
            with other seeds (2 or more), to tell gain from luck: mean, deviation and probability
            of being non-dominated go into the report. 0: not at all.
        cpus_per_trial: CPU cores (and threads) of one stage; default: the machine's cores shared
            out over the pipelines, on a GPU machine over the GPUs.
        gpus_per_trial: GPU of one stage, or a fraction of one that stages share; default: 1 where
            there is one.
        max_concurrent: Most stages at a time; default: as many as fit.
        reuse_workers: Run a stage in the process of one that has ended; otherwise each stage starts
            its own, which takes seconds and gives its memory back.
        store: Folder of artefacts that studies share, made if missing: what one has computed, the
            others find. Or storage, as for --output-dir; it must be that for a run in storage.
            Default: the run's own.
        deploy: At the end, write files ready to deploy for every network of the front, and run them
            over the validation images in their engine.
        test: At the end, evaluate the front on the test split, where the data have one.
        keep: What stays in the run's stages/ once the study is over: all networks, or those of the
            front (with the stages that lead to them, teacher, dense student and retrainings).
        checkpoint_seconds: Most work that a killed process loses.
        stall_seconds: A stage that makes no progress for so long (no step, no image) is stopped and
            tried again, in the end counted as failed; 0 or None: never.
        cache_dir: Folder of the decoded images.
        space: Where pipelines are looked for.
        pipeline: What all pipelines share: data, networks, trainings, latency.
        first_points: Pipelines tried first, each as "stage.setting" -> value; those of a recipe
            outside the space are left out.
        warm_start: Folders of earlier runs whose finished pipelines the sampler knows from the
            start: of the same data, networks, trainings and objectives.
    """

    recipe: Annotated[str, tyro.conf.Suppress] = "custom"
    num_pipelines: int = 12
    sampler: SamplerName = "tpe"
    objectives: tuple[ObjectiveName, ...] = ("miou", "latency_ms", "num_params")
    seed: int = 0
    max_latency_ms: float | None = None
    max_num_params: float | None = None
    max_macs: float | None = None
    rungs: tuple[float, ...] = ()
    reduction_factor: float = 1.5
    continuation: bool = True
    begin_with_sweeps: bool = True
    stop_hopeless: bool = True
    shared_prefix: bool = True
    confirm: int = 0
    cpus_per_trial: int | None = None
    gpus_per_trial: float | None = None
    max_concurrent: int | None = None
    reuse_workers: bool = True
    store: str | None = None
    deploy: bool = True
    test: bool = True
    keep: Literal["all", "front"] = "all"
    checkpoint_seconds: float = 30.0
    stall_seconds: float | None = 1800.0
    cache_dir: Path = Path.home() / ".cache" / "segfront"
    space: SearchSpace = field(default_factory=SearchSpace)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    first_points: Annotated[tuple[Mapping[str, Any], ...], tyro.conf.Suppress] = ()
    warm_start: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.objectives if name not in OBJECTIVES]
        if unknown or len(self.objectives) < 2 or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(
                f"objectives must be at least two different ones of {', '.join(OBJECTIVES)}; "
                f"got {', '.join(self.objectives) or 'none'}"
            )
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}; got {self.sampler!r}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        for name in ("num_pipelines", "cpus_per_trial", "max_concurrent"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("max_latency_ms", "max_num_params", "max_macs", "checkpoint_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be greater than 0, got {value}")
        if self.store is not None and self.keep != "all":
            raise ValueError(
                f"keep must be all with a store that other studies share; got {self.keep!r}"
            )
        if self.confirm < 0 or self.confirm == 1:
            raise ValueError(
                "confirm must be 0 or at least 2, as one retraining says nothing of its spread; "
                f"got {self.confirm}"
            )
        if self.confirm and "miou" not in self.objectives:
            raise ValueError(
                f"confirm must be 0 where miou is no objective, as all others are exact; "
                f"got {self.confirm}"
            )
        if self.stall_seconds:
            most = 2 * self.pipeline.latency.max_seconds  # warm-up and measurement
            if not self.stall_seconds > most:
                raise ValueError(
                    "stall_seconds must be 0 or above twice pipeline.latency.max_seconds "
                    f"({most:g}), got {self.stall_seconds:g}"
                )
        if list(self.rungs) != sorted(set(self.rungs)) or not all(0 < r < 1 for r in self.rungs):
            raise ValueError(f"rungs must ascend within 0..1, both excluded; got {self.rungs}")
        if len(set(self.warm_start)) < len(self.warm_start):
            raise ValueError(f"warm_start must name every run once, got {self.warm_start}")
        if not self.reduction_factor > 1:
            raise ValueError(f"reduction_factor must be above 1, got {self.reduction_factor}")
        gpus = self.gpus_per_trial
        if gpus is not None and not 0 <= gpus <= 1:
            raise ValueError(
                f"gpus_per_trial must lie in 0..1, as a training uses one GPU; got {gpus}"
            )
        chain = complete_chain(self.pipeline.chain, self.objectives)
        check_stages(chain)
        object.__setattr__(self, "pipeline", replace(self.pipeline, chain=chain))
        for point in self.first_points:
            build_chain(self.pipeline.chain, point)


def save_config(config: StudyConfig, path: Path) -> None:
    """Write config.json."""
    write_atomically(path, TypeAdapter(StudyConfig).dump_json(config, indent=1).decode() + "\n")


def load_config(path: Path) -> StudyConfig:
    """Read config.json.

    Raises:
        ConfigError: The file is missing, or a field is unknown or has a wrong value.
    """
    adapter = TypeAdapter(StudyConfig)
    try:
        given = json.loads(path.read_text())
        if isinstance(given, dict) and "sparsity_lambda" in given.get("space", {}):
            raise ConfigError(
                f"{path} was written by an older version of segfront, whose settings were not "
                "grouped by stage; finish or read that run with the version that began it"
            )
        config = adapter.validate_python(given)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except ConfigError:
        raise
    except ValidationError as error:
        raise ConfigError(f"{path}: {_describe(error)}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    unknown = list(_unknown_fields(given, adapter.dump_python(config, mode="json")))
    if unknown:
        raise ConfigError(f"{path}: unknown field {', '.join(unknown)}")
    return config


def _describe(error: ValidationError) -> str:
    lines = []
    for entry in error.errors(include_url=False):
        place = ".".join(str(part) for part in entry["loc"]) or "the whole"
        lines.append(f"{place}: {entry['msg']}, got {entry['input']!r}")
    return "; ".join(lines)


def _unknown_fields(given: Any, known: Any, place: str = "") -> Iterator[str]:
    """Names in `given` that validation dropped."""
    if isinstance(given, dict) and isinstance(known, dict):
        for name, value in given.items():
            if name not in known:
                yield f"{place}{name}"
            else:
                yield from _unknown_fields(value, known[name], f"{place}{name}.")
    elif isinstance(given, list) and isinstance(known, list):
        for index, (value, kept) in enumerate(zip(given, known, strict=True)):
            yield from _unknown_fields(value, kept, f"{place}{index}.")
