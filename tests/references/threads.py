"""Two threads of which the one that begins first ends first."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def overlapping(first: Callable[[Callable[[], None]], None], second: Callable[[Callable[[], None]], None]) -> None:
    """Run both at the same time, as far as the second does not wait for the first of itself.

    Each is called as first(wait), and calls `wait` in the middle of its work: the first is then held until the second
    is there too or has not come for a while, the second until the first has ended.
    """
    is_first_there, is_second_there, is_first_over = threading.Event(), threading.Event(), threading.Event()

    def wait_as_first() -> None:
        is_first_there.set()
        is_second_there.wait(0.3)

    def wait_as_second() -> None:
        is_second_there.set()
        assert is_first_over.wait(30)

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(first, wait_as_first)]
        runs[0].add_done_callback(lambda _: is_first_over.set())
        assert is_first_there.wait(30)
        runs.append(pool.submit(second, wait_as_second))
        for run in runs:
            run.result()
