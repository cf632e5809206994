"""One training on several processes: each takes its part of every batch, together they are one.

The processes are those of torch.distributed's default process group, which exists while they share
a training (`joined`). Without a group one process does everything: it takes the whole batch, and a
sum over the processes is what it has itself.

What each process computes is its share of what one process would compute of the whole batch: a loss
divides by the valid pixels of all (`sum_over_processes`), so that the shares of the loss, and of
its gradient, add up. `trainables.learning.whole_batch` does the same inside the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store

from models.files.atomic_file import write_atomically
from trainables.process.device_lock import DeviceLock
from trainables.process.watchdog import waiting

LONGEST_WAIT = timedelta(hours=1)  # for a process that decodes its node's images first


@contextmanager
def joined(store: Store, rank: int, num_processes: int) -> Iterator[None]:
    """Be one of the processes that share a training in the block.

    Args:
        store: Where they find each other.
        rank: Number of this process; 0 leads.
        num_processes: How many there are; the block begins when all are there.

    Raises:
        RuntimeError: One of them is gone: in the block, whatever reaches out to it.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with waiting():
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=num_processes, timeout=LONGEST_WAIT
        )
    try:
        yield
    finally:
        dist.destroy_process_group()


def count_processes() -> int:
    """Number of processes that share the training."""
    return dist.get_world_size() if dist.is_initialized() else 1


def get_rank() -> int:
    """Number of this process among them, from 0; 0 leads."""
    return dist.get_rank() if dist.is_initialized() else 0


def take_part(batch_size: int, num_together: int = 1) -> range:
    """Places within each batch that this process computes; all processes cover the batch.

    Args:
        batch_size: Images of a batch.
        num_together: Neighbouring images that stay in one process.

    Raises:
        ValueError: There are more processes than images to divide.
    """
    num_processes, rank = count_processes(), get_rank()
    if num_processes == 1:
        return range(batch_size)
    num_units = batch_size // num_together
    if num_units < num_processes:
        raise ValueError(
            f"batch_size must be at least {num_processes * num_together} to be divided among "
            f"{num_processes} processes, got {batch_size}"
        )
    bounds = [num_together * (number * num_units // num_processes) for number in (rank, rank + 1)]
    return range(bounds[0], bounds[1] if rank + 1 < num_processes else batch_size)


def sum_over_processes(values: Tensor) -> Tensor:
    """Sum what each process has, for losses: the valid pixels of the whole batch, for example.

    Args:
        values: Of one shape in all processes; no gradient flows through the sum.

    Returns:
        The sum, the same in all of them.
    """
    if count_processes() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def sum_gradients(modules: Iterable[nn.Module]) -> None:
    """Replace the gradients of each process's part by those of the whole batch."""
    if count_processes() == 1:
        return
    gradients = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
    total = sum_over_processes(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = torch.split(total, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def share_file(path: Path) -> None:
    """Give every process the leader's file, whichever node it is on.

    Args:
        path: File in the leader; in the others where it goes. All wait until the leader has it.
    """
    if count_processes() == 1:
        return
    leads = get_rank() == 0
    own = bytearray(path.read_bytes() if leads else b"")
    size = torch.tensor(len(own))
    with waiting():
        dist.broadcast(size, 0)
    content = (
        torch.frombuffer(own, dtype=torch.uint8)
        if leads
        else torch.empty(int(size), dtype=torch.uint8)
    )
    dist.broadcast(content, 0)
    if not leads:
        write_atomically(path, content.numpy().tobytes())


@contextmanager
def sharing_device(lock: DeviceLock) -> Iterator[None]:
    """Hold the lock of this process's device shared for a step of all processes.

    While a measurement wants a device, a process that has the lock must not wait for another one
    that waits for the same lock. So all take theirs at once; where one cannot, the locks are taken
    one after the other, in an order that all trainings keep, each by one of its processes.

    Args:
        lock: Of the device of this process; processes of one node may have the same.
    """
    if count_processes() == 1:
        with lock.shared():
            yield
        return
    with ExitStack() as held:
        try:
            held.enter_context(lock.shared(wait=False))
            num_refused = 0
        except BlockingIOError:
            num_refused = 1
        if _agree_on(num_refused):
            held.close()
            for holder in _find_holders(lock):
                if holder == get_rank():
                    held.enter_context(lock.shared())
                _agree_on(0)
        yield


def _agree_on(number: int) -> int:
    """Sum of a number over all processes; the time that one waits for the others does not count."""
    with waiting():
        return int(sum_over_processes(torch.tensor(number)))


def _find_holders(lock: DeviceLock) -> list[int]:
    """Rank of a process for each of their locks, in the order of the locks."""
    identities = torch.zeros(count_processes(), dtype=torch.int64)
    identities[get_rank()] = lock.identity
    found = sum_over_processes(identities).tolist()
    return [found.index(identity) for identity in sorted(set(found))]
