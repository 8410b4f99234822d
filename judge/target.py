"""The user's code: found by its import path, named by a hash of its source."""

import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from judge.backend_config import ENTRY_POINTS, FunctionBackend, PluginBackend
from rollout.errors import UsageError
from rollout.shards import hash_json

ARGUMENTS = {"pointwise": ("prompts", "completions"), "pairwise": ("prompts", "completions_a", "completions_b")}
_METHODS = {"pointwise": "score", "pairwise": "judge"}
CodeBackend = FunctionBackend | PluginBackend


def import_target(config: CodeBackend) -> Callable[..., Any]:
    """The function or class that judge.target names, looked up with the current directory on the path.

    Raises UsageError where it cannot be imported, or is neither a function nor a class that fits judge.style.
    """
    name = target_of(config)
    module_name, _, path = name.partition(":")
    module = _import_module(name, module_name)
    try:
        target = functools.reduce(getattr, path.split("."), module)
    except AttributeError as error:
        place = getattr(module, "__file__", None) or "a package without a file"
        raise UsageError(
            f"judge.target is {target_of(config)!r}, but {module_name} ({place}) has no {path!r}; "
            "define it there, or mend the name (another module of that name may come first on the path)"
        ) from error
    if not callable(target):
        raise UsageError(
            f"judge.target {target_of(config)!r} is a {type(target).__name__}, expected a function or a class"
        )
    method = _METHODS[config.style]
    if inspect.isclass(target) and not callable(getattr(target, method, None)):
        raise UsageError(
            f"judge.target {target_of(config)!r} has no method {method!r}, which judge.style {config.style} needs"
        )
    return target


def target_of(config: CodeBackend) -> str:
    """module:name of the code that judges. Raises UsageError if no installed package has this entry point."""
    if isinstance(config, FunctionBackend):
        return config.target
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS, name=config.kind):
        return entry.value
    raise UsageError(f"judge.kind is {config.kind!r}, but no installed package has that entry point in {ENTRY_POINTS}")


def check_target(config: CodeBackend) -> None:
    """Raise UsageError if the judge cannot work as configured. Runs the target's module, but calls nothing of it."""
    target = import_target(config)
    if inspect.isclass(target):
        bind_settings(config, target)
        return
    clash = sorted(set(config.settings) & set(ARGUMENTS[config.style]))
    if clash:
        raise UsageError(
            f"judge.settings holds {clash}, which the judge is given anyway; give these settings other names"
        )
    names = keywords(target)
    unknown = sorted(set(config.settings) - names) if names is not None else []
    if unknown:
        raise UsageError(
            f"judge.settings holds {unknown}, which {target_of(config)!r} does not take: it takes {sorted(names or [])}"
        )


def bind_settings(config: CodeBackend, target: type[Any]) -> Callable[[], Any]:
    """What constructs the user's class, with its settings already validated; its constructor has not run yet.

    A class with a pydantic model `Settings` inside gets an instance of it, any other class gets keyword arguments.
    """
    model = getattr(target, "Settings", None)
    make: Callable[..., Any] = target
    try:
        if inspect.isclass(model) and issubclass(model, BaseModel):
            return functools.partial(make, model.model_validate(config.settings))
        inspect.signature(make).bind(**config.settings)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise UsageError(f"judge.settings do not fit {target_of(config)!r}: {wrong}; mend judge.settings") from error
    except TypeError as error:
        raise UsageError(f"judge.settings do not fit {target_of(config)!r}: {error}; mend judge.settings") from error
    return functools.partial(make, **config.settings)


def keywords(function: Callable[..., Any]) -> frozenset[str] | None:
    """Names that a function takes as keyword arguments; None where it takes any."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return frozenset(parameter.name for parameter in parameters if parameter.kind in by_name)


def judge_id(config: CodeBackend) -> str:
    """`function:<target>@<hash>`: another source text of the target's module, or other settings, are another judge."""
    target = target_of(config)
    module = _import_module(target, target.partition(":")[0])
    named: Mapping[str, Any] = {"source": _source_hash(module), "settings": config.settings}
    return f"{config.kind}:{target}@{hash_json(named)[:8]}"


def _import_module(target: str, name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()  # the file may be younger than the directory listing that Python remembers
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"judge.target {target!r} cannot be imported: {type(error).__name__}: {error}; "
            f"expected module:name of Python code that can be imported from {here}"
        ) from error


def _source_hash(module: ModuleType) -> str:
    path = Path(getattr(module, "__file__", None) or "")
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.suffix == ".py" and path.is_file() else ""
