"""Which frames of a clip are taken."""

from bisect import bisect_right
from collections.abc import Sequence


def evenly(
    frames: Sequence[int],
    count: int | None,
    times: Sequence[int] | None = None,
    end: int = 0,
) -> list[int]:
    """Return frames that are shown in the middles of equal stretches of a clip.

    Args:
        frames: indices to choose from, ascending.
        count: of stretches; None, or as many as there are frames: all frames.
        times: when each frame of the clip begins, by index; None counts frames instead.
        end: when the last one ends.

    >>> evenly(range(6), 2), evenly(range(6), 2, times=[0, 1, 2, 3, 4, 5], end=100)
    ([1, 4], [5, 5])
    """
    if count is None or count >= len(frames):
        return list(frames)
    by_number = [frames[(2 * i + 1) * len(frames) // (2 * count)] for i in range(count)]
    if times is None:
        return by_number
    shown = [times[index] for index in frames]
    span = max(end - shown[0], 1)
    step = span / len(shown)
    if all(abs(time - shown[0] - i * step) <= 1 for i, time in enumerate(shown)):
        return by_number  # a constant rate, but for the ticks of the clock
    moments = [shown[0] + (2 * i + 1) * span // (2 * count) for i in range(count)]
    return [frames[bisect_right(shown, moment) - 1] for moment in moments]
