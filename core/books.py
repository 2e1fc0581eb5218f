"""Whether the books agree: the ledger, the ends that history holds and, where it is given, the providers' own log.

Every attempt that was not cut must be the same everywhere, to the token. Of an attempt that was cut (nobody counted, or
nobody knows how it closed) the truth lies between nothing and a bound: those are listed, not judged.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from core.ledger.port import Entry
from core.model import End, TurnKey

Finding = Literal["missing", "mispriced", "miscounted", "wrong_payer", "not_served", "served_twice"]


class TooMuch(Exception):
    """A window holds more than is compared at once: choose a shorter one."""


class TurnFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What history says of a turn; `run` is that of its newest epoch. `listed`: still among the open ones, so its
    usage may not be recorded yet.
    """

    key: TurnKey
    owner: str
    max_tokens: int
    run: str
    end: End | None
    listed: bool


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a provider's log. `attempt` is what the call named itself; `ended`: it was served to its end."""

    attempt: str | None
    prompt_tokens: int
    completion_tokens: int
    ended: bool


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Two books that disagree, or a charge that has no ground; `detail` says what stands where."""

    finding: Finding
    attempt: str
    key: TurnKey | None
    detail: str


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt whose exact usage is not known. Tokens of its completion: `counted` by us (None: not at all), and at
    most `bound`: what the provider's log says it served or, without a log, what the turn allowed (None: no turn).
    """

    attempt: str
    key: TurnKey
    outcome: str
    charged_to: str
    counted: int | None
    bound: int | None
    cost: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Costs in nano-USD. `pending`: ended, not yet in the ledger, and still listed: the janitor sees to them.
    `running`: not ended. `unstored`: attempts of calls that keep no history. `unnamed`: log lines without an attempt.
    """

    turns: int
    attempts: int
    users_by_ledger: int
    users_by_history: int
    users_unstored: int
    platform: int
    problems: tuple[Problem, ...]
    cut: tuple[Cut, ...]
    pending: tuple[TurnKey, ...]
    running: tuple[TurnKey, ...]
    unstored: int
    unnamed: int

    @property
    def balanced(self) -> bool:
        """No problem was found."""
        return not self.problems


def compare(turns: Iterable[TurnFacts], entries: Iterable[Entry], log: Iterable[Served] | None = None) -> Report:
    """Compares turns with the highest revisions of attempts and with a log that covers all of these attempts.

    An entry whose turn is not given belongs to a call that keeps no history. Pure.
    """
    facts = {turn.key: turn for turn in turns}
    attempts = {entry.attempt: entry for entry in entries}
    of_turn: dict[TurnKey, list[Entry]] = defaultdict(list)
    for entry in attempts.values():
        of_turn[entry.key].append(entry)
    found: list[Problem] = []
    for turn in facts.values():
        found += _against_history(turn, of_turn[turn.key])
    served = None if log is None else list(log)
    if served is not None:
        found += _against_log(attempts, served, {turn.run: turn.key for turn in facts.values()})
    waiting = [turn for turn in map(facts.get, _missed(found)) if turn is not None and turn.listed]
    on_its_way = {turn.key for turn in waiting}
    problems = [problem for problem in found if problem.finding != "missing" or problem.key not in on_its_way]
    stored = [entry for entry in attempts.values() if entry.key in facts]
    unstored = [entry for entry in attempts.values() if entry.key not in facts]
    return Report(
        turns=len(facts),
        attempts=len(attempts),
        users_by_ledger=sum(entry.cost for entry in stored if entry.charged_to == "user"),
        users_by_history=sum(turn.end.cost for turn in facts.values() if turn.end and turn.end.attempt),
        users_unstored=sum(entry.cost for entry in unstored if entry.charged_to == "user"),
        platform=sum(entry.cost for entry in attempts.values() if entry.charged_to == "platform"),
        problems=tuple(problems),
        cut=tuple(_cuts(attempts.values(), facts, served)),
        pending=tuple(turn.key for turn in waiting if turn.end is not None),
        running=tuple(turn.key for turn in facts.values() if turn.end is None),
        unstored=len(unstored),
        unnamed=sum(line.attempt is None for line in served or ()),
    )


def _missed(found: Iterable[Problem]) -> Iterable[TurnKey]:
    """Turns that miss a record, each once. While one is listed that is on its way: it waits in a spool or in the
    stream, or the janitor records it again.
    """
    return {problem.key: None for problem in found if problem.finding == "missing" and problem.key is not None}


def _against_history(turn: TurnFacts, entries: Sequence[Entry]) -> list[Problem]:
    """Rule 12: the user pays for the attempt that the stored end names, as the end says, and for nothing else."""

    def problem(finding: Finding, attempt: str, detail: str) -> Problem:
        return Problem(finding=finding, attempt=attempt, key=turn.key, detail=detail)

    named = turn.end.attempt if turn.end else None
    found = [
        problem("wrong_payer", entry.attempt, f"charged to the user, but the end names {named or 'no attempt'}")
        for entry in entries
        if entry.charged_to == "user" and entry.attempt != named
    ]
    if turn.end is None or named is None:
        return found
    entry = next((entry for entry in entries if entry.attempt == named), None)
    if entry is None or entry.revision < 2:
        stands = "nothing" if entry is None else f"revision {entry.revision} ({entry.outcome})"
        return [*found, problem("missing", named, f"the end charges it to the user; the ledger has {stands}")]
    if entry.charged_to != "user":
        found.append(problem("wrong_payer", named, "the end charges it to the user; the ledger to the platform"))
    if entry.account != turn.owner:
        found.append(problem("wrong_payer", named, f"the turn is {turn.owner}'s; the ledger charges {entry.account}"))
    if entry.usage != turn.end.usage:
        found.append(problem("miscounted", named, f"history has {turn.end.usage}, the ledger {entry.usage}"))
    if entry.cost != turn.end.cost:
        found.append(problem("mispriced", named, f"history has {turn.end.cost}, the ledger {entry.cost} nano-USD"))
    return found


def _against_log(attempts: dict[str, Entry], served: Sequence[Served], of_run: dict[str, TurnKey]) -> list[Problem]:
    found: list[Problem] = []

    def add(finding: Finding, attempt: str, detail: str) -> None:
        entry = attempts.get(attempt)
        key = entry.key if entry else of_run.get(attempt.rpartition(".")[0])
        found.append(Problem(finding=finding, attempt=attempt, key=key, detail=detail))

    lines = Counter(line.attempt for line in served if line.attempt is not None)
    for attempt, count in lines.items():
        if count > 1:
            add("served_twice", attempt, f"the provider served it {count} times")
    for line in served:
        if line.attempt is None:
            continue
        entry = attempts.get(line.attempt)
        if entry is None:
            add("missing", line.attempt, "the provider served it; the ledger does not know it")
        elif line.ended and _exact(entry) and entry.usage is not None:
            counted = (entry.usage.prompt_tokens, entry.usage.completion_tokens)
            if counted != (line.prompt_tokens, line.completion_tokens):
                told = (line.prompt_tokens, line.completion_tokens)
                add("miscounted", line.attempt, f"(prompt, completion): the provider has {told}, the ledger {counted}")
    for entry in attempts.values():
        if entry.attempt not in lines and _exact(entry) and entry.usage and entry.usage.completion_tokens:
            add("not_served", entry.attempt, "the ledger has the provider's usage of a call that it never served")
    return found


def _exact(entry: Entry) -> bool:
    """Whether the entry holds usage that the provider itself gave."""
    return entry.usage is not None and not entry.usage.estimated


def _cuts(entries: Iterable[Entry], facts: dict[TurnKey, TurnFacts], served: Sequence[Served] | None) -> Iterable[Cut]:
    logged = {line.attempt: line.completion_tokens for line in served or ()}
    for entry in entries:
        if _exact(entry) or (entry.revision > 0 and entry.usage is None and entry.outcome != "lost"):
            continue
        turn = facts.get(entry.key)
        yield Cut(
            attempt=entry.attempt,
            key=entry.key,
            outcome=entry.outcome,
            charged_to=entry.charged_to,
            counted=entry.usage.completion_tokens if entry.usage else None,
            bound=logged.get(entry.attempt, turn.max_tokens if turn else None),
            cost=entry.cost,
        )
