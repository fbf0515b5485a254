"""Import the public names of a package at their first use.

Each package lists its names three times. Type checkers read only imports and a literal `__all__`, and
Python must not run the imports, so it needs the module of each name. A test compares the lists.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

# Where an error looks for a name that a package does not have.
_PLACES = (
    *(
        "agents",
        "checking",
        "core",
        "durable",
        "history",
        "offline",
        "server",
        "sessions",
        "stores",
    ),
    *("testing", "tools", "transports", "wire", "errors"),
)


def lazy_names(
    package: str, modules: Mapping[str, Sequence[str]], *, extra: str | None = None
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package whose names are defined in `modules`.

    `modules` maps modules of `pathors_agent` to the names that they define. `extra` is the
    extra that installs the packages which these modules import.
    """
    module_of = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> object:
        if name not in module_of:
            raise AttributeError(_no_name(package, name), name=name)
        try:
            module = import_module(f"pathors_agent.{module_of[name]}")
        except ModuleNotFoundError as error:
            if extra is None:
                raise
            raise ModuleNotFoundError(
                f"{package}.{name} needs {error.name}: pip install 'pathors-agent[{extra}]'",
                name=error.name,
            ) from error
        value: object = getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted(module_of)


def _no_name(package: str, name: str) -> str:
    said = f"{package} has no public name {name!r}"
    if not name.startswith("_"):
        for place in ["pathors_agent", *(f"pathors_agent.{each}" for each in _PLACES)]:
            if name in dir(import_module(place)):
                return f"{said}; import it from {place}"
    return f"{said}; dir({package}) lists them"
