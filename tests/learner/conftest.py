"""Rounds of learning with tiny policies, in process: slower than unit tests, faster than the real stack."""

from hypothesis import settings

from tests.support.one_thread import one_thread  # noqa: F401

settings.register_profile("learner", deadline=None)  # a busy machine makes no example wrong
settings.load_profile("learner")
