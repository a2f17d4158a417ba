"""People who label at once over HTTP, and the book of what each was told.

Every event has its UUID from the first. What got no answer is sent again, word for word, before
anything else is said; at times somebody says again what was answered long ago.
"""

import random
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from support.waiting import PATIENCE

CLASSES = ("a", "b", "c")
Body = dict[str, Any]  # of an event, as it is sent


@dataclass
class Books:
    """What was said, and what came of it. Safe from any thread."""

    said: dict[str, tuple[str, Body]] = field(default_factory=dict)  # event_id -> (author, body)
    recorded: dict[str, int] = field(default_factory=dict)  # event_id -> the sequence it was told
    refused: set[str] = field(default_factory=set)
    conflicts: int = 0
    answers: int = 0
    failure: BaseException | None = None
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def say(self, author: str, body: Body) -> None:
        with self._changed:
            self.said[body["event_id"]] = (author, body)

    def hear(self, event_id: str, status: int, answer: Body) -> None:
        """The answer to an event; whoever asks twice is told the same."""
        with self._changed:
            if status == 200:
                sequence = self.recorded.setdefault(event_id, answer["sequence"])
                assert sequence == answer["sequence"], "another sequence than it was told before"
                assert event_id not in self.refused, "recorded after it was refused"
            else:
                assert status in (403, 409), answer
                assert event_id not in self.recorded, "refused after it was recorded"
                self.refused.add(event_id)
                self.conflicts += status == 409
            self.answers += 1
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self.failure = error
            self._changed.notify_all()

    def wait_for(self, answers: int) -> None:
        """Until so many more answers have come."""
        with self._changed:
            wanted = self.answers + answers
            done = self._changed.wait_for(lambda: self.failure or self.answers >= wanted, PATIENCE)
        assert self.failure is None, self.failure
        assert done, f"{self.answers} answers, {wanted} were waited for"

    def unanswered(self) -> set[str]:
        with self._changed:
            return self.said.keys() - self.recorded.keys() - self.refused


@dataclass
class Person:
    """Somebody with a token. `waiting`: a request that got no answer, to be sent again."""

    name: str
    token: str
    images: Sequence[str]
    books: Books
    chance: random.Random
    waiting: list[Body] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)  # digest -> the label's sequence
    mine: list[str] = field(default_factory=list)  # events of one's own that were recorded

    def work(self, address: str) -> threading.Thread:
        """Labels until the connection breaks."""
        thread = threading.Thread(target=self._work, args=(address,), name=self.name)
        thread.start()
        return thread

    def _work(self, address: str) -> None:
        try:
            with self.client(address) as http:
                while True:
                    if not self.waiting:
                        self._think()
                    self.send(http)
        except httpx.TransportError:
            pass  # killed: what waits for its answer is sent again
        except BaseException as error:  # noqa: BLE001 - told to the test, which waits for it
            self.books.fail(error)

    def client(self, address: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        base = f"http://{address}/v1/datasets/cells"
        return httpx.Client(base_url=base, headers=headers, timeout=PATIENCE)

    def send(self, http: httpx.Client) -> None:
        """What waits, as one event or as a batch."""
        if len(self.waiting) == 1:
            answer = http.post("/events", json=self.waiting[0])
            results = [(answer.status_code, answer.json())]
        else:
            answer = http.post("/events/batch", json={"events": self.waiting})
            assert answer.status_code == 200, answer.text
            results = [
                (200, one["ok"]) if "ok" in one else (_STATUS[one["error"]["reason"]], one["error"])
                for one in answer.json()["results"]
            ]
        for body, (status, said) in zip(self.waiting, results, strict=True):
            self._learn(body, status, said)
            self.books.hear(body["event_id"], status, said)
        self.waiting = []

    def _learn(self, body: Body, status: int, answer: Body) -> None:
        if status == 200:
            self.seen[body["sha256"]] = answer["label_sequence"]
            self.mine.append(body["event_id"])
        elif current := answer.get("current"):
            self.seen[body["sha256"]] = current["sequence"]

    def _think(self) -> None:
        """What to say next."""
        if self.mine and self.chance.random() < 0.05:
            self.waiting = [self.books.said[self.chance.choice(self.mine)][1]]
            return
        number = self.chance.choice((1, 1, 1, 1, 1, 3))
        self.waiting = [self._event() for _ in range(number)]
        for body in self.waiting:
            self.books.say(self.name, body)

    def _event(self) -> Body:
        kinds = {"label": 60, "undo": 20, "skip": 5, "flag": 5, "unflag": 5, "retract": 5}
        [kind] = self.chance.choices(list(kinds), list(kinds.values()))
        sha256 = self.chance.choice(self.images)
        event_id = str(uuid.UUID(int=self.chance.getrandbits(128), version=4))
        body: Body = {"event_id": event_id, "sha256": sha256, "kind": kind}
        if kind == "label":
            body["annotation"] = {"classes": [self.chance.choice(CLASSES)]}
        if kind == "label" and self.chance.random() < 0.75:
            body["base_sequence"] = self.seen.get(sha256, 0)
        if kind == "flag":
            body["note"] = f"{self.name} wonders"
        return body


_STATUS = {"conflict": 409, "permission_denied": 403}
