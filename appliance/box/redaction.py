"""Takes secrets and students' names out of text before it leaves the box.

Three nets, one behind the other: values known to be secret are replaced wherever they stand, in every spelling;
whatever looks like a secret by its name is replaced; and so is what looks like one by itself.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote

from appliance import log

REDACTED = "[redacted]"
# Stands for it while the nets follow each other: one letter of no alphabet, which each of them takes as a value.
_MARK = "\ue000"
_SMELL = re.compile(r"pass(?!ive|ed|ing)|pwd|secret|token|credential|private|api_?-?key|access_?-?key|auth_?-?key|"
                    r"(?<![a-z])key(?![a-z])|_key$|dsn|salt|cookie|hmac|(?<![a-z])pin(?![a-z])|seed", re.IGNORECASE)
# name=value, name: value, "name": "value" of anything whose name smells; wider than the log's own net
_NAMED = re.compile(r"""(?ix)
    ((?:^|[^\w-])["']?[\w.-]*(?:passw(?:or)?d|passphrase|passwd|secret|token|credential
        |api[_-]?key|access[_-]?key|private[_-]?key)
     [\w.-]*["']?\s*(?:=>|[=:])\s*)
    ("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|(?!null\b|true\b|false\b|None\b|[\[{(])[^\s"',;}\])]+)""")
_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_URL_PASSWORD = re.compile(r"(\w://[^\s:/@'\"]*:)([^\s/'\"]+)(?=@)")
_RANDOM = re.compile(r"(?=[^\s]*[0-9])(?=[^\s]*[A-Za-z])[A-Za-z0-9+/_=.~-]{24,}")
_USER_PATH = re.compile(r"/user/([^/\s\"'?#]+)")
_PLAIN = {"true", "false", "none", "null", "yes", "postgres", "appliance", "admin", "localhost", "root"}
_NOT_STUDENTS = {"admin", "root", "hub", "appliance", "traefik", ""}


def smells(name: str) -> bool:
    """Whether something of that name is likely a secret."""
    return bool(_SMELL.search(name))


def looks_random(value: str) -> bool:
    """Whether a value looks like a secret by itself: long, without blanks, letters and digits mixed; paths and ids that
    begin with a word of ours do not count."""
    return bool(_RANDOM.fullmatch(value)) and not value.startswith(("/", "sha256:", "http"))


class Redactor:
    """Knows this box's secrets and its students, and cleans any text of them."""

    def __init__(self, *, with_names: bool = False, key: bytes = b"") -> None:
        self.with_names = with_names
        self._key = key or b"classroom box"
        self._secrets: set[str] = set()
        self._names: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self._names_pattern: re.Pattern[str] | None = None

    def learn(self, *values: str) -> None:
        """Replace these wherever they stand, also encoded."""
        for value in values:
            for each in {value, value.strip()}:
                if len(each) < 4 or each.lower() in _PLAIN or (each.isdigit() and len(each) < 6):
                    continue  # would take half of every text with it
                # repr and JSON write quotes and letters in ways of their own; headers have base64
                self._secrets |= {each, quote(each, safe=""), quote(each), json.dumps(each)[1:-1],
                                  json.dumps(each, ensure_ascii=False)[1:-1], repr(each)[1:-1], each.encode().hex()}
                for padded in ("", ":"):
                    self._secrets.add(base64.b64encode((padded + each).encode()).decode().rstrip("="))
        self._pattern = None

    def learn_file(self, text: str) -> None:
        """Every line and every value of a file that is nothing but a secret."""
        self.learn(text.strip())
        for line in text.splitlines():
            self.learn(line)
            if "=" in line:
                self.learn(line.partition("=")[2].strip().strip("\"'"))

    def learn_names(self, names: Iterable[str]) -> None:
        self._names |= {name for name in (each.strip() for each in names) if name.lower() not in _NOT_STUDENTS}
        self._names_pattern = None

    def pseudonym(self, name: str) -> str:
        """The same for the same name in every bundle of this box, and nothing to guess the name from elsewhere."""
        return "student_" + hmac.new(self._key, unquote(name).lower().encode(), hashlib.sha256).hexdigest()[:8]

    def clean(self, text: str) -> str:
        text = text.replace(REDACTED, _MARK)
        if self._secrets:
            if self._pattern is None:
                self._pattern = re.compile("|".join(map(re.escape, sorted(self._secrets, key=len, reverse=True))))
            text = self._pattern.sub(_MARK, text)
        text = _PEM.sub(_MARK, text)
        text = _URL_PASSWORD.sub(rf"\1{_MARK}", text)
        text = _NAMED.sub(lambda found: f"{found[1]}{_requote(found[2])}", text)
        text = log.redact(text).replace(_MARK, REDACTED)
        return text if self.with_names else self._without_names(text)

    def clean_value(self, value: Any) -> Any:
        """A JSON value, each of its texts cleaned: what reads "code": "disk-full" keeps its form and its meaning."""
        if isinstance(value, dict):
            return {self.clean(str(key)): self.clean_value(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.clean_value(each) for each in value]
        return self.clean(value) if isinstance(value, str) else value

    def _without_names(self, text: str) -> str:
        text = _USER_PATH.sub(self._user_path, text)
        if self._names and self._names_pattern is None:
            spelled = {spelling for name in self._names
                       for spelling in (name, quote(name, safe="@~"), quote(name, safe=""), json.dumps(name)[1:-1])}
            any_of = "|".join(map(re.escape, sorted(spelled, key=len, reverse=True)))
            self._names_pattern = re.compile(rf"(?<!\w)(?:{any_of})(?!\w)", re.IGNORECASE)
        if self._names_pattern is not None:
            text = self._names_pattern.sub(lambda found: self.pseudonym(found[0]), text)
        return text

    def _user_path(self, found: re.Match[str]) -> str:
        """Also of somebody who is in no list any more."""
        known = found[1].startswith("student_") or found[1].lower() in _NOT_STUDENTS
        return f"/user/{found[1] if known else self.pseudonym(found[1])}"

    def _learn_urls(self, text: str) -> None:
        self.learn(*(found[2] for found in _URL_PASSWORD.finditer(text)))

    # -- configuration ------------------------------------------------------------------------------------------------
    def env_file(self, text: str) -> str:
        """KEY=value lines without the values that smell; comments may hold old ones, so they go too."""
        lines = []
        self._learn_urls(text)
        for line in text.splitlines():
            key, equals, value = line.partition("=")
            if line.lstrip().startswith("#"):
                lines.append("# (a comment)")
            elif equals and (smells(key) or looks_random(value.strip().strip("\"'"))):
                self.learn(value.strip().strip("\"'"))
                lines.append(f"{key}={REDACTED}")
            else:
                lines.append(line)
        return "\n".join(lines) + "\n"

    def json_value(self, value: Any, name: str = "") -> Any:
        """A JSON value without what smells, at any depth."""
        if isinstance(value, dict):
            return {key: self.json_value(each, str(key)) for key, each in value.items()}
        if isinstance(value, list):
            return [self.json_value(each, name) for each in value]
        if isinstance(value, str):
            self._learn_urls(value)
        if isinstance(value, str) and value and not value.startswith("/") and (smells(name) or looks_random(value)):
            self.learn(value)
            return REDACTED
        return value

    def python(self, source: str) -> str:
        """Return a piece of configuration without comments and without the literals that are, or may be, secrets."""
        self._learn_urls(source)
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            self.learn(*(found[1] or found[2] for found in re.finditer(r"""'([^'\n]{6,})'|"([^"\n]{6,})\"""", source)))
            return "# This file is not valid Python, so it was left out.\n"
        tree = _Literals(self).visit(tree)
        return ast.unparse(tree) + "\n"  # without comments, which may hold old secrets


def _requote(value: str) -> str:
    return f"{value[0]}{_MARK}{value[0]}" if value[:1] in "\"'" else _MARK


class _Literals(ast.NodeTransformer):
    """Replaces literals below a name that smells, in whatever way they are given to it."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._inside = 0

    def _below(self, node: ast.AST, names: Iterable[str]) -> ast.AST:
        smelly = any(smells(name) or "environment" in name.lower() for name in names)
        self._inside += smelly
        node = self.generic_visit(node)
        self._inside -= smelly
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        value = node.value
        if not isinstance(value, (str, bytes)) or not value:
            # a PIN may be a number
            return ast.Constant(0) if self._inside and type(value) in (int, float) else node
        text = value if isinstance(value, str) else value.decode(errors="replace")
        if self._inside or looks_random(text):
            self._redactor.learn(text)
            return ast.Constant(REDACTED)
        return ast.Constant(self._redactor.clean(text)) if isinstance(value, str) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        if not self._inside:
            return self.generic_visit(node)
        for each in ast.walk(node):
            if isinstance(each, ast.Constant) and isinstance(each.value, str):
                self._redactor.learn(each.value)
        return ast.Constant(REDACTED)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        return self._below(node, [ast.unparse(target) for target in node.targets])

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        return self._below(node, [ast.unparse(node.target)])

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        return self._below(node, [ast.unparse(node.target)])

    def visit_NamedExpr(self, node: ast.NamedExpr) -> ast.AST:
        return self._below(node, [ast.unparse(node.target)])

    def visit_Call(self, node: ast.Call) -> ast.AST:
        # d.update(password=…), set_token("…"), environ.setdefault("X_TOKEN", "…")
        words = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        return self._below(node, [ast.unparse(node.func), *words])

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        return self._below(node, [node.arg or ""])

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        return self._below(node, [ast.unparse(node.left)])

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._below(node, [node.name])

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        values: list[ast.expr] = []
        for key, value in zip(node.keys, node.values, strict=True):
            name = key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else ""
            smelly = smells(name) or "environment" in name.lower()
            self._inside += smelly
            values.append(self.visit(value))
            self._inside -= smelly
        keys: list[ast.expr | None] = [self.visit(key) if key is not None else None for key in node.keys]
        return ast.Dict(keys=keys, values=values)
