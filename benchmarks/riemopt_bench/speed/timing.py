"""The clock: rounds over all methods, so that what disturbs the machine disturbs them alike.

In each round every method has one turn, in a new random order. In its turn the weights are put back
to where the steps began, one call is made off the clock (it finds heap and caches as another method
has left them), and then a block of calls is timed as one. The ratio of two methods is the median of
their ratios over the rounds that both took part in.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from riemopt_bench.speed.devices import DEVICES, Device
from riemopt_bench.speed.stepper import Stepper

BLOCK_SECONDS, MOST_CALLS = 0.02, 20
LEADING_SECONDS = 0.1  # slower calls do not notice what was in heap and caches
WARM_UP_SECONDS, WARM_UP_CALLS = 1.0, (3, 30)
METHOD_SECONDS, FEWEST_ROUNDS = 6.0, 3


@dataclass
class Timing:
    """Seconds per call of each block, by round.

    `calls` is the size of a block, `leading` the number of calls before it that are not timed.
    """

    calls: int
    leading: int = 0
    seconds: dict[int, float] = field(default_factory=dict)


def settle_allocator() -> None:
    """Let glibc keep freed memory up to 32 MiB, as it does in any training loop after a while.

    At first malloc asks the kernel for every block over 128 KiB and returns it when it is freed.
    Each temporary of a step then costs page faults, about 1 ms per 4 MB, more than what is
    measured here. Freeing a block that came from the kernel raises that threshold to its size, and
    the threshold for returning memory to twice that. The most that glibc allows is 32 MiB
    (`man mallopt`, M_MMAP_THRESHOLD). Other allocators are not affected.
    """
    block = torch.empty((32 << 20) - 65536, dtype=torch.uint8)
    del block


def warm_up(stepper: Stepper, device: Device = DEVICES["cpu"]) -> float:
    """Call until caches, state and momentum have settled; return the quickest call's seconds."""
    fewest, most = WARM_UP_CALLS
    begin = time.perf_counter()
    seconds: list[float] = []
    while len(seconds) < fewest or (
        len(seconds) < most and time.perf_counter() - begin < WARM_UP_SECONDS
    ):
        seconds.append(_block(stepper, Timing(calls=1), device))
    stepper.settle()
    return min(seconds[fewest - 1 :])


def _block(stepper: Stepper, timing: Timing, device: Device) -> float:
    stepper.put_back()
    for _ in range(timing.leading):
        stepper.call()
    return device.clock(stepper.call, timing.calls) / timing.calls


def interleave(
    steppers: Mapping[str, Stepper], rounds: int, device: Device = DEVICES["cpu"]
) -> dict[str, Timing | Exception]:
    """Warm all up, then time them in turns. An exception ends the method that raised it only.

    A slow method takes part in every second, third, … round, and so spends about
    `METHOD_SECONDS`.
    """
    results: dict[str, Timing | Exception] = {}
    every: dict[str, int] = {}
    device.warm()
    for name, one in steppers.items():
        try:
            seconds = warm_up(one, device)
        except Exception as error:
            results[name] = error
            continue
        calls = min(max(int(BLOCK_SECONDS / max(seconds, 1e-9)), 1), MOST_CALLS)
        timing = Timing(calls, _leading(seconds, device))
        results[name] = timing
        every[name] = _every(rounds, (timing.leading + calls) * seconds)
    shuffle = random.Random(0).shuffle
    with _no_garbage_collection():
        for number in range(rounds):
            turn = [name for name, k in every.items() if number % k == 0]
            shuffle(turn)
            for name in turn:
                entry = results[name]
                if isinstance(entry, Timing):
                    try:
                        entry.seconds[number] = _block(steppers[name], entry, device)
                    except Exception as error:
                        results[name] = error
    return results


def _leading(seconds: float, device: Device) -> int:
    if seconds >= LEADING_SECONDS:
        return 0
    return min(max(int(device.leading_seconds / max(seconds, 1e-9)), 1), MOST_CALLS)


def _every(rounds: int, block_seconds: float) -> int:
    wanted = max(int(METHOD_SECONDS / block_seconds), FEWEST_ROUNDS)
    return max(math.ceil(rounds / wanted), 1)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
