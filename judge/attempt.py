"""What an actor's constructor makes, or the error that came instead."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def attempt(make: Callable[[], T]) -> Future[T]:
    """Call it now; `result()` is what it made, or raises what it raised.

    Of an error that an actor's constructor raises, Ray tells callers only that the actor died; one that a method
    raises reaches them whole.
    """
    future: Future[T] = Future()
    try:
        future.set_result(make())
    except Exception as error:
        future.set_exception(error)
    return future
