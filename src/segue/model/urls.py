"""Database URLs as text: the `postgresql://` form and libpq's `key=value` form, and what of them may be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

#: libpq's environment variables and the words they stand for.
LIBPQ = {
    "PGSERVICE": "service",
    "PGHOST": "host",
    "PGHOSTADDR": "hostaddr",
    "PGPORT": "port",
    "PGDATABASE": "dbname",
    "PGUSER": "user",
    "PGPASSWORD": "password",
    "PGPASSFILE": "passfile",
    "PGSSLMODE": "sslmode",
    "PGSSLCERT": "sslcert",
    "PGSSLKEY": "sslkey",
    "PGSSLROOTCERT": "sslrootcert",
    "PGCHANNELBINDING": "channel_binding",
    "PGTARGETSESSIONATTRS": "target_session_attrs",
}

_PAIR = re.compile(r"\s*(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))")
# From a word's beginning: without it, a long word would be tried from each of its letters.
_URL_PASSWORD = re.compile(r"(\b\w+://[^\s:/@'\"]*):[^\s@'\"]*@")
_WORD_PASSWORD = re.compile(
    r"(?i)((?:password|passwd|segue_key)['\"]?\s*[=:]\s*)('(?:[^'\\]|\\.)*'|\"[^\"]*\"|[^\s'\"&,;]+)"
)
# As SQL writes it: ALTER ROLE … PASSWORD 'secret'.
_SQL_PASSWORD = re.compile(r"(?i)(\bpassword\s+)(?:'(?:[^']|'')*(?:'|$))")
_SECRET = frozenset({"password", "sslpassword", "oauth_client_secret"})


def is_url(text: str) -> bool:
    """Return whether this has the form of a database URL (`postgresql://…`) or of `key=value` words."""
    return text.startswith(("postgresql://", "postgres://")) or bool(pairs(text))


def pairs(text: str) -> dict[str, str]:
    """Return the words of the `key=value` form; empty when it has another form."""
    found, at = {}, 0
    text = text.strip()
    while at < len(text):
        pair = _PAIR.match(text, at)
        if pair is None:
            return {}
        found[pair[1]] = re.sub(r"\\(.)", r"\1", pair[2] if pair[2] is not None else pair[3])
        at = pair.end()
    return found


def from_environment(environ: Mapping[str, str]) -> str | None:
    """Return libpq's `PG*` variables as one text in the `key=value` form; None when none of them names a database."""
    given = {word: environ[name] for name, word in LIBPQ.items() if environ.get(name)}
    if not given.keys() & {"service", "host", "hostaddr", "dbname"}:
        return None
    return " ".join(f"{word}={_quoted(value)}" for word, value in given.items())


def is_whole(text: str) -> bool:
    """Return whether a URL can be told apart into its parts; of one that cannot, nothing may be shown."""
    return "://" not in text or _split(text).netloc != "?"


def has_password(text: str) -> bool:
    """Return whether a URL holds a password, in any of the places where one can be written."""
    if "://" not in text:
        return bool(_SECRET & {word.lower() for word in pairs(text)})
    parts = _split(text)
    if parts.netloc == "?":
        return "@" in text
    return ":" in parts.netloc.rpartition("@")[0] or any(word in _SECRET for word, _ in parse_qsl(parts.query))


def public(text: str) -> str:
    """Return a URL without user, password and the like: fit for output and logs."""
    if "://" not in text:
        found = pairs(text)
        if "service" in found:
            return f"service={found['service']}"
        host, port = found.get("host") or found.get("hostaddr") or "", found.get("port", "")
        query = ""
        if host.startswith("/"):
            host, query = "", "?" + urlencode({"host": host, **({"port": port} if port else {})}, safe="/")
            port = ""
        return f"postgresql://{host}{':' if port else ''}{port}/{quote(found.get('dbname', ''))}{query}"
    parts = _split(text)
    kept = [(word, value) for word, value in parse_qsl(parts.query) if word in ("host", "port", "dbname", "service")]
    query = f"?{urlencode(kept, safe='/')}" if kept else ""
    return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}{query}"


def place(text: str) -> str:
    """Return where a URL leads, as people write it: `host:5432/shop`, `/run/postgresql/shop`, `service=shop`."""
    shown = public(text)
    if "://" not in shown:
        return shown
    parts = urlsplit(shown)
    query = dict(parse_qsl(parts.query))
    if "service" in query:
        return f"service={query['service']}"
    host = parts.netloc or ":".join(filter(None, (query.get("host", "localhost"), query.get("port", ""))))
    database = unquote(parts.path.lstrip("/")) or query.get("dbname", "")
    return f"{unquote(host)}/{database}" if database else unquote(host)


def redact(text: str) -> str:
    """Return any text without the passwords of the URLs and `password=…` words in it."""
    return _SQL_PASSWORD.sub(r"\1***", _WORD_PASSWORD.sub(r"\1***", _URL_PASSWORD.sub(r"\1:***@", text)))


def redacted(value: Any) -> Any:
    """Return a value of JSON without the passwords in its texts."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {name: redacted(found) for name, found in value.items()}
    return [redacted(found) for found in value] if isinstance(value, list | tuple) else value


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = None  # such as a bracket that is not closed
    if parts is None or _is_cut(parts):
        # Nothing of a broken address is safe to show.
        return SplitResult("postgresql", "?", "", "", "")
    return parts


def _is_cut(parts: SplitResult) -> bool:
    """Return whether a password with a bare `/`, `?` or `#` in it has cut the URL in two, before the host."""
    if "@" in parts.netloc:
        return False
    ports = (host.rpartition("]")[2].partition(":")[2] for host in parts.netloc.split(","))
    return "@" in parts.path + parts.fragment or any(port and not port.isdigit() for port in ports)


def _quoted(value: str) -> str:
    if re.fullmatch(r"[^\s'\\]+", value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
