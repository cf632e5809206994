"""The full configuration of a study, and config.json."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import TypeAdapter, ValidationError

from models.files.atomic_file import write_atomically
from search.duration import parse_duration
from search.objectives import OBJECTIVES, ObjectiveName, complete_chain
from search.proposing.samplers import SAMPLERS, SamplerName
from search.space import SearchSpace
from trainables.chain import build_chain, check_stages
from trainables.pipeline import build_baselines
from trainables.pipeline_config import PipelineConfig
from trainables.stages import STAGES

CONFIG_FILE = "config.json"


class ConfigError(ValueError):
    """Raised when a config.json cannot be used; the message names the field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """A search for the Pareto front.

    Attributes:
        recipe: Name of the recipe; it begins the name of the run's folder.
        num_pipelines: Number of pipelines to try, failed ones included.
        sampler: Sampler that chooses the next pipeline.
        objectives: Metrics to optimise, at least two. If no stage of the pipelines measures one of
            them, the stage that does is appended.
        seed: Seed of the sampler; --pipeline.seed is the seed of the trainings.
        max_latency_ms: Highest latency allowed. Slower networks are infeasible: they are not
            distilled, and the sampler avoids them.
        max_num_params: Largest number of parameters allowed; larger networks are infeasible too.
        max_macs: Largest number of multiply-accumulates allowed; networks above it are infeasible
            too.
        rungs: Shares of the distillation's steps, ascending within 0..1, after which a pipeline
            pauses; only the best continue (asynchronous successive halving over the front). Empty:
            no pipeline pauses.
        reduction_factor: Promote the best 1/reduction_factor of the pipelines at each rung; greater
            than 1. Keep it low for a front: with 3, as is usual for a single objective, a third of
            the stopped pipelines would have been on the front.
        continuation: Start a pipeline from the best finished network that is pruned a little less,
            in place of the unpruned network.
        begin_with_sweeps: With continuation, begin with a chain of networks along all pruning
            ratios, each pruned from the one before it, and in a long study with a coarse chain
            before that.
        stop_hopeless: Skip the distillation of a network that could not enter the front even with
            the best accuracy that can be believed of it (`search.pipelines.accuracy_bound`).
        shared_prefix: While the sampler draws at random, draw settings whose sparse network is
            already trained (`search.proposing.shared_prefix`).
        confirm: Number of times (2 or more; 0: never) that every network of the front is fine-tuned
            again with other seeds once the search is over, to tell gain from luck. Mean, standard
            deviation and the probability of being non-dominated go into the report.
        cpus_per_trial: CPU cores (and threads) of all processes of one stage. Default: the cores
            divided by the number of pipelines that run at a time. On GPU machines this is the
            number of stages that the GPUs hold, otherwise the number with which the study should
            end first: pipelines that continue one another cannot run at a time.
        gpus_per_trial: GPUs of one stage: a fraction of a GPU that stages share, or several, on one
            node or more, that divide each batch of a training. Default: 1 if there is a GPU.
        gpus_per_baseline: GPUs for the training of the teacher or of an uncompressed student.
            Default: all GPUs of a node, divided among the networks that are trained at a time.
        processes_per_trial: Number of processes, on one node or more, that divide each batch of a
            training. For machines without GPUs; otherwise each GPU has its process.
        processes_per_baseline: The same for the teacher and for uncompressed students.
        max_concurrent: Largest number of stages at a time. Default: as many as fit.
        time_limit: Time after which the study ends with an answer: 8h, 90m, 1h30m or seconds. No
            training starts that cannot end in time, and the report says what was left out. A later
            session can continue: --resume RUN_DIR --time-limit 2h.
        price_per_hour: Price of a GPU for an hour, or of a worker on CPUs, in any currency. The
            progress then shows the cost of the study so far.
        estimate: Time a few steps of every kind of stage before the study, and print how long the
            study will take. A time limit needs this.
        reuse_workers: Run the next stage in the process of a finished one. Otherwise each stage
            starts its own process, which takes seconds and returns its memory at the end.
        store: Folder of stages that several studies share; it is created if it is missing. A study
            reuses the stages that another has computed. It can be a URI as for --output-dir, and
            must be one if the run is in storage. Default: each run keeps its own.
        deploy: At the end, write files ready to deploy for every network of the front, and run them
            over the validation images in their engine.
        test: At the end, evaluate the front on the test split, if the data set has one.
        keep: Networks that stay in the run's stages/ once the study is over: all, or those of the
            front (with the stages that lead to them, teacher, dense student and retrainings).
        checkpoint_seconds: Interval between checkpoints, and so the most work that a killed process
            loses.
        stall_seconds: Time limit for one step or image. A stage that exceeds it is stopped and run
            again, and fails in the end. 0 or None: no limit.
        cache_dir: Folder of the decoded images.
        space: Search space of the pipelines.
        pipeline: Settings that all pipelines share: data, networks, trainings, latency.
        first_points: Pipelines to try first, each as "stage.setting" -> value. Those of a recipe
            that lie outside the space are left out; if all do, the first is moved into it.
            Settings of stages that the pipelines do not have are dropped.
        warm_start: Folders of earlier runs whose finished pipelines the sampler knows from the
            start. They must have the same data, networks and trainings, and have measured every
            objective.
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
    gpus_per_baseline: int | None = None
    processes_per_trial: int = 1
    processes_per_baseline: int = 1
    max_concurrent: int | None = None
    time_limit: str | None = None
    price_per_hour: float | None = None
    estimate: bool = True
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
        for name in (
            "num_pipelines", "cpus_per_trial", "max_concurrent", "gpus_per_baseline",
            "processes_per_trial", "processes_per_baseline",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("max_latency_ms", "max_num_params", "max_macs", "checkpoint_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be greater than 0, got {value}")
        if self.price_per_hour is not None and not 0 <= self.price_per_hour < math.inf:
            raise ValueError(f"price_per_hour must be at least 0, got {self.price_per_hour}")
        if self.time_limit is not None:
            try:
                parse_duration(self.time_limit)
            except ValueError as error:
                raise ValueError(f"time_limit: {error}") from None
            if not self.estimate:
                raise ValueError("time_limit needs an estimate; leave --no-estimate out")
        if self.store is not None and self.keep != "all":
            raise ValueError(
                f"keep must be all when studies share a store (--store); got {self.keep!r}"
            )
        if self.confirm < 0 or self.confirm == 1:
            raise ValueError(
                "confirm must be 0 or at least 2, because one retraining has no spread; "
                f"got {self.confirm}"
            )
        if self.confirm and "miou" not in self.objectives:
            raise ValueError(
                "confirm must be 0 unless miou is an objective, because the other objectives do "
                f"not depend on the seed; got {self.confirm}"
            )
        if self.stall_seconds:
            most = 2 * self.pipeline.latency.max_seconds  # warm-up and measurement
            if not self.stall_seconds > most:
                raise ValueError(
                    "stall_seconds must be 0 or more than twice pipeline.latency.max_seconds "
                    f"({most:g}), got {self.stall_seconds:g}"
                )
        if list(self.rungs) != sorted(set(self.rungs)) or not all(0 < r < 1 for r in self.rungs):
            raise ValueError(f"rungs must ascend within 0..1, both excluded; got {self.rungs}")
        if len(set(self.warm_start)) < len(self.warm_start):
            raise ValueError(f"warm_start must not name a run twice, got {self.warm_start}")
        if not self.reduction_factor > 1:
            raise ValueError(
                f"reduction_factor must be greater than 1, got {self.reduction_factor}"
            )
        gpus = self.gpus_per_trial
        if gpus is not None and not (0 <= gpus <= 1 or (gpus > 1 and float(gpus).is_integer())):
            raise ValueError(
                f"gpus_per_trial must be in 0..1 (a share of one) or a whole number; got {gpus}"
            )
        check_stages(self.pipeline.chain)
        self._check_batches()
        self._check_students()
        self._complete_chain()

    def _check_students(self) -> None:
        """Refuse a choice of a student that the study does not have."""
        setting = f"{self.pipeline.chain[0]}.student"
        for name in self.space.get_choices(setting):
            try:
                self.pipeline.get_student(name)
            except ValueError as error:
                raise ValueError(f"space.{setting}: {error}") from None

    def _complete_chain(self) -> None:
        """Append the stages that the study needs, and fit the first points to the chain."""
        # The answer needs the accuracy of each network, even where it is no objective.
        measured = dict.fromkeys((*self.objectives, *self.limits, "miou"))
        chain = complete_chain(self.pipeline.chain, measured)
        check_stages(chain)
        if self.confirm and not _trains_after_root(chain):
            raise ValueError(
                "confirm must be 0 unless a stage after the first trains, because only a training "
                f"depends on the seed; got {self.confirm} with {', '.join(chain)}"
            )
        points = tuple(_drop_absent(point, chain) for point in self.first_points)
        for point in points:
            build_chain(chain, point)
        object.__setattr__(self, "pipeline", replace(self.pipeline, chain=chain))
        object.__setattr__(self, "first_points", points)

    def _check_batches(self) -> None:
        """Refuse more processes than a batch has images to divide among them."""
        chains = build_baselines(self.pipeline).values()
        roots = list_schedules(chain[0].stage for chain in chains)
        pipelines = list_schedules(self.pipeline.chain[1:])
        for name, trainings in (
            ("gpus_per_trial", pipelines),
            ("processes_per_trial", pipelines),
            ("gpus_per_baseline", roots),
            ("processes_per_baseline", roots),
        ):
            for training in trainings:
                most = getattr(self.pipeline, training).batch_size
                value = getattr(self, name)
                if value is not None and value > most:
                    raise ValueError(
                        f"{name} must be at most {most}, the images of a batch "
                        f"(pipeline.{training}.batch_size), which it divides; got {value:g}"
                    )

    @property
    def limit_seconds(self) -> float | None:
        """The time limit in seconds; None: there is none."""
        return None if self.time_limit is None else parse_duration(self.time_limit)

    @property
    def can_confirm(self) -> bool:
        """Whether the networks of the front can be fine-tuned again with other seeds."""
        return "miou" in self.objectives and _trains_after_root(self.pipeline.chain)

    @property
    def limits(self) -> dict[str, float]:
        """The limits of a network, by metric."""
        limits = {
            "latency_ms": self.max_latency_ms,
            "num_params": self.max_num_params,
            "macs": self.max_macs,
        }
        return {name: limit for name, limit in limits.items() if limit is not None}


def _trains_after_root(chain: Sequence[str]) -> bool:
    """Whether a stage after the first trains: only such a training depends on the seed."""
    return any(STAGES[name].trains for name in chain[1:])


def _drop_absent(point: Mapping[str, Any], chain: Sequence[str]) -> dict[str, Any]:
    """Leave out the settings of stages that the chain does not have."""
    absent = STAGES.keys() - set(chain)
    return {name: value for name, value in point.items() if name.partition(".")[0] not in absent}


def list_schedules(stages: Iterable[str]) -> list[str]:
    """List the fields of `PipelineConfig` with the schedules of some stages' trainings."""
    schedules = (STAGES[stage].schedule for stage in stages)
    return [name for name in dict.fromkeys(schedules) if name]


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
                f"{path} was written by an older version of segfront, which did not group its "
                "settings by stage; finish or read that run with the version that started it"
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
    """Yield the names in `given` that the validation dropped."""
    if isinstance(given, dict) and isinstance(known, dict):
        for name, value in given.items():
            if name not in known:
                yield f"{place}{name}"
            else:
                yield from _unknown_fields(value, known[name], f"{place}{name}.")
    elif isinstance(given, list) and isinstance(known, list):
        for index, (value, kept) in enumerate(zip(given, known, strict=True)):
            yield from _unknown_fields(value, kept, f"{place}{index}.")
