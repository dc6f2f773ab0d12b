"""The parts of these pages that are read from the program itself, so that they cannot differ from it.

    .. configuration:: DockerSpawner     the options of a class, each a `confval`
    .. command-help:: user add           what `appliance user add --help` prints
    .. machine-help:: upgrade            the same for a command of the machine itself, without a word: the list of them
    .. role-variables:: storage          a table of the variables of a role of the playbook
    .. failures:: StartFailed            a table of an error class and those below it
    .. rest-api::                        tables of the addresses under /hub/api
    .. scopes::                          a table of all scopes
    .. roles::                           a table of the roles that are always there
    .. events::                          tables of the kinds of events
    .. changelog:: ../CHANGELOG.md       a changelog in Markdown
    .. screenshot:: images/login.png     a picture, if it has been taken
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from traitlets import TraitType

from appliance import cli, errors
from appliance.box import __main__ as box
from appliance.configfile import expected
from appliance.domain.eventschemas import SCHEMAS
from appliance.domain.roles import Roles
from appliance.domain.scopes import SCOPES


class Generated(SphinxDirective):
    """A directive that writes reStructuredText."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        lines = StringList(list(self.lines()), self.get_source_info()[0])
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)

    def lines(self) -> Iterable[str]:
        raise NotImplementedError


class Configuration(Generated):
    def lines(self) -> Iterator[str]:
        cls = {cls.__name__: cls for cls in cli.configurable_classes()}[self.arguments[0]]
        for name, trait in sorted(cls.class_own_traits(config=True).items()):
            yield f".. confval:: {cls.__name__}.{name}"
            yield f"   :type: {escape(expected(trait))}"
            yield f"   :default: {literal(shown_default(trait))}"
            yield from ("", f"   {escape(trait.help)}", "")


class CommandHelp(Generated):
    required_arguments = 0
    optional_arguments = 1

    def lines(self) -> Iterator[str]:
        words = self.arguments[0].split() if self.arguments else []
        yield from (".. code-block:: none", "")
        yield from (f"   {line}" for line in help_of(words).splitlines())


class MachineHelp(CommandHelp):
    def lines(self) -> Iterator[str]:
        with mock.patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1"}):
            text = box.parser_of(self.arguments[0]).format_help() if self.arguments else box.help_text()
        yield from (".. code-block:: none", "")
        yield from (f"   {line}" for line in text.splitlines())


class RoleVariables(Generated):
    """Reads a role's argument_specs; a test holds them against its defaults."""

    def lines(self) -> Iterator[str]:
        file = Path(self.env.srcdir, "../ansible/roles", self.arguments[0], "meta/argument_specs.yml").resolve()
        self.env.note_dependency(str(file))
        options = {name: spec for entry in yaml.safe_load(file.read_text(encoding="utf-8"))["argument_specs"].values()
                   for name, spec in entry.get("options", {}).items()}
        yield from (".. list-table::", "   :header-rows: 1", "   :widths: 30 20 50", "",
                    "   * - Variable", "     - Default", "     - What it says")
        for name, spec in options.items():
            yield f"   * - ``{name}``"
            yield f"     - {literal(shown_value(spec.get('default')))}"
            yield f"     - {escape(' '.join([described(spec['description']), *choices(spec)]))}"
            for key, inner in spec.get("options", {}).items():
                yield from ("", f"       ``{key}``: {escape(described(inner['description']))}")


class Failures(Generated):
    def lines(self) -> Iterator[str]:
        yield from (".. list-table::", "   :header-rows: 1", "   :widths: 18 42 40", "",
                    "   * - Code", "     - What the student reads", "     - What to do")
        for cls in tree(getattr(errors, self.arguments[0])):
            yield f"   * - ``{cls.code}``"
            yield f"     - {escape(cls.sentence)}"
            yield f"     - {escape(cls.action)}"


class RestApi(Generated):
    """Of each group of operations a table: the address, what it does, and the scopes of which one is needed."""

    required_arguments = 0

    def lines(self) -> Iterator[str]:
        from appliance.web.api.table import OPERATIONS

        for tag in dict.fromkeys(operation.tag for operation in OPERATIONS):
            yield from ("", f"**{tag.capitalize() or 'About'}**", "", ".. list-table::", "   :header-rows: 1",
                        "   :widths: 42 34 24", "", "   * - Address", "     - What it does", "     - Scope")
            for operation in OPERATIONS:
                if operation.tag == tag:
                    needed = " or ".join(f"``{scope}``" for scope in operation.scopes)
                    yield f"   * - ``{operation.method} /hub/api/{operation.path.lstrip('/')}``"
                    yield f"     - {escape(operation.summary)}"
                    yield f"     - {'none, nor a token' if operation.anyone else needed or 'any token'}"
            yield ""


class Scopes(Generated):
    """Every scope, what it allows and which others are in it."""

    required_arguments = 0

    def lines(self) -> Iterator[str]:
        yield from (".. list-table::", "   :header-rows: 1", "   :widths: 24 40 36", "",
                    "   * - Scope", "     - Who holds it may", "     - In it are")
        for name, scope in SCOPES.items():
            yield f"   * - ``{name}``"
            yield f"     - {escape(scope.description)}"
            yield f"     - {', '.join(f'``{sub}``' for sub in scope.subscopes)}"


class RolesThereAre(Generated):
    """The roles that there are without a word in the configuration."""

    required_arguments = 0

    def lines(self) -> Iterator[str]:
        yield from (".. list-table::", "   :header-rows: 1", "   :widths: 12 34 54", "",
                    "   * - Role", "     - What it is", "     - Its scopes")
        for role in Roles().by_name.values():
            yield f"   * - ``{role.name}``"
            yield f"     - {escape(role.description)}"
            yield f"     - {', '.join(f'``{scope}``' for scope in role.scopes)}"


