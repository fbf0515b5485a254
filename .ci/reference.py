"""Write the pages of `docs/reference/api` from the signatures and docstrings of the source.

python3 .ci/reference.py

The source is parsed, not imported: the pages are the same on each version of Python, and no extra
has to be installed.
"""

import ast
import inspect
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
PAGES = ROOT / "docs" / "reference" / "api"

PACKAGE = "pathors_agent"
WIDTH = 88  # of a signature on one line
USES = {
    "__enter__": "`with`",
    "__aenter__": "`async with`",
    "__iter__": "`for`",
    "__aiter__": "`async for`",
    "__len__": "`len()`",
    "__contains__": "`in`",
    "__getitem__": "`[]`",
    "__call__": "a call",
}
DEFAULTS_OF = {"ToolOptions": "Tool"}  # the class that has the defaults of a TypedDict
MARKS = ("classmethod", "staticmethod", "contextmanager", "asynccontextmanager")
INDEX = """# Public names

Each name that a program may import, page by page. A line below each heading names the package to
import it from: `pathors_agent` for the names that most programs need, and the package of its part
for each other name. Anything without an entry here may change with any version. `help(name)` shows
the same texts.
"""
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
FIELD_CLASSES = ("NamedTuple", "TypedDict", "BaseModel")


class Name(NamedTuple):
    """A top-level name of a module: its definition, and the text below it."""

    module: str
    name: str
    node: ast.stmt
    text: str

    @property
    def heading(self):
        """The heading of the name on its page; a function's differs from that of a class."""
        return f"{self.name} (function)" if isinstance(self.node, FUNCTIONS) else self.name

    @property
    def anchor(self):
        """The anchor of the heading, as repository viewers and the site make it."""
        return re.sub(r"[^\w -]", "", self.heading.lower()).replace(" ", "-")


# - the source -


@cache
def definitions(module):
    """Return the top-level names of a module: its own, and the (module, name) of imported ones."""
    file = SOURCE / module.replace(".", "/")
    path = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    found = {}
    body = ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []
    for statement, following in zip(body, [*body[1:], None], strict=True):
        inner = statement.body if isinstance(statement, (ast.If, ast.Try)) else [statement]
        for node in inner:
            if isinstance(node, ast.ImportFrom):
                found |= {a.asname or a.name: (node.module, a.name) for a in node.names}
            elif isinstance(node, (ast.ClassDef, *FUNCTIONS)):
                text = ast.get_docstring(node) or ""
                found[node.name] = Name(module, node.name, node, text)  # the last of overloads
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                [target] = node.targets if isinstance(node, ast.Assign) else [node.target]
                if isinstance(target, ast.Name):
                    found[target.id] = Name(module, target.id, node, text_of(following))
    return found


def text_of(node):
    """Return the text of a string that stands alone, as below a constant."""
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return inspect.cleandoc(node.value.value) if is_text and type(node.value.value) is str else ""


def resolve(module, name):
    """Return the definition that a name of a module means, or None if it is not the package's."""
    found = definitions(module).get(name)
    while isinstance(found, tuple) and not isinstance(found, Name):
        found = definitions(found[0]).get(found[1]) if found[0].startswith(PACKAGE) else None
    return found


class _Shown(ast.NodeTransformer):
    """Replace quoted types by types, and the names of constants by their values."""

    def __init__(self, module, *, values=False):
        self.module, self.values = module, values

    def visit_Subscript(self, node):
        """Keep the texts of a Literal, and leave out the rules of an Annotated type."""
        kind = ast.unparse(node.value)
        if kind == "Annotated" and isinstance(node.slice, ast.Tuple):
            return self.visit(node.slice.elts[0])
        return node if kind == "Literal" else self.generic_visit(node)

    def visit_Constant(self, node):
        """Read a quoted type."""
        is_quoted = isinstance(node.value, str) and not self.values
        return self.visit(ast.parse(node.value, mode="eval").body) if is_quoted else node

    def visit_Name(self, node):
        """Read a constant."""
        found = resolve(self.module, node.id) if self.values and node.id.isupper() else None
        value = getattr(found and found.node, "value", None)
        return _Shown(found.module, values=True).visit(value) if value else node


