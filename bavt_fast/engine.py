"""One question's search: the native engine's tree and account, and beside them the states and steps it stands for.

`Search` is ask/tell for people, and what the drivers (`bavt_fast.searcher`) are made of. Asks go out one way, answers
come back the other: `bavt_fast.waves` takes them apart. This module knows no generator, no critic and no task, only
`bavt_fast.protocols`.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from bavt_fast._checks import as_amount, as_clock, as_count, as_flag, as_seed
from bavt_fast._core import Question, SnapshotError, TicketError, Tree, filled, outcome, untracked
from bavt_fast.budget import Budget, Spent, as_spent, sum_of
from bavt_fast.checkpoint import checked, dump_nodes, load_events, load_nodes, read, write
from bavt_fast.events import Listener, checked_listener, kept_events, note_asks, observer_of
from bavt_fast.home import ALL, Clock, Housed
from bavt_fast.protocols import GenerationStatistics, Node, Step, StepRequest
from bavt_fast.result import Progress, Refusal, SearchResult
from bavt_fast.settings import Settings, settings_of
from bavt_fast.step_checks import checked_description, checked_steps, checked_task, numbers_by_step, require_numbers
from bavt_fast.waves import Pending, Rules, _of_task, admit, ask, cancel, grow, requests_of

__all__ = ["Ask", "Search"]


@dataclass(frozen=True, slots=True)
class Ask:
    """One ask of a `Search`: propose at most ``count`` steps of at most ``limit`` tokens for ``request``.

    Small, and can be pickled: the work may be done in another process or on another machine.

    Attributes:
        ticket: names the ask within its search.
        node: id of the node to expand.
        request: what a generator needs.
        count: steps wanted, at most.
        limit: tokens of one step, at most.
        search: the id of the search.
    """

    ticket: int
    node: int
    request: StepRequest
    count: int
    limit: int
    search: str


class Search(Housed):
    """One question under search, for a caller who drives it: hand out asks, take their answers in any order.

        search = Search(question, task=task, budget=Budget(tokens=500))
        while asks := search.ask(8):
            for ask in asks:
                search.tell(ask, steps, values)
        result = search.result()

    `ask` returns nothing where the search has stopped, or where only an answer that is out can bring more to ask for.
    All methods may be called from any thread. While a run has it (`Searcher.run` and its like), the run asks and tells;
    save it there between two results, or in a callback.

    Args:
        question: what the task parses.
        task: a `Task`.
        budget: the hard limits.
        seed: seeds everything random.
        settings: see `Settings`; or its fields as further arguments.
        clock: seconds of a clock that does not run backwards. Time counts from the first `ask`.
        on_event: called with an `Event` for whatever happens, in the thread that makes it happen. It may not change the
            search. What it raises is logged once (logger ``bavt_fast.events``), and harms nothing.
        rules: of this task and these settings, where many searches share them; made here where it is None.

    Attributes:
        question, task, budget, seed, settings: what is searched, and how. `extend` makes the budget larger.
        nodes: the `Node` of each id, the root first. For reading.
        events: as of `SearchResult`.
        error: what failed, where the stop reason is "error".

    Raises:
        TypeError, ValueError: a bad question, budget, seed or setting.
    """

    events: list[tuple[Any, ...]] | None  # kind, seconds, tokens spent, r, ...

    def __init__(
        self,
        question: str,
        *,
        task: Any,
        budget: Budget,
        seed: int = 0,
        settings: Settings | None = None,
        clock: Clock = time.monotonic,
        on_event: Listener | None = None,
        rules: Rules | None = None,
        **fields: Any,
    ) -> None:
        if settings is not None and fields:
            raise TypeError(f"settings: expected either settings or its fields, got both ({', '.join(fields)})")
        if settings is not None and not isinstance(settings, Settings):
            raise TypeError(f"settings: expected a Settings, got {settings!r:.80}")
        self.settings = settings_of(fields) if settings is None else settings
        self.settings.check_budget(budget)
        self.rules = Rules(checked_task(task), self.settings) if rules is None else rules
        self.question, self.task, self.budget, self.seed = question, task, budget, as_seed("seed", seed)
        about = checked_description(task.describe(state := task.initial_state(question)))
        if about.prompt is None:
            late = "; its verifier took too long, give TimeLimit more seconds" if getattr(task, "num_late", 0) else ""
            raise ValueError(f"describe: expected a prompt for the initial state, got None{late}")
        value = 1.0 if about.verdict is True else self.settings.root_value
        root = Node(state, about.prompt, value=value)
        if about.terminal and about.verdict is not False:
            root.answer = about.answer or None
        native = Question(
            self.seed,
            budget.limits(),
            budget.seconds,
            self.settings.native,
            value,
            about.min_tokens,
            about.terminal,
            about.verdict is True,
        )
        self._id: str | None = None
        self.refused, self.events = untracked([]), [] if self.settings.record else None
        self._begin(native, [root], {}, as_clock(clock), on_event)
        try:
            self.keys[task.key(state)] = 0
        except TypeError as error:
            raise _of_task(error) from error.__cause__
        native.see_key(0)

    def _begin(self, native: Question, nodes: list[Node], keys: dict[Hashable, int], clock: Clock, heard: Any) -> None:
        self._settle(native, clock)
        self.nodes, self.keys = nodes, keys
        self.untimed = self.budget.seconds is None
        self.error: Exception | None = None
        self.generation: GenerationStatistics | None = None
        self.observer = observer_of(self, heard)

    # ---- ask and tell

    def ask(self, limit: int = 1) -> list[Ask]:
        """Up to ``limit`` asks. Each is paid for in advance, and stays so until it is told or cancelled.

        Raises:
            ValueError: a run has the search.
        """
        with self._lock:
            engine, slot = self._own_home()
            slots, nodes, counts, tickets, limits, seeds, requests, _ = ask(
                engine, {slot: self}, as_count("limit", limit), self._clock()
            )
            if self.observer is not None:
                note_asks({slot: self}, slots, nodes, counts, tickets, limits, seeds)
                self.observer.stopped(self)
            return [
                Ask(ticket & ALL, node, request, count, most, self.id)
                for ticket, node, request, count, most in zip(tickets, nodes, requests, counts, limits, strict=True)
            ]

    def open_asks(self) -> list[Ask]:
        """The asks that are out, as they were handed out, oldest first."""
        with self._lock:
            asks = self._native.open_asks()
            if not asks:
                return []
            numbers, nodes, counts, limits, seeds, tries = zip(*asks, strict=True)
            requests = requests_of({0: self}, [0] * len(asks), nodes, seeds, tries)
            return [Ask(*ask, self.id) for ask in zip(numbers, nodes, requests, counts, limits, strict=True)]

    def tell(
        self,
        ask: Ask,
        steps: Sequence[Step | str],
        values: Sequence[float] | None = None,
        *,
        weights: Sequence[float] | None = None,
    ) -> list[int]:
        """The answer to an ask: steps, V of the state after each (1 where nobody says); ids of the nodes they became.

        Steps that are invalid, duplicate or refuted become no node, and their values do not matter. No steps: nothing
        new can be proposed there, and the node is closed. A text counts its words as tokens.

        Args:
            weights: what selection uses in the place of V and the discount, one per step, above 0.

        Raises:
            TicketError: the ask is not open, or of another search. Nothing has changed.
            TypeError, ValueError: a step or a value is not one. Nothing has changed.
        """
        made = checked_steps(steps, self.rules.counts_tried)
        by_step = numbers_by_step(made, values, weights)
        with self._lock:
            pending = self.admit(ask, made)
            told = [by_step[id(node.step)] for node in pending.nodes]
            own = None if weights is None else [weight for _, weight in told if weight is not None]
            return self.grow(pending, [value for value, _ in told], weights=own)

    def admit(self, ask: Ask, steps: Sequence[Step | str]) -> Pending:
        """The first half of `tell`: settles the ask; what is new waits for its values, in ``Pending.nodes``.

        Give all of it to `grow`, or the ask stays open; where nothing waits it is closed already. Raises as `tell`, and
        what the task raises: then the ask is charged and closed, and the search has stopped.
        """
        made = checked_steps(steps, self.rules.counts_tried)
        with self._lock:
            engine, slot = self._own_home()
            ticket = self._ticket(ask, slot)
            before = self.error
            pending = admit(engine, {slot: self}, [slot], [ask.node], [ticket], [made], self._clock())
            if pending.tickets and not pending.nodes:  # all that is new was refuted
                grow(engine, {slot: self}, pending, [], self._clock())
                pending = Pending((), (), ())
            self._note_stop()
            if self.error is not before and self.error is not None:
                raise self.error
            pending.search = self.id
            return pending

    def grow(
        self,
        pending: Pending,
        values: Sequence[float],
        *,
        residual: bool = False,
        weights: Sequence[float] | None = None,
        spent: Spent | None = None,
    ) -> list[int]:
        """The second half of `tell`: a value for each of ``pending.nodes``; the ids of the nodes.

        Args:
            residual: the values are differences to V of the parent.
            weights: as of `tell`, one for each of the nodes.
            spent: what scoring them took; its ``seconds`` do not count, for the search has its clock.
        """
        if not isinstance(pending, Pending):
            raise TypeError(f"pending: expected what admit() returned, got {pending!r:.80}")
        amounts = None if spent is None else as_spent("spent", spent).amounts()
        residual = as_flag("residual", residual)
        require_numbers("values", values)
        require_numbers("weights", weights)
        own = None if weights is None else [as_amount("weights", weight) for weight in weights]
        with self._lock:
            engine, slot = self._at_home()
            if pending.search != self.id:
                raise TicketError("pending: expected what admit() of this search returned, got another search's")
            pending.slots = [slot] * len(pending.slots)  # it may have moved since
            pending.tickets = [slot << 32 | ticket & ALL for ticket in pending.tickets]
            if amounts is not None and any(amounts) and not pending.tickets:
                raise ValueError(f"spent: expected none where no state waits for its value, got {spent}")
            costs = None if amounts is None else [amounts] * len(pending.tickets)  # of one ask, or none
            first = len(self.nodes)
            if grow(engine, {slot: self}, pending, values, self._clock(), residual, own, costs):
                warnings.warn("values: expected numbers from 0 to 1; the others were clipped", stacklevel=3)
            self._note_stop()
            return list(range(first, len(self.nodes)))

    def cancel(self, ask: Ask, spent: Spent | None = None) -> None:
        """Nobody will answer the ask: what it reserved is free again, but for what it ``spent`` all the same."""
        took = None if spent is None else as_spent("spent", spent)
        with self._lock:
            engine, slot = self._own_home()
            cancel(engine, self, self._ticket(ask, slot), took)
            self._note_stop()

    def stop(self, reason: str = "cancelled") -> None:
        """Ends the search, unless it has stopped before. Asks that are out may still be told.

        Args:
            reason: a stop reason of `SearchResult`, but "solved".
        """
        if not isinstance(reason, str):
            raise TypeError(f"reason: expected the name of a stop reason, got {reason!r:.80}")
        if reason == "solved":
            raise ValueError("reason: expected the name of a stop reason but 'solved', for no node is the solution")
        with self._lock:
            engine, slot = self._at_home()
            engine.stop(slot, reason)
            self._note_stop()

    def extend(self, more: Budget) -> None:
        """Adds to the limits that the budget has. A search that stopped for want of it, or was cancelled, goes on.

        Raises:
            ValueError: `more` has a resource that is not limited, or they are too much together; or the search is of a
                `Run`, whose questions keep to its budget. Nothing has changed.
        """
        if not isinstance(more, Budget):
            raise TypeError(f"more: expected a Budget such as Budget(tokens=500), got {more!r:.80}")
        with self._lock:
            if self.observer is not None and not self.observer.may_extend:
                raise ValueError(f"more: expected a search that is not of a Run, whose budget holds, got {self!r}")
            budget = sum_of(self.budget, more)
            engine, slot = self._at_home()
            added = [(new or 0) - (own or 0) for new, own in zip(budget.limits(), self.budget.limits(), strict=True)]
            engine.extend(slot, added, more.seconds or 0.0)
            self.budget, self.error = budget, None
            self._note_stop()

    # ---- reading

    @property
    def id(self) -> str:
        """Names the search, also in its checkpoints; no two have the same."""
        with self._lock:
            if self._id is None:
                self._id = os.urandom(16).hex()
            return self._id

    @property
    def stop_reason(self) -> str | None:
        """Why the search has stopped (see `SearchResult`); None while it has not."""
        return self._native.stop_reason

    @property
    def spent(self) -> Spent:
        """What was settled so far."""
        account = self._native.account
        return Spent.of(account.spent, account.elapsed_s)

    @property
    def reserved(self) -> Spent:
        """What the asks that are out may still take."""
        return Spent.of(self._native.account.reserved)

    @property
    def tree(self) -> Tree:
        """A copy of the tree as it stands."""
        return self._native.tree

    def progress(self) -> Progress:
        """Where the search stands, for display."""
        with self._lock:
            path = self._native.best_path()
            account = self._native.account
            return Progress(
                Spent.of(account.spent, account.elapsed_s),
                account.remaining_ratio,
                len(self.nodes),
                self._value_at(path),
                self._texts(path),
            )

    def result(self) -> SearchResult:
        """What was found so far."""
        with self._lock:
            if self._native.in_flight and self.stop_reason is None:
                self._native.set_time(self._clock())
                self._note_stop()
            answer, value, path, path_nodes, spent, elapsed_s, overrun, tree, steps, answers, *_ = outcome(
                self._native, self.nodes
            )
            refused = tuple([Refusal(node, why, step) for node, why, step, _ in self.refused])
            reasons = [why for _, why, _ in refused]  # also of asks that grew nothing in the end
            duplicate, refuted = reasons.count("duplicate"), reasons.count("refuted")
            reason = self.stop_reason
            return filled(  # in the order of its fields
                SearchResult,
                answer,
                reason == "solved",
                path,
                path_nodes,
                value,
                Spent.of(spent, elapsed_s),
                Spent.of(overrun),
                reason,
                tree,
                steps,
                answers,
                refused,
                len(refused) - duplicate - refuted,
                duplicate,
                refuted,
                self._failure,
                self.generation,
                self.question,
                self.budget,
                self.settings,
                self.seed,
                None if (events := kept_events(self)) is None else tuple(events),
            )

    @property
    def _failure(self) -> Exception | None:
        """What ended the search; None where it had stopped for another reason before something failed."""
        return self.error if self.stop_reason == "error" else None

    def _value_at(self, path: Sequence[int]) -> float:
        value = self.nodes[path[-1] if path else 0].value
        assert value is not None, "every node of the tree has a value"
        return value

    def _texts(self, path: Iterable[int]) -> tuple[str, ...]:
        steps = [self.nodes[node].step for node in path]
        return tuple([step.text.strip("\n") for step in steps if step is not None])

    def mend(self) -> None:
        """After a Ctrl-C in the middle of a wave: the entries of the nodes that the tree has, with their values."""
        del self.nodes[self._native.num_nodes :]
        values = self._native.tree.values
        for number in range(len(self.nodes) - 1, 0, -1):
            if self.nodes[number].value is not None:
                break
            self.nodes[number].value = float(values[number])

    def __reduce__(self) -> NoReturn:
        raise TypeError("Search: cannot be pickled or copied; save(path) it, and Search.load(path, task) it elsewhere")

    def __repr__(self) -> str:
        return f"Search({self.question!r:.60}, num_nodes={len(self.nodes)}, stop_reason={self.stop_reason!r})"

    # ---- checkpoints

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the search as it stands, also with asks out: they stay reserved, and a load has them too.

        Everything is kept but states (a load makes them again by `Task.apply`), hidden states, and the exception where
        an error stopped it.

        Raises:
            OSError: the file cannot be written; what stood there before stands there still.
            TypeError: token ids or probabilities of a step are no numbers.
            ValueError: states are admitted and not grown: `grow` or `cancel` them first. While a run has the search,
                that is where a critic that is a coroutine works on values: save it later. Or a run went on with it in
                another thread meanwhile. Or the task's key of a state is not the same every time.
        """
        with self._lock:
            if self.stop_reason is None and self._native.asks:  # the time until now counts
                self._native.set_time(self._clock())
                self._note_stop()
            native, events = self._native.to_bytes(), kept_events(self)
            record = {
                "id": self.id,
                "question": self.question,
                "seed": self.seed,
                "task": type(self.task).__qualname__,
                "budget": asdict(self.budget),
                "settings": asdict(self.settings),
                "events": None if events is None else list(events),
                **dump_nodes(list(self.nodes), list(self.refused), self.keys, self.task),
            }
            if self._native.to_bytes() != native:
                raise ValueError(
                    "save: expected a search that stands still, got one that a run goes on with in another thread; "
                    "save it between two results, or in a callback"
                )
            write(path, record, native)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], task: Any, *, clock: Clock = time.monotonic, on_event: Listener | None = None
    ) -> Search:
        """The search that `save` wrote, to go on exactly as it would have: the same tree, account and random draws.

        Args:
            task: equal to the one that it was saved with.

        Raises:
            OSError: the file cannot be read.
            SnapshotError: it is not a checkpoint, is damaged, of another version, or does not fit the task.
            TypeError: `clock` or `on_event` is not a function.
        """
        heard = as_clock(clock), checked_listener(on_event)
        record, native = read(path)
        return checked(lambda: cls._restored(record, Question.from_bytes(native), task, *heard))

    @classmethod
    def _restored(cls, record: dict[str, Any], native: Question, task: Any, *heard: Any) -> Search:
        if record["task"] != type(task).__qualname__:
            raise SnapshotError(
                f"checkpoint: expected the task it was saved with, {record['task']!r:.80}, "
                f"got {type(task).__qualname__!r}"
            )
        search = cls.__new__(cls)
        search.task, search.question, search.seed = task, record["question"], as_seed("seed", record["seed"])
        settings = dict(record["settings"])
        search.settings = Settings(**{**settings, "max_score": Spent(**settings["max_score"])})
        search.budget = Budget(**record["budget"])
        search._id = str(record["id"])
        if native.seed != search.seed or native.num_nodes != len(record["nodes"]):
            raise SnapshotError("checkpoint: its two halves are not of the same search")
        parents, values = native.tree.parents.tolist(), native.tree.values.tolist()
        nodes, refused, keys = load_nodes(record, parents, values, task)
        search.rules = Rules(task, search.settings)
        search.refused, search.events = refused, load_events(record["events"], native.num_nodes)
        search._begin(native, nodes, keys, *heard)
        if search.observer is not None:
            search.observer.loaded(search)
        if native.asks and native.stop_reason is None:  # time passes again from here on
            native.set_time(search._clock())
        return search

    def _ticket(self, ask: Ask, slot: int) -> int:
        if not isinstance(ask, Ask):
            raise TypeError(f"ask: expected what ask() returned, got {ask!r:.80}")
        if ask.search != self.id:
            raise TicketError(f"ask: expected an ask of this search ({self.id}), got one of another ({ask.search})")
        return slot << 32 | ask.ticket

    def _note_stop(self) -> None:
        if self.observer is not None:
            self.observer.stopped(self)
