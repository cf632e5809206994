"""Compare designs of a trial: one network, one network that may continue another, or a whole sweep.

Every design spends the same budget of training steps on CamVid at 96 x 128, with the networks and
schedules of benchmarks/search_cost.py (dual_branch resnet18 w0.25; dense 210 steps, sparse 60, each
fine-tuning 90). It is judged by the hypervolume of (mIoU, MACs, parameters) that it has reached:
  careful      one trial per network, each pruned from its sparse network; all trainings are shared
  paper        the same, in the space of search_cost itself (only DKD, beta up to 10)
  continuing   one trial per network; it continues from the best finished network of the nearest
               lower ratio and the same scope, if there is one
  hybrid       a default sweep first (0.2, 0.3 ... 0.7, local, labels only), then continuing
  any scope    as hybrid, but the network that it continues from may have another scope
  polishing    as hybrid, but a network may also continue from the best of its own ratio
  sweep        one trial is a whole sweep and is scored by its hypervolume; a median pruner may
               stop it after any network; the first trial is the default sweep
  single       only the default sweep
  two chains   only the default sweeps of both scopes, network by network in turn
  coarse first the same, after sweeps of both scopes along every second ratio
TPE samples the settings in all that search, with the same number of random trials. The teacher's
steps are not counted. Equal trainings (same seed, same settings) are run once and charged to every
design that asks for them.

Example (20 minutes per seed on one core):
  export SEGFRONT_CAMVID=...
  python benchmarks/trial_designs.py --seeds 0 1 2 --output trial_designs.json
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import torch
from command import describe_measurement, run_command
from optuna.samplers import TPESampler
from rich.console import Console
from torch import Tensor

from models import SegmentationNetwork
from models.checkpoint import load_checkpoint, save_checkpoint
from models.cost import count_cost
from models.hardware import describe_hardware
from models.pruning import prune
from search.pipelines.front import hypervolume_fraction
from trainables.context import StageContext
from trainables.data import AugmentationConfig, TrainingStream
from trainables.data.logit_map import enlarge
from trainables.data_source import DataConfig
from trainables.learning.evaluation import evaluate
from trainables.learning.optimization import OptimizerConfig
from trainables.learning.teacher_cache import TeacherLogitsConfig, cache_teacher
from trainables.learning.training import Batch, TrainConfig, train
from trainables.losses import cross_entropy, decoupled_kd_loss, kd_loss
from trainables.network_config import NetworkConfig
from trainables.stages.sparse import add_l1_subgradient

RATIOS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
OBJECTIVES = ("miou", "macs", "num_params")
OPTIMIZER = OptimizerConfig(
    name="adamw", lr=4e-3, weight_decay=0.01, schedule="one_cycle", warmup_fraction=0.1
)
DENSE = TrainConfig(num_steps=210, batch_size=4, optimizer=OPTIMIZER)
SPARSE = replace(DENSE, num_steps=60, optimizer=replace(OPTIMIZER, lr=1e-3))
TUNED = replace(DENSE, num_steps=90)
TEACHER = NetworkConfig(name="dual_branch", backbone="tu-resnet18", width=0.5)
STUDENT = NetworkConfig(name="dual_branch", backbone="tu-resnet18", width=0.25)
DESIGNS = (
    "single", "two chains", "coarse first", "sweep", "continuing", "hybrid", "any scope",
    "polishing", "careful", "paper",
)  # fmt: skip
COARSE_RATIOS = RATIOS[1::2]
SCOPES = ("local", "global")
BEGIN_WITH_A_SWEEP = ("single", "hybrid", "any scope", "polishing")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Designs to compare.

    Attributes:
        seeds: Seeds of the trainings and samplers.
        designs: Designs to compare.
        budget: Number of training steps of each design.
        budgets: Numbers of steps after which the hypervolume is reported.
        folder: Folder in which finished trainings are kept, so that an interrupted benchmark
            continues.
        output: JSON file for the results.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    designs: tuple[str, ...] = DESIGNS
    budget: int = 2400
    budgets: tuple[int, ...] = (600, 900, 1200, 1800, 2400, 4000)
    folder: Path = Path("trial_designs")
    output: Path | None = None

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.designs) - set(DESIGNS)):
            raise ValueError(
                f"designs must be among {', '.join(DESIGNS)}; got {', '.join(unknown)}"
            )


class Distillation(NamedTuple):
    """The losses of a fine-tuning; `name` is none, kd or dkd, as in `trainables.distillers`."""

    name: str = "none"
    temperature: float = 4.0
    alpha: float = 1.0
    beta: float = 8.0
    eta: float = 1.0

    def compute_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the loss of a batch."""
        labels = cross_entropy(logits, batch.target)
        if self.name == "none" or batch.teacher_logits is None:
            return labels
        taught = enlarge(batch.teacher_logits, logits.shape[-2:])
        if self.name == "kd":
            distilled = kd_loss(logits, taught, self.temperature, batch.target)
            return self.alpha * distilled + (1 - self.alpha) * labels
        distilled = decoupled_kd_loss(
            logits, taught, batch.target, self.temperature, self.alpha, self.beta
        )
        return distilled + self.eta * labels