def source(node):
    """Return an expression as the formatter would write its texts."""
    return re.sub(r"'([^'\"\\]*)'", r'"\1"', ast.unparse(node))


def copied(node):
    """Return a copy of an expression."""
    return ast.parse(ast.unparse(node), mode="eval").body


def typed(node, module):
    """Return a type without quotes."""
    return _Shown(module).visit(copied(node))


def type_text(node, module):
    """Return a type as text."""
    return source(typed(node, module))


def value_text(node, module):
    """Return a default as text: constants by their values, numbers calculated."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("field", "Field"):
        given = {k.arg: k.value for k in node.keywords}
        if "default_factory" in given:
            made = given["default_factory"]
            if isinstance(made, ast.Lambda):
                return value_text(made.body, module)
            return {"dict": "{}", "list": "[]"}.get(ast.unparse(made), f"{ast.unparse(made)}()")
        if not node.args and "default" not in given:
            return ""
        node = node.args[0] if node.args else given["default"]
        if isinstance(node, ast.Constant) and node.value is ...:
            return ""
    shown = ast.fix_missing_locations(_Shown(module, values=True).visit(copied(node)))
    if isinstance(shown, ast.BinOp):
        leaves = (ast.BinOp, ast.Constant, ast.operator)
        if all(isinstance(each, leaves) for each in ast.walk(shown)):
            return repr(eval(compile(ast.Expression(shown), "", "eval"), {}))  # noqa: S307
    return source(shown)


def broken(node, module):
    """Return a long value with a line for each of its parts."""
    match node:
        case ast.Dict(keys=keys, values=values):
            start, end = "{", "}"
            parts = [
                f"{source(k)}: {value_text(v, module)}" for k, v in zip(keys, values, strict=True)
            ]
        case ast.Subscript(value=kind, slice=ast.Tuple(elts=items)):
            start, end = f"{source(kind)}[", "]"
            parts = [source(each) for each in items]
        case other:
            return source(other)
    return "\n".join([start, *(f"    {part}," for part in parts), end])


# - the pages -


def named(node, module):
    """Return the types of the package that a type names."""
    names = [each.id for each in ast.walk(typed(node, module)) if isinstance(each, ast.Name)]
    found = [resolve(module, name) for name in names]
    return [each for each in found if each and each.name[0] != "_" and not is_variable(each)]


def is_variable(name):
    """Return whether a name is a type variable, which a signature explains by itself."""
    value = getattr(name.node, "value", None)
    return isinstance(value, ast.Call) and ast.unparse(value.func) in ("TypeVar", "ParamSpec")


def parameters(function, module):
    """Return (text, types) of a function's parameters; a TypedDict of settings is unpacked."""
    a = function.args
    named = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(named) - len(a.defaults)) + a.defaults
    given = list(zip(named, defaults, strict=True))
    if given and given[0][0].arg in ("self", "cls"):
        del given[0]
    shown = [parameter(arg, default, module) for arg, default in given]
    if a.posonlyargs and len(a.args) < len(given):
        shown.insert(len(given) - len(a.args), ("/", []))
    if a.vararg:
        shown.append(parameter(a.vararg, None, module, "*"))
    elif a.kwonlyargs or unpacked(a.kwarg, module):
        shown.append(("*", []))
    only = zip(a.kwonlyargs, a.kw_defaults, strict=True)
    shown += [parameter(arg, default, module) for arg, default in only]
    settings = unpacked(a.kwarg, module)
    if settings:
        shown += optional(settings)
    elif a.kwarg:
        shown.append(parameter(a.kwarg, None, module, "**"))
    return shown


def optional(settings):
    """Return (text, types) of the members of a TypedDict of settings as parameters."""
    twin = resolve(settings.module, DEFAULTS_OF.get(settings.name, settings.name))
    values = {field.target.id: (base, field.value) for base, field in fields(twin)}
    for base, field in fields(settings):
        kind = type_text(field.annotation, base.module)
        place, value = values[field.target.id]
        shown = value_text(value, place.module) if value else "None"
        yield f"{field.target.id}: {kind} = {shown}", named(field.annotation, base.module)


