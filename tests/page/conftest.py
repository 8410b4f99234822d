"""The labelling page and its accounts over HTTP, in process: slower than unit tests, faster than a browser."""

from hypothesis import settings

from tests.support.tiny_queue import queue, template  # noqa: F401

settings.register_profile("page", deadline=None)  # a busy machine makes no example wrong
settings.load_profile("page")
