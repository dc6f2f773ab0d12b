"""Reads jupyterhub_config.py and checks what it says, so that every complaint names file, line and reason."""

from __future__ import annotations

import ast
import os
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from math import inf
from pathlib import Path
from typing import Any

import traitlets
from traitlets import HasTraits, TraitError, TraitType
from traitlets.config import Config, Configurable
from traitlets.config.loader import (
    ConfigFileNotFound,
    DeferredConfig,
    DeferredConfigList,
    LazyConfigValue,
    PyFileConfigLoader,
)

from appliance import plugins
from appliance.errors import BadInput, Misconfigured
from appliance.oldoptions import gone_class, nearest_of, what_became
from appliance.ports import ByteSize


class _Loader(PyFileConfigLoader):
    """The loader of traitlets, which also remembers the files it read."""

    def __init__(self, filename: str, path: Any = None, *, read: list[Path] | None = None) -> None:
        super().__init__(filename, path)
        self.read: list[Path] = [] if read is None else read

    def load_subconfig(self, fname: str, path: str | None = None) -> None:
        with suppress(ConfigFileNotFound):  # as traitlets has it: a missing part is an empty one
            self.config.merge(_Loader(fname, path or self.path, read=self.read).load_config())

    def _read_file_as_dict(self) -> None:
        self.read.append(Path(self.full_filename))
        super()._read_file_as_dict()


class ConfigFile:
    """What one jupyterhub_config.py and the files it loads say."""

    def __init__(self) -> None:
        self.config = Config()
        self.path: Path | None = None
        self.files: list[Path] = []

    @classmethod
    def load(cls, path: Path, *, may_be_missing: bool) -> ConfigFile:
        """Run the file. Raises Misconfigured."""
        this = cls()
        if not path.is_file():
            if may_be_missing and not path.exists():
                return this
            raise Misconfigured(f"{path} is a folder, not a file." if path.is_dir() else f"There is no file {path}.")
        this.path = path
        folder = str(path.absolute().parent)
        if folder not in sys.path:  # a driver of one's own may lie beside the file; last, so that it hides nothing
            sys.path.append(folder)
        loader = _Loader(str(path.absolute()), (str(path.absolute().parent), "."), read=this.files)
        try:
            this.config = loader.load_config()
        except SyntaxError as error:
            raise Misconfigured(f"{_shown(error.filename)}, line {error.lineno}: {error.msg}.") from error
        except OSError as error:
            raise Misconfigured(f"{this.at(error)}{error.strerror or error}.") from error
        except (Exception, SystemExit) as error:  # the file is an admin's program and may raise anything
            reason = f"it ended the program ({error})" if isinstance(error, SystemExit) else (
                f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
            raise Misconfigured(f"{this.at(error)}{reason.rstrip('.')}.") from error
        return this

    def at(self, error: BaseException) -> str:
        """Return "file, line 4: " of where an exception passed through the configuration."""
        ours = {str(file) for file in self.files}
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if frame.filename in ours:
                return f"{_shown(frame.filename)}, line {frame.lineno}: "
        return f"{_shown(self.path)}: "

    def where(self, section: str, name: str) -> str:
        """Return "file, line 12: " of the last place that sets an option, "" if no file does."""
        for file in reversed(self.files):
            lines = [(_says(node, section, name), node.lineno) for node in ast.walk(ast.parse(file.read_bytes()))
                     if isinstance(node, ast.Attribute)]
            surest = max((sure for sure, _ in lines), default=0)
            if surest:
                return f"{_shown(file)}, line {max(line for sure, line in lines if sure == surest)}: "
        return f"{_shown(self.path)}: " if self.path else ""


def _says(node: ast.Attribute, section: str, name: str) -> int:
    """How surely a piece of a program means c.section.name: 2 as it stands, 1 through another name for the section."""
    if node.attr == name:
        return 2 if isinstance(node.value, ast.Attribute) and node.value.attr == section else 1
    return 0


def _shown(path: Any) -> str:
    path = Path(path or "the configuration").absolute()
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


class GivenOnCommandLine(DeferredConfigList):
    """All values of one --Class.option; lists may also be written as in Python: "['a', 'b']"."""

    def get_value(self, trait: TraitType[Any, Any]) -> Any:
        container = isinstance(trait, (traitlets.Container, traitlets.Dict))
        if container and len(self) == 1 and self[0][:1] in ("[", "{", "("):
            with suppress(ValueError, SyntaxError):
                return ast.literal_eval(self[0])
        return super().get_value(trait)


# ------------------------------------------------------------------------------------------------------------ checks --
class Checker:
    """Checks a whole configuration against the classes in use.

    `overrides` is what the command line said, and is part of `config`.
    """

    def __init__(self, config: Config, overrides: Config, file: ConfigFile,
                 classes: Iterable[type[Configurable]]) -> None:
        self.config, self.overrides, self.file = config, overrides, file
        self.by_name: dict[str, list[type[Configurable]]] = {}
        for cls in classes:
            for section in cls.section_names():
                self.by_name.setdefault(section, []).append(cls)

    def check(self) -> list[str]:
        """Return a warning for each option we do not have, and take it out of the configuration, because traitlets
        would warn again. Raises Misconfigured for a value of a wrong type."""
        warnings = []
        for section, options in list(self.config.items()):
            if not isinstance(options, Config):
                warnings.append(self._no_class(section, None))
                continue
            for name, value in list(options.items()):
                if isinstance(value, Config):
                    continue  # c.Parent.Child.option: traitlets' own matter
                owners = [cls for cls in self.by_name.get(section, ()) if name in cls.class_traits(config=True)]
                for cls in owners:
                    self._check_value(cls, section, name, value)
                if not owners and section in self.by_name:
                    warnings.append(f"{self.where(section, name)}there is no option c.{section}.{name}"
                                    f"{self._nearest(section, name)}")
                    del options[name]
                elif not owners and not _defined_elsewhere(section):
                    warnings.append(self._no_class(section, name))
        return warnings

    def where(self, section: str, name: str) -> str:
        if section in self.overrides and name in self.overrides[section]:
            return "on the command line: "
        return self.file.where(section, name)

    def _check_value(self, cls: type[Configurable], section: str, name: str, value: Any) -> None:
        trait = cls.class_traits(config=True)[name]
        probe: HasTraits = cls.__new__(cls)  # with traits, but without whatever its __init__ does
        try:
            if isinstance(value, LazyConfigValue):
                value = value.get_value(getattr(probe, name))
            elif isinstance(value, DeferredConfig):
                value = value.get_value(trait)
            trait._validate(probe, value)
        except (TraitError, BadInput, TypeError, ValueError, LookupError, AttributeError) as error:
            shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:79] + "…"
            own, _, reason = str(error).rstrip(".").partition(": ")
            if own == f"{cls.__name__}.{name}" and isinstance(value, (list, dict)):     # too long to be shown as a whole
                raise Misconfigured(f"{self.where(section, name)}c.{section}.{name}: {reason}.") from error
            if isinstance(trait, traitlets.Unicode) and isinstance(value, str) and own == f"{cls.__name__}.{name}":
                raise Misconfigured(f"{self.where(section, name)}c.{section}.{name} is {shown}: {reason}.") from error
            raise Misconfigured(
                f"{self.where(section, name)}c.{section}.{name} must be {expected(trait)}, not {shown}.") from error

    def _no_class(self, section: str, name: str | None) -> str:
        option = f"c.{section}.{name}" if name else f"c.{section}"
        if gone_class(section):
            return f"{self.where(section, name or section)}{option} has no effect{what_became(section, name)}"
        for kind in plugins.KINDS:
            if section in {path.partition(":")[2] for path in kind.builtin.values()}:
                used = next(cls.__name__ for cls in self.by_name[kind.base.__name__])
                return (f"{self.where(section, name or section)}{option} has no effect, because "
                        f"c.JupyterHub.{kind.option} is {used}.")
        return (f"{self.where(section, name or section)}{option} has no effect, because there is no class {section} "
                f"here{self._nearest(section, name)}")

    def _nearest(self, section: str, name: str | None) -> str:
        """Return "; the nearest is c.X.y." or the end of the sentence without one."""
        if name is None:
            return self._words(get_close_matches(section, self.by_name, 1))
        if known := what_became(section, name):
            return known
        options: dict[str, str] = {}
        for found in (*self.by_name.values(), self.by_name.get(section, [])):  # its own class has the last word
            options |= {trait: f"{self._defines(cls, trait)}.{trait}"
                        for cls in found for trait in cls.class_traits(config=True)}
        own = {trait for cls in self.by_name.get(section, ()) for trait in cls.class_traits(config=True)}
        close = nearest_of(name, own, options)
        return self._words([options[close]] if close else [])

    @staticmethod
    def _words(found: list[str]) -> str:
        return f"; the nearest is c.{found[0]}." if found else "; “appliance --help-all” lists what there is."

    @staticmethod
    def _defines(cls: type[Configurable], trait: str) -> str:
        return next(base.__name__ for base in cls.mro() if trait in vars(base))


