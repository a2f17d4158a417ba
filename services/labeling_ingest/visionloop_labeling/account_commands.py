"""`visionloop-labeling account …`: accounts from the command line, above all the first one.

They work on the database itself, so they need no running service and no rights but those on it; a
running one may go on meanwhile, on SQLite as well.
"""

import argparse
import getpass
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeAlias

from visionloop.cli.output import Output
from visionloop.errors import ConfigurationError
from visionloop.flags import StrictParser
from visionloop_labeling import accounts, passwords, tokens
from visionloop_labeling.accounts import Role
from visionloop_labeling.commands import database_flags, database_url
from visionloop_labeling.database import Database, open_beside

_Verb: TypeAlias = Callable[[Database, argparse.Namespace, Output], None]
_MOST_BYTES: Final = 4096  # of a file with a password


def run(arguments: Sequence[str]) -> int:
    """Runs one command; gives its exit code. Raises VisionloopError."""
    options = _parser().parse_args(arguments)
    output = Output(as_json=options.json)
    database = open_beside(database_url(options))
    try:
        verb: _Verb = options.verb
        verb(database, options, output)
    finally:
        database.close()
    output.flush()
    return 0


def _parser() -> StrictParser:
    common = database_flags()
    parser = StrictParser("visionloop-labeling account", description="Who may use the service.")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    def verb(name: str, does: _Verb, text: str, *, named: bool = True) -> StrictParser:
        made: StrictParser = verbs.add_parser(name, parents=[common], help=text, description=text)
        made.set_defaults(verb=does)
        if named:
            made.add_argument("name", metavar="NAME")
        return made

    added = verb("add", _add, "make an account")
    added.add_argument("--role", choices=[role.value for role in Role], required=True)
    added.add_argument("--no-password", action="store_true", help="for programs: tokens only")
    verb("list", _list, "show all accounts", named=False)
    changed = verb("password", _password, "give another password; signs out every browser")
    for one in (added, changed):
        one.add_argument(
            "--password-file",
            type=Path,
            default=os.environ.get("VISIONLOOP_PASSWORD_FILE") or None,
            help="file with the password; without it you are asked, or it is read from stdin",
        )
    disabled = verb("disable", _disable, "cut an account off at once")
    disabled.add_argument("--undo", action="store_true", help="let it in again")
    token = verb("token", _token, "make an API token and show it, once")
    token.add_argument("--for", dest="purpose", default="", help="what it is for, to tell tokens")
    token.add_argument("--days", type=int, help="how long it counts; without it until revoked")
    return parser


def _add(database: Database, options: argparse.Namespace, output: Output) -> None:
    stored = ""
    if not options.no_password:
        stored = passwords.new(_given(options), name=options.name)
    with database.write() as session:
        accounts.add(session, options.name, Role(options.role), stored)
    output.result({"name": options.name, "role": options.role})
    output.line(f"{options.name} has the role {options.role}")


def _list(database: Database, _options: argparse.Namespace, output: Output) -> None:
    with database.read() as session:
        found = accounts.listed(session)
    output.result([{"name": a.name, "role": a.role, "disabled": a.disabled} for a in found])
    output.table(
        ("name", "role", "signs in by", "state", "since"),
        [
            (
                account.name,
                account.role,
                "password" if account.password else "token",
                "disabled" if account.disabled else "active",
                f"{account.created:%Y-%m-%d}",
            )
            for account in found
        ],
    )


def _password(database: Database, options: argparse.Namespace, output: Output) -> None:
    stored = passwords.new(_given(options), name=options.name)
    with database.write() as session:
        accounts.set_password(session, accounts.find(session, options.name, lock=True), stored)
    output.result({"name": options.name})
    output.line(f"{options.name} has a new password and is signed out everywhere")


def _disable(database: Database, options: argparse.Namespace, output: Output) -> None:
    disabled = not options.undo
    with database.write() as session:
        account = accounts.find(session, options.name, lock=True)
        accounts.change(session, account, disabled=disabled)
    output.result({"name": options.name, "disabled": disabled})
    output.line(f"{options.name} is {'cut off' if disabled else 'let in again'}")


def _token(database: Database, options: argparse.Namespace, output: Output) -> None:
    if options.days is not None and not 1 <= options.days <= tokens.MOST_DAYS:
        raise ConfigurationError(
            f"--days is {options.days}; it must be 1 to {tokens.MOST_DAYS}", field="days"
        )
    lifetime = None if options.days is None else timedelta(days=options.days)
    now = datetime.now(UTC)
    with database.write() as session:
        account = accounts.find(session, options.name, lock=True)
        name = options.purpose or f"made on {now:%Y-%m-%d}"
        token, secret = tokens.make(session, account, name, now, lifetime)
        made = {"id": token.id, "name": token.name, "account": account.name, "token": secret}
    output.result(made)
    output.line(secret)
    output.note("this is shown once; keep it where only its program can read it")


def _given(options: argparse.Namespace) -> str:
    """The password: from the file, from the terminal (twice), or from the first line of stdin."""
    if options.password_file is not None:
        try:
            with Path(options.password_file).open(encoding="utf-8") as file:
                return file.read(_MOST_BYTES).rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"--password-file {options.password_file} cannot be read as text: {error}",
                field="password_file",
            ) from error
    if not sys.stdin.isatty():
        return sys.stdin.readline(_MOST_BYTES).rstrip("\r\n")
    first = getpass.getpass(f"Password for {options.name}: ")
    if first != getpass.getpass("The same again: "):
        raise ConfigurationError("the two passwords differ; nothing was changed", field="password")
    return first
