"""`visionloop models promote`, `rollback`, `canary` and `pin`: people move the aliases."""

import argparse

from visionloop.aliases import Aliases, AliasMove, pinned_words
from visionloop.cli.output import Output
from visionloop.cli.store import open_from, user_name
from visionloop.disk_space import temporary_folder
from visionloop.errors import ConfigurationError, RefusedError
from visionloop.repository import ModelRepository


def promote(options: argparse.Namespace, output: Output) -> int:
    """Moves stable to a version by hand; the gate has no say, the history says who and why.

    All its files are fetched and checked first: what servers would refuse is not promoted.
    """
    _check_why(options.why)
    repository = ModelRepository(open_from(options))
    expected = repository.aliases(options.model)
    _check_not_pinned(options, expected.aliases)
    _check_whole(repository, options.model, options.version)
    move = repository.promote(
        options.model,
        options.version,
        expected=expected,
        who=options.who or user_name(),
        why=options.why,
        unpin=options.unpin,
    )
    _print_move(options.model, move, output)
    return 0


def rollback(options: argparse.Namespace, output: Output) -> int:
    """Moves stable back to the version it named before."""
    _check_why(options.why)
    repository = ModelRepository(open_from(options))
    _check_not_pinned(options, repository.aliases(options.model).aliases)
    move = repository.rollback(
        options.model, who=options.who or user_name(), why=options.why, unpin=options.unpin
    )
    _print_move(options.model, move, output)
    return 0


def pin(options: argparse.Namespace, output: Output) -> int:
    """Keeps stable where it is, or with --end lets promotions move it again."""
    _check_why(options.why)
    repository = ModelRepository(open_from(options))
    change = repository.unpin if options.end else repository.pin
    move = change(
        options.model,
        expected=repository.aliases(options.model),
        who=options.who or user_name(),
        why=options.why,
    )
    _print_move(options.model, move, output)
    return 0


def _check_not_pinned(options: argparse.Namespace, aliases: Aliases) -> None:
    if aliases.pinned is not None and not options.unpin:
        raise RefusedError(
            f"{pinned_words(options.model, aliases)}; add --unpin to move it all the same, which "
            "ends the pin"
        )


def canary(options: argparse.Namespace, output: Output) -> int:
    """Gives a version a share of the requests, or with --end none any more.

    Its files are checked as those of a version to promote.
    """
    _check_why(options.why)
    _check_canary_flags(options)
    repository = ModelRepository(open_from(options))
    model, who = options.model, options.who or user_name()
    if options.end:
        move = repository.end_canary(
            model, expected=repository.aliases(model), who=who, why=options.why
        )
    else:
        _check_whole(repository, model, options.version)
        move = repository.set_canary(
            model,
            options.version,
            options.percent,
            expected=repository.aliases(model),
            who=who,
            why=options.why,
        )
    _print_move(model, move, output)
    return 0


def _check_canary_flags(options: argparse.Namespace) -> None:
    if options.end and (options.version is not None or options.percent is not None):
        raise ConfigurationError("--end takes no version and no --percent", field="end")
    if not options.end and (options.version is None or options.percent is None):
        raise ConfigurationError(
            "give a version and --percent P (its share of the requests), or --end", field="percent"
        )


def _check_whole(repository: ModelRepository, model: str, version: int) -> None:
    """Raises NotFoundError or CorruptError unless all files of the version are as published."""
    with temporary_folder("visionloop-check-") as folder:
        repository.fetch(model, version, folder)


def _check_why(why: str) -> None:
    if not why.strip():
        raise ConfigurationError(
            "--why is empty; say in a few words why, it stays in the history", field="why"
        )


def _print_move(model: str, move: AliasMove, output: Output) -> None:
    output.result(move.model_dump(mode="json"))
    was = f" (was {move.previous})" if move.previous not in (None, move.version) else ""
    now = "ended" if move.version is None else f"is now version {target(move)}"
    if move.alias == "pin" and move.version is not None:
        now = f"keeps stable at version {move.version}"
    output.line(f"{model}: {move.alias} {now}{was}")


def target(move: AliasMove) -> str | int:
    """Where the alias points after the move, with the canary's share."""
    if move.version is None:
        return "ended"
    return move.version if move.percent is None else f"{move.version} ({move.percent:g} %)"