def unpacked(kwarg, module):
    """Return the TypedDict of `**settings: Unpack[Settings]`, if that is what it is."""
    match kwarg and kwarg.annotation:
        case ast.Subscript(value=ast.Name(id="Unpack"), slice=ast.Name(id=name)):
            return resolve(module, name)
    return None


def parameter(arg, default, module, stars=""):
    """Return (text, types) of a parameter."""
    kind = f": {type_text(arg.annotation, module)}" if arg.annotation else ""
    value = f" = {value_text(default, module)}" if default else ""
    return f"{stars}{arg.arg}{kind}{value}", named(arg.annotation, module) if arg.annotation else []


def signature(start, shown, end=""):
    """Return a signature of (text, types) as code, on one line if it fits, and its types."""
    texts = [text for text, _ in shown]
    code = f"{start}({', '.join(texts)}){end}"
    if len(code) > WIDTH:
        code = f"{start}(\n" + "".join(f"    {text},\n" for text in texts) + f"){end}"
    return code, [each for _, types in shown for each in types]


def bases(name):
    """Return a class and its bases in the package, the class first."""
    found = [name]
    for base in name.node.bases:
        inner = base.value if isinstance(base, ast.Subscript) else base
        target = resolve(name.module, inner.id) if isinstance(inner, ast.Name) else None
        if target and isinstance(target.node, ast.ClassDef):
            found += [each for each in bases(target) if each not in found]
    return found


def fields(name):
    """Return (class, annotated attribute) of each public field of a class and its bases."""
    found = {}
    for base in reversed(bases(name)):
        for node in base.node.body:
            is_field = isinstance(node, ast.AnnAssign) and not node.target.id.startswith("_")
            if is_field and not ast.unparse(node.annotation).startswith("ClassVar"):
                found[node.target.id] = (base, node)
    return list(found.values())


def marks_of(name):
    """Return the decorators and bases of a class and of its bases, as text."""
    nodes = [base.node for base in bases(name)]
    return [ast.unparse(e) for node in nodes for e in (*node.decorator_list, *node.bases)]


def is_built_from_fields(name):
    """Return whether the fields of a class are the arguments of its constructor."""
    return any(m.startswith("dataclass") or m in FIELD_CLASSES for m in marks_of(name))


def is_keyword_only(name):
    """Return whether a constructor takes its arguments by name only."""
    return any("kw_only=True" in mark or mark == "BaseModel" for mark in marks_of(name))


def field_text(base, node):
    """Return a field as the text of a parameter."""
    value = value_text(node.value, base.module) if node.value else ""
    kind = type_text(node.annotation, base.module)
    return f"{node.target.id}: {kind}" + (f" = {value}" if value else "")


def is_argument(node):
    """Return whether a field is an argument of the constructor."""
    given = node.value.keywords if isinstance(node.value, ast.Call) else []
    return not any(k.arg == "init" and ast.unparse(k.value) == "False" for k in given)


def functions(name):
    """Return (class, function) of each public or used method; documented bases have their own."""
    found = {}
    for base in bases(name):
        for node in base.node.body:
            if isinstance(node, FUNCTIONS) and not decorated(node, "overload", "setter"):
                found.setdefault(node.name, (base, node))
    return found


def stored(function):
    """Return (name, type) of the public attributes that a constructor sets, where it is known."""
    a = function.args
    types = {arg.arg: arg.annotation for arg in (*a.args, *a.kwonlyargs)}
    for node in ast.walk(function):
        match node:
            case ast.AnnAssign(target=ast.Attribute(attr=name), annotation=kind):
                found = kind
            case ast.Assign(targets=[ast.Attribute(attr=name)], value=ast.Name(id=given)):
                found = types.get(given)
            case ast.Assign(targets=[ast.Attribute(attr=name)], value=ast.Constant(value=value)):
                found = ast.Name(type(value).__name__) if value is not None else None
            case _:
                continue
        if found and not name.startswith("_"):
            yield name, found


def decorated(function, *marks):
    """Return whether a function has one of these decorators."""
    given = {ast.unparse(each).rpartition(".")[2] for each in function.decorator_list}
    return not given.isdisjoint(marks)


