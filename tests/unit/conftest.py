"""Functions and small parts: each of these tests takes milliseconds."""

from hypothesis import settings

from tests.support.one_thread import one_thread  # noqa: F401

settings.register_profile("unit", deadline=None)  # a busy machine makes no example wrong
settings.load_profile("unit")
