"""Fair timing: contenders take turns, and each is judged by its median."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def rounds(contenders: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median seconds of each, taken in turn so that a machine's moods fall on all alike."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def as_row(medians: dict[str, float], base: str = "transformers") -> str:
    """Milliseconds, and multiples of what `base` takes, in columns of 30."""
    return "".join(f"{1000 * median:>20.1f} ({median / medians[base]:6.2f}x)" for median in medians.values())