class Settings(NamedTuple):
    """The settings of a network, or of every network of a sweep."""

    sparsity_lambda: float = 1e-4
    scope: str = "local"
    lr: float = 3e-3
    distiller: Distillation = Distillation()


class Network(NamedTuple):
    """A trained network.

    Attributes:
        key: Name of its files.
        ratio: Share of the original channels that were removed.
        scope: Scope in which these were chosen.
        depth: Number of trainings since the sparse network.
        metrics: Objectives of the network.
    """

    key: str
    ratio: float
    scope: str
    depth: int
    metrics: dict[str, float]


class Ledger:
    """The steps that a design has spent, and the networks that it has trained.

    Args:
        budget: Number of steps after which the design ends.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.steps = 0
        self.paid: set[str] = set()
        self.networks: list[Network] = []
        self.events: list[tuple[int, dict[str, float]]] = []

    def pay(self, key: str, steps: int) -> None:
        """Charge a training once.

        Raises:
            BudgetSpent: The training does not fit into the budget.
        """
        if key in self.paid:
            return
        if self.steps + steps > self.budget:
            raise BudgetSpent
        self.paid.add(key)
        self.steps += steps

    def add(self, network: Network) -> None:
        """Add a finished network."""
        self.networks.append(network)
        self.events.append((self.steps, network.metrics))


class BudgetSpent(Exception):  # noqa: N818 - the name says what happened
    """The next training does not fit into the budget."""


class Workshop:
    """A workshop that trains each network only once.

    Args:
        seed: Seed of the weights, the order and the augmentation.
        folder: Folder of finished trainings.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        self.folder = folder / f"seed{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.context = StageContext(cache_dir=folder / "cache", num_threads=1)
        self.data = DataConfig(
            name="camvid",
            size=(96, 128),
            augmentation=AugmentationConfig(crop_size=(80, 96), scale_range=(0.9, 1.2)),
        )
        self.images = self.data.open_cached("train", self.context.cache_dir)
        self.validation = self.data.open_cached("val", self.context.cache_dir)
        torch.set_num_threads(1)
        self.teacher_logits = None
        teacher = self._root("teacher", TEACHER)
        self.teacher_logits = cache_teacher(
            self._path(teacher.key),
            self.images,
            self.context,
            TeacherLogitsConfig(),
            precision="auto",
        ).logits
        self.dense = self._root("dense", STUDENT)
        self.reference = {**self.dense.metrics, "miou": 0.0}

    def sparse(self, ledger: Ledger, sparsity_lambda: float) -> Network:
        """Get the sparse network of a lambda."""
        ledger.pay(self.dense.key, DENSE.num_steps)
        key = _hash(self.dense.key, "sparse", sparsity_lambda)
        ledger.pay(key, SPARSE.num_steps)

        def make() -> SegmentationNetwork:
            model = load_checkpoint(self._path(self.dense.key))
            self._train(
                model,
                SPARSE,
                1000,
                adjust_gradients=lambda network: add_l1_subgradient(network, sparsity_lambda),
            )
            return model

        return self._obtain(key, 0.0, "none", 0, make)

    def link(self, ledger: Ledger, parent: Network, ratio: float, settings: Settings) -> Network:
        """Prune a network to a ratio of the original channels and fine-tune it."""
        key = _hash(parent.key, ratio, settings.scope, settings.lr, settings.distiller._asdict())
        ledger.pay(key, TUNED.num_steps)

        def make() -> SegmentationNetwork:
            model = load_checkpoint(self._path(parent.key))
            if ratio > parent.ratio:
                further = 1 - (1 - ratio) / (1 - parent.ratio)
                prune(model, torch.zeros(1, 3, 80, 96), further, settings.scope)
            training = replace(TUNED, optimizer=replace(OPTIMIZER, lr=settings.lr))
            self._train(model, training, 2000 + parent.depth, distiller=settings.distiller)
            return model

        network = self._obtain(key, ratio, settings.scope, parent.depth + 1, make)
        ledger.add(network)
        return network

    def _root(self, name: str, config: NetworkConfig) -> Network:
        def make() -> SegmentationNetwork:
            torch.manual_seed(self.seed)
            model = config.build(self.images.num_classes)
            self._train(model, DENSE, 0)
            return model

        return self._obtain(_hash(name), 0.0, "none", 0, make)

    def _obtain(self, key: str, ratio: float, scope: str, depth: int, make: Any) -> Network:
        record = self.folder / f"{key}.json"
        if not record.exists():
            model = make()
            cost = count_cost(model, (3, 96, 128))
            miou = evaluate(model, self.validation, self.context).miou
            save_checkpoint(self._path(key), model)
            found = {"miou": miou, "macs": cost.macs, "num_params": cost.num_params}
            record.write_text(json.dumps(found))
        return Network(key, ratio, scope, depth, json.loads(record.read_text()))

    def _train(
        self,
        model: SegmentationNetwork,
        training: TrainConfig,
        stream_seed: int,
        *,
        distiller: Distillation = Distillation(),  # noqa: B008 - immutable
        **options: Any,
    ) -> None:
        stream = TrainingStream(
            self.images,
            self.data.augmentation,
            seed=self.seed + 10 * stream_seed,
            teacher_logits=None if distiller.name == "none" else self.teacher_logits,
        )
        train(
            model,
            stream,
            training,
            name="trial",
            state_path=self.folder / "no-state",
            context=replace(self.context, checkpoint_seconds=1e9),
            compute_loss=distiller.compute_loss,
            **options,
        )

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def suggest(trial: optuna.Trial, *, as_paper: bool = False) -> Settings:
    """Let the sampler suggest the settings that all designs search."""
    name = "dkd" if as_paper else trial.suggest_categorical("distiller", ["none", "kd", "dkd"])
    weights: dict[str, float] = {}
    if as_paper:
        weights = {
            "temperature": trial.suggest_float("temperature", 1.0, 8.0),
            "alpha": trial.suggest_float("alpha", 0.0, 2.0),
            "beta": trial.suggest_float("beta", 0.0, 10.0),
            "eta": trial.suggest_float("eta", 0.5, 2.0),
        }
    elif name != "none":
        weights = {
            "temperature": trial.suggest_float("temperature", 1.0, 8.0, log=True),
            "alpha": trial.suggest_float("alpha", 0.0, 1.0),
        }
        if name == "dkd":
            weights["beta"] = trial.suggest_float("beta", 0.1, 10.0, log=True)
            weights["eta"] = trial.suggest_float("eta", 0.5, 2.0)
    return Settings(
        sparsity_lambda=trial.suggest_categorical("sparsity_lambda", [1e-5, 1e-4, 1e-3]),
        scope=trial.suggest_categorical("scope", list(SCOPES)),
        lr=trial.suggest_float("lr", 1e-3, 4e-3, log=True),
        distiller=Distillation(name=name, **weights),
    )


