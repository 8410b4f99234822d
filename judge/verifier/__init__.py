"""Answers that can be checked: exact, numeric, by pattern, by schema, or by running tests."""
