"""The server's own grammar: text to syntax trees and tokens, and what is wrong with a text that does not parse.

It is libpg_query's, which postgast brings. Its package takes longer to import than most files take to be parsed, so the
library and the description of its messages are taken as they are; whoever changes trees or writes SQL from them uses
postgast.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import POINTER, Structure, c_char_p, c_int, c_size_t, c_void_p
from functools import cache
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any, TypeVar

from segue.errors import InternalError, SqlSyntaxError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOO_DEEP = "the SQL is nested too deeply to be judged"
FEWER_LEVELS = "write it in fewer levels, or as a function"
#: Text from which the parser could need more stack than a thread ordinarily has, and the stack it gets then: the
#: longest plan file's worth of one operator after another.
CRAMPED_BYTES = 20_000
ROOM_BYTES = 512 << 20

T = TypeVar("T")
_LIBRARIES = {"darwin": "libpg_query.dylib", "win32": "pg_query.dll"}


class _Error(Structure):
    _fields_ = (
        ("message", c_char_p),
        ("funcname", c_char_p),
        ("filename", c_char_p),
        ("lineno", c_int),
        ("cursorpos", c_int),
        ("context", c_char_p),
    )


class _Message(Structure):
    """Bytes of a message: of a tree, or of tokens."""

    _fields_ = (
        ("len", c_size_t),
        ("data", c_void_p),
        ("stderr_buffer", c_char_p),
        ("error", POINTER(_Error)),
    )


class _Pieces(Structure):
    """Where statements are: pointers to pairs of numbers."""

    _fields_ = (
        ("stmts", c_void_p),
        ("n_stmts", c_int),
        ("stderr_buffer", c_char_p),
        ("error", POINTER(_Error)),
    )


def tree(sql: str, kind: Any = None) -> Any:
    """Return the syntax tree of a whole text, whatever is in it, as messages of a class. Raises SqlSyntaxError."""
    from google.protobuf.message import DecodeError

    raw, library, kind = encoded(sql), _library(), kind or _class("ParseResult")
    _deepen()
    try:
        return _with_room(lambda: kind.FromString(_message(library, "pg_query_parse_protobuf", raw, sql)), len(raw))
    except DecodeError as error:
        raise SqlSyntaxError(TOO_DEEP, 0, hint=FEWER_LEVELS) from error


def tokens(sql: str) -> Any:
    """Return the tokens of a text, comments among them, places in bytes. Raises SqlSyntaxError."""
    return _class("ScanResult").FromString(_message(_library(), "pg_query_scan", sql.encode(), sql)).tokens


def places(sql: str, raw: bytes) -> list[tuple[int, int]]:
    """Return where each statement of a text begins and how long it is, in bytes. Raises SqlSyntaxError."""
    library = _library()

    def split() -> list[tuple[int, int]]:
        result = library.pg_query_split_with_parser(raw)
        try:
            _check(result.error, sql)
            addresses = (c_size_t * result.n_stmts).from_address(result.stmts) if result.n_stmts else ()
            pair = c_int * 2
            return [tuple(pair.from_address(address)) for address in addresses]
        finally:
            library.pg_query_free_split_result(result)

    return _with_room(split, len(raw))


def encoded(sql: str) -> bytes:
    """Return a text as the parser takes it. Raises SqlSyntaxError for what it would stop at or cannot read."""
    if "\x00" in sql:
        # The C library would stop reading there, and what comes after would silently never run.
        raise SqlSyntaxError("the text contains a NUL character", sql.index("\x00"))
    try:
        return sql.encode()
    except UnicodeEncodeError as error:
        raise SqlSyntaxError("the text is not valid Unicode", error.start) from error


@cache
def symbol(enum: str, number: int) -> str:
    """Return the parser's name of a number in one of its enumerations."""
    name: str = _messages().FindEnumTypeByName(f"pg_query.{enum}").values_by_number[number].name
    return name


@cache
def number(enum: str, name: str) -> int:
    """Return the number of a name in one of the parser's enumerations."""
    found: int = _messages().FindEnumTypeByName(f"pg_query.{enum}").values_by_name[name].number
    return found


@cache
def words() -> frozenset[str]:
    """Return everything that may be a keyword; nothing else is one."""
    names = _messages().FindEnumTypeByName("pg_query.Token").values_by_name
    return frozenset(name.lower().removesuffix("_p") for name in names)


