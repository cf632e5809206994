"""One training on several processes, each of which computes its part of every batch.

The processes form the default process group of torch.distributed, which exists while they share a
training (`joined`). Without a group one process does everything: its part is the whole batch, and
a sum over the processes is its own value.

Each process computes its share of what one process would compute for the whole batch. A loss, for
example, divides by the number of valid pixels in all processes (`sum_over_processes`), so the
shares of the loss and of its gradient add up. `trainables.learning.whole_batch` does the same for
the layers of a network.
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

LONGEST_WAIT = timedelta(hours=1)  # a process may have to decode the images for its node first


@contextmanager
def joined(store: Store, rank: int, num_processes: int) -> Iterator[None]:
    """Share a training with other processes in the block.

    If a process dies, the others get a RuntimeError from the next sum over the processes.

    Args:
        store: Store through which the processes find each other.
        rank: Number of this process, from 0; process 0 leads.
        num_processes: Number of processes; the block begins once all have joined.
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
    """Return the number of processes that share the training."""
    return dist.get_world_size() if dist.is_initialized() else 1


def get_rank() -> int:
    """Return the number of this process, from 0; process 0 leads."""
    return dist.get_rank() if dist.is_initialized() else 0


def take_part(batch_size: int, num_together: int = 1) -> range:
    """Return the places in each batch that this process computes.

    Args:
        batch_size: Number of images in a batch.
        num_together: Number of neighbouring images that must stay in one process.

    Raises:
        ValueError: The batch is too small to be divided among the processes.
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
    """Add up a tensor over all processes, such as the number of valid pixels.

    Args:
        values: Values of this process, of the same shape in all. No gradient flows through the sum.

    Returns:
        The sum, which is the same in all processes.
    """
    if count_processes() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def sum_gradients(modules: Iterable[nn.Module]) -> None:
    """Replace the gradients of this process's part of the batch by those of the whole batch."""
    if count_processes() == 1:
        return
    gradients = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
    total = sum_over_processes(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = torch.split(total, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def share_file(path: Path) -> None:
    """Copy a file of the leader to all other processes, on whatever nodes they are.

    Args:
        path: Path of the file in the leader, and of the copy in each other process.
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
    """Hold the lock of this process's device for one step of all processes.

    A process that holds a lock must not wait for a process that waits for the same lock: with a
    latency measurement between the two, all three would wait forever. So all processes try to take
    their locks at once. If one fails, all let go, and the locks are taken one after the other, in
    the order that every training uses, and each by a single process.

    Args:
        lock: Lock of this process's device; processes on one node may have the same lock.
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
    """Add up a number over all processes; the watchdog does not count the time of waiting."""
    with waiting():
        return int(sum_over_processes(torch.tensor(number)))


def _find_holders(lock: DeviceLock) -> list[int]:
    """Return the rank of one process per lock, in the order in which locks are taken."""
    identities = torch.zeros(count_processes(), dtype=torch.int64)
    identities[get_rank()] = lock.identity
    found = sum_over_processes(identities).tolist()
    return [found.index(identity) for identity in sorted(set(found))]