class Writer:
    """Write one page after the other, and note which types signatures name."""

    def __init__(self, plan):
        self.plan, self.page, self.named, self.page_of = plan, "", {}, {}
        self.constructed = {}
        for page, about in plan.items():
            for full in about["names"]:
                module, _, name = full.rpartition(".")
                found = resolve(module, name)
                assert found, f"{full} is not in the source"
                self.page_of[found], self.constructed[found] = page, full
        self.hidden = {name for about in plan.values() for name in about.get("made", ())}

    def pages(self):
        """Return the text of each page by its file."""
        written = {page: self.written(page, self.names(page)) for page in self.plan}
        while True:  # a type may name others
            missing = sorted((n for n in self.named if n not in self.page_of), key=sort_key)
            before = len(self.named)
            written["types"] = self.written("types", missing)
            if len(self.named) == before:
                files = {f"{page}.md": text for page, text in written.items()}
                return {"index.md": self.index(), **files}

    def index(self):
        """Return the page that lists the pages and their names."""
        self.page, lines = "index", []
        for page, about in self.plan.items():
            found = ", ".join(map(self.link, self.names(page)))
            lines.append(f"- [{about['title']}]({page}.md)" + (f": {found}" if found else ""))
        return f"{INDEX}\n" + "\n".join(lines) + "\n"

    def names(self, page):
        """Return the names of a page in the order of the plan."""
        return [name for name, place in self.page_of.items() if place == page]

    def written(self, page, names):
        """Return the text of a page."""
        self.page, about = page, self.plan[page]
        parts = [f"# {about['title']}", about["about"].strip()]
        for name in names:
            parts += self.entry(name)
        return "\n\n".join(part for part in parts if part) + "\n"

    def entry(self, name):
        """Return the parts of one name."""
        place = self.constructed.get(name) or f"{name.module}.{name.name}"
        parts = [f"## {name.heading}", f"`{place}`"]
        if isinstance(name.node, FUNCTIONS):
            return [*parts, *self.function(name.name, name.node, name.module), name.text]
        if isinstance(name.node, ast.ClassDef):
            return [*parts, *self.a_class(name)]
        kind = getattr(name.node, "annotation", None)
        value = value_text(name.node.value, name.module)
        shown = f"{name.name}: {type_text(kind, name.module)}" if kind else name.name
        value = broken(name.node.value, name.module) if len(value) > WIDTH else value
        code = f"{shown} = {value}"
        return [*parts, *self.code(code, named(kind or name.node.value, name.module)), name.text]

    def function(self, shown, node, module, *, returns=True):
        """Return the signature of a function, or without `returns` of a constructor."""
        start = "async def " if isinstance(node, ast.AsyncFunctionDef) else "def "
        end = f" -> {type_text(node.returns, module)}" if returns and node.returns else ""
        code, types = signature((start if returns else "") + shown, parameters(node, module), end)
        marks = "".join(f"@{mark}\n" for mark in MARKS if decorated(node, mark))
        return self.code(marks + code, [*types, *(named(node.returns, module) if end else [])])

    def code(self, code, types):
        """Return code, and the line of links to its types."""
        found = self.links(types)
        return [fence(code), f"Types: {found}" if found else ""]

    def links(self, types):
        """Return a link to each of these types."""
        return ", ".join(map(self.link, dict.fromkeys(types)))

    def link(self, name):
        """Return a link to the entry of a name, which the pages must have then."""
        self.named.setdefault(name, None)
        page = self.page_of.get(name, "types")
        return f"[{name.name}]({'' if page == self.page else f'{page}.md'}#{name.anchor})"

    def a_class(self, name):
        """Return the constructor, fields, attributes and methods of a class."""
        methods = functions(name)
        parents = self.links(each for each in bases(name)[1:] if each in self.constructed)
        uses = [
            self.use(text, methods[special]) for special, text in USES.items() if special in methods
        ]
        return [
            *self.constructor(name, methods),
            f"Inherits from {parents}." if parents else "",
            name.text,
            f"Supports {', '.join(uses)}." if uses else "",
            *listed("Members:", self.members(name)),
            *listed("Attributes:", self.attributes(name, methods)),
            *self.methods(name, methods),
        ]

    def use(self, text, method):
        """Return a use of a class, with the types of the items that a loop yields."""
        base, node = method
        found = self.links(named(node.returns, base.module)) if node.returns else ""
        return f"{text} ({found})" if found else text

    def constructor(self, name, methods):
        """Return the signature of the constructor, unless only the library constructs the class."""
        if name not in self.constructed or name.name in self.hidden:
            return []
        if "__init__" in methods:
            base, node = methods["__init__"]
            return self.function(name.name, node, base.module, returns=False)
        if not is_built_from_fields(name):
            return []
        shown = [
            (field_text(base, node), named(node.annotation, base.module))
            for base, node in fields(name)
            if is_argument(node)
        ]
        marks = [("*", [])] if is_keyword_only(name) else []
        return self.code(*signature(name.name, marks + shown))

    def members(self, name):
        """Return a line for each member of an enum."""
        if not any("Enum" in ast.unparse(each) for each in name.node.bases):
            return []
        values = [node for node in name.node.body if isinstance(node, ast.Assign)]
        return [f"- `{v.targets[0].id}` = `{source(v.value)}`" for v in values]

    def attributes(self, name, methods):
        """Return a line for each attribute that is not just an argument."""
        return [
            *self.declared(name, "__init__" not in methods and self.constructor(name, methods)),
            *self.assigned(name),
            *self.properties(name, methods),
        ]

    def declared(self, name, are_arguments):
        """Return a line for each field; that of an argument without a text says nothing new."""
        for base, node in fields(name):
            following = dict(zip(base.node.body, base.node.body[1:], strict=False)).get(node)
            text = text_of(following)
            if text or not are_arguments or not is_argument(node):
                yield self.attribute(field_text(base, node), node.annotation, base, text)

    def assigned(self, name):
        """Return a line for each attribute that a constructor sets and the class does not declare."""
        known = {node.target.id for _, node in fields(name)}
        for base in bases(name):
            made = [n for n in base.node.body if getattr(n, "name", "") == "__init__"]
            if made and (base == name or base not in self.constructed):
                for attribute, kind in dict(stored(made[-1])).items():  # the last of overloads
                    if attribute not in known:
                        code = f"{attribute}: {type_text(kind, base.module)}"
                        yield self.attribute(code, kind, base, "")

    def properties(self, name, methods):
        """Return a line for each property."""
        for base, node in methods.values():
            if decorated(node, "property", "cached_property") and self.is_shown(name, base, node):
                code = f"{node.name}: {type_text(node.returns, base.module)}"
                yield self.attribute(code, node.returns, base, ast.get_docstring(node) or "")

    def attribute(self, code, kind, base, text):
        """Return the line of one attribute."""
        found = self.links(named(kind, base.module))
        line = f"- `{code}`" + (f" ({found})" if found else "")
        indented = re.sub(r"\n(?=.)", "\n    ", text)
        return f"{line}: {indented}" if text else line

    def is_shown(self, name, base, node):
        """Return whether a method belongs on a class's entry, not on that of its documented base."""
        return not node.name.startswith("_") and (base == name or base not in self.constructed)

    def methods(self, name, methods):
        """Return the parts of each public method."""
        if name not in self.constructed and "Protocol" not in map(ast.unparse, name.node.bases):
            return
        for base, node in methods.values():
            is_property = decorated(node, "property", "cached_property")
            if self.is_shown(name, base, node) and not is_property:
                yield f"### {name.name}.{node.name}"
                yield from self.function(node.name, node, base.module)
                yield ast.get_docstring(node) or ""


def sort_key(name):
    """Sort names as a reader does."""
    return name.name.lower(), name.name, name.module


def listed(title, lines):
    """Return a list with its title, or nothing without lines."""
    return [title, "\n".join(lines)] if lines else []


def fence(code):
    """Return code as a block."""
    return f"```py\n{code}\n```"


def pages():
    """Return the text of each page by its file."""
    return Writer(tomllib.loads((PAGES / "pages.toml").read_text(encoding="utf-8"))).pages()


def main():
    """Write the pages."""
    for file, text in pages().items():
        (PAGES / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