def search_networks(
    workshop: Workshop,
    ledger: Ledger,
    seed: int,
    *,
    continues: bool,
    polishes: bool = False,
    any_scope: bool = False,
    as_paper: bool = False,
) -> None:
    """Run one trial for each network until the budget is spent."""
    study = optuna.create_study(
        directions=["maximize", "minimize", "minimize"], sampler=TPESampler(seed=seed)
    )
    first = {"distiller": "none", "sparsity_lambda": 1e-4, "lr": 3e-3}
    study.enqueue_trial({**first, "scope": "local", "pruning_ratio": 0.5})
    study.enqueue_trial({**first, "scope": "global", "pruning_ratio": 0.2})
    while True:
        trial = study.ask()
        settings = suggest(trial, as_paper=as_paper)
        ratio = round(trial.suggest_float("pruning_ratio", RATIOS[0], RATIOS[-1], step=0.1), 2)
        limit = ratio + 0.05 if polishes else ratio
        scope = None if any_scope else settings.scope
        parent = choose_parent(ledger.networks, limit, scope) if continues else None
        parent = parent or workshop.sparse(ledger, settings.sparsity_lambda)
        network = workshop.link(ledger, parent, ratio, settings)
        study.tell(trial, [network.metrics[name] for name in OBJECTIVES])