def comments(tokens: Any) -> Iterator[Any]:
    """Yield those tokens that are comments."""
    kinds = (number("Token", "SQL_COMMENT"), number("Token", "C_COMMENT"))
    return (token for token in tokens if token.token in kinds)


def _message(library: Any, function: str, raw: bytes, sql: str) -> bytes:
    result = getattr(library, function)(raw)
    try:
        _check(result.error, sql)
        return ctypes.string_at(result.data, result.len)
    finally:
        free = "scan" if function == "pg_query_scan" else "protobuf_parse"
        getattr(library, f"pg_query_free_{free}_result")(result)


def _check(error: Any, sql: str) -> None:
    """Raise what the library says is wrong with a text."""
    if not error:
        return
    said = error.contents
    # Unlike places in the tree this one counts characters.
    offset = max(said.cursorpos - 1, 0)
    if sql[offset : offset + 1] == "\\":
        raise SqlSyntaxError(
            "psql commands that begin with a backslash are not SQL",
            offset,
            hint="write the SQL that the command stands for",
        )
    raise SqlSyntaxError((said.message or b"unknown error").decode(), offset)


def _with_room(work: Callable[[], T], size: int) -> T:
    """Call the parser where its recursion has room: on an ordinary stack a long chain of operators ends the process."""
    if size < CRAMPED_BYTES:
        return work()
    import threading

    found: list[T] = []
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            found.append(work())
        except BaseException as error:
            failed.append(error)

    before = threading.stack_size(ROOM_BYTES)
    try:
        thread = threading.Thread(target=guarded, name="segue parser")
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


# -- the library, and what its messages are made of -------------------------------------------------------------------


@cache
def _folder() -> str:
    """Return where postgast is, without importing it."""
    found = PathFinder.find_spec("postgast")
    if found is None or not found.submodule_search_locations:
        raise InternalError("the SQL parser is not installed", hint="pip install postgast")
    return found.submodule_search_locations[0]


@cache
def _library() -> Any:
    library = ctypes.CDLL(f"{_folder()}/{_LIBRARIES.get(sys.platform, 'libpg_query.so')}")
    for call, free, result in (
        ("parse_protobuf", "free_protobuf_parse_result", _Message),
        ("scan", "free_scan_result", _Message),
        ("split_with_parser", "free_split_result", _Pieces),
    ):
        function = getattr(library, f"pg_query_{call}")
        function.argtypes, function.restype = [c_char_p], result
        function = getattr(library, f"pg_query_{free}")
        function.argtypes, function.restype = [result], None
    return library


@cache
def _messages() -> Any:
    """Return the descriptions of all messages and enumerations."""
    with open(f"{_folder()}/pg_query.desc", "rb") as file:  # noqa: PTH123 (pathlib is slow to import)
        described = file.read()
    # A set of one description: its tag, its length in groups of seven bits, and itself.
    size = shift = 0
    at = 1
    while True:
        size |= (described[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if described[at - 1] < 0x80:
            break
    if described[0] != 0x0A or at + size != len(described):
        raise InternalError(
            "the SQL parser's messages are not described as they were", hint="install its older version"
        )
    pool = _compiled().DescriptorPool() if _compiled() else _written_in_python()
    pool.AddSerializedFile(described[at:])
    return pool


def _compiled() -> Any:
    """Return protobuf's compiled module, None where there is none; the Python around it takes long to import."""
    from google.protobuf.internal import api_implementation

    module = getattr(api_implementation, "_c_module", None)
    return module if hasattr(module, "DescriptorPool") and hasattr(module, "MessageMeta") else None


def _written_in_python() -> Any:
    from google.protobuf.descriptor_pool import DescriptorPool

    return DescriptorPool()


@cache
def _class(name: str) -> Any:
    described = _messages().FindMessageTypeByName(f"pg_query.{name}")
    if _compiled():
        from google.protobuf.message import Message

        return _compiled().MessageMeta(name, (Message,), {"DESCRIPTOR": described, "__module__": __name__})
    from google.protobuf.message_factory import GetMessageClass

    return GetMessageClass(described)


@cache
def _deepen() -> None:
    """Let messages be read however deep they are: fifty terms joined by || are more than a hundred levels."""
    deepen = getattr(_compiled(), "SetAllowOversizeProtos", None)
    if deepen is not None:  # protobuf in pure Python knows no limit but its own recursion
        deepen(True)
