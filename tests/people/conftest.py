"""People as the judge, in process: queue on a database, page and accounts over HTTP; slower than unit tests."""

from hypothesis import settings

from tests.support.tiny_queue import queue, template  # noqa: F401

settings.register_profile("people", deadline=None)  # a busy machine makes no example wrong
settings.load_profile("people")