def choose_parent(networks: Sequence[Network], limit: float, scope: str | None) -> Network | None:
    """Choose the best network of the nearest ratio below a limit, in one scope or in any."""
    below = [n for n in networks if scope in (None, n.scope) and n.ratio < limit - 1e-9]
    return max(below, key=lambda n: (n.ratio, n.metrics["miou"]), default=None)


def walk(
    workshop: Workshop, ledger: Ledger, settings: Settings, ratios: Sequence[float]
) -> Iterator[Network]:
    """Run a sweep, network by network."""
    network = workshop.sparse(ledger, settings.sparsity_lambda)
    for ratio in ratios:
        network = workshop.link(ledger, network, ratio, settings)
        yield network


def walk_in_turn(workshop: Workshop, ledger: Ledger, ratios: Sequence[float]) -> None:
    """Run the default sweep of each scope, network by network in turn."""
    for _ in zip(*(walk(workshop, ledger, Settings(scope=s), ratios) for s in SCOPES), strict=True):
        pass


def search_sweeps(workshop: Workshop, ledger: Ledger, seed: int) -> None:
    """Run one trial for each sweep until the budget is spent."""
    study = optuna.create_study(
        direction="maximize",
        sampler=TPESampler(seed=seed, n_startup_trials=3),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=30),
    )
    study.enqueue_trial({"distiller": "none", "sparsity_lambda": 1e-4, "lr": 3e-3,
                         "scope": "local", "first": 0.2, "step": 0.1})  # fmt: skip
    while True:
        trial = study.ask()
        settings = suggest(trial)
        first = trial.suggest_categorical("first", [0.2, 0.3])
        step = trial.suggest_categorical("step", [0.1, 0.2])
        ratios = [
            r for r in RATIOS if r >= first and round((r - first) * 10) % round(step * 10) == 0
        ]
        metrics: list[dict[str, float]] = []
        value, stopped = 0.0, False
        for network in walk(workshop, ledger, settings, ratios):
            metrics.append(network.metrics)
            value = hypervolume_fraction(metrics, workshop.reference)
            trial.report(value, round(network.ratio * 100))
            if trial.should_prune():
                stopped = True
                break
        if stopped:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, value)


def run_design(design: str, workshop: Workshop, seed: int, budget: int) -> Ledger:
    """Spend the budget on one design."""
    ledger = Ledger(budget)
    try:
        if design in BEGIN_WITH_A_SWEEP:
            list(walk(workshop, ledger, Settings(), RATIOS))
        if design == "coarse first":
            walk_in_turn(workshop, ledger, COARSE_RATIOS)
        if design in ("two chains", "coarse first"):
            walk_in_turn(workshop, ledger, RATIOS)
        elif design == "sweep":
            search_sweeps(workshop, ledger, seed)
        elif design != "single":
            search_networks(
                workshop,
                ledger,
                seed,
                continues=design in ("continuing", "hybrid", "any scope", "polishing"),
                polishes=design == "polishing",
                any_scope=design == "any scope",
                as_paper=design == "paper",
            )
    except BudgetSpent:
        pass
    return ledger


def run(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Run every design with every seed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    curves = []
    head = describe_measurement("trial_designs", arguments, describe_hardware("cpu"))
    for seed in arguments.seeds:
        workshop = Workshop(seed, arguments.folder)
        for design in arguments.designs:
            ledger = run_design(design, workshop, seed, arguments.budget)
            volumes = {
                budget: hypervolume_fraction(
                    [metrics for steps, metrics in ledger.events if steps <= budget],
                    workshop.reference,
                )
                for budget in arguments.budgets
                if budget <= arguments.budget
            }
            curves.append({"design": design, "seed": seed, "hypervolumes": volumes,
                           "events": ledger.events, "reference": workshop.reference,
                           "dense_miou": workshop.dense.metrics["miou"]})  # fmt: skip
            shown = "  ".join(f"{budget}: {volume:.4f}" for budget, volume in volumes.items())
            console.print(f"seed {seed} {design:<12} {shown}  networks {len(ledger.networks)}",
                          highlight=False)  # fmt: skip
            if arguments.output is not None:
                arguments.output.write_text(json.dumps({**head, "curves": curves}))
    return {**head, "curves": curves}


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, see `run_command`."""
    return run_command(Arguments, run, argv, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
