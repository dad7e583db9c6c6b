"""The parser that is loaded without its package is the same parser, and knows the server's keywords."""

from __future__ import annotations

import os
import subprocess
import sys

import postgast
import psycopg
import pytest

from segue.databases.postgresql import grammar
from segue.databases.postgresql.relations import quoted
from segue.errors import SqlSyntaxError

SQL = "CREATE TABLE é (id int CHECK (id > 0)); SELECT '日', $$;$$ FROM é; /* ; */ DROP TABLE é"


def test_trees_and_tokens_are_those_of_the_package() -> None:
    assert grammar.tree(SQL).SerializeToString() == postgast.parse(SQL).SerializeToString()
    assert [(token.start, token.end, token.token) for token in grammar.tokens(SQL)] == [
        (token.start, token.end, token.token) for token in postgast.scan(SQL).tokens
    ]
    raw = SQL.encode()
    first = [raw[begin : begin + length].split()[0] for begin, length in grammar.places(SQL, raw)]
    assert first == [b"CREATE", b"SELECT", b"DROP"]


def test_names_and_numbers_are_those_of_the_package() -> None:
    from postgast import pg_query_pb2 as pb

    assert grammar.symbol("AlterTableType", pb.AT_AddColumn) == "AT_AddColumn"
    assert grammar.number("Token", "SQL_COMMENT") == pb.SQL_COMMENT


@pytest.mark.parametrize("read", [grammar.tree, grammar.tokens, lambda sql: grammar.places(sql, sql.encode())])
def test_mistake_is_at_its_character(read: object) -> None:
    with pytest.raises(SqlSyntaxError) as error:
        read("SELECT 'é'; SELECT 'open")  # type: ignore[operator]
    assert error.value.offset == 19


def test_names_are_quoted_as_the_server_quotes_them(any_database: str) -> None:
    with psycopg.connect(any_database) as connection:
        words = connection.execute("SELECT word, quote_ident(word) FROM pg_get_keywords()").fetchall()
    assert len(words) > 400
    # A newer server knows words that the grammar does not, which need no quotes.
    assert [word for word, name in words if quoted(word) != name] == []


def test_protobuf_in_pure_python_serves_too() -> None:
    code = "from segue.databases.postgresql.changes import read; print(read('DROP TABLE a; SELECT 1'))"
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": kind},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for kind in ("python", "upb")
    ]
    assert found[0] == found[1] != ""
