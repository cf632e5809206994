"""Compare ways to prune a network step by step: which channels go, and who teaches what is left.

For each way (a scope, an importance and, after them, a distiller and its teacher) and each seed,
the network is pruned at the first ratio, timed and fine-tuned, then pruned further, and so on.
These are the stages of a pipeline that continues from another one, so the results are those that a
search would get. The table has the mIoU after the pruning, the mIoU after the fine-tuning, and the
latency relative to the unpruned network in the same measurement. The seeds vary the fine-tunings
only.

The stages are kept in the working folder, so the same command continues where an earlier one
stopped.

Example (SEGFRONT_CAMVID and SEGFRONT_WEIGHTS are set):
  python benchmarks/pruning_chains.py --work-dir runs/chains --seeds 0 1 2
  python benchmarks/pruning_chains.py --work-dir runs/chains --ways "global taylor" \
    "global taylor kd same" "global taylor kd previous"
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from command import describe_measurement, run_command
from distillers import LITE0, make_data
from rich.console import Console
from rich.table import Table

from models.deployment.run_folder import CHECKPOINT
from models.hardware import describe_hardware
from search.recipes import CAMVID_OPTIMIZER
from trainables.artifacts.store import ArtifactStore
from trainables.chain import Chain, build_chain, make_chain
from trainables.context import StageContext
from trainables.data_source import DataConfig
from trainables.learning.training import TrainConfig
from trainables.network_config import NetworkConfig
from trainables.pipeline import StageResult, run_stage
from trainables.pipeline_config import LatencyConfig, PipelineConfig
from trainables.process.device_lock import DeviceLock

ROOT = make_chain(("dense",))
LOOP = ("pruned", "latency", "distilled")
WAYS = (
    "local bn_scale", "local group_l2", "local taylor", "global bn_scale", "global taylor",
    "global_macs taylor", "sensitivity taylor",
)  # fmt: skip


def make_latency() -> LatencyConfig:
    """Latency at CamVid's full size."""
    return LatencyConfig(resolution=(360, 480), max_seconds=3.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Network, ways and trainings to compare.

    Attributes:
        work_dir: Folder of the stages; those of an earlier command are reused.
        data: Data set and augmentation.
        network: Network that is pruned, trained first unless its weights are given.
        dense_steps: Number of steps of that training.
        ways: Ways to compare: scope and importance, such as "global taylor". A distiller and its
            teacher may follow: "global taylor kd same" learns from the unpruned network, "global
            taylor kd previous" from the network before each pruning.
        ratios: Pruning ratios along the chain, ascending.
        round_to: Multiple that channel counts are rounded to.
        steps: Number of steps of each fine-tuning.
        temperature: Temperature of the distillers.
        lr: Peak learning rate of each fine-tuning.
        batch_size: Images per step.
        class_weight_power: Exponent of ENet's class weights in each fine-tuning, see `TrainConfig`;
            0 weights all classes equally.
        batchnorm_batches: Number of batches of whole images on which the BatchNorm statistics are
            re-estimated at the end of each fine-tuning, see `TrainConfig`.
        seeds: Seeds of the fine-tunings.
        latency: Measurement of the latency.
        device: Device of the trainings and of the latency: cpu, cuda or cuda:N.
        num_threads: Number of CPU threads of the trainings.
        output: JSON file for the results.
    """

    work_dir: Path
    data: DataConfig = field(default_factory=make_data)
    network: NetworkConfig = LITE0
    dense_steps: int = 1500
    ways: tuple[str, ...] = WAYS
    ratios: tuple[float, ...] = (0.3, 0.5, 0.6, 0.7, 0.8)
    round_to: int = 8
    steps: int = 120
    temperature: float = 1.0
    lr: float = 1e-3
    batch_size: int = 4
    class_weight_power: float = 0.0
    batchnorm_batches: int = 0
    seeds: tuple[int, ...] = (0, 1, 2)
    latency: LatencyConfig = field(default_factory=make_latency)
    device: str = "cpu"
    num_threads: int = 1
    output: Path | None = None

    def __post_init__(self) -> None:
        if list(self.ratios) != sorted(set(self.ratios)):
            raise ValueError(f"ratios must ascend, got {self.ratios}")
        for name in ("ways", "ratios", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} must name at least one")
        for way in self.ways:
            self.make_links(way, self.ratios)
        make_config(self, self.network, seed=0)

    def make_links(self, way: str, ratios: Sequence[float]) -> Chain:
        """Return the stages that follow the unpruned network: one loop for each ratio.

        Raises:
            ValueError: A way or a ratio is not allowed.
        """
        scope, importance, distiller, _ = split_way(way)
        chosen: dict[str, Any] = {
            "pruned.scope": scope,
            "pruned.importance": importance,
            "pruned.round_to": self.round_to,
            "distilled.distiller": distiller,
            "distilled.lr": self.lr,
        }
        if distiller != "none":
            chosen[f"distilled.{distiller}.temperature"] = self.temperature
        links: Chain = ()
        for ratio in ratios:
            links += build_chain(LOOP, {**chosen, "pruned.pruning_ratio": ratio})
        return links


def split_way(way: str) -> tuple[str, str, str, str]:
    """Return scope, importance, distiller and teacher.

    Raises:
        ValueError: There are not two or four words, or the teacher is unknown.
    """
    words = way.split()
    if len(words) == 2:
        words += ["none", "same"]
    if len(words) != 4 or words[3] not in ("same", "previous"):
        raise ValueError(
            "a way must be a scope and an importance, or these with a distiller and its teacher "
            f"(same or previous); got {way!r}"
        )
    return words[0], words[1], words[2], words[3]


class Link(NamedTuple):
    """A network of a chain.

    Attributes:
        way: Scope and importance, and distiller and teacher if there are any.
        seed: Seed of the fine-tunings.
        ratio: Pruning ratio.
        miou_pruned: mIoU before the fine-tuning, in 0..1.
        miou: mIoU after it, in 0..1.
        latency: Latency relative to the unpruned network.
        num_params: Number of parameters.
    """

    way: str
    seed: int
    ratio: float
    miou_pruned: float
    miou: float
    latency: float
    num_params: int


class Bench:
    """The stages of the benchmark, and the unpruned network that they start from."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.store = ArtifactStore(arguments.work_dir / "stages")
        self.context = StageContext(
            cache_dir=arguments.work_dir / "cache",
            device=arguments.device,
            device_lock=DeviceLock(arguments.device),
            num_threads=arguments.num_threads,
        )
        self.network = arguments.network
        if self.network.weights is None:
            found = self.run(make_config(arguments, self.network, seed=0), ROOT)
            weights = self.store.root / found.network / CHECKPOINT
            self.network = replace(self.network, weights=str(weights), backbone_weights=None)

    def run(self, config: PipelineConfig, chain: Chain) -> StageResult:
        """Run the last stage of a chain, or reuse it."""
        return run_stage(config, chain, self.store, self.context)

    def walk(self, way: str, seed: int) -> Iterator[Link]:
        """Prune, time and fine-tune along the ratios."""
        config = make_config(self.arguments, self.network, seed)
        config = replace(config, previous_teaches=split_way(way)[-1] == "previous")
        self.run(config, ROOT)
        for number, ratio in enumerate(self.arguments.ratios, start=1):
            chain = ROOT + self.arguments.make_links(way, self.arguments.ratios[:number])
            found: dict[str, float] = {}
            for length in range(len(chain) - len(LOOP) + 1, len(chain) + 1):
                found.update(self.run(config, chain[:length]).metrics)
            yield Link(
                way=way,
                seed=seed,
                ratio=ratio,
                miou_pruned=found["miou_pruned"],
                miou=found["miou"],
                latency=found["latency_raw_ms"] / found["reference_ms"],
                num_params=int(found["num_params"]),
            )


def make_config(arguments: Arguments, network: NetworkConfig, seed: int) -> PipelineConfig:
    """Configure the stages."""
    optimizer = replace(CAMVID_OPTIMIZER, lr=2e-3)
    power = arguments.class_weight_power
    weighting: dict[str, Any] = {}
    if power:
        weighting = {"class_weighting": "enet", "class_weight_power": power}
    tuning = TrainConfig(
        num_steps=arguments.steps,
        batch_size=arguments.batch_size,
        optimizer=optimizer,
        **weighting,
        batchnorm_batches=arguments.batchnorm_batches,
    )
    return PipelineConfig(
        data=arguments.data,
        student=network,
        self_teaching=True,
        dense=TrainConfig(num_steps=arguments.dense_steps, batch_size=8, optimizer=optimizer),
        distil=tuning,
        latency=arguments.latency,
        chain=("dense", *LOOP),
        seed=seed,
    )


def compare(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Walk all chains, one seed after the other, and print the table."""
    bench = Bench(arguments)
    links = []
    for seed, way in itertools.product(arguments.seeds, arguments.ways):
        for link in bench.walk(way, seed):
            links.append(link)
            console.print(
                f"{way:>20} seed {seed} p {link.ratio:g}: latency {link.latency:.2f}, "
                f"{100 * link.miou_pruned:.1f} -> {100 * link.miou:.1f} %",
                highlight=False,
            )
    table = Table(title=f"{arguments.steps} steps for each network, mean of the seeds")
    for heading in ("way", "p", "seeds", "latency", "mIoU pruned %", "mIoU %", "from .. to"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for way in arguments.ways:
        for ratio in arguments.ratios:
            like = [link for link in links if (link.way, link.ratio) == (way, ratio)]
            mious = [100 * link.miou for link in like]
            table.add_row(
                way,
                f"{ratio:g}",
                str(len(like)),
                f"{statistics.fmean(link.latency for link in like):.2f}",
                f"{100 * statistics.fmean(link.miou_pruned for link in like):.1f}",
                f"{statistics.fmean(mious):.1f}",
                f"{min(mious):.1f} .. {max(mious):.1f}",
            )
    console.print(table)
    return {
        **describe_measurement("pruning_chains", arguments, describe_hardware(arguments.device)),
        "links": [link._asdict() for link in links],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, see `run_command`."""
    return run_command(
        Arguments,
        compare,
        argv,
        description=__doc__,
        interrupted="interrupted; the same command continues from here",
    )


if __name__ == "__main__":
    sys.exit(main())