def _defined_elsewhere(name: str) -> bool:
    """Say whether a class of that name came with the configuration or a plugin, which read it by themselves."""
    todo, seen = [Configurable], set()
    while todo:
        for cls in todo.pop().__subclasses__():
            if cls.__name__ == name and cls.__module__.split(".")[0] not in ("traitlets", "appliance"):
                return True
            if cls not in seen:
                seen.add(cls)
                todo.append(cls)
    return False


def expected(trait: TraitType[Any, Any]) -> str:
    """Return in plain words what a trait takes: "a whole number from 0 to 65535"."""
    words = _expected(trait)
    return f"{words}, or None" if trait.allow_none and "None" not in words else words


def _expected(trait: TraitType[Any, Any]) -> str:
    if isinstance(trait, ByteSize):
        return "a size like 512M or 2G"
    if isinstance(trait, traitlets.Union):
        return " or ".join(_expected(inner) for inner in trait.trait_types)
    if isinstance(trait, traitlets.Enum):
        return f"one of {', '.join(repr(value) for value in trait.values or ())}"
    if isinstance(trait, (traitlets.Integer, traitlets.Float)):
        words = "a whole number" if isinstance(trait, traitlets.Integer) else "a number"
        least, most = (None if bound in (None, inf, -inf) else bound for bound in (trait.min, trait.max))
        if least is not None and most is not None:
            return f"{words} from {least} to {most}"
        return words if least is None else f"{words} of at least {least}"
    if isinstance(trait, traitlets.Container):
        text = isinstance(getattr(trait, "_trait", None), traitlets.Unicode)
        kinds = ((traitlets.Set, "a set", "{'one', 'two'}"), (traitlets.Tuple, "a tuple", "('one', 'two')"),
                 (traitlets.List, "a list", "['one', 'two']"))
        return next((f"{words} like {like}" if text else words
                     for kind, words, like in kinds if isinstance(trait, kind)), str(trait.info()))
    plain = ((traitlets.Bool, "True or False"), (traitlets.Unicode, "text in quotes"),
             (traitlets.Dict, "a dictionary like {'name': 'value'}"), (traitlets.Callable, "a function"))
    return next((words for kind, words in plain if isinstance(trait, kind)), str(trait.info()))


def readable(path: str | os.PathLike[str]) -> str:
    """Return "" if a file can be read, else why not."""
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        return error.strerror or str(error)
    return ""