class Events(Generated):
    """Every kind of event: the line's schema and its fields."""

    required_arguments = 0

    def lines(self) -> Iterator[str]:
        yield from (".. list-table::", "   :header-rows: 1", "   :widths: 22 34 44", "",
                    "   * - Event", "     - What happened", "     - Fields")
        for kind, schema in SCHEMAS.items():
            fixed = "".join(f" `{name}: {value}` of `server-action`." for name, value in schema.fixed.items())
            yield f"   * - ``{kind}``"
            yield f"     - {escape(schema.description + fixed)}"
            yield f"     - {', '.join(f'``{name}``' for name in schema.fields)}"
        yield from ("", ".. list-table::", "   :header-rows: 1", "   :widths: 22 78", "", "   * - Field", "     - What it says")
        meanings: dict[str, list[str]] = {}
        for schema in SCHEMAS.values():
            for name, meaning in schema.fields.items():
                if meaning not in meanings.setdefault(name, []):
                    meanings[name].append(meaning)
        for name, said in sorted(meanings.items()):
            yield f"   * - ``{name}``"
            yield f"     - {escape('; '.join(said))}"


class Changelog(Generated):
    """Knows headings, lists, `code` and [links](…), which is what a changelog needs."""

    def lines(self) -> Iterator[str]:
        file = Path(self.env.srcdir, self.arguments[0]).resolve()
        self.env.note_dependency(str(file))
        for line in file.read_text(encoding="utf-8").splitlines():
            heading = re.fullmatch(r"(#{1,3}) (.*)", line)
            if heading is None:
                yield re.sub(r"\[([^]]+)\]\(([^)]+)\)", r"`\1 <\2>`__", line.replace("`", "``"))
            elif len(heading[1]) > 1:  # the page has a title of its own
                title = escape(heading[2].strip("[]").replace("] ", " "))
                yield from ("", title, ("-" if len(heading[1]) == 2 else "~") * len(title), "")


class Screenshot(SphinxDirective):
    required_arguments = 1
    option_spec = {"alt": directives.unchanged_required}  # noqa: RUF012 (docutils' API)

    def run(self) -> list[nodes.Node]:
        path = self.arguments[0]
        if not Path(self.env.srcdir, path).exists():
            return []
        return [nodes.image(uri=path, alt=self.options["alt"])]


# ------------------------------------------------------------------------------------------------------ words to RST --
def escape(text: str) -> str:
    """Return plain text as reStructuredText; what stands in `…` is code."""
    parts = re.split(r"`+([^`]+)`+", " ".join(text.split()))
    return "".join(literal(part) if i % 2 else re.sub(r"([\\*_|<>])", r"\\\1", part) for i, part in enumerate(parts))


def literal(text: str) -> str:
    return f"``{text}``" if text.strip() else "empty"


def shown_default(trait: Any) -> str:
    value = trait.default_value if isinstance(trait.default_value, str) else trait.default()
    return "{}" if isinstance(value, dict) and not value else repr(value)


def shown_value(value: Any) -> str:
    """Return a variable's default as YAML writes it."""
    if value is None or value == "":
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def described(description: str | list[str]) -> str:
    return description if isinstance(description, str) else " ".join(description)


def choices(spec: dict[str, Any]) -> Iterator[str]:
    if "choices" in spec:
        yield f"One of {', '.join(f'`{choice}`' for choice in spec['choices'])}."


def help_of(words: Iterable[str]) -> str:
    """Return what a command's --help prints, 100 columns wide."""
    printed = io.StringIO()
    with mock.patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1"}), mock.patch("sys.argv", ["appliance"]), \
            contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        cli.main([*words, "--help"])
    return printed.getvalue()


def tree(root: type[errors.ApplianceError]) -> Iterator[type[errors.ApplianceError]]:
    """Yield an error class and those below it."""
    yield root
    for cls in root.__subclasses__():
        if cls.__module__ == errors.__name__:
            yield from tree(cls)


def adapt_docstring(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Give each error class its code, sentence and action for a docstring; in all docstrings `…` is code."""
    lines[:] = [re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``\\ ", line) for line in lines]
    if what == "module":
        lines.clear()  # the tree is shown as it stands in the file
    elif inspect.isclass(thing) and issubclass(thing, errors.ApplianceError):
        lines[:] = [*(lines if "code" in vars(thing) and vars(thing).get("__doc__") else []), "",
                    f"``{thing.code}``: {escape(thing.sentence)} *{escape(thing.action)}*", ""]


def skip_options(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Leave options to the page about the configuration."""
    return True if isinstance(thing, TraitType) else None


def hide_constructor(app: Sphinx, what: str, name: str, thing: Any, *_: Any) -> tuple[str, str] | None:
    """Drivers are built by the Hub; records show their fields with comments below; errors are all built alike."""
    return ("", "") if inspect.isclass(thing) and thing is not errors.ApplianceError else None


def setup(app: Sphinx) -> dict[str, Any]:
    for name, directive in (("configuration", Configuration), ("command-help", CommandHelp), ("failures", Failures),
                            ("machine-help", MachineHelp), ("role-variables", RoleVariables),
                            ("rest-api", RestApi), ("scopes", Scopes), ("roles", RolesThereAre), ("events", Events),
                            ("changelog", Changelog), ("screenshot", Screenshot)):
        app.add_directive(name, directive)
    app.connect("autodoc-process-signature", hide_constructor)
    app.connect("autodoc-skip-member", skip_options)
    app.connect("autodoc-process-docstring", adapt_docstring)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
